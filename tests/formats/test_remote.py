"""Task files from elsewhere, by a server on this machine: what is taken, continued and refused."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from mpt_edge._files import cache_folder
from mpt_edge.errors import CorruptFileError, InputError
from mpt_edge.formats import remote
from mpt_edge.formats.remote import check_sha256, fetched, is_remote
from tests.support import hub
from tests.support.https import Handler, Server, file, send, serve, status, trust

DATA = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def running(authority: trustme.CA) -> Iterator[Server]:
    with serve(authority) as server:
        yield server


@pytest.fixture
def server(running: Server, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Return the server over HTTPS, trusted, with an empty cache folder for this user."""
    monkeypatch.setenv("SSL_CERT_FILE", str(trust(authority, tmp_path)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    running.requests.clear()
    running.answers.clear()
    return running


def fetch(address: str, **options: int) -> bytes:
    with fetched(address, **options) as path:
        return path.read_bytes()


def downloads() -> list[str]:
    folder = cache_folder()
    assert folder is not None
    return sorted(path.suffix for path in (folder / "downloads").iterdir())


def test_addresses_and_paths() -> None:
    assert all(map(is_remote, ("https://a/b", "http://127.0.0.1/b", "hf://a/b/c.safetensors")))
    assert not any(map(is_remote, ("a.safetensors", "/https://a", "https:/a", "file:///a", "ftp://a", "~/a")))


def test_whole_file_is_there_while_the_block_runs(server: Server) -> None:
    with fetched(server.offer("/tasks/one.safetensors", file(DATA))) as path:
        assert path.read_bytes() == DATA
        assert path.name.startswith("one.")
    assert downloads() == []
    assert server.requests[0][1]["accept-encoding"] == "identity"


def test_broken_connections_are_continued(server: Server) -> None:
    assert fetch(server.offer("/x", file(DATA, cut=len(DATA) // 3 + 1))) == DATA
    third = len(DATA) // 3 + 1
    assert server.ranges("/x") == [None, f"bytes={third}-", f"bytes={2 * third}-"]


def test_next_run_continues(server: Server) -> None:
    address = server.offer("/x", file(DATA, cut=1000))
    with pytest.raises(
        InputError, match=r"could not be fetched \(the connection broke 5 times\); 5,000 bytes are kept"
    ):
        fetch(address)
    assert downloads() == [".etag", ".part"]
    server.offer("/x", file(DATA))
    assert fetch(address) == DATA
    assert server.ranges("/x")[-1] == "bytes=5000-"
    assert downloads() == []


@pytest.mark.parametrize("tag", ['"other"', None, 'W/"weak"', '"' + "x" * 500 + '"'])
def test_file_that_may_have_changed_is_fetched_anew(server: Server, tag: str | None) -> None:
    address = server.offer("/x", file(bytes(len(DATA)), cut=1000, tag=tag))
    with pytest.raises(InputError, match="could not be fetched"):
        fetch(address)
    server.offer("/x", file(DATA))
    assert fetch(address) == DATA


def test_file_that_became_shorter(server: Server) -> None:
    address = server.offer("/x", file(DATA, cut=1000))
    with pytest.raises(InputError, match="5,000 bytes are kept"):
        fetch(address)
    server.offer("/x", lambda handler: (status(416) if handler.headers.get("Range") else file(DATA[:99]))(handler))
    assert fetch(address) == DATA[:99]


def test_another_part_than_the_missing_one(server: Server) -> None:
    """A server that numbers bytes otherwise does not mix two files."""
    address = server.offer("/x", file(DATA, cut=3000))

    def answer(handler: Handler) -> None:
        wrong = {"Content_Range": "bytes 7-9/10"} if handler.headers.get("Range") else {}
        file(DATA, cut=0 if server.ranges("/x")[1:] and not wrong else 3000, **wrong)(handler)

    server.offer("/x", answer)
    assert fetch(address) == DATA


def test_server_without_versions_begins_again(server: Server) -> None:
    address = server.offer("/x", file(DATA, cut=1000, tag=None))
    message = r"could not be fetched \(.*\); check the address and the network, and try again\."
    with pytest.raises(InputError, match=message):
        fetch(address)
    assert server.ranges("/x") == [None, None]


@pytest.mark.parametrize("length", ["1001", "99999999999999999999"])
def test_larger_than_the_limit_by_its_own_word(server: Server, length: str) -> None:
    address = server.offer("/x", file(DATA, Content_Length=length))
    with pytest.raises(CorruptFileError, match=r"/x has \d+ bytes, more than the 1,000 bytes of a task"):
        fetch(address, limit=1000)
    assert downloads() == [".etag"] or downloads() == []


def test_endless_body(server: Server) -> None:
    sent = 0

    def answer(handler: Handler) -> None:
        nonlocal sent
        send(handler, 200, {"Transfer-Encoding": "chunked"})
        while sent < 100 << 20:
            handler.wfile.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
            sent += 1 << 16

    with pytest.raises(CorruptFileError, match=r"has more than the 100,000 bytes of a task; check the address\."):
        fetch(server.offer("/x", answer), limit=100_000)
    assert sent < 50 << 20
    assert ".part" not in downloads()


def test_more_than_was_announced_is_not_read(server: Server) -> None:
    assert fetch(server.offer("/x", file(DATA, Content_Length="1000"))) == DATA[:1000]


def test_whole_download_has_a_limit_of_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where each byte comes in time, headers too."""
    monkeypatch.setattr(remote, "_TOTAL", 0.3)

    def drip(handler: Handler) -> None:
        for _ in range(100):
            handler.wfile.write(b"H")
            handler.wfile.flush()
            time.sleep(0.05)

    for answer in (drip, lambda handler: (file(DATA, cut=10)(handler), handler.wfile.flush(), time.sleep(2))):
        started = time.monotonic()
        with pytest.raises(InputError, match=r"could not be fetched \(it took longer than 0 s\)"):
            fetch(server.offer("/x", answer))
        assert time.monotonic() - started < 1.5


def test_compressed_body_is_refused(server: Server) -> None:
    address = server.offer("/x", file(DATA, Content_Encoding="gzip"))
    with pytest.raises(InputError, match="/x sends a compressed file, which was not asked for"):
        fetch(address)


@pytest.mark.parametrize(
    ("code", "says"), [(404, "404 Not Found"), (403, "403 Forbidden"), (500, "500 Internal Server"), (299, "299;")]
)
def test_other_answers(server: Server, code: int, says: str) -> None:
    with pytest.raises(InputError, match=f"/x answered {says}.*check the address"):
        fetch(server.offer("/x", status(code)) + "?token=secret")
    assert ".part" not in downloads()


def test_query_is_not_shown(server: Server) -> None:
    with pytest.raises(InputError) as caught:
        fetch(server.address + "/none?token=secret")
    assert "secret" not in str(caught.value)


def test_redirects_are_followed_to_a_limit(server: Server) -> None:
    server.offer("/a", status(302, Location="/b"))
    server.offer("/b", status(307, Location=f"{server.address}/c"))
    server.offer("/c", file(DATA))
    assert fetch(server.address + "/a") == DATA
    with pytest.raises(InputError, match="/loop redirects more than 5 times"):
        fetch(server.offer("/loop", status(301, Location="/loop")))
    assert len(server.ranges("/loop")) == 6


@pytest.mark.parametrize(
    "location", ["http://127.0.0.1:1/x", "http://example.org/x", "file:///etc/passwd", "ftp://example.org/x"]
)
def test_redirects_stay_encrypted(server: Server, location: str) -> None:
    with pytest.raises(InputError, match="/x redirects to an address without https; pass one that stays encrypted"):
        fetch(server.offer("/x", status(302, Location=location)))


def test_redirect_to_no_address(server: Server) -> None:
    with pytest.raises(InputError, match="/x redirects to an address that is none"):
        fetch(server.offer("/x", status(302, Location="https://example.org:port/x")))


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("http://example.org/x", "is not encrypted; pass an https address"),
        ("http://127.0.0.1.example.org/x", "is not encrypted"),
        ("https://", "is not encrypted"),
        ("https://example.org:port/x", "is no address"),
        ("https://user:secret@example.org/x", "holds a user name or a password"),
        ("hf://owner", "names no file of a hub; write hf://owner/name@revision/tasks/x.safetensors"),
        ("hf://owner/name/x.bin", "names no file of a hub"),
        ("hf://owner/name/../x.safetensors", "names no file of a hub"),
        ("hf://owner/name@a b/x.safetensors", "names no file of a hub"),
    ],
)
def test_addresses_that_are_not_asked(server: Server, source: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        fetch(source)
    assert "secret" not in str(caught.value)


def test_unknown_certificate(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(trust(trustme.CA(), tmp_path)))
    with pytest.raises(InputError, match=r"could not be fetched .*CERTIFICATE_VERIFY_FAILED"):
        fetch(server.offer("/x", file(DATA)))
    assert server.requests == []


def test_no_server(server: Server) -> None:
    with pytest.raises(
        InputError, match=r"127.0.0.1:1/x could not be fetched \(.*\); check the address and the network"
    ):
        fetch("https://127.0.0.1:1/x")


def test_plain_http_of_this_machine(server: Server) -> None:
    with serve(None) as plain:
        assert fetch(plain.offer("/x", file(DATA))) == DATA
        assert fetch(plain.offer("/up", status(302, Location=server.offer("/x", file(DATA))))) == DATA


def test_old_downloads_are_deleted(server: Server) -> None:
    with pytest.raises(InputError, match="are kept"):
        fetch(server.offer("/x", file(DATA, cut=1000)))
    folder = cache_folder()
    assert folder is not None
    for path in (folder / "downloads").iterdir():
        os.utime(path, (time.time() - 8 * 86_400,) * 2)
    fetch(server.offer("/y", file(DATA)))
    assert downloads() == []


def test_no_home_folder(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "cache_folder", lambda: None)
    with pytest.raises(InputError, match="no home folder to keep downloads in; set HOME"):
        fetch(server.offer("/x", file(DATA)))


def test_file_of_the_hub(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "repository" / "tasks" / "one.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    with hub.serve(tmp_path / "repository", "owner/name", tmp_path / "hub", monkeypatch, tag="v1.0") as names:
        monkeypatch.setenv("HF_ENDPOINT", hub.constants.ENDPOINT)
        assert fetch("hf://owner/name/tasks/one.safetensors") == DATA
        assert fetch("hf://owner/name@v1.0/tasks/one.safetensors") == DATA
        assert names == ["tasks/one.safetensors"] * 2
        with pytest.raises(InputError, match=r"/owner/name/resolve/main/tasks/two.safetensors answered 404 Not Found"):
            fetch("hf://owner/name/tasks/two.safetensors")


def test_token_and_offline_mode_of_the_hubs_client(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    (tmp_path / "token").write_text("kept\n")  # by `hf auth login`
    monkeypatch.setattr(hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    server.offer("/owner/name/resolve/main/x.safetensors", file(DATA))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE turns the network off"):
        fetch("hf://owner/name/x.safetensors")
    assert server.requests == []
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    assert fetch("hf://owner/name/x.safetensors") == DATA
    assert server.requests[0][1]["authorization"] == "Bearer kept"


def test_token_goes_to_the_hub_alone(server: Server, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", server.address + "/")
    monkeypatch.setenv("HF_TOKEN", "secret")
    with serve(authority) as other:
        location = other.offer("/blob", file(DATA))
        path = "/owner/name/resolve/refs%2Fpr%2F1/x.safetensors"
        server.offer(path, status(302, Location=location))
        assert fetch("hf://owner/name@refs%2Fpr%2F1/x.safetensors") == DATA
        assert server.requests[0][1]["authorization"] == "Bearer secret"
        assert "authorization" not in other.requests[0][1]
        assert fetch(location) == DATA
        assert "authorization" not in other.requests[1][1]


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    check_sha256(tmp_path / "x", digest.upper(), "here")
    with pytest.raises(CorruptFileError, match=f"here has the SHA-256 {digest} instead of {'0' * 64}; check both"):
        check_sha256(tmp_path / "x", "0" * 64, "here")
