"""`twincar-edge evaluate`: measure the accuracy of a checkpoint or an ONNX file on labeled images."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from twincar_edge.api.evaluate import evaluate_opened, open_images, open_model
from twincar_edge.cli.commands import Command
from twincar_edge.cli.options import (
    IntegersType,
    check_needs,
    checkpoint_argument,
    data_options,
    is_standard_output,
    model_class_mapping_option,
    progress_bar,
    split_option,
    threads_option,
    unknown_option,
)
from twincar_edge.cli.pipes import checked_output
from twincar_edge.cli.written import print_written
from twincar_edge.datasets import OpenOptions
from twincar_edge.errors import InputError, require
from twincar_edge.files import check_not_read, make_folder, write_text

if TYPE_CHECKING:
    from twincar_edge.benchmarks.faithfulness.report import FaithfulnessReport
    from twincar_edge.datasets import Dataset
    from twincar_edge.export.as_camera.report import CameraReport
    from twincar_edge.export.open_set.report import OpenSetReport
    from twincar_edge.training.evaluation import Evaluation
    from twincar_edge.training.model import CarClassifier


_NEEDS = {"sizes": ("unknown", "conditions"), "explain_images": ("explain",), "reference": ("explain",)}


@click.command("evaluate", cls=Command)
@checkpoint_argument("model")
@data_options(required=False)
@split_option()
@model_class_mapping_option("MODEL")
@click.option("--ep", default="auto", show_default=True, help="Run an ONNX file on this execution provider.")
@threads_option
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Run this many images per inference.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write the metrics, a per-class table, the confusion matrix, the most confused classes and, for a "
    "checkpoint, Grad-CAM++ heat maps into this folder.",
)
@click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path),
    help="Also write the metrics to this JSON file; - prints them so, in place of Markdown.",
)
@unknown_option
@click.option(
    "--conditions",
    is_flag=True,
    help="Also measure on degraded copies of the labeled images: half a car, night, rain, a covered lens. --unknown "
    "implies it.",
)
@click.option(
    "--sizes",
    type=IntegersType(),
    metavar="PIXELS,…",
    default="224,112,64",
    show_default=True,
    help="With --unknown or --conditions: scale pictures down to these shorter sides, in pixels.",
)
@click.option(
    "--as-camera",
    is_flag=True,
    help="Also measure top-1 and top-5 on the labeled images degraded as by a camera: small, badly cropped, blurred, "
    "compressed, dark.",
)
@click.option("--explain", is_flag=True, help="Also measure how faithful the explanations of an .onnx file are.")
@click.option(
    "--explain-images",
    type=click.IntRange(1, 100_000),
    metavar="N",
    default=100,
    show_default=True,
    help="With --explain: explain this many images, spread over the data set.",
)
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="With --explain: compare the maps with those of this .onnx file, usually the FP32 one.",
)
def command(
    model: str,
    data: OpenOptions | None,
    split: Path | None,
    class_mapping: Path | None,
    ep: str,
    threads: int | None,
    batch_size: int,
    output: Path | None,
    json_path: Path | None,
    unknown: tuple[Path, ...],
    conditions: bool,
    sizes: tuple[int, ...],
    as_camera: bool,
    explain: bool,
    explain_images: int,
    reference: Path | None,
) -> None:
    """Measure MODEL on labeled images, and with --unknown on pictures of things that it does not know.

    MODEL is a checkpoint (.pt, .pth or .safetensors) or an .onnx file: a path, or hf://OWNER/REPO/PATH/FILE[@REVISION].
    """
    check_needs(_NEEDS)
    require("sklearn", "train")
    from twincar_edge.benchmarks.faithfulness.files import write_faithfulness
    from twincar_edge.benchmarks.faithfulness.measure import DatasetPictures, measure_faithfulness
    from twincar_edge.export.as_camera.files import write_as_camera
    from twincar_edge.export.as_camera.measure import measure_as_camera
    from twincar_edge.export.open_set.files import write_open_set
    from twincar_edge.export.open_set.measure import check_sizes, measure_open_set
    from twincar_edge.export.open_set.pictures import open_unknown_pictures
    from twincar_edge.runtime.inference.session import open_session
    from twincar_edge.training.hub import resolve_checkpoint

    if data is None and split is None and not unknown:
        raise InputError("no images to evaluate on: give --data DATA, or --split RUN")
    for option, wanted in (("--conditions", conditions), ("--as-camera", as_camera)):
        if wanted and data is None and split is None:
            raise InputError(f"{option} needs labeled images: give --data DATA, or --split RUN")
    if output is not None:
        require("matplotlib", "train")
    checkpoint = resolve_checkpoint(model)
    prints_json = is_standard_output("json_path", json_path)
    if prints_json:
        json_path = None
    read = [checkpoint, split, class_mapping, reference, *(data.label_files() if data is not None else ())]
    check_not_read([] if json_path is None else [json_path], read, "json_path")
    opened = open_model(checkpoint, class_mapping, ep, threads)
    if explain and opened.session is None:
        raise InputError(f"--explain needs an .onnx file: export {model} first")
    if explain and data is None and split is None:
        raise InputError("--explain needs labeled images: give --data DATA, or --split RUN")
    compared = None if reference is None else open_session(reference, ep=ep, threads=threads)
    check_sizes(sizes)
    dataset = None if data is None and split is None else open_images(data, split)
    pictures = [open_unknown_pictures(folder, opened.classes) for folder in unknown]
    if output is not None:
        make_folder(output)  # fail before the long run, not after it
    evaluation = open_set = camera = faithfulness = None
    with progress_bar() as bar:
        task = bar.add_task("evaluating", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        if dataset is not None:
            evaluation = evaluate_opened(opened, dataset, batch_size, progress)
        if pictures or conditions:
            bar.update(task, description="known and unknown pictures")
            open_set = measure_open_set(opened.subject(), dataset, pictures, sizes, progress)
        if as_camera and dataset is not None:
            bar.update(task, description="camera conditions")
            camera = measure_as_camera(
                opened.name, opened.predict, dataset, opened.classes, opened.preprocess, batch_size, progress
            )
        if explain and dataset is not None and opened.session is not None:
            bar.update(task, description="explanations")
            chosen = DatasetPictures(dataset, explain_images)
            faithfulness = measure_faithfulness(opened.session, chosen, compared, progress)
    if evaluation is not None and evaluation.warning is not None:
        click.echo(f"warning: {evaluation.warning}", err=True)
    reports = [report for report in (evaluation, open_set, camera, faithfulness) if report is not None]
    to_json = partial(_to_json, evaluation, open_set=open_set, as_camera=camera, explanations=faithfulness)
    written: tuple[Path, ...] = ()
    try:
        if json_path is not None:
            write_text(json_path, to_json())
            written += (json_path,)
        if output is not None:
            if evaluation is not None and dataset is not None:
                written += _write_report(output, evaluation, dataset, opened.model)
            if open_set is not None:
                written += write_open_set(open_set, output)
            if camera is not None:
                written += write_as_camera(camera, output)
            if faithfulness is not None:
                written += write_faithfulness(faithfulness, output)
    finally:  # a report that cannot be written is still printed
        with checked_output():
            click.echo(to_json() if prints_json else "\n".join(report.to_markdown() for report in reports), nl=False)
            print_written(*written, err=prints_json)


def _to_json(evaluation: Evaluation | None, **others: OpenSetReport | CameraReport | FaithfulnessReport | None) -> str:
    """Return all reports as one JSON document; `others` become keys of the evaluation."""
    document = {} if evaluation is None else json.loads(evaluation.to_json())
    document |= {name: json.loads(report.to_json()) for name, report in others.items() if report is not None}
    return json.dumps(document, indent=2) + "\n"


def _write_report(
    folder: Path, evaluation: Evaluation, dataset: Dataset, model: CarClassifier | None
) -> tuple[Path, ...]:
    from twincar_edge.training.artifacts import GRADCAM_GRID
    from twincar_edge.training.report import write_evaluation, write_gradcam_grid

    written = write_evaluation(evaluation, folder)
    grid = None if model is None else write_gradcam_grid(model, dataset, evaluation, folder)
    if grid is not None:
        return (*written, grid)
    earlier = folder / GRADCAM_GRID
    if earlier.is_file():
        earlier.unlink()  # stale: shows another model
    if model is not None:
        click.echo(f"no {GRADCAM_GRID}: {model.architecture} has no convolutional stage", err=True)
    return written
