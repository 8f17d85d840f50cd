"""Events of a sink whose address changed are sent to the new address, or reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.event_toys import visits
from tests.support.tiny_model import tiny_model
from twincar_edge.errors import InputError
from twincar_edge.runtime.configuration.config import CameraConfig, WatchConfig
from twincar_edge.runtime.service import Service
from twincar_edge.runtime.sinks.opening import open_sinks, spool_owners
from twincar_edge.runtime.sinks.resend import request_of, request_resend
from twincar_edge.runtime.sinks.settings import JsonLinesSettings, SinkSettings, WebhookSettings, mqtt_settings
from twincar_edge.runtime.sinks.spool import Spool
from twincar_edge.runtime.sinks.unowned import recover_unowned
from twincar_edge.runtime.storage.state import StateFolder

OLD = WebhookSettings(url="http://127.0.0.1:9/hok")
NEW = WebhookSettings(url="http://127.0.0.1:9/hook")
OTHER = WebhookSettings(url="http://127.0.0.1:9/other")


def leave_events(state: StateFolder, settings: SinkSettings, count: int = 3) -> Path:
    """Leave waiting events, and one set aside, as a run with this sink would."""
    ((owner),) = spool_owners([settings], state)
    spool = Spool(owner.path)
    spool.open()
    spool.add([(number, event.to_json()) for number, event in enumerate(visits(count), 1)])
    spool.set_aside([("refused", visits(1)[0].to_json())])
    spool.close()
    return owner.path


def counts(state: StateFolder, settings: SinkSettings) -> tuple[int, int]:
    (owner,) = spool_owners([settings], state)
    spool = Spool(owner.path)
    spool.open()
    spool.close()
    return spool.waiting, spool.aside


@pytest.fixture
def state(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path)


def start(state: StateFolder, *settings: SinkSettings) -> None:
    recover_unowned(state.spool, spool_owners(settings, state))


def test_a_webhook_with_a_corrected_address_takes_over_the_events(
    state: StateFolder, caplog: pytest.LogCaptureFixture
) -> None:
    old = leave_events(state, OLD)
    request_resend(state.folder)
    start(state, NEW, JsonLinesSettings(path=state.folder / "events.jsonl"))
    (line,) = caplog.messages
    assert line.endswith(f"takes over 4 events of {old.stem}, whose address changed")
    assert counts(state, NEW) == (3, 1)
    assert [path.name for path in state.spool.glob(f"{old.stem}*")] == []
    assert request_of(spool_owners([NEW], state)[0].path).exists()


def test_the_service_sends_the_events_to_the_new_address(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "state")
    leave_events(state, OLD)
    (tmp_path / "inbox").mkdir()
    config = WatchConfig(
        cameras=(CameraConfig(source=str(tmp_path / "inbox")),), model=tiny_model(tmp_path / "tiny.onnx"), ep="cpu",
        threads=1, state=state.folder, sinks=(NEW,),
    )  # fmt: skip
    with Service(config) as service:
        (webhook, *_) = service.status().sinks
        assert (webhook.spooled, webhook.aside) == (3, 1)


@pytest.mark.parametrize(
    ("left", "configured"),
    [
        ([OLD], []),
        ([OLD], [mqtt_settings("mqtt://broker")]),
        ([OLD], [NEW, OTHER]),
        ([OLD, OTHER], [NEW]),
        ([OLD], [WebhookSettings(url=NEW.url, name="hook")]),
        ([JsonLinesSettings(path=Path("old.jsonl"))], [JsonLinesSettings(path=Path("new.jsonl"))]),
    ],
)
def test_events_that_no_sink_has_are_reported_and_kept(
    left: list[SinkSettings], configured: list[SinkSettings], state: StateFolder, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [leave_events(state, settings) for settings in left]
    start(state, *configured)
    assert len(caplog.messages) == len(left)
    for path in paths:
        assert any(line.startswith(f"4 events of {path.stem} not sent") for line in caplog.messages)
    assert all(counts(state, settings) == (3, 1) for settings in left)


def test_a_webhook_with_a_spool_does_not_take_over_the_events_of_a_removed_one(
    state: StateFolder, caplog: pytest.LogCaptureFixture
) -> None:
    leave_events(state, OLD)
    leave_events(state, NEW, 1)
    start(state, NEW)
    assert "4 events" in caplog.text
    assert counts(state, NEW) == (1, 1)


def test_spools_that_are_empty_or_have_a_sink_are_not_reported(
    state: StateFolder, caplog: pytest.LogCaptureFixture
) -> None:
    (owner,) = spool_owners([OLD], state)
    empty = Spool(owner.path)
    empty.open()
    empty.close()
    leave_events(state, NEW)
    start(state, NEW, OTHER)
    assert caplog.messages == []
    (delivery,) = open_sinks([NEW], state)
    assert delivery._spool is not None
    assert delivery._spool.path == spool_owners([NEW], state)[0].path


def test_a_resend_request_for_a_spool_without_a_running_sink_is_refused(state: StateFolder) -> None:
    old, new = leave_events(state, OLD), leave_events(state, NEW)
    (delivery,) = open_sinks([NEW], state)
    with delivery:
        assert request_resend(state.folder) == [new.stem]
        with pytest.raises(InputError, match=f"no sink of the running process has the spool {old.stem}: restart it"):
            request_resend(state.folder, old.stem)
        assert not request_of(old).exists()
    assert set(request_resend(state.folder)) == {old.stem, new.stem}  # the next run may have either


def test_a_file_that_is_no_spool_is_reported(state: StateFolder, caplog: pytest.LogCaptureFixture) -> None:
    state.spool.mkdir()
    (state.spool / "webhook-notes.sqlite").write_text("mine")
    start(state, NEW)
    assert caplog.messages == [f"cannot open {state.spool / 'webhook-notes.sqlite'}: not an SQLite file"]
