"""Measures the share of an explanation's heat on the vehicles in a full frame, by a detector's boxes.

    python -m twincar_edge.benchmarks.experiments uncut CLIP --detector FILE [--every 12] -o uncut.json

The model, made for crops, gets a full frame, for which no answer is right. The measurement is whether the heat is on
the vehicles or on the street around them, compared with chance, which is the share of the area.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from twincar_edge.benchmarks.experiments.options import PATH, model_option, output_option, publish, threads_option
from twincar_edge.benchmarks.faithfulness.measure import Picture, measure_faithfulness
from twincar_edge.bundled import default_model
from twincar_edge.cli.commands import Command
from twincar_edge.runtime.inference.session import open_session
from twincar_edge.runtime.locating.detector import Detector, open_detector
from twincar_edge.runtime.sources import open_source

KINDS = ("car", "bus", "truck")
MIN_SCORE = 0.5
MIN_AREA, MAX_AREA = 0.02, 0.5  # of the frame: smaller cars cannot be named, larger ones hide the street


def frames_with_vehicles(clip: str, detector: Detector, every: int) -> list[Picture]:
    """Return every `every`-th frame that has vehicles, with the pixels of their boxes."""
    pictures, kinds = [], detector.class_ids(KINDS)
    with open_source(clip) as source:
        for number, frame in enumerate(source):
            if number % every:
                continue
            found = np.zeros(frame.image_bgr.shape[:2], np.bool_)
            for one in detector.detect(frame.image_bgr, kinds, MIN_SCORE):
                left, top, right, bottom = one.box_xyxy
                found[top:bottom, left:right] = True
            if MIN_AREA <= found.mean() <= MAX_AREA:
                pictures.append(Picture(frame.image_bgr.copy(), part=found))
    return pictures


@click.command("uncut", cls=Command)
@click.argument("clip")
@click.option("--detector", type=PATH, required=True, help="A YOLOX file in ONNX.")
@click.option("--every", type=click.IntRange(1), default=12, show_default=True, help="Use every n-th frame.")
@model_option
@threads_option
@output_option
def command(
    clip: str, detector: Path, every: int, model: Path | None, threads: int | None, output: Path | None
) -> None:
    """Measure the share of the heat of MODEL's explanations on the vehicles in frames of CLIP."""
    session = open_session(model or default_model(), ep="cpu", threads=threads)
    pictures = frames_with_vehicles(clip, open_detector(detector, ep="cpu", threads=threads), every)
    report = measure_faithfulness(session, pictures)
    publish(report, report.to_markdown(), output)
