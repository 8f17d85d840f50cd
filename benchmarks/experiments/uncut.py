"""How much of an explanation's heat lies on the vehicles of an uncut picture, by a detector's boxes.

    python -m twincar_edge.benchmarks.experiments uncut CLIP --detector FILE [--every 12] -o uncut.json

A model of crops is shown a whole frame, and no answer is right there. What counts is where it looks: at the
vehicles, or at the street around them, which is what chance gives by its area.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from twincar_edge.benchmarks.experiments.options import PATH, model_option, output_option, publish, threads_option
from twincar_edge.benchmarks.faithfulness.measure import Picture, measure_faithfulness
from twincar_edge.bundled import default_model
from twincar_edge.runtime.inference.session import open_session
from twincar_edge.runtime.locating.detector import Detector, open_detector
from twincar_edge.runtime.sources import open_source

KINDS = ("car", "bus", "truck")
LEAST_SCORE = 0.5
LEAST_AREA, MOST_AREA = 0.02, 0.5  # of the frame: a smaller car cannot be named, a larger one hides the street


def frames_with_vehicles(clip: str, detector: Detector, every: int) -> list[Picture]:
    """Return every so many frames that have vehicles, each with the pixels of their boxes."""
    pictures, kinds = [], detector.class_ids(KINDS)
    with open_source(clip) as source:
        for number, frame in enumerate(source):
            if number % every:
                continue
            found = np.zeros(frame.image_bgr.shape[:2], np.bool_)
            for one in detector.detect(frame.image_bgr, kinds, LEAST_SCORE):
                left, top, right, bottom = one.box_xyxy
                found[top:bottom, left:right] = True
            if LEAST_AREA <= found.mean() <= MOST_AREA:
                pictures.append(Picture(frame.image_bgr.copy(), part=found))
    return pictures


@click.command("uncut")
@click.argument("clip")
@click.option("--detector", type=PATH, required=True, help="A YOLOX file in ONNX.")
@click.option("--every", type=click.IntRange(1), default=12, show_default=True, help="Take every so many frames.")
@model_option
@threads_option
@output_option
def command(
    clip: str, detector: Path, every: int, model: Path | None, threads: int | None, output: Path | None
) -> None:
    """Measure how much of the heat of MODEL's explanations lies on the vehicles in frames of CLIP."""
    session = open_session(model or default_model(), ep="cpu", threads=threads)
    pictures = frames_with_vehicles(clip, open_detector(detector, ep="cpu", threads=threads), every)
    report = measure_faithfulness(session, pictures)
    publish(report, report.to_markdown(), output)
