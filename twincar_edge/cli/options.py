"""Options shared by several commands."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from twincar_edge.cli.completion import complete_files
from twincar_edge.cli.groups import option
from twincar_edge.cli.pipes import checked_output
from twincar_edge.cli.spelling import name_of
from twincar_edge.errors import InputError, Parameter

if TYPE_CHECKING:
    from rich.progress import Progress

Command = Callable[..., Any]

ep_option = option(
    "--ep",
    group="Model",
    default="auto",
    show_default=True,
    help="Run the model on this execution provider: auto, cpu, openvino, cuda, …",
)
threads_option = option(
    "--threads",
    group="Model",
    metavar="N",
    type=click.IntRange(min=1),
    help="Run one inference on this many CPU threads.  [default: all]",
)


def is_given(name: str) -> bool:
    """Return whether the user gave a parameter of the running command, rather than leaving it to its default."""
    source = click.get_current_context().get_parameter_source(name)
    return source is not None and source is not ParameterSource.DEFAULT


def check_needs(needs: Mapping[str, tuple[str, ...]]) -> None:
    """Check that no option is given that has no effect, because it needs another one: a user expects the effect.

    Args:
        needs: for the parameter of an option, the parameters of which it needs one.

    Raises:
        InputError: an option is given without any that it needs.
    """
    shown = _names()
    for name, others in needs.items():
        if is_given(name) and not any(is_given(other) for other in others):
            raise InputError(f"{shown[name]} needs {' or '.join(shown[other] for other in others)}")


def refuse_options(names: Iterable[str], where: str) -> None:
    """Check that none of these options is given, which have no effect in this use of the running command.

    Raises:
        InputError: one is given.
    """
    for name in names:
        if is_given(name):
            raise InputError(f"{_names()[name]} has no effect {where}: leave it out")


def is_standard_output(name: str, path: Path | None) -> bool:
    """Return whether an output option, by the name of its parameter, is `-`.

    Raises:
        InputError: it is /dev/stdout.
    """
    if path == Path("/dev/stdout"):
        raise InputError(f"cannot write {path}: use ", Parameter(name, "-"))
    return path == Path("-")


def _names() -> dict[str, str]:
    return {one.name: name_of(one) for one in click.get_current_context().command.params if one.name is not None}


def data_options(*, argument: bool = False, required: bool = True) -> Callable[[Command], Command]:
    """Add the options that select labeled images; the command receives them as `data: OpenOptions`.

    With the argument DATA, `--class-mapping` refers to the data. With the option `--data DATA`, the command also takes
    a model, `--class-mapping` refers to that, and the data's mapping is `--data-class-mapping`.

    Args:
        argument: add an argument DATA instead of the option `--data DATA`.
        required: if False, `data` may be None.
    """
    mapping = "--class-mapping" if argument else "--data-class-mapping"
    help_data = (
        "Use these labeled images: a CSV, a Parquet file, Stanford Cars, or a folder with one subfolder per class."
    )

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_data(
            *args: Any,
            data_path: Path | None,
            data_images: Path | None,
            data_mapping: Path | None,
            data_crop: bool,
            **others: Any,
        ) -> Any:
            check_needs(dict.fromkeys(("data_images", "data_mapping", "data_crop"), ("data_path",)))
            from twincar_edge.datasets import OpenOptions  # imports OpenCV and numpy, which --help does not need

            data = None if data_path is None else OpenOptions(data_path, data_images, data_mapping, data_crop)
            return command(*args, data=data, **others)

        path_type = click.Path(path_type=Path)
        decorators = [
            click.argument("data_path", metavar="DATA", type=path_type, required=required)
            if argument
            else option(
                "--data",
                "data_path",
                group="Data",
                common=True,
                metavar="DATA",
                type=path_type,
                required=required,
                help=help_data,
            ),
            option(
                "--images",
                "data_images",
                group="Data",
                type=path_type,
                help="Find the images of a CSV in this folder.  [default: images/ next to it, or its own folder]",
            ),
            option(
                mapping,
                "data_mapping",
                group="Data",
                type=path_type,
                help="Take the labels' class names from this class_mapping.json.  [default: the names in the data]",
            ),
            option(
                "--crop/--no-crop",
                "data_crop",
                group="Data",
                default=True,
                show_default=True,
                help="Crop images to the annotated box, if the data has one.",
            ),
        ]
        wrapped: Command = with_data
        for decorator in reversed(decorators):
            wrapped = decorator(wrapped)
        return wrapped

    return decorate


def checkpoint_argument(name: str = "checkpoint", *, required: bool = True) -> Callable[[Command], Command]:
    """Add the argument that names a model, also accepted as `--checkpoint REF`; the command receives a str.

    The command passes it to `twincar_edge.training.hub.resolve_checkpoint`, which returns a path. Hub files are thus
    downloaded, and heavy modules imported, only after all options have been validated.

    Args:
        name: the command's parameter; the argument is its upper-case form.
        required: if False, the value may be None, and the command uses the bundled model.
    """
    shown = name.upper()

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_checkpoint(
            *args: Any, checkpoint_positional: tuple[str, ...], checkpoint_option: str | None, **others: Any
        ) -> Any:
            given = (*checkpoint_positional, *(() if checkpoint_option is None else (checkpoint_option,)))
            if len(given) > 1 or (required and not given):
                raise click.UsageError(f"give one {shown}" + (f", not {len(given)}" if given else ""))
            return command(*args, **{name: given[0] if given else None}, **others)

        # nargs=-1 leaves later arguments their values, so that the option can replace this one.
        metavar = shown if required else f"[{shown}]"
        argument = click.argument("checkpoint_positional", metavar=metavar, nargs=-1, shell_complete=complete_files)
        as_option = option(
            "--checkpoint",
            "checkpoint_option",
            group="Model",
            metavar="REF",
            shell_complete=complete_files,
            help=f"Give {shown} as an option: a path, or hf://OWNER/REPO/PATH/FILE[@REVISION]."
            + ("" if required else "  [default: the bundled one]"),
        )
        return argument(as_option(with_checkpoint))

    return decorate


def split_option(default: str = "") -> Callable[[Command], Command]:
    """Add the option `--split`, which selects images for `named_images`; `default` describes the images without it."""
    return option(
        "--split",
        group="Data",
        common=True,
        type=click.Path(path_type=Path),
        help="Use only the held-out images of this training run (a folder), or only the images listed in this CSV."
        + (f"  [default: {default}]" if default else ""),
    )


def model_class_mapping_option(model: str) -> Callable[[Command], Command]:
    """Add the option `--class-mapping`, for an argument `model` that is a bare state dict."""
    return option(
        "--class-mapping",
        group="Model",
        type=click.Path(path_type=Path),
        help=f"Take the class names of {model} from this file, if it is a bare state dict.  "
        "[default: class_mapping.json next to it]",
    )


def unknown_option(command: Command) -> Command:
    """Add the option `--unknown`; the command receives the folders as `unknown: tuple[Path, ...]`."""
    return option(
        "--unknown",
        group="Confidence",
        common=True,
        type=click.Path(path_type=Path),
        multiple=True,
        metavar="DIR",
        help="Also measure on the pictures in this folder, which show things that the model does not know. Repeatable. "
        "An optional cars.csv in it (filename, make, model and optionally kind) names the cars; without it, any name "
        "counts as wrong.",
    )(command)


class IntegersType(click.ParamType[tuple[int, ...]]):
    """Comma-separated whole numbers."""

    name = "integers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Parse the numbers."""
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if not all(part.strip().isascii() and part.strip().isdigit() and len(part) < 10 for part in parts):
            self.fail(f"expected comma-separated whole numbers like 224,112, found {value!r}", param, ctx)
        return tuple(int(part) for part in parts)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show a progress bar on standard error with images/s and time left, if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Task as BarTask
    from rich.text import Text

    class ImagesPerSecond(ProgressColumn):
        def render(self, task: BarTask) -> Text:
            return Text("" if task.speed is None else f"{task.speed:.0f} images/s")

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), ImagesPerSecond(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield bar


def echo_above(bar: Progress, text: str) -> None:
    """Write a line to standard output, above the bar if both are on one terminal."""
    if bar.console.is_terminal and sys.stdout.isatty():
        bar.console.print(text, highlight=False, markup=False, soft_wrap=True)
    else:
        with checked_output():  # a training does not depend on the reader of its lines
            click.echo(text)
