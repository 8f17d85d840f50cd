"""Measures the overhead of Ray for `score`: one worker through Ray, compared with the plain model on the same images.

    ray start --head --num-cpus 1
    python -m twincar_edge.benchmarks.experiments score_overhead CROPS --ray auto -o results.json

Three subjects run in interleaved rounds, so that drift of the machine affects all of them. All use one thread and the
same batch size:

- `session`: `classify` over the images, which reads, decodes and answers;
- `stage`: a worker of `score` in this process, which also writes partitions;
- `ray`: `score --ray` with one worker. Its rate is that between the first partition and the last: the start of a worker
  does not depend on how much there is to score.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Literal

import click

from twincar_edge.benchmarks.experiments.options import PATH, model_option, output_option, publish
from twincar_edge.bundled import default_model
from twincar_edge.cli.commands import Command
from twincar_edge.errors import GateError, InputError
from twincar_edge.machine import Machine, this_machine
from twincar_edge.records import Record
from twincar_edge.runtime.classify import classify_each
from twincar_edge.runtime.inference.classifier import BATCH, Classifier
from twincar_edge.runtime.scoring.on_ray import RayOptions
from twincar_edge.runtime.scoring.score import ScoreConfig, score
from twincar_edge.runtime.sources.images import expand

SCHEMA_VERSION: Literal[1] = 1
LEAST_SHARE = 0.85  # of the session's rate, through Ray


class ScoreOverhead(Record):
    """The full measurement: images per second of each round."""

    schema_version: Literal[1] = SCHEMA_VERSION
    created: datetime
    machine: Machine
    model: str
    images: int
    batch: int
    partition_size: int
    session: tuple[float, ...]
    stage: tuple[float, ...]
    ray: tuple[float, ...]

    def shares(self, subject: Literal["stage", "ray"]) -> tuple[float, ...]:
        """Return the ratio of a subject's rate to the session's, for each round."""
        return tuple(one / other for one, other in zip(getattr(self, subject), self.session, strict=True))

    def summary(self) -> str:
        """Return the results in a few lines."""
        lines = [f"{self.images} images in batches of {self.batch}; session {median(self.session):.1f} images/s"]
        for subject in ("stage", "ray"):
            shares = self.shares(subject)
            rate = f"{median(getattr(self, subject)):.1f} images/s"
            lines.append(f"{subject:<7} {rate}: {median(shares):.2f} of it ({min(shares):.2f} to {max(shares):.2f})")
        return "\n".join(lines)

    def require(self) -> None:
        """Raise a GateError if Ray costs more than allowed."""
        share = median(self.shares("ray"))
        if share < LEAST_SHARE:
            raise GateError(f"through Ray, {share:.2f} of the session's rate is left; {LEAST_SHARE:.2f} were wanted")


def measure(
    folder: Path,
    model: Path,
    address: str,
    *,
    rounds: int,
    images: int,
    partition_size: int,
    timer: Callable[[], float] = time.perf_counter,
) -> ScoreOverhead:
    """Measure on the first images of a folder.

    Raises:
        InputError: the folder has fewer images than three partitions, or the cluster cannot be used.
    """
    paths = list(islice(expand([folder], recursive=True), images))
    paths = paths[: len(paths) // partition_size * partition_size]
    if len(paths) < 3 * partition_size:
        raise InputError(f"{folder} has too few images: 3 partitions of {partition_size} are needed at least")
    classifier = Classifier(model, ep="cpu", threads=1)
    found: dict[str, list[float]] = {"session": [], "stage": [], "ray": []}
    with tempfile.TemporaryDirectory() as name:
        listed = Path(name) / "list.csv"
        listed.write_text("path\n" + "".join(f"{path.resolve()}\n" for path in paths))
        config = ScoreConfig(str(listed), "", model, partition_size=partition_size, workers=1, ep="cpu", batch=BATCH)
        for number in range(rounds):
            begun_s = timer()
            answered = sum(1 for _ in classify_each(paths, classifier, batch=BATCH))
            found["session"].append(answered / (timer() - begun_s))
            stage = replace(config, output=f"{name}/stage-{number}")
            found["stage"].append(_rate(stage))
            found["ray"].append(_rate(replace(config, output=f"{name}/ray-{number}", ray=RayOptions(address))))
    return ScoreOverhead(
        created=datetime.now(UTC),
        machine=this_machine(),
        model=model.name,
        images=len(paths),
        batch=BATCH,
        partition_size=partition_size,
        **{subject: tuple(round(rate, 2) for rate in rates) for subject, rates in found.items()},
    )


def _rate(config: ScoreConfig) -> float:
    """Return the images a second from the first partition written to the last, by the times of the files."""
    score(config)
    written_s = sorted(file.stat().st_mtime for file in Path(config.output).glob("part-*.parquet"))
    return (len(written_s) - 1) * config.partition_size / (written_s[-1] - written_s[0])


@click.command("score_overhead", cls=Command)
@click.argument("folder", type=PATH)
@model_option
@click.option("--ray", "address", default="auto", show_default=True, help="The cluster: one node with one CPU.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--images", type=click.IntRange(min=1), default=1500, show_default=True)
@click.option("--partition-size", type=click.IntRange(min=1), default=250, show_default=True)
@output_option
def command(
    folder: Path, model: Path | None, address: str, rounds: int, images: int, partition_size: int, output: Path | None
) -> None:
    """Measure what Ray costs a worker of `score`, on the images of FOLDER."""
    report = measure(
        folder, model or default_model(), address, rounds=rounds, images=images, partition_size=partition_size
    )
    publish(report, report.summary(), output)
    report.require()
