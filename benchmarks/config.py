"""The configuration of a benchmark, and the specification of its rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from twincar_edge.bundled import demo_clip
from twincar_edge.datasets import Dataset
from twincar_edge.errors import InputError, Parameter, nearest
from twincar_edge.manifest import Precision
from twincar_edge.runtime.inference.providers import EP_CHOICES, PROVIDERS, unknown_provider
from twincar_edge.runtime.timing import Schedule

PRECISIONS: tuple[str, ...] = get_args(Precision)
CAMERA_FPS = 25.0
DURATION_S = 30.0
MAX_S = 7 * 86_400  # of a duration and of a timeout: their sum is what the system can wait for (24 days)


@dataclass(frozen=True)
class Peer:
    """Another runtime or model to compare with.

    Attributes:
        title: the model's name in the table.
        engine: the runtime, shown instead of an execution provider.
        of_file: whether it is measured for each ONNX file; otherwise once, on its own model.
    """

    title: str
    engine: str
    of_file: bool = False


# `peers.py` opens them; it may import their libraries. Ratios are relative to the first.
PEERS: dict[str, Peer] = {
    "quickstart": Peer("ResNet50, TwinCar's quickstart", "PyTorch eager"),
    "quickstart-compiled": Peer("ResNet50, TwinCar's quickstart", "torch.compile"),
    "lite0": Peer("lite0-cars196", "PyTorch eager"),
    "lite0-compiled": Peer("lite0-cars196", "torch.compile"),
    "openvino-native": Peer("", "native OpenVINO", of_file=True),
}


@dataclass(frozen=True)
class RowSpec:
    """One row: a model on one provider, or a peer.

    Attributes:
        model: the ONNX file; None for a peer with its own model.
        ep: the requested provider, or the peer's engine.
        threads: threads per inference; None for all usable cores.
        batch: images per inference.
        spinning: let idle threads spin instead of sleep.
        peer: a key of `PEERS`, or None.
    """

    model: Path | None
    ep: str
    threads: int | None
    batch: int
    spinning: bool
    peer: str | None = None

    @property
    def on_cpu(self) -> bool:
        """Return whether the row certainly runs on the CPU."""
        return self.ep not in PROVIDERS or PROVIDERS[self.ep].device == "cpu"


@dataclass(frozen=True)
class CameraPace:
    """Frames at the pace of a camera, which does not wait for answers.

    Attributes:
        fps: frames per second.
        duration_s: duration per row, in seconds.
        clip: the video whose frames are decoded in a loop; None for the bundled one.

    Raises:
        InputError: the pace or duration is out of range.
    """

    fps: float = CAMERA_FPS
    duration_s: float = DURATION_S
    clip: Path | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if not (0 < self.fps <= 1000 and 0 < self.duration_s <= MAX_S):
            raise InputError(
                f"invalid camera pace of {self.fps} fps for {self.duration_s} s: use more than 0 and up to 1000 fps, "
                f"for more than 0 and up to {MAX_S} s"
            )
        if self.fps * self.duration_s < 1:
            raise InputError(f"a camera of {self.fps} fps sends no frame in {self.duration_s} s: measure for longer")

    @property
    def video(self) -> Path:
        """Return the clip's path."""
        return self.clip or demo_clip()


@dataclass(frozen=True)
class BenchmarkConfig:
    """What to measure: all models on all providers, with all batch sizes and thread counts.

    Attributes:
        models: .onnx files; empty for the bundled model.
        precisions: for each model, measure its files in these precisions, named like `car.fp32.onnx` and
            `car.int8.onnx` in one folder; empty for the given files.
        eps: execution providers by short name; empty for all usable ones.
        batches: images per inference.
        threads: threads per inference; None for all usable cores.
        spinning: let idle threads spin instead of sleep; None spins, except at a camera's pace.
        schedule: warm-up, rounds and runs; not used at a camera's pace.
        dataset: labeled images for accuracy and timing; None times synthetic cars and measures no accuracy.
        peers: also measure the `PEERS`; ratios are then relative to the original's quickstart.
        strict_ep: fail if a provider cannot be used, instead of reporting it in its row.
        pace: send frames at a camera's pace instead of as fast as possible.
        timeout_s: timeout of a call to a row's worker, in seconds.

    Raises:
        InputError: an unknown provider or precision, or a value that is out of range.
    """

    models: tuple[Path, ...] = ()
    precisions: tuple[str, ...] = ()
    eps: tuple[str, ...] = ()
    batches: tuple[int, ...] = (1,)
    threads: tuple[int | None, ...] = (None,)
    spinning: bool | None = None
    schedule: Schedule = field(default_factory=Schedule)
    dataset: Dataset | None = None
    peers: bool = False
    strict_ep: bool = False
    pace: CameraPace | None = None
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        """Check the values."""
        for ep in self.eps:
            if ep not in EP_CHOICES:
                raise unknown_provider(ep)
        for precision in self.precisions:
            if precision not in PRECISIONS:
                raise InputError(f"no precision {precision!r}: {nearest(precision, PRECISIONS)}")
        counts = [*self.batches, *(count for count in self.threads if count is not None)]
        if not self.batches or not self.threads or min(counts) < 1:
            raise InputError(f"batch and threads must be 1 or more, found {self.batches} and {self.threads}")
        if self.pace is not None and self.batches != (1,):
            raise InputError("at a camera's pace, frames come one at a time: use ", Parameter("batches", (1,)))
        if not 0 < self.timeout_s <= MAX_S:
            raise InputError(f"the timeout must be above 0 and at most {MAX_S} s, found {self.timeout_s}")

    def spins(self) -> bool:
        """Return whether idle threads spin."""
        return self.pace is None if self.spinning is None else self.spinning
