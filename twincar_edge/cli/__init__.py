"""The command line: one module per command, each turning its options into one call of a plain function.

To keep `twincar-edge --help` fast, a command's module is imported only when that command runs. The one-line summaries
that the help lists are in the table below.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from twincar_edge._version import __version__
from twincar_edge.cli.commands import Group
from twincar_edge.cli.completion import complete_table
from twincar_edge.cli.pipes import checked_output, prepare_streams
from twincar_edge.errors import TwincarError, nearest, one_line
from twincar_edge.opencv_environment import MAX_PIXELS, check_opencv_environment

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# Command name -> one-line summary, in workflow order. The command itself is `twincar_edge.cli.<name>.command`.
COMMANDS = {
    "demo": "Run the bundled demo clip through its model and compare with the ground truth.",
    "train": "Train a classifier on labeled car images.",
    "evaluate": "Measure a checkpoint or ONNX file on labeled images.",
    "export": "Export a checkpoint to FP32 and INT8 ONNX files and check their parity.",
    "parity": "Compare ONNX files with their source checkpoint, image by image.",
    "inspect": "Print the manifest of an exported model.",
    "sign": "Sign a model file, so that boxes can verify its origin.",
    "classify": "Name the car in each image.",
    "score": "Classify a whole archive into Parquet files, on one machine or a cluster.",
    "cluster": "Group pictures of unknown cars, so that you can name each group.",
    "enroll": "Add classes to a model from a handful of pictures each, without training.",
    "watch": "Turn a camera, video or folder into one event per vehicle.",
    "detector": "Download a vehicle detector, or show the installed one.",
    "zones": "Draw a grid over a frame, to define zones by coordinates or by clicking.",
    "events": "List or export the visits stored by watch.",
    "page": "Serve a web page with the visits stored by watch.",
    "token": "Create, list or remove access tokens for the web page.",
    "doctor": "Check that this machine gives correct answers, and how fast.",
    "bench": "Measure latency and accuracy across providers and precisions.",
    "explain": "Explain an answer with a heat map over the image.",
    "synthesize": "Generate labeled synthetic cars: images, or a gate clip with its ground truth.",
}

EXIT_INTERRUPTED = 130
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class LazyGroup(Group):
    """A group that imports a command's module on first use.

    Attributes:
        table: command name -> one-line summary.
        package: the package with one module per command; each module defines the function `command`.
    """

    table: Mapping[str, str] = COMMANDS
    package = __name__

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the command names in workflow order."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command."""
        if cmd_name not in self.table:
            return None
        command = importlib.import_module(f"{self.package}.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command in `args`, or suggest the nearest name."""
        if args and args[0] not in self.table and not args[0].startswith("-"):
            raise click.UsageError(f"no command {args[0]!r}: {nearest(args[0], tuple(self.table))}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; report a `TwincarError` as one line on standard error and exit with its code."""
        try:
            return super().invoke(ctx)
        except TwincarError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(error.exit_code)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete command names from the table, without imports, and the group's own options."""
        return complete_table(self.table, incomplete) + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command list from the table, without imports."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.table.items()))


@click.group(cls=LazyGroup, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="twincar-edge")
def group() -> None:
    """Which car just passed: make, model, year.

    Train on labeled car images, export to ONNX with a parity check, and run the result on a camera box.
    Exit codes: 0 done, 1 a limit was not met, 2 bad input, 130 interrupted.
    """


def main(args: list[str] | None = None, command: click.Group = group, program: str = "twincar-edge") -> None:
    """Run a command line and exit; report every user error as one line on standard error."""
    prepare_streams()
    os.environ.setdefault(*MAX_PIXELS)
    code = 0
    try:
        with checked_output():
            code = _run(command, args, program)
    except TwincarError as error:  # standard output cannot be written, or the environment is wrong
        click.echo(f"error: {error}", err=True)
        code = error.exit_code
    sys.exit(code)


def _run(command: click.Group, args: list[str] | None, program: str) -> int:
    try:
        check_opencv_environment()
        code = command.main(args, prog_name=program, standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        _report(error)
        return error.exit_code
    return code if isinstance(code, int) else 0


def _report(error: click.ClickException) -> None:
    """Print a wrong usage as one line, like other errors; a group without a command as its help."""
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # since click 8.2
        error.show()
        return
    text = one_line(error.format_message()).rstrip(".")
    if text[1:2].islower():
        text = text[0].lower() + text[1:]
    if isinstance(error, click.MissingParameter | click.NoSuchOption) and error.ctx and not text.endswith("?"):
        text += f": see `{error.ctx.command_path} --help`"
    click.echo(f"error: {text}", err=True)
