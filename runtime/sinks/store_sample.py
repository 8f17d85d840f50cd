"""Random samples of visits, for unbiased measurements: visits that users choose to review are biased."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from twincar_edge.errors import InputError
from twincar_edge.runtime.storage.database import has_tables, open_read_only


def random_visits(path: Path) -> list[tuple[str, Path]]:
    """Return id and picture of all ended visits that had a picture, in random order.

    Raises:
        InputError: the store cannot be read.
    """
    try:
        with closing(open_read_only(path)) as connection:
            if not has_tables(connection):
                return []
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version < 2:  # no column for pictures
                return []
            rows = connection.execute(
                "SELECT id, crop FROM visits WHERE type = 'end' AND crop IS NOT NULL ORDER BY random()"
            )
            return [(visit, Path(crop)) for visit, crop in rows]
    except sqlite3.Error as error:
        raise InputError(f"cannot read the store {path}: {error}") from error
