"""The saved state of a training run after an epoch, from which `--resume` continues."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from twincar_edge.errors import ModelError, Parameter, first_fault
from twincar_edge.records import Record
from twincar_edge.training.checkpoint_files import STATE_FORMAT, load_plain, save_plain
from twincar_edge.training.history import EpochMetrics, History
from twincar_edge.training.recipe import Recipe

_OVERWRITE = Parameter("overwrite", True)


class _Document(Record):
    format: Literal["twincar-edge training state"]
    schema_version: Literal[1]
    recipe: Recipe
    data: str
    epochs: tuple[EpochMetrics, ...]
    loop: dict[str, Any]


def write_state(path: Path, recipe: Recipe, data: str, history: History, loop: dict[str, Any]) -> None:
    """Write the state after an epoch, atomically.

    Args:
        path: the file.
        recipe: the run's recipe.
        data: digest of the training images.
        history: the completed epochs.
        loop: the result of `TrainingLoop.state_dict`.

    Raises:
        InputError: the file cannot be written.
    """
    document = _Document(
        format=STATE_FORMAT, schema_version=1, recipe=recipe, data=data, epochs=history.epochs, loop={}
    ).model_dump(mode="json")
    save_plain(path, document | {"loop": loop})


def read_state(path: Path, recipe: Recipe, data: str) -> tuple[History, dict[str, Any]]:
    """Read the state of a training run: its epochs, and the state for `TrainingLoop.load_state_dict`.

    Args:
        path: the file.
        recipe: the recipe of the run to resume.
        data: digest of its training images.

    Raises:
        ModelError: the file cannot be read, is not a training state, or belongs to another recipe or other images.
    """
    loaded, _ = load_plain(path)
    if not isinstance(loaded, dict) or loaded.get("format") != STATE_FORMAT:
        raise ModelError(f"{path} is not a training state: start over with ", _OVERWRITE)
    try:
        document = _Document.model_validate(loaded)
    except ValidationError as error:
        raise ModelError(f"{path} is not a valid training state, at {first_fault(error)}") from error
    if document.recipe != recipe:
        raise ModelError(f"{path} belongs to another recipe than this run: start over with ", _OVERWRITE)
    if document.data != data:
        raise ModelError(f"{path} belongs to other training images than this run: start over with ", _OVERWRITE)
    return History(document.epochs), document.loop
