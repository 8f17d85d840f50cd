"""Checkpoints by reference: a path, or a file in a repository on the Hugging Face Hub.

huggingface_hub downloads into its own cache and reads its own environment variables: HF_TOKEN, HF_ENDPOINT, HF_HOME,
HF_HUB_OFFLINE. Downloads are untrusted: only `read_checkpoint` reads them.
"""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from twincar_edge.errors import InputError, require

SCHEME = "hf://"
REFERENCE_FORMAT = "hf://OWNER/REPO/PATH/FILE[@REVISION]"
MAX_REFERENCE = 1000

_ANY_SCHEME = re.compile(r"hf:|[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
_HUB_NAME = re.compile(r"\w(?:[\w.-]{0,94}\w)?", re.ASCII)
_REVISION = re.compile(r"\w(?:[\w./-]{0,200}\w)?", re.ASCII)
# An address copied from a browser, and the Hub's own format, with the revision after the repository.
_PAGE = re.compile(r"https?://(?:huggingface\.co|hf\.co)/([^/?#@]+/[^/?#]+)/(?:resolve|blob|raw)/([^/?#]+)/([^?#]+)")
_REVISION_FIRST = re.compile(r"hf://([^/@]+/[^/@]+)@([^/@]+)/([^@]+)")
_INVALID_PARTS = ("", ".", "..")
_TRANSIENT_STATUS = (408, 429, 500, 502, 503, 504)
_FORBIDDEN_STATUS = (401, 403)


@dataclass(frozen=True)
class HubFile:
    """A file on the Hub: `path` in the repository `repo_id` ("OWNER/REPO"), at `revision` or on the main branch."""

    repo_id: str
    path: str
    revision: str | None = None

    def __str__(self) -> str:
        """Return the reference."""
        return f"{SCHEME}{self.repo_id}/{self.path}" + (f"@{self.revision}" if self.revision else "")

    def beside(self, name: str, revision: str) -> HubFile:
        """Return the file `name` in the same folder, at a revision."""
        folder = self.path.rpartition("/")[0]
        return HubFile(self.repo_id, f"{folder}/{name}" if folder else name, revision)


def resolve_checkpoint(reference: str) -> Path:
    """Return the local path of a checkpoint, after downloading it from the Hub if necessary.

    Also downloads a `class_mapping.json` from the same folder of the repository and stores it next to the checkpoint,
    where `read_checkpoint` looks for the class names of a bare state dict.

    Args:
        reference: a path, or `hf://OWNER/REPO/PATH/FILE[@REVISION]`; a revision is a branch, a tag or a commit.

    Raises:
        InputError: the reference is invalid, or the download failed.
        MissingExtraError: the file is on the Hub, and huggingface_hub or torch is not installed.
    """
    if not _ANY_SCHEME.match(reference):
        return Path(reference)
    file = parse_reference(reference)
    require("torch", "train")
    from twincar_edge.datasets.files import CLASS_MAPPING

    path = fetch(file)
    if not (path.parent / CLASS_MAPPING).is_file():
        from huggingface_hub.errors import EntryNotFoundError

        # The cache has a folder for each commit. Names and weights must come from the same one.
        commit = path.parts[-2 - file.path.count("/")]
        mapping = file.beside(CLASS_MAPPING, commit)
        with _as_input_error(mapping), suppress(EntryNotFoundError):
            _download(mapping)
    return path


def parse_reference(reference: str) -> HubFile:
    """Parse `hf://OWNER/REPO/PATH/FILE[@REVISION]`.

    Raises:
        InputError: invalid reference; the message suggests a valid one where possible.
    """
    if len(reference) > MAX_REFERENCE:
        raise InputError(
            f"the checkpoint reference is too long: {len(reference)} characters, the limit is {MAX_REFERENCE}"
        )
    if not reference.startswith(SCHEME):
        # Only the scheme is repeated: a URL can contain a password.
        raise InputError(
            f"unsupported scheme '{reference.partition(':')[0]}:' for a checkpoint: use a path or {REFERENCE_FORMAT}"
            f"{_hint(_nearest(reference))}"
        )
    name, at, revision = reference.removeprefix(SCHEME).partition("@")
    owner, _, rest = name.partition("/")
    repo, _, path = rest.partition("/")
    if not path or not _is_hub_name(owner) or not _is_hub_name(repo):
        raise InputError(
            f"{reference!r} does not refer to a file in a repository: use {REFERENCE_FORMAT}"
            f"{_hint(_nearest(reference))}"
        )
    parts = path.split("/")
    if any(part in _INVALID_PARTS or "\\" in part or not part.isprintable() for part in parts):
        kept = "/".join(part for part in parts if part not in _INVALID_PARTS)
        nearest = f"{SCHEME}{owner}/{repo}/{kept}" if kept.isprintable() and "\\" not in kept else None
        raise InputError(f"{reference!r} has an invalid path{_hint(nearest)}")
    if at and (not _REVISION.fullmatch(revision) or ".." in revision or "//" in revision):
        raise InputError(
            f"{reference!r} has an invalid revision: use a branch, a tag or a commit{_hint(SCHEME + name)}"
        )
    return HubFile(f"{owner}/{repo}", path, revision or None)


def fetch(file: HubFile) -> Path:
    """Return the path of a Hub file in huggingface_hub's cache, after downloading it if it is new or has changed.

    A cached file needs no network.

    Raises:
        InputError: the download failed: no network, no such file, no permission, or no space.
        MissingExtraError: huggingface_hub is not installed.
    """
    require("huggingface_hub", "train")
    with _as_input_error(file):
        return _download(file)


def _download(file: HubFile) -> Path:
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import FileMetadataError, HfHubHTTPError, OfflineModeIsEnabled

    # Checked here because for invalid URLs, the HTTP client raises an unrelated exception type.
    if urlsplit(constants.ENDPOINT).scheme not in ("http", "https") or not urlsplit(constants.ENDPOINT).hostname:
        raise FileMetadataError("invalid endpoint URL")
    with _quiet():
        try:
            # hf_hub_download makes the same request, but if there is no answer, it retries for half a minute or more.
            found = get_hf_file_metadata(hf_hub_url(file.repo_id, file.path, revision=file.revision))
        except (_http_error(), OfflineModeIsEnabled) as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code not in _TRANSIENT_STATUS:
                raise
            return _cached(file, error)
        if found.commit_hash is None or found.etag is None:
            raise FileMetadataError("the response has no commit or no ETag")
        return Path(hf_hub_download(file.repo_id, file.path, revision=file.revision))


def _cached(file: HubFile, unreachable: Exception) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(file.repo_id, file.path, revision=file.revision, local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise error from unreachable


def _http_error() -> type[Exception]:
    """Return the base class of the HTTP client's errors, whichever client this version of huggingface_hub uses."""
    from huggingface_hub import errors

    base: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]  # imported there, not exported
    return base


@contextmanager
def _as_input_error(file: HubFile) -> Iterator[None]:
    """Convert huggingface_hub's exceptions to `InputError`.

    Their text appears neither in the message nor in the traceback: it spans many lines, and the HTTP client's can
    include a header and so the token.
    """
    try:
        yield
    except (_http_error(), OSError, ValueError, RuntimeError, ImportError) as error:
        raise InputError(f"cannot fetch {file}: {_reason(error, file)}") from None


def _reason(error: Exception, file: HubFile) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the reason for the fallback to the cache
    no_file = f"{file.repo_id} has no such file"
    table: tuple[tuple[type[Exception], str], ...] = (
        (errors.GatedRepoError, "the repository is gated: request access on its page, and set HF_TOKEN to your token"),
        (
            errors.RepositoryNotFoundError,
            f"there is no repository {file.repo_id}, or it is private: check the name, or set HF_TOKEN to your token",
        ),
        (errors.RevisionNotFoundError, f"{file.repo_id} has no revision {file.revision}"),
        (errors.OfflineModeIsEnabled, "it is not in the cache, and HF_HUB_OFFLINE is set: unset it to download"),
        (errors.FileMetadataError, "the server is not a Hugging Face Hub: check HF_ENDPOINT and the proxy"),
        (errors.EntryNotFoundError, no_file),
    )
    found = next((text for kind, text in table if isinstance(error, kind)), None)
    if found is not None:
        return found
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status in _FORBIDDEN_STATUS:
            return f"access denied (HTTP {status}): set HF_TOKEN to a token with read access"
        return no_file if status == 404 else f"the Hub returned HTTP status {status}: try again later"
    if isinstance(error, _http_error()):
        return f"the Hub cannot be reached ({type(error).__name__}): check the network, the proxy and HF_ENDPOINT"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot write into the cache ({error.strerror}): free some space, or set HF_HOME to another folder"
    return f"the download failed ({type(error).__name__}): try again"


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress huggingface_hub's warnings and, unless stderr is a terminal, its progress bars."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hides_bars = not sys.stderr.isatty() and not are_progress_bars_disabled()
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    if hides_bars:
        disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
        if hides_bars:
            enable_progress_bars()


def _is_hub_name(name: str) -> bool:
    return _HUB_NAME.fullmatch(name) is not None and "--" not in name and ".." not in name


def _nearest(reference: str) -> str | None:
    """Return the reference that was probably meant, or None."""
    found = _PAGE.match(reference) or _REVISION_FIRST.fullmatch(reference)
    if found:
        repo_id, revision, path = found.groups()
        return str(HubFile(repo_id, path, None if revision == "main" else revision))
    scheme, _, rest = reference.partition(":")
    rest = rest.strip("/")
    return (
        SCHEME + rest if scheme.lower() == "hf" and rest.count("/") > 1 and not reference.startswith(SCHEME) else None
    )


def _hint(nearest: str | None) -> str:
    return "" if nearest is None else f": did you mean {nearest!r}?"
