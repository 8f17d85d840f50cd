"""The report on the faithfulness of explanations, as data and Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import numpy as np

from twincar_edge.benchmarks.faithfulness.scores import STEPS, Curves, Pointing, area
from twincar_edge.records import Record, Share

SCHEMA_VERSION: Literal[1] = 1
TOP_STEP = STEPS // 5  # the step at which the hottest 20% are blurred


class Gain(Record):
    """The mean improvement of a map over a random one, and the half-width of its 95% confidence interval.

    `margin` is None for one image, which has no interval.
    """

    mean: float
    margin: float | None

    def __str__(self) -> str:
        """Return text such as "+0.120 ± 0.031"."""
        return f"{self.mean:+.3f}" + ("" if self.margin is None else f" ± {self.margin:.3f}")

    @property
    def shown(self) -> bool:
        """Return whether the map is significantly better than a random one."""
        return self.margin is not None and self.mean > self.margin


class MapFigures(Record):
    """The scores of one method, averaged over images.

    `deletion` is the area under the curve of the class's probability as the hottest pixels are blurred: lower is
    better. `insertion` is the area as they are restored in the blurred image: higher is better. `top_drop` is the drop
    of the probability when the hottest 20% of the pixels are blurred. The gains are paired differences to the random
    map. The last three are the scores of the pointing game; None if no part is known.
    """

    method: str
    deletion: Share
    insertion: Share
    top_drop: float
    deletion_gain: Gain
    insertion_gain: Gain
    deletion_curve: tuple[Share, ...]
    insertion_curve: tuple[Share, ...]
    on_the_part: Share | None
    near_the_part: Share | None
    heat_on_the_part: Share | None

    @classmethod
    def of(
        cls,
        method: str,
        scores: Sequence[tuple[Curves, Pointing | None]],
        random: Sequence[tuple[Curves, Pointing | None]],
    ) -> Self:
        """Average the scores of a method over all images, and compare them with those of the random map."""
        hits = np.array([hit for _, hit in scores if hit is not None], np.float64)
        on, near, heat = hits.mean(axis=0).tolist() if len(hits) else (None, None, None)
        deletions, insertions = (
            [[area(getattr(one, name)) for one, _ in side] for side in (scores, random)]
            for name in ("deletion", "insertion")
        )
        deletion_curve = np.mean([one.deletion for one, _ in scores], axis=0).clip(0, 1)
        insertion_curve = np.mean([one.insertion for one, _ in scores], axis=0).clip(0, 1)
        return cls(
            method=method,
            deletion=float(np.mean(deletions[0])),
            insertion=float(np.mean(insertions[0])),
            top_drop=float(deletion_curve[0] - deletion_curve[TOP_STEP]),
            deletion_gain=_gain(np.subtract(deletions[1], deletions[0])),
            insertion_gain=_gain(np.subtract(insertions[0], insertions[1])),
            deletion_curve=tuple(deletion_curve.tolist()),
            insertion_curve=tuple(insertion_curve.tolist()),
            on_the_part=on,
            near_the_part=near,
            heat_on_the_part=heat,
        )


class FaithfulnessReport(Record):
    """The full report.

    `named_right` is the number of right answers among the `labeled` images. `part` is the mean share of an image that
    its part covers, over the `with_part` images of the pointing game. `reference_correlation` is the mean correlation
    of the Grad-CAM++ maps with those of another file.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    model: str
    model_sha256: str
    images: int
    labeled: int
    named_right: int
    with_part: int
    part: Share | None
    rows: tuple[MapFigures, ...]
    reference: str | None
    reference_correlation: float | None
    reference_correlation_lowest: float | None

    def to_json(self) -> str:
        """Return the report as JSON."""
        return self.model_dump_json(indent=2) + "\n"

    def to_markdown(self) -> str:
        """Return the report as Markdown."""
        lines = [
            f"# Explanations: {self.model}",
            "",
            f"{self.images} images, {self.named_right} of {self.labeled} answers right; maps of the best class.",
            "",
            "| map | deletion (lower is better) | gain over random | insertion (higher is better) | gain over random "
            "| drop without the hottest 20% |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {row.method} | {row.deletion:.3f} | {row.deletion_gain} | {row.insertion:.3f} | {row.insertion_gain} "
            f"| {row.top_drop:+.3f} |"
            for row in self.rows
        ]
        no_better = [row.method for row in self.rows[:-1] if not (row.deletion_gain.shown or row.insertion_gain.shown)]
        if no_better:
            lines += ["", f"Not significantly better than a random map: {', '.join(no_better)}."]
        if self.part is not None:
            lines += [
                "",
                f"The part that should determine the answer covers {self.part:.1%} of an image, on average over "
                f"{self.with_part} images.",
                "",
                "| map | hottest pixel on the part | near it | heat on the part | times chance |",
                "|---|---|---|---|---|",
            ]
            lines += [
                f"| {row.method} | {row.on_the_part:.1%} | {row.near_the_part:.1%} | {row.heat_on_the_part:.1%} "
                f"| {row.on_the_part / self.part:.1f} |"
                for row in self.rows
                if row.on_the_part is not None
            ]
        if self.reference_correlation is not None:
            lines += [
                "",
                f"Correlation of the Grad-CAM++ maps with those of {self.reference}: {self.reference_correlation:.4f} "
                f"(lowest {self.reference_correlation_lowest:.4f}).",
            ]
        return "\n".join(lines) + "\n"


def _gain(differences: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Gain:
    count = len(differences)
    margin = 1.96 * float(differences.std(ddof=1)) / count**0.5 if count > 1 else None
    return Gain(mean=float(differences.mean()), margin=margin)
