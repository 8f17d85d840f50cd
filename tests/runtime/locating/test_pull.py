"""Pulling stores a complete, verified official detector in the state folder, or nothing. The servers are real."""

from __future__ import annotations

import hashlib
import http.server
import socket
import ssl
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.detector_toys import red_detector
from tests.support.servers import free_port, make_certificates, web_server
from twincar_edge.errors import InputError
from twincar_edge.runtime.locating import download as downloading
from twincar_edge.runtime.locating.download import download
from twincar_edge.runtime.locating.pull import pull_detector, take_detector
from twincar_edge.runtime.locating.pulled import OFFICIAL, OfficialDetector, pulled_detector

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@dataclass
class Release:
    """A server of release files, by path."""

    url: str = ""
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        state = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                state.asked.append(self.path)
                if self.path in state.answers:
                    state.answers[self.path](self)
                else:
                    self.send_error(404)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        return Handler


def gives(data: bytes, claimed: int | None = None) -> Answer:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(data) if claimed is None else claimed))
        request.end_headers()
        request.wfile.write(data)

    return answer


def redirects(url: str) -> Answer:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", url)
        request.end_headers()

    return answer


def never_ends(request: http.server.BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    try:
        while True:
            request.wfile.write(b"x" * 4096)
    except OSError:
        pass  # the reader has disconnected, as it should


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def release() -> Iterator[Release]:
    state = Release()
    with web_server(state.handler()) as server:
        state.url = f"http://127.0.0.1:{server.server_port}"
        yield state


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes]:
    """The bytes of small detectors that replace the official ones."""
    files = {}
    for name, classes in (("nano", 80), ("tiny", 3)):
        data = red_detector(tmp_path / f"{name}.onnx", ((0, 0.9),), ((0, 0.9),), classes=classes).read_bytes()
        known = OfficialDetector(OFFICIAL[name].file_name, len(data), hashlib.sha256(data).hexdigest())
        monkeypatch.setitem(OFFICIAL, name, known)
        files[name] = data
    return files


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def nothing_in(state: Path) -> bool:
    return pulled_detector(state) is None and list((state / "detectors").glob("**/*")) == []


# --- the table of official files ---


def test_the_official_files_come_from_the_release_over_https_and_have_digests() -> None:
    assert [one.url for one in OFFICIAL.values()] == [
        "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0/yolox_nano.onnx",
        "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0/yolox_tiny.onnx",
    ]
    assert all(len(bytes.fromhex(one.sha256)) == 32 for one in OFFICIAL.values())


# --- from the network ---


def test_the_official_file_is_stored_in_the_state_folder(
    release: Release, official: dict[str, bytes], state: Path
) -> None:
    release.answers["/nano"] = gives(official["nano"])
    announced: list[OfficialDetector] = []
    path = pull_detector(state=state, url=f"{release.url}/nano", announce=announced.append)
    assert path == state / "detectors" / "yolox_nano.onnx" == pulled_detector(state)
    assert path.read_bytes() == official["nano"]
    assert stat.S_IMODE(state.stat().st_mode) == 0o750
    assert announced == [OFFICIAL["nano"]]


def test_an_existing_detector_is_downloaded_again_only_if_damaged(
    release: Release, official: dict[str, bytes], state: Path
) -> None:
    release.answers["/nano"] = gives(official["nano"])
    path = pull_detector(state=state, url=f"{release.url}/nano")
    assert pull_detector(state=state, url=f"{release.url}/nano") == path
    assert release.asked == ["/nano"]
    path.write_bytes(official["nano"][:-1] + b"?")
    with pytest.raises(InputError, match=r"yolox_nano\.onnx is damaged: .* run `twincar-edge detector pull` again"):
        pulled_detector(state)
    pull_detector(state=state, url=f"{release.url}/nano")
    assert pulled_detector(state) == path


def test_another_detector_replaces_the_existing_one(release: Release, official: dict[str, bytes], state: Path) -> None:
    release.answers = {"/nano": gives(official["nano"]), "/tiny": gives(official["tiny"])}
    for name in ("nano", "tiny", "nano"):
        path = pull_detector(name, state=state, url=f"{release.url}/{name}")
        assert pulled_detector(state) == path
        assert [file.name for file in path.parent.iterdir()] == [f"yolox_{name}.onnx"]


def test_an_unknown_detector_is_an_error_that_lists_the_known_ones(state: Path) -> None:
    with pytest.raises(InputError, match="no detector 'nanu': did you mean 'nano'"):
        pull_detector("nanu", state=state)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            lambda data: gives(data[:-1] + b"?"),
            "refused the file from http://.*: its SHA-256 is [0-9a-f]{64}, expected",
        ),
        (lambda data: gives(data[:100]), r"the answer ended after 100 of \d+ bytes"),
        (lambda data: gives(data[:100], len(data)), r"the answer ended after 100 of \d+ bytes"),
        (lambda data: gives(data + b"?"), "the answer is longer than the file"),
        (lambda _: never_ends, "the answer is longer than the file"),
        (lambda _: lambda request: request.send_error(503), "the server answers 503 Service Unavailable"),
        (lambda _: lambda request: request.wfile.write(b"220 no HTTP\r\n"), "invalid HTTP response"),
        (lambda _: redirects("http://127.0.0.1/nano?signature=s3cret"), "redirects to http://127.0.0.1, not to https"),
        (lambda _: redirects("ftp://127.0.0.1/nano"), "redirects to ftp://127.0.0.1, not to https"),
        (lambda _: redirects("file:///etc/passwd"), "the server answers 302"),
    ],
    ids=["digest", "short", "cut off", "long", "endless", "503", "no http", "to http", "to ftp", "to a file"],
)
def test_a_wrong_response_is_a_one_line_error_and_writes_nothing(
    release: Release,
    official: dict[str, bytes],
    state: Path,
    answer: Callable[[bytes], Answer],
    message: str,
) -> None:
    release.answers["/nano"] = answer(official["nano"])
    with pytest.raises(InputError, match=message) as caught:
        pull_detector(state=state, url=f"{release.url}/nano")
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert nothing_in(state)


def test_a_wrong_response_leaves_the_existing_detector(
    release: Release, official: dict[str, bytes], state: Path
) -> None:
    release.answers = {"/nano": gives(official["nano"]), "/tiny": gives(official["tiny"][:-1])}
    path = pull_detector(state=state, url=f"{release.url}/nano")
    with pytest.raises(InputError, match="answer ended"):
        pull_detector("tiny", state=state, url=f"{release.url}/tiny")
    assert pulled_detector(state) == path


def test_a_missing_file_and_a_missing_server_are_errors_with_a_remedy(
    release: Release, official: dict[str, bytes], state: Path
) -> None:
    with pytest.raises(InputError, match=r"404 Not Found; download it on another machine.* `file`"):
        pull_detector(state=state, url=f"{release.url}/nano")
    with pytest.raises(InputError, match="Connection refused; download it"):
        pull_detector(state=state, url=f"http://127.0.0.1:{free_port()}/nano")


def test_a_redirect_to_https_is_followed_if_its_certificate_is_trusted(
    release: Release, official: dict[str, bytes], state: Path, certificates: Path
) -> None:
    assets = Release(answers={"/asset": gives(official["nano"])})
    with web_server(assets.handler(), certificates) as server:
        release.answers["/nano"] = redirects(f"https://127.0.0.1:{server.server_port}/asset")
        stranger = ssl.create_default_context(cafile=certificates / "stranger.crt")
        with pytest.raises(InputError, match="its certificate is not trusted"):
            pull_detector(state=state, url=f"{release.url}/nano", context=stranger)
        assert nothing_in(state)
        trusted = ssl.create_default_context(cafile=certificates / "ca.crt")
        pull_detector(state=state, url=f"{release.url}/nano", context=trusted)
    assert pulled_detector(state) is not None


def test_circular_redirects_are_an_error(certificates: Path) -> None:
    circle = Release()
    with web_server(circle.handler(), certificates) as server:
        url = f"https://127.0.0.1:{server.server_port}/nano"
        circle.answers["/nano"] = redirects(url)
        with pytest.raises(InputError, match="the server answers 302"):
            download(url, 10, context=ssl.create_default_context(cafile=certificates / "ca.crt"))
    assert len(circle.asked) < 10


def test_the_proxy_of_the_environment_is_used(
    release: Release, official: dict[str, bytes], state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", release.url)
    release.answers["http://releases.invalid/nano"] = gives(official["nano"])
    pull_detector(state=state, url="http://releases.invalid/nano")
    assert release.asked == ["http://releases.invalid/nano"]


def test_a_silent_or_slow_server_times_out(release: Release) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(InputError, match="no answer in time"):
        download(f"http://127.0.0.1:{silent.getsockname()[1]}/nano", 10, wait_s=0.1)
    release.answers["/nano"] = gives(b"x" * 10)
    times = iter((0.0, 601.0))
    with pytest.raises(InputError, match="it takes longer than 600 s"):
        download(f"{release.url}/nano", 10, clock=lambda: next(times))


def test_an_endless_response_is_read_only_up_to_the_files_size(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The response is endless; the number of bytes read is bounded."""
    monkeypatch.setattr(downloading, "_CHUNK", 100)
    release.answers["/nano"] = never_ends
    times = iter(range(1000))
    with pytest.raises(InputError, match="longer than the file"):
        download(f"{release.url}/nano", 1000, clock=lambda: float(next(times)) / 1e9)
    assert next(times) <= 13


# --- from a file ---


def test_a_local_file_is_accepted_by_its_digest_under_any_name(
    official: dict[str, bytes], state: Path, tmp_path: Path
) -> None:
    for name, data in official.items():
        (tmp_path / "downloaded.bin").write_bytes(data)
        assert take_detector(tmp_path / "downloaded.bin", state=state) == pulled_detector(state)
        assert pulled_detector(state) == state / "detectors" / OFFICIAL[name].file_name


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"?", lambda _: b""])
def test_a_file_with_another_digest_is_refused(
    official: dict[str, bytes], state: Path, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "other.onnx").write_bytes(change(official["nano"]))
    with pytest.raises(
        InputError, match=r"refused .*other\.onnx: its SHA-256 .*; use your own detector with `detector`"
    ) as caught:
        take_detector(tmp_path / "other.onnx", state=state)
    assert "\n" not in str(caught.value)
    assert nothing_in(state)


def test_a_local_file_must_be_the_named_detector(official: dict[str, bytes], state: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not that of yolox_tiny\.onnx"):
        take_detector(tmp_path / "nano.onnx", "tiny", state=state)
    assert take_detector(tmp_path / "tiny.onnx", "tiny", state=state) == pulled_detector(state)


@pytest.mark.parametrize("name", ["absent.onnx", "."])
def test_an_unreadable_file_is_a_one_line_error(state: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="no such file, or not a regular one"):
        take_detector(tmp_path / name, state=state)


def test_an_unwritable_folder_is_a_one_line_error(official: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where a folder should be")
    with pytest.raises(InputError, match=r"cannot write into .*state") as caught:
        take_detector(tmp_path / "nano.onnx", state=tmp_path / "state")
    assert "\n" not in str(caught.value)


def test_a_user_without_a_home_folder_has_no_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TWINCAR_STATE", "STATE_DIRECTORY", "XDG_STATE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    assert pulled_detector() is None
