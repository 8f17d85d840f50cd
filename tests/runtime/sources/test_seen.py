"""The journal of the images of a folder that were handled."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from twincar_edge.runtime.sources.missing import FORGET_S, LONGEST_PAUSE_S
from twincar_edge.runtime.sources.seen import AGES_S, RETRY_S, SLACK, SeenImages
from twincar_edge.runtime.sources.signature import Signature

IMAGES = [Signature(f"car_{number}.png", 100, number) for number in range(3)]


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def pass_time(journal: SeenImages, clock: Clock, seconds: float, there: set[Signature]) -> None:
    """List the folder for some time."""
    for _ in range(round(seconds / LONGEST_PAUSE_S) + 1):
        journal.listed(there, device=1)
        clock.now_s += LONGEST_PAUSE_S
    journal.listed(there, device=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "seen"


def handle(journal: SeenImages, *images: Signature) -> str | None:
    """Read and handle images; return why they cannot be saved."""
    for image in images:
        journal.add(image)
        journal.note(image)
    return journal.save()


def test_only_images_that_were_handled_are_in_the_journal(path: Path) -> None:
    journal = SeenImages(path)
    for image in IMAGES:
        journal.add(image)
    journal.note(IMAGES[1])
    assert SeenImages(path).images == set()
    assert journal.save() is None
    assert SeenImages(path).images == {IMAGES[1]}
    assert journal.images == set(IMAGES)


def test_a_compacted_journal_does_not_list_images_that_were_read_but_not_handled(path: Path) -> None:
    journal = SeenImages(path)
    journal.add(IMAGES[0])
    handle(journal, *(Signature(f"car_{number}.png", 1, number) for number in range(SLACK + 1)))
    assert len(path.read_bytes().split(b"\n")) == SLACK + 2  # compacted: all in one
    assert IMAGES[0] not in SeenImages(path).images


def test_a_journal_with_a_torn_last_line_loses_only_that_line_and_is_appended_to(path: Path) -> None:
    handle(SeenImages(path), *IMAGES[:2])
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        known = SeenImages(path).images
        assert known == {image for number, image in enumerate(IMAGES[:2]) if whole[:cut].count(b"]") > number}
    path.write_bytes(whole[:-3])
    handle(SeenImages(path), IMAGES[2])
    assert SeenImages(path).images == {IMAGES[0], IMAGES[2]}


@pytest.mark.parametrize(
    "junk", [b"\xff\xfe\0", b"null", b"[1, 2, 3]", b'["car", 1]', b"[" * 2000, b'["car", 1, 2, -1]']
)
def test_invalid_lines_of_a_journal_are_ignored(path: Path, junk: bytes) -> None:
    handle(SeenImages(path), IMAGES[0])
    path.write_bytes(junk + path.read_bytes() + b"\n" + junk)
    assert SeenImages(path).images == {IMAGES[0]}


def test_file_names_that_are_not_utf8_are_kept(path: Path) -> None:
    image = Signature("car_\udcff.png", 100, 0)
    handle(SeenImages(path), image)
    assert SeenImages(path).images == {image}


def test_entries_of_forgotten_images_are_removed_from_the_journal(path: Path) -> None:
    clock = Clock()
    journal = SeenImages(path, monotonic=clock)
    handle(journal, IMAGES[0])
    for number in range(5 * SLACK):
        handle(journal, Signature(f"gone_{number}.png", 1, number))
        if number % 100 == 0:
            pass_time(journal, clock, FORGET_S, {IMAGES[0]})
    pass_time(journal, clock, FORGET_S, {IMAGES[0]})
    assert len(path.read_bytes().splitlines()) <= 2 * SLACK
    assert journal.images == {IMAGES[0]}


def test_restarts_do_not_keep_deleted_images_forever(path: Path) -> None:
    handle(SeenImages(path), *IMAGES)
    for _ in range(3):
        clock = Clock()
        journal = SeenImages(path, monotonic=clock)
        assert journal.images == set(IMAGES)
        pass_time(journal, clock, FORGET_S / 3, {IMAGES[0]})
        journal.save(at_once=True)
    assert SeenImages(path).images == {IMAGES[0]}


def test_the_ages_of_missing_images_survive_a_power_cut(path: Path) -> None:
    handle(SeenImages(path), *IMAGES)
    clock = Clock()
    journal = SeenImages(path, monotonic=clock)
    pass_time(journal, clock, AGES_S, {IMAGES[0]})
    journal.save()
    clock = Clock()
    journal = SeenImages(path, monotonic=clock)
    pass_time(journal, clock, FORGET_S - AGES_S, {IMAGES[0]})
    assert journal.images == {IMAGES[0]}


def test_an_unwritable_journal_is_logged_once_and_written_later(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    journal = SeenImages(path, monotonic=clock)
    path.unlink()
    path.mkdir()  # so that no user, not even root, can write it
    for image in IMAGES[:2]:
        problem = handle(journal, image)
        assert problem is not None and "cannot write" in problem
        clock.now_s += RETRY_S
    assert caplog.text.count("cannot write") == 1
    path.rmdir()
    assert handle(journal, IMAGES[2]) is None
    assert SeenImages(path).images == set(IMAGES)


def test_a_full_disk_is_tried_again_only_every_few_seconds_and_at_the_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    journal = SeenImages(path, monotonic=clock)
    path.unlink()
    path.mkdir()
    assert handle(journal, IMAGES[0]) is not None
    path.rmdir()
    clock.now_s = 0.9 * RETRY_S
    assert handle(journal, IMAGES[1]) is not None
    assert not path.exists()
    assert journal.save(at_once=True) is None
    assert SeenImages(path).images == set(IMAGES[:2])


def test_without_a_path_the_images_are_remembered_and_nothing_is_written() -> None:
    journal = SeenImages(None)
    assert handle(journal, *IMAGES) is None
    assert journal.images == set(IMAGES)
