"""The Hugging Face hub's cache, which downloads need."""

from __future__ import annotations

from pathlib import Path

from mpt_edge.errors import InputError


def check_cache() -> None:
    """Check that downloads have a folder; the hub's library would make one named ``~`` in the current folder.

    Raises:
        InputError: the user has no home folder.
    """
    from huggingface_hub import constants

    if Path(constants.HF_HUB_CACHE).parts[:1] == ("~",):
        raise InputError(
            "there is no home folder to keep downloads in; set HOME or HF_HOME, or pass the folder of a local copy."
        )
