"""The settings of sinks: one model per kind, for `[[sinks]]` in cameras.toml and for the command line.

They contain no passwords or secrets, except in a webhook's URL: those come from the environment or from files.
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, ValidationError, model_validator

from twincar_edge.errors import InputError, first_fault
from twincar_edge.records import Settings, in_words
from twincar_edge.runtime.events import EventType
from twincar_edge.runtime.quantities import Age, ConfigPath, Size, Timeout
from twincar_edge.runtime.sinks.clips import ClipRules
from twincar_edge.runtime.sinks.retention import RESERVE_BYTES
from twincar_edge.runtime.sources.base import redact_url

_ALL: frozenset[EventType] = frozenset({"start", "update", "end"})
_END: frozenset[EventType] = frozenset({"end"})
Types = Annotated[frozenset[EventType], Field(min_length=1)]
Name = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"),
    in_words("up to 64 ASCII letters, digits and _ -, the first a letter or digit"),
]
Topic = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$", max_length=200),
    in_words("ASCII letters, digits and _ -, with / between levels"),
]
# A name whose labels have at most 63 characters, as a lookup requires, or an IPv6 address.
Host = Annotated[
    str,
    StringConstraints(
        pattern=r"^[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_-]{1,63})*\.?$"
        r"|^[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]{1,45}$",
        max_length=253,
    ),
    in_words("a host name or an IP address alone, such as broker.example.org"),
]


class _SinkSettings(Settings):
    """The settings that all kinds share.

    Attributes:
        name: used in messages, metrics and the spool; a named sink keeps its queued events when its address changes.
            Without a name, metrics use the kind, numbered if there are several, and messages use kind and address.
        types: the event types that the sink receives. Clips have none, because they are not made from events.
    """

    name: Name | None = None


class StdoutSettings(_SinkSettings):
    """Events as lines of JSON on standard output; on a terminal, the command line shows a table instead."""

    kind: Literal["stdout"] = "stdout"
    types: Types = _END


class JsonLinesSettings(_SinkSettings):
    """Events as lines of JSON, appended to the file `path`."""

    kind: Literal["jsonl"] = "jsonl"
    path: ConfigPath
    types: Types = _END


class CsvSettings(_SinkSettings):
    """Events as rows, appended to the file `path`."""

    kind: Literal["csv"] = "csv"
    path: ConfigPath
    types: Types = _END


class TableSettings(_SinkSettings):
    """The newest `rows` visits as a table on the terminal, under `title`."""

    kind: Literal["table"] = "table"
    title: str = "twincar-edge"
    rows: Annotated[int, Field(ge=1, le=1000)] = 20
    types: Types = _END


class StoreSettings(_SinkSettings):
    """The store, at `path` or in the state folder. Visits above `limit` and `age` are deleted, oldest first."""

    kind: Literal["store"] = "store"
    path: ConfigPath | None = None
    limit: Size | None = Field(default=None, gt=0)
    age: Age | None = Field(default=None, gt=timedelta(0))
    types: Types = _ALL


class CropsSettings(_SinkSettings):
    """The best picture of each visit, in the folder `path`.

    Pictures above `limit` and `age` are deleted, oldest first. No picture is saved while the disk has less than
    `reserve` free.
    """

    kind: Literal["crops"] = "crops"
    path: ConfigPath
    limit: Size | None = Field(default=None, gt=0)
    age: Age | None = Field(default=None, gt=timedelta(0))
    reserve: Size = Field(default=RESERVE_BYTES, ge=0)
    types: Types = _END


class ClipsSettings(_SinkSettings):
    """A short video of each visit, in the folder `path`; `limit`, `age` and `reserve` are as for pictures.

    A clip lasts from `before_s` before the vehicle is first seen to `after_s` after it is last seen, at most
    `longest_s`.
    """

    kind: Literal["clips"] = "clips"
    path: ConfigPath
    limit: Size | None = Field(default=None, gt=0)
    age: Age | None = Field(default=None, gt=timedelta(0))
    reserve: Size = Field(default=RESERVE_BYTES, ge=0)
    before_s: float = Field(default=ClipRules.before_s, ge=0, le=60)
    after_s: float = Field(default=ClipRules.after_s, ge=0, le=60)
    longest_s: float = Field(default=ClipRules.longest_s, gt=0, le=60)


class WebhookSettings(_SinkSettings):
    """HTTP requests to `url`, signed with the secret from `secret_file` or `$TWINCAR_WEBHOOK_SECRET`."""

    kind: Literal["webhook"] = "webhook"
    url: str = Field(repr=False, min_length=1)
    secret_file: ConfigPath | None = None
    ca_file: ConfigPath | None = None
    timeout_s: Timeout = 10.0
    types: Types = _ALL

    @model_validator(mode="after")
    def _trust_needs_tls(self) -> Self:
        if self.ca_file is not None and self.url.lower().startswith("http://"):
            raise ValueError("ca_file requires TLS: use an https:// URL, or remove ca_file")
        return self


class MqttSettings(_SinkSettings):
    """Messages to a broker. User and password come from `$TWINCAR_MQTT_USER` and `$TWINCAR_MQTT_PASSWORD`.

    `password_file` takes precedence over the latter. `ca_file` contains certificates to trust instead of the system's.
    `discovery` is the prefix of Home Assistant's discovery topics; if empty, nothing is announced. `area` is the area
    that Home Assistant suggests for the cameras.
    """

    kind: Literal["mqtt"] = "mqtt"
    host: Host
    port: int | None = Field(default=None, ge=1, le=65535)
    tls: bool = False
    ca_file: ConfigPath | None = None
    user: str | None = None
    password_file: ConfigPath | None = None
    topic: Topic = "twincar-edge"
    discovery: Topic | Literal[""] = "homeassistant"
    area: str | None = Field(default=None, min_length=1, max_length=100)
    timeout_s: Timeout = 10.0
    types: Types = _ALL

    @model_validator(mode="after")
    def _trust_needs_tls(self) -> Self:
        if self.ca_file is not None and not self.tls:
            raise ValueError("ca_file requires TLS: set tls = true")
        return self

    @model_validator(mode="after")
    def _area_is_announced(self) -> Self:
        if self.area is not None and not self.discovery:
            raise ValueError("area is announced by discovery, which is off: remove area, or the empty discovery")
        return self


EventSinkSettings = (
    StdoutSettings
    | JsonLinesSettings
    | CsvSettings
    | TableSettings
    | StoreSettings
    | CropsSettings
    | WebhookSettings
    | MqttSettings
)
SinkSettings = Annotated[EventSinkSettings | ClipsSettings, Field(discriminator="kind")]

# The formats of `-o FILE`, by suffix.
FILE_KINDS: dict[str, type[JsonLinesSettings] | type[CsvSettings]] = {
    ".jsonl": JsonLinesSettings,
    ".ndjson": JsonLinesSettings,
    ".csv": CsvSettings,
}
_MQTT_PORTS = {"mqtt": 1883, "mqtts": 8883}


def file_settings(path: Path) -> JsonLinesSettings | CsvSettings:
    """Return the settings of `-o FILE`: CSV for .csv, JSON lines for any other name."""
    return FILE_KINDS.get(path.suffix.lower(), JsonLinesSettings)(path=path)


def mqtt_settings(url: str) -> MqttSettings:
    """Return the settings of `--mqtt mqtt[s]://HOST[:PORT][/TOPIC]`.

    Raises:
        InputError: the URL is invalid, or contains a user or password, which the process list would expose.
    """
    name = redact_url(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InputError(f"invalid MQTT broker URL {name!r}: {error}") from error
    if parts.scheme not in _MQTT_PORTS or not parts.hostname or parts.query or parts.fragment:
        raise InputError(f"invalid MQTT broker URL {name!r}: expected mqtt://HOST:PORT or mqtts://HOST:PORT")
    if "@" in parts.netloc:
        raise InputError(
            f"invalid MQTT broker URL {name!r}: user and password are not allowed in it; "
            "set $TWINCAR_MQTT_USER and $TWINCAR_MQTT_PASSWORD"
        )
    topic = re.sub(r"^/|/$", "", parts.path)
    try:
        return MqttSettings.model_validate(
            {
                "host": parts.hostname,
                "port": port or _MQTT_PORTS[parts.scheme],
                "tls": parts.scheme == "mqtts",
                **({"topic": topic} if topic else {}),
            }
        )
    except ValidationError as error:
        raise InputError(f"invalid MQTT broker URL {name!r}: {first_fault(error)}") from error
