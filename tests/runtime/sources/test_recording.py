"""A recording is identified by its content: completely, or by blocks of a large file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np

from tests.support.clips import film, write_video
from twincar_edge.runtime.sources import open_source
from twincar_edge.runtime.sources.recording import BLOCK_BYTES, WHOLE_BYTES, recording_digest


def test_a_video_and_an_image_are_identified_by_their_sha256(tmp_path: Path) -> None:
    video = write_video(tmp_path / "gate.mp4", film([], 3))
    image = tmp_path / "car.png"
    cv2.imwrite(str(image), np.zeros((8, 8, 3), np.uint8))
    for path in (video, image):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        with open_source(str(path)) as source:
            assert {frame.recording for frame in source} == {digest}
            assert source.recordings == {digest}


def test_the_digest_of_a_large_file_covers_its_size_its_ends_and_blocks_between(tmp_path: Path) -> None:
    path = tmp_path / "day.mp4"

    def digest(size: int, *changed: int) -> str:
        with path.open("wb") as file:
            file.truncate(size)  # a sparse file, which needs no disk space
            for place in changed:
                file.seek(place)
                file.write(b"x")
        return recording_digest(path)

    size = WHOLE_BYTES + 100 * BLOCK_BYTES
    digests = [digest(size), digest(size + 1), digest(size, 0), digest(size, size - 1)]
    digests += [digest(size, *range(0, size, 2 * BLOCK_BYTES))]
    assert len(set(digests)) == len(digests)
    assert digest(size) == digests[0]
