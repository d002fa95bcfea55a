"""ONNX Runtime: the exported graphs of each family, and their key/value caches."""
