"""Broken videos: `watch` reads as much as it can, or refuses them with one error line."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

from tests.support.clips import RED_BGR, drive_by, film, write_video
from tests.support.fuzzing import CPU, Case, CommandLine, check, damaged, flipped, put
from tests.support.tiny_model import tiny_model

DAMAGED, ATOMS = 184, 40
CASES = DAMAGED + ATOMS
SLOW_CASES = 2 * DAMAGED  # in the tests that are marked slow

# Containers, each with the codec that OpenCV writes into it.
FORMATS = {
    "mp4": "mp4v", "avi": "MJPG", "mov": "mp4v", "mkv": "FFV1", "webm": "VP80", "mpg": "MPG1", "ts": "mp4v",
    "flv": "FLV1",
}  # fmt: skip
_PARENT_ATOMS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"udta")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small clip of a passing car in each container."""
    folder = tmp_path_factory.mktemp("videos")
    small = [cv2.resize(image, (64, 48)) for image in film([drive_by(RED_BGR, 1, 8)], 12)]
    return {kind: write_video(folder / f"clip.{kind}", small, code).read_bytes() for kind, code in FORMATS.items()}


def watch_command(model: Path, video: str, number: int) -> tuple[str, ...]:
    """Return a command that watches a video, and in every third case writes files."""
    written = ("-o", "out/events.jsonl", "--save-crops", "out/crops", "--store", "out/events.sqlite")
    return ("watch", video, "--model", str(model), *CPU, *(written if number % 3 == 0 else ()))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_damaged_videos_are_read_or_refused(
    seed: int, command_line: CommandLine, model: Path, videos: dict[str, bytes], tmp_path: Path
) -> None:
    cases = []
    for number in range(DAMAGED):
        kind = list(videos)[number % len(videos)]
        damage = flipped if number % 2 else damaged
        folder = put(tmp_path / str(number), {f"broken.{kind}": damage(videos[kind], f"{seed} {number}")})
        cases.append(Case(watch_command(model, f"broken.{kind}", number), folder, f"{kind} {seed} {number}"))
    outcomes = command_line.run(cases)
    check(outcomes)
    assert len(outcomes) == DAMAGED
    assert {outcome.status for outcome in outcomes} == {0, 2}
    for outcome in outcomes:
        for crop in outcome.case.folder.glob("out/crops/*"):
            assert cv2.imread(str(crop)) is not None, outcome.case


def atoms(data: bytes, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, int, bytes]]:
    """Yield offset, size and kind of each atom of an MP4 file, including nested ones."""
    stop = len(data) if stop is None else stop
    while start + 8 <= stop:
        size, kind = struct.unpack_from(">I4s", data, start)
        if size < 8:
            return
        yield start, size, kind
        if kind in _PARENT_ATOMS:
            yield from atoms(data, start + 8, start + size)
        start += size


def test_videos_with_wrong_or_missing_atoms_are_read_or_refused(
    command_line: CommandLine, model: Path, videos: dict[str, bytes], tmp_path: Path
) -> None:
    cases = []
    for place, size, kind in list(atoms(videos["mp4"])):
        lost = videos["mp4"][:place] + videos["mp4"][place + size :]
        big = bytearray(videos["mp4"])
        struct.pack_into(">I", big, place, 0xFFFFFFF0)
        for what, data in (("lost", lost), ("big", bytes(big))):
            folder = put(tmp_path / str(len(cases)), {"broken.mp4": data})
            name = f"{kind.decode()} at {place} is {what}"
            cases.append(Case(watch_command(model, "broken.mp4", len(cases)), folder, name))
    outcomes = command_line.run(cases[:ATOMS])
    check(outcomes)
    assert len(outcomes) == ATOMS
