"""API keys: the file, and the rights that a header gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpt_edge.errors import CorruptFileError, InputError
from mpt_edge.server.keys import Access, Keys

USER, ADMIN = "user-0123456789abcdef", "root-0123456789abcdef"


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    path = tmp_path / "keys"
    path.write_text(f"# of the app\n\n{USER}\nadmin:{ADMIN}\n")
    return Keys.read(path)


@pytest.mark.parametrize(
    ("header", "access"),
    [
        (f"Bearer {USER}", Access.USE),
        (f"bearer  {ADMIN}", Access.ADMIN),
        (None, Access.NONE),
        ("", Access.NONE),
        ("Bearer", Access.NONE),
        (f"Bearer {USER[:-1]}", Access.NONE),
        (f"Bearer admin:{ADMIN}", Access.NONE),
        (f"Basic {USER}", Access.NONE),
        (f"Bearer {USER}\xff", Access.NONE),
    ],
)
def test_access(keys: Keys, header: str | None, access: Access) -> None:
    assert keys.access(header) is access
    assert keys.has_admin


def test_without_keys_everyone_may_use_it_and_nobody_change_it() -> None:
    assert Keys().access(None) is Keys().access("Bearer whatever-it-may-be") is Access.USE
    assert not Keys().has_admin


def test_no_key_is_kept_as_it_is(keys: Keys) -> None:
    assert USER.encode() not in repr(keys).encode()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no key"),
        ("# none\n", "holds no key"),
        ("short\n", "key 1 of .* cannot be used"),
        (f"{USER}\nadmin:\n", "key 2 of .* cannot be used"),
        ("a key with many spaces\n", "cannot be used"),
        ("schlüssel-0123456789abcdef\n", "cannot be used"),
    ],
)
def test_a_file_that_opens_nothing_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        Keys.read(path)
    assert "schl" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match="cannot read"):
        Keys.read(tmp_path / "keys")
