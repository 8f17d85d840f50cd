"""Scores an archive: plans the run or resumes it, distributes partitions to workers, and reports the totals."""

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

from twincar_edge.arguments import require_at_least
from twincar_edge.bundled import default_model
from twincar_edge.cores import usable_cores
from twincar_edge.errors import InputError, require
from twincar_edge.files import sha256
from twincar_edge.manifest import read_manifest
from twincar_edge.records import Record
from twincar_edge.runtime.inference.classifier import BATCH
from twincar_edge.runtime.inference.providers import AUTO
from twincar_edge.runtime.locating.pulled import pulled_detector
from twincar_edge.runtime.scoring.file_systems import EXTRA, shown
from twincar_edge.runtime.scoring.inputs import entries_of, matches
from twincar_edge.runtime.scoring.on_ray import RayOptions, score_on_ray
from twincar_edge.runtime.scoring.output import Counts, partition_number, partition_path, read_counts
from twincar_edge.runtime.scoring.plan import PARTITION_SIZE, Plan, digest_of, renew_queries, write_plan
from twincar_edge.runtime.scoring.pool import score_locally
from twincar_edge.runtime.scoring.run_file import Run, check_free, check_same, other_model, read_run, write_run
from twincar_edge.runtime.scoring.stage import StageConfig
from twincar_edge.runtime.scoring.storage import is_inside, make_output, storage_of

_FOOTERS_AT_ONCE = 16


@dataclass(frozen=True)
class ScoreConfig:
    """What to score and how.

    Attributes:
        source: a path or URL, see `entries_of`.
        output: a folder or URL for the partitions.
        model: an exported file; None for the bundled one.
        resume: continue the run in the output; without one, start a new run.
        embedding: add the column of embeddings.
        partition_size: images per partition.
        batch: images per inference.
        workers: processes, or the maximum of actors; None for one process per core, or as many actors as fit.
        ep: the execution provider.
        threads: threads of one inference.
        detector: an ONNX file that finds vehicles in videos; None for the one in the state folder, otherwise motion.
        ray: the Ray cluster; None for processes on this machine.
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
    """The progress of a run.

    Attributes:
        partitions: partitions written so far, including those of earlier starts.
        of: the total of partitions.
        new_partitions: partitions written since this start.
        rows: rows in all partitions written so far.
        new_rows: rows written since this start.
        elapsed_s: time since the workers of this start began.
    """

    partitions: int
    of: int
    new_partitions: int
    rows: int
    new_rows: int
    elapsed_s: float

    @property
    def rows_per_s(self) -> float:
        """Return the rate since this start."""
        return self.new_rows / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def left_s(self) -> float:
        """Return the estimated time for the remaining partitions, from the rate since this start."""
        return (self.of - self.partitions) * self.elapsed_s / max(1, self.new_partitions)


class ScoreReport(Record):
    """The result of a run.

    >>> report = tw.score("rigel", "scored", model=tw.demo_model(), workers=1)
    >>> sum(report.levels.values()) == report.rows == 4
    True

    Attributes:
        output: the folder or URL of the partitions, without a query.
        entries: images, tars, row groups and videos of the input.
        partitions: files of the output.
        resumed: partitions that earlier starts had written.
        rows: rows in all partitions.
        errors: rows of files that could not be read.
        levels: rows by level.
        makes: rows by make, the most frequent first.
        elapsed_s: duration of this start, including planning.
        rows_per_s: rows per second of this start, without planning.
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
    """Score all entries of the input into Parquet files.

    Args:
        config: what to score and how.
        progress: called after each partition.
        timer: a monotonic clock in seconds.

    Raises:
        InputError: the input or output cannot be used, the output has another run, or the storage or cluster fails.
        ModelError: the model cannot be used.
        MissingExtraError: pyarrow, or Ray, is not installed.
    """
    require("pyarrow", EXTRA)
    started_s = timer()
    require_at_least(
        1, partition_size=config.partition_size, batch=config.batch, threads=config.threads, workers=config.workers
    )
    if config.ray is not None:
        require_at_least(0, num_cpus=config.ray.num_cpus, num_gpus=config.ray.num_gpus)
    model = config.model or default_model()
    manifest = read_manifest(model)
    if config.embedding and manifest.embedding is None:
        raise InputError(f"{model} has no embedding output: export it again")
    if is_inside(config.output, config.source) or matches(partition_path(config.output, 0), config.source):
        raise InputError(
            f"{shown(config.output)} is inside {shown(config.source)} and would be scored too: name another output"
        )
    run, detector = _start_or_resume(config, sha256(model))
    done, counts = _completed(config.output, run)
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
        with closing(_score_partitions(config, stage, numbers, run.partitions - resumed)) as scored:
            for written, (_, new_counts) in enumerate(scored, resumed + 1):
                counts.merge(new_counts)
                elapsed = timer() - planned_s
                new_rows = counts.rows - before
                progress(ScoreProgress(written, run.partitions, written - resumed, counts.rows, new_rows, elapsed))
    ended_s = timer()
    return ScoreReport(
        output=shown(config.output),
        entries=run.entries,
        partitions=run.partitions,
        resumed=resumed,
        rows=counts.rows,
        errors=counts.errors,
        levels=dict(counts.levels.most_common()),
        makes=dict(counts.makes.most_common()),
        elapsed_s=round(ended_s - started_s, 3),
        rows_per_s=round((counts.rows - before) / max(ended_s - planned_s, 1e-9), 1),
    )


def _start_or_resume(config: ScoreConfig, model_sha256: str) -> tuple[Run, Path | None]:
    """Resume the run in the output if its options match, or start one. Return it with the detector of its videos."""
    now = datetime.now(UTC)
    run = read_run(config.output) if config.resume else None
    if run is not None and run.model_sha256 != model_sha256:  # checked first, because listing the input takes long
        raise other_model(config.output, run, model_sha256)
    if run is not None:
        listed = digest_of(entries_of(config.source))
        # Version 0.2 wrote the digest with queries.
        digest = run.input_sha256 if run.input_sha256 == listed.with_queries() else listed.hexdigest()
        plan = Plan(run.partitions, listed.count, listed.videos, digest)
    else:
        check_free(config.output)
        entries = entries_of(config.source)
        first = next(entries)  # raises before an output folder is made for an invalid input
        make_output(config.output)
        plan = write_plan(config.output, chain([first], entries), config.partition_size)
    detector = (config.detector or pulled_detector()) if plan.videos else None
    requested = Run(
        input=shown(config.source),
        input_sha256=plan.digest,
        entries=plan.entries,
        partitions=plan.partitions,
        model_sha256=model_sha256,
        detector_sha256=None if detector is None else sha256(detector),
        embedding=config.embedding,
        started_at=now,
    )
    if run is None:
        write_run(config.output, requested)
        return requested, detector
    check_same(config.output, run, requested)
    renew_queries(config.output, run.partitions, listed, entries_of(config.source))
    return run, detector


def _completed(output: str, run: Run) -> tuple[set[int], Counts]:
    """Return the numbers of the run's complete partitions, and their counts."""
    done: set[int] = set()
    counts = Counts()
    named = (partition_number(child.name) for child in storage_of(output).children(output))
    numbers = (number for number in named if number is not None and number < run.partitions)
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE, thread_name_prefix="footers") as pool:
        while chunk := list(islice(numbers, 16 * _FOOTERS_AT_ONCE)):
            footers = pool.map(lambda number: read_counts(partition_path(output, number), run.id), chunk)
            for number, footer in zip(chunk, footers, strict=True):
                if footer is not None:
                    done.add(number)
                    counts.merge(footer)
    return done, counts


def _score_partitions(
    config: ScoreConfig, stage: StageConfig, numbers: Iterator[int], count: int
) -> Generator[tuple[int, Counts]]:
    if config.ray is not None:
        return score_on_ray(numbers, count, stage, config.ray, config.workers)
    return score_locally(numbers, stage, min(count, config.workers or usable_cores()))
