"""`twincar-edge zones`: a frame with a grid, and zones in the format of cameras.toml."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.runtime.sources.test_live_http import Camera, CameraServer, jpeg
from tests.support.clips import as_frames, film, write_video
from twincar_edge.cli import main
from twincar_edge.errors import InputError
from twincar_edge.runtime.annotating.clicking import ClickedZones
from twincar_edge.runtime.annotating.zone_picture import draw_zone_picture, zone_toml
from twincar_edge.runtime.configuration.config_file import read_config
from twincar_edge.runtime.locating.zones import Zone, parse_zone
from twincar_edge.runtime.sources import Frame, FrameSource
from twincar_edge.runtime.sources.first_frame import NoFrameInTimeError, first_frame


def snapshot(camera: Camera) -> None:
    camera.begin("image/jpeg")
    camera.wfile.write(jpeg(5))


def zones(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["zones", *map(str, arguments)])
    return int(str(ended.value.code))


def parsed(toml: str, folder: Path) -> tuple[Zone, ...]:
    """The zones of a cameras.toml that has this text below its camera."""
    path = folder / "parsed.toml"
    path.write_text(f'[[cameras]]\nsource = "gate.mp4"\n{toml}')
    return read_config(path).cameras[0].zones


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pictures = [np.full((360, 640, 3), 40 + 2 * index, np.uint8) for index in range(50)]
    return write_video(tmp_path_factory.mktemp("clip") / "gate.mp4", pictures)


def test_a_frame_is_written_with_a_grid_and_a_valid_example(
    clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "frame.png"
    assert zones(clip, "-o", out) == 0
    shown = capfd.readouterr()
    assert f"wrote {out}: 640x360" in shown.err
    (example,) = parsed(shown.out, tmp_path)
    assert f'--zone "gate={" ".join(f"{x:g},{y:g}" for x, y in example.points)}"' in shown.err
    image = cv2.imread(str(out))
    assert image is not None and image.shape == (360, 640, 3)
    lines = np.abs(image[100, :, 0].astype(int) - image[100, 30, 0]) > 20  # next to the labels
    assert {64 * part for part in range(1, 10)} <= set(np.nonzero(lines)[0].tolist())
    assert not lines[70:120].any()


def test_the_frame_at_the_given_time_is_used(clip: Path, tmp_path: Path) -> None:
    assert zones(clip, "-o", tmp_path / "late.png", "--at", 1.6) == 0
    late = cv2.imread(str(tmp_path / "late.png"))
    assert late is not None
    assert abs(int(late[100, 100, 0]) - (40 + 2 * 40)) <= 4


def test_zones_of_the_command_line_are_printed_as_toml(
    clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    written = ["gate=0.125,0.2 0.9,0.2 0.9,0.8", "exclude=10,20 300.5,120"]
    assert zones(clip, "-o", tmp_path / "zones.jpg", "--zone", written[0], "--zone", written[1]) == 0
    assert parsed(capfd.readouterr().out, tmp_path) == tuple(map(parse_zone, written))


def test_a_camera_of_a_file_is_drawn_with_its_zones(clip: Path, tmp_path: Path) -> None:
    config = tmp_path / "cameras.toml"
    config.write_text(
        f'[[cameras]]\nname = "north"\nsource = "absent.mp4"\n'
        f'[[cameras]]\nname = "south"\nsource = "{clip}"\nzones = ["yard=0.52,0.52 0.78,0.52 0.78,0.78 0.52,0.78"]\n'
    )
    assert zones("--config", config, "--camera", "south", "-o", tmp_path / "south.png") == 0
    assert zones(clip, "-o", tmp_path / "plain.png") == 0
    with_zone, plain = (cv2.imread(str(tmp_path / f"{name}.png")) for name in ("south", "plain"))
    assert with_zone is not None and plain is not None
    rows, columns = np.nonzero((with_zone != plain).any(axis=2))
    assert 0.5 < rows.min() / 360 < rows.max() / 360 < 0.8
    assert 0.5 < columns.min() / 640 < columns.max() / 640 < 0.8


def test_a_camera_of_a_file_is_opened_with_its_settings(
    clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "cameras.toml"
    with CameraServer(snapshot) as server:
        url = server.url.replace("/video", "/snapshot.cgi")  # only `poll_s` says that it gives one picture per request
        config.write_text(
            f'[[cameras]]\nname = "polled"\nsource = "{url}"\npoll_s = 60\n'
            f'[[cameras]]\nname = "small"\nsource = "{clip}"\nmax_frame_megapixels = 0.1\n'
        )
        assert zones("--config", config, "-o", tmp_path / "polled.png") == 0
    assert cv2.imread(str(tmp_path / "polled.png")) is not None
    capfd.readouterr()
    assert zones("--config", config, "--camera", "small", "-o", tmp_path / "small.png") == 2
    assert "640x360" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{tmp}/absent.mp4"], "no source '{tmp}/absent.mp4'"),
        (["{clip}", "--at", "60"], "{clip} ends after 2.0 s: --at must be before that"),
        (["{clip}", "-o", "{clip}/zones.jpg"], "cannot write into {clip}: it exists, but is not a folder"),
        (["{clip}", "--zone", "1,2"], "a zone is"),
        (["rtsp://admin:secret@127.0.0.1:1/live"], "cannot open rtsp://***@127.0.0.1:1/live"),
        (["--config", "{tmp}/cameras.toml", "--camera", "gat"], "no camera 'gat': did you mean 'gate'?"),
    ],
)
def test_invalid_input_of_zones_is_a_one_line_error(
    arguments: list[str], said: str, clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cameras.toml").write_text('[[cameras]]\nname = "gate"\nsource = "gate.mp4"\n')
    where = {"clip": clip, "tmp": tmp_path}
    assert zones(*(argument.format(**where) for argument in arguments)) == 2
    shown = capfd.readouterr()
    assert shown.out == ""
    assert said.format(**where) in shown.err
    assert len(shown.err.splitlines()) == 1
    assert "secret" not in shown.err


def test_clicking_without_a_display_is_a_one_line_error(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert zones(clip, "--click", "-o", tmp_path / "zones.jpg") == 2
    assert capfd.readouterr().err.startswith("error: no display to show a window on: ")


@pytest.mark.parametrize("size_wh", [(1, 1), (64, 48), (320, 180), (1080, 1920), (3840, 2160)])
def test_a_frame_of_any_size_gets_a_grid(size_wh: tuple[int, int]) -> None:
    frame = np.full((size_wh[1], size_wh[0], 3), 90, np.uint8)
    image = draw_zone_picture(frame, [parse_zone("0,0 1,1")])
    assert image.shape[0] * size_wh[0] == image.shape[1] * size_wh[1]
    assert max(image.shape) >= 320
    assert (image != 90).any()
    assert (frame == 90).all()


def test_clicked_zones_can_be_read_from_cameras_toml(tmp_path: Path) -> None:
    clicked = ClickedZones(["zone1"])
    for x, y in ((0, 0), (639, 0), (639, 359), (5000, -3)):
        clicked.click(x, y, (640, 360))
    clicked.undo()
    clicked.close()
    clicked.click(64, 36, (640, 360))
    clicked.close()  # a point has no area
    clicked.click(128, 72, (640, 360))
    clicked.close(exclude=True)
    gate, excluded = parsed("".join(map(zone_toml, clicked.zones)), tmp_path)
    assert (gate.name, gate.points) == ("zone2", ((0, 0), (1, 0), (1, 1)))
    assert (excluded.name, excluded.exclude) == (None, True)
    assert excluded.points[0] == pytest.approx((0.1, 0.1), abs=0.001)
    clicked.undo()
    clicked.undo()
    assert (clicked.zones, clicked.corners) == ([], [])


# --- the first frame ---


def test_a_hanging_source_times_out_and_is_released() -> None:
    over, released = threading.Event(), []

    def frames() -> Iterator[Frame]:
        over.wait(30)
        yield from ()

    source = FrameSource(frames())
    source.release = lambda: released.append(True)  # type: ignore[method-assign]
    with pytest.raises(NoFrameInTimeError, match=r"no picture within 0\.05 s"):
        first_frame(lambda: source, timeout_s=0.05)
    assert released == [True]
    over.set()


def test_the_timeout_is_per_frame() -> None:
    clock = threading.Event()

    def frames() -> Iterator[Frame]:
        for frame in as_frames(film([], 12)):
            clock.wait(0.05)
            yield frame

    frame, _ = first_frame(lambda: FrameSource(frames()), at_s=0.4, timeout_s=0.3)
    assert frame.time_s == pytest.approx(0.4)


def test_a_source_without_frames_is_an_error() -> None:
    with pytest.raises(InputError, match="sends no picture"):
        first_frame(lambda: FrameSource([]))
