"""What people said of visits: every judgement with who gave it and when, in a database of its own.

The store of visits belongs to the process that watches, and forgets. Judgements keep what the box had answered, so that
they are still worth something when the visit is gone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

from twincar_edge.files import is_file
from twincar_edge.runtime.events import Event, Level
from twincar_edge.runtime.storage.database import Database, transaction

NAME = "corrections.sqlite"
Kind = Literal["named", "no vehicle", "unclear", "taken back"]
Result = TypeVar("Result")

# Times are seconds since 1970, UTC. `truth` is NULL unless `kind` is "named"; `whole` says that the box's answer was a
# class name in full. `drawn` has the visits that were offered at random.
_MIGRATIONS = (
    """
    CREATE TABLE judgements (
        number INTEGER PRIMARY KEY, visit TEXT NOT NULL, at_s REAL NOT NULL, user TEXT NOT NULL, kind TEXT NOT NULL,
        truth TEXT, answered TEXT NOT NULL, level TEXT NOT NULL, whole INTEGER NOT NULL, model TEXT NOT NULL
    );
    CREATE INDEX judgements_by_visit ON judgements (visit);
    CREATE TABLE drawn (number INTEGER PRIMARY KEY, visit TEXT NOT NULL UNIQUE)
    """,
)
_COLUMNS = "visit, at_s, user, kind, truth, answered, level, whole, model"


@dataclass(frozen=True)
class Judgement:
    """What a person said of a visit.

    Attributes:
        visit: its id.
        at: when.
        user: the name of the token with which the person had logged in.
        kind: the vehicle was named; or there is none; or nobody can tell; or what was said before is taken back.
        truth: the vehicle's name, which may say less than a class name; None unless it was named.
        answered: what the box had answered.
        level: how far that answer goes.
        whole: that answer is a class name in full.
        model_sha256: the digest of the model that gave it.
    """

    visit: str
    at: datetime
    user: str
    kind: Kind
    truth: str | None
    answered: str
    level: Level
    whole: bool
    model_sha256: str

    @property
    def confirms(self) -> bool:
        """Return whether it says just what the box had answered."""
        return self.kind == "named" and self.truth == self.answered

    @classmethod
    def of(cls, event: Event, user: str, kind: Kind, truth: str | None, at: datetime) -> Judgement:
        """Make one of a visit's event."""
        return cls(
            event.id, at, user, kind, truth, event.name, event.level, is_whole(event), event.classifier.sha256
        )  # fmt: skip


def is_whole(event: Event) -> bool:
    """Return whether the answer is a class name in full, and not as much of one as was sure."""
    return event.level != "unknown" and event.name == event.top5[0].name


class Corrections:
    """The judgements of a state folder. Nothing is ever deleted; of several for one visit, the newest counts.

    Methods raise `DatabaseError` where the file cannot be read or written.
    """

    def __init__(self, state: Path) -> None:
        """Take the state folder; the file is made with the first judgement."""
        self.path = state / NAME
        self._database = Database(self.path, _MIGRATIONS, "database of corrections")

    def add(self, judgement: Judgement) -> None:
        """Keep a judgement; it is on the disk when this returns."""
        one = judgement
        row = (
            one.visit, one.at.timestamp(), one.user, one.kind, one.truth, one.answered, one.level, one.whole,
            one.model_sha256,
        )  # fmt: skip
        marks = ", ".join("?" * len(row))
        self._run(lambda db: db.execute(f"INSERT INTO judgements ({_COLUMNS}) VALUES ({marks})", row))

    def history(self, visit: str) -> list[Judgement]:
        """Return all that was said of a visit, the newest first."""
        return self._select("WHERE visit = ? ORDER BY number DESC", visit)

    def newest(self) -> dict[str, Judgement]:
        """Return what counts, by the visit's id, in the order in which it was said; without what was taken back."""
        counts = self._select("WHERE number IN (SELECT max(number) FROM judgements GROUP BY visit) ORDER BY number")
        return {one.visit: one for one in counts if one.kind != "taken back"}

    def draw(self, visits: Iterable[str]) -> None:
        """Remember visits that are offered at random."""

        def run(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                connection.executemany("INSERT OR IGNORE INTO drawn (visit) VALUES (?)", ((visit,) for visit in visits))

        self._run(run)

    def drawn(self) -> list[str]:
        """Return the visits that were offered at random, in their order."""
        return self._read(lambda db: [visit for (visit,) in db.execute("SELECT visit FROM drawn ORDER BY number")], [])

    def _select(self, condition: str, *values: str) -> list[Judgement]:
        def run(connection: sqlite3.Connection) -> list[Judgement]:
            rows = connection.execute(f"SELECT {_COLUMNS} FROM judgements {condition}", values)
            return [
                Judgement(visit, datetime.fromtimestamp(at_s, UTC), user, kind, truth, said, level, bool(whole), model)
                for visit, at_s, user, kind, truth, said, level, whole, model in rows
            ]

        return self._read(run, [])

    def _read(self, work: Callable[[sqlite3.Connection], Result], nothing: Result) -> Result:
        """Read; a file that is not there yet is not made for that."""
        return self._run(work) if is_file(self.path) else nothing

    def _run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Open the file for one use: people are slow, and a page has no end at which it could close it."""
        try:
            return self._database.run(work)
        finally:
            self._database.close()
