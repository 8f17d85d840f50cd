"""Recipes as TOML files: those that ship with the package, anybody's own, and single keys on top."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from twincar_edge.errors import InputError, first_fault, nearest
from twincar_edge.training.recipe import Recipe

DEFAULT_RECIPE = "lite0-cars196"
EXTENDING_RECIPE = "extend"  # the default where a trained model gets more classes
_SHIPPED = Path(__file__).parent / "recipes"
_SHORT_KEYS = ("size",)  # of a recipe's input, not of the recipe


def shipped_recipes() -> tuple[str, ...]:
    """Return the names of the recipes that come with the package."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.toml")))


def read_recipe(name: str = DEFAULT_RECIPE, changes: Iterable[str] = ()) -> Recipe:
    """Read a recipe and change single keys of it.

    Args:
        name: of a recipe that ships with the package, or the path of a TOML file.
        changes: `key=value`, a key inside a table as `augmentation.jitter`, values as TOML writes them; text may go
            without quotes. A later change wins.

    Raises:
        InputError: no such recipe, not TOML, an unknown key (the nearest known ones are named), or a value that is not
            allowed.
    """
    path = Path(name) if name.endswith(".toml") else _SHIPPED / f"{name}.toml"
    if not name.endswith(".toml") and name not in shipped_recipes():
        raise InputError(f"no recipe {name!r}: {nearest(name, shipped_recipes())}; or give a file that ends in .toml")
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the recipe {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a TOML file: {error}") from error
    for change in changes:
        _apply(document, change)
    _check_keys(document, name)
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        raise InputError(f"{name} is no recipe that can be trained, at {first_fault(error)}") from error


def _apply(document: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals or not key.strip():
        raise InputError(f"a change of a recipe is written key=value, found {change!r}")
    *tables, last = key.strip().split(".")
    target = document
    for table in tables:
        target = target.setdefault(table, {})
        if not isinstance(target, dict):
            raise InputError(f"{table} is no table of a recipe: {_nearest_key(key.strip())}")
    if not tables and last in _SHORT_KEYS:
        document.pop("preprocess", None)  # what it stands for
    target[last] = _value(text.strip())


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _check_keys(document: dict[str, Any], name: str) -> None:
    known = set(_known_keys())
    for key in _keys(document):
        if key not in known:
            raise InputError(f"{name}: a recipe has no key {key!r}: {_nearest_key(key)}")


def _nearest_key(key: str) -> str:
    return nearest(key, _known_keys())


def _known_keys() -> tuple[str, ...]:
    return (*_fields(Recipe), *_SHORT_KEYS)


def _fields(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        kinds = get_args(field.annotation) or (field.annotation,)  # a table may be left out: Distillation | None
        tables = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        keys += _fields(tables[0], f"{prefix}{name}.") if tables else [prefix + name]
    return keys


def _keys(document: dict[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for name, value in document.items():
        keys += _keys(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name]
    return keys
