"""`twincar-edge parity`: compare the answers of model files with their source, image by image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from twincar_edge.bundled import default_checkpoint, default_model
from twincar_edge.cli.commands import Command
from twincar_edge.cli.completion import complete_files
from twincar_edge.cli.options import (
    data_options,
    model_class_mapping_option,
    progress_bar,
    split_option,
    threads_option,
)
from twincar_edge.cli.parity_limits import limit_options, take_limits
from twincar_edge.cli.parity_table import print_parity
from twincar_edge.cli.pipes import checked_output
from twincar_edge.cli.written import print_written
from twincar_edge.datasets import OpenOptions
from twincar_edge.errors import require
from twincar_edge.export.parity.files import ParityConfig, compare_files, write_parity
from twincar_edge.export.parity.report import ParityError, ParityReport
from twincar_edge.files import make_folder
from twincar_edge.wording import counted


@click.command("parity", cls=Command)
@click.argument("subjects", metavar="[SUBJECT]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--reference",
    metavar="REF",
    shell_complete=complete_files,
    help="Compare SUBJECT with this model: its source checkpoint (.pt, .pth or .safetensors), or another "
    ".onnx file. A path, or hf://OWNER/REPO/PATH/FILE[@REVISION].  [default: the bundled checkpoint, for the bundled "
    "model]",
)
@click.option(
    "--ep",
    "eps",
    multiple=True,
    help="Also run each SUBJECT on this execution provider, and compare with the CPU; cpu: the CPU only. Repeatable.  "
    "[default: all usable except tensorrt]",
)
@data_options(required=False)
@split_option("the held-out images of the run that contains REF, or those of DATA")
@model_class_mapping_option("REF")
@threads_option
@limit_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write parity.json, parity.md and parity.png into this folder: all metrics, and every changed answer.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    subjects: tuple[Path, ...],
    reference: str | None,
    eps: tuple[str, ...],
    data: OpenOptions | None,
    output: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare the answers of SUBJECT with those of its source model, image by image.

    SUBJECT is an .onnx file written by `twincar-edge export`, or the bundled model. If you give several and one is an
    FP32 file, the other precisions are compared with that one. Each file uses its own preprocessing, and runs on the
    CPU and on the other execution providers of this machine. The exit code is 1 if a limit is missed.
    """
    from twincar_edge.training.hub import resolve_checkpoint

    limits = take_limits(options)
    if reference is None:
        if subjects:
            raise click.UsageError("no model to compare with: give --reference REF")
        reference = str(default_checkpoint())
    if output is not None:
        require("matplotlib", "train")
        make_folder(output)  # fail before the long run, not after it
    config = ParityConfig(
        subjects or (default_model(),), resolve_checkpoint(reference), eps or None, limits, data, **options
    )
    with progress_bar() as bar:
        task = bar.add_task("comparing answers", total=None)
        report = compare_files(
            config,
            lambda done, total: bar.update(task, completed=done, total=total),
            lambda line: click.echo(f"note: {line}", err=True),
        )
    written = () if output is None else write_parity(report, output)
    with checked_output():
        if as_json:
            click.echo(report.to_json(), nl=False)
        else:
            _print_report(report, written)
    if not report.passed:
        raise ParityError(
            report, "-o DIR writes the changed answers" if output is None else f"{written[1]} lists the changed answers"
        )


def _print_report(report: ParityReport, written: tuple[Path, ...]) -> None:
    from twincar_edge.export.parity.names import title

    print_parity(report)
    for side in report.comparisons:
        changed = counted(len(side.flips), "answer")
        click.echo(f"{title(side.subject)} against {title(side.against)}: {changed} changed")
    print_written(*written)
