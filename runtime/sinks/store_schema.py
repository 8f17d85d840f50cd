"""The schema of the store: its migrations, and the statement that writes a row."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime

# Times are microseconds since 1970, UTC; `event` is the newest event of the visit, as JSON.
MIGRATIONS = (
    """
    CREATE TABLE visits (
        id TEXT PRIMARY KEY, started_us INTEGER NOT NULL, type TEXT NOT NULL, camera TEXT NOT NULL,
        level TEXT NOT NULL, name TEXT NOT NULL, make TEXT, model TEXT, event TEXT NOT NULL
    );
    CREATE INDEX visits_by_time ON visits (started_us)
    """,
    # `recording` is the digest of the file that shows the visit, `run` the run that wrote the row, `crop` and `clip`
    # the paths of the picture and the clip.
    """
    ALTER TABLE visits ADD COLUMN recording TEXT;
    ALTER TABLE visits ADD COLUMN run TEXT;
    ALTER TABLE visits ADD COLUMN crop TEXT;
    ALTER TABLE visits ADD COLUMN clip TEXT;
    CREATE INDEX visits_by_recording ON visits (recording, camera) WHERE recording IS NOT NULL
    """,
    # For `visit_pages`: a covering index of the filter columns in order of time, without the large column `event`, and
    # indexes for the distinct cameras, makes, models and names.
    """
    CREATE INDEX visits_by_time_with_facts ON visits (started_us, camera, level, make, model, name);
    DROP INDEX IF EXISTS visits_by_time;
    CREATE INDEX visits_by_camera ON visits (camera);
    CREATE INDEX visits_by_make ON visits (make);
    CREATE INDEX visits_by_model ON visits (model);
    CREATE INDEX visits_by_name ON visits (name)
    """,
)
_COLUMNS = (
    "id", "started_us", "type", "camera", "level", "name", "make", "model", "event", "recording", "run", "crop", "clip"
)  # fmt: skip
# An event that is redelivered after a restart must not reopen an ended visit. An `end` with `interrupted` (the last
# parameter) must not replace or delete a regular `end`.
UPSERT = (
    f"INSERT INTO visits ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "
    f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _COLUMNS[1:])} "
    "WHERE visits.type <> 'end' OR (excluded.type = 'end' AND NOT ?)"
)
DELETE_FALSE = "DELETE FROM visits WHERE id = ? AND (type <> 'end' OR NOT ?)"


def microseconds(moment: datetime) -> int:
    """Return a time as microseconds since 1970, UTC."""
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 10**6 + delta.microseconds


def schema_version(connection: sqlite3.Connection) -> int:
    """Return a store's schema version, which may be old: readers do not migrate the file."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def saved_columns(connection: sqlite3.Connection) -> str:
    """Return the columns with the paths of picture and clip, in SQL; NULLs if the store lacks them."""
    return "NULL, NULL" if schema_version(connection) < 2 else "crop, clip"
