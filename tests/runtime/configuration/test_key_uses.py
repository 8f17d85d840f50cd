"""A key that a camera's source or locator does not read is refused, or noted where it does no harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.runtime.configuration.test_config_file import MINIMAL, refusal
from twincar_edge.cli import main
from twincar_edge.errors import InputError
from twincar_edge.runtime.configuration.config import CameraConfig, WatchConfig, one_camera
from twincar_edge.runtime.configuration.key_uses import KEY_USES
from twincar_edge.runtime.loop.summary import camera_notes
from twincar_edge.runtime.sinks.settings import MqttSettings, WebhookSettings

FILE, DEVICE, RTSP, HTTP = "gate.mp4", "/dev/video0", "rtsp://camera/live", "http://camera/snapshot"
FOR_ALL: dict[str, Any] = {
    "size": (640, 480),
    "poll_s": 2.0,
    "once": True,
    "min_area": 0.2,
    "presence": 0.2,
    "detect_classes": ("car",),
    "detect_score": 0.6,
    "min_travel": 0.5,
}


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (FILE, {"size": (640, 480)}, "`size`: has no effect for a file or folder: it is for cameras of this machine; "),
        (FILE, {"poll_s": 2}, "`poll_s`: has no effect for a file or folder: it is for http:// and https:// cameras; "),
        ("0", {"poll_s": 2}, "`poll_s`: has no effect for a camera of this machine: "),
        (DEVICE, {"once": True}, "`once`: has no effect for a camera of this machine: it is for folders; remove it"),
        (RTSP, {"once": True}, "`once`: has no effect for a stream: "),
        (FILE, {"locate": "motion", "detect_score": 0.6}, "`detect_score`: has no effect with the locator motion: "),
        (
            FILE,
            {"locate": "whole", "detect_classes": ("unicorn",)},
            "`detect_classes`: has no effect with the locator ",
        ),
        (
            FILE,
            {"locate": "motion", "presence": 0.2},
            "`presence`: has no effect with the locator motion: it is for the",
        ),
        (FILE, {"collect_limit": 10**6}, "`collect_limit`: has no effect without `collect`: set it to a folder, or "),
    ],
)
def test_a_key_that_the_source_or_the_locator_does_not_read_is_refused(
    source: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as refused:
        one_camera(source, **options)
    assert message in str(refused.value)
    assert "remove " in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("source", "options"),
    [
        (DEVICE, {"size": (640, 480)}),
        ("7", {"size": (640, 480)}),
        (HTTP, {"poll_s": 2}),
        (FILE, {"once": True}),  # read once in any case
        ("images", {"once": True}),
        (FILE, {"locate": "detector", "detect_score": 0.6, "detect_classes": ("car",)}),
        (FILE, {"detect_score": 0.6, "detect_classes": ("car",), "presence": 0.2}),  # `auto` chooses later
        (FILE, {"locate": "zone", "presence": 0.2}),
        (FILE, {"collect": Path("hard"), "collect_limit": 10**6}),
        ("ftp://camera/clip", FOR_ALL | {"locate": "auto"}),  # refused when it is opened
    ],
)
def test_a_key_that_has_an_effect_or_may_have_one_is_accepted(source: str, options: dict[str, Any]) -> None:
    one_camera(source, **options)


def test_defaults_are_accepted_in_all_places() -> None:
    for source in (FILE, DEVICE, RTSP):
        for locate in ("auto", "motion", "zone", "detector"):
            plain = WatchConfig(cameras=(CameraConfig(source=source, locate=locate),))
            assert WatchConfig.model_validate(plain.model_dump()) == plain


def test_the_file_names_the_line_of_the_key(tmp_path: Path) -> None:
    message = refusal(tmp_path, MINIMAL + 'locate = "motion"\npresence = 0.5\n')
    assert message.startswith("line 5: cameras[0].presence: has no effect with the locator motion: ")
    assert refusal(tmp_path, "collect_limit = 5\n" + MINIMAL).startswith("line 1: collect_limit: has no effect without")
    text = MINIMAL.replace('"0"', '"gate.mp4"') + "once = true\nsize = [640, 480]\n"
    assert refusal(tmp_path, text).startswith("line 5: cameras[0].size: has no effect for a file or folder: ")


def test_a_key_without_effect_that_is_not_refused_is_noted() -> None:
    auto = CameraConfig(source=RTSP, detect_score=0.6, size=(640, 480))
    assert camera_notes(auto, "motion", {}, {}) == (
        "`size=(640, 480)` has no effect for a stream: it is for cameras of this machine",
        "`detect_score=0.6` has no effect with the locator motion: it is for the locator detector",
    )
    assert len(camera_notes(auto, "detector", {}, {})) == 1
    zone = CameraConfig(source=DEVICE, locate="zone", min_area=0.2, min_travel=0.5, size=(640, 480))
    assert [note.split("=")[0] for note in camera_notes(zone, "zone", {}, {})] == ["`min_area", "`min_travel"]


def test_the_table_has_an_example_of_each_key() -> None:
    assert FOR_ALL.keys() == KEY_USES.keys()


def test_zones_refuses_a_size_for_a_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["zones", "gate.mp4", "--size", "640x480", "-o", str(tmp_path / "zones.jpg")])
    assert ended.value.code == 2
    assert "--size WxH: has no effect for a file or folder" in capfd.readouterr().err


def test_a_sink_refuses_keys_that_need_another_one() -> None:
    with pytest.raises(InputError, match="area is announced by discovery, which is off"):
        MqttSettings(host="broker", area="Yard", discovery="")
    MqttSettings(host="broker", area="Yard")
    with pytest.raises(InputError, match="ca_file requires TLS: use an https:// URL"):
        WebhookSettings(url="http://receiver/hook", ca_file=Path("ca.pem"))
    WebhookSettings(url="https://receiver/hook", ca_file=Path("ca.pem"))
