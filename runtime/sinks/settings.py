"""What a sink can be told: one model a kind, the same for `[[sink]]` in cameras.toml and for the command line.

Passwords and secrets are not among it, except in a webhook's URL: they come from the environment or from files.
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    StringConstraints,
    ValidationError,
    model_validator,
)

from twincar_edge.errors import InputError, first_fault
from twincar_edge.runtime.events import EventType
from twincar_edge.runtime.quantities import Age, Size
from twincar_edge.runtime.sinks.clips import ClipRules
from twincar_edge.runtime.sinks.retention import RESERVE_BYTES
from twincar_edge.runtime.sources.base import redact_url

_ALL: frozenset[EventType] = frozenset({"start", "update", "end"})
_END: frozenset[EventType] = frozenset({"end"})
Types = Annotated[frozenset[EventType], Field(min_length=1)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Topic = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$", max_length=200)]
Host = Annotated[
    str,
    StringConstraints(
        pattern=r"^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_-]+)*\.?$|^[0-9A-Fa-f:.]+$", max_length=253
    ),
]


class _Settings(BaseModel):
    """What all kinds have.

    Attributes:
        name: for messages and metrics, and of the spool: give one where a receiver moves to another address and is to
            get what waits. Metrics have the kind if it is not given, with a number where there are several, and
            messages kind and address.
        types: the kinds of event that it takes. Clips are not made of events.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Name | None = None


class JsonLinesSettings(_Settings):
    """Events as lines of JSON: appended to the file `path`, or on standard output."""

    kind: Literal["jsonl"] = "jsonl"
    path: Path | None = None
    types: Types = _END


class CsvSettings(_Settings):
    """Events as rows, appended to the file `path`."""

    kind: Literal["csv"] = "csv"
    path: Path
    types: Types = _END


class TableSettings(_Settings):
    """The newest `rows` visits as a table on the terminal, under `title`."""

    kind: Literal["table"] = "table"
    title: str = "twincar-edge"
    rows: Annotated[int, Field(ge=1, le=1000)] = 20
    types: Types = _END


class StoreSettings(_Settings):
    """The store of visits, at `path` or in the state folder."""

    kind: Literal["store"] = "store"
    path: Path | None = None
    types: Types = _ALL


class CropsSettings(_Settings):
    """The best picture of each visit, in the folder `path`.

    `limit` and `age` say when the oldest go; below `reserve` free on the disk, none is saved.
    """

    kind: Literal["crops"] = "crops"
    path: Path
    limit: Size | None = Field(default=None, gt=0)
    age: Age | None = Field(default=None, gt=timedelta(0))
    reserve: Size = Field(default=RESERVE_BYTES, ge=0)
    types: Types = _END


class ClipsSettings(_Settings):
    """A short video of each visit, in the folder `path`; `limit`, `age` and `reserve` are as for pictures.

    It shows `before_s` before the vehicle is first seen to `after_s` after it is last seen, and is `longest_s` long at
    most.
    """

    kind: Literal["clips"] = "clips"
    path: Path
    limit: Size | None = Field(default=None, gt=0)
    age: Age | None = Field(default=None, gt=timedelta(0))
    reserve: Size = Field(default=RESERVE_BYTES, ge=0)
    before_s: float = Field(default=ClipRules.before_s, ge=0, le=60)
    after_s: float = Field(default=ClipRules.after_s, ge=0, le=60)
    longest_s: float = Field(default=ClipRules.longest_s, gt=0, le=60)


class WebhookSettings(_Settings):
    """HTTP requests to `url`, signed with the secret in `secret_file`, else in `$TWINCAR_WEBHOOK_SECRET`."""

    kind: Literal["webhook"] = "webhook"
    url: str = Field(repr=False, min_length=1)
    secret_file: Path | None = None
    ca_file: Path | None = None
    timeout_s: PositiveFloat = 10.0
    types: Types = _ALL


class MqttSettings(_Settings):
    """Messages to a broker. User and password come from `$TWINCAR_MQTT_USER` and `$TWINCAR_MQTT_PASSWORD`.

    `password_file` is in place of the latter. `ca_file` holds the certificates to trust in place of the system's.
    `discovery` is Home Assistant's prefix; an empty one announces nothing.
    """

    kind: Literal["mqtt"] = "mqtt"
    host: Host
    port: int | None = Field(default=None, ge=1, le=65535)
    tls: bool = False
    ca_file: Path | None = None
    user: str | None = None
    password_file: Path | None = None
    topic: Topic = "twincar-edge"
    discovery: Topic | Literal[""] = "homeassistant"
    timeout_s: PositiveFloat = 10.0
    types: Types = _ALL

    @model_validator(mode="after")
    def _trust_needs_tls(self) -> Self:
        if self.ca_file is not None and not self.tls:
            raise ValueError("ca_file is for TLS: set tls = true")
        return self


# What takes events.
EventSinkSettings = (
    JsonLinesSettings | CsvSettings | TableSettings | StoreSettings | CropsSettings | WebhookSettings | MqttSettings
)
SinkSettings = Annotated[EventSinkSettings | ClipsSettings, Field(discriminator="kind")]

# What `-o` takes, by the file's suffix.
FILE_KINDS: dict[str, type[JsonLinesSettings] | type[CsvSettings]] = {
    ".jsonl": JsonLinesSettings,
    ".ndjson": JsonLinesSettings,
    ".csv": CsvSettings,
}
_MQTT_PORTS = {"mqtt": 1883, "mqtts": 8883}


def file_settings(path: Path) -> JsonLinesSettings | CsvSettings:
    """Return the settings that `-o FILE` stands for: CSV for .csv, JSON lines for any other name."""
    return FILE_KINDS.get(path.suffix.lower(), JsonLinesSettings)(path=path)


def mqtt_settings(url: str) -> MqttSettings:
    """Return the settings that `--mqtt mqtt[s]://HOST[:PORT][/TOPIC]` stands for.

    Raises:
        InputError: it is no such URL, or it holds a password, which everybody who may list processes would read.
    """
    name = redact_url(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InputError(f"the MQTT broker {name!r} is none: {error}") from error
    if parts.scheme not in _MQTT_PORTS or not parts.hostname or parts.query or parts.fragment:
        raise InputError(f"an MQTT broker is mqtt://HOST:PORT or mqtts://HOST:PORT, found {name!r}")
    if "@" in parts.netloc:
        raise InputError(
            f"{name}: user and password of a broker are not part of its URL, "
            "set $TWINCAR_MQTT_USER and $TWINCAR_MQTT_PASSWORD"
        )
    topic = re.sub(r"^/|/$", "", parts.path)
    try:
        return MqttSettings(
            host=parts.hostname,
            port=port or _MQTT_PORTS[parts.scheme],
            tls=parts.scheme == "mqtts",
            **({"topic": topic} if topic else {}),
        )
    except ValidationError as error:
        raise InputError(f"the MQTT broker {name!r} is none: {first_fault(error)}") from error
