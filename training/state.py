"""A training between two epochs, as a file: what `--resume` goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from twincar_edge.errors import ModelError, Parameter, first_fault
from twincar_edge.records import Record
from twincar_edge.training.checkpoint_files import load_plain, save_plain
from twincar_edge.training.history import EpochMetrics, History
from twincar_edge.training.recipe import Recipe

_AGAIN = Parameter("overwrite", True)
FORMAT: Literal["twincar-edge training state"] = "twincar-edge training state"


class _Document(Record):
    format: Literal["twincar-edge training state"]
    schema_version: Literal[1]
    recipe: Recipe
    data: str
    epochs: tuple[EpochMetrics, ...]
    loop: dict[str, Any]


def write_state(path: Path, recipe: Recipe, data: str, history: History, loop: dict[str, Any]) -> None:
    """Write the state after an epoch, whole or not at all.

    Args:
        path: where to.
        recipe: of the training.
        data: digest of the images that it learns from.
        history: the epochs so far.
        loop: `TrainingLoop.state_dict`.

    Raises:
        InputError: the file cannot be written.
    """
    document = _Document(
        format=FORMAT, schema_version=1, recipe=recipe, data=data, epochs=history.epochs, loop={}
    ).model_dump(mode="json")
    save_plain(path, document | {"loop": loop})


def read_state(path: Path, recipe: Recipe, data: str) -> tuple[History, dict[str, Any]]:
    """Read the state of a training: its epochs so far, and what `TrainingLoop.load_state_dict` takes.

    Args:
        path: the file.
        recipe: of the training that is to go on.
        data: digest of the images that it would learn from.

    Raises:
        ModelError: the file cannot be read, is no training state, or is that of another recipe or other images.
    """
    loaded, _ = load_plain(path)
    if not isinstance(loaded, dict) or loaded.get("format") != FORMAT:
        raise ModelError(f"{path} is not the state of a training: start again with ", _AGAIN)
    try:
        document = _Document.model_validate(loaded)
    except ValidationError as error:
        raise ModelError(f"{path} is not a valid training state, at {first_fault(error)}") from error
    if document.recipe != recipe:
        raise ModelError(f"{path} belongs to another recipe than the one beside it: start again with ", _AGAIN)
    if document.data != data:
        raise ModelError(f"{path} is of other images than there are now: start again with ", _AGAIN)
    return History(document.epochs), document.loop
