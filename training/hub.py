"""Checkpoints by reference: a path, or a file in a repository on the Hugging Face Hub.

huggingface_hub fetches into its own cache and heeds its own variables: HF_TOKEN, HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE.
What it fetches is as foreign as any other file, and is read by `read_checkpoint` alone.
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
SPELLING = "hf://OWNER/REPO/PATH/FILE[@REVISION]"
MAX_REFERENCE = 1000

_ANY_SCHEME = re.compile(r"hf:|[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
_HUB_NAME = re.compile(r"\w(?:[\w.-]{0,94}\w)?", re.ASCII)
_REVISION = re.compile(r"\w(?:[\w./-]{0,200}\w)?", re.ASCII)
# What people copy out of a browser, and the Hub's own spelling, with the revision behind the repository.
_PAGE = re.compile(r"https?://(?:huggingface\.co|hf\.co)/([^/?#@]+/[^/?#]+)/(?:resolve|blob|raw)/([^/?#]+)/([^?#]+)")
_REVISION_FIRST = re.compile(r"hf://([^/@]+/[^/@]+)@([^/@]+)/([^@]+)")
_NO_PARTS = ("", ".", "..")
_HUB_IS_BUSY = (408, 429, 500, 502, 503, 504)
_NOT_ALLOWED = (401, 403)


@dataclass(frozen=True)
class HubFile:
    """A file on the Hub: `path` inside the repository `repo_id` ("OWNER/REPO"), at `revision` or on its main branch."""

    repo_id: str
    path: str
    revision: str | None = None

    def __str__(self) -> str:
        """Return the reference to it."""
        return f"{SCHEME}{self.repo_id}/{self.path}" + (f"@{self.revision}" if self.revision else "")

    def beside(self, name: str, revision: str) -> HubFile:
        """Return the file called `name` in the same folder, at a revision."""
        folder = self.path.rpartition("/")[0]
        return HubFile(self.repo_id, f"{folder}/{name}" if folder else name, revision)


def resolve_checkpoint(reference: str) -> Path:
    """Return the local file that a reference names, fetched from the Hub where it is not here yet.

    A `class_mapping.json` in the same folder of the repository comes along and lies beside it, where `read_checkpoint`
    looks for the names of a bare state dict.

    Args:
        reference: a path, or `hf://OWNER/REPO/PATH/FILE[@REVISION]`; a revision is a branch, a tag or a commit.

    Raises:
        InputError: the reference is misspelt, or the file cannot be fetched.
        MissingExtraError: huggingface_hub or torch is not installed, and the file is on the Hub.
    """
    if not _ANY_SCHEME.match(reference):
        return Path(reference)
    file = parse_reference(reference)
    require("torch", "train")
    from twincar_edge.training.checkpoint import CLASS_MAPPING_NAME

    path = fetch(file)
    if not (path.parent / CLASS_MAPPING_NAME).is_file():
        from huggingface_hub.errors import EntryNotFoundError

        # The cache keeps a folder for each commit. That one, so that names and weights cannot be of different ones.
        commit = path.parts[-2 - file.path.count("/")]
        mapping = file.beside(CLASS_MAPPING_NAME, commit)
        with _in_one_line(mapping), suppress(EntryNotFoundError):
            _download(mapping)
    return path


def parse_reference(reference: str) -> HubFile:
    """Take `hf://OWNER/REPO/PATH/FILE[@REVISION]` apart.

    Raises:
        InputError: it is spelt otherwise; the message has the nearest that would do.
    """
    if len(reference) > MAX_REFERENCE:
        raise InputError(f"a reference to a checkpoint has at most {MAX_REFERENCE} characters, not {len(reference)}")
    if not reference.startswith(SCHEME):
        # Only the scheme is repeated: an address can hold a password.
        raise InputError(
            f"checkpoints come from a path or from {SPELLING}, not from '{reference.partition(':')[0]}:'"
            f"{_hint(_nearest(reference))}"
        )
    name, at, revision = reference.removeprefix(SCHEME).partition("@")
    owner, _, rest = name.partition("/")
    repo, _, path = rest.partition("/")
    if not path or not _is_hub_name(owner) or not _is_hub_name(repo):
        raise InputError(f"{reference!r} names no file in a repository, as {SPELLING} does{_hint(_nearest(reference))}")
    parts = path.split("/")
    if any(part in _NO_PARTS or "\\" in part or not part.isprintable() for part in parts):
        kept = "/".join(part for part in parts if part not in _NO_PARTS)
        nearest = f"{SCHEME}{owner}/{repo}/{kept}" if kept.isprintable() and "\\" not in kept else None
        raise InputError(f"{reference!r} has a part in its path that cannot be{_hint(nearest)}")
    if at and (not _REVISION.fullmatch(revision) or ".." in revision or "//" in revision):
        raise InputError(f"{reference!r} ends in no revision (a branch, a tag or a commit){_hint(SCHEME + name)}")
    return HubFile(f"{owner}/{repo}", path, revision or None)


def fetch(file: HubFile) -> Path:
    """Return a file of the Hub as huggingface_hub caches it, fetched if it is new; what is cached needs no network.

    Raises:
        InputError: it cannot be had: no network, no such file, no permission, no space.
        MissingExtraError: huggingface_hub is not installed.
    """
    require("huggingface_hub", "train")
    with _in_one_line(file):
        return _download(file)


def _download(file: HubFile) -> Path:
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import FileMetadataError, HfHubHTTPError, OfflineModeIsEnabled

    # Sooner than the HTTP client, whose error for an address that is none is of no common kind.
    if urlsplit(constants.ENDPOINT).scheme not in ("http", "https") or not urlsplit(constants.ENDPOINT).hostname:
        raise FileMetadataError("no address")
    with _quiet():
        try:
            # hf_hub_download asks the same, and where nobody answers again and again, for half a minute and more.
            found = get_hf_file_metadata(hf_hub_url(file.repo_id, file.path, revision=file.revision))
        except (_http_error(), OfflineModeIsEnabled) as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code not in _HUB_IS_BUSY:
                raise
            return _cached(file, error)
        if found.commit_hash is None or found.etag is None:
            raise FileMetadataError("no commit or no ETag in the answer")
        return Path(hf_hub_download(file.repo_id, file.path, revision=file.revision))


def _cached(file: HubFile, unreachable: Exception) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(file.repo_id, file.path, revision=file.revision, local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise error from unreachable


def _http_error() -> type[Exception]:
    """Return the base of what the HTTP client raises: huggingface_hub has had three clients, all with such a class."""
    from huggingface_hub import errors

    base: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]  # imported there, for its own classes
    return base


@contextmanager
def _in_one_line(file: HubFile) -> Iterator[None]:
    """Turn what huggingface_hub raises into our error.

    Its own words stay out of the message and of the traceback: they run over many lines, and an HTTP client's can
    repeat a header, and with it the token.
    """
    try:
        yield
    except (_http_error(), OSError, ValueError, RuntimeError, ImportError) as error:
        raise InputError(f"cannot fetch {file}: {_reason(error, file)}") from None


def _reason(error: Exception, file: HubFile) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # why it was looked for in the cache alone
    no_file = f"{file.repo_id} has no such file"
    table: tuple[tuple[type[Exception], str], ...] = (
        (errors.GatedRepoError, "its owner must let you in: ask on its page, and set HF_TOKEN to your token"),
        (
            errors.RepositoryNotFoundError,
            f"there is no repository {file.repo_id}, or it is private: check the name, or set HF_TOKEN to your token",
        ),
        (errors.RevisionNotFoundError, f"{file.repo_id} has no revision {file.revision}"),
        (errors.OfflineModeIsEnabled, "it is not in the cache, and HF_HUB_OFFLINE forbids to ask for it"),
        (errors.FileMetadataError, "what answers is not the Hub: check HF_ENDPOINT and the proxy"),
        (errors.EntryNotFoundError, no_file),
    )
    found = next((text for kind, text in table if isinstance(error, kind)), None)
    if found is not None:
        return found
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status in _NOT_ALLOWED:
            return "it may not be read: set HF_TOKEN to a token that may"
        return no_file if status == 404 else f"the Hub answers with error {status}: try again later"
    if isinstance(error, _http_error()):
        return f"the Hub cannot be reached ({type(error).__name__}): check network, proxy and HF_ENDPOINT"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot write into the cache ({error.strerror}): make room, or set HF_HOME to another folder"
    return f"the download broke off ({type(error).__name__}): try again"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep huggingface_hub's warnings off the terminal, and its progress bars off anything that is none."""
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
    """Return the reference that was meant, where that can be seen."""
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
