"""Tests, which mirror the packages. They ask no network, and compare numbers with what a CPU computes."""

import os

# Here, since it is the first to be imported: Hugging Face's libraries read both when they are.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("ACCELERATE_USE_CPU", "true")
