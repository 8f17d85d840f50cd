"""Tokens: when the page needs one, how it is stored, how log-in is limited, and what a role allows."""

from __future__ import annotations

import hmac
import os
import socket
import stat
from pathlib import Path
from urllib.parse import quote

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from tests.support.event_toys import visit
from tests.support.pages import served
from twincar_edge.errors import InputError
from twincar_edge.runtime.page import login
from twincar_edge.runtime.page.tokens import Tokens, User

ALL = "0.0.0.0:0"


def test_the_loopback_needs_no_token(tmp_path: Path) -> None:
    with served(tmp_path, address="127.0.0.2:0") as page:
        assert page.server.first_token is None
        assert not Tokens(tmp_path).path.exists()


@pytest.mark.parametrize("settings", [{"address": ALL}, {"tokens": True}], ids=["all addresses", "asked for"])
def test_other_addresses_and_pages_with_tokens_need_one_for_everything(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    with served(tmp_path, [visit(id="a", crop="a.jpg")], **settings) as page:
        for path in ("/", "/visits", "/visits/a", "/visits/a/picture", "/visits/a/clip", "/nowhere", "/metrics"):
            assert page.get(path, Accept="*/*").status == 401
            answer = page.get(path)
            assert (answer.status, answer.headers["Location"]) == (303, f"/login?next={quote(path, safe='')}")
        for method in ("POST", "PUT", "DELETE"):
            assert page.ask(method, "/visits").status == 401
        assert page.get("/static/style.css").status == 200
        assert page.log_in().status == 303
        assert page.get("/visits/a").status == 200


def test_the_machines_name_is_allowed_on_all_addresses(tmp_path: Path) -> None:
    with served(tmp_path, address=ALL) as page:
        assert page.get("/login", Host=socket.gethostname()).status == 200
        assert page.get("/login", Host="evil.example").status == 421


def test_the_first_token_is_shown_once_and_stored_as_a_digest_for_the_owner_only(tmp_path: Path) -> None:
    with served(tmp_path, tokens=True) as page:
        token = page.server.first_token
        assert token is not None
        assert len(token) >= 32
        page.log_in(token)
    with served(tmp_path, tokens=True) as again:
        assert again.server.first_token is None
        assert again.log_in(token).status == 303
    kept = [path for path in tmp_path.iterdir() if path.name.startswith("page-")]
    assert {path.name for path in kept} == {"page-tokens.json", "page-session-key"}
    for path in kept:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert token not in path.read_text()


def test_a_page_that_cannot_start_makes_no_token_that_nobody_would_see(tmp_path: Path) -> None:
    certificate = tmp_path / "cars.crt"
    certificate.write_text("no certificate")
    with (
        pytest.raises(InputError, match="cannot serve the page over HTTPS"),
        served(tmp_path, tokens=True, certificate=certificate, key=certificate),
    ):
        pass
    with served(tmp_path, tokens=True) as page:
        assert page.server.first_token is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_token_created_by_root_can_be_read_by_the_owner_of_the_folder(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12346)
    Tokens(tmp_path).add("anna", "view")
    made = Tokens(tmp_path).path.stat()
    assert (made.st_uid, made.st_gid, stat.S_IMODE(made.st_mode)) == (12345, 12346, 0o600)


def test_sessions_survive_a_restart_and_forged_ones_are_refused(tmp_path: Path) -> None:
    with served(tmp_path, tokens=True) as page:
        page.log_in()
        cookie = page.headers["Cookie"]
    with served(tmp_path, tokens=True) as again:
        assert again.get("/", Cookie=cookie).status == 200
        name, _, value = cookie.partition("=")
        for forged in ("e30=.aaaa.bbbb", value[:-2] + "AA", value.split(".")[0], "\xff"):
            assert again.get("/", Cookie=f"{name}={forged}").status == 303


def test_scripts_and_other_sites_cannot_read_or_send_the_cookie(tmp_path: Path) -> None:
    with served(tmp_path, tokens=True) as page:
        parts = page.log_in().headers["Set-Cookie"].lower().split("; ")
        assert {"httponly", "samesite=strict", "path=/"} <= set(parts)
        assert "secure" not in parts
        for scheme in ("https", "wss"):  # Traefik forwards a WebSocket's scheme
            behind_tls = page.post("/login", {"token": page.server.first_token or ""}, X_Forwarded_Proto=scheme)
            assert "secure" in behind_tls.headers["Set-Cookie"].lower().split("; ")


def test_a_removed_token_ends_its_sessions_even_if_its_name_is_reused(
    tmp_path: Path,
) -> None:
    tokens = Tokens(tmp_path)
    text = tokens.add("anna", "view")
    with served(tmp_path, tokens=True) as page:
        page.log_in(text)
        assert page.get("/").status == 200
        assert page.get("/", Cookie="", Authorization=f"Bearer {text}").status == 200
        tokens.remove("anna")
        assert page.get("/").status == 303
        assert page.get("/", Cookie="", Authorization=f"Bearer {text}").status == 303
        tokens.add("anna", "view")
        assert page.get("/").status == 303


def test_logging_out_ends_the_session(tmp_path: Path) -> None:
    with served(tmp_path, tokens=True) as page:
        page.log_in()
        assert "owner" in page.get("/").text
        answer = page.post("/logout")
        assert (answer.status, answer.headers["Location"], answer.cookie) == (303, "/login", "twincar-session=null")


def test_an_address_has_to_wait_after_several_wrong_tokens(tmp_path: Path) -> None:
    with served(tmp_path, tokens=True) as page:
        for _ in range(login.FREE_ATTEMPTS):
            answer = page.post("/login", {"token": "wrong"})
            assert (answer.status, answer.cookie) == (403, "")
        right = page.log_in()
        assert right.status == 429
        assert 0 < int(right.headers["Retry-After"]) <= login.LOCKED_S
        assert right.cookie == ""
        # A local proxy names the client, so that other clients are not locked out.
        assert (
            page.post("/login", {"token": page.server.first_token or ""}, X_Forwarded_For="203.0.113.7").status == 303
        )


def test_the_wait_ends_and_old_failures_do_not_count() -> None:
    now = [0.0]
    attempts = login._FailedAttempts(lambda: now[0])
    for _ in range(login.FREE_ATTEMPTS):
        assert attempts.wait_s("a") == 0
        attempts.count("a")
    assert attempts.wait_s("a") == login.LOCKED_S
    assert attempts.wait_s("b") == 0
    now[0] += login.LOCKED_S
    assert attempts.wait_s("a") == 0
    attempts.count("a")
    assert attempts.wait_s("a") == login.LOCKED_S  # one more wrong token starts the wait again
    now[0] += login.LOCKED_S + 1
    attempts.count("a")
    assert attempts.wait_s("a") == 0


@pytest.mark.parametrize(
    ("wanted", "goes_to"),
    [
        ("/visits?make=BMW&page=2", "/visits?make=BMW&page=2"),
        ("//evil.example", "/"),
        ("https://evil.example", "/"),
        ("/\\evil.example", "/"),
        ("\\\\evil.example", "/"),
        ("/\t/evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("/\r\nSet-Cookie: a=b", "/"),
        ("", "/"),
    ],
)
def test_log_in_never_redirects_to_another_site(tmp_path: Path, wanted: str, goes_to: str) -> None:
    with served(tmp_path, tokens=True) as page:
        answer = page.log_in(to=wanted)
        assert (answer.status, answer.headers["Location"]) == (303, goes_to)


def test_tokens_are_compared_in_constant_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str]] = []
    really = hmac.compare_digest

    def compare(one: str, other: str) -> bool:
        compared.append((one, other))
        return really(one, other)

    tokens = Tokens(tmp_path)
    first, last = tokens.add("first", "view"), tokens.add("last", "view")
    monkeypatch.setattr(hmac, "compare_digest", compare)
    for text in (first, last, "wrong"):
        compared.clear()
        tokens.find(text)
        assert [one for one, _ in compared] == [token.sha256 for token in tokens.all()]


@pytest.mark.parametrize(("role", "needed", "may"), [
    ("view", "view", True), ("view", "teach", False), ("teach", "view", True), ("teach", "teach", True),
])  # fmt: skip
def test_the_role_teach_includes_view(role: str, needed: str, may: bool) -> None:
    request = Request({"type": "http", "state": {"user": User.model_validate({"name": "anna", "role": role})}})
    if may:
        assert login.require_role(request, needed).name == "anna"  # type: ignore[arg-type]
    else:
        with pytest.raises(HTTPException, match="role") as refused:
            login.require_role(request, needed)  # type: ignore[arg-type]
        assert refused.value.status_code == 403


def test_names_of_tokens_are_validated_and_unique(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path)
    tokens.add("anna", "view")
    with pytest.raises(InputError, match="the token 'anna' exists"):
        tokens.add("anna", "teach")
    for name in ("", "a b", "<script>", "a" * 65, "../x"):
        with pytest.raises(InputError, match="invalid token name"):
            tokens.add(name, "view")
    with pytest.raises(InputError, match="there are: anna"):
        tokens.remove("otto")


@pytest.mark.parametrize("text", ["{", "\udcff", '{"tokens": [{"name": "a"}]}', '{"tokens": [], "more": 1}'])
def test_a_damaged_token_file_admits_no_one(tmp_path: Path, text: str) -> None:
    with served(tmp_path, tokens=True) as page:
        page.log_in()
        Tokens(tmp_path).path.write_text(text, errors="surrogateescape")
        answer = page.get("/")
        assert answer.status == 503
        assert str(tmp_path) not in answer.text
        assert answer.headers["Content-Security-Policy"]
    with pytest.raises(InputError, match="invalid token file"):
        Tokens(tmp_path).all()
