"""Messages name parameters, and each interface spells them its own way."""

from __future__ import annotations

import pickle
import threading

import pytest
from pydantic import BaseModel, Field, ValidationError

from twincar_edge.errors import (
    InputError,
    MissingExtraError,
    ModelError,
    Parameter,
    TwincarError,
    first_fault,
    parameter_fault,
    parameter_spelling,
)
from twincar_edge.images import ImageError
from twincar_edge.runtime.sinks.base import RefusedError


def shout(parameter: Parameter) -> str:
    return parameter.name.upper()


@pytest.mark.parametrize(
    ("parameter", "text"),
    [
        (Parameter("state"), "`state`"),
        (Parameter("ep", "cpu"), "`ep='cpu'`"),
        (Parameter("threads", 2), "`threads=2`"),
        (Parameter("overwrite", True), "`overwrite=True`"),
        (Parameter("int8", None), "`int8=None`"),
    ],
)
def test_parameters_are_spelled_as_in_python_by_default(parameter: Parameter, text: str) -> None:
    assert str(parameter) == text
    assert str(InputError("use ", parameter, " here")) == f"use {text} here"


def test_a_message_uses_the_requested_spelling() -> None:
    error = InputError("/{state}/%s is in use: choose another ", Parameter("state"))
    assert error.message(shout) == "/{state}/%s is in use: choose another STATE"
    assert str(error) == "/{state}/%s is in use: choose another `state`"
    assert error.parameters == (Parameter("state"),)


def test_a_spelling_applies_inside_its_block_and_to_all_threads() -> None:
    error, seen = InputError(Parameter("state")), []
    with parameter_spelling(shout):
        thread = threading.Thread(target=lambda: seen.append(str(error)))
        thread.start()
        thread.join()
        assert [str(error), *seen, f"{error}", str(Parameter("ep"))] == ["STATE", "STATE", "STATE", "EP"]
    assert str(error) == "`state`"
    with pytest.raises(RuntimeError), parameter_spelling(shout):
        raise RuntimeError
    assert str(error) == "`state`"


def test_control_characters_in_values_are_escaped() -> None:
    assert str(InputError("use ", Parameter("name", "a\nb\x1b[2J"))).isprintable()
    assert str(InputError("a\nb\x1b")) == "a b\\x1b"


@pytest.mark.parametrize(
    "error",
    [
        TwincarError("plain"),
        ModelError("use ", Parameter("ep", "cpu")),
        MissingExtraError("torch", "train"),
        ImageError("truncated", "car.jpg is cut off"),
        RefusedError("no", retry_after_s=2.0),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_pickling(error: TwincarError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.args, copy.__dict__, str(copy)) == (type(error), error.args, error.__dict__, str(error))


@pytest.mark.parametrize("url", ["rtsp://admin:hunter2@camera/\udcff", b"rtsp://:hunter2@camera/\xff", ["hunter2"]])
def test_a_fault_does_not_quote_the_value_which_may_hold_a_password(url: object) -> None:
    class Camera(BaseModel):
        url: str = Field(min_length=1)

    with pytest.raises(ValidationError) as caught:
        Camera.model_validate({"url": url})
    assert first_fault(caught.value).startswith("url: ")
    assert "hunter2" not in first_fault(caught.value)
    assert "hunter2" not in str(InputError(*parameter_fault(caught.value)))
