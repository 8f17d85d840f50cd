"""Bombs: small pictures, videos, streams, models and checkpoints that need much memory, run with a memory limit.

Each case ends normally or with a one-line error, within 512 MB beyond the memory of the imports.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import helper

from tests.fuzz.test_images import encode, picture
from tests.fuzz.test_urls import Answer, serving
from tests.support.clips import film, write_video
from tests.support.fuzzing import CPU, Case, CommandLine, check, damaged, put
from tests.support.tiny_model import tiny_model
from twincar_edge.errors import ModelError
from twincar_edge.golden import GOLDEN_KEY

TIFFS, SCANS, VIDEOS, STREAMS, GOLDENS, ARCHIVES = 120, 40, 40, 80, 40, 80
CASES = TIFFS + SCANS + VIDEOS + STREAMS + GOLDENS + ARCHIVES
SLOW_CASES = 0

HEADROOM_BYTES = 512 * 2**20
SIDES = (1, 48, 8000, 16_000, 30_000, 65_535)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx", golden=True)


def tiff(rng: random.Random) -> bytes:
    """Return a TIFF whose tags have random types, counts and values; some tags occur twice."""
    good = {256: 64, 257: 48, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 48, 279: 64 * 48}
    tags = list(good.items())
    for _ in range(rng.choice((1, 2, 4))):
        tag = rng.choice((*good, 322, 323, 324, 325, 258, 256, 257))
        value = rng.choice((0, 1, 2, 8, 16, 64, *SIDES, 2**31 - 1, 2**32 - 1))
        tags.insert(rng.randrange(len(tags) + 1), (tag, value))
    entries = b""
    for tag, value in tags:
        kind = 4 if rng.random() < 0.7 else rng.choice((1, 3, 6, 8, 9, 11, 13, 16))
        entries += struct.pack("<HHII", tag, kind, 1 if rng.random() < 0.9 else rng.randrange(9), value)
    pixels = bytes(64 * 48)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


def with_size(data: bytes, width: int, height: int) -> bytes:
    """Return a JPEG, or an AVI of JPEGs, with another size in its frame headers."""
    changed = bytearray(data)
    for marker in (b"\xff\xc0\0\x11\x08", b"\xff\xc2\0\x11\x08"):
        at = -1
        while (at := changed.find(marker, at + 1)) >= 0:
            struct.pack_into(">HH", changed, at + 5, height, width)
    return bytes(changed)


def scans(rng: random.Random) -> bytes:
    """Return a progressive JPEG with many scans, in some cases of many pixels."""
    data = encode(".jpg", picture(), cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    if rng.random() < 0.7:
        data = with_size(data, rng.choice(SIDES), rng.choice(SIDES))
    last = data[data.rindex(b"\xff\xda") : -2]
    comment = b"\xff\xfe\0\4\xff\xd9" * rng.choice((0, 1, 5000))
    return data[:-2] + (comment + last) * rng.choice((1, 80, 99, 120, 3000)) + data[-2:]


def test_picture_bombs_do_not_exhaust_memory(command_line: CommandLine, model: Path, tmp_path: Path) -> None:
    cases = []
    for number in range(TIFFS + SCANS):
        make, suffix = (tiff, "tif") if number < TIFFS else (scans, "jpg")
        name = f"bomb.{suffix}"
        folder = put(tmp_path / str(number), {name: make(random.Random(number))})
        command = ("watch", name) if number % 4 == 0 else ("classify", name)
        cases.append(Case((*command, "--model", str(model), *CPU), folder, f"{suffix} {number}"))
    outcomes = command_line.run(cases, headroom_bytes=HEADROOM_BYTES)
    check(outcomes)
    assert len(outcomes) == TIFFS + SCANS
    assert {outcome.status for outcome in outcomes} == {0, 2}


def test_videos_with_false_frame_sizes_do_not_exhaust_memory(
    command_line: CommandLine, model: Path, tmp_path: Path
) -> None:
    small = [cv2.resize(image, (64, 48)) for image in film([], 8)]
    good = write_video(tmp_path / "good.avi", small, "MJPG").read_bytes()
    cases = []
    for number in range(VIDEOS):
        rng = random.Random(number)
        size = rng.choice(SIDES), rng.choice(SIDES)
        middle = len(good) // 2 if number % 2 else 0
        data = bytearray(good[:middle] + with_size(good[middle:], *size))
        if number % 3 == 0:
            struct.pack_into("<II", data, 64, *size)  # in the main header
        folder = put(tmp_path / str(number), {"bomb.avi": bytes(data)})
        cases.append(Case(("watch", "bomb.avi", "--model", str(model), *CPU), folder, f"avi {number} {size}"))
    outcomes = command_line.run(cases, headroom_bytes=HEADROOM_BYTES)
    check(outcomes)
    assert len(outcomes) == VIDEOS


# --- streams ---


def multipart(seed: int) -> Answer:
    """Return a camera that sends malformed multipart data, in some cases without end."""
    rng = random.Random(seed)
    good = encode(".jpg", picture())
    pictures: list[Callable[[], bytes]] = [
        lambda: good, lambda: damaged(good, rng.random()), lambda: with_size(good, 16_000, 16_000), lambda: scans(rng),
        lambda: tiff(rng), lambda: b"", lambda: bytes(100_000), lambda: good[:-200],
    ]  # fmt: skip
    kind = rng.choice(("multipart/x-mixed-replace", "multipart/mixed", "Multipart/X-Mixed-Replace"))
    boundary = rng.choice(("frame", "--frame", '"frame"', "", "x" * 300, "frame--"))
    sent = rng.choice((b"--frame", b"--frame", b"frame", b"----frame", b"--", b"", b"--" + b"x" * 300))
    line = rng.choice((b"\r\n", b"\r\n", b"\n", b"\r"))
    ends: list[Iterator[bytes]] = [iter(()), iter(()), _endless(bytes(2**16)), _endless(b"X-Header: 1\r\n" * 5000)]
    length = rng.choice((0, 0, None, -500, -1, 40, 10**9, 10**30, "x", -(10**6)))
    one_kind = rng.randrange(len(pictures)) if rng.random() < 0.5 else None

    def answer(handler: object, _: random.Random) -> None:
        send = handler.request.sendall  # type: ignore[attr-defined]
        send(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}; boundary={boundary}\r\n\r\n".encode())
        for number in range(12):
            data = pictures[number % len(pictures) if one_kind is None else one_kind]()
            stated = b"" if length is None else b"Content-Length: %s" % str(
                length if isinstance(length, str) else len(data) + length
            ).encode() + line  # fmt: skip
            send(sent + line + b"Content-Type: image/jpeg" + line + stated + line + data + line)
        for piece in rng.choice(ends):
            send(piece)

    return answer


def _endless(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece


def test_malformed_multipart_streams_do_not_exhaust_memory(
    command_line: CommandLine, model: Path, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        cases = []
        for number in range(STREAMS):
            port = stack.enter_context(serving(multipart(number)))
            arguments = ("watch", "--model", str(model), *CPU, "--duration", "0.7", f"http://127.0.0.1:{port}/video")
            cases.append(Case(arguments, put(tmp_path / str(number), {}), f"stream {number}"))
        outcomes = command_line.run(cases, processes=10, cases_per_process=4, headroom_bytes=HEADROOM_BYTES)
    check(outcomes)
    assert len(outcomes) == STREAMS


# --- models and checkpoints ---


def test_golden_input_bombs_do_not_exhaust_memory(command_line: CommandLine, model: Path, tmp_path: Path) -> None:
    loaded = onnx.load(str(model))
    metadata = {entry.key: entry.value for entry in loaded.metadata_props}
    golden = json.loads(metadata[GOLDEN_KEY])
    cases = []
    for number in range(GOLDENS):
        rng = random.Random(number)
        side = rng.choice((100, 1000, 2000, 4000))
        png = base64.b64encode(encode(".png", np.zeros((side, side), np.uint8))).decode()
        changes = rng.choice(
            [
                {"images_png": [png] * rng.choice((1, 3, 64, 65))},
                {"logits": [[0.0] * 300_000] * 3},
                {"pixels": "A" * rng.choice((10**6, 2 * 10**7))},
            ]
        )
        helper.set_model_props(loaded, {**metadata, GOLDEN_KEY: json.dumps({**golden, **changes})})
        folder = put(tmp_path / str(number), {"model.onnx": loaded.SerializeToString()})
        cases.append(Case(("inspect", "model.onnx"), folder, f"golden {number}"))
    outcomes = command_line.run(cases, headroom_bytes=HEADROOM_BYTES)
    check(outcomes)
    assert {outcome.status for outcome in outcomes} <= {0, 2} and len(outcomes) == GOLDENS


def test_damaged_and_recompressed_archives_raise_only_model_errors(tmp_path: Path) -> None:
    import torch

    from twincar_edge.training.checkpoint_files import load_plain

    torch.save({"a": torch.zeros(200_000), "b": torch.arange(1000)}, tmp_path / "good.pt")
    refused = 0
    for number in range(ARCHIVES):
        data, rng = io.BytesIO(), random.Random(number)
        with zipfile.ZipFile(tmp_path / "good.pt") as good, zipfile.ZipFile(data, "w") as archive:
            for name in good.namelist():
                packed = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
                archive.writestr(name, good.read(name), packed)
        path = tmp_path / f"{number}.pt"
        path.write_bytes(damaged(data.getvalue(), number) if number % 2 else data.getvalue())
        try:
            load_plain(path)
        except ModelError as error:
            refused += 1
            assert str(error).startswith(str(path)) and "\n" not in str(error)
    assert 0 < refused < ARCHIVES
