"""docs/events.md and the packaged JSON schema describe the events that the code writes."""

from __future__ import annotations

import json
import re

from tests import REPOSITORY
from tests.support.event_toys import visit
from twincar_edge.runtime.events import ClassifierRecord, Event, Lead, NamedProbability, schema_file, schema_json

TEXT = (REPOSITORY / "docs" / "events.md").read_text("utf-8")


def test_the_packaged_schema_matches_the_code() -> None:
    assert schema_file().read_text("utf-8") == schema_json()


def test_the_documented_example_is_an_event() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    fields = json.loads(example)
    assert list(fields) == list(json.loads(visit().to_json()))
    assert Event.model_validate_json(example).schema_version == 3


def test_each_field_is_described_once_in_the_order_of_the_event() -> None:
    described = re.findall(r"^\| `([a-z0-9_.]+)` \|", TEXT, re.MULTILINE)
    nested = {"top5": NamedProbability, "course": Lead, "classifier": ClassifierRecord}
    expected = []
    for name in Event.model_fields:
        expected += [name, *(f"{name}.{part}" for part in nested[name].model_fields)] if name in nested else [name]
    assert described == expected
