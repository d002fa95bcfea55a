"""ONNX Runtime: the exported graphs of each family, and their key/value caches.

ONNX Runtime's Linux builds report usage to their maker: they write a device id into the user's cache
folder and look up a collector. This package turns that off before it is imported. An app that imports
onnxruntime before mpt_edge has to set ``ORT_DISABLE_TELEMETRY=1`` itself.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
