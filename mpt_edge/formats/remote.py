"""Task files from elsewhere: over HTTPS, or from a model hub.

A download that stops is kept in the user's cache folder, and continued if the server still has the same file.
`httpx2` is imported where something is fetched. Nothing of a bundle is touched.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from mpt_edge._extras import require
from mpt_edge._files import cache_folder, sha256
from mpt_edge.errors import CorruptFileError, InputError
from mpt_edge.formats.locks import locked
from mpt_edge.formats.taskfile import MAX_TASK_BYTES
from mpt_edge.formats.vectors import SUFFIX

if TYPE_CHECKING:
    from httpx2 import URL, AsyncClient, Response

#: Starts of sources that are fetched.
SCHEMES = ("https://", "http://", "hf://")

#: Environment variable of the hub's own client with its address.
_ENDPOINT = "HF_ENDPOINT"

_HUB = "https://huggingface.co"

_HUB_SOURCE = re.compile(r"hf://([\w.-]+/[\w.-]+?)(?:@([\w.%/-]+?))?/((?:[\w.-]+/)*[\w.-]+\.safetensors)", re.ASCII)

#: Seconds that each step of a connection may take, and the whole download.
_STEP, _TOTAL = 30.0, 600.0

#: Maximum redirects, and connections that break one after the other.
_MAX_REDIRECTS, _MAX_ATTEMPTS = 5, 5

#: Seconds after which an unfinished download is deleted.
_MAX_AGE = 7 * 86_400


def is_remote(source: str) -> bool:
    """Whether a source is an address and no path."""
    return source.startswith(SCHEMES)


@contextlib.contextmanager
def fetched(source: str, *, limit: int = MAX_TASK_BYTES) -> Iterator[Path]:
    """Fetch a file, and yield its path until the block ends.

    Args:
        source: ``https://…``, ``http://`` of this machine, or ``hf://owner/name@revision/path.safetensors``.
        limit: size limit in bytes.

    Raises:
        InputError: the address cannot be used, or the server did not give the file.
        CorruptFileError: it is larger than the limit.
        MissingExtraError: `httpx2` is not installed.
    """
    require("hub", "httpx2")
    import asyncio  # imported here, with its sockets: most commands fetch nothing

    request = _parse(source)
    path = _downloads() / _file_name(request)
    with locked(path.with_suffix(".lock")):
        asyncio.run(_Download(request, path, limit).run())
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


def check_sha256(path: Path, expected: str, source: str) -> None:
    """Compare a file's SHA-256 with the expected one. Raises CorruptFileError."""
    digest = sha256(path)
    if digest != expected.lower():
        raise CorruptFileError(f"{source} has the SHA-256 {digest} instead of {expected.lower()}; check both.")


@dataclass(frozen=True)
class _Request:
    """An address, and a token for its host alone."""

    url: URL
    token: str | None = None

    @property
    def shown(self) -> str:
        """The address in messages, without a query, which may hold a password."""
        return str(self.url.copy_with(query=None, fragment=None))


@dataclass
class _Download:
    """A file on its way to a path."""

    request: _Request
    path: Path
    limit: int

    async def run(self) -> None:
        """Fetch the whole file. Raises InputError or CorruptFileError."""
        import asyncio

        from httpx2 import AsyncClient, HTTPError, Timeout

        try:
            async with asyncio.timeout(_TOTAL), AsyncClient(timeout=Timeout(_STEP)) as client:
                for _ in range(_MAX_ATTEMPTS):
                    before = self._size
                    try:
                        await self._attempt(client)
                        self._part.replace(self.path)
                        self._tag_path.unlink(missing_ok=True)
                        return
                    except HTTPError as error:
                        if self._size == before:  # nothing came, so the next attempt would do no better
                            raise InputError(self._stopped(str(error) or type(error).__name__)) from error
        except TimeoutError as error:
            raise InputError(self._stopped(f"it took longer than {_TOTAL:.0f} s")) from error
        raise InputError(self._stopped(f"the connection broke {_MAX_ATTEMPTS} times"))

    async def _attempt(self, client: AsyncClient) -> None:
        """Fetch what is missing. Raises httpx2.HTTPError for a connection that broke."""
        start = self._size if self._tag else 0
        headers = {"Accept-Encoding": "identity"}
        headers |= {"Range": f"bytes={start}-", "If-Range": self._tag} if start else {}
        response = await _open(client, self.request, headers)
        try:
            start = self._check(response, start)
            if not start:
                self._keep_tag(response.headers.get("etag", ""))
            with self._part.open("ab" if start else "wb") as file:
                async for chunk in response.aiter_raw():
                    start += len(chunk)
                    if start > self.limit:
                        raise CorruptFileError(self._too_large())
                    file.write(chunk)
        finally:
            await response.aclose()

    def _check(self, response: Response, start: int) -> int:
        """Return the byte at which a response's body begins. Raises InputError or CorruptFileError."""
        if start and response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            self._forget()
            raise _broken("the file changed on the server")
        if response.status_code not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            raise InputError(f"{self.request.shown} answered {_reason(response.status_code)}; check the address.")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise InputError(f"{self.request.shown} sends a compressed file, which was not asked for; ask its owner.")
        if response.status_code == HTTPStatus.OK:
            start = 0
        elif not response.headers.get("content-range", "").startswith(f"bytes {start}-"):
            self._forget()
            raise _broken("the server sent another part of the file")
        length = response.headers.get("content-length", "0")
        if not length.isdecimal() or start + int(length[:20]) > self.limit:
            raise CorruptFileError(self._too_large(f"{length[:20]} bytes, "))
        return start

    @property
    def _part(self) -> Path:
        return self.path.with_suffix(".part")

    @property
    def _tag_path(self) -> Path:
        return self.path.with_suffix(".etag")

    @property
    def _size(self) -> int:
        """Number of bytes that are here."""
        return self._part.stat().st_size if self._part.is_file() else 0

    @property
    def _tag(self) -> str:
        """The server's name for the version of the file that is here in part; empty if it has none."""
        return self._tag_path.read_text("ascii") if self._tag_path.is_file() else ""

    def _keep_tag(self, tag: str) -> None:
        is_strong = re.fullmatch(r'"[!#-~]{1,200}"', tag)  # only these vouch for equal bytes
        self._tag_path.write_text(tag if is_strong else "", "ascii")

    def _forget(self) -> None:
        self._part.unlink(missing_ok=True)

    def _too_large(self, size: str = "") -> str:
        self._forget()
        return f"{self.request.shown} has {size}more than the {self.limit:,} bytes of a task; check the address."

    def _stopped(self, reason: str) -> str:
        kept = f"; {self._size:,} bytes are kept, run the command again to continue" if self._size and self._tag else ""
        fix = kept or "; check the address and the network, and try again"
        return f"{self.request.shown} could not be fetched ({' '.join(reason.split())}){fix}."


async def _open(client: AsyncClient, request: _Request, headers: dict[str, str]) -> Response:
    """Return the response at the end of all redirects, its body unread. Raises InputError."""
    url = request.url
    for _ in range(_MAX_REDIRECTS + 1):
        token = (
            {"Authorization": f"Bearer {request.token}"} if request.token and _is_same_host(url, request.url) else {}
        )
        response = await client.send(client.build_request("GET", url, headers=headers | token), stream=True)
        if not response.has_redirect_location:
            return response
        await response.aclose()
        url = _redirected(request, response)
    raise InputError(f"{request.shown} redirects more than {_MAX_REDIRECTS} times; pass the address it leads to.")


def _redirected(request: _Request, response: Response) -> URL:
    """Return the address that a response leads to. Raises InputError for one without encryption."""
    from httpx2 import InvalidURL

    try:
        url = response.url.join(response.headers["location"])
    except InvalidURL as error:
        raise InputError(f"{request.shown} redirects to an address that is none; ask its owner.") from error
    is_local = all(each.scheme == "http" and _is_loopback(each.host) for each in (request.url, url))
    if url.scheme != "https" and not is_local:
        raise InputError(f"{request.shown} redirects to an address without https; pass one that stays encrypted.")
    return url


def _parse(source: str) -> _Request:
    """Return the request for a source. Raises InputError."""
    from httpx2 import URL, InvalidURL

    token = None
    address = source
    if source.startswith("hf://"):
        address, token = _hub_address(source), _hub_token()
    try:
        url = URL(address)
    except InvalidURL as error:
        raise InputError(f"{source!r} is no address ({error}); correct it.") from error
    if url.userinfo:
        raise InputError("the address holds a user name or a password, which would be shown and kept; leave it out.")
    if not url.host or (url.scheme != "https" and not (url.scheme == "http" and _is_loopback(url.host))):
        raise InputError(f"{source!r} is not encrypted; pass an https address.")
    return _Request(url, token)


def _hub_token() -> str | None:
    """Return the user's token of the hub, by the ways of its own client. Raises InputError while that is offline."""
    require("hub", "huggingface_hub")
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise InputError("HF_HUB_OFFLINE turns the network off; unset it, or name a file on this machine.")
    return get_token()


def _hub_address(source: str) -> str:
    match = _HUB_SOURCE.fullmatch(source)
    if match is None or ".." in source:
        raise InputError(f"{source!r} names no file of a hub; write hf://owner/name@revision/tasks/x.safetensors.")
    repository, revision, path = match.groups()
    endpoint = (os.environ.get(_ENDPOINT) or _HUB).rstrip("/")
    return f"{endpoint}/{repository}/resolve/{quote(revision or 'main', safe='%')}/{path}"


def _downloads() -> Path:
    """Return the folder of downloads, and delete what is old in it. Raises InputError."""
    cache = cache_folder()
    if cache is None:
        raise InputError("there is no home folder to keep downloads in; set HOME, or download the file yourself.")
    folder = cache / "downloads"
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another process may have deleted it
            if time.time() - path.stat().st_mtime > _MAX_AGE:
                path.unlink()
    return folder


def _file_name(request: _Request) -> str:
    """Return a name for a download that tells people and files apart."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", request.url.path.rpartition("/")[2].removesuffix(SUFFIX))[:60]
    return f"{name}.{hashlib.sha256(str(request.url).encode()).hexdigest()[:32]}{SUFFIX}"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_same_host(one: URL, other: URL) -> bool:
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)


def _reason(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _broken(reason: str) -> Exception:
    from httpx2 import RemoteProtocolError

    return RemoteProtocolError(reason)
