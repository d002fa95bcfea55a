"""Training in PyTorch: frozen backbones with prompts, and the stages that train prompts and tasks.

The device side imports nothing of it. It needs ``pip install 'mpt-edge[train]'``.
"""
