"""When an image that is no longer in a watched folder is forgotten."""

from __future__ import annotations

from twincar_edge.runtime.sources.missing import FORGET_S, LONGEST_PAUSE_S, MissingImages
from twincar_edge.runtime.sources.signature import Signature

IMAGES = {Signature(f"car_{number}.png", 100, number) for number in range(4)}
NEW = Signature("new.png", 100, 100)
DISK, MOUNT_POINT, OTHER_NUMBER = 1, 2, 3


class Folder:
    """A folder whose listings a test makes, and the images that a program remembers of it."""

    def __init__(self, known: set[Signature], missing_s: dict[Signature, float] | None = None) -> None:
        self.now_s = 1000.0
        self.known = set(known)
        self._missing = MissingImages(missing_s, monotonic=lambda: self.now_s)

    def show(self, there: set[Signature], device: int = DISK, seconds: float = 0.0) -> None:
        """Show these images for some time."""
        for _ in range(round(seconds / LONGEST_PAUSE_S) + 1):
            self.known -= self._missing.update(self.known, there, device)
            self.known |= there
            self.now_s += LONGEST_PAUSE_S


def test_an_image_is_forgotten_after_it_was_missing_for_long() -> None:
    folder = Folder(IMAGES)
    folder.show(IMAGES)
    folder.show({NEW}, seconds=0.9 * FORGET_S)
    assert folder.known == IMAGES | {NEW}
    folder.show({NEW}, seconds=0.2 * FORGET_S)
    assert folder.known == {NEW}


def test_an_image_that_is_back_in_time_is_kept() -> None:
    folder = Folder(IMAGES)
    for _ in range(3):
        folder.show(IMAGES)
        folder.show(set(), seconds=0.9 * FORGET_S)
    assert folder.known == IMAGES


def test_no_image_is_forgotten_while_the_disk_is_away() -> None:
    folder = Folder(IMAGES)
    folder.show(IMAGES)
    folder.show(set(), MOUNT_POINT, seconds=10 * FORGET_S)
    folder.show({NEW}, MOUNT_POINT, seconds=10 * FORGET_S)  # another program writes into the mount point
    assert folder.known == IMAGES | {NEW}


def test_no_image_is_forgotten_while_the_disk_is_not_there_yet() -> None:
    folder = Folder(IMAGES)
    folder.show(set(), MOUNT_POINT, seconds=10 * FORGET_S)
    assert folder.known == IMAGES


def test_a_disk_that_returns_with_another_number_is_recognized_by_its_images() -> None:
    folder = Folder(IMAGES)
    folder.show(IMAGES)
    folder.show({NEW}, MOUNT_POINT)
    left = {min(IMAGES)}
    folder.show(left, OTHER_NUMBER, seconds=1.1 * FORGET_S)
    assert folder.known == left


def test_the_images_of_a_replaced_disk_are_forgotten_once_the_new_one_has_brought_more() -> None:
    folder = Folder(IMAGES)
    folder.show(IMAGES)
    for number in range(2 * len(IMAGES)):
        folder.show({Signature(f"new_{number}.png", 100, number)}, OTHER_NUMBER)
    folder.show({NEW}, OTHER_NUMBER, seconds=1.1 * FORGET_S)
    assert folder.known == {NEW}


def test_images_of_a_folder_that_another_program_empties_are_forgotten() -> None:
    folder = Folder(IMAGES)
    folder.show({NEW})
    folder.show(set(), seconds=1.1 * FORGET_S)
    assert folder.known == set()


def test_a_disk_that_hangs_between_two_listings_proves_nothing() -> None:
    folder = Folder(IMAGES)
    folder.show(IMAGES)
    folder.show(set())
    folder.now_s += 2 * FORGET_S
    folder.show(set())
    assert folder.known == IMAGES


def test_the_time_of_earlier_runs_counts() -> None:
    old = min(IMAGES)
    folder = Folder(IMAGES, {old: 0.9 * FORGET_S})
    folder.show({NEW}, seconds=0.2 * FORGET_S)
    assert folder.known == IMAGES - {old} | {NEW}
