"""Inputs behind http:// URLs, from a loopback server that checks a signature in the query."""

from __future__ import annotations

import http.server
import io
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.clips import RED_BGR, drive_by, film, write_video
from tests.support.disks import small_disk
from tests.support.score_toys import name_of, picture, pictures, read_rows, tar_of
from tests.support.servers import free_port, web_server
from twincar_edge.errors import InputError
from twincar_edge.files import sha256
from twincar_edge.runtime.scoring.entries import Entry
from twincar_edge.runtime.scoring.inputs import entries_of
from twincar_edge.runtime.scoring.plan import digest_of, read_partition, renew_queries, write_plan
from twincar_edge.runtime.scoring.score import ScoreConfig, ScoreReport, score
from twincar_edge.runtime.scoring.stage import Stage, StageConfig

pytest.importorskip("aiohttp")

SIGNED = "?signature=a%2Fb"


class Server:
    """A server of these files.

    Attributes:
        url: the address, without a slash at the end.
        files: path -> content.
        query: what each request needs.
        cut: whether the connection is closed after half of each answer.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.files: dict[str, bytes] = {}
        self.query = "signature=a/b"
        self.cut = False


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            # Services compare decoded values, and some deny access to a name that they do not have.
            if unquote(query) != found.query or ".." in path:
                self.send_error(403)
            elif path not in found.files:
                self.send_error(404)
            else:
                self.answer(found.files[path])

        def answer(self, data: bytes) -> None:
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            first, last = (int(asked[1]), min(int(asked[2]), len(data) - 1)) if asked else (0, len(data) - 1)
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            self.send_header("Content-Length", str(last + 1 - first))
            self.end_headers()
            self.wfile.write(data[first : first + (last + 1 - first) // (2 if found.cut else 1)])

        def log_message(self, *_: Any) -> None: ...

    with web_server(Handler) as running:  # a signature is for one method, so it answers HEAD with 501
        found = Server(running.server_address[1])
        yield found


def run(source: str, output: Path | str, model: Path, **options: Any) -> ScoreReport:
    return score(ScoreConfig(source, str(output), model, ep="cpu", workers=1, **options))


def test_each_kind_of_file_is_read_from_a_web_server_with_its_query(
    server: Server, model: Path, tmp_path: Path
) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": [picture(2), picture(3)]}), buffer)
    clip = write_video(tmp_path / "gate.mp4", film([drive_by(RED_BGR, 5)], 45))
    server.files = {
        "/crops/0.png": picture(0),
        "/crops/shard-0.tar": tar_of([("1.png", picture(1))]),
        "/crops/images.parquet": buffer.getvalue(),
        "/crops/gate.mp4": clip.read_bytes(),
        "/crops/list.csv": b"path\n0.png\ngone.png\nshard-0.tar\ngate.mp4\n",
    }
    crops = f"{server.url}/crops"
    report = run(f"{crops}/list.csv{SIGNED}", tmp_path / "list", model)
    assert (report.rows, report.errors) == (4, 1)
    rows = {row["path"].removeprefix(f"{crops}/"): row for row in read_rows(tmp_path / "list")}
    assert set(rows) == {"0.png", "gone.png", "shard-0.tar#1.png", "gate.mp4"}
    assert rows["gone.png"]["error"] == f"cannot read {crops}/gone.png: No such file or directory"
    assert rows["shard-0.tar#1.png"]["name"] == name_of(1)
    assert rows["gate.mp4"]["visit_id"] is not None
    assert run(f"{crops}/images.parquet{SIGNED}", tmp_path / "parquet", model).errors == 0
    assert [row["name"] for row in read_rows(tmp_path / "parquet")] == [name_of(2), name_of(3)]
    assert run(f"{crops}/shard-{{0..0}}.tar{SIGNED}", tmp_path / "range", model).rows == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/crops/0.png?signature=secret", "/crops/0.png: 403 Forbidden"),
        (f"/crops/gone.png{SIGNED}", "/crops/gone.png: No such file; a web server has no folders, so name its files"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_one_line_error(
    server: Server, model: Path, tmp_path: Path, source: str, message: str
) -> None:
    with pytest.raises(InputError) as raised:
        run(f"{server.url}{source}", tmp_path / "out", model)
    assert str(raised.value) == f"cannot read {server.url}{message}"


def test_a_server_that_does_not_answer_stops_the_run(model: Path, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    (tmp_path / "list.csv").write_text(f"path\n{url}/0.png?signature=secret\n")
    for source in (f"{url}/0.png?signature=secret", str(tmp_path / "list.csv")):
        with pytest.raises(InputError, match=rf"cannot read {url}/0\.png: Cannot connect to host") as raised:
            run(source, tmp_path / f"out-{len(source)}", model)
        assert "secret" not in str(raised.value)


@pytest.fixture
def archive(server: Server, tmp_path: Path) -> Server:
    """A server with three images in a tar and in a Parquet file, and a video."""
    images, buffer = [picture(number) for number in range(3)], io.BytesIO()
    pq.write_table(pa.table({"image": images}), buffer)
    clip = write_video(tmp_path / "gate.mp4", film([drive_by(RED_BGR, 5)], 45))
    tar = tar_of((f"{number}.png", image) for number, image in enumerate(images))
    server.files = {"/cars.tar": tar, "/cars.parquet": buffer.getvalue(), "/gate.mp4": clip.read_bytes()}
    return server


@pytest.mark.parametrize("name", ["cars.tar", "cars.parquet", "gate.mp4"])
def test_a_connection_that_breaks_within_a_file_stops_the_run(
    archive: Server, model: Path, tmp_path: Path, name: str
) -> None:
    url = f"{archive.url}/{name}"
    entries = list(entries_of(url + SIGNED))
    stage = Stage(StageConfig(str(tmp_path), "run", model, sha256(model), ep="cpu"))
    archive.cut = True
    with pytest.raises(InputError, match=rf"^cannot read {url}: "):
        list(stage.rows(entries))
    archive.cut = False
    assert not any(row.get("error") for row in stage.rows(entries))


def listing(path: Path, server: Server, query: str, *names: str) -> str:
    """Write a list of signed URLs; return its path."""
    path.write_text("path\n" + "".join(f"{server.url}/{name}?{query}\n" for name in names))
    return str(path)


def test_a_run_resumes_with_renewed_signatures(archive: Server, model: Path, tmp_path: Path) -> None:
    archive.files |= {f"/{number}.png": picture(number) for number in range(3)}
    names, output, path = ("0.png", "1.png", "2.png", "cars.tar"), tmp_path / "out", tmp_path / "list.csv"
    source = listing(path, archive, archive.query, *names)
    assert run(source, output, model, partition_size=1).partitions == 4
    for name in ("part-000001.parquet", "part-000003.parquet"):
        (output / name).unlink()
    listing(path, archive, "signature=wrong", *reversed(names[:3]), "cars.tar")
    with pytest.raises(InputError, match="403 Forbidden"):
        run(source, output, model, resume=True)
    archive.query = "signature=new"
    listing(path, archive, archive.query, *reversed(names))
    with pytest.raises(InputError, match="over these URLs with other queries, in another order: use the same input"):
        run(source, output, model, resume=True)
    listing(path, archive, archive.query, *names)
    report = run(source, output, model, resume=True)
    assert (report.rows, report.errors, report.resumed) == (6, 0, 2)
    assert {str(row["path"]).rpartition("/")[2] for row in read_rows(output)} == {
        *names[:3], "cars.tar#0.png", "cars.tar#1.png", "cars.tar#2.png"
    }  # fmt: skip


def test_a_run_resumes_although_its_version_digested_the_signatures(
    archive: Server, model: Path, tmp_path: Path
) -> None:
    source, output = listing(tmp_path / "list.csv", archive, archive.query, "cars.tar"), tmp_path / "out"
    run(source, output, model)
    recorded, digest = output / "_run.json", digest_of(entries_of(source))
    recorded.write_text(recorded.read_text().replace(digest.hexdigest(), digest.with_queries()))
    assert digest.with_queries() in recorded.read_text()
    assert run(source, output, model, resume=True).rows == 3


def test_queries_that_tell_files_apart_are_not_renewed(tmp_path: Path) -> None:
    old, new = ([Entry("image", f"https://host/get?id={number}") for number in numbers] for numbers in ("12", "34"))
    write_plan(str(tmp_path), old, 9)
    renew_queries(str(tmp_path), 1, digest_of(old), old)
    with pytest.raises(InputError, match="over these URLs with other queries, which tell its files apart"):
        renew_queries(str(tmp_path), 1, digest_of(new), new)
    assert read_partition(str(tmp_path), 0) == old


@pytest.mark.parametrize(("name", "rows"), [("cars.tar", 3), ("gate.mp4", 1)])
def test_resume_scores_a_file_again_within_which_the_connection_broke(
    archive: Server, model: Path, tmp_path: Path, name: str, rows: int
) -> None:
    source, output = f"{archive.url}/{name}{SIGNED}", tmp_path / "out"
    archive.cut = True
    with pytest.raises(InputError, match="cannot read"):
        run(source, output, model)
    archive.cut = False
    report = run(source, output, model, resume=True)
    assert (report.rows, report.errors) == (rows, 0)


def test_a_full_temporary_folder_stops_the_run(
    archive: Server, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.files["/gate.mp4"] += bytes(2**20)
    with small_disk(tmp_path / "disk", "500k") as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        with pytest.raises(InputError, match=r"cannot copy .*/gate\.mp4 to the temporary folder: No space left on dev"):
            run(f"{archive.url}/gate.mp4{SIGNED}", tmp_path / "out", model)
        assert list(disk.iterdir()) == []


def test_an_output_on_a_web_server_is_refused(server: Server, model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="HTTP is read-only; name a folder or an object store"):
        run(str(pictures(tmp_path / "cars", 1)), f"{server.url}/out{SIGNED}", model)


@pytest.mark.parametrize("url", ["https://key:secret@host/a.png", "https://secret@host/a.png"])
def test_credentials_in_a_web_address_are_refused(model: Path, tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError, match=r"contains a user or password: pass them in ~/\.netrc instead") as raised:
        run(url, tmp_path / "out", model)
    assert "secret" not in str(raised.value)
