"""The command line: one module a command, each turning options into one call of a plain function.

`twincar-edge --help` must answer at once, so a command's module is imported only when that command runs, and the one
line that help shows of it is in the table here.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from twincar_edge._version import __version__
from twincar_edge.cli.completion import complete_table
from twincar_edge.cli.pipes import checked_output, prepare_streams
from twincar_edge.cli.spelling import option_spelling
from twincar_edge.errors import TwincarError, nearest, parameter_spelling

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# In the order of the work: name -> the line that help shows. The function `command` of `twincar_edge.cli.<name>`.
COMMANDS = {
    "demo": "Run a clip of drawn cars through a model of them, beside the truth.",
    "train": "Fit a classifier on labeled car images.",
    "evaluate": "Measure a checkpoint or ONNX file on labeled images.",
    "export": "Write FP32 and INT8 ONNX files and check that they answer alike.",
    "parity": "Compare ONNX files with the checkpoint that they come from, image by image.",
    "inspect": "Print what an exported model says of itself.",
    "sign": "Sign a model file, so that boxes can tell it from others.",
    "classify": "Name the car in each image.",
    "score": "Name the cars of a whole archive, into Parquet, on one machine or a cluster.",
    "cluster": "Group pictures of unknown cars, for a person to name.",
    "enroll": "Teach a model new classes from a handful of pictures each.",
    "watch": "Turn a camera, video or folder into one event per vehicle.",
    "detector": "Get a detector of vehicles, or say which is there.",
    "zones": "Write a frame with a grid, to write zones by or to click them on.",
    "events": "Show or export the visits that watch has stored.",
    "page": "Serve the web page over the visits that watch has stored.",
    "token": "Make, list or remove tokens that open the web page.",
    "doctor": "Check that this machine answers right, and how fast.",
    "bench": "Measure latency and top-5 over providers and precisions.",
    "explain": "Show what an answer rests on, as a heat map over the image.",
    "synthesize": "Draw labeled twin cars: images, or a gate clip with its truth.",
}

EXIT_INTERRUPTED = 130
# Read by OpenCV when it is imported, a second limit behind that of `images.decode_image`.
OPENCV_PIXELS = ("OPENCV_IO_MAX_IMAGE_PIXELS", "100000000")
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is asked for, not before.

    Attributes:
        table: command name -> the line that help shows.
        package: holds a module for each command, whose function `command` it is.
    """

    table: Mapping[str, str] = COMMANDS
    package = __name__

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of the work."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command, imported now."""
        if cmd_name not in self.table:
            return None
        command = importlib.import_module(f"{self.package}.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of `args`, or name the nearest one; from here on messages name that command's options."""
        if args and args[0] not in self.table and not args[0].startswith("-"):
            raise click.UsageError(f"no command {args[0]!r}: {nearest(args[0], tuple(self.table))}", ctx)
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None:
            ctx.with_resource(parameter_spelling(partial(option_spelling, command)))
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error of ours is one line on standard error, and decides the exit code."""
        try:
            with checked_output():
                result = super().invoke(ctx)
        except TwincarError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(error.exit_code)
        return result

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete commands from the table, importing nothing, and the group's own options."""
        return complete_table(self.table, incomplete) + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command list from the table, importing nothing."""
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
    """Run a command line and exit: every failure that a user can cause is one line on standard error."""
    prepare_streams()
    os.environ.setdefault(*OPENCV_PIXELS)
    try:
        code = command.main(args, prog_name=program, standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        code = EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except TwincarError as error:  # of what click itself prints, such as help
        click.echo(f"error: {error}", err=True)
        code = error.exit_code
    sys.exit(code if isinstance(code, int) else 0)
