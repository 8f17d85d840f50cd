"""Spools that no configured sink owns: their sink was removed or renamed, or its address changed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from twincar_edge.errors import InputError
from twincar_edge.runtime.sinks.resend import request_of
from twincar_edge.runtime.sinks.spool import Spool
from twincar_edge.runtime.storage.database import rename_database
from twincar_edge.wording import counted

logger = logging.getLogger(__name__)

_ADDRESSED = frozenset({"webhook", "mqtt"})  # another file is another list of events, another address a correction


@dataclass(frozen=True)
class SpoolOwner:
    """A configured sink: its kind, its label for messages, whether it has a name, and the path of its spool."""

    kind: str
    label: str
    named: bool
    path: Path


def recover_unowned(folder: Path, owners: Sequence[SpoolOwner]) -> None:
    """Give the events of a sink whose address changed to the sink with the new one; report all others.

    A webhook or broker without a name that has no spool yet takes over the only unowned spool of its kind. Call it
    before the sinks are opened, while this process holds the state folder.
    """
    owned = {owner.path for owner in owners}
    unowned = {path: _count(path) for path in sorted(folder.glob("*.sqlite")) if path not in owned}
    unowned = {path: count for path, count in unowned.items() if count}
    for kind in sorted({_kind(path) for path in unowned}):
        spools = [path for path in unowned if _kind(path) == kind]
        heirs = [owner for owner in owners if owner.kind == kind and not owner.named and not owner.path.exists()]
        adopts = kind in _ADDRESSED and len(spools) == len(heirs) == 1
        for path in spools:
            if adopts and _rename(path, heirs[0].path):
                logger.warning(
                    "%s: takes over %s of %s, whose address changed", heirs[0].label, unowned[path], path.stem
                )
            else:
                logger.warning(
                    "%s of %s not sent: no configured sink has this spool; restore its address, or rename %s to "
                    "%s-NAME.sqlite and give a sink that name",
                    unowned[path], path.stem, path, kind,
                )  # fmt: skip


def _kind(path: Path) -> str:
    return path.stem.split("-", 1)[0]


def _count(path: Path) -> str:
    """Return the number of events in a spool, in words; empty if there are none."""
    spool = Spool(path)
    try:
        spool.open()
    except InputError as error:
        logger.warning("%s", error)
        return ""
    finally:
        spool.close()
    total = spool.waiting + spool.aside
    return counted(total, "event") if total else ""


def _rename(path: Path, target: Path) -> bool:
    try:
        rename_database(path, target)
        with suppress(FileNotFoundError):
            request_of(path).rename(request_of(target))
    except OSError as error:
        logger.warning("cannot rename %s: %s", path, error.strerror)
        return False
    return True
