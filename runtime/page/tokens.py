"""Tokens of the page's users: random, shown once, and stored as digests in the state folder."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, StringConstraints, ValidationError

from twincar_edge.errors import InputError, first_fault
from twincar_edge.files import write_private_text
from twincar_edge.records import Record, Sha256
from twincar_edge.runtime.storage.state import make_state_folder

Role = Literal["view", "teach"]
TokenName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}$")]
FILE_NAME = "page-tokens.json"
OWNER = "owner"
_RANDOM_BYTES = 24  # too many to guess, so a digest without salt is safe
_MAX_FILE_BYTES = 2**20


class User(Record):
    """A user of the page: the name and the role of the token. The role `teach` includes `view`."""

    name: str
    role: Role

    def may(self, role: Role) -> bool:
        """Return whether this user has the role."""
        return self.role in ("teach", role)


class Token(Record):
    """A token; `sha256` is the digest of its text, in hexadecimal."""

    name: TokenName
    role: Role
    sha256: Sha256
    created_at: AwareDatetime


class _File(Record):
    tokens: tuple[Token, ...] = ()


class Tokens:
    """The tokens of a state folder. The file is read again when it has changed."""

    def __init__(self, state: Path) -> None:
        """Prepare for the state folder `state`."""
        self.path = state / FILE_NAME
        self._read_version: tuple[int, int, int] | None = None
        self._tokens: tuple[Token, ...] = ()

    def all(self) -> tuple[Token, ...]:
        """Return all tokens.

        Raises:
            InputError: the file cannot be read or is invalid.
        """
        try:
            status = self.path.stat()
        except FileNotFoundError:
            self._read_version, self._tokens = None, ()
            return ()
        except OSError as error:
            raise InputError(f"cannot read the tokens in {self.path}: {error.strerror}") from error
        version = status.st_ino, status.st_mtime_ns, status.st_size
        if version != self._read_version:
            self._tokens, self._read_version = self._read(), version
        return self._tokens

    def _read(self) -> tuple[Token, ...]:
        try:
            with self.path.open(encoding="utf-8") as file:
                text = file.read(_MAX_FILE_BYTES)
            return _File.model_validate_json(text).tokens
        except OSError as error:
            raise InputError(f"cannot read the tokens in {self.path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise InputError(f"invalid token file {self.path}: not UTF-8; remove it, and add tokens again") from error
        except ValidationError as error:
            raise InputError(
                f"invalid token file {self.path}: {first_fault(error)}; remove it, and add tokens again"
            ) from error

    def add(self, name: str, role: Role) -> str:
        """Create a token and return its text, which is not stored.

        Raises:
            InputError: the name is taken or invalid, or the file cannot be written.
        """
        before = self.all()
        if any(token.name == name for token in before):
            raise InputError(f"the token {name!r} exists: remove it first, or choose another name")
        text = secrets.token_urlsafe(_RANDOM_BYTES)
        try:
            token = Token(name=name, role=role, sha256=_digest(text), created_at=datetime.now(UTC))
        except ValidationError as error:
            raise InputError(
                f"invalid token name {name!r}: use up to 64 letters, digits and _ . @ -, the first a letter or digit"
            ) from error
        self._write((*before, token))
        return text

    def remove(self, name: str) -> None:
        """Remove a token; its users lose access immediately.

        Raises:
            InputError: the token does not exist, or the file cannot be written.
        """
        before = self.all()
        left = tuple(token for token in before if token.name != name)
        if len(left) == len(before):
            known = ", ".join(token.name for token in before) or "none"
            raise InputError(f"unknown token {name!r}; there are: {known}")
        self._write(left)

    def _write(self, tokens: tuple[Token, ...]) -> None:
        make_state_folder(self.path.parent)
        write_private_text(self.path, _File(tokens=tokens).model_dump_json(indent=1) + "\n")

    def find(self, text: str) -> Token | None:
        """Return the token with this text, or None. The time does not depend on the text."""
        digest, found = _digest(text), None
        for token in self.all():
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return found

    def named(self, name: str, sha256: str) -> Token | None:
        """Return the token of a session, or None if it was removed or replaced."""
        return next((one for one in self.all() if one.name == name and hmac.compare_digest(one.sha256, sha256)), None)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def session_secret(state: Path) -> str:
    """Return the key that signs session cookies; the first call creates it in the state folder.

    Raises:
        InputError: the key cannot be read or written.
    """
    path = state / "page-session-key"
    try:
        secret = path.read_text("ascii").strip()
    except FileNotFoundError:
        secret = ""
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the page's session key {path}: {getattr(error, 'strerror', error)}") from error
    if len(secret) < 2 * _RANDOM_BYTES:
        secret = secrets.token_hex(_RANDOM_BYTES)
        make_state_folder(state)
        write_private_text(path, secret + "\n")
    return secret
