"""A run that ends too early leaves the images of a watched folder that it did not answer to the next run."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests import REPOSITORY
from tests.support.clips import RED_BGR
from tests.support.event_toys import eventually
from tests.support.tiny_model import tiny_model
from tests.support.visit_toys import classifier
from twincar_edge.errors import ModelError
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.inference.classifier import Classifier, Judgement
from twincar_edge.runtime.sinks import Sink
from twincar_edge.runtime.sinks.base import Crop
from twincar_edge.runtime.watch import CameraConfig, Watch, WatchConfig

IMAGES = 6
# Its model answers the first image, and hangs with the second, while the others wait and once the first is recorded.
_HANGS = """
import sys, time
from itertools import count
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.runtime.loop.test_seen_images import IMAGES, Images, opened
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.inference.session import open_session

def recorded(path):
    return path.stat().st_size > 0

class Hanging(Classifier):
    def judge(self, images_bgr):
        if next(batches) > 0:
            while sum(run.inbox.waiting().values()) < IMAGES - 2 or not any(map(recorded, folder.glob("seen-*"))):
                time.sleep(0.01)
            print("hangs", flush=True)
            time.sleep(600)
        return super().judge(images_bgr)

batches = count()
folder = Path({folder!r})
with opened(folder, Images(), Hanging(open_session(folder / "tiny.onnx", ep="cpu", threads=1))) as run:
    run.run()
"""


class Images(Sink):
    """A sink that records the images of the visits."""

    def __init__(self) -> None:
        self.names: list[str | None] = []

    def write(self, event: Event, crop_bgr: Crop) -> None:
        self.names.append(event.image)


class Failing(Classifier):
    """A model that fails from its second batch on."""

    batches = 0

    def judge(self, images_bgr: Sequence[NDArray[np.uint8]]) -> Judgement:
        self.batches += 1
        if self.batches > 1:
            raise ModelError("the accelerator is gone")
        return super().judge(images_bgr)


def opened(folder: Path, sink: Sink, model: Classifier, stop: threading.Event | None = None) -> Watch:
    config = WatchConfig(cameras=(CameraConfig(source=str(folder / "inbox")),), batch=1)
    return Watch(config, [sink], classifier=model, seen_folder=folder, stop=stop)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model, and six images in the watched folder `inbox`."""
    (tmp_path / "inbox").mkdir()
    for number in range(IMAGES):
        cv2.imwrite(str(tmp_path / "inbox" / f"{number}.png"), np.full((40, 60 + number, 3), RED_BGR, np.uint8))
    tiny_model(tmp_path / "tiny.onnx")
    return tmp_path


def read_by_the_next_run(folder: Path, expected: int) -> list[str | None]:
    sink, stop = Images(), threading.Event()
    with opened(folder, sink, classifier(folder / "tiny.onnx"), stop) as run:
        runs = threading.Thread(target=run.run)
        runs.start()
        eventually(lambda: len(sink.names) >= expected, "it answers", 30)
        stop.set()
        runs.join(30)
    return sink.names


def test_after_a_model_error_the_next_run_reads_the_images_without_an_answer(folder: Path) -> None:
    sink = Images()
    with pytest.raises(ModelError), opened(folder, sink, Failing(classifier(folder / "tiny.onnx").session)) as run:
        run.run()
    assert sink.names == ["0.png"]
    assert read_by_the_next_run(folder, IMAGES - 1) == [f"{number}.png" for number in range(1, IMAGES)]


def test_after_a_kill_the_next_run_reads_the_images_without_an_answer(folder: Path) -> None:
    program = _HANGS.format(root=str(REPOSITORY), folder=str(folder))
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "hangs\n"
        process.send_signal(signal.SIGKILL)
    assert read_by_the_next_run(folder, IMAGES - 1) == [f"{number}.png" for number in range(1, IMAGES)]
