"""Tokens in, answers out: models, tasks, head types, generation and ONNX Runtime."""
