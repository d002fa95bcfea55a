"""Frozen models that carry a prompt: opening one, and one definition of each family for training and export."""
