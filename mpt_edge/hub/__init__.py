"""Bundles and tasks from and to a model hub, through `huggingface_hub`; the extra ``hub``."""
