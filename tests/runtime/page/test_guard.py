"""The page's guard: which requests it admits, their limits, and that responses reveal nothing."""

from __future__ import annotations

import json
import re
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.event_toys import visit
from tests.support.pages import Answer, ServedPage, served
from twincar_edge.runtime.page import guard

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedPage]:
    """A page on the loopback, without tokens."""
    with served(tmp_path_factory.mktemp("page"), [visit(id="seen", crop="seen.jpg")]) as page:
        yield page


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8600", "localhost.evil.example", "", "[", "a@evil.com"])
def test_foreign_host_names_are_refused_because_an_attacker_may_point_them_here(page: ServedPage, host: str) -> None:
    answer = page.get("/", Host=host)
    assert answer.status == 421
    assert "hosts" in answer.text


@pytest.mark.parametrize("host", ["localhost:8600", "LOCALHOST", "127.0.0.1", "192.168.1.7:8600", "[::1]:8600"])
def test_own_names_and_all_addresses_are_admitted(page: ServedPage, host: str) -> None:
    assert page.get("/", Host=host).status == 200


def test_a_configured_host_name_is_admitted(tmp_path: Path) -> None:
    with served(tmp_path, hosts=("cars.example",)) as page:
        assert page.get("/", Host="Cars.example").status == 200
        assert page.get("/", Host="other.example").status == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
def test_other_sites_cannot_change_anything(page: ServedPage, headers: dict[str, str]) -> None:
    assert page.post("/logout", **headers).status == 403


def test_the_pages_own_forms_can_change_something(page: ServedPage) -> None:
    own = {"Origin": f"http://127.0.0.1:{page.port}", "Sec-Fetch-Site": "same-origin"}
    assert page.post("/login", **own).status == 303
    assert page.post("/logout", **own).status == 303


def test_a_page_without_tokens_refuses_forwarded_requests(page: ServedPage) -> None:
    for name in ("Via", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP"):
        answer = page.get("/", **{name: "203.0.113.7"})
        assert answer.status == 403
        assert "tokens" in answer.text


def _policy(answer: Answer) -> dict[str, str]:
    parts = (part.strip().partition(" ") for part in answer.headers["Content-Security-Policy"].split(";"))
    return {name: value for name, _, value in parts}


def test_every_response_has_a_strict_content_security_policy(page: ServedPage, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("an internal error")

    answers = {
        200: page.get("/visits/seen"),
        403: page.post("/logout", Origin="http://evil.example"),
        404: page.get("/nowhere"),
        405: page.ask("DELETE", "/visits"),
        421: page.get("/", Host="evil.example"),
    }
    static = page.get("/static/style.css")
    monkeypatch.setattr("twincar_edge.runtime.page.visits.read_page", broken)
    answers[500] = page.get("/")
    for status, answer in answers.items():
        assert answer.status == status
    for answer in (static, *answers.values()):
        policy = _policy(answer)
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert answers[200].headers["Cache-Control"] == "no-store"
    assert "server" not in answers[200].headers
    assert "an internal error" not in answers[500].text
    assert "<h1>404 Not Found</h1>" in answers[404].text


def test_the_pages_comply_with_the_content_security_policy(page: ServedPage) -> None:
    for path in ("/", "/visits", "/visits/seen", "/nowhere"):
        text = page.get(path).text
        assert "<script src=" in text
        assert re.search(r"<script(?! src=)|<style|\sstyle=|\son\w+=|javascript:|https?://", text) is None


def test_names_of_classes_and_cameras_are_escaped(tmp_path: Path) -> None:
    top = tuple(guess.model_copy(update={"name": EVIL}) for guess in visit().top5)
    classifier = visit().classifier.model_copy(update={"name": EVIL})
    hostile = visit(
        id="a", name=EVIL, make=EVIL, model=EVIL, camera=EVIL, zone=EVIL, vehicle_type=EVIL, top5=top, source=EVIL,
        crop="a.jpg", classifier=classifier,
    )  # fmt: skip
    with served(tmp_path, [hostile]) as page:
        for path in ("/", "/visits", f"/visits?name={EVIL}&camera={EVIL}&make={EVIL}", "/visits/a"):
            text = page.get(path).text
            assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
            assert EVIL not in text
        assert EVIL not in page.get(f"/visits/{EVIL}").text
        assert EVIL not in page.get(f"/visits?level={EVIL}&since={EVIL}").text


def test_files_outside_the_picture_folders_are_not_served(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_text("secret")
    visits = [visit(id=name, crop=f"{name}.jpg") for name in ("good", "link", "gone")]
    with served(tmp_path, [*visits, visit(id="passwd"), visit(id="above"), visit(id="folder")]) as page:
        pictures = tmp_path / "pictures"
        (pictures / "link.jpg").unlink()
        (pictures / "link.jpg").symlink_to(secret)
        (pictures / "gone.jpg").unlink()
        with sqlite3.connect(page.content.store) as connection:
            for name, path in {
                "passwd": "/etc/passwd", "above": f"{pictures}/../secret.jpg", "folder": str(pictures)
            }.items():  # fmt: skip
                connection.execute("UPDATE visits SET crop = ?, clip = ? WHERE id = ?", (path, path, name))
        connection.close()
        good = page.get("/visits/good/picture")
        assert (good.status, good.headers["Content-Type"]) == (200, "image/jpeg")
        for name in ("link", "gone", "passwd", "above", "folder"):
            assert page.get(f"/visits/{name}/picture").status == 404
            assert page.get(f"/visits/{name}/clip").status == 404
            assert "This visit has no saved picture" in page.get(f"/visits/{name}").text
        for path in (
            "/static/../guard.py",
            "/static/%2e%2e/guard.py",
            "/static/..%2f..%2fwatch.py",
            "/static//etc/passwd",
        ):
            assert page.get(path).status == 404


def test_pictures_are_always_served_as_jpeg(tmp_path: Path) -> None:
    with served(tmp_path, [visit(id="a", crop="a.jpg")]) as page:
        (tmp_path / "pictures" / "a.html").write_text(EVIL)
        with sqlite3.connect(page.content.store) as connection:
            connection.execute("UPDATE visits SET crop = ?", (str(tmp_path / "pictures" / "a.html"),))
        connection.close()
        assert page.get("/visits/a/picture").headers["Content-Type"] == "image/jpeg"


def test_a_body_that_is_too_large_is_refused_before_it_is_complete(tmp_path: Path) -> None:
    with served(tmp_path, tokens=True) as page:
        for body in (b"a" * 2**20, iter([b"a" * 2**16] * 16)):
            answer = page.ask("POST", "/login", body, Content_Type="application/x-www-form-urlencoded")
            assert answer.status == 413
            assert "0.0625 MiB" in answer.text


def test_users_may_send_larger_bodies_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_BODY_BYTES", 2**20)
    with served(tmp_path, tokens=True) as page:
        page.log_in()
        form = {"Content_Type": "application/x-www-form-urlencoded"}
        assert page.ask("POST", "/login", b"token=" + b"a" * 2**19, **form).status == 403
        assert page.ask("POST", "/login", b"token=" + b"a" * 2**20, **form).status == 413


def test_a_slow_body_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_TIMEOUT_S", 0.2)
    head = b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n"
    with served(tmp_path, tokens=True) as page, socket.create_connection(("127.0.0.1", page.port), 20) as client:
        client.sendall(head + b"Content-Type: application/x-www-form-urlencoded\r\n\r\ntoken=")
        assert client.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_visits_of_another_version_do_not_break_the_page(tmp_path: Path) -> None:
    with served(tmp_path, [visit(id="old"), visit(id="new", name="Pollux Blue SUV 2021")]) as page:
        with sqlite3.connect(page.content.store) as connection:
            connection.execute("UPDATE visits SET event = ? WHERE id = 'old'", (json.dumps({"schema_version": 9}),))
        connection.close()
        assert "Pollux Blue SUV 2021" in page.get("/visits").text
        assert page.get("/visits/old").status == 404
