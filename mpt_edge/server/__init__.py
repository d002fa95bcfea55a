"""A bundle's tasks over HTTP: one process, one model, and the protocols of three kinds of clients."""
