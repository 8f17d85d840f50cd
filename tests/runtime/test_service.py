"""The service opens everything at the start, closes everything at the stop, and reports its status in between."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.clips import BLUE_BGR, RED_BGR, drive_by, film, write_video
from tests.support.event_toys import eventually
from tests.support.tiny_model import BLUE, RED, tiny_model
from twincar_edge.errors import InputError
from twincar_edge.runtime.configuration.config import CameraConfig, WatchConfig
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.service import Service
from twincar_edge.runtime.sinks.settings import CropsSettings, JsonLinesSettings
from twincar_edge.runtime.storage.state import StateFolder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cars = [drive_by(RED_BGR, 10), drive_by(BLUE_BGR, 60)]
    return write_video(tmp_path_factory.mktemp("clip") / "gate.mp4", film(cars, 110))


@pytest.fixture
def config(clip: Path, tmp_path: Path) -> Callable[..., WatchConfig]:
    model = tiny_model(tmp_path / "model.onnx", golden=True)

    def make(source: object = clip, **options: Any) -> WatchConfig:
        sinks = options.pop("sinks", (JsonLinesSettings(path=tmp_path / "events.jsonl"),))
        return WatchConfig(
            cameras=(CameraConfig(source=str(source)),),
            model=model,
            ep="cpu",
            threads=1,
            state=tmp_path / "state",
            sinks=sinks,
            **options,
        )

    return make


def test_a_service_starts_runs_and_stops(config: Callable[..., WatchConfig], tmp_path: Path) -> None:
    threads = threading.active_count()
    service = Service(config(monitor="127.0.0.1:0", collect=tmp_path / "hard"))
    assert (service.url, threading.active_count()) == (None, threads)
    assert not (tmp_path / "state").exists()

    service.start()
    assert service.url is not None
    with urllib.request.urlopen(f"{service.url}/healthz", timeout=20) as answer:
        assert json.load(answer)["alive"]
    with pytest.raises(InputError, match="in use"), StateFolder(tmp_path / "state"):
        pass
    summary = service.run()
    service.stop()

    assert summary.visits == 2
    events = [Event.model_validate_json(line) for line in (tmp_path / "events.jsonl").read_text("utf-8").splitlines()]
    assert [event.name for event in events if event.type == "end"] == [RED, BLUE]
    status = service.status()
    assert [(sink.name, sink.delivered) for sink in status.sinks] == [("jsonl", len(events)), ("hard examples", 2)]
    assert status.collector is not None
    assert status.model.reloads == {"taken": 0, "unchanged": 0, "refused": 0}
    assert not service.reader_gone.is_set()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{service.url}/healthz", timeout=20)
    with StateFolder(tmp_path / "state"):
        assert threading.active_count() == threads


def test_a_failed_start_closes_everything_that_it_opened(config: Callable[..., WatchConfig], tmp_path: Path) -> None:
    threads = threading.active_count()
    (tmp_path / "file").touch()
    sinks = (JsonLinesSettings(path=tmp_path / "events.jsonl"), JsonLinesSettings(path=tmp_path / "file" / "b.jsonl"))
    with pytest.raises(InputError, match="file"), Service(config(sinks=sinks)):
        pytest.fail("it must not start")
    with StateFolder(tmp_path / "state"):
        assert threading.active_count() == threads


def test_a_missing_source_fails_at_the_start_and_not_before(config: Callable[..., WatchConfig]) -> None:
    service = Service(config(source="nothing.mp4"))
    with pytest.raises(InputError, match=r"nothing\.mp4"):
        service.start()


@pytest.mark.parametrize("once", [False, True])
def test_pictures_are_not_saved_where_a_camera_reads_images(
    once: bool, config: Callable[..., WatchConfig], tmp_path: Path
) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "link").symlink_to("inbox")
    cameras = (CameraConfig(name="gate", source="gate.mp4"), CameraConfig(source=str(tmp_path / "inbox"), once=once))
    settings = config().model_copy(update={"cameras": cameras, "sinks": (CropsSettings(path=tmp_path / "link"),)})
    with pytest.raises(InputError, match=r"cannot save pictures in .*link: images are read from there"):
        Service(settings)


def test_the_model_is_reloaded_while_it_runs(config: Callable[..., WatchConfig], tmp_path: Path) -> None:
    images = tmp_path / "images"  # a folder is watched until `stop`
    images.mkdir()
    stop = threading.Event()
    with Service(config(source=images), stop=stop) as service:
        runs = threading.Thread(target=service.run)
        runs.start()
        before = service.status().model.sha256
        tiny_model(tmp_path / "model.onnx", golden=True, temperature=2.0)
        service.reload()
        eventually(lambda: service.status().model.reloads["taken"] == 1, "the model is reloaded", 30)
        assert service.status().model.sha256 != before
        stop.set()
        runs.join(30)
        assert not runs.is_alive()
