"""Every failure that a user can cause, as one line with its exit code.

The command line prints the message behind `error:` and exits with `exit_code`; nothing else decides exit codes.

A message names a parameter as a `Parameter`. By default it is written as in Python, `` `ep='cpu'` ``; the command line
writes it as an option, `--ep cpu`, and a configuration file as a key, `` `ep = "cpu"` `` (`parameter_spelling`).
"""

from __future__ import annotations

import importlib
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


@dataclass(frozen=True)
class Parameter:
    """A parameter in a message, by its Python name; `value` is the value to pass, `...` if unspecific."""

    name: str
    value: object = ...

    def __str__(self) -> str:
        """Return the parameter in this process's current spelling, see `parameter_spelling`."""
        return _spelling(self)


@dataclass(frozen=True)
class Call:
    """A call in a message that says what to do: a function of this package, or the command of the same name.

    Both take `argument` and then the folder to write into.
    """

    name: str
    argument: Path

    def written(self, *, in_python: bool) -> str:
        """Return the call as Python code or as a command line."""
        if in_python:
            return f"`tw.{self.name}({str(self.argument)!r}, output)`"
        return f"twincar-edge {self.name} {shlex.quote(str(self.argument))} -o DIR"


def python_spelling(parameter: Parameter) -> str:
    """Return a parameter as Python code."""
    return f"`{parameter.name}`" if parameter.value is ... else f"`{parameter.name}={parameter.value!r}`"


_spelling: Callable[[Parameter], str] = python_spelling


@contextmanager
def parameter_spelling(spelling: Callable[[Parameter], str]) -> Iterator[None]:
    """Set the spelling of parameters inside the block, for all threads, so also for logs and reports."""
    global _spelling
    before, _spelling = _spelling, spelling
    try:
        yield
    finally:
        _spelling = before


class TwincarError(Exception):
    """Base of all errors that this project raises on purpose.

    The message is one line: what happened, why, what to do.

    >>> try:
    ...     tw.Classifier("missing.onnx")
    ... except tw.TwincarError as error:
    ...     print(type(error).__name__, error.exit_code)
    ModelError 2
    """

    exit_code = 2

    def __init__(self, *message: str | Parameter | Call) -> None:
        """Take the parts of the message: text, parameters and calls."""
        super().__init__(*message)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Return the parameters that the message names."""
        return tuple(part for part in self.args if isinstance(part, Parameter))

    def __str__(self) -> str:
        """Return the message, escaped by `one_line`, since it quotes untrusted names and text."""
        return self.message(_spelling)

    def message(self, spelling: Callable[[Parameter], str]) -> str:
        """Return the message with another spelling of its parameters."""

        def written(part: object) -> str:
            if isinstance(part, Call):
                return part.written(in_python=spelling is python_spelling)
            return spelling(part) if isinstance(part, Parameter) else str(part)

        return one_line("".join(map(written, self.args)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Make errors picklable, including those whose constructor does not take a message."""
        return _restore, (type(self), self.args, self.__dict__)


def exit_code(work: Callable[[], object]) -> int:
    """Do the work of a `python -m` module; print a user error as one line on standard error; return the exit code."""
    try:
        work()
    except TwincarError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def _restore(
    kind: type[TwincarError], message: tuple[str | Parameter | Call, ...], attributes: dict[str, Any]
) -> TwincarError:
    error = kind.__new__(kind, *message)
    error.__dict__.update(attributes)
    return error


class InputError(TwincarError):
    """Unusable input: a path, an option, an image, a label, a URL.

    >>> try:
    ...     tw.Classifier()("missing.jpg")
    ... except tw.InputError as error:
    ...     print(error)
    cannot read missing.jpg: No such file or directory
    """


class ModelError(TwincarError):
    """A model file or checkpoint is corrupt, not ours, or does not fit its use.

    >>> try:
    ...     tw.Classifier("crop.jpg")
    ... except tw.ModelError as error:
    ...     print(error)
    crop.jpg is not an ONNX model, or is corrupt: ...
    """


class GateError(TwincarError):
    """The work is done, but the result misses a limit (parity, accuracy, latency).

    >>> from twincar_edge.export import ParityError
    >>> issubclass(ParityError, tw.GateError)
    True
    """

    exit_code = 1


class MissingExtraError(TwincarError):
    """A command needs a package that belongs to an extra which is not installed.

    >>> error = tw.MissingExtraError("torch", "train")
    >>> print(error)
    torch is not installed: pip install 'twincar-edge[train]'
    """

    def __init__(self, module: str, extra: str) -> None:
        """Name the missing module and the extra that installs it."""
        super().__init__(f"{module} is not installed: pip install 'twincar-edge[{extra}]'")
        self.module = module
        self.extra = extra


def one_line(text: str) -> str:
    """Return text as one line for terminals and logs, with unprintable characters escaped.

    So a file name cannot send control codes to a terminal, and prints even if it is not UTF-8.
    """
    line = " ".join(text.splitlines())
    return "".join(c if c.isprintable() or c.isspace() else c.encode("unicode_escape").decode() for c in line)


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or raise an error that names the extra to install.

    Raises:
        MissingExtraError: the module is not installed. A broken module raises its own ImportError.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
            raise MissingExtraError(error.name, extra) from error
        raise


def first_fault(error: ValidationError) -> str:
    """Return the first fault that pydantic found in one line, with its place in the document."""
    place, text = _first(error)
    return f"{'.'.join(map(str, place)) or 'document'}: {text}"


def parameter_fault(error: ValidationError, prefix: str = "") -> tuple[str | Parameter, ...]:
    """Return the first fault that pydantic found in parameters, as parts of a message that names the parameter.

    Args:
        error: of a model whose fields are named like the parameters.
        prefix: what the parameters' names have before those of the fields.
    """
    place, text = _first(error)
    return (Parameter(f"{prefix}{place[0]}"), f": {text}") if place else (text,)


def _first(error: ValidationError) -> tuple[tuple[int | str, ...], str]:
    """Return the place of the first fault that pydantic found, and what is wrong there.

    The value itself is not quoted: it may be a URL with a password.
    """
    first = error.errors()[0]
    if first["type"] == "string_unicode":
        return first["loc"], "not UTF-8 text"
    return first["loc"], first["msg"].removeprefix("Value error, ")


def nearest(wanted: str, known: list[str] | tuple[str, ...]) -> str:
    """Return a clause that lists the known names nearest to `wanted`, or all of them: `did you mean 'cuda'?`.

    A name that differs only by its case is the only one listed.
    """
    import difflib

    lowered = {name.lower(): name for name in reversed(known)}
    same = lowered.get(wanted.lower())
    close = [same] if same else [lowered[n] for n in difflib.get_close_matches(wanted.lower(), lowered, cutoff=0.5)]
    if close:
        return "did you mean " + " or ".join(repr(name) for name in close) + "?"
    return "known: " + ", ".join(known)
