"""Frozen models that carry a prompt, for training and export."""
