"""`tw.benchmark`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from twincar_edge.api.data import PathLike, labelled_images
from twincar_edge.errors import InputError

if TYPE_CHECKING:
    from twincar_edge.benchmarks.report import BenchmarkReport


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
    """Measure latency, and with labelled images accuracy, over models, providers, batch sizes and thread counts.

    Each row runs in a process of its own; rows take turns, so that the machine's drift meets all alike.

    >>> report = tw.benchmark(tw.demo_model(), eps=["cpu"], threads=[1], warmup=1, rounds=1, per_round=2)
    >>> row = report.rows[0]
    >>> row.ep, row.status, row.timing.total.p50_ms > 0
    ('cpu', 'ok', True)

    Args:
        models: .onnx files; none for the bundled model.
        eps: execution providers by short name; none for all that this machine offers.
        precisions: for each model, its files in these precisions, side by side as `car.fp32.onnx` and `car.int8.onnx`;
            none for the files as given.
        batches: images in one inference.
        threads: threads within one inference; None for all usable cores.
        spinning: let idle threads spin; None for yes in a loop without pauses, and no at a camera's pace.
        data: labelled images for timing, top-1 and top-5, as `train` takes them; None times drawn cars.
        images: the folder of the images that a CSV names; None for `images/` beside it, or its own folder.
        data_class_mapping: class_mapping.json of the labels; None for the names that the data carries.
        crop: crop to the annotated box, where the data has one.
        peers: measure PyTorch, torch.compile and native OpenVINO in the same run.
        warmup: runs that do not count; None for the default, as for the next two.
        rounds: turns of every row.
        per_round: runs in one turn.
        fps: send frames at a camera's pace instead of one after the other.
        duration_s: for how long, at that pace.
        clip: the video to decode at that pace; None for the demo's.
        strict_ep: a provider that cannot be used is an error, not a row.
        timeout_s: seconds after which a row is given up.
        progress: called with a stage ("opening", "timing", "pace", "accuracy"), what is done of it, and of how much.

    Raises:
        InputError: a file, provider or precision does not exist, or nothing could be measured.
        ModelError: a file is not a model of this project.
        MissingExtraError: ONNX Runtime is not installed.
    """
    from twincar_edge.benchmarks import BenchmarkConfig, CameraPace, Schedule, run
    from twincar_edge.benchmarks.config import CAMERA_FPS, DURATION_S

    pace = None
    if fps is not None or duration_s is not None:
        pace = CameraPace(fps or CAMERA_FPS, duration_s or DURATION_S, None if clip is None else Path(clip))
    elif clip is not None:
        raise InputError("clip is decoded at a camera's pace: pass fps too, such as fps=25")
    times = {"warmup": warmup, "rounds": rounds, "per_round": per_round}
    labelled = labelled_images(data, images, data_class_mapping, crop)
    config = BenchmarkConfig(
        models=(Path(models),) if isinstance(models, str | Path) else tuple(map(Path, models)),
        precisions=tuple(precisions),
        eps=tuple(eps),
        batches=tuple(batches),
        threads=tuple(threads),
        spinning=spinning,
        schedule=Schedule(**{name: value for name, value in times.items() if value is not None}),
        dataset=None if labelled is None else labelled.open(),
        peers=peers,
        strict_ep=strict_ep,
        pace=pace,
        timeout_s=timeout_s,
    )
    return run(config, progress)
