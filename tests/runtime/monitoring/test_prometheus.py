"""Prometheus: promtool accepts the metrics, and alerts and dashboard query only existing series."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.exposition import generate_latest

from tests import REPOSITORY
from tests.runtime.monitoring.test_monitoring import STATUS
from tests.support.servers import skip_or_fail
from twincar_edge.runtime.monitoring.metrics import make_registry

PROMETHEUS = REPOSITORY / "deploy" / "prometheus"
DASHBOARD = REPOSITORY / "deploy" / "grafana" / "twincar-edge.json"
RULE_TESTS = Path(__file__).parent / "alerts.test.yml"


@pytest.fixture(scope="module")
def exposition() -> str:
    return generate_latest(make_registry(lambda: STATUS)).decode()


def promtool(*arguments: str | Path, stdin: str = "") -> None:
    """Run promtool; fail on any finding."""
    if shutil.which("promtool") is None:
        skip_or_fail("promtool is not installed (Debian: prometheus)")
    done = subprocess.run(["promtool", *arguments], input=stdin, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def queries() -> list[str]:
    """Return the dashboard's queries, with variables substituted as in Grafana."""
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return [re.sub(r"\$(instance|camera)\b", ".*", query).replace("$__rate_interval", "1m") for query in found]


def variables() -> list[str]:
    listed = json.loads(DASHBOARD.read_text())["templating"]["list"]
    return [variable["query"] for variable in listed if variable["type"] == "query"]


def series(exposition: str) -> set[str]:
    """Return the names of all series, and `up`, which Prometheus adds."""
    return {re.split(r"[{ ]", line, maxsplit=1)[0] for line in exposition.splitlines() if line[0] != "#"} | {"up"}


def asked_for(text: str) -> set[str]:
    return set(re.findall(r"\b(?:twincar|process)_\w+", text))


def test_promtool_accepts_the_metrics(exposition: str) -> None:
    promtool("check", "metrics", stdin=exposition)


def test_the_alert_rules_pass_their_unit_tests() -> None:
    promtool("check", "config", PROMETHEUS / "prometheus.yml")
    promtool("test", "rules", RULE_TESTS)


def test_the_dashboards_queries_are_valid(tmp_path: Path) -> None:
    assert len(queries()) >= 10
    assert not [query for query in queries() if "$" in query]
    rules = [{"record": f"dashboard:query{number}", "expr": query} for number, query in enumerate(queries())]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", tmp_path / "rules.yml")


def test_alerts_and_dashboard_use_only_existing_series_that_are_not_deprecated(exposition: str) -> None:
    deprecated = set(re.findall(r"^# HELP (\w+) Deprecated", exposition, re.MULTILINE))
    assert deprecated
    expressions = re.findall(r"^ +expr: (?:\|\n((?: {10}.*\n)+)|(.*)$)", (PROMETHEUS / "alerts.yml").read_text(), re.M)
    for text in (*("".join(found) for found in expressions), *queries(), *variables()):
        asked = asked_for(text) | ({"up"} if re.search(r"\bup\b", text) else set())
        assert asked, text
        assert asked <= series(exposition) - deprecated, text


def test_every_alert_has_a_unit_test() -> None:
    alerts = re.findall(r"alert: (\w+)", (PROMETHEUS / "alerts.yml").read_text())
    tested = RULE_TESTS.read_text()
    assert [alert for alert in alerts if alert not in tested] == []
