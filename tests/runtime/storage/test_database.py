"""Database files: opened when needed, begun again after damage, and never anybody else's."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from twincar_edge.errors import InputError
from twincar_edge.runtime.page.tokens import Tokens, session_secret
from twincar_edge.runtime.storage.database import Database, DatabaseError, open_read_only, transaction
from twincar_edge.runtime.storage.state import StateFolder

FIRST = "CREATE TABLE notes (text TEXT NOT NULL)"
SECOND = "ALTER TABLE notes ADD COLUMN author TEXT"


def database(path: Path, *migrations: str, **options: object) -> Database:
    return Database(path, migrations or (FIRST,), "notebook", **options)  # type: ignore[arg-type]


def note(book: Database, text: str) -> None:
    def run(connection: sqlite3.Connection) -> None:
        with transaction(connection):
            connection.execute("INSERT INTO notes (text) VALUES (?)", [text])

    book.run(run)


def notes(book: Database) -> list[str]:
    return [text for (text,) in book.run(lambda connection: connection.execute("SELECT text FROM notes").fetchall())]


def damage(path: Path) -> bytes:
    damaged = bytearray(path.read_bytes())
    damaged[24:] = b"\x5a" * (len(damaged) - 24)
    path.write_bytes(damaged)
    return bytes(damaged)


def test_a_file_is_made_by_its_first_use_and_opened_again_after_closing(tmp_path: Path) -> None:
    book = database(tmp_path / "new" / "book")
    note(book, "one")
    book.close()
    book.close()
    note(book, "two")
    assert notes(book) == ["one", "two"]
    book.close()


def test_a_file_of_an_older_version_is_brought_up_to_date_and_a_newer_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "book"
    old, new = database(path), database(path, FIRST, SECOND)
    note(old, "old")
    old.close()
    columns = new.run(lambda connection: connection.execute("SELECT text, author FROM notes").fetchall())
    assert columns == [("old", None)]
    new.close()
    with pytest.raises(InputError, match="newer twincar-edge"):
        old.open()


def test_work_is_done_again_on_a_new_file_after_damage_and_the_old_one_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, opened = tmp_path / "book", list[int]()
    book = database(
        path, on_open=lambda connection: opened.extend(connection.execute("SELECT count(*) FROM notes").fetchone())
    )
    note(book, "lost")
    book.close()
    damaged = damage(path)
    note(book, "kept")
    assert notes(book) == ["kept"]
    book.close()
    assert opened == [0, 0]  # the owner hears of every file that is opened
    (aside,) = tmp_path.glob("book.corrupt-*Z")
    assert aside.read_bytes() == damaged
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"the notebook {path} is damaged")
    assert f"sqlite3 {aside} .recover" in record.getMessage()


def test_a_damaged_schema_that_is_not_utf8_is_damage(tmp_path: Path) -> None:
    book = database(tmp_path / "book")
    note(book, "lost")
    book.close()
    content = book.path.read_bytes()
    book.path.write_bytes(content.replace(b"CREATE TABLE", b"CREATE TABLX").replace(b"notes", b"n\xe1tes"))
    note(book, "kept")
    assert notes(book) == ["kept"]
    book.close()
    assert len(list(tmp_path.glob("book.corrupt-*Z"))) == 1


def test_a_file_of_another_user_is_an_error_at_the_start_and_a_failure_later(tmp_path: Path) -> None:
    path = tmp_path / "book"
    path.write_text("my notes, and they stay here")
    book = database(path)
    with pytest.raises(InputError, match="not an SQLite file"):
        book.open()
    # Whoever uses the file while a run goes on tries again later; its thread must not die.
    with pytest.raises(DatabaseError, match=r"cannot use the notebook: .* not an SQLite file"):
        notes(book)
    assert path.read_text() == "my notes, and they stay here"
    path.unlink()
    note(book, "now")
    book.close()


def test_a_transaction_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    book = database(tmp_path / "book")

    def half(connection: sqlite3.Connection) -> None:
        with transaction(connection):
            connection.execute("INSERT INTO notes (text) VALUES ('half')")
            connection.execute("INSERT INTO notes (text) VALUES (NULL)")

    with pytest.raises(DatabaseError, match="NOT NULL"):
        book.run(half)
    assert notes(book) == []
    book.close()


def test_threads_take_turns(tmp_path: Path) -> None:
    book = database(tmp_path / "book")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: note(book, str(number)), range(100)))
    assert sorted(map(int, notes(book))) == list(range(100))
    book.close()


def test_a_reader_sees_what_was_committed_and_cannot_write(tmp_path: Path) -> None:
    book = database(tmp_path / "book")
    note(book, "one")
    reader = open_read_only(tmp_path / "book")
    note(book, "two")
    assert reader.execute("SELECT count(*) FROM notes").fetchone() == (2,)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("INSERT INTO notes (text) VALUES ('three')")
    reader.close()
    book.close()


def store_in(state: Path) -> None:
    book = database(state / "events.sqlite")
    book.open()
    book.close()


@pytest.mark.parametrize(
    "first",
    [lambda state: Tokens(state).add("anna", "view"), session_secret, store_in],
    ids=["a token", "the page", "a store"],
)
def test_others_cannot_read_a_state_folder_whatever_makes_it(tmp_path: Path, first: Callable[[Path], object]) -> None:
    before = os.umask(0)
    try:
        first(tmp_path / "state")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o750


def test_a_file_in_place_of_the_state_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(InputError, match=r"/state exists, but is not a folder$"):
        store_in(tmp_path / "state")
    with pytest.raises(InputError, match=r"/state: it exists, but is not a folder$"), StateFolder(tmp_path / "state"):
        pass


def test_others_cannot_read_a_state_folder_or_a_database(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with StateFolder(tmp_path / "a" / "state") as state:
            book = database(state.store)
            book.open()
            for path in (state.store, state.store.with_name(state.store.name + "-wal")):
                assert stat.S_IMODE(path.stat().st_mode) == 0o640
            book.close()
        assert stat.S_IMODE(state.folder.stat().st_mode) == 0o750
    finally:
        os.umask(before)
