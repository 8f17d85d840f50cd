"""A model far slower than its cameras: answers are current, skipped crops are counted, and no queue grows."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from tests.support.clips import beginning_of
from tests.support.event_toys import eventually
from tests.support.rtsp_server import RtspServer
from twincar_edge.bundled import demo_clip, demo_model
from twincar_edge.memory import held_memory_mb
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.inference.classifier import Classifier, Judgement
from twincar_edge.runtime.inference.session import open_session
from twincar_edge.runtime.loop.inbox import Crop, Item
from twincar_edge.runtime.sinks import Sink
from twincar_edge.runtime.watch import CameraConfig, Watch, WatchConfig

INFERENCE_S = 0.5  # 2 per second, for streams of 25 frames per second
WATCHED_S = 10.0
SETTLE_S = 2.0  # after the first answers, when all libraries are loaded
TICK_S = 0.1
# The time to read, locate and queue a frame, and to publish events. The delay with which a busy machine wakes the
# writing and the reading thread is measured and added.
MARGIN_S = 0.5
WAIT_S = 60.0
# A queue that is not emptied would grow by 10 to 20 crops per second, from frames of 1.5 MB each.
MAX_WAITING = 8
MAX_GROWTH, MAX_GROWTH_MB = 1.05, 10.0
ROLLUP = Path("/proc/self/smaps_rollup")


class Slow(Classifier):
    """The real model with a delay before each inference.

    Attributes:
        seconds: the duration of each inference.
        crops: the number of classified crops.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__(classifier.session)
        self.seconds: list[float] = []
        self.crops = 0

    def judge(self, images_bgr: Sequence[NDArray[np.uint8]]) -> Judgement:
        began_s = time.perf_counter()
        time.sleep(INFERENCE_S)
        found = super().judge(images_bgr)
        self.seconds.append(time.perf_counter() - began_s)
        self.crops += len(images_bgr)
        return found


class EventTypes(Sink):
    """A sink that records the event types of each visit by id."""

    def __init__(self) -> None:
        self.types: dict[str, list[str]] = {}

    def write(self, event: Event, crop_bgr: NDArray[np.uint8]) -> None:
        self.types.setdefault(event.id, []).append(event.type)


def test_a_model_of_2_fps_with_streams_of_25_fps_gives_current_answers_in_constant_memory(tmp_path: Path) -> None:
    """The design bounds the age of an answer.

    A queued crop is replaced by a newer one of its vehicle, and the model takes the queued crops as soon as it is free.
    So when an inference starts, its crops are at most as old as the duration of the previous inference plus a frame.
    That is the age of the last crop of a vehicle that has left; a vehicle in view has a crop of the newest frame. The
    answer comes one inference later, so its age is at most two inferences, as long as all queued crops fit into one
    batch.
    """
    slow, events = Slow(Classifier(open_session(demo_model(), ep="cpu", threads=1))), EventTypes()
    at_answer_s: list[float] = []
    held_mb: list[float] = []
    waiting: list[int] = []
    late_s = 0.0
    with RtspServer(with_empty_road_first(demo_clip(), tmp_path)) as server, ThreadPoolExecutor(1) as pool:
        cameras = tuple(CameraConfig(name=name, source=server.url) for name in ("gate", "yard"))
        with Watch(WatchConfig(cameras=cameras), [events], classifier=slow) as run:
            at_start_s = ages_when_taken(run)
            ran = pool.submit(run.run)
            try:
                eventually(lambda: all(one.answer_age_s for one in run.status().cameras), "answers", WAIT_S)
                time.sleep(SETTLE_S)
                until_s = time.monotonic() + WATCHED_S
                while time.monotonic() < until_s:
                    now = run.status().cameras
                    at_answer_s += [one.answer_age_s or 0.0 for one in now]
                    waiting.append(sum(one.crops_waiting for one in now))
                    held_mb.append((held_memory_mb(ROLLUP) or (0.0, 0.0))[0])
                    asleep_s = time.monotonic()
                    time.sleep(TICK_S)
                    late_s = max(late_s, time.monotonic() - asleep_s - TICK_S)
            finally:
                run.stop.set()
            summary = ran.result(WAIT_S)

    longest_s, margin_s = max(slow.seconds), MARGIN_S + 2 * late_s
    half = len(held_mb) // 2
    first_mb, second_mb = median(held_mb[:half]), median(held_mb[half:])
    print(  # noqa: T201
        f"{len(slow.seconds)} inferences of at most {longest_s:.2f} s, about {slow.crops} crops: at most "
        f"{max(at_start_s):.2f} s old when it began (median {median(at_start_s):.2f}), {max(at_answer_s):.2f} s when "
        f"answered; a thread woke up to {late_s:.2f} s late; {max(waiting)} waited; "
        f"{first_mb:.1f} then {second_mb:.1f} MB; "
        f"{[(one.frames, one.dropped, one.crops_dropped, one.visits) for one in summary.cameras]}"
    )
    assert max(at_start_s) <= longest_s + margin_s
    assert INFERENCE_S <= max(at_answer_s) <= 2 * longest_s + margin_s
    assert max(waiting) <= MAX_WAITING

    assert run.answering.crops == slow.crops
    for camera in summary.cameras:
        assert camera.visits >= 1
        assert camera.crops_dropped > 0
        assert camera.frames > 3 * len(slow.seconds)  # the camera did not wait for the model

    assert {types[0] for types in events.types.values()} == {"start"}
    assert [types for types in events.types.values() if types.count("start") != 1 or types.count("end") != 1] == []
    assert {types[-1] for types in events.types.values()} == {"end"}
    assert len(events.types) == summary.visits

    assert 0 < second_mb < max(MAX_GROWTH * first_mb, first_mb + MAX_GROWTH_MB)


def with_empty_road_first(clip: Path, folder: Path) -> Path:
    """Return the clip with its first second, in which nobody drives, six times more before it.

    Who comes to a view first takes it for the background; on a busy machine it takes seconds until a run begins.
    """
    head, parts, longer = beginning_of(clip, 1, folder / "head.mp4"), folder / "parts.txt", folder / "longer.mp4"
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error"]
    parts.write_text("".join(f"file '{part.absolute()}'\n" for part in [head] * 6 + [clip]))
    subprocess.run([*ffmpeg, "-f", "concat", "-safe", "0", "-i", parts, "-an", "-c", "copy", longer], check=True)
    return longer


def ages_when_taken(run: Watch) -> list[float]:
    """Return the list in which each crop's age is put, in seconds, when the model begins with it."""
    ages_s: list[float] = []
    take = run.inbox.take

    def timed(crops: int, timeout_s: float) -> list[Item] | None:
        items = take(crops, timeout_s)
        now_s = run.stages.timer()
        ages_s.extend(now_s - item.taken_s for item in items or () if isinstance(item, Crop))
        return items

    run.inbox.take = timed  # type: ignore[method-assign]
    return ages_s
