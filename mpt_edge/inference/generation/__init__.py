"""Search on the device: which token comes next, when a text ends, and how it reaches the reader."""
