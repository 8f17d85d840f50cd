"""Scores an archive: plans it, hands partitions to workers, resumes interrupted runs, and sums up."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from twincar_edge.bundled import default_model
from twincar_edge.cores import usable_cores
from twincar_edge.errors import InputError, require
from twincar_edge.files import sha256
from twincar_edge.manifest import read_manifest
from twincar_edge.records import Record
from twincar_edge.runtime.inference.classifier import BATCH
from twincar_edge.runtime.inference.providers import AUTO
from twincar_edge.runtime.locating.pulled import pulled_detector
from twincar_edge.runtime.scoring.inputs import entries_of
from twincar_edge.runtime.scoring.on_ray import RayOptions, score_on_ray
from twincar_edge.runtime.scoring.output import Counts, partition_number, partition_path, read_counts
from twincar_edge.runtime.scoring.plan import PARTITION_SIZE, Plan, digest_of, write_plan
from twincar_edge.runtime.scoring.pool import score_locally
from twincar_edge.runtime.scoring.run_file import Run, check_free, check_same, other_model, read_run, write_run
from twincar_edge.runtime.scoring.stage import StageConfig
from twincar_edge.runtime.scoring.storage import EXTRA, is_inside, make_output, shown, storage_of

_FOOTERS_AT_ONCE = 16


@dataclass(frozen=True)
class ScoreConfig:
    """What to score and how.

    Attributes:
        source: a path or URL, see `entries_of`.
        output: a folder or URL for the partitions.
        model: an exported file; None for the bundled one.
        resume: go on with the run that the output holds; where it holds none, begin one.
        embedding: add the column of embeddings.
        partition_size: images of a partition.
        batch: images in one inference.
        workers: processes, or the most actors of a cluster; None for one a core, or all that there is room for.
        ep: the execution provider.
        threads: of one inference.
        detector: finds vehicles in videos, an ONNX file; None for the one in the state folder, or motion.
        ray: where to find a Ray cluster; None for processes of this machine.
    """

    source: str
    output: str
    model: Path | None = None
    resume: bool = False
    embedding: bool = False
    partition_size: int = PARTITION_SIZE
    batch: int = BATCH
    workers: int | None = None
    ep: str = AUTO
    threads: int = 1
    detector: Path | None = None
    ray: RayOptions | None = None


class ScoreProgress(NamedTuple):
    """How far a run is.

    Attributes:
        partitions: written so far, by this start and earlier ones.
        of: of how many.
        new_partitions: those of this start.
        rows: in all partitions written.
        new_rows: those of this start.
        elapsed_s: since the first partition was handed out.
    """

    partitions: int
    of: int
    new_partitions: int
    rows: int
    new_rows: int
    elapsed_s: float

    @property
    def rows_per_s(self) -> float:
        """Return the rate of this start."""
        return self.new_rows / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def left_s(self) -> float:
        """Return the time that the other partitions take at the rate of this start."""
        return (self.of - self.partitions) * self.elapsed_s / max(1, self.new_partitions)


class ScoreReport(Record):
    """What a run has written.

    >>> report = tw.score("rigel", "scored", model=tw.demo_model(), workers=1)
    >>> sum(report.levels.values()) == report.rows == 4
    True

    Attributes:
        output: where.
        entries: files, row groups and videos of the input.
        partitions: files of the output.
        resumed: how many of these were there before.
        rows: in all partitions.
        errors: rows of what could not be read.
        levels: rows by level.
        makes: rows by make, the most frequent first.
        elapsed_s: of this start, with its planning.
        rows_per_s: rows that this start added a second, without its planning.
    """

    output: str
    entries: int
    partitions: int
    resumed: int
    rows: int = Field(ge=0)
    errors: int = Field(ge=0)
    levels: dict[str, int]
    makes: dict[str, int]
    elapsed_s: float
    rows_per_s: float


def score(
    config: ScoreConfig,
    *,
    progress: Callable[[ScoreProgress], None] = lambda _: None,
    timer: Callable[[], float] = time.monotonic,
) -> ScoreReport:
    """Score all that the input names, into Parquet.

    Args:
        config: what and how.
        progress: called after each partition.
        timer: seconds that only rise.

    Raises:
        InputError: the input or output cannot be used, the output holds another run, or the storage or cluster fails.
        ModelError: the model cannot be used.
        MissingExtraError: pyarrow, or Ray, is not installed.
    """
    require("pyarrow", EXTRA)
    begun_s = timer()
    for name in ("partition_size", "batch", "threads"):
        if getattr(config, name) < 1:
            raise InputError(f"{name} must be 1 or more, found {getattr(config, name)}")
    model = config.model or default_model()
    manifest = read_manifest(model)
    if config.embedding and manifest.embedding is None:
        raise InputError(f"{model} has no embedding output: export it again")
    if is_inside(config.output, config.source):
        raise InputError(
            f"{shown(config.output)} is inside {shown(config.source)}, and would be scored with it: name another output"
        )
    run, detector = _begin(config, sha256(model))
    done, counts = _written(config.output, run)
    stage = StageConfig(
        output=config.output,
        run=run.id,
        model=model,
        model_sha256=run.model_sha256,
        ep=config.ep,
        threads=config.threads,
        batch=config.batch,
        embedding=run.embedding,
        detector=detector,
    )
    resumed, before = len(done), counts.rows
    numbers = (number for number in range(run.partitions) if number not in done)
    planned_s = timer()
    if resumed < run.partitions:
        with closing(_scored(config, stage, numbers, run.partitions - resumed)) as scored:
            for place, (_, found) in enumerate(scored, resumed + 1):
                counts.merge(found)
                elapsed = timer() - planned_s
                new = counts.rows - before
                progress(ScoreProgress(place, run.partitions, place - resumed, counts.rows, new, elapsed))
    ended_s = timer()
    return ScoreReport(
        output=config.output,
        entries=run.entries,
        partitions=run.partitions,
        resumed=resumed,
        rows=counts.rows,
        errors=counts.errors,
        levels=dict(counts.levels.most_common()),
        makes=dict(counts.makes.most_common()),
        elapsed_s=round(ended_s - begun_s, 3),
        rows_per_s=round((counts.rows - before) / max(ended_s - planned_s, 1e-9), 1),
    )


def _begin(config: ScoreConfig, model_sha256: str) -> tuple[Run, Path | None]:
    """Return the run that the output holds, checked against what is asked for, or begin one; and its detector."""
    now = datetime.now(UTC)
    run = read_run(config.output) if config.resume else None
    if run is not None and run.model_sha256 != model_sha256:  # before the input is listed
        raise other_model(config.output, run, model_sha256)
    if run is not None:
        listed = digest_of(entries_of(config.source))
        plan = Plan(run.partitions, listed.count, listed.videos, listed.hexdigest())
    else:
        check_free(config.output)
        entries = entries_of(config.source)
        first = next(entries)  # an input that cannot be used leaves nothing behind
        make_output(config.output)
        plan = write_plan(config.output, chain([first], entries), config.partition_size)
    detector = (config.detector or pulled_detector()) if plan.videos else None
    begun = Run(
        input=config.source,
        input_sha256=plan.digest,
        entries=plan.entries,
        partitions=plan.partitions,
        model_sha256=model_sha256,
        detector_sha256=None if detector is None else sha256(detector),
        embedding=config.embedding,
        started_at=now,
    )
    if run is None:
        write_run(config.output, begun)
        return begun, detector
    check_same(config.output, run, begun)
    return run, detector


def _written(output: str, run: Run) -> tuple[set[int], Counts]:
    """Return the partitions that are there, each whole and of this run, and what they hold."""
    done: set[int] = set()
    counts = Counts()
    there = (partition_number(child.name) for child in storage_of(output).children(output))
    numbers = (number for number in there if number is not None and number < run.partitions)
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE, thread_name_prefix="footers") as pool:
        while part := list(islice(numbers, 16 * _FOOTERS_AT_ONCE)):
            found = pool.map(lambda number: read_counts(partition_path(output, number), run.id), part)
            for number, held in zip(part, found, strict=True):
                if held is not None:
                    done.add(number)
                    counts.merge(held)
    return done, counts


def _scored(
    config: ScoreConfig, stage: StageConfig, numbers: Iterator[int], count: int
) -> Generator[tuple[int, Counts]]:
    if config.ray is not None:
        return score_on_ray(numbers, count, stage, config.ray, config.workers)
    return score_locally(numbers, stage, min(count, config.workers or usable_cores()))
