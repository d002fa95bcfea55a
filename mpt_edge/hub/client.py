"""The hub's own client: made once it is needed, and its errors in one sentence each."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from mpt_edge._extras import require
from mpt_edge.errors import BundleNotFoundError, InputError, MptEdgeError
from mpt_edge.formats.manifest import MANIFEST
from mpt_edge.hub.repositories import Repository

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

#: Environment variable of the hub's client that stops it from telling which other packages are installed.
_NO_TELEMETRY = "HF_HUB_DISABLE_TELEMETRY"


def connect(repository: Repository) -> HfApi:
    """Return a client of the hub that `HF_ENDPOINT` names. Nothing is sent.

    Raises:
        MissingExtraError: `huggingface_hub` is not installed.
    """
    os.environ.setdefault(_NO_TELEMETRY, "1")
    require("hub", "huggingface_hub", before=repository.else_path)
    from huggingface_hub import HfApi

    return HfApi(library_name="mpt-edge")


def cache_folder() -> Path:
    """Return the hub's cache: ``$HF_HUB_CACHE``, else below ``$HF_HOME``."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


@contextmanager
def asking(repository: Repository, *, offline: bool = False) -> Iterator[None]:
    """Turn errors of the hub, its client and the network into one sentence.

    Args:
        repository: the repository that is asked.
        offline: whether the caller forbids the network.

    Raises:
        BundleNotFoundError: there is no such repository, or it holds no bundle.
        InputError: anything else.
    """
    from httpx2 import HTTPError, InvalidURL
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise InputError(
            f"{repository.id} is gated; accept its terms on its page of the hub, and log in by `hf auth login` or "
            "$HF_TOKEN."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise BundleNotFoundError(
            f"{repository.else_path}the hub has no repository {repository.id}, or it is private; check the name, or "
            "log in by `hf auth login` or $HF_TOKEN."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(
            f"{repository.id} has no revision {repository.revision!r}; name a branch, a tag or a whole commit."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise _absent(repository, error, offline=offline) from error
    except errors.EntryNotFoundError as error:
        raise not_a_bundle(repository) from error
    except errors.OfflineModeIsEnabled as error:
        raise not_cached(repository) from error
    except errors.HfHubHTTPError as error:
        raise InputError(_refusal(repository, error)) from error
    except (HTTPError, InvalidURL, ConnectionError, errors.FileMetadataError, errors.XetDownloadError) as error:
        raise InputError(f"{repository.else_path}{_unreachable(error)}; check the network, and try again.") from error


def not_a_bundle(repository: Repository) -> BundleNotFoundError:
    """Return the error for a repository without a manifest."""
    return BundleNotFoundError(
        f"{repository} is no bundle, since it has no {MANIFEST}; name another repository, or pull its tasks with "
        "--task."
    )


def not_cached(repository: Repository) -> InputError:
    """Return the error for files that are not in the cache while the network is off."""
    return InputError(
        f"{_place(repository)}, and the network is off; pull it once without --offline and HF_HUB_OFFLINE."
    )


def _absent(repository: Repository, error: Exception, *, offline: bool) -> MptEdgeError:
    """Return the error for a file that is not in the cache, and could not be fetched."""
    from huggingface_hub import constants, errors

    if offline or constants.HF_HUB_OFFLINE:
        return not_cached(repository)
    cause = error.__cause__ or error
    if isinstance(cause, errors.HfHubHTTPError):
        return InputError(_refusal(repository, cause))
    return InputError(f"{_place(repository)}, and {_unreachable(cause)}; check the network, and try again.")


def _place(repository: Repository) -> str:
    return f"{repository.else_path}{repository} is not (or not whole) in the hub's cache {cache_folder()}"


def _unreachable(error: BaseException) -> str:
    from huggingface_hub import constants

    return f"the hub at {constants.ENDPOINT} cannot be reached ({type(error).__name__})"


def _refusal(repository: Repository, error: HfHubHTTPError) -> str:
    """Return the sentence for a status; the hub's own words may hold anything."""
    code = error.response.status_code
    if code == HTTPStatus.UNAUTHORIZED:
        return f"the hub does not know the token that was sent for {repository.id}; log in again by `hf auth login`."
    if code == HTTPStatus.FORBIDDEN:
        return f"the token may not do this with {repository.id}; log in with one that may write to it."
    if code in {HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED}:
        return f"{repository.id} was changed, or has that name already; look at it, and try again."
    if code == HTTPStatus.TOO_MANY_REQUESTS:
        return "the hub was asked too often; wait some minutes, and try again."
    return f"the hub answered {code} for {repository.id}; try again later."


def be_quiet(repository: Repository) -> None:
    """Turn the client's progress bars and warnings off, which would be mixed with the command's own output.

    Raises:
        MissingExtraError: `huggingface_hub` is not installed.
    """
    connect(repository)
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="huggingface_hub")
