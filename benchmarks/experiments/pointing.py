"""Whether explanations point at what an answer rests on, on drawn twin cars, whose one telling part is known.

    python -m twincar_edge.benchmarks.experiments pointing [--model MODEL] [--images 320] -o pointing.json

The pointing game (Zhang et al., 2016, arXiv:1608.00507): is the hottest place of a map on the part? And how much of the
map's heat lies there? Only pictures that the model names right count: of others nobody knows what they rest on.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.benchmarks.experiments.options import model_option, output_option, publish
from twincar_edge.bundled import demo_model
from twincar_edge.heatmaps import GRAD_CAM, GRAD_CAM_PLUS_PLUS, OCCLUSION
from twincar_edge.machine import Machine, this_machine
from twincar_edge.records import Record, Share
from twincar_edge.runtime.explain import open_explainer
from twincar_edge.runtime.explanation import Explainer
from twincar_edge.synthetic import CLASS_NAMES, TwinCarImage, twin_car_images, twin_of

SCHEMA_VERSION: Literal[1] = 1
TOLERANCE = 0.05  # of the picture's longer side, around the part
SEED = 77
_RANDOM_CELLS = 7  # to a side, as coarse as the last feature map of the default model


class PointingRow(Record):
    """What one kind of map gives: hits on the part, and near it, and the share of its heat there."""

    method: str
    on_the_part: Share
    near_the_part: Share
    heat_on_the_part: Share


class PointingReport(Record):
    """A whole measurement: `part` is the share of a picture that the part covers, which chance would hit."""

    schema_version: Literal[1] = SCHEMA_VERSION
    created: datetime
    machine: Machine
    model: str
    model_sha256: str
    pictures: int
    named_right: int
    part: Share
    rows: tuple[PointingRow, ...]

    def to_markdown(self) -> str:
        """Return what was found as Markdown."""
        lines = [
            f"{self.model}: {self.named_right} of {self.pictures} cars named right; the part covers {self.part:.1%}",
            "",
            "| map | hottest place on the part | near it | heat on the part | times chance |",
            "|---|---|---|---|---|",
        ]
        for row in self.rows:
            hits = f"{row.on_the_part:.1%} | {row.near_the_part:.1%} | {row.heat_on_the_part:.1%}"
            lines.append(f"| {row.method} | {hits} | {row.on_the_part / self.part:.1f} |")
        return "\n".join(lines) + "\n"


def measure_pointing(model: Path, count: int, seed: int = SEED) -> PointingReport:
    """Play the pointing game with drawn twin cars.

    Args:
        model: an exported model of the twin cars.
        count: pictures to draw.
        seed: of the pictures, and of the random map.
    """
    explainers = {name: open_explainer(model=model, method=name) for name in (GRAD_CAM_PLUS_PLUS, GRAD_CAM, OCCLUSION)}
    rng = np.random.default_rng(seed)
    found: dict[str, list[tuple[bool, bool, float]]] = {}
    parts: list[float] = []
    for picture in twin_car_images(count, seed):
        left, top, right, bottom = picture.box_xyxy
        crop, part = picture.image_bgr[top:bottom, left:right], picture.part_mask[top:bottom, left:right]
        maps = _maps(explainers, picture, crop, rng)
        if maps is None or not part.any():
            continue
        parts.append(float(part.mean()))
        for method, heat in maps.items():
            found.setdefault(method, []).append(_score(heat, part))
    means = {method: np.mean(np.array(scores, np.float64), axis=0).tolist() for method, scores in found.items()}
    return PointingReport(
        created=datetime.now(UTC),
        machine=this_machine(),
        model=model.name,
        model_sha256=explainers[OCCLUSION].sha256,
        pictures=count,
        named_right=len(parts),
        part=float(np.mean(parts)),
        rows=tuple(
            PointingRow(method=method, on_the_part=on, near_the_part=near, heat_on_the_part=heat)
            for method, (on, near, heat) in means.items()
        ),
    )


def _maps(
    explainers: dict[str, Explainer], picture: TwinCarImage, crop: NDArray[np.uint8], rng: np.random.Generator
) -> dict[str, NDArray[np.float32]] | None:
    """Return the evidence for the class by method, or None where the model names another."""
    first = explainers[GRAD_CAM_PLUS_PLUS].explain(crop)
    if first.target != CLASS_NAMES[picture.label]:
        return None
    twin = twin_of(picture.label)
    cells = rng.random((_RANDOM_CELLS, _RANDOM_CELLS)).astype(np.float32)
    return {
        "Grad-CAM++": first.heatmap,
        "Grad-CAM": explainers[GRAD_CAM].explain(crop).heatmap,
        "Grad-CAM against the twin": explainers[GRAD_CAM].explain(crop, against=twin).heatmap,
        "occlusion": explainers[OCCLUSION].explain(crop).heatmap,
        "occlusion against the twin": explainers[OCCLUSION].explain(crop, against=twin).heatmap,
        "random": np.asarray(cv2.resize(cells, crop.shape[1::-1]), np.float32),
    }


def _score(heat: NDArray[np.float32], part: NDArray[np.bool_]) -> tuple[bool, bool, float]:
    reach = 2 * round(TOLERANCE * max(part.shape)) + 1
    near = cv2.dilate(part.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))) > 0
    hottest = np.unravel_index(heat.argmax(), heat.shape)
    speaks_for = np.maximum(heat, 0)
    return bool(part[hottest]), bool(near[hottest]), float(speaks_for[part].sum() / max(speaks_for.sum(), 1e-9))


@click.command("pointing")
@model_option
@click.option("--images", type=click.IntRange(1, 100_000), default=320, show_default=True, help="Draw so many.")
@output_option
def command(model: Path | None, images: int, output: Path | None) -> None:
    """Play the pointing game with drawn twin cars, and MODEL's explanations."""
    report = measure_pointing(model or demo_model(), images)
    publish(report, report.to_markdown(), output)
