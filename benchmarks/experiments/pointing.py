"""Measures explanations on synthetic twin cars, whose distinguishing part is known.

    python -m twincar_edge.benchmarks.experiments pointing [--model MODEL] [--images 320] -o pointing.json

Like `evaluate --explain`, with the pointing game in addition, which needs known parts.
"""

from __future__ import annotations

from pathlib import Path

import click

from twincar_edge.benchmarks.experiments.options import model_option, output_option, publish, threads_option
from twincar_edge.benchmarks.faithfulness.measure import SEED, Picture, measure_faithfulness
from twincar_edge.bundled import demo_model
from twincar_edge.cli.commands import Command
from twincar_edge.runtime.inference.session import open_session
from twincar_edge.synthetic import CLASS_NAMES, twin_car_images, twin_of


def twin_pictures(count: int, seed: int = SEED) -> list[Picture]:
    """Draw twin cars, cropped to their boxes, with the part that distinguishes each from its twin."""
    pictures = []
    for car in twin_car_images(count, seed):
        left, top, right, bottom = car.box_xyxy
        place = slice(top, bottom), slice(left, right)
        twin = CLASS_NAMES[twin_of(car.label)]
        pictures.append(Picture(car.image_bgr[place], CLASS_NAMES[car.label], twin, car.part_mask[place]))
    return pictures


@click.command("pointing", cls=Command)
@model_option
@click.option(
    "--images", type=click.IntRange(1, 100_000), default=320, show_default=True, help="Number of images to draw."
)
@threads_option
@output_option
def command(model: Path | None, images: int, threads: int | None, output: Path | None) -> None:
    """Measure MODEL's explanations on synthetic twin cars, whose distinguishing part is known."""
    session = open_session(model or demo_model(), ep="cpu", threads=threads)
    report = measure_faithfulness(session, twin_pictures(images))
    publish(report, report.to_markdown(), output)
