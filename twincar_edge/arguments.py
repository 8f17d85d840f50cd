"""Checks the arguments of public functions, so that a wrong type or number is an error in one line."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from twincar_edge.errors import InputError, Parameter

_P = ParamSpec("_P")
_R = TypeVar("_R")
_MAX_SHOWN = 40  # characters of a value in a message


class _Misfit(Exception):
    """A value is of another type than expected; `place` leads to it from the argument."""

    def __init__(self, value: object, hint: Any, place: tuple[object, ...] = ()) -> None:
        self.value, self.hint, self.place = value, hint, place


def checked_arguments(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a public function: its arguments must have the annotated types, or it raises an `InputError`.

    NumPy numbers become Python's, path-like objects become a `Path`, and any iterable of items except text is accepted
    as a sequence. Annotations that name a protocol, and `**options`, are left to the function.
    """
    signature = inspect.signature(function)

    @cache
    def hints() -> dict[str, Any]:
        """Return the type of each parameter. At the first call, since evaluating them may need names defined later."""
        return {
            name: eval(parameter.annotation, function.__globals__)
            for name, parameter in signature.parameters.items()
            if parameter.annotation is not parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        }

    @wraps(function)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        bound = signature.bind(*args, **kwargs)
        for name, hint in hints().items():
            if name in bound.arguments:
                try:
                    bound.arguments[name] = _fitting(bound.arguments[name], hint)
                except _Misfit as misfit:
                    raise _described(name, misfit) from None
        return function(*bound.args, **bound.kwargs)

    return checked


def require_at_least(minimum: int, **values: float | None) -> None:
    """Check numbers by the names of their parameters; None is accepted.

    Raises:
        InputError: a number is below the minimum.
    """
    for name, value in values.items():
        if value is not None and value < minimum:
            raise InputError(Parameter(name), f" must be {minimum} or more, found {value}")


def refuse_unused(where: str, **given: bool) -> None:
    """Check that no argument is given that has no effect, by the names of their parameters.

    Raises:
        InputError: one is given.
    """
    for name, is_given in given.items():
        if is_given:
            raise InputError(Parameter(name), f" has no effect {where}: leave it out")


def _fitting(value: Any, hint: Any) -> Any:
    """Return a value as the type of an annotation, or raise a `_Misfit`."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _fitting_one(value, hint)
    if hint in (int, float, bool, object) and type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        value = value.item()
    if hint in (Any, object) or getattr(hint, "_is_protocol", False):
        return value
    if origin is Literal:
        fits = isinstance(value, str) and value in inner
    elif origin is Callable:
        fits = callable(value)
    elif origin is Sequence:
        if isinstance(value, Iterable) and not isinstance(value, str | bytes | os.PathLike | Mapping):
            return tuple(_inside(index, item, inner[0]) for index, item in enumerate(value))
        fits = False
    elif origin is Mapping:
        if isinstance(value, Mapping):
            return {_inside(key, key, inner[0]): _inside(key, item, inner[1]) for key, item in value.items()}
        fits = False
    elif hint is Path:
        fits = isinstance(value, os.PathLike) and isinstance(os.fspath(value), str)
        value = Path(value) if fits else value
    elif hint in (int, float):
        fits = isinstance(value, (int, hint)) and not isinstance(value, bool)
    else:
        fits = isinstance(value, origin or hint)
    if not fits:
        raise _Misfit(value, hint)
    return value


def _fitting_one(value: Any, union: Any) -> Any:
    """Return a value as the first fitting type of a union."""
    closest = _Misfit(value, union)
    for hint in get_args(union):
        try:
            return _fitting(value, hint)
        except _Misfit as misfit:
            closest = max(closest, misfit, key=lambda one: len(one.place))
    raise closest


def _inside(key: object, value: Any, hint: Any) -> Any:
    try:
        return _fitting(value, hint)
    except _Misfit as misfit:
        raise _Misfit(misfit.value, misfit.hint, (key, *misfit.place)) from None


def _described(name: str, misfit: _Misfit) -> InputError:
    place = name + "".join(f"[{key!r}]" for key in misfit.place)
    value = misfit.value
    shown = repr(value) if isinstance(value, str | int | float | NoneType) else ""
    found = shown if 0 < len(shown) <= _MAX_SHOWN else f"a value of the type {type(value).__name__}"
    return InputError(Parameter(place), f": expected {_name_of(misfit.hint)}, found {found}")


def _name_of(hint: Any) -> str:
    """Return an annotation as words for a message."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType, Literal):
        names = list(dict.fromkeys(map(repr if origin is Literal else _name_of, inner)))
        return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    if origin is Sequence:
        return f"a list of {_name_of(inner[0])}"
    if origin is Mapping:
        return "a mapping"
    if hint is NoneType:
        return "None"
    return "a function" if origin is Callable else str(getattr(origin or hint, "__name__", hint))
