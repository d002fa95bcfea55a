"""`mpt-edge push`: a bundle, or tasks alone, to a model hub."""

from __future__ import annotations

from typing import Annotated

import typer

from mpt_edge.cli.options import BundleFolder
from mpt_edge.cli.tasks import check_answers
from mpt_edge.formats.bundle import Bundle
from mpt_edge.inference.loading import default_bundle, open_model
from mpt_edge.inference.self_test import self_test

EPILOG = """
Examples:

mpt-edge push owner/name --bundle bundles/app --private --tag v2

mpt-edge push owner/tasks --task sst2 --task trec

A token that may write comes from `hf auth login` or $HF_TOKEN.
"""


def push(
    repository: Annotated[str, typer.Argument(help="Repository of the hub: owner/name. It is made if need be.")],
    bundle: BundleFolder = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch to push to; it is made if need be.", show_default="main")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="A task to push alone, without the bundle; repeatable.")
    ] = None,
    tag: Annotated[str | None, typer.Option(help="Tag for the commit, to pull by.", show_default=False)] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private, and refuse one that is public.")
    ] = False,
) -> None:
    """Verify a bundle, or tasks of it, and push them to a model hub in one commit."""
    from mpt_edge.hub.client import be_quiet
    from mpt_edge.hub.pushing import push_bundle, push_tasks
    from mpt_edge.hub.repositories import Repository

    target = Repository.parse(repository, revision)
    be_quiet(target)
    opened = Bundle.open(bundle or default_bundle())
    model = open_model(opened)
    if task:
        for name in task:  # without an example, nothing could be installed
            self_test(model.task(name), model.precision)
        pushed = push_tasks(opened, task, target, private=private, tag=tag)
        contents = "1 task" if pushed.files == 1 else f"{pushed.files} tasks"
    else:
        check_answers(model, opened.task_names)
        pushed = push_bundle(opened, target, private=private, tag=tag)
        contents = f"{pushed.files} files, digest {opened.digest}"
    typer.echo(f"pushed {contents} to {target.id} at {pushed.commit}")
