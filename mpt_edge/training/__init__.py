"""Training in PyTorch: frozen backbones with prompts, and the stages that train prompts and tasks.

The device side imports nothing of it. It needs ``pip install 'mpt-edge[train]'``.

oneDNN, which computes PyTorch's products in bfloat16 on a CPU, keeps code and buffers for the last 1,024 shapes of
them. Batches of texts have a new shape each, so a run of SmolLM2-135M grew from 2.8 to 5.9 GB. This package lets it
keep 16, which is as fast, before PyTorch is imported.
"""

import os

os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
