"""Recipes as TOML files, shipped with the package or the user's own, with overrides of single keys."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from twincar_edge.errors import InputError, first_fault, nearest
from twincar_edge.files import check_name
from twincar_edge.training.recipe import Recipe

DEFAULT_RECIPE = "lite0-cars196"
EXTENDING_RECIPE = "extend"  # the default for adding classes to a trained model
_SHIPPED = Path(__file__).parent / "recipes"
_SHORT_KEYS = ("size",)  # allowed in recipe files, but not fields of `Recipe`


def shipped_recipes() -> tuple[str, ...]:
    """Return the names of the recipes in the package."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.toml")))


def read_recipe(name: str = DEFAULT_RECIPE, changes: Iterable[str] = ()) -> Recipe:
    """Read a recipe and override single keys.

    Args:
        name: the name of a shipped recipe, or the path of a TOML file.
        changes: overrides as `key=value`, with a dotted key for a table (`augmentation.jitter`) and a TOML value; text
            needs no quotes. Later overrides win.

    Raises:
        InputError: no such recipe, invalid TOML, an unknown key (the message suggests similar ones), or an invalid
            value.
    """
    path = Path(name) if name.endswith(".toml") else _SHIPPED / f"{name}.toml"
    if not name.endswith(".toml") and name not in shipped_recipes():
        raise InputError(f"no recipe {name!r}: {nearest(name, shipped_recipes())}; or use a file that ends in .toml")
    check_name(path)
    try:
        document = tomllib.loads(path.read_text("utf-8-sig"))
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
        raise InputError(f"{name} is not a valid recipe, at {first_fault(error)}") from error


def is_changed(changes: Iterable[str], key: str) -> bool:
    """Return whether one of the overrides sets a key."""
    return any(change.partition("=")[0].strip() == key for change in changes)


def _apply(document: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals or not key.strip():
        raise InputError(f"invalid recipe override {change!r}: use key=value")
    *tables, last = key.strip().split(".")
    target = document
    for table in tables:
        target = target.setdefault(table, {})
        if not isinstance(target, dict):
            raise InputError(f"a recipe has no table {table!r}: {_nearest_key(key.strip())}")
    if not tables and last in _SHORT_KEYS:
        document.pop("preprocess", None)  # `size` replaces it
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
        kinds = get_args(field.annotation) or (field.annotation,)  # a table may be optional: Distillation | None
        tables = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        keys += _fields(tables[0], f"{prefix}{name}.") if tables else [prefix + name]
    return keys


def _keys(document: dict[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for name, value in document.items():
        keys += _keys(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name]
    return keys
