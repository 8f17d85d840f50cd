"""The database of judgments that users gave on visits, each with its user and time.

It is separate from the store, which belongs to the watching process and deletes old visits. A judgment contains the
box's answer, so it remains useful after the visit was deleted.
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

# Times are seconds since 1970, UTC. `truth` is NULL unless `kind` is "named"; `whole` is true if the box's answer was a
# full class name. `drawn` has the visits of the random sample.
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
    """A user's judgment of a visit.

    Attributes:
        visit: the visit's id.
        at: the time of the judgment.
        user: the name of the user's token.
        kind: the user named the vehicle, saw no vehicle, could not tell, or withdrew the earlier judgment.
        truth: the vehicle's name, perhaps less specific than a class name; None unless named.
        answered: the box's answer.
        level: the level of this answer.
        whole: the answer is a full class name.
        model_sha256: the digest of the model that gave the answer.
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
        """Return whether the user's name equals the box's answer."""
        return self.kind == "named" and self.truth == self.answered

    @classmethod
    def of(cls, event: Event, user: str, kind: Kind, truth: str | None, at: datetime) -> Judgement:
        """Create a judgment from a visit's event."""
        return cls(
            event.id, at, user, kind, truth, event.name, event.level, is_whole(event), event.classifier.sha256
        )  # fmt: skip


def is_whole(event: Event) -> bool:
    """Return whether the answer is a full class name rather than a less specific one."""
    return event.level != "unknown" and event.name == event.top5[0].name


class Corrections:
    """The judgments in a state folder. None is ever deleted; if a visit has several, the newest applies.

    Methods raise `DatabaseError` if the file cannot be read or written.
    """

    def __init__(self, state: Path) -> None:
        """Use the state folder; the first judgment creates the file."""
        self.path = state / NAME
        self._database = Database(self.path, _MIGRATIONS, "database of corrections")

    def add(self, judgement: Judgement) -> None:
        """Store a judgment; return once it is on disk."""
        one = judgement
        row = (
            one.visit, one.at.timestamp(), one.user, one.kind, one.truth, one.answered, one.level, one.whole,
            one.model_sha256,
        )  # fmt: skip
        marks = ", ".join("?" * len(row))
        self._run(lambda db: db.execute(f"INSERT INTO judgements ({_COLUMNS}) VALUES ({marks})", row))

    def history(self, visit: str) -> list[Judgement]:
        """Return all judgments of a visit, newest first."""
        return self._select("WHERE visit = ? ORDER BY number DESC", visit)

    def newest(self) -> dict[str, Judgement]:
        """Return the newest judgment of each visit by the visit's id, oldest first, without withdrawn ones."""
        counts = self._select("WHERE number IN (SELECT max(number) FROM judgements GROUP BY visit) ORDER BY number")
        return {one.visit: one for one in counts if one.kind != "taken back"}

    def draw(self, visits: Iterable[str]) -> None:
        """Add visits to the random sample."""

        def run(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                connection.executemany("INSERT OR IGNORE INTO drawn (visit) VALUES (?)", ((visit,) for visit in visits))

        self._run(run)

    def drawn(self) -> list[str]:
        """Return the random sample of visits, in the order of drawing."""
        return self._read(lambda db: [visit for (visit,) in db.execute("SELECT visit FROM drawn ORDER BY number")], [])

    def _select(self, condition: str, *values: str) -> list[Judgement]:
        def run(connection: sqlite3.Connection) -> list[Judgement]:
            rows = connection.execute(f"SELECT {_COLUMNS} FROM judgements {condition}", values)
            return [
                Judgement(
                    visit, datetime.fromtimestamp(at_s, UTC), user, kind, truth, answered, level, bool(whole), model
                )
                for visit, at_s, user, kind, truth, answered, level, whole, model in rows
            ]

        return self._read(run, [])

    def _read(self, work: Callable[[sqlite3.Connection], Result], nothing: Result) -> Result:
        """Read without creating a missing file."""
        return self._run(work) if is_file(self.path) else nothing

    def _run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Open the file for one use: accesses are rare, and the page has no shutdown hook to close it."""
        try:
            return self._database.run(work)
        finally:
            self._database.close()
