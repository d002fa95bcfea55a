"""Between PEFT and mpt-edge: adapters become prompts and tasks, and tasks become adapters.

PEFT itself is not needed.
"""

from mpt_edge_export.peft.adapter import PeftAdapter, read_adapter

__all__ = ["PeftAdapter", "read_adapter"]
