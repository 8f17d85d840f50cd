"""Video that OpenCV cannot decode correctly: interlaced frames, for which it reports no error, and AV1."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from tests.support.clips import SIZE_WH, road, write_video
from twincar_edge.errors import InputError
from twincar_edge.runtime.sources import Frame, open_source
from twincar_edge.runtime.sources.pyav import PyAVInput
from twincar_edge.runtime.sources.unchanged import MANY

INTERLACED = {"x264-params": "interlaced=1"}
FRAMES = MANY + 15


def picture(number: int) -> np.ndarray:
    """A road with a bar whose position encodes the picture's number."""
    image = road(size_wh=SIZE_WH)
    image[60:120, 5 * number : 5 * number + 40] = (30, 30, 210)
    return image


def encode(
    path: Path, codec: str = "libx264", options: dict[str, str] | None = None, pictures: range = range(FRAMES)
) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height = SIZE_WH
        stream.pix_fmt, stream.options = "yuv420p", options or {}
        if codec == "mpeg2video" and options:
            stream.codec_context.flags |= av.codec.context.Flags.interlaced_dct
        for number in pictures:
            frame = av.VideoFrame.from_ndarray(picture(number), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def places(frames: list[Frame]) -> list[int]:
    """The numbers of the pictures, read from the position of the red bar."""
    red = [frame.image_bgr[90, :, 2].astype(int) - frame.image_bgr[90, :, 1] > 90 for frame in frames]
    return [round(int(np.argmax(row)) / 5) for row in red]


def without_pyav(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("clip.mp4", "libx264", INTERLACED),
        ("clip.ts", "mpeg2video", {"flags": "+ilme"}),
        ("clip.mp4", "libsvtav1", {"preset": "10", "crf": "10"}),
    ],
    ids=["interlaced H.264", "interlaced MPEG-2", "AV1"],
)
def test_video_that_opencv_cannot_decode_has_the_right_frames_and_times(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    with open_source(str(encode(tmp_path / name, codec, options))) as source:
        frames = list(source)
    assert [frame.index for frame in frames] == list(range(FRAMES))
    assert [frame.time_s for frame in frames] == pytest.approx([index / 25 for index in range(FRAMES)], abs=1e-3)
    assert places(frames) == list(range(FRAMES))
    assert (source.fps, source.skipped, frames[0].image_bgr.shape) == (25, 0, (SIZE_WH[1], SIZE_WH[0], 3))
    for frame in frames:  # a deinterlaced picture shows a single point in time, without combing
        assert np.abs(frame.image_bgr.astype(int) - picture(frame.index)).mean() < 6
    assert places(list(open_source(str(tmp_path / name), stride=4))) == list(range(0, FRAMES, 4))


def test_a_short_interlaced_clip_is_read_too(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4", options=INTERLACED, pictures=range(3))
    assert places(list(open_source(str(path)))) == [0, 1, 2]


def test_a_video_that_becomes_interlaced_in_the_middle_is_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parts = [
        encode(tmp_path / "a.m2v", "mpeg2video", {}, range(12)),
        encode(tmp_path / "b.m2v", "mpeg2video", {"flags": "+ilme"}, range(12, FRAMES)),
    ]
    path = tmp_path / "both.m2v"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = list(open_source(str(path)))
    assert places(frames) == list(range(FRAMES))
    assert [frame.index for frame in frames] == list(range(FRAMES))
    assert not caplog.text
    without_pyav(monkeypatch)
    assert len(list(open_source(str(path)))) == FRAMES
    assert f"{MANY + 1} pictures from frame 11 on are identical; if the MPEG2" in caplog.text


def test_still_pictures_and_title_cards_are_read_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = [np.full((48, 64, 3), 90, np.uint8)] * (2 * MANY)
    moving = [np.full((48, 64, 3), 20 + 8 * number, np.uint8) for number in range(10)]
    still, clip = write_video(tmp_path / "still.mp4", card), write_video(tmp_path / "clip.mp4", card + moving)
    assert [frame.index for frame in open_source(str(still))] == list(range(2 * MANY))
    for _ in "with", "without":
        frames = list(open_source(str(clip)))
        assert [frame.index for frame in frames] == list(range(2 * MANY + 10))
        assert [round((float(frame.image_bgr.mean()) - 20) / 8) for frame in frames[-10:]] == list(range(10))
        without_pyav(monkeypatch)


def test_a_long_video_is_probed_where_it_is_still_and_not_from_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[tuple[float, bool]] = []

    def look(self: PyAVInput, at_s: float = 0.0) -> bool:
        looked_at.append((at_s, interlaced(self, at_s)))
        return looked_at[-1][1]

    interlaced = PyAVInput.interlaced
    monkeypatch.setattr(PyAVInput, "interlaced", look)
    stands = [*range(30), *[30] * (MANY + 5), 31, 31]
    pictures = [np.full((48, 64, 3), 20 + 4 * number, np.uint8) for number in stands]
    path = write_video(tmp_path / "clip.mp4", pictures)
    assert [frame.index for frame in open_source(str(path))] == list(range(len(stands)))
    assert looked_at == [(pytest.approx(30 / 25), False)]
    capture = PyAVInput(str(encode(tmp_path / "keys.mp4", options={"g": "10"})), 1).open()
    capture.seek(1.1)
    assert [round(frame.time * 25) for frame in islice(capture.frames, 3)] == [
        0,
        20,
        21,
    ]  # the first is decoded already
    capture.release()


def test_without_pyav_a_video_that_never_changes_is_an_error_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_pyav(monkeypatch)
    path = encode(tmp_path / "clip.mp4", options=INTERLACED)
    message = rf"all {FRAMES} pictures of .*clip\.mp4 are identical.* H264 video is interlaced.*\[clips\].*-vf bwdif"
    with pytest.raises(InputError, match=message) as caught:
        list(open_source(str(path)))
    assert "\n" not in str(caught.value)


def test_without_pyav_av1_is_an_error_with_codec_and_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_pyav(monkeypatch)
    path = encode(tmp_path / "clip.mp4", "libsvtav1", {"preset": "12"}, range(2))
    with pytest.raises(InputError, match=r"no decoder for its AV1 video: pip install .*\[clips\].*libx264") as caught:
        list(open_source(str(path)))
    assert "\n" not in str(caught.value)


def test_pyav_decodes_to_the_same_pixels_as_opencv(tmp_path: Path) -> None:
    """So answers do not depend on which of them reads a file."""
    path = encode(tmp_path / "clip.mp4", pictures=range(5))
    one, other = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG), PyAVInput(str(path), 1).open()
    for what in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT):
        assert one.get(what) == other.get(what)
    for _ in range(5):
        assert one.grab()
        assert other.grab()
        assert one.get(cv2.CAP_PROP_POS_MSEC) == pytest.approx(other.get(cv2.CAP_PROP_POS_MSEC))
        image = other.retrieve()[1]
        assert image is not None
        np.testing.assert_array_equal(one.retrieve()[1], image)
    assert not one.grab()
    assert not other.grab()
