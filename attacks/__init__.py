"""Scripts that attack the product; `python attacks/NAME.py`."""
