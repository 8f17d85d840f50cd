"""`tw.score`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twincar_edge.api.data import PathLike, optional_path
from twincar_edge.arguments import checked_arguments, refuse_unused
from twincar_edge.runtime.scoring.score import ScoreProgress

if TYPE_CHECKING:
    from twincar_edge.runtime.scoring.score import ScoreReport


@checked_arguments
def score(
    source: PathLike,
    output: PathLike,
    *,
    model: PathLike | None = None,
    resume: bool = False,
    embedding: bool = False,
    ray: str | None = None,
    workers: int | None = None,
    partition_size: int | None = None,
    batch: int = 16,
    ep: str = "auto",
    threads: int = 1,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
    detector: PathLike | None = None,
    progress: Callable[[ScoreProgress], None] | None = None,
) -> ScoreReport:
    """Classify the cars of a whole archive, and write the answers to Parquet files.

    With more than one worker, call it under `if __name__ == "__main__":`, as any process pool requires.

    >>> report = tw.score("rigel", "names", model=tw.demo_model(), workers=1)
    >>> report.rows, report.errors, report.partitions
    (4, 0, 1)

    Args:
        source: the path or URL of a folder, a glob pattern, a CSV or Parquet file of paths or images, tar files, or
            videos.
        output: a folder or URL for the partitions.
        model: an exported .onnx file; None for the bundled model of 196 cars.
        resume: continue the run in `output`; start one if `output` is empty.
        embedding: add a column with the embedding of each image.
        ray: "auto" or the address of a Ray cluster; None for processes of this machine.
        workers: number of processes, or the most workers on a cluster; None for one per core, or all that fit.
        partition_size: images per partition; None for 2000.
        batch: images per inference.
        ep: the execution provider.
        threads: CPU threads per inference.
        num_cpus: cluster CPUs per worker.
        num_gpus: cluster GPUs per worker.
        detector: the file of a vehicle detector for videos; None for the one in the state folder, or motion detection.
        progress: called with a `ScoreProgress` as partitions are written.

    Raises:
        InputError: the input or output cannot be used, the output holds another run, or the storage or cluster fails.
        ModelError: the model cannot be used.
        MissingExtraError: pyarrow, Ray or ONNX Runtime is not installed.
    """
    if ray is None:
        refuse_unused("without `ray`", num_cpus=num_cpus != 1, num_gpus=num_gpus != 0)
    from twincar_edge.runtime.scoring.on_ray import RayOptions
    from twincar_edge.runtime.scoring.plan import PARTITION_SIZE
    from twincar_edge.runtime.scoring.score import ScoreConfig
    from twincar_edge.runtime.scoring.score import score as score_config

    config = ScoreConfig(
        source=str(source),
        output=str(output),
        model=optional_path(model),
        resume=resume,
        embedding=embedding,
        partition_size=PARTITION_SIZE if partition_size is None else partition_size,
        batch=batch,
        workers=workers,
        ep=ep,
        threads=threads,
        detector=optional_path(detector),
        ray=None if ray is None else RayOptions(ray, num_cpus, num_gpus),
    )
    return score_config(config, progress=progress or (lambda _: None))
