"""A watched folder: images are read when complete, once each, also across restarts."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import watchfiles

from tests.support.event_toys import eventually
from twincar_edge.errors import InputError
from twincar_edge.runtime.sources import Source, folder, open_source
from twincar_edge.runtime.sources.seen import SeenImages
from twincar_edge.runtime.sources.signature import signature_of

WAIT_S = 60.0  # timeout for what takes less than a second


def encoded(number: int) -> bytes:
    return cv2.imencode(".png", np.full((48, 64, 3), 20 + number, np.uint8))[1].tobytes()


def write(folder: Path, *numbers: int) -> None:
    folder.mkdir(exist_ok=True)
    for number in numbers:
        (folder / f"car_{number}.png").write_bytes(encoded(number))


class Taking:
    """Handles the frames of a source in a thread and records the names."""

    def __init__(self, source: Source, stop: threading.Event) -> None:
        self.names: list[str] = []
        self.source = source
        self._stop = stop
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._take)

    def __enter__(self) -> Taking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error

    def _take(self) -> None:
        try:
            with self.source:
                for frame in self.source:
                    self.names.append(frame.name)
                    self.source.handled(frame.index)
        except InputError as error:
            self._error = error

    def until(self, *numbers: int) -> None:
        eventually(lambda: len(self.names) >= len(numbers), f"{numbers} come", WAIT_S)
        assert self.names == [f"car_{number}.png" for number in numbers]


def taking(path: Path, *, seen: Path | None = None, stride: int = 1) -> Taking:
    stop = threading.Event()
    return Taking(open_source(str(path), stop=stop, seen=seen, stride=stride), stop)


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


# --- arriving images ---


def test_existing_images_come_first_and_then_new_ones(inbox: Path) -> None:
    write(inbox, 0, 1, 2, 10, 9)
    with taking(inbox) as taken:
        assert taken.source.live and taken.source.stills
        taken.until(0, 1, 2, 9, 10)
        write(inbox, 11)
        taken.until(0, 1, 2, 9, 10, 11)
        status = taken.source.status()
        assert (status.state, status.frames, status.size_wh, status.skipped) == ("live", 6, (64, 48), 0)
    assert taken.source.status().state == "ended"


def test_an_image_that_is_still_being_written_is_read_once_complete(inbox: Path) -> None:
    data = encoded(0)
    with taking(inbox) as taken, (inbox / "car_0.png").open("wb", buffering=0) as file:
        for byte in range(0, len(data), 8):  # slowly, but with pauses too short for a complete file
            file.write(data[byte : byte + 8])
            assert not taken.source._stop.wait(0.02)  # type: ignore[attr-defined]
            assert taken.names == []
        taken.until(0)
    assert taken.source.skipped == 0


def test_an_image_that_is_moved_into_place_is_read_but_not_its_temporary_file(inbox: Path) -> None:
    with taking(inbox) as taken:
        (inbox / ".car_0.png.part").write_bytes(encoded(0))
        (inbox / ".car_1.png").write_bytes(encoded(1))
        (inbox / "notes.txt").write_text("no image")
        (inbox / "folder.png").mkdir()
        (inbox / ".car_0.png.part").rename(inbox / "car_0.png")
        taken.until(0)
        write(inbox, 2)
        taken.until(0, 2)


def test_a_rewritten_image_is_a_new_image_and_an_unchanged_one_is_not(inbox: Path) -> None:
    write(inbox, 0, 1)
    with taking(inbox) as taken:
        taken.until(0, 1)
        os.utime(inbox / "car_1.png", ns=(0, signature_of(inbox / "car_1.png").changed_ns))  # type: ignore[union-attr]
        (inbox / "car_0.png").write_bytes(encoded(50))
        taken.until(0, 1, 0)
        write(inbox, 2)
        taken.until(0, 1, 0, 2)


def test_an_unusable_image_is_counted_and_retried_when_it_changes(inbox: Path) -> None:
    (inbox / "car_0.png").write_bytes(encoded(0)[:-20])
    (inbox / "car_1.png").touch()  # still empty
    with taking(inbox) as taken:
        eventually(lambda: taken.source.skipped, "it is skipped", WAIT_S)
        write(inbox, 0)
        taken.until(0)
        write(inbox, 1)
        taken.until(0, 1)
    assert taken.source.skip_reasons == {"truncated": 1}


@pytest.mark.parametrize("journal", [False, True])
def test_images_are_not_read_again_after_their_disk_was_away(inbox: Path, journal: bool) -> None:
    seen = inbox.parent / "seen"
    write(inbox, 0, 1)
    aside = inbox.parent / "aside"
    aside.mkdir()
    with taking(inbox, seen=seen if journal else None) as taken:
        taken.until(0, 1)
        for number in range(2):
            (inbox / f"car_{number}.png").rename(aside / f"car_{number}.png")
        write(inbox, 2)  # so that the empty folder is listed
        taken.until(0, 1, 2)
        for number in range(2):
            (aside / f"car_{number}.png").rename(inbox / f"car_{number}.png")
        write(inbox, 3)
        taken.until(0, 1, 2, 3)
    if journal:
        with taking(inbox, seen=seen) as taken:
            write(inbox, 4)
            taken.until(4)


def test_a_stride_skips_images(inbox: Path) -> None:
    write(inbox, *range(5))
    with taking(inbox, stride=2) as taken:
        taken.until(0, 2, 4)


def test_more_images_than_the_read_ahead_holds_are_read_in_order(inbox: Path) -> None:
    write(inbox, *range(40))
    with taking(inbox) as taken:
        taken.until(*range(40))


def test_waiting_ends_when_the_source_is_released_by_another_thread(inbox: Path) -> None:
    with taking(inbox) as taken:
        eventually(lambda: taken.source.status().state == "live", "it waits", WAIT_S)
        taken.source.release()
        taken._thread.join(WAIT_S)
        assert not taken._thread.is_alive()


def test_a_folder_that_is_missing_at_the_start_is_a_one_line_error(inbox: Path) -> None:
    with pytest.raises(InputError, match="cannot list the folder"):
        folder.open_folder(str(inbox / "none"), 1, once=False, stop=threading.Event())


@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_that_disappears_while_it_is_watched_is_waited_for(
    inbox: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    monkeypatch.setattr(folder, "RELIST_S", 1.0)
    write(inbox, 0)
    with taking(inbox) as taken:
        taken.until(0)
        for outage in (1, 2):
            away = inbox.rename(inbox.parent / f"away_{outage}")
            eventually(lambda: taken.source.status().state == "waiting", "it waits", WAIT_S)
            eventually(lambda: "cannot list" in str(taken.source.status().problem), "it says why", WAIT_S)
            if not replaced:
                away.rename(inbox)
            write(inbox, outage)  # if replaced, into a new folder of this name, as after a disk was mounted
            taken.until(*range(outage + 1))
            status = taken.source.status()
            assert (status.state, status.problem, status.skipped) == ("live", None, 0)
    assert caplog.text.count("cannot list the folder") == caplog.text.count("is back") == 2


def test_notifications_come_from_the_folder_that_is_there_now(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(inbox, 0)
    with taking(inbox) as taken:
        taken.until(0)
        inbox.rename(inbox.parent / "away")
        eventually(lambda: taken.source.status().state == "waiting", "it waits", WAIT_S)
        monkeypatch.setattr(folder, "RELIST_S", 10 * WAIT_S)
        write(inbox, 1)
        taken.until(0, 1)
        write(inbox, 2)
        taken.until(0, 1, 2)


def test_images_that_cannot_be_read_because_their_disk_is_away_are_read_when_it_is_back(
    inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = folder.image_frame
    away = inbox.parent / "away"

    def image_frame(index: int, path: Path, max_pixels: int) -> object:
        if index == 1 and not away.exists():
            inbox.rename(away)
            threading.Timer(0.5, away.rename, [inbox]).start()
        return real(index, path, max_pixels)

    monkeypatch.setattr(folder, "image_frame", image_frame)
    write(inbox, 0, 1, 2, 3)
    with taking(inbox) as taken:
        eventually(lambda: len(taken.names) == 1, "the first one comes", WAIT_S)
        monkeypatch.setattr(folder, "image_frame", real)
        taken.until(0, 1, 2, 3)


def test_without_file_system_notifications_the_folder_is_listed_every_second(
    inbox: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = threading.Event()

    def watch(*paths: Path, **options: object) -> object:
        asked.set()
        raise OSError("OS file watch limit reached")

    monkeypatch.setattr(watchfiles, "watch", watch)
    monkeypatch.setattr(folder, "POLL_S", 0.1)
    with taking(inbox) as taken:
        assert asked.wait(WAIT_S)
        write(inbox, 0)
        taken.until(0)
        write(inbox, 1)
        taken.until(0, 1)
    assert caplog.text.count("watch limit reached") == 1


def test_a_drive_without_notifications_is_listed_periodically(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = watchfiles.watch

    def watch(path: Path, **options: object) -> object:
        (path.parent / "elsewhere").mkdir()
        return real(path.parent / "elsewhere", **options)  # type: ignore[arg-type]

    monkeypatch.setattr(watchfiles, "watch", watch)
    monkeypatch.setattr(folder, "RELIST_S", 0.1)
    with taking(inbox) as taken:
        eventually((inbox.parent / "elsewhere").exists, "it waits", WAIT_S)
        write(inbox, 0)
        taken.until(0)


def test_an_image_that_arrives_before_the_watch_starts_is_read_immediately(
    inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = watchfiles.watch

    def watch(path: Path, **options: object) -> object:
        write(path, 0)
        return real(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(watchfiles, "watch", watch)
    monkeypatch.setattr(folder, "RELIST_S", 10 * WAIT_S)
    with taking(inbox) as taken:
        taken.until(0)


# --- the journal ---


def test_images_are_read_once_across_restarts_but_again_without_a_journal(inbox: Path) -> None:
    seen = inbox.parent / "state" / "seen"
    write(inbox, 0, 1)
    with taking(inbox, seen=seen) as taken:
        taken.until(0, 1)
    write(inbox, 2)
    with taking(inbox, seen=seen) as taken:
        taken.until(2)
    (inbox / "car_1.png").write_bytes(encoded(99))  # another image with an old name
    with taking(inbox, seen=seen) as taken:
        taken.until(1)
    with taking(inbox) as taken:
        taken.until(0, 1, 2)


def test_images_that_were_taken_but_not_handled_are_read_again(inbox: Path) -> None:
    seen = inbox.parent / "seen"
    write(inbox, 0, 1, 2, 3)
    with open_source(str(inbox), seen=seen) as source:
        taken = list(islice(source, 3))
        source.handled(taken[1].index)
    source.handled(taken[0].index)  # its answer comes after the release
    with taking(inbox, seen=seen) as again:
        again.until(2, 3)


def test_images_that_a_stride_skips_are_not_read_after_a_restart(inbox: Path) -> None:
    seen = inbox.parent / "seen"
    write(inbox, 0, 1, 2)
    with taking(inbox, seen=seen, stride=2) as taken:
        taken.until(0, 2)
    write(inbox, 3)
    with taking(inbox, seen=seen) as taken:
        taken.until(3)


def test_a_journal_whose_disk_hangs_does_not_keep_the_run_from_ending(
    inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(inbox, 1, 2)
    free, saved = threading.Event(), threading.Event()
    save = SeenImages.save

    def hang(seen: SeenImages, *, at_once: bool = False) -> str | None:
        free.wait(20)
        problem = save(seen, at_once=at_once)
        saved.set()
        return problem

    monkeypatch.setattr(folder, "RELEASE_S", 0.2)
    with open_source(str(inbox), seen=inbox.parent / "seen") as source:
        taken = list(islice(source, 2))
        monkeypatch.setattr(SeenImages, "save", hang)
    for frame in taken:  # their answers come after the release
        source.handled(frame.index)
    assert not saved.is_set()
    free.set()
    eventually(saved.is_set, "the journal is written once the disk is back")


def test_an_image_that_is_handled_while_the_folder_is_quiet_is_soon_in_the_journal(
    inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = watchfiles.watch
    steps: list[object] = []

    def watch(path: Path, **options: object) -> Iterator[object]:
        for changes in real(path, **options):  # type: ignore[arg-type]
            steps.append(changes)
            yield changes

    monkeypatch.setattr(watchfiles, "watch", watch)
    monkeypatch.setattr(folder, "RELIST_S", 10 * WAIT_S)
    seen = inbox.parent / "seen"
    write(inbox, 0)
    with open_source(str(inbox), seen=seen) as source:
        frames = iter(source)
        frame = next(frames)
        eventually(lambda: len(steps) >= 3, "nothing changes", WAIT_S)
        source.handled(frame.index)
        eventually(lambda: "car_0.png" in seen.read_text(), "it is written", WAIT_S)


def test_the_answering_thread_waits_neither_for_the_folder_nor_for_the_disk_of_the_journal(
    inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = inbox.parent / "seen"
    write(inbox, 0)
    writers: list[threading.Thread] = []
    attempt = SeenImages._attempt

    def recorded(images: SeenImages, *args: object) -> None:
        writers.append(threading.current_thread())
        attempt(images, *args)  # type: ignore[arg-type]

    with open_source(str(inbox), seen=seen) as source:
        frames = iter(source)
        frame = next(frames)
        monkeypatch.setattr(SeenImages, "_attempt", recorded)
        source.handled(frame.index)
        eventually(lambda: writers, "it is written", WAIT_S)
        assert writers[0].name.startswith("watch ")


def test_an_unreadable_journal_is_a_one_line_error(inbox: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        open_source(str(inbox), seen=inbox)
