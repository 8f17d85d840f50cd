"""The monitoring server: metrics for Prometheus, `/healthz`, and clients that cannot block it."""

from __future__ import annotations

import http.client
import json
import logging
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests import REPOSITORY
from twincar_edge.errors import InputError
from twincar_edge.runtime.listening import parse_address
from twincar_edge.runtime.monitoring import server
from twincar_edge.runtime.monitoring.drift import AnswerWindow
from twincar_edge.runtime.monitoring.durations import DurationCounts
from twincar_edge.runtime.monitoring.health import HealthLimits
from twincar_edge.runtime.monitoring.metrics import make_registry
from twincar_edge.runtime.monitoring.server import MAX_CLIENTS, Monitoring
from twincar_edge.runtime.monitoring.stages import StageLatency
from twincar_edge.runtime.monitoring.status import CameraStatus, CollectorStatus, LoopStatus, ModelStatus, SinkStatus

LOCAL = "127.0.0.1:0"
SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
GATE = CameraStatus(
    "gate", True, "running", frames=900, dropped=40, skipped=2, reconnects=3, frame_age_s=0.04, answer_age_s=0.06,
    answer_ages=DurationCounts((*[0] * 6, 440, 10, *[0] * 7), 21.0), in_view=2,
    crops_waiting=1, crops_dropped=7, ignored={"small": 37}, limited={"merged": 5},
    problem="stalled for 10 s",
)  # fmt: skip
STATUS = LoopStatus(
    cameras=(GATE, CameraStatus("yard", True, "opening")),
    model=ModelStatus("tiny", SHA256, "int8", "cpu", reloads={"taken": 1, "refused": 2, "unchanged": 0}),
    turn_age_s=0.25,
    crops=450,
    visits={("gate", "year"): 30, ("gate", "unknown"): 12},
    vehicle_types={("gate", "car"): 33, ("gate", "bus"): 9},
    answers={
        ("gate", "1h"): AnswerWindow(25, unknown_share=0.4, familiarity_mean=0.5, probability_mean=0.75),
        ("gate", "7d"): AnswerWindow(0, None, None, None),
    },
    stages={"classify": StageLatency(runs=300, p50_ms=4.0, p95_ms=9.0)},
    stage_durations={"classify": DurationCounts((0, 0, 0, 200, 90, 9, *[0] * 8, 1), 13.5)},
    sinks=(SinkStatus("mqtt", queued=5, spooled=70, delivered=1000, dropped=1, problem="no broker"),),
    collector=CollectorStatus(kept=9, dropped=4, bytes=120_000),
)


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def metric_names(text: str) -> set[str]:
    """Return the names of this project's metrics, with a histogram's series as one."""
    names = {
        family.name if family.type == "histogram" else sample.name
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return {name for name in names if name.startswith("twincar_")}


@pytest.fixture
def monitoring() -> Iterator[Monitoring]:
    with Monitoring(LOCAL, lambda: STATUS) as running:
        yield running


def test_the_metrics_contain_every_figure_of_the_status(monitoring: Monitoring) -> None:
    code, text = get(monitoring.url + "metrics")
    assert code == 200
    found = samples(text)
    gate = (("camera", "gate"),)
    expected = {
        ("twincar_frames_total", gate): 900,
        ("twincar_frames_dropped_total", gate): 40,
        ("twincar_frames_skipped_total", gate): 2,
        ("twincar_reconnects_total", gate): 3,
        ("twincar_frame_age_seconds", gate): 0.04,
        ("twincar_answer_age_seconds", gate): 0.06,
        ("twincar_vehicles_in_view", gate): 2,
        ("twincar_crops_waiting", gate): 1,
        ("twincar_crops_dropped_total", gate): 7,
        ("twincar_ignored_total", (*gate, ("reason", "small"))): 37,
        ("twincar_ignored_total", (*gate, ("reason", "zone"))): 0,
        ("twincar_visits_limited_total", (*gate, ("reason", "merged"))): 5,
        ("twincar_visits_limited_total", (*gate, ("reason", "cut"))): 0,
        ("twincar_crops_classified_total", ()): 450,
        ("twincar_turn_age_seconds", ()): 0.25,
        ("twincar_camera_state", (*gate, ("state", "running"))): 1,
        ("twincar_camera_state", (*gate, ("state", "reconnecting"))): 0,
        ("twincar_visits_total", (*gate, ("level", "year"))): 30,
        ("twincar_visits_total", (*gate, ("level", "unknown"))): 12,
        ("twincar_visits_total", (("camera", "yard"), ("level", "make"))): 0,
        ("twincar_visits_by_type_total", (*gate, ("vehicle_type", "car"))): 33,
        ("twincar_visits_by_type_total", (*gate, ("vehicle_type", "bus"))): 9,
        ("twincar_visits_by_type_total", (("camera", "yard"), ("vehicle_type", "unknown"))): 0,
        ("twincar_drift_visits", (*gate, ("window", "1h"))): 25,
        ("twincar_drift_visits", (*gate, ("window", "7d"))): 0,
        ("twincar_drift_unknown_share", (*gate, ("window", "1h"))): 0.4,
        ("twincar_drift_familiarity_mean", (*gate, ("window", "1h"))): 0.5,
        ("twincar_drift_probability_mean", (*gate, ("window", "1h"))): 0.75,
        ("twincar_stage_runs_total", (("stage", "classify"),)): 300,
        ("twincar_stage_latency_seconds", (("quantile", "0.5"), ("stage", "classify"))): 0.004,
        ("twincar_stage_latency_seconds", (("quantile", "0.95"), ("stage", "classify"))): 0.009,
        ("twincar_stage_duration_seconds_bucket", (("le", "0.005"), ("stage", "classify"))): 200,
        ("twincar_stage_duration_seconds_bucket", (("le", "0.02"), ("stage", "classify"))): 299,
        ("twincar_stage_duration_seconds_bucket", (("le", "10.0"), ("stage", "classify"))): 299,
        ("twincar_stage_duration_seconds_bucket", (("le", "+Inf"), ("stage", "classify"))): 300,
        ("twincar_stage_duration_seconds_count", (("stage", "classify"),)): 300,
        ("twincar_stage_duration_seconds_sum", (("stage", "classify"),)): 13.5,
        ("twincar_answer_latency_seconds_bucket", (*gate, ("le", "0.05"))): 440,
        ("twincar_answer_latency_seconds_sum", gate): 21.0,
        ("twincar_answer_latency_seconds_count", (("camera", "yard"),)): 0,
        ("twincar_sink_queued", (("sink", "mqtt"),)): 5,
        ("twincar_sink_spooled", (("sink", "mqtt"),)): 70,
        ("twincar_sink_delivered_total", (("sink", "mqtt"),)): 1000,
        ("twincar_sink_dropped_total", (("sink", "mqtt"),)): 1,
        ("twincar_sink_failing", (("sink", "mqtt"),)): 1,
        ("twincar_model_reloads_total", (("outcome", "refused"),)): 2,
        ("twincar_hard_examples_total", (("outcome", "kept"),)): 9,
        ("twincar_hard_examples_bytes", ()): 120_000,
        ("twincar_model_info", (("ep", "cpu"), ("name", "tiny"), ("precision", "int8"), ("sha256", SHA256))): 1,
    }  # fmt: skip
    assert {key: found.get(key) for key in expected} == expected
    assert found["process_resident_memory_bytes", ()] > 2**20
    assert 0 < found["process_start_time_seconds", ()] < time.time()


def test_the_documentation_lists_every_metric(monitoring: Monitoring) -> None:
    text = (REPOSITORY / "docs" / "operations.md").read_text()
    names = metric_names(get(monitoring.url + "metrics")[1])
    assert set(re.findall(r"^\| `(twincar_\w+)`", text, re.MULTILINE)) == names


def test_unknown_values_are_omitted_rather_than_zero(monitoring: Monitoring) -> None:
    found = samples(get(monitoring.url + "metrics")[1])
    assert ("twincar_frame_age_seconds", (("camera", "yard"),)) not in found
    assert ("twincar_drift_unknown_share", (("camera", "gate"), ("window", "7d"))) not in found


def test_each_scrape_takes_a_new_snapshot_and_loops_are_independent() -> None:
    now = [STATUS, STATUS]
    with Monitoring(LOCAL, lambda: now[0]) as first, Monitoring(LOCAL, lambda: now[1]) as second:
        now[0] = replace(STATUS, crops=451)
        crops = [samples(get(one.url + "metrics")[1])["twincar_crops_classified_total", ()] for one in (first, second)]
    assert crops == [451, 450]


def test_creating_a_registry_takes_no_snapshot() -> None:
    def too_early() -> LoopStatus:
        raise AssertionError("snapshot before the first scrape")

    make_registry(too_early)


def test_metrics_contain_no_problem_texts(monitoring: Monitoring) -> None:
    text = get(monitoring.url + "metrics")[1]
    assert "stalled" not in text
    assert "broker" not in text


def test_healthz_returns_503_with_the_problems_until_the_loop_recovers() -> None:
    now = [STATUS]
    with Monitoring(LOCAL, lambda: now[0], HealthLimits(frame_age_s=10)) as running:
        code, body = get(running.url + "healthz")
        assert code == 503
        assert json.loads(body)["problems"] == ["no frame from camera yard yet"]
        assert json.loads(body)["cameras"] == {"gate": "running", "yard": "opening"}
        now[0] = replace(STATUS, cameras=(GATE,))
        code, body = get(running.url + "healthz")
        assert code == 200
        assert json.loads(body)["healthy"] is True


def test_the_index_links_to_both_pages_and_other_paths_are_not_found(monitoring: Monitoring) -> None:
    code, page = get(monitoring.url)
    assert code == 200
    assert 'href="metrics"' in page
    assert 'href="healthz"' in page
    assert get(monitoring.url + "metrics?name=twincar_frames_total")[0] == 200
    assert get(monitoring.url + "../../etc/passwd")[0] == 404


def test_other_methods_than_get_are_rejected(monitoring: Monitoring) -> None:
    for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS"):
        request = urllib.request.Request(monitoring.url + "metrics", method=method)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=10)
        with refused.value as error:
            assert error.code == 405


def test_leaving_the_context_closes_the_port_and_ends_the_thread() -> None:
    before = set(threading.enumerate())
    with Monitoring(LOCAL, lambda: STATUS) as running:
        url = running.url
        get(url)
    left = [thread for thread in threading.enumerate() if thread not in before and thread.name == "monitoring"]
    assert left == []
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=5)


def test_a_port_in_use_is_a_one_line_error() -> None:
    with (
        Monitoring(LOCAL, lambda: STATUS) as first,
        pytest.raises(InputError, match=r"cannot serve metrics at 127.0.0.1:\d+: .*in use"),
    ):
        Monitoring(first.url.removeprefix("http://").rstrip("/"), lambda: STATUS).__enter__()


@pytest.mark.parametrize("address", ["203.0.113.7:9464", "a..b:9464", "\udcff:9464"])
def test_a_foreign_host_is_a_one_line_error(address: str) -> None:
    with pytest.raises(InputError, match="cannot serve metrics at"):
        Monitoring(address, lambda: STATUS).__enter__()


def test_listening_on_all_interfaces_logs_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), Monitoring(LOCAL, lambda: STATUS):
        assert caplog.messages == []
    with caplog.at_level(logging.WARNING), Monitoring("0.0.0.0:0", lambda: STATUS):
        (line,) = caplog.messages
    assert "everyone who can reach this machine" in line


def connect(url: str) -> socket.socket:
    host, port = parse_address(url.removeprefix("http://").rstrip("/"))
    return socket.create_connection((host, port), timeout=30)


def is_disconnected(client: socket.socket) -> bool:
    """Wait until the server disconnects."""
    try:
        while client.recv(4096):
            pass
    except ConnectionError:
        pass
    return True


def drip(client: socket.socket, gone: threading.Event) -> None:
    try:
        while not gone.wait(0.05):
            client.send(b"x")
    except OSError:
        pass


@pytest.mark.parametrize("start", [b"", b"GET /metrics HTTP/1.1\r\nHost: a\r\n"], ids=["silent", "half a request"])
def test_an_idle_client_is_disconnected_at_its_deadline(start: bytes) -> None:
    with Monitoring(LOCAL, lambda: STATUS, client_timeout_s=0.3) as running, connect(running.url) as client:
        client.send(start)
        assert is_disconnected(client)


def test_a_client_that_trickles_bytes_is_disconnected_at_its_deadline() -> None:
    gone = threading.Event()
    with Monitoring(LOCAL, lambda: STATUS, client_timeout_s=0.3) as running, connect(running.url) as client:
        dripping = threading.Thread(target=drip, args=(client, gone))
        dripping.start()
        assert is_disconnected(client)
        gone.set()
        dripping.join()


def until(true: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_idle_clients_do_not_block_others_and_the_oldest_is_disconnected_first() -> None:
    with Monitoring(LOCAL, lambda: STATUS) as running, ExitStack() as stack:
        silent = [stack.enter_context(connect(running.url)) for _ in range(MAX_CLIENTS + 4)]
        assert can_get(running.url)
        assert is_disconnected(silent[0])
        silent[-1].settimeout(0.1)
        with pytest.raises(TimeoutError):
            silent[-1].recv(1)


def test_the_number_of_client_threads_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_disconnect", lambda client: None)  # so that no thread ends
    before = threading.active_count()
    with Monitoring(LOCAL, lambda: STATUS, client_timeout_s=2) as running, ExitStack() as stack:
        clients = [stack.enter_context(connect(running.url)) for _ in range(3 * MAX_CLIENTS)]
        assert is_disconnected(clients[-1])
        assert threading.active_count() <= before + 1 + 2 * MAX_CLIENTS


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9464", "localhost.evil.example", ""])
def test_loopback_rejects_foreign_host_names(monitoring: Monitoring, host: str) -> None:
    for path in ("metrics", "healthz", ""):
        request = urllib.request.Request(monitoring.url + path, headers={"Host": host})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=10)
        with refused.value as error:
            assert (error.code, b"twincar" in error.read()) == (421, False)


def test_loopback_accepts_own_host_names_and_other_interfaces_accept_any(monitoring: Monitoring) -> None:
    for host in ("localhost:9464", "127.0.0.1", "[::1]:9464"):
        request = urllib.request.Request(monitoring.url + "metrics", headers={"Host": host})
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200
    with Monitoring("0.0.0.0:0", lambda: STATUS) as beyond:
        url = beyond.url.replace("0.0.0.0", "127.0.0.1")
        request = urllib.request.Request(url + "metrics", headers={"Host": "box-17.example:9464"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/openmetrics-text"])
@pytest.mark.parametrize("version", ["abc", "1.x", "9" * 5000, "²", ""])
def test_an_invalid_version_in_accept_still_gets_metrics(kind: str, version: str, monitoring: Monitoring) -> None:
    request = urllib.request.Request(monitoring.url + "metrics")
    request.add_header("Accept", f"{kind}; version={version}".encode().decode("latin-1"))
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert b"twincar_frames_total" in answer.read()


def test_the_turn_age_covers_a_camera_that_hangs_in_a_frame() -> None:
    stuck = replace(STATUS, cameras=(replace(GATE, busy_s=42.0), CameraStatus("yard", True, "opening")))
    assert samples(generate_latest(make_registry(lambda: stuck)).decode())["twincar_turn_age_seconds", ()] == 42.0


def test_a_repeated_error_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    def status() -> LoopStatus:
        raise RuntimeError("cannot tell")

    with Monitoring(LOCAL, status) as running:
        for _ in range(5):
            assert not can_get(running.url + "healthz")
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.exc_text is None or "cannot tell" in record.exc_text


def can_get(url: str) -> bool:
    try:
        return get(url)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\xff\xfe\x00\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"GET " + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nAccept: ;;q=x,\xff/\xff;version=1;;\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
    ],
    ids=["noise", "version", "long", "accept", "many headers"],
)
def test_malformed_requests_are_not_logged(
    request_bytes: bytes, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with Monitoring(LOCAL, lambda: STATUS) as running:
        with connect(running.url) as client:
            client.sendall(request_bytes)
            assert is_disconnected(client)
        assert can_get(running.url)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert capsys.readouterr().err == ""
