"""`twincar-edge explain`: show why the model gives an answer."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from twincar_edge.cli.commands import Command
from twincar_edge.cli.options import check_needs
from twincar_edge.cli.pipes import checked_output
from twincar_edge.cli.written import print_written
from twincar_edge.errors import InputError, one_line
from twincar_edge.files import as_text, check_not_read, is_file, result_paths, write_bytes
from twincar_edge.images import ImageError, read_image, write_image
from twincar_edge.wording import percent

if TYPE_CHECKING:
    from twincar_edge.draw import Cell
    from twincar_edge.runtime.explanation import Explanation
    from twincar_edge.runtime.sinks.store import StoredVisit

_PATH = click.Path(path_type=Path)
_OVERLAY = ".overlay.png"
SHEET = "sheet.jpg"
MAX_CELLS = 400  # of the contact sheet: a JPEG holds 976 of this size, and each takes 0.2 MB until the end


@click.command("explain", cls=Command)
@click.argument("images", nargs=-1, metavar="[IMAGE...]", type=_PATH)
@click.option("--event", metavar="ID", help="Explain the answer to this stored visit: its id, or a prefix of it.")
@click.option("--store", type=_PATH, help="Find the visit in this database.  [default: the one in the state folder]")
@click.option(
    "--model",
    type=_PATH,
    help="Explain the answers of this exported .onnx file.  [default: the bundled model]",
)
@click.option(
    "--checkpoint",
    metavar="REF",
    help="Draw the map of this checkpoint, with PyTorch: a path, or hf://OWNER/REPO/PATH/FILE[@REVISION]. The answer "
    "shown is that of --model if given, otherwise the checkpoint's best class.",
)
@click.option("--target", help="Explain this class, by name or output index.  [default: the best class]")
@click.option(
    "--against",
    metavar="CLASS|auto",
    help="Compare with this class: show the evidence for each of the two. auto: the best other class.",
)
@click.option(
    "--method",
    help="Draw the map by grad-cam++, grad-cam or occlusion; for a checkpoint also by hires-cam, xgrad-cam, layer-cam "
    "or eigen-cam.  [default: grad-cam++; occlusion with --against]",
)
@click.option(
    "-o",
    "--output",
    type=_PATH,
    help="Write the picture to this file; for several images, one each and a contact sheet of the first "
    f"{MAX_CELLS} into this folder.  [default: why.png, or why/]",
)
@click.option("--parts", is_flag=True, help="Also write the overlay alone (.overlay.png) and the raw map (.npy).")
@click.option("--json", "as_json", is_flag=True, help="Print the answers as JSON lines.")
@click.option(
    "--class-mapping",
    type=_PATH,
    help="Take the class names of a bare state dict from this file.  [default: class_mapping.json next to it]",
)
def command(
    images: tuple[Path, ...],
    event: str | None,
    store: Path | None,
    model: Path | None,
    checkpoint: str | None,
    target: str | None,
    against: str | None,
    method: str | None,
    output: Path | None,
    parts: bool,
    as_json: bool,
    class_mapping: Path | None,
) -> None:
    """Show which regions of each IMAGE support the answer, as a Grad-CAM++ heat map.

    IMAGE is an image file, a folder of images, or a quoted pattern. With --event, explain the visit's saved picture
    instead; the model must be the one that gave the answer. The output picture shows the image, the image under its
    heat map, the answer as `classify` gives it, and the best classes. Of several images, unreadable ones and those
    without evidence are reported and skipped; the exit code is 2 only if no image can be explained.
    """
    check_needs({"store": ("event",), "class_mapping": ("checkpoint",)})
    from twincar_edge.runtime.explain import check_model, open_explainer
    from twincar_edge.runtime.explanation import UnexplainedError
    from twincar_edge.runtime.sinks.store import read_visit
    from twincar_edge.runtime.sources.images import expand
    from twincar_edge.runtime.storage.state import StateFolder

    if (event is None) == (not images):
        raise click.UsageError("give images, or one --event")
    visit = None if event is None else read_visit(store or StateFolder().store, event)
    paths = expand(list(images)) if visit is None else [_picture_of(visit)]
    explainer = open_explainer(checkpoint, model=model, class_mapping=class_mapping, method=method)
    if visit is not None and checkpoint is None:
        check_model(visit.event, explainer)
    several = len(paths) > 1 or any(image.is_dir() for image in images)
    places = result_paths(paths, output or Path("why"), ".png") if several else [output or Path("why.png")]
    overlays = [place.with_suffix(_OVERLAY) for place in places] if parts else []
    check_not_read([*places, *overlays, *([places[0].parent / SHEET] if several else [])], paths)
    cells: list[Cell] = []
    answers = 0
    for path, place in zip(paths, places, strict=True):
        try:
            explanation = explainer.explain(read_image(path), target=_class(target), against=_class(against))
        except (ImageError, UnexplainedError) as error:
            if not several:
                raise
            image = "" if isinstance(error, ImageError) else f"{one_line(str(path))}: "
            click.echo(f"skipped: {image}{error}", err=True)
            continue
        answers += 1
        _write(explanation, place, parts)
        if several and len(cells) < MAX_CELLS:
            cells.append(_cell(explanation, path))
        with checked_output():
            if as_json:
                record = {"image": as_text(str(path)), "picture": as_text(str(place)), **explanation.to_dict()}
                click.echo(json.dumps(record, ensure_ascii=False))
            else:
                _print(explanation, place)
    if not answers:
        raise InputError("no image can be explained")
    if several:
        _write_sheet(cells, answers, places[0].parent / SHEET)


def _picture_of(visit: StoredVisit) -> Path:
    if visit.crop is None:
        raise InputError(f"visit {visit.event.id} has no picture: `watch --save-crops FOLDER` saves them")
    if not is_file(visit.crop):
        raise InputError(f"visit {visit.event.id} has lost its picture: {visit.crop} was removed")
    return visit.crop


def _class(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() else text


def _write(explanation: Explanation, place: Path, parts: bool) -> None:
    write_image(place, explanation.panel_bgr)
    if parts:
        write_image(place.with_suffix(_OVERLAY), explanation.overlay_bgr)
        raw = io.BytesIO()
        np.save(raw, explanation.heatmap)
        write_bytes(place.with_suffix(".npy"), raw.getvalue())


def _print(explanation: Explanation, place: Path) -> None:
    from twincar_edge.runtime.inference.answers import heading

    prediction = explanation.prediction
    click.echo(heading(prediction))
    for guess in prediction.top5:
        click.echo(f"{percent(guess.probability, 2):>7}  {guess.name}")
    against = "" if explanation.against is None else f" against {explanation.against}"
    print_written(place, about=f"evidence for {explanation.target}{against}")


def _cell(explanation: Explanation, path: Path) -> Cell:
    """Return the cell of the contact sheet, without the large pictures of the explanation."""
    from twincar_edge.draw import BLUE, Cell, fit_into
    from twincar_edge.runtime.inference.answers import certainty

    prediction = explanation.prediction
    subtitle = f"{path.name}, {certainty(prediction)}"
    return Cell(fit_into(explanation.overlay_bgr), prediction.name, subtitle, BLUE)


def _write_sheet(cells: list[Cell], answers: int, place: Path) -> None:
    from twincar_edge.draw import contact_sheet

    shown = f"{answers} answers" if len(cells) == answers else f"the first {len(cells)} of {answers} answers"
    write_image(place, contact_sheet(cells, f"Evidence for {shown}"))
    print_written(place, err=True)
