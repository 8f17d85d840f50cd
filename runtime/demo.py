"""The demo: classifies a clip of drawn twin cars and compares the visits with the ground truth."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.bundled import demo_clip, demo_model
from twincar_edge.draw import GRAY, GREEN, RED, Cell, contact_sheet
from twincar_edge.errors import GateError
from twincar_edge.files import replacing, write_text
from twincar_edge.images import read_image, write_image
from twincar_edge.manifest import read_manifest
from twincar_edge.metrics import at_least
from twincar_edge.runtime.annotating.picture import Painter
from twincar_edge.runtime.configuration.page_settings import PageSettings
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.inference.answers import certainty
from twincar_edge.runtime.service import Service
from twincar_edge.runtime.sinks import crop_name
from twincar_edge.runtime.sinks.settings import CropsSettings, StoreSettings
from twincar_edge.runtime.sources import open_source
from twincar_edge.runtime.sources.playback import Playback
from twincar_edge.runtime.storage.state import StateFolder
from twincar_edge.runtime.truth import Score, read_truth, score_visits
from twincar_edge.runtime.watch import CameraConfig, LiveFrame, OnFrame, WatchConfig, WatchSummary
from twincar_edge.videos import open_writer

PICTURES_LIMIT = 50_000_000  # bytes
MIN_RIGHT = 0.9
_VERDICT_COLORS = {"right": GREEN, "coarser": GRAY, "unknown": GRAY, "wrong name": RED, "missed": RED, "doubled": RED}


@dataclass(frozen=True)
class DemoReport:
    """The result of the demo: each pass with its visits, the run's summary, and the files that it wrote."""

    score: Score
    summary: WatchSummary
    video: Path
    sheet: Path
    events: Path

    def require(self, min_right: float = MIN_RIGHT) -> None:
        """Raise a GateError if less than the share `min_right` of the passes are right."""
        if not at_least(self.score.right, min_right):
            raise GateError(f"only {self.score.right:.0%} of the visits are right, below the limit {min_right:.0%}")


def run_demo(
    output: Path,
    *,
    clip: Path | None = None,
    model: Path | None = None,
    ep: str = "auto",
    on_frame: OnFrame | None = None,
) -> DemoReport:
    """Watch a clip with known ground truth, and write `annotated.mp4`, `contact_sheet.jpg` and `visits.jsonl`.

    The visits and their pictures are also stored in the folder `state`, where `live_demo` shows them.

    Args:
        output: the folder for the files.
        clip: a video with a .json file of the same name next to it; None for the bundled one.
        model: an exported model; None for the bundled one.
        ep: execution provider.
        on_frame: called after each frame, for a progress bar.

    Raises:
        InputError: the clip or its ground truth cannot be read, or the folder cannot be written.
        ModelError: the model cannot be used.
    """
    clip, model = clip or demo_clip(), model or demo_model()
    passes = read_truth(clip.with_suffix(".json"), read_manifest(model).class_mapping)
    events, video, sheet = output / "visits.jsonl", output / "annotated.mp4", output / "contact_sheet.jpg"
    with ExitStack() as stack:
        source = stack.enter_context(open_source(str(clip)))
        config = _demo_config(output, clip, model, ep, keep=True)
        (camera,) = config.cameras
        temporary_video = stack.enter_context(replacing(video))
        annotated = stack.enter_context(_AnnotatedVideo(temporary_video, source.fps or 25.0, Painter(camera)))

        def show(live: LiveFrame) -> None:
            annotated.write(live)
            if on_frame is not None:
                on_frame(live)

        with Service(config, sources={camera.name: source}, on_frame=show) as service:
            summary = service.run()
    write_text(events, "".join(f"{visit.to_json()}\n" for visit in summary.results))
    score = score_visits(passes, summary.results)
    write_image(sheet, _contact_sheet(score, StateFolder(config.state).pictures))
    return DemoReport(score, summary, video, sheet, events)


def live_demo(
    output: Path,
    page: PageSettings,
    *,
    clip: Path | None = None,
    model: Path | None = None,
    ep: str = "auto",
    stop: threading.Event,
) -> Service:
    """Return a service that plays a clip in a loop, at a camera's speed, on the web page, until `stop` is set.

    The page also shows the visits of `run_demo`. The arguments are those of `run_demo`.
    """
    clip = clip or demo_clip()
    config = _demo_config(output, clip, model or demo_model(), ep, page=page)
    return Service(config, stop=stop, sources={config.cameras[0].name: Playback(clip, stop)})


def _demo_config(output: Path, clip: Path, model: Path, ep: str, **options: Any) -> WatchConfig:
    state = StateFolder(output / "state")
    return WatchConfig(
        cameras=(CameraConfig(name="demo", source=str(clip), locate="motion"),),
        model=model,
        ep=ep,
        state=state.folder,
        sinks=(StoreSettings(), CropsSettings(path=state.pictures, limit=PICTURES_LIMIT)),
        **options,
    )


def _contact_sheet(score: Score, pictures: Path) -> NDArray[np.uint8]:
    def crop(visit: Event) -> NDArray[np.uint8] | None:
        path = pictures / crop_name(visit)
        return read_image(path) if path.exists() else None  # no pictures are saved on a nearly full disk

    cells = []
    for result in score.passes:
        answers = " / ".join(f"{visit.name}  {certainty(visit)}" for visit in result.visits) or "missed"
        color = _VERDICT_COLORS[result.verdict]
        right = result.verdict == "right"
        subtitle = f"right, {certainty(result.visits[0])}" if right else f"{result.verdict}: {answers}"
        picture = crop(result.visits[0]) if result.visits else None
        cells.append(Cell(picture, result.truth.name, subtitle, color))
    cells += [Cell(crop(visit), "no vehicle", f"extra: {visit.name}", RED) for visit in score.extra]
    return contact_sheet(cells, f"twincar-edge demo: {score.summary()}")


class _AnnotatedVideo:
    """Writes annotated frames with OpenCV's own encoder, so the demo needs no extra."""

    def __init__(self, path: Path, fps: float, painter: Painter) -> None:
        self._path = path
        self._fps = fps
        self._painter = painter
        self._writer: cv2.VideoWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.release()

    def write(self, live: LiveFrame) -> None:
        """Annotate a frame and append it."""
        image_bgr = self._painter.paint(live)
        if self._writer is None:
            size_wh = (image_bgr.shape[1], image_bgr.shape[0])
            self._writer = open_writer(self._path, self._fps, size_wh)
        self._writer.write(image_bgr)
