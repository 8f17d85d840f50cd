"""Damaged and hostile tars and Parquet files: the images before the damage, then a row that says what is wrong."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.score_toys import picture, tar_of
from twincar_edge.errors import InputError
from twincar_edge.runtime.scoring.containers import rows_of_parquet, rows_of_tar
from twincar_edge.runtime.scoring.entries import Entry
from twincar_edge.runtime.scoring.inputs import entries_of

BLOCK = 512
END = bytes(2 * BLOCK)
MEMBER = tar_of([("0.png", picture(0))])[: 2 * BLOCK]


def header(kind: bytes, size: int, *, sparse_extensions: bool = False) -> bytes:
    """Return the header block of a member."""
    member = tarfile.TarInfo("next.png")
    member.type, member.size = kind, size
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    block[482] = sparse_extensions
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(records: dict[str, str]) -> bytes:
    """Return a PAX header with these records."""
    return header(b"x", len(data := tarfile.TarInfo.create_pax_global_header(records)[BLOCK:])) + data


def read(path: Path, data: bytes) -> tuple[int, str]:
    """Return how many images a tar yields, and the message of its last row, if that is an error."""
    path.write_bytes(data)
    rows = list(rows_of_tar(Entry("tar", str(path))))
    problem = rows[-1].problem or ""
    return len([row for row in rows if row.data]), problem.removeprefix(f"cannot read all of {path} as a tar: ")


@pytest.mark.parametrize(
    ("rest", "problem"),
    [
        (header(b"0", 5)[:200], "truncated header"),
        (b"!" + header(b"0", 5)[1:] + MEMBER + END, "bad checksum"),
        (header(b"0", 5 * BLOCK), "unexpected end of data"),
        (header(b"0", -BLOCK) + END, "a negative size"),
        (header(b"x", -(2**62)) + END, "a negative size"),
        (header(b"0", 2**70) + END, "unexpected end of data"),  # `tarfile` would look for its end almost forever
        (pax({"comment": "x"}) * 1000 + END, "maximum recursion depth exceeded"),
    ],
    ids=["cut in a header", "damaged header", "cut in data", "back", "all of it", "far away", "nested"],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_damage_of_a_tar_is_an_error_after_the_images_before_it(
    tmp_path: Path, rest: bytes, problem: str, compressed: bool
) -> None:
    data = MEMBER + rest
    count, found = read(tmp_path / "shard.tar", gzip.compress(data) if compressed else data)
    assert (count, found[: len(problem)]) == (1, problem)


def test_a_tar_may_lack_the_mark_of_its_end_and_be_compressed_in_parts(tmp_path: Path) -> None:
    assert read(tmp_path / "shard.tar", MEMBER) == (1, "")
    assert read(tmp_path / "shard.tar", gzip.compress(MEMBER) + gzip.compress(MEMBER + END)) == (2, "")


def test_a_truncated_gzip_file_is_an_error(tmp_path: Path) -> None:
    whole = gzip.compress(tar_of((f"{number}.png", picture(number)) for number in range(3)))
    for end in (3, 11, len(whole) // 3):
        assert "ended before the end-of-stream marker" in read(tmp_path / "shard.tar.gz", whole[:end])[1]


@pytest.mark.parametrize(
    ("start", "block"),
    [
        *((header(kind, 4 << 30), bytes(BLOCK)) for kind in (b"x", b"g", b"L", b"K")),
        (header(b"S", 9, sparse_extensions=True), bytes(504) + b"\1" + bytes(7)),
        (pax({"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}) + header(b"0", 4 << 30), b"9999999\n" + b"1\n" * 252),
    ],
    ids=["pax", "global pax", "long name", "long link", "sparse", "sparse in data"],
)
def test_the_memory_for_headers_is_bounded(tmp_path: Path, start: bytes, block: bytes) -> None:
    data = gzip.compress(MEMBER + start + block * 2**13, 1)
    assert read(tmp_path / "bomb.tar.gz", data) == (1, "headers of more than 1024 KiB")


def test_the_memory_for_global_headers_is_bounded_in_sum(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    for number in range(40):
        records = {f"key.{number}.{part}": "x" * 5000 for part in range(10)}
        buffer.write(tarfile.TarInfo.create_pax_global_header(records))
        buffer.write(MEMBER)
    count, problem = read(tmp_path / "shard.tar", buffer.getvalue() + END)
    assert (10 < count < 30, problem) == (True, "headers of more than 1024 KiB")


@pytest.mark.parametrize("value", ["text", 7, None])
def test_a_column_of_images_needs_bytes(tmp_path: Path, value: object) -> None:
    path = tmp_path / "cars.parquet"
    pq.write_table(pa.table({"image": [{"bytes": value}]}), path)
    with pytest.raises(InputError, match=r"needs a column .* or image bytes in .*; found image \(struct<bytes: "):
        list(entries_of(str(path)))


def test_a_column_of_images_may_be_large_or_repeated(tmp_path: Path) -> None:
    path, images = tmp_path / "cars.parquet", pa.array([picture(0)], pa.large_binary())
    for table in (pa.table({"image": images}), pa.Table.from_arrays([images, images], ["image", "image"])):
        pq.write_table(table, path)
        (entry,) = entries_of(str(path))
        assert [row.data for row in rows_of_parquet(entry)] == [picture(0)]


@pytest.mark.parametrize("table", [{"image": [7]}, {"image": [{"bytes": "text"}]}, {"crop": [b"image"]}])
def test_a_parquet_file_that_has_changed_since_it_was_listed_is_an_error(
    tmp_path: Path, table: dict[str, list[object]]
) -> None:
    path = tmp_path / "cars.parquet"
    pq.write_table(pa.table(table), path)
    (row,) = rows_of_parquet(Entry("rows", str(path), 1, 0, 0, "image"))
    assert row.data is None
    assert row.problem
