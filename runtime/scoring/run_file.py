"""The file that identifies a run in its output folder, and the checks before a run starts or resumes."""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import AwareDatetime, Field, ValidationError

from twincar_edge._version import __version__
from twincar_edge.errors import InputError, Parameter, first_fault
from twincar_edge.records import Record
from twincar_edge.runtime.scoring.file_systems import reason, shown
from twincar_edge.runtime.scoring.output import SCHEMA_VERSION
from twincar_edge.runtime.scoring.storage import join, storage_of

RUN_FILE = "_run.json"
_MOST_BYTES = 2**20


class Run(Record):
    """The input, model and options of a run.

    Attributes:
        schema_version: the version of the partitions' schema.
        twincar_version: the version that started the run.
        input: the input as the user named it, without the query of a URL, which may be a signature.
        input_sha256: the digest of the entries, see `ListDigest`.
        entries: the number of entries.
        partitions: the number of partitions.
        model_sha256: the model's digest.
        detector_sha256: the digest of the detector for videos; None without videos or without a detector.
        embedding: whether the partitions have embeddings.
        started_at: the time of the first start.
    """

    format: Literal["twincar-edge score"] = "twincar-edge score"
    schema_version: int = SCHEMA_VERSION
    twincar_version: str = __version__
    input: str
    input_sha256: str
    entries: int = Field(ge=1)
    partitions: int = Field(ge=1)
    model_sha256: str
    detector_sha256: str | None = None
    embedding: bool = False
    started_at: AwareDatetime

    @property
    def id(self) -> str:
        """Return the id that partitions carry. Runs with equal ids have interchangeable partitions."""
        text = f"{self.schema_version} {self.input_sha256} {self.partitions} {self.started_at.isoformat()}"
        return hashlib.sha256(f"{text} {self.model_sha256}".encode()).hexdigest()[:32]


def write_run(output: str, run: Run) -> None:
    """Write the run file. It is written last, so its presence means that the run's list is complete.

    Raises:
        InputError: the file cannot be written.
    """
    storage_of(output).write(join(output, RUN_FILE), (run.model_dump_json(indent=2) + "\n").encode())


def read_run(output: str) -> Run | None:
    """Return the run in an output folder; None if it has no run.

    Raises:
        InputError: the run file cannot be read or is invalid.
    """
    path = join(output, RUN_FILE)
    storage = storage_of(path)
    if storage.kind(path) != "file":
        return None
    try:
        with storage.open(path) as file:
            return Run.model_validate_json(file.read(_MOST_BYTES))
    except ValidationError as error:
        raise InputError(
            f"{shown(path)} is not a run file of this version: {first_fault(error)}; name another output"
        ) from error
    except OSError as error:
        raise InputError(f"cannot read {shown(path)}: {reason(error)}") from error


def check_free(output: str) -> None:
    """Check that a new run may start in an output folder.

    Raises:
        InputError: the folder has a run, or other Parquet files.
    """
    run = read_run(output)
    if run is not None:
        raise InputError(
            f"{shown(output)} has a run over {shown(run.input)}, started {run.started_at:%Y-%m-%d %H:%M}: continue it "
            "with ",
            Parameter("resume", True),
            ", or name another output",
        )
    storage = storage_of(output)
    kind = storage.kind(output)
    if kind == "file":
        raise InputError(f"{shown(output)} is a file: name a folder")
    if kind == "folder" and any(child.name.endswith(".parquet") for child in storage.children(output)):
        raise InputError(f"{shown(output)} has Parquet files that are not of a run: name another output")


def check_same(output: str, run: Run, other: Run) -> None:
    """Check that a run may be resumed with the options of now, `other`.

    Raises:
        InputError: the input or an option differs.
    """
    if run.schema_version != other.schema_version:
        raise InputError(
            f"{shown(output)} has a run of schema {run.schema_version}, this version writes {other.schema_version}: "
            "name another output"
        )
    if run.input_sha256 != other.input_sha256:
        raise InputError(
            f"{shown(output)} has a run over another input: {run.entries:,} files of {shown(run.input)} then, "
            f"{other.entries:,} of {shown(other.input)} now; use the same input, or name another output"
        )
    if (run.embedding, run.detector_sha256) != (other.embedding, other.detector_sha256):
        what = "embedding" if run.embedding != other.embedding else "detector"
        raise InputError(f"{shown(output)} has a run with another ", Parameter(what), ": use the same value")


def other_model(output: str, run: Run, model_sha256: str) -> InputError:
    """Return the error for resuming a run with another model."""
    return InputError(
        f"{shown(output)} has a run with another model ({run.model_sha256[:12]}, not {model_sha256[:12]}): "
        "use the same model, or name another output"
    )
