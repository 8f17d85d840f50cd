"""Broken images: `classify` and `watch` skip them with one line."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import zlib
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.fuzzing import CPU, Case, CommandLine, check, damaged, put
from tests.support.tiny_model import tiny_model

DAMAGED, FALSE_HEADERS, JOINED, SPECIAL_FILES = 480, 98, 36, 43
CASES = DAMAGED + FALSE_HEADERS + JOINED + SPECIAL_FILES
SLOW_CASES = 2 * DAMAGED  # in the tests that are marked slow

SIDES = (0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def picture() -> NDArray[np.uint8]:
    image = np.full((32, 48, 3), 60, np.uint8)
    image[8:24, 12:36] = (40, 40, 220)
    return image + np.random.default_rng(0).integers(0, 24, image.shape, dtype=np.uint8)


def encode(suffix: str, image: NDArray[np.generic], *flags: int) -> bytes:
    done, data = cv2.imencode(suffix, image, flags)
    assert done
    return data.tobytes()


def pictures() -> dict[str, bytes]:
    """Return one picture in every supported format, and in some others."""
    image = picture()
    alpha = np.dstack([image, image[:, :, 0]])
    return {
        "plain.jpg": encode(".jpg", image),
        "progressive.jpg": encode(".jpg", image, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        "gray.jpg": encode(".jpg", image[:, :, 0]),
        "plain.png": encode(".png", image),
        "deep.png": encode(".png", image.astype(np.uint16) * 257),
        "alpha.png": encode(".png", alpha),
        "bilevel.png": encode(".png", image[:, :, 0], cv2.IMWRITE_PNG_BILEVEL, 1),
        "plain.bmp": encode(".bmp", image),
        "lossy.webp": encode(".webp", image, cv2.IMWRITE_WEBP_QUALITY, 80),
        "lossless.webp": encode(".webp", image, cv2.IMWRITE_WEBP_QUALITY, 101),
        "alpha.webp": encode(".webp", alpha, cv2.IMWRITE_WEBP_QUALITY, 80),
        "lzw.tiff": encode(".tiff", image),
        "plain.tiff": encode(".tiff", image, cv2.IMWRITE_TIFF_COMPRESSION, 1),
        "jpeg.tiff": encode(".tiff", image, cv2.IMWRITE_TIFF_COMPRESSION, 7),
        "deep.tiff": encode(".tiff", image.astype(np.uint16)),
        "float.tiff": encode(".tiff", image.astype(np.float32)),
        "plain.gif": encode(".gif", image),
        "plain.ppm": encode(".ppm", image),
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


def options(model: Path) -> tuple[str, ...]:
    return ("--model", str(model), *CPU)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_damaged_images_are_read_or_skipped(seed: int, command_line: CommandLine, model: Path, tmp_path: Path) -> None:
    good = pictures()
    cases = []
    for number in range(DAMAGED):
        kind = list(good)[number % len(good)]
        suffix = (
            Path(kind).suffix if number % 9 else random.Random(number).choice((".jpg", ".png", ".tif", ".webp", ""))
        )
        name = f"broken{suffix}"
        folder = put(tmp_path / str(number), {name: damaged(good[kind], f"{seed} {number}")})
        command = ("watch", name) if number % 10 == 5 else ("classify", name)
        if number % 10 == 7:
            put(folder / "folder", {name: (folder / name).read_bytes(), "good.jpg": good["plain.jpg"]})
            command = ("classify", "folder")
        cases.append(Case((*command, *options(model)), folder, f"{kind} {seed} {number}"))
    outcomes = command_line.run(cases)
    check(outcomes)
    assert len(outcomes) == DAMAGED
    for outcome in outcomes:
        if outcome.case.arguments[1] == "folder":  # a broken image does not affect the others
            assert (outcome.status, "good.jpg" in outcome.out) == (0, True), outcome
    assert {outcome.status for outcome in outcomes} == {0, 2}


def images_with_false_headers() -> Iterator[tuple[str, bytes]]:
    """Yield pictures with a false size in their header and valid checksums."""
    good = pictures()

    def patched(name: str, place: int, code: str, *values: int) -> bytes:
        data = bytearray(good[name])
        struct.pack_into(code, data, place, *(value % 256 ** struct.calcsize(code[-1]) for value in values))
        return bytes(data)

    jpeg_size = good["plain.jpg"].index(b"\xff\xc0") + 5
    webp_size = good["alpha.webp"].index(b"VP8X") + 12
    tags = {tag: good["plain.tiff"].index(struct.pack("<HH", tag, 3)) + 8 for tag in (256, 257)}
    for side in SIDES:
        for width, height in ((side, 32), (48, side)):
            png = bytearray(patched("plain.png", 16, ">II", width, height))
            struct.pack_into(">I", png, 29, zlib.crc32(png[12:29]))
            yield f"{width}x{height}.png", bytes(png)
            yield f"{width}x{height}.bmp", patched("plain.bmp", 18, "<II", width, height)
            yield f"{width}x{height}.jpg", patched("plain.jpg", jpeg_size, ">HH", height, width)
            yield f"{width}x{height}-lossy.webp", patched("lossy.webp", 26, "<HH", width, height)
            yield f"{width}x{height}-alpha.webp", patched("alpha.webp", webp_size, "<HBHB", width, 0, height, 0)
            tiff = bytearray(good["plain.tiff"])
            for tag, value in ((256, width), (257, height)):
                struct.pack_into("<HII", tiff, tags[tag] - 6, 4, 1, value)
            yield f"{width}x{height}.tiff", bytes(tiff)
            yield f"{width}x{height}.gif", patched("plain.gif", 6, "<HH", width, height)


def test_images_with_false_headers_are_read_or_refused(command_line: CommandLine, model: Path, tmp_path: Path) -> None:
    cases = [
        Case(("classify", name, *options(model)), put(tmp_path / str(number), {name: data}), name)
        for number, (name, data) in enumerate(images_with_false_headers())
    ]
    outcomes = command_line.run(cases)
    check(outcomes)
    assert len(outcomes) == FALSE_HEADERS


def test_files_joined_from_two_images_are_read_or_skipped(
    command_line: CommandLine, model: Path, tmp_path: Path
) -> None:
    good = pictures()
    some = [name for name in good if name.startswith("plain")] + ["lossy.webp", "deep.png"]
    cases = []
    for number, (first, second) in enumerate(list(combinations(some, 2)) + [(name, name) for name in some]):
        data = good[first] + good[second] if number % 2 else good[first][: len(good[first]) // 2] + good[second]
        folder = put(tmp_path / str(number), {f"joined{Path(second).suffix}": data})
        cases.append(Case(("classify", ".", *options(model)), folder, f"{first} and {second}"))
    outcomes = command_line.run(cases[:JOINED])
    check(outcomes)
    assert len(outcomes) == JOINED


def test_special_files_and_unusual_names_are_read_or_refused(
    command_line: CommandLine, model: Path, tmp_path: Path
) -> None:
    cases: list[Case] = []

    def case(name: str, command: str = "classify", *arguments: str) -> Path:
        folder = put(tmp_path / str(len(cases)), {})
        cases.append(Case((command, *options(model), *(arguments or ("--", name))), folder, repr(name)))
        return folder / name

    case("folder.jpg").mkdir()
    for command, *arguments in (("classify",), ("watch",), ("classify", "."), ("watch", "--once", ".")):
        os.mkfifo(case("pipe.jpg", command, *arguments))
    for command in ("classify", "watch"):
        place = case("socket.jpg", command)
        with (
            socket.socket(socket.AF_UNIX) as listener,
            contextlib.chdir(place.parent),
        ):  # paths of sockets must be short
            listener.bind(place.name)
        case("loop.jpg", command).symlink_to("loop.jpg")
        case("dangling.jpg", command).symlink_to("nowhere.jpg")
        case("empty.jpg", command).touch()
        case("absent.jpg", command)
        case("x" * 300 + ".jpg", command)
    case("devices", "classify", "/dev/zero", "/dev/null")
    with case("huge.jpg").open("wb") as file:
        file.truncate(2**33)
    for name in ("a\nb.jpg", "\x1b[31mred\x1b[0m.jpg", "caf\udce9.jpg", "[!*?].jpg", "-x.jpg", "\u202egpj.jpg"):
        for command in ("classify", "watch"):
            case(name, command).write_bytes(pictures()["plain.jpg"])
            case(name, command).write_bytes(pictures()["plain.jpg"][:300])
    outcomes = command_line.run(cases)
    check(outcomes)
    assert len(outcomes) == SPECIAL_FILES
