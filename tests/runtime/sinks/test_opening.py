"""Deliveries created from settings: their names, warnings and errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from twincar_edge.errors import InputError
from twincar_edge.runtime.sinks.opening import open_sinks
from twincar_edge.runtime.sinks.settings import (
    CropsSettings,
    CsvSettings,
    JsonLinesSettings,
    SinkSettings,
    StdoutSettings,
    StoreSettings,
    WebhookSettings,
    mqtt_settings,
)
from twincar_edge.runtime.storage.state import StateFolder


def names(folder: Path, *settings: SinkSettings) -> list[str]:
    with StateFolder(folder) as state:
        return [delivery.name for delivery in open_sinks(settings, state, cameras=["gate"], environ={})]


def test_an_unnamed_sink_is_named_after_its_kind_and_never_its_target(tmp_path: Path) -> None:
    sinks = (
        JsonLinesSettings(path=tmp_path / "private" / "events.jsonl"),
        CsvSettings(path=tmp_path / "events.csv"),
        StdoutSettings(),
        StoreSettings(),
        CropsSettings(path=tmp_path / "crops"),
        WebhookSettings(url="https://user:secret@example.org/hook?token=t0ken"),
        mqtt_settings("mqtt://broker/cars"),
    )
    assert names(tmp_path, *sinks) == ["jsonl", "csv", "stdout", "store", "crops", "webhook", "mqtt"]


def test_sinks_of_one_kind_are_numbered_without_collisions(tmp_path: Path) -> None:
    sinks = [WebhookSettings(url=f"https://example.org/{number}") for number in range(3)]
    named = WebhookSettings(url="https://example.org/named", name="webhook-2")
    assert names(tmp_path, *sinks) == ["webhook", "webhook-2", "webhook-3"]
    assert names(tmp_path, *sinks, named) == ["webhook", "webhook-3", "webhook-4", "webhook-2"]


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        (WebhookSettings(url="http://user:s3cret@example.org/hook"), True),
        (WebhookSettings(url="https://user:s3cret@example.org/hook"), False),
        (WebhookSettings(url="http://example.org/hook"), False),
        (WebhookSettings(url="http://user:s3cret@127.0.0.1:8000/hook"), False),
        (mqtt_settings("mqtt://broker"), True),
        (mqtt_settings("mqtts://broker"), False),
        (mqtt_settings("mqtt://localhost"), False),
    ],
)
def test_a_password_sent_unencrypted_to_another_machine_is_one_warning(
    settings: SinkSettings, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    environ = {"TWINCAR_MQTT_USER": "box", "TWINCAR_MQTT_PASSWORD": "s3cret"}
    with StateFolder(tmp_path) as state:
        open_sinks([settings], state, environ=environ)
    assert [("unencrypted" in record.message) for record in caplog.records] == [True] * warned
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize(("mode", "warned"), [(0o644, True), (0o640, False), (0o600, False)])
def test_a_world_readable_secret_file_is_one_warning(
    mode: int, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    secret.chmod(mode)
    with StateFolder(tmp_path / "state") as state:
        open_sinks([WebhookSettings(url="https://example.org/hook", secret_file=secret)], state, environ={})
    assert [f"secret file {secret} is readable" in record.message for record in caplog.records] == [True] * warned


@pytest.mark.parametrize("host", ["b" * 64, "b" * 64 + ".local", "mqtt." + "x" * 64, "a..b", "-a", "a-"])
def test_a_host_name_that_cannot_be_looked_up_is_refused(host: str) -> None:
    with pytest.raises(InputError, match="invalid MQTT broker URL"):
        mqtt_settings(f"mqtt://{host}")


@pytest.mark.parametrize(
    "host", ["b" * 63 + ".local", "10.0.0.1", "[::1]", "[fe80::1:2]", "mqtt.example.org.", "my_box"]
)
def test_host_names_and_addresses_are_accepted(host: str) -> None:
    assert mqtt_settings(f"mqtt://{host}").host == host.strip("[]")


def test_duplicate_sinks_are_refused(tmp_path: Path) -> None:
    file = JsonLinesSettings(path=tmp_path / "events.jsonl")
    with pytest.raises(InputError, match=r"duplicate sink jsonl .*events\.jsonl: remove one"):
        names(tmp_path, file, file)
    one, two = (WebhookSettings(url=f"https://example.org/{number}", name="hook") for number in range(2))
    with pytest.raises(InputError, match="duplicate sink hook"):
        names(tmp_path, one, two)


def test_two_sinks_with_one_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "events"
    with pytest.raises(InputError, match=r"two sinks write to .*events: choose another file"):
        names(tmp_path, JsonLinesSettings(path=path), StoreSettings(path=path))


def test_errors_name_the_sinks_target(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^csv .*events\.csv needs a folder for undelivered events"):
        open_sinks([CsvSettings(path=tmp_path / "events.csv")], None)
