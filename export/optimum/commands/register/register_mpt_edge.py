"""The command `optimum-cli export mpt-edge`, found through Optimum's registration namespace."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand


class MptEdgeExportCommand(BaseOptimumCLICommand):
    """Export a frozen backbone with prompts and tasks as an mpt-edge bundle."""

    COMMAND = CommandInfo(name="mpt-edge", help="Export a backbone with soft prompts as an mpt-edge bundle.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the options, named as Optimum's other exporters name them."""
        parser.add_argument("-m", "--model", required=True, help="minilm-l6, a local folder, a GGUF file, or a hub id.")
        parser.add_argument("--revision", default=None, help="Revision of a hub model.")
        parser.add_argument(
            "--vectors", type=Path, action="append", default=[], help="Folder with prompts/ and tasks/; repeatable."
        )
        precisions = ("float32", "int8", "int4", "both", "all")
        parser.add_argument("--precision", choices=precisions, default="float32", help="Weights of the graph.")
        parser.add_argument("--force", action="store_true", help="Replace a bundle that is already there.")
        parser.add_argument("output", type=Path, help="The bundle's folder.")

    def run(self) -> None:
        """Export; an error is one sentence and exit code 1."""
        from mpt_edge._escapes import one_line
        from mpt_edge.errors import MptEdgeError
        from mpt_edge_export.command import export_command

        args = self.args
        options = {"revision": args.revision, "force": args.force, "precision": args.precision}
        try:
            export_command(args.model, args.output, args.vectors, **options)
        except MptEdgeError as error:
            sys.exit(f"optimum-cli: {one_line(str(error))}")


REGISTER_COMMANDS = [(MptEdgeExportCommand, ExportCommand)]
