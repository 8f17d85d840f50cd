"""Creates deliveries from settings; `SINKS` is the table of kinds."""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import stat
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from twincar_edge.errors import InputError, Parameter
from twincar_edge.files import is_file
from twincar_edge.runtime.listening import is_local
from twincar_edge.runtime.sinks import settings as kinds
from twincar_edge.runtime.sinks.base import Sink
from twincar_edge.runtime.sinks.clip_saver import ClipSaver
from twincar_edge.runtime.sinks.clips import ClipRules, clip_folder
from twincar_edge.runtime.sinks.csv import CsvFile
from twincar_edge.runtime.sinks.delivery import Delivery, DeliveryPolicy
from twincar_edge.runtime.sinks.jsonl import JsonLines
from twincar_edge.runtime.sinks.retention import Limits
from twincar_edge.runtime.sinks.settings import SinkSettings
from twincar_edge.runtime.sinks.snapshots import CropSaver, crop_folder
from twincar_edge.runtime.sinks.spool import Spool
from twincar_edge.runtime.sinks.store import EventStore
from twincar_edge.runtime.sinks.table import LiveTable
from twincar_edge.runtime.sinks.unowned import SpoolOwner
from twincar_edge.runtime.storage.state import StateFolder

logger = logging.getLogger(__name__)

_MAX_SECRET = 4096


@dataclass(frozen=True)
class SinkContext:
    """What sinks may need in addition to their settings."""

    state: StateFolder | None
    cameras: Sequence[str]
    environ: Mapping[str, str]
    crops: Path | None
    clips: Path | None
    available: Callable[[], Mapping[str, bool]] | None = None


@dataclass(frozen=True)
class SinkKind:
    """A row of the table.

    Attributes:
        open: creates the sink; the delivery opens it later.
        where: returns the sink's target without secrets, for messages and the spool's file name.
        policy: which events the sink gets, and how.
        spooled: undelivered events are queued on disk.
    """

    open: Callable[[Any, SinkContext], Sink]
    where: Callable[[Any], str]
    policy: DeliveryPolicy
    spooled: bool = True


def _store(options: kinds.StoreSettings, context: SinkContext) -> Sink:
    if options.path is None and context.state is None:
        raise InputError("the store has no path: set one with ", Parameter("store"), ", or use a state folder")
    path = options.path or (context.state.store if context.state is not None else None)
    assert path is not None
    limits = Limits(options.limit, options.age)
    return EventStore(path, crops=context.crops, clips=context.clips, limits=limits)


def _crops(options: kinds.CropsSettings, _context: SinkContext) -> Sink:
    return CropSaver(crop_folder(options.path, _limits(options)))


def _limits(options: kinds.CropsSettings | kinds.ClipsSettings) -> Limits:
    return Limits(options.limit, options.age, options.reserve)


def _webhook(options: kinds.WebhookSettings, context: SinkContext) -> Sink:
    # Imported late: HTTP and TLS cost time and memory, and few runs need them.
    from twincar_edge.runtime.sinks.webhook import Webhook, parse_target

    secret = _secret(options.secret_file, "TWINCAR_WEBHOOK_SECRET", context.environ)
    target = parse_target(options.url)
    if target.authorization is not None and not target.tls and not is_local(target.host):
        logger.warning("the password for %s is sent unencrypted: use https://", target.name)
    return Webhook(
        options.url,
        secret=None if secret is None else secret.encode("utf-8"),
        ca_file=options.ca_file,
        timeout_s=options.timeout_s,
    )


def _webhook_name(options: kinds.WebhookSettings) -> str:
    from twincar_edge.runtime.sinks.webhook import parse_target

    return parse_target(options.url).name


def _mqtt(options: kinds.MqttSettings, context: SinkContext) -> Sink:
    from twincar_edge.runtime.sinks.mqtt import Mqtt  # imported late: paho is slow to import
    from twincar_edge.runtime.sinks.webhook import tls_context

    password = _secret(options.password_file, "TWINCAR_MQTT_PASSWORD", context.environ)
    user = options.user or context.environ.get("TWINCAR_MQTT_USER") or None
    if password is not None and user is None:
        raise InputError("password for the MQTT broker without a user: set $TWINCAR_MQTT_USER")
    if password is not None and not options.tls and not is_local(options.host):
        logger.warning("the password for mqtt://%s is sent unencrypted: use TLS (mqtts)", options.host)
    return Mqtt(
        options.host,
        _mqtt_port(options),
        topic=options.topic,
        cameras=context.cameras,
        discovery_prefix=options.discovery or None,
        area=options.area,
        available=context.available,
        user=user,
        password=password,
        tls=tls_context(options.ca_file) if options.tls else None,
        timeout_s=options.timeout_s,
    )


def _mqtt_port(options: kinds.MqttSettings) -> int:
    return options.port or (8883 if options.tls else 1883)


def _secret(path: Path | None, variable: str, environ: Mapping[str, str]) -> str | None:
    if path is None:
        return environ.get(variable) or None
    if not is_file(path):
        raise InputError(f"cannot read secret file {path}: no such file")
    try:
        if path.stat().st_mode & stat.S_IROTH:
            logger.warning("secret file %s is readable by every user of this machine: run `chmod o= %s`", path, path)
        with path.open(encoding="utf-8") as file:
            text = file.read(_MAX_SECRET + 1).removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read secret file {path}: {getattr(error, 'strerror', 'not UTF-8 text')}") from error
    if not text or len(text) > _MAX_SECRET:
        raise InputError(f"cannot read secret file {path}: empty or longer than {_MAX_SECRET} characters")
    return text


_FILE = DeliveryPolicy(local=True)
_QUICK = DeliveryPolicy(limit=16, crops=True, retry=False, local=True)

SINKS: dict[str, SinkKind] = {
    # Not spooled: the reader of a pipe sets the pace, ends the run, and does not expect events of an earlier run.
    "stdout": SinkKind(
        lambda _options, _: JsonLines(),
        lambda _: "",
        DeliveryPolicy(limit=10_000, retry=False, drain_s=None),
        spooled=False,
    ),
    "jsonl": SinkKind(lambda options, _: JsonLines(options.path), lambda options: str(options.path), _FILE),
    "csv": SinkKind(lambda options, _: CsvFile(options.path), lambda options: str(options.path), _FILE),
    "table": SinkKind(
        lambda options, _: LiveTable(options.title, options.rows),
        lambda _: "on the terminal",
        DeliveryPolicy(limit=100, retry=False),
        spooled=False,
    ),
    "store": SinkKind(_store, lambda options: str(options.path or "state"), _FILE),
    "crops": SinkKind(_crops, lambda options: str(options.path), _QUICK, spooled=False),
    "webhook": SinkKind(_webhook, _webhook_name, DeliveryPolicy()),
    "mqtt": SinkKind(_mqtt, lambda options: f"{options.host}:{_mqtt_port(options)}/{options.topic}", DeliveryPolicy()),
}


def needs_state(settings: Sequence[SinkSettings], *, live: bool = True) -> bool:
    """Return whether any of these sinks queues undelivered events in the state folder; see `open_sinks`."""
    return any(_spooled(options, live) for options in settings)


def _spooled(options: SinkSettings, live: bool) -> bool:
    """Return whether a sink has a spool. In a run over files the store has none, because files can wait."""
    return options.kind in SINKS and SINKS[options.kind].spooled and (live or options.kind != "store")


def destinations(settings: Sequence[SinkSettings], state: StateFolder | None) -> str:
    """Return each sink's kind and target, without secrets, for the log."""
    targets = []
    for options in settings:
        if isinstance(options, kinds.ClipsSettings):
            where = str(options.path)
        elif isinstance(options, kinds.StoreSettings) and options.path is None and state is not None:
            where = str(state.store)
        else:
            where = SINKS[options.kind].where(options)
        targets.append(f"{options.kind} {where}".rstrip())
    return ", ".join(targets) or "no sink"


def open_sinks(
    settings: Sequence[SinkSettings],
    state: StateFolder | None,
    *,
    cameras: Sequence[str] = (),
    live: bool = True,
    environ: Mapping[str, str] | None = None,
    on_gone: Callable[[], None] | None = None,
    stop: threading.Event | None = None,
    available: Callable[[], Mapping[str, bool]] | None = None,
) -> list[Delivery]:
    """Return a delivery for each event sink, not yet opened; `running` opens and closes several.

    Args:
        settings: the sinks' settings.
        state: the open state folder, for spools and the store; may be None if `needs_state` is false.
        cameras: the cameras' names, for sinks that announce them.
        live: the run has live cameras. Otherwise the store has no spool, so that several runs over files can use one
            state folder.
        environ: environment variables with passwords; those of the process if not given.
        on_gone: called when the reader of standard output closed it.
        stop: set when the run is to end: from then on nothing waits for a slow sink.
        available: returns for each camera whether it works, for sinks that publish it.

    Raises:
        InputError: settings cannot work, two sinks have the same target, or a spool has no state folder.
    """
    folders = {options.kind: options.path for options in settings if options.kind in ("crops", "clips")}
    context = SinkContext(
        state,
        cameras,
        os.environ if environ is None else environ,
        folders.get("crops"),
        folders.get("clips"),
        available,
    )
    deliveries: dict[str, Delivery] = {}
    files: set[Path] = set()
    for name, options in zip(_names(settings), settings, strict=True):
        if isinstance(options, kinds.ClipsSettings):
            continue
        kind = SINKS[options.kind]
        label = _label(options)
        if label in deliveries:
            raise InputError(f"duplicate sink {label}: remove one of them, or change its name or target")
        if isinstance(options, kinds.JsonLinesSettings | kinds.CsvSettings | kinds.StoreSettings) and options.path:
            path = options.path.absolute()
            if path in files:
                raise InputError(f"two sinks write to {options.path}: choose another file for one of them")
            files.add(path)
        spool = None
        if _spooled(options, live):
            if state is None:
                raise InputError(f"{label} needs a folder for undelivered events: set one with ", Parameter("state"))
            spool = Spool(_spool_path(options, state))
        policy = replace(kind.policy, types=options.types)
        sink = kind.open(options, context)
        deliveries[label] = Delivery(sink, name, policy, spool=spool, on_gone=on_gone, label=label, stop=stop)
    return list(deliveries.values())


def open_clip_saver(settings: Sequence[SinkSettings], *, stop: threading.Event | None = None) -> ClipSaver | None:
    """Return the clip saver, not yet opened, or None if the settings have no clips."""
    for name, options in zip(_names(settings), settings, strict=True):
        if isinstance(options, kinds.ClipsSettings):
            folder = clip_folder(options.path, _limits(options))
            rules = ClipRules(options.before_s, options.after_s, options.longest_s)
            return ClipSaver(folder, name, rules, stop=stop)
    return None


def _names(settings: Sequence[SinkSettings]) -> list[str]:
    """Return the name of each sink: the configured one, else its kind, numbered if there are several."""
    names: list[str] = []
    given = [options.name for options in settings if options.name is not None]
    for options in settings:
        kind = options.kind
        numbered = (kind if number == 1 else f"{kind}-{number}" for number in itertools.count(1))
        names.append(options.name or next(name for name in numbered if name not in (*given, *names)))
    return names


def _label(options: kinds.EventSinkSettings) -> str:
    return options.name or f"{options.kind} {SINKS[options.kind].where(options)}".rstrip()


def _spool_path(options: kinds.EventSinkSettings, state: StateFolder) -> Path:
    """Return the path of a spool, which depends on the sink's name or target, not on its position."""
    where = SINKS[options.kind].where(options)
    name = options.name or hashlib.sha256(where.encode("utf-8")).hexdigest()[:12]
    return state.spool / f"{options.kind}-{name}.sqlite"


def spool_owners(settings: Sequence[SinkSettings], state: StateFolder) -> list[SpoolOwner]:
    """Return the sinks that may have a spool, also those that have none in a run over files."""
    return [
        SpoolOwner(options.kind, _label(options), options.name is not None, _spool_path(options, state))
        for options in settings
        if not isinstance(options, kinds.ClipsSettings) and SINKS[options.kind].spooled
    ]
