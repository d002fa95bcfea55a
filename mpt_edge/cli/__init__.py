"""The `mpt-edge` command: one file a command, with heavy imports inside the commands that need them."""

from mpt_edge.cli.app import main, main_process

__all__ = ["main", "main_process"]
