"""Names of repositories and paths: never confused."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpt_edge.errors import InputError
from mpt_edge.hub.repositories import Repository, find_repository


@pytest.mark.parametrize(
    ("source", "revision", "expected"),
    [
        ("owner/name", None, ("owner/name", "main")),
        ("hf://owner/name", None, ("owner/name", "main")),
        ("owner/my.name-2", "v1.0", ("owner/my.name-2", "v1.0")),
        ("hf://owner/name@refs/pr/1", None, ("owner/name", "refs/pr/1")),
        ("owner/name@v1", "v1", ("owner/name", "v1")),
    ],
)
def test_names(source: str, revision: str | None, expected: tuple[str, str]) -> None:
    repository = Repository.parse(source, revision)
    assert (repository.id, repository.revision) == expected
    assert str(repository) == (expected[0] if expected[1] == "main" else "@".join(expected))


@pytest.mark.parametrize(
    ("source", "revision", "message"),
    [
        ("name", None, "names no repository of a hub; write owner/name"),
        ("a/b/c", None, "names no repository"),
        ("../name", None, "names no repository"),
        ("owner/na--me", None, "names no repository"),
        ("owner/..", None, "names no repository"),
        ("owner/" + "n" * 100, None, "names no repository"),
        ("owner/name@v1", "v2", "disagree; name one revision"),
        ("owner/name@", None, "'' is no revision"),
        ("owner/name", "../../x", "is no revision; pass a branch, a tag or a commit"),
        ("owner/name", "/x", "is no revision"),
        ("owner/name", "a b", "is no revision"),
    ],
)
def test_refused_names(source: str, revision: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Repository.parse(source, revision)


def test_what_exists_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_repository("owner/name") == Repository("owner/name", is_explicit=False)
    assert find_repository("owner/name@v1") == Repository("owner/name", "v1", is_explicit=False)
    for path in ("models/app", "app", "a/b/c", "/a/b", "./b", "~/b", ".", "", Path("owner/name")):
        assert find_repository(path) is None, path
    (tmp_path / "owner").mkdir()
    assert find_repository("owner/name") is None  # a folder that is still to come, or has another name
    (tmp_path / "owner" / "name").mkdir()
    assert find_repository("owner/name") is None
    assert find_repository("hf://owner/name") == Repository("owner/name")
    with pytest.raises(InputError, match="'owner/name' is a path, which has no revision; write hf://owner/name"):
        find_repository("owner/name", "v1")
    assert find_repository("hf://owner/name", "v1") == Repository("owner/name", "v1")
