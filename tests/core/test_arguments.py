"""Public functions check the types of their arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pytest

from twincar_edge.arguments import checked_arguments, require_at_least
from twincar_edge.errors import InputError


class Drawable(Protocol):
    def draw(self) -> None: ...


class ElsewherePath:
    def __fspath__(self) -> str:
        return "elsewhere"


@checked_arguments
def function(
    path: str | Path = "",
    *,
    count: int | None = None,
    share: float = 0.0,
    flag: bool = False,
    names: Sequence[str] = (),
    groups: Mapping[str, Sequence[str | Path]] | None = None,
    mode: Literal["fast", "exact"] = "fast",
    report: Callable[[int], None] | None = None,
    thing: Drawable | None = None,
    **options: object,
) -> dict[str, Any]:
    return locals()


@pytest.mark.parametrize(
    ("name", "given", "received"),
    [
        ("path", ElsewherePath(), Path("elsewhere")),
        ("path", "here", "here"),
        ("count", np.int64(3), 3),
        ("count", None, None),
        ("share", np.float32(0.5), 0.5),
        ("share", 1, 1),
        ("flag", np.True_, True),
        ("names", ["a", "b"], ("a", "b")),
        ("names", iter(["a"]), ("a",)),
        ("names", np.array(["a"]), ("a",)),
        ("groups", {"a": [ElsewherePath()]}, {"a": (Path("elsewhere"),)}),
        ("report", print, print),
        ("thing", 5, 5),
        ("other", 5, 5),
    ],
)
def test_a_fitting_argument_becomes_the_annotated_type(name: str, given: Any, received: Any) -> None:
    found = function(**{name: given})
    found = found["options"] | found
    assert found[name] == received
    assert type(found[name]) is type(received)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("path", 5, "`path`: expected str or Path, found 5"),
        ("path", b"x", "`path`: expected str or Path, found a value of the type bytes"),
        ("count", "3", "`count`: expected int or None, found '3'"),
        ("count", 1.5, "`count`: expected int or None, found 1.5"),
        ("count", True, "`count`: expected int or None, found True"),
        ("share", "0.5", "`share`: expected float, found '0.5'"),
        ("flag", "no", "`flag`: expected bool, found 'no'"),
        ("names", "a.jpg", "`names`: expected a list of str, found 'a.jpg'"),
        ("names", Path("a.jpg"), "`names`: expected a list of str, found a value of the type PosixPath"),
        ("names", ["a", 5], "`names[1]`: expected str, found 5"),
        ("groups", {"a": "b.jpg"}, "`groups['a']`: expected a list of str or Path, found 'b.jpg'"),
        ("groups", {"a": [None]}, "`groups['a'][0]`: expected str or Path, found None"),
        ("groups", {5: []}, "`groups[5]`: expected str, found 5"),
        ("groups", 5, "`groups`: expected a mapping or None, found 5"),
        ("mode", "quick", "`mode`: expected 'fast' or 'exact', found 'quick'"),
        ("mode", [], "`mode`: expected 'fast' or 'exact', found a value of the type list"),
        ("report", 5, "`report`: expected a function or None, found 5"),
    ],
)
def test_another_type_is_an_error_in_one_line(name: str, given: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        function(**{name: given})
    assert str(caught.value) == message


def test_a_call_that_does_not_match_the_signature_is_a_type_error_as_in_python() -> None:
    with pytest.raises(TypeError, match="too many positional arguments"):
        function("a", "b")


def test_a_method_is_checked_without_its_own_object() -> None:
    class Opened:
        @checked_arguments
        def __init__(self, path: str) -> None:
            self.path = path

    assert Opened("a").path == "a"
    with pytest.raises(InputError, match="`path`: expected str"):
        Opened(5)


def test_a_minimum_names_the_parameter() -> None:
    require_at_least(1, threads=1, batch=None)
    with pytest.raises(InputError, match="`threads` must be 1 or more, found 0"):
        require_at_least(1, batch=2, threads=0)


def test_names_of_a_generator_are_read_once() -> None:
    def names() -> Iterator[str]:
        yield from "ab"

    assert function(names=names())["names"] == ("a", "b")
