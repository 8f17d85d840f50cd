"""`tw.benchmark`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from twincar_edge.api.data import PathLike, labeled_images, optional_path
from twincar_edge.arguments import checked_arguments, refuse_unused
from twincar_edge.errors import InputError

if TYPE_CHECKING:
    from twincar_edge.benchmarks.report import BenchmarkReport


@checked_arguments
def benchmark(
    models: PathLike | Sequence[PathLike] = (),
    *,
    eps: Sequence[str] = (),
    precisions: Sequence[str] = (),
    batches: Sequence[int] = (1,),
    threads: Sequence[int | None] = (None,),
    spinning: bool | None = None,
    data: PathLike | None = None,
    images: PathLike | None = None,
    data_class_mapping: PathLike | None = None,
    crop: bool = True,
    peers: bool = False,
    warmup: int | None = None,
    rounds: int | None = None,
    per_round: int | None = None,
    fps: float | None = None,
    duration_s: float | None = None,
    clip: PathLike | None = None,
    strict_ep: bool = False,
    timeout_s: float = 600.0,
    progress: Callable[[str, int, int], None] | None = None,
) -> BenchmarkReport:
    """Measure latency over models, providers, batch sizes and thread counts, and accuracy if there are labeled images.

    Each row runs in its own process. Rows take turns, so that drift of the machine affects all of them equally.

    >>> report = tw.benchmark(tw.demo_model(), eps=["cpu"], threads=[1], warmup=1, rounds=1, per_round=2)
    >>> row = report.rows[0]
    >>> row.ep, row.status, row.timing.total.p50_ms > 0
    ('cpu', 'ok', True)

    Args:
        models: .onnx files; empty for the bundled model.
        eps: execution providers by short name; empty for all that this machine offers.
        precisions: benchmark each model in these precisions, stored side by side as `car.fp32.onnx` and
            `car.int8.onnx`; empty for the files as given.
        batches: batch sizes, in images.
        threads: thread counts of one inference; None for all usable cores.
        spinning: let idle threads spin; None spins in a loop without pauses, and not at a camera's frame rate.
        data: labeled images for timing, top-1 and top-5, in a layout that `train` accepts; None times synthetic cars.
        images: the image folder of a CSV; None for `images/` next to the CSV, or the CSV's own folder.
        data_class_mapping: class_mapping.json of the labels; None for the class names in the data.
        crop: crop to the annotated box, if the data has one.
        peers: measure PyTorch, torch.compile and native OpenVINO in the same run.
        warmup: untimed runs before the measurement; None for the default.
        rounds: number of turns of each row; None for the default.
        per_round: timed runs per turn; None for the default.
        fps: feed frames at this rate, as a camera does, instead of back to back.
        duration_s: seconds to feed frames at that rate.
        clip: the video to decode at that rate; None for the demo clip.
        strict_ep: raise an error for an unusable provider instead of reporting it as a row.
        timeout_s: timeout of a row in seconds.
        progress: called with the stage ("opening", "timing", "pace", "accuracy"), the work done and the total.

    Raises:
        InputError: a file, provider or precision does not exist, or nothing could be measured.
        ModelError: a file is not a model of this project.
        MissingExtraError: ONNX Runtime is not installed.
    """
    from twincar_edge.benchmarks import BenchmarkConfig, CameraPace, Schedule, run
    from twincar_edge.benchmarks.config import CAMERA_FPS, DURATION_S

    pace = None
    if fps is not None or duration_s is not None:
        pace = CameraPace(
            CAMERA_FPS if fps is None else fps,
            DURATION_S if duration_s is None else duration_s,
            optional_path(clip),
        )
    elif clip is not None:
        raise InputError("clip needs a frame rate: pass fps too, for example fps=25")
    times = {"warmup": warmup, "rounds": rounds, "per_round": per_round}
    if pace is not None:
        refuse_unused("at a camera's frame rate", **{name: value is not None for name, value in times.items()})
    labeled = labeled_images(data, images, data_class_mapping, crop)
    config = BenchmarkConfig(
        models=(Path(models),) if isinstance(models, str | Path) else tuple(map(Path, models)),
        precisions=tuple(precisions),
        eps=tuple(eps),
        batches=tuple(batches),
        threads=tuple(threads),
        spinning=spinning,
        schedule=Schedule(**{name: value for name, value in times.items() if value is not None}),
        dataset=None if labeled is None else labeled.open(),
        peers=peers,
        strict_ep=strict_ep,
        pace=pace,
        timeout_s=timeout_s,
    )
    return run(config, progress)
