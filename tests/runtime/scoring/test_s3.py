"""Inputs and outputs in S3 and Azure, on loopback servers, and in file systems of fsspec."""

from __future__ import annotations

import http.server
import io
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec import AbstractFileSystem

from tests.support.clips import RED_BGR, drive_by, film, write_video
from tests.support.s3 import S3Server, s3_server
from tests.support.score_toys import name_of, picture, pictures, read_rows, tar_of
from tests.support.servers import web_server
from twincar_edge.errors import InputError
from twincar_edge.images import ImageError
from twincar_edge.runtime.scoring.containers import rows_of_parquet, rows_of_tar
from twincar_edge.runtime.scoring.entries import Entry
from twincar_edge.runtime.scoring.file_systems import reason
from twincar_edge.runtime.scoring.inputs import entries_of
from twincar_edge.runtime.scoring.plan import read_partition
from twincar_edge.runtime.scoring.score import ScoreConfig, ScoreReport, score
from twincar_edge.runtime.scoring.storage import join, storage_of


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with pytest.MonkeyPatch.context() as patch, s3_server() as running:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        running.filesystem.create_dir("archive")
        yield running


def run(source: str, output: str, model: Path, resume: bool = False) -> ScoreReport:
    return score(ScoreConfig(source, output, model, ep="cpu", workers=1, partition_size=4, resume=resume))


def rows_in(server: S3Server, folder: str) -> list[dict[str, object]]:
    table = pq.read_table(folder, filesystem=server.filesystem)
    return sorted(table.to_pylist(), key=lambda row: str(row["path"]))


def test_a_bucket_is_scored_into_a_bucket_and_resumed(server: S3Server, model: Path) -> None:
    for number in range(9):
        server.put(f"archive/cars/day{number % 2}/{number}.png", picture(number))
    server.put("archive/cars/day0/bad.png", b"no image")
    report = run(server.url("archive/cars"), server.url("archive/names"), model)
    assert (report.rows, report.errors, report.partitions) == (10, 1, 3)
    server.filesystem.delete_file("archive/names/part-000001.parquet")
    report = run(server.url("archive/cars"), server.url("archive/names"), model, resume=True)
    assert (report.rows, report.resumed) == (10, 2)
    found = {row["path"]: row["name"] for row in rows_in(server, "archive/names")}
    expected = {f"s3://archive/cars/day{number % 2}/{number}.png": name_of(number) for number in range(9)}
    assert found == expected | {"s3://archive/cars/day0/bad.png": None}


def test_tars_parquet_patterns_and_videos_are_read_from_a_bucket(server: S3Server, model: Path, tmp_path: Path) -> None:
    server.put("archive/mixed/shard.tar", tar_of([("0.png", picture(0)), ("1.png", picture(1))]))
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": [picture(2)]}), buffer)
    server.put("archive/mixed/images.parquet", buffer.getvalue())
    clip = write_video(tmp_path / "gate.mp4", film([drive_by(RED_BGR, 5)], 45))
    server.put("archive/mixed/gate.mp4", clip.read_bytes())
    report = run(server.url("archive/mixed"), str(tmp_path / "out"), model)
    assert (report.rows, report.errors) == (4, 0)
    names = {str(row["path"]).rpartition("/")[2]: row for row in read_rows(tmp_path / "out")}
    assert names["gate.mp4"]["visit_id"] is not None
    found = {entry.path.partition("?")[0] for entry in entries_of(server.url("archive/mixed/*.tar"))}
    assert found == {"s3://archive/mixed/shard.tar"}


def test_a_local_list_may_name_objects_and_a_missing_one_is_a_row_with_an_error(
    server: S3Server, model: Path, tmp_path: Path
) -> None:
    server.put("archive/listed/0.png", picture(0))
    urls = [server.url("archive/listed/0.png"), server.url("archive/listed/gone.png")]
    pq.write_table(pa.table({"url": urls}), tmp_path / "list.parquet")
    report = run(str(tmp_path / "list.parquet"), str(tmp_path / "out"), model)
    assert (report.rows, report.errors) == (2, 1)
    assert "No such file" in str(read_rows(tmp_path / "out")[1]["error"])


def test_a_missing_bucket_is_a_one_line_error(server: S3Server, model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot list s3://nosuch/cars: .*NO_SUCH_BUCKET"):
        run(server.url("nosuch/cars"), str(tmp_path / "out"), model)
    folder = pictures(tmp_path / "cars", 1)
    with pytest.raises(InputError, match=r"cannot (read|write|list) s3://nosuch/names.*NO_SUCH_BUCKET"):
        run(str(folder), server.url("nosuch/names"), model)


def test_missing_permission_is_a_one_line_error(server: S3Server, model: Path, tmp_path: Path) -> None:
    server.put("archive/closed/0.png", picture(0))
    folder = pictures(tmp_path / "cars", 1)
    pq.write_table(pa.table({"url": [server.url("archive/closed/0.png")]}), tmp_path / "list.parquet")
    with server.requiring_credentials():
        for source in (server.url("archive/closed"), str(tmp_path / "list.parquet")):
            with pytest.raises(InputError, match=r"cannot (read|list) s3://archive/closed.*ACCESS_DENIED"):
                run(source, str(tmp_path / f"out-{len(source)}"), model)
        with pytest.raises(InputError, match=r"cannot (read|write) s3://archive/closed-names"):
            run(str(folder), server.url("archive/closed-names"), model)


@pytest.mark.parametrize("place", ["cars@account.dfs.core.windows.net", "account.blob.core.windows.net/cars"])
def test_each_form_of_an_azure_url_names_its_container(place: str) -> None:
    class Azure(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            there = self.path == "/account/cars/day/0.png"
            self.send_response(200 if there else 404)
            headers = {"Content-Length": "3" if there else "0", "ETag": '"1"', "x-ms-blob-type": "BlockBlob"}
            moments = dict.fromkeys(("Last-Modified", "x-ms-creation-time"), "Fri, 26 Jun 2015 23:39:12 GMT")
            for name, value in (headers | moments | {"x-ms-server-encrypted": "true"}).items():
                self.send_header(name, value)
            self.end_headers()
            if there and self.command == "GET":
                self.wfile.write(b"car")

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None: ...

    with web_server(Azure) as running:
        address = f"127.0.0.1:{running.server_address[1]}"
        query = f"?credential_kind=anonymous&enable_tls=false&blob_storage_authority={address}"
        storage = storage_of(f"abfs://{place}{query}")
        assert storage.read_image(f"abfs://{place}/day/0.png{query}") == b"car"
        with pytest.raises(ImageError, match=f"cannot read abfs://{place}/day/1.png: No such file"):
            storage.read_image(f"abfs://{place}/day/1.png{query}")


def test_the_query_of_a_url_is_in_no_message_and_not_in_the_run_file(model: Path, tmp_path: Path) -> None:
    folder, output = pictures(tmp_path / "cars", 1), tmp_path / "out"
    source, target = f"local://{folder}?signature=secret", f"local://{output}?key=secret"
    assert run(source, target, model).output == f"local://{output}"
    assert "secret" not in (output / "_run.json").read_text()
    assert run(source, target, model, resume=True).resumed == 1
    pictures(folder, 2)
    with pytest.raises(InputError, match="has a run over another input") as other:
        run(source, target, model, resume=True)
    (output / "_list" / "00000.parquet").write_bytes(b"damaged")
    with pytest.raises(InputError, match="cannot read the run's list local://") as damaged:
        read_partition(target, 0)
    (output / "_run.json").write_text("{}")
    with pytest.raises(InputError, match=r"out/_run\.json is not a run file") as foreign:
        run(source, target, model, resume=True)
    assert "secret" not in f"{other.value} {damaged.value} {foreign.value}"


def test_the_query_of_a_url_is_not_in_the_reason_of_an_error() -> None:
    error = OSError("403 at 'https://host/a.tar?signature=secret', try later (Request ID: 7)\nmore")
    assert reason(error) == "403 at 'https://host/a.tar', try later"


@pytest.mark.parametrize("scheme", ["file", "local"])
def test_pyarrow_opens_urls_and_fsspec_those_that_it_does_not(tmp_path: Path, scheme: str) -> None:
    pictures(tmp_path / "cars", 2)
    url = f"{scheme}://{tmp_path}"
    storage = storage_of(url)
    storage.write(join(url, "deep", "new.txt"), b"text")
    assert (tmp_path / "deep" / "new.txt").read_bytes() == b"text"
    assert len(list(entries_of(join(url, "cars")))) == 2
    with storage.open(join(url, "cars", "car_00.png")) as file:
        assert file.read() == picture(0)


class ServiceError(Exception):
    """An error of a service's own client library, like httpx's and botocore's."""


class FailingFiles(AbstractFileSystem):
    """A service whose connection fails: at once, or when a file is read."""

    protocol = "failing"

    def info(self, path: str, **_: object) -> dict[str, object]:
        if "away" in path:
            raise ServiceError("no route to host")
        return {"name": path, "size": 9, "type": "directory" if path.endswith("folder") else "file"}

    def ls(self, path: str, detail: bool = True, **_: object) -> list[object]:
        raise ServiceError("no route to host")

    find = ls

    def open(self, path: str, *_: object, **__: object) -> BrokenFile:
        if "closed" in path:
            raise ServiceError("no route to host")
        return BrokenFile(b"PAR1" * 9)


class BrokenFile(io.BytesIO):
    def read(self, *_: object) -> bytes:
        raise ServiceError("no route to host")


@pytest.mark.parametrize("name", ["away.csv", "closed.csv", "list.csv", "list.parquet", "folder"])
def test_any_error_of_a_service_is_reported_in_one_line(name: str) -> None:
    fsspec.register_implementation("failing", FailingFiles, clobber=True)
    with pytest.raises(InputError, match="no route to host"):
        list(entries_of(f"failing://bucket/{name}"))


@pytest.mark.parametrize("name", ["broken.tar", "broken.parquet"])
def test_a_service_that_fails_does_not_damage_its_archives(name: str) -> None:
    fsspec.register_implementation("failing", FailingFiles, clobber=True)
    entry = Entry("tar", f"failing://bucket/{name}", column="image")
    read = rows_of_tar if name.endswith("tar") else rows_of_parquet
    with pytest.raises(InputError, match=f"^cannot read {entry.path}: no route to host$"):
        list(read(entry))


@pytest.mark.parametrize("name", ["closed.jpg", "broken.jpg"])
def test_a_service_that_fails_does_not_make_its_images_unreadable(name: str) -> None:
    fsspec.register_implementation("failing", FailingFiles, clobber=True)
    url = f"failing://bucket/{name}"
    with pytest.raises(InputError, match=f"cannot read {url}: no route to host"):
        storage_of(url).read_image(url)
    with pytest.raises(InputError, match=f"cannot read {url}: no route to host"), storage_of(url).local_file(url):
        pass
