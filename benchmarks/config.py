"""What to measure, as data: the matrix that a user asks for, and the rows that it becomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from twincar_edge.bundled import demo_clip
from twincar_edge.datasets import Dataset
from twincar_edge.errors import InputError, Parameter, nearest
from twincar_edge.manifest import Precision
from twincar_edge.runtime.inference.providers import EP_CHOICES, PROVIDERS
from twincar_edge.runtime.timing import Schedule

PRECISIONS: tuple[str, ...] = get_args(Precision)
CAMERA_FPS = 25.0
DURATION_S = 30.0


@dataclass(frozen=True)
class Peer:
    """What answers the same question by other means, to compare with.

    Attributes:
        title: the model's name in the table.
        engine: what runs it, in place of an execution provider.
        of_file: measured once for each ONNX file, on that file; otherwise once, on a model of its own.
    """

    title: str
    engine: str
    of_file: bool = False


# How each is opened stands in `peers.py`, which may import their libraries. The first is what the ratios are to.
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
        model: the ONNX file; None for a peer that has a model of its own.
        ep: the provider asked for, or the peer's engine.
        threads: threads within one inference; None for all usable cores.
        batch: images in one inference.
        spinning: let idle threads spin on.
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
        """Say whether it certainly runs on the CPU."""
        return self.ep not in PROVIDERS or PROVIDERS[self.ep].device == "cpu"


@dataclass(frozen=True)
class CameraPace:
    """Frames that come as a camera sends them, and do not wait.

    Attributes:
        fps: frames a second.
        duration_s: for how long, each row.
        clip: the video whose frames are decoded, over and over; None takes the bundled one.

    Raises:
        InputError: a pace or duration that is not above 0.
    """

    fps: float = CAMERA_FPS
    duration_s: float = DURATION_S
    clip: Path | None = None

    def __post_init__(self) -> None:
        """Check the figures."""
        if not (0 < self.fps <= 1000 and self.duration_s > 0):
            raise InputError(
                f"a camera sends 1 to 1000 frames a second for more than 0 s, found {self.fps} for {self.duration_s}"
            )
        if self.fps * self.duration_s < 1:
            raise InputError(f"in {self.duration_s} s a camera of {self.fps} fps sends no frame: measure for longer")

    @property
    def video(self) -> Path:
        """Return the clip's path."""
        return self.clip or demo_clip()


@dataclass(frozen=True)
class BenchmarkConfig:
    """What to measure: every model on every provider, at every batch size and thread count.

    Attributes:
        models: .onnx files; none takes the bundled model.
        precisions: for each model, its files in these precisions, which lie side by side as `car.fp32.onnx` and
            `car.int8.onnx`; none takes the files as they are given.
        eps: execution providers by short name; none takes all that this machine offers.
        batches: images in one inference.
        threads: threads within one inference; None for all usable cores.
        spinning: let idle threads spin on; None lets them in a loop without pauses, and not at a camera's pace.
        schedule: how often; it does not apply at a camera's pace.
        dataset: labelled images for accuracy and timing; None times drawn cars, and measures no accuracy.
        peers: measure the `PEERS` as well; the ratios are then to the original's quickstart.
        strict_ep: a provider that cannot be used is an error, not a row.
        pace: send frames at a camera's pace, instead of one after the other.
        timeout_s: a row that gives no answer for so long is given up.

    Raises:
        InputError: a provider or precision that does not exist, or a batch or thread count below 1.
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
        """Check what can be checked before anything is opened."""
        for ep in self.eps:
            if ep not in EP_CHOICES:
                raise InputError(f"no execution provider {ep!r}: {nearest(ep, EP_CHOICES)}")
        for precision in self.precisions:
            if precision not in PRECISIONS:
                raise InputError(f"no precision {precision!r}: {nearest(precision, PRECISIONS)}")
        counts = [*self.batches, *(count for count in self.threads if count is not None)]
        if not self.batches or not self.threads or min(counts) < 1:
            raise InputError(f"batch and threads must be 1 or more, found {self.batches} and {self.threads}")
        if self.pace is not None and self.batches != (1,):
            raise InputError("at a camera's pace there is one frame at a time: use ", Parameter("batches", (1,)))
        if self.timeout_s <= 0:
            raise InputError(f"the time-out must be above 0 s, found {self.timeout_s}")

    def spins(self) -> bool:
        """Say whether idle threads spin."""
        return self.pace is None if self.spinning is None else self.spinning
