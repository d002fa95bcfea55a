"""Import of PEFT adapters as prompts and tasks, and export of tasks as adapters.

PEFT itself is not needed.
"""

from mpt_edge_export.peft.adapter import PeftAdapter, read_adapter
from mpt_edge_export.peft.caikit import read_caikit
from mpt_edge_export.peft.exporting import export_adapter
from mpt_edge_export.peft.importing import Imported, ImportOptions, import_adapter

__all__ = [
    "ImportOptions",
    "Imported",
    "PeftAdapter",
    "export_adapter",
    "import_adapter",
    "read_adapter",
    "read_caikit",
]
