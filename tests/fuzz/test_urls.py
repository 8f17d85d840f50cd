"""Broken URLs, and servers that do not send video: `watch` ends, and leaks no password."""

from __future__ import annotations

import contextlib
import random
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.clips import film, write_video
from tests.support.fuzzing import CPU, Case, CommandLine, check, damaged, put
from tests.support.tiny_model import tiny_model

MADE, ANSWERS = 220, 56
CASES = MADE + ANSWERS
SLOW_CASES = MADE  # in the tests that are marked slow

SECRET = "hunter2"
USERS = (
    "", f"admin:{SECRET}@", f":{SECRET}@", f"admin:{SECRET}%40%2F%zz@", f"ad%6Din:{SECRET}/x@", f"a@b:{SECRET}@",
    f"admin:{SECRET} 1@", f"admin:x {SECRET}@", f"admin:{SECRET}\t\n@", f"\N{SNOWMAN}:{SECRET}\N{SNOWMAN}@",
    f"admin:[{SECRET}]@", f"admin:{SECRET}#?@", f"admin:{SECRET}\udcff@",
)  # fmt: skip
SCHEMES = (
    "rtsp://", "http://", "https://", "rtsps://", "RTSP://", "rtsp:/", "rtsp:", "rtsp//", "rtsp:///", "ftp://", "file://",
    "tcp://", "concat:", "http:\\\\", "-rtsp://", " rtsp://", "\x1brtsp://", "data:", "rtmp://", "udp://", "pipe:",
)  # fmt: skip
HOSTS = (
    "127.0.0.1", "[::1]", "[::1", "::1]", "[", "[]", "127.0.0.1%00", "[127.0.0.1]", "[::1%lo]", "",
    "[::ffff:127.0.0.1]",
    "[v1.x]", "\N{FULLWIDTH DIGIT ONE}27.0.0.1", "127.0.0.1\N{IDEOGRAPHIC FULL STOP}",
)  # fmt: skip
PORTS = (
    "",
    ":",
    ":0",
    ":1",
    ":-1",
    ":65536",
    ":99999999999999999999",
    ":x",
    ":1:1",
    ":+1",
    ":\N{ARABIC-INDIC DIGIT ONE}",
)
PATHS = (
    "", "/", "/live", f"/live?user=admin&password={SECRET}", f"/user=admin_password={SECRET}_channel=1",
    f"/?token={SECRET}", f"#pwd={SECRET}", "/%00%ff", "/" + "a" * 900, "/../../etc", "/\x00"[:1] + "\x7f", "?" * 40,
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


def broken_url(rng: random.Random) -> str:
    """Return a URL of this machine with one to three broken parts."""
    parts = ["rtsp://", f"admin:{SECRET}@", "127.0.0.1", ":1", "/live"]
    choices = (SCHEMES, USERS, HOSTS, PORTS, PATHS)
    for place in rng.sample(range(5), rng.choice((1, 1, 2, 3))):
        parts[place] = rng.choice(choices[place])
    return "".join(parts)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_broken_urls_are_reported_without_the_password(
    seed: int, command_line: CommandLine, model: Path, tmp_path: Path
) -> None:
    cases = []
    for number in range(MADE):
        url = broken_url(random.Random(f"{seed} {number}"))
        options = ("--keep-trying", "--duration", "0.3") if number % 8 == 0 else ()
        arguments = ("watch", "--model", str(model), *CPU, *options, "--", url)
        cases.append(Case(arguments, put(tmp_path / str(number), {}), f"{seed} {number} {url[:200]!r}", (SECRET,)))
    outcomes = command_line.run(cases, processes=8, cases_per_process=4)
    check(outcomes)
    assert len(outcomes) == MADE


Answer = Callable[[socketserver.BaseRequestHandler, random.Random], None]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n"


def _send(*pieces: bytes) -> Answer:
    return lambda handler, _: [handler.request.sendall(piece) for piece in pieces] and None


def _endless(head: bytes, piece: bytes) -> Answer:
    def answer(handler: socketserver.BaseRequestHandler, _: random.Random) -> None:
        handler.request.sendall(head)
        while True:
            handler.request.sendall(piece * 1000)

    return answer


def _silence(handler: socketserver.BaseRequestHandler, _: random.Random) -> None:
    handler.server.over.wait(30)  # type: ignore[attr-defined]


ANSWERS_OF_SERVERS: dict[str, Answer] = {
    "nothing": _send(b""),
    "garbage": lambda handler, rng: handler.request.sendall(rng.randbytes(20_000)),
    "zeros": _send(bytes(20_000)),
    "endless headers": _endless(b"HTTP/1.1 200 OK\r\n", b"X-Header: and another\r\n"),
    "endless first line": _endless(b"HTTP/1.1 200 ", b"O"),
    "silence": _silence,
    "refusal": _send(b'HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm="x"\r\nContent-Length: 0\r\n\r\n'),
    "digest": _send(b'HTTP/1.1 401 No\r\nWWW-Authenticate: Digest realm="x", nonce="", qop="\xff"\r\n\r\n'),
    "no status": _send(b"HTTP/1.1 \r\n\r\n"),
    "status out of range": _send(b"HTTP/9.9 99999999999 \r\n\r\n"),
    "redirect to itself": _send(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"),
    "redirect to a file": _send(b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n"),
    "false length": _send(HEAD + b"Content-Length: 99999999999999999999\r\n\r\nabc"),
    "negative length": _send(HEAD + b"Content-Length: -5\r\n\r\nabc"),
    "false chunk size": _send(HEAD + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\nabc"),
    "empty": _send(HEAD + b"Content-Length: 0\r\n\r\n"),
    "a page": _send(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"),
    "parts without pictures": _send(
        b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=\r\n\r\n", b"--\r\n\r\n" * 500
    ),
    "rtsp without a session": _send(b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nPublic: DESCRIBE\r\n\r\n" * 3),
    "rtsp with a broken description": _send(
        b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nCSeq: 2\r\nContent-Type: application/sdp\r\nContent-Length: 40\r\n\r\n",
        b"v=0\r\nm=video 0 \xff",
    ),
}  # fmt: skip


class _Server(socketserver.ThreadingTCPServer):
    """Gives every connection the same answer after its request."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.over = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _Server)
        with contextlib.suppress(OSError):  # the client has disconnected
            if self.request.recv(4096):
                self.server.answer(self, random.Random(0))


@contextlib.contextmanager
def serving(answer: Answer) -> Iterator[int]:
    with _Server(answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.over.set()
            server.shutdown()


def test_malformed_responses_are_reported_without_the_password(
    command_line: CommandLine, model: Path, tmp_path: Path
) -> None:
    clip = write_video(tmp_path / "clip.mp4", film([], 6)).read_bytes()
    answers = dict(ANSWERS_OF_SERVERS)
    for number in range(8):
        data = damaged(clip, number)
        answers[f"a broken video, {number}"] = _send(HEAD + b"Content-Length: %d\r\n\r\n" % len(data) + data)
    with contextlib.ExitStack() as stack:
        cases = []
        for name, answer in answers.items():
            port = stack.enter_context(serving(answer))
            for scheme in ("http", "rtsp"):
                url = f"{scheme}://admin:{SECRET}@127.0.0.1:{port}/live?password={SECRET}"
                arguments = ("watch", "--model", str(model), *CPU, "--duration", "1", url)
                cases.append(Case(arguments, put(tmp_path / str(len(cases)), {}), f"{scheme}: {name}", (SECRET,)))
        outcomes = command_line.run(cases, processes=len(cases), cases_per_process=1)  # most of them wait for timeouts
    check(outcomes)
    assert len(outcomes) == ANSWERS
