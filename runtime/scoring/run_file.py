"""The file that identifies the run in an output folder, and what a resumed run must match."""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import AwareDatetime, Field, ValidationError

from twincar_edge._version import __version__
from twincar_edge.errors import InputError, Parameter, first_fault
from twincar_edge.records import Record
from twincar_edge.runtime.scoring.output import SCHEMA_VERSION
from twincar_edge.runtime.scoring.storage import join, shown, storage_of

RUN_FILE = "_run.json"
_MOST_BYTES = 2**20


class Run(Record):
    """What a run scores with what.

    Attributes:
        schema_version: of the partitions.
        twincar_version: that started the run.
        input: what the user named.
        input_sha256: the digest of the list of entries, whatever their order.
        entries: how many there are.
        partitions: into how many they are cut.
        model_sha256: the model's digest.
        detector_sha256: that of the detector for videos; None where each worker does without, or by its own.
        embedding: the partitions have the column.
        started_at: when.
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
        """Return what partitions name the run by: equal for runs whose partitions are interchangeable."""
        text = f"{self.schema_version} {self.input_sha256} {self.partitions} {self.started_at.isoformat()}"
        return hashlib.sha256(f"{text} {self.model_sha256}".encode()).hexdigest()[:32]


def write_run(output: str, run: Run) -> None:
    """Write the run file: from then on the list of the run is whole.

    Raises:
        InputError: it cannot be written.
    """
    storage_of(output).write(join(output, RUN_FILE), (run.model_dump_json(indent=2) + "\n").encode())


def read_run(output: str) -> Run | None:
    """Return the run that an output holds, None where there is none.

    Raises:
        InputError: the file cannot be read, or is not such a file.
    """
    path = join(output, RUN_FILE)
    storage = storage_of(path)
    if storage.kind(path) != "file":
        return None
    try:
        with storage.open(path) as file:
            return Run.model_validate_json(file.read(_MOST_BYTES))
    except ValidationError as error:
        raise InputError(f"{path} is no run file of this version: {first_fault(error)}; name another output") from error


def check_free(output: str) -> None:
    """Check that a new run may begin in an output.

    Raises:
        InputError: it holds a run, or Parquet files of something else.
    """
    run = read_run(output)
    if run is not None:
        raise InputError(
            f"{shown(output)} holds a run over {shown(run.input)} that began {run.started_at:%Y-%m-%d %H:%M}: "
            "go on with ",
            Parameter("resume", True),
            ", or name another output",
        )
    storage = storage_of(output)
    kind = storage.kind(output)
    if kind == "file":
        raise InputError(f"{shown(output)} is a file: name a folder")
    if kind == "folder" and any(child.name.endswith(".parquet") for child in storage.children(output)):
        raise InputError(f"{shown(output)} holds Parquet files that no run of this program wrote: name another output")


def check_same(output: str, run: Run, other: Run) -> None:
    """Check that a resumed run has the inputs it started with; `other` is the same run as a new one.

    Raises:
        InputError: the input, or what is asked for, differs.
    """
    if run.schema_version != other.schema_version:
        raise InputError(
            f"{shown(output)} holds a run of schema {run.schema_version}, and this version writes "
            f"{other.schema_version}: name another output"
        )
    if run.input_sha256 != other.input_sha256:
        raise InputError(
            f"{shown(output)} holds a run over another input: {run.entries:,} files of {shown(run.input)} then, "
            f"{other.entries:,} of {shown(other.input)} now; give that input, or name another output"
        )
    if (run.embedding, run.detector_sha256) != (other.embedding, other.detector_sha256):
        what = "embedding" if run.embedding != other.embedding else "detector"
        raise InputError(f"{shown(output)} holds a run with another ", Parameter(what), ": set it as then")


def other_model(output: str, run: Run, model_sha256: str) -> InputError:
    """Return the error for a run that was begun with another model."""
    return InputError(
        f"{shown(output)} holds a run of another model ({run.model_sha256[:12]}, not {model_sha256[:12]}): "
        "give that model, or name another output"
    )
