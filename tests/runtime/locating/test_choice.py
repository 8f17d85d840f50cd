"""The default locator of a camera, which the log and the summary report with the reason."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clips import RED_BGR, drive_by, film, write_video
from tests.support.detector_toys import fake_official_detector
from tests.support.tiny_model import tiny_model
from twincar_edge.errors import InputError
from twincar_edge.runtime.configuration.config import CameraConfig, WatchConfig
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.locating.choice import DetectorFile, choose_locator
from twincar_edge.runtime.locating.pull import take_detector
from twincar_edge.runtime.locating.zones import parse_zone
from twincar_edge.runtime.watch import WatchSummary, watch

PULLED, NAMED = DetectorFile(Path("yolox_nano.onnx"), pulled=True), DetectorFile(Path("mine.onnx"))
ZONES = (parse_zone("0,0 0.5,1"),)


@pytest.mark.parametrize(
    ("locate", "stills", "zones", "detector", "expected", "reason"),
    [
        ("auto", False, (), None, "motion", "no detector installed; `twincar-edge detector pull` downloads one"),
        ("auto", False, ZONES, None, "motion", "no detector installed"),
        ("auto", False, (), PULLED, "detector", "yolox_nano.onnx is in the state folder; `locate='motion'`"),
        ("auto", False, (), NAMED, "detector", "set by `detector='mine.onnx'`"),
        ("auto", True, (), None, "whole", "images"),
        ("auto", True, ZONES, None, "zone", "images, with `zones`"),
        ("auto", True, (), PULLED, "whole", "images"),
        ("auto", True, (), NAMED, "detector", "set by `detector='mine.onnx'`"),
        ("motion", False, (), NAMED, "motion", "set by `locate='motion'`"),
        ("zone", False, ZONES, PULLED, "zone", "set by `locate='zone'`"),
        ("detector", False, (), None, "detector", "set by `locate='detector'`"),
    ],
)
def test_the_best_available_locator_is_chosen_with_a_reason(
    locate: str, stills: bool, zones: tuple, detector: DetectorFile | None, expected: str, reason: str
) -> None:
    choice = choose_locator(locate, stills=stills, zones=zones, detector=detector)
    assert choice.locator == expected
    assert choice.reason.startswith(reason)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return Classifier(tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx"), ep="cpu", threads=1)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "gate.mp4", film([drive_by(RED_BGR, 5)], 45))


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A state folder with a small pulled detector."""
    with fake_official_detector(tmp_path) as path:
        take_detector(path, state=tmp_path / "state")
        yield tmp_path / "state"


def watched(clip: Path, classifier: Classifier, *, locate: str = "auto", state: Path | None = None) -> WatchSummary:
    camera = CameraConfig(name="gate", source=str(clip), locate=locate)
    return watch(WatchConfig(cameras=(camera,), state=state, ep="cpu", threads=1), classifier=classifier)


def test_a_pulled_detector_is_used_for_videos_and_logged(
    clip: Path, classifier: Classifier, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for locate in ("auto", "detector"):
        (camera,) = watched(clip, classifier, locate=locate, state=state).cameras
        assert camera.visits == 1
        assert camera.located_by.startswith("detector (")
        assert f"camera gate: locating by {camera.located_by}" in caplog.messages
    assert "camera gate: locating by detector (set by `locate='detector'`)" in caplog.messages


def test_motion_can_be_chosen_although_a_detector_is_installed(clip: Path, classifier: Classifier, state: Path) -> None:
    (state / "detectors" / "yolox_nano.onnx").write_bytes(b"damaged, which nobody looks at")
    (camera,) = watched(clip, classifier, locate="motion", state=state).cameras
    assert (camera.visits, camera.located_by) == (1, "motion (set by `locate='motion'`)")
    with pytest.raises(InputError, match="is damaged"):
        watched(clip, classifier, state=state)


def test_without_a_detector_the_log_says_how_to_get_one(clip: Path, classifier: Classifier, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="needs a detector: get one with `twincar-edge detector pull`, or name"
    ) as caught:
        watched(clip, classifier, locate="detector", state=tmp_path / "empty")
    assert "\n" not in str(caught.value)


def test_a_configured_detector_is_used_by_every_camera(clip: Path, classifier: Classifier, state: Path) -> None:
    named = state / "detectors" / "yolox_nano.onnx"
    cameras = tuple(
        CameraConfig(name=name, source=str(clip), locate=locate) for name, locate in (("a", "auto"), ("b", "zone"))
    )
    cameras = (cameras[0], cameras[1].model_copy(update={"zones": ZONES}))
    summary = watch(WatchConfig(cameras=cameras, detector=named, ep="cpu", threads=1), classifier=classifier)
    assert [camera.located_by.split(" ")[0] for camera in summary.cameras] == ["detector", "zone"]
