"""`twincar-edge classify`: name the car in each image."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from twincar_edge.bundled import default_model
from twincar_edge.cli.groups import GroupedCommand, option
from twincar_edge.cli.options import ep_option, is_standard_output, refuse_options, threads_option
from twincar_edge.cli.pipes import checked_output
from twincar_edge.cli.written import print_written
from twincar_edge.csv_lines import csv_line
from twincar_edge.errors import InputError, Parameter, one_line
from twincar_edge.files import as_text, check_not_read, replacing
from twincar_edge.terminal import new_table

if TYPE_CHECKING:
    from twincar_edge.runtime.classify import ImageAnswer
    from twincar_edge.runtime.locating.locate import Locator


_BOX = ("box_left", "box_top", "box_right", "box_bottom")
_CSV_COLUMNS = (
    "image", "name", "level", "probability", "familiarity", "make", "model", "body_type", "year", *_BOX, "vehicle_type",
    "detection_score",
)  # fmt: skip


@click.command("classify", cls=GroupedCommand, groups=("Images", "Model"))
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(path_type=Path))
@option(
    "--model",
    group="Model",
    common=True,
    type=click.Path(path_type=Path),
    help="Classify with this exported .onnx file.  [default: the bundled model]",
)
@option(
    "--detect",
    group="Images",
    common=True,
    is_flag=True,
    help="Find and name every vehicle in each image. Needs a detector: `twincar-edge detector pull`.",
)
@option("--recursive", group="Images", common=True, is_flag=True, help="Search subfolders too.")
@option(
    "--top",
    group="Images",
    common=True,
    metavar="N",
    type=click.IntRange(1, 5),
    default=1,
    show_default=True,
    help="Show this many guesses.",
)
@option(
    "--json",
    "as_json",
    group="Images",
    common=True,
    is_flag=True,
    help="Print JSON lines; the default if standard output is not a terminal.",
)
@option(
    "--detector",
    group="Images",
    type=click.Path(path_type=Path),
    help="Find vehicles with this detector, a YOLOX ONNX file; implies --detect.",
)
@option(
    "--annotate",
    group="Images",
    common=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Write each image with its answers drawn on it into this folder, as a JPEG.",
)
@option(
    "--csv",
    "table",
    group="Images",
    common=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Also write the answers to this file, as CSV with a header; - prints them so, in place of JSON lines.",
)
@ep_option
@threads_option
@option(
    "--batch",
    group="Model",
    metavar="N",
    type=click.IntRange(1, 1024),
    default=16,
    show_default=True,
    help="Classify up to this many images in one inference.",
)
def command(
    paths: tuple[Path, ...],
    model: Path | None,
    ep: str,
    threads: int | None,
    batch: int,
    recursive: bool,
    detect: bool,
    detector: Path | None,
    annotate: Path | None,
    table: Path | None,
    top: int,
    as_json: bool,
) -> None:
    """Name the car in each image: PATH is an image file, a folder of images, or a quoted pattern.

    Without --detect, each image must be a crop of one car. Unreadable images are reported and skipped; the exit code is
    2 only if no image can be read.
    """
    from twincar_edge.runtime.classify import classify_each
    from twincar_edge.runtime.inference.classifier import Classifier
    from twincar_edge.runtime.inference.session import open_session
    from twincar_edge.runtime.sources.images import expand

    prints_csv = is_standard_output("table", table)
    if prints_csv:
        refuse_options(("as_json", "top"), "with `--csv -`")
        table = None
    if table is not None:
        check_not_read([table], [*expand(list(paths), recursive=recursive), model, detector], "table")
    session = open_session(model or default_model(), ep=ep, threads=threads, spinning=True)
    locator = _locator(detector, ep, threads) if detect or detector is not None else None
    each = classify_each(
        paths, Classifier(session), batch=batch, recursive=recursive, locator=locator, annotate=annotate
    )
    unwritten: dict[Path, str] = {}
    answers = _report_problems(each, unwritten)
    writes_files = annotate is not None or table is not None  # these do not depend on the reader of the answers
    with ExitStack() as stack:
        if table is not None:
            temporary = stack.enter_context(replacing(table))
            file = stack.enter_context(temporary.open("w", encoding="utf-8", newline=""))
            answers = _written(answers, file)
        if prints_csv or as_json or not sys.stdout.isatty():
            lines = _csv_lines(answers) if prints_csv else _json_lines(answers, top, pictures=annotate is not None)
            for line in lines:
                with checked_output() if writes_files else nullcontext():
                    click.echo(line, nl=False)
        else:
            _print_table(answers, top)
    if table is not None:
        print_written(table, err=True)
    if annotate is not None:
        _report_pictures(annotate, list(unwritten.values()))


def _locator(detector: Path | None, ep: str, threads: int | None) -> Locator:
    from twincar_edge.runtime.locating.detector import open_detector
    from twincar_edge.runtime.locating.locate import LocateOptions, make_locator
    from twincar_edge.runtime.locating.pulled import PULL, pulled_detector

    file = detector or pulled_detector()
    if file is None:
        message = f"no detector installed: download one with {PULL}, or give a YOLOX ONNX file with "
        raise InputError(message, Parameter("detector"))
    opened = open_detector(file, ep=ep, threads=threads)
    return make_locator("detector", LocateOptions(stills=True, detector=opened))


def _report_problems(answers: Iterable[ImageAnswer], unwritten: dict[Path, str]) -> Iterable[ImageAnswer]:
    """Yield the answers, and report unreadable images and those in which the detector found no vehicle.

    Add the images whose pictures could not be written to `unwritten`, with the reason. If no image can be read,
    `classify_each` raises an error that names the last one.
    """
    pending: str | None = None
    for answer in answers:
        if pending is not None:
            click.echo(f"skipped: {pending}", err=True)
        pending = answer.problem
        if answer.picture_problem is not None:
            unwritten[answer.image] = answer.picture_problem
        if answer.prediction is not None:
            yield answer
        elif pending is None:
            click.echo(f"{one_line(str(answer.image))}: no vehicle found", err=True)
    if pending is not None:
        click.echo(f"skipped: {pending}", err=True)


def _json_lines(answers: Iterable[ImageAnswer], top: int, *, pictures: bool) -> Iterator[str]:
    for answer in answers:
        record = _record(answer, top) | ({"picture": _text(answer.picture)} if pictures else {})
        yield json.dumps(record, ensure_ascii=False) + "\n"


def _csv_lines(answers: Iterable[ImageAnswer]) -> Iterator[str]:
    yield _csv_line({column: column for column in _CSV_COLUMNS})
    for answer in answers:
        yield _csv_line(_record(answer, top=0))


def _csv_line(record: dict[str, Any]) -> str:
    cells = record | dict(zip(_BOX, record.get("box_xyxy", ()), strict=False))
    return csv_line([cells.get(column) for column in _CSV_COLUMNS])


def _written(answers: Iterable[ImageAnswer], file: TextIO) -> Iterator[ImageAnswer]:
    """Yield the answers, and write each as a row of CSV."""
    file.writelines(_csv_lines(()))
    for answer in answers:
        file.write(_csv_line(_record(answer, top=0)))
        yield answer


def _report_pictures(folder: Path, problems: Sequence[str]) -> None:
    """Print where the pictures are.

    Raises:
        InputError: some could not be written.
    """
    if problems:
        others = f" ({len(problems) - 1} more pictures could not be written either)" if problems[1:] else ""
        raise InputError(f"{problems[0]}{others}")
    print_written(folder, err=True)


def _text(path: Path | None) -> str | None:
    return None if path is None else as_text(str(path))


def _record(answer: ImageAnswer, top: int) -> dict[str, Any]:
    assert answer.prediction is not None
    record = {"image": as_text(str(answer.image)), **answer.prediction.to_dict(top)}
    if answer.detection is not None:
        record |= {
            "box_xyxy": answer.detection.box_xyxy,
            "vehicle_type": answer.detection.kind,
            "detection_score": round(answer.detection.score, 6),
        }
    return record


def _print_table(answers: Iterable[ImageAnswer], top: int) -> None:
    from rich.console import Console
    from rich.markup import escape

    from twincar_edge.runtime.inference.answers import rejected_guess
    from twincar_edge.wording import percent

    table = new_table()
    table.add_column("Image", overflow="fold")
    table.add_column("Vehicle")
    table.add_column("Probability", justify="right")
    for answer in answers:
        assert answer.prediction is not None
        prediction = answer.prediction
        image = escape(one_line(str(answer.image)))
        if answer.detection is not None:
            left, top_edge, right, bottom = answer.detection.box_xyxy
            image += f"  {answer.detection.kind or 'vehicle'} at {left},{top_edge} {right},{bottom}"
        rejected = rejected_guess(prediction)
        table.add_row(image, escape(prediction.name), "" if rejected else percent(prediction.probability, 1))
        if rejected is not None:
            table.add_row("", f"  rejected guess: {escape(rejected.name)}", percent(rejected.probability, 1))
        for place, guess in enumerate(prediction.top5[:top] if top > 1 else (), 1):
            if place > 1 or (rejected is None and guess.name != prediction.name):
                table.add_row("", f"  {place}. {escape(guess.name)}", percent(guess.probability, 1))
    Console().print(table)
