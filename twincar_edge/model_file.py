"""Reads a model file once, so that the bytes that run are the bytes that were checked."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from twincar_edge.onnx_metadata import check_digest, open_onnx, read_metadata

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ModelFile:
    """The content of an ONNX file whose digest, if any, matches.

    Attributes:
        path: the file's path.
        data: the whole content.
        sha256: the SHA-256 of the file, which identifies it in events and reports.
        digest: the embedded digest of graph and metadata; None in files of earlier versions.
        signature: the signature of that digest; None in an unsigned file.
        metadata: the other metadata entries.
    """

    path: Path
    data: bytes = field(repr=False)
    sha256: str
    digest: str | None
    signature: str | None
    metadata: Mapping[str, str] = field(repr=False)

    def warn_without_digest(self) -> None:
        """Log a warning if the file has no digest."""
        if self.digest is None:
            logger.warning("%s has no digest, so damage cannot be detected: export it again", self.path)


def read_model_file(path: Path) -> ModelFile:
    """Read an ONNX file, ours or not, and check its digest.

    Raises:
        ModelError: the file is missing, is not readable, is not an ONNX model, or does not match its digest.
    """
    read_metadata(path)  # reject other kinds of files before reading all of it
    with open_onnx(path) as mapped:
        data = mapped[:]
        metadata, sha256, digest, signature = check_digest(data, str(path))
    return ModelFile(path, data, sha256, digest, signature, metadata)
