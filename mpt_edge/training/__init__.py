"""PyTorch side: prompted backbones and the stages that learn prompts and tasks.

Nothing on the device side imports this package. It needs ``pip install 'mpt-edge[train]'``.
"""
