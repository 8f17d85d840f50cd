"""Decides which model files may be opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from twincar_edge.errors import ModelError, Parameter
from twincar_edge.model_file import ModelFile
from twincar_edge.signatures import require_signature


@dataclass(frozen=True)
class Trust:
    """Which model files may be opened; by default all.

    Attributes:
        sha256: the SHA-256 of the only allowed file, as 64 hex digits; None allows all.
        public_key: the file of a public key; models must be signed with its private key. None requires no signature.
    """

    sha256: str | None = None
    public_key: Path | None = None

    def check(self, file: ModelFile) -> None:
        """Check a file.

        Raises:
            InputError: the key cannot be read.
            MissingExtraError: cryptography is needed and not installed.
            ModelError: the file is not allowed.
        """
        if self.sha256 is not None and file.sha256 != self.sha256:
            raise ModelError(f"{file.path} has the SHA-256 {file.sha256}, not that of ", Parameter("model_sha256"))
        if self.public_key is not None:
            require_signature(file, self.public_key)


ANY = Trust()
