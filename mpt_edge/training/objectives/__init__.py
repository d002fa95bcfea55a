"""Training objectives: one class for each head type, with its loss and its metrics."""
