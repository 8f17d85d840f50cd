"""The worker of one row: opens its model, times it, and computes logits. `worker_process.py` runs it in a process."""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twincar_edge.benchmarks.config import CameraPace, RowSpec
from twincar_edge.benchmarks.gpu import process_memory_mb
from twincar_edge.benchmarks.paced import Clip, keep_pace
from twincar_edge.benchmarks.report import Paced, Start
from twincar_edge.dataset_logits import Predict
from twincar_edge.errors import ModelError, TwincarError
from twincar_edge.manifest import Manifest
from twincar_edge.memory import available_bytes, peak_memory_mb
from twincar_edge.metrics import softmax
from twincar_edge.preprocess import prepare_batch
from twincar_edge.runtime.inference.answers import Hierarchy
from twincar_edge.runtime.inference.binding import bound_predict
from twincar_edge.runtime.inference.nodes import nodes_by_provider
from twincar_edge.runtime.inference.providers import PROVIDERS, load_onnxruntime
from twincar_edge.runtime.inference.session import open_session
from twincar_edge.runtime.timing import Clock, Sample, Stopwatch, Subject

# Runs directly after a stopped process resumes are not counted: its threads may all wake up on one core, and inference
# is many times slower until the scheduler has distributed them.
SETTLE_S = 0.1
PEERS_MODULE = "twincar_edge.benchmarks.peers"  # imported by name, because it needs packages that a box lacks
_NO_MEMORY = re.compile(r"(?i)bad.?alloc|failed to allocate|out of memory|not enough memory|cannot allocate")


@dataclass(frozen=True)
class Opened:
    """An open model with its processing steps.

    Attributes:
        ep: the actual provider or engine.
        threads: threads per inference.
        import_ms: the time to import the runtime, in ms.
        open_ms: the time to open the model, in ms.
        load: converts an image, uint8 [H, W, 3] in BGR, to its usual form in memory; timed only at a camera's pace.
        prepare: converts loaded images to the model's input.
        predict: computes logits from the input.
        finish: converts logits to answers.
    """

    ep: str
    threads: int
    import_ms: float
    open_ms: float
    load: Callable[[NDArray[np.uint8]], Any]
    prepare: Callable[[Sequence[Any]], Any]
    predict: Callable[[Any], Any]
    finish: Callable[[Any], object]


def our_steps(manifest: Manifest) -> dict[str, Callable[[Any], Any]]:
    """Return `load`, `prepare` and `finish` as in the camera loop."""
    hierarchy = Hierarchy(manifest.classes)

    def finish(logits: NDArray[np.float32]) -> None:
        for probabilities in softmax(logits, manifest.temperature):
            hierarchy.answer(probabilities, manifest.reject_below)

    return {
        "load": lambda image_bgr: image_bgr,
        "prepare": lambda images_bgr: prepare_batch(images_bgr, manifest.preprocess),
        "finish": finish,
    }


def open_model(spec: RowSpec, clock: Clock) -> Opened:
    """Open an ONNX file on a provider, as the camera loop does.

    Raises:
        TwincarError: as in `open_session`.
    """
    begun = clock()
    load_onnxruntime()
    imported = clock()
    assert spec.model is not None
    session = open_session(spec.model, ep=spec.ep, threads=spec.threads, spinning=spec.spinning)
    device = PROVIDERS[session.ep].device
    predict: Predict = session.run
    if device != "cpu":
        predict = bound_predict(session.engine, device, len(session.manifest.classes))
    opened = clock()
    return Opened(
        ep=session.ep,
        threads=session.threads,
        import_ms=1e3 * (imported - begun),
        open_ms=1e3 * (opened - imported),
        predict=predict,
        **our_steps(session.manifest),
    )


class Worker:
    """Runs one row of the benchmark."""

    def __init__(
        self, spec: RowSpec, images_bgr: Sequence[NDArray[np.uint8]], clock: Clock = time.perf_counter
    ) -> None:
        """Take the row, and the images to time it on, uint8 [H, W, 3] each."""
        self._spec = spec
        self._images_bgr = images_bgr
        self._clock = clock
        self._ready: Opened | None = None
        self._watch: Stopwatch | None = None

    def open(self) -> tuple[str, int, Start]:
        """Open the model and run it once; return the actual provider, the threads, and the one-time costs.

        Raises:
            TwincarError: the model cannot be opened or run, or its batch does not fit in memory.
        """
        spec, clock = self._spec, self._clock
        opener = open_model
        if spec.peer is not None:
            opener = importlib.import_module(PEERS_MODULE).OPENERS[spec.peer]
        try:
            ready = opener(spec, clock)
            loaded = [ready.load(image) for image in self._images_bgr]

            def pre(number: int) -> Any:
                first = number * spec.batch
                return ready.prepare([loaded[(first + place) % len(loaded)] for place in range(spec.batch)])

            self._check_size(ready.prepare(loaded[:1]))
            batch = pre(0)
            begun = clock()
            ready.predict(batch)
            first_ms = 1e3 * (clock() - begun)
        except MemoryError as error:
            raise ModelError(f"a batch of {spec.batch} does not fit in memory: use a smaller batch") from error
        except TwincarError as error:
            if _NO_MEMORY.search(str(error)):
                raise ModelError(f"a batch of {spec.batch} does not fit in memory: {error}") from error
            raise
        self._ready = ready
        self._watch = Stopwatch(Subject(pre, ready.predict, ready.finish), clock)
        return ready.ep, ready.threads, Start(import_ms=ready.import_ms, open_ms=ready.open_ms, first_ms=first_ms)

    def turn(self, runs: int, keep: bool) -> tuple[Sample, ...]:
        """Run `runs` times; with `keep`, discard the runs of the first `SETTLE_S` seconds and return the samples."""
        assert self._watch is not None
        if keep:
            settled = self._clock() + SETTLE_S
            while self._clock() < settled:
                self._watch.turn(1, False)
        return self._watch.turn(runs, keep)

    def pace(self, pace: CameraPace) -> Paced:
        """Classify frames at a camera's pace."""
        ready = self._opened

        def subject(image_bgr: NDArray[np.uint8]) -> Subject:
            return Subject(lambda _: ready.prepare([ready.load(image_bgr)]), ready.predict, ready.finish)

        return keep_pace(Clip(pace.video), subject, pace, clock=self._clock)

    def logits(self, batch_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits, float32 [N, classes], for a prepared batch, uint8 [N, H, W, 3]."""
        return np.asarray(self._opened.predict(batch_nhwc), np.float32)

    def nodes(self) -> dict[str, int]:
        """Return the number of nodes by provider, counted in a separate session."""
        spec, ready = self._spec, self._opened
        assert spec.model is not None
        batch = ready.prepare([ready.load(image) for image in self._images_bgr[:1]])
        return nodes_by_provider(spec.model, batch, ep=spec.ep, threads=spec.threads)

    def memory(self) -> tuple[float | None, float | None]:
        """Return the peak memory and the GPU memory of this process, in MB, or None if not known."""
        return peak_memory_mb(), process_memory_mb()

    def _check_size(self, one: Any) -> None:
        """Raise for a batch whose input alone does not fit in memory, before spending minutes on preparing it."""
        needed, free = one.nbytes * self._spec.batch, available_bytes()
        if free is not None and needed > free:
            raise ModelError(
                f"a batch of {self._spec.batch} does not fit in memory: its input needs {needed / 1e9:.1f} GB, but "
                f"only {free / 1e9:.1f} GB are free; use a smaller batch"
            )

    @property
    def _opened(self) -> Opened:
        assert self._ready is not None, "call open() first"
        return self._ready
