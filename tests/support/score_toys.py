"""Archives of small pictures for `score`, and readers of its output."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.clips import BLUE_BGR, GREEN_BGR, RED_BGR
from tests.support.tiny_model import BLUE, GREEN, RED

COLORS = ((RED_BGR, RED), (GREEN_BGR, GREEN), (BLUE_BGR, BLUE))


def picture(number: int) -> bytes:
    """Return a PNG of one color: red, green and blue in turn."""
    done, data = cv2.imencode(".png", np.full((40, 60, 3), COLORS[number % 3][0], np.uint8))
    assert done
    return data.tobytes()


def name_of(number: int) -> str:
    """Return the name that the tiny model gives to `picture(number)`."""
    return COLORS[number % 3][1]


def pictures(folder: Path, count: int) -> Path:
    """Write `count` pictures as `car_00.png` and so on; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"car_{number:02d}.png").write_bytes(picture(number))
    return folder


def tar_of(members: Iterable[tuple[str, bytes]]) -> bytes:
    """Return a tar archive of these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def read_rows(output: Path) -> list[dict[str, Any]]:
    """Return all rows of an output, sorted by path."""
    files = sorted(output.glob("part-*.parquet"))  # a killed worker may leave a temporary file
    rows = pa.concat_tables([pq.read_table(file) for file in files]).to_pylist()
    return sorted(rows, key=lambda row: str(row["path"]))


def names_by_file(output: Path) -> dict[str, str | None]:
    """Return the name in each row by file name; a file with two rows is an error."""
    rows = read_rows(output)
    found = {str(row["path"]).rpartition("/")[2]: row["name"] for row in rows}
    assert len(found) == len(rows), "a file has two rows"
    return found
