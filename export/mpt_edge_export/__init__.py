"""From PyTorch to a bundle: the exported graph, its parity check against PyTorch, and the folder.

Needs ``pip install 'mpt-edge[export]'``.
"""

from mpt_edge_export.bundle import ExportPlan, export_bundle

__all__ = ["ExportPlan", "export_bundle"]
