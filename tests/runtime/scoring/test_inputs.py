"""The entries of inputs: folders, patterns, lists, tars, Parquet."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.score_toys import picture, pictures, tar_of
from twincar_edge.errors import InputError
from twincar_edge.runtime.scoring.entries import Entry, ListDigest
from twincar_edge.runtime.scoring.inputs import entries_of
from twincar_edge.runtime.scoring.plan import digest_of, read_partition, write_plan


def paths(source: object) -> set[str]:
    return {entry.path for entry in entries_of(str(source))}


def test_folders_are_searched_recursively_without_hidden_files(tmp_path: Path) -> None:
    pictures(tmp_path / "a" / "b", 2)
    (tmp_path / "clip.mp4").write_bytes(b"video")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = {entry.path.removeprefix(f"{tmp_path}/"): entry.kind for entry in entries_of(str(tmp_path))}
    assert found == {"a/b/car_00.png": "image", "a/b/car_01.png": "image", "clip.mp4": "video"}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.png", {"top.png"}),
        ("cam*/*.png", {"cam1/car.png", "cam2/car.png"}),
        ("**/*.png", {"top.png", "cam1/car.png", "cam1/deep/car.png", "cam2/car.png"}),
        ("cam[!1]/c?r.png", {"cam2/car.png"}),
        ("cam[^1]/c?r.png", {"cam2/car.png"}),
        ("cam1/**", {"cam1/car.png", "cam1/deep/car.png"}),
        ("**/deep/**/car.png", {"cam1/deep/car.png"}),
        ("cam{1..2}/car.png", {"cam1/car.png", "cam2/car.png"}),
    ],
)
def test_patterns_match_within_names_and_across_folders(tmp_path: Path, pattern: str, expected: set[str]) -> None:
    for name in ("top.png", "cam1/car.png", "cam1/deep/car.png", "cam2/car.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture(0))
    assert {path.removeprefix(f"{tmp_path}/") for path in paths(tmp_path / pattern)} == expected


@pytest.mark.parametrize("pattern", ["[z-a]*.png", "[!]*.png", "cam1/car.png/*"])
def test_a_pattern_that_matches_nothing_is_a_one_line_error(tmp_path: Path, pattern: str) -> None:
    pictures(tmp_path, 1)
    with pytest.raises(InputError, match="no file to score matches"):
        paths(tmp_path / pattern)


def test_list_paths_are_relative_to_the_list_or_absolute(tmp_path: Path) -> None:
    pictures(tmp_path, 1)
    (tmp_path / "list.csv").write_text("id,path\n1,car_00.png\n2,/archive/b.jpg\n3,s3://bucket/c.jpg\n")
    assert paths(tmp_path / "list.csv") == {f"{tmp_path}/car_00.png", "/archive/b.jpg", "s3://bucket/c.jpg"}
    pq.write_table(pa.table({"filename": ["car_00.png", "/archive/b.jpg"]}), tmp_path / "list.parquet")
    assert paths(tmp_path / "list.parquet") == {f"{tmp_path}/car_00.png", "/archive/b.jpg"}


def test_list_paths_are_relative_to_an_images_folder_beside_it(tmp_path: Path) -> None:
    pictures(tmp_path / "images", 2)
    (tmp_path / "labels.csv").write_text("filename,label\ncar_00.png,1\ncar_01.png,0\n")
    assert paths(tmp_path / "labels.csv") == {f"{tmp_path}/images/car_0{number}.png" for number in range(2)}


def test_images_in_parquet_become_one_entry_per_row_group(tmp_path: Path) -> None:
    table = pa.table({"image": [{"bytes": picture(n), "path": None} for n in range(5)], "label": list(range(5))})
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "train-0.parquet", row_group_size=2)
    found = [(entry.kind, entry.group, entry.row, entry.size) for entry in entries_of(str(tmp_path))]
    assert found == [("rows", 0, 0, 2), ("rows", 1, 2, 2), ("rows", 2, 4, 1)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.png", None, "No such file"),
        ("folder", "", "nothing to score in "),
        ("*.png", None, "no file to score matches"),
        ("list.csv", "a,b\n1,2\n", "needs a column path"),
        ("list.csv", "path\na.jpg\n\n,\n", "row 2 has no file name"),
        ("list.csv", b"path\n\xff\n", "not UTF-8"),
        ("list.parquet", "no parquet", "cannot be read as Parquet"),
        ("car.txt", "text", "unknown suffix of"),
        ("nosuch://bucket/a?signature=secret", None, "cannot open nosuch://bucket"),
        ("local:///nosuch-{0..2000000}.tar?signature=secret", None, "names more than 1,000,000 files"),
        ("abfs://container:secret@account.dfs.core.windows.net/a", None, "contains a user or password"),
        ("s3://key:secret@bucket/a", None, "contains a user or password"),
    ],
)
def test_an_unusable_input_is_a_one_line_error(
    tmp_path: Path, name: str, content: str | bytes | None, message: str
) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message) as raised:
        list(entries_of(name if "://" in name else str(path)))
    assert "secret" not in str(raised.value)


def test_the_digest_of_a_list_depends_on_its_entries_but_not_on_their_order() -> None:
    def digest(*names: str) -> str:
        found = ListDigest()
        for name in names:
            found.add(Entry("image", name))
        return found.hexdigest()

    assert digest("a", "b") == digest("b", "a")
    assert len({digest("a", "b"), digest("a"), digest("a", "b", "b"), digest("ab")}) == 4


def test_a_partition_can_be_read_without_the_rest_of_the_list(tmp_path: Path) -> None:
    strange = os.fsdecode(b"/archive/\xff.jpg")  # not UTF-8
    entries = [Entry("image", f"/archive/{number}.jpg") for number in range(6)] + [Entry("image", strange)]
    plan = write_plan(str(tmp_path), iter(entries), 3)
    assert (plan.partitions, plan.entries, plan.digest) == (3, 7, digest_of(entries).hexdigest())
    assert [entry for number in range(3) for entry in read_partition(str(tmp_path), number)] == entries


def test_many_small_videos_share_a_partition_and_large_ones_do_not(tmp_path: Path) -> None:
    sizes = [2**20] * 10 + [2**30] * 2
    plan = write_plan(str(tmp_path), (Entry("video", f"{n}.mp4", size) for n, size in enumerate(sizes)), 2000)
    assert [len(read_partition(str(tmp_path), number)) for number in range(plan.partitions)] == [10, 1, 1]


def test_a_tar_is_one_entry(tmp_path: Path) -> None:
    (tmp_path / "shard-0.tar").write_bytes(tar_of([("0.png", picture(0))]))
    assert [entry.kind for entry in entries_of(str(tmp_path / "shard-{0..0}.tar"))] == ["tar"]
