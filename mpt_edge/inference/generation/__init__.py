"""Search on the device: the next token, the end of a text, and its way to the reader."""
