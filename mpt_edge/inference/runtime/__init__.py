"""ONNX Runtime: the exported graphs of each family, and their caches of keys and values."""
