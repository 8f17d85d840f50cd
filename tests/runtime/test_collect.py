"""Hard examples: which pictures are saved, where and how many, and that training can read them."""

from __future__ import annotations

import errno
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.tiny_model import BLUE, GREEN, RED
from twincar_edge.datasets import open_dataset
from twincar_edge.errors import InputError
from twincar_edge.labels import ClassMapping
from twincar_edge.runtime.collect import Collector, class_folder, is_hard
from twincar_edge.runtime.events import ClassifierRecord, Event, NamedProbability
from twincar_edge.runtime.inference.answers import UNKNOWN
from twincar_edge.runtime.sinks.base import NO_CROP, DeliveryError
from twincar_edge.runtime.sinks.delivery import Delivery, DeliveryPolicy

STARTED = datetime(2025, 3, 1, 12, tzinfo=UTC)


def event(
    number: int = 0,
    best: str = RED,
    probabilities: tuple[float, ...] = (0.4, 0.35, 0.25),
    name: str | None = None,
    **changes: object,
) -> Event:
    names = (best, *(other for other in (RED, GREEN, BLUE) if other != best))
    return Event(
        type="end", id=f"visit-{number}", camera="gate", source="clip.mp4", name=name or best,
        level="unknown" if name == UNKNOWN else "year", probability=probabilities[0],
        make=None, model=None, body_type=None, year=None,
        top5=tuple(NamedProbability(name=one, probability=p) for one, p in zip(names, probabilities, strict=False)),
        crops=3, direction="none", first_time_s=0.0, last_time_s=1.0, first_frame=0, last_frame=25, best_frame=12,
        box_xyxy=(0, 0, 48, 32), started_at=STARTED + timedelta(seconds=number), ended_at=STARTED,
        classifier=ClassifierRecord(name="tiny", sha256="0" * 64, precision="fp32", ep="cpu"),
    ).model_copy(update=changes)  # fmt: skip


def crop(number: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 255, (32, 48, 3), dtype=np.uint8)


def collector(folder: Path, limit_bytes: int = 10**6, **options: object) -> Collector:
    return Collector(folder, limit_bytes, **{"reserve_bytes": 0, **options})  # type: ignore[arg-type]


def pictures(folder: Path) -> list[Path]:
    return sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.name)


@pytest.mark.parametrize(
    ("probabilities", "name", "hard"),
    [
        ((0.9, 0.05, 0.05), RED, False),
        ((0.6, 0.35, 0.05), RED, False),
        ((0.5, 0.4, 0.1), RED, True),
        ((0.9, 0.05, 0.05), UNKNOWN, True),
        ((0.7, 0.2, 0.1), "Castor", True),
        ((1.0,), RED, False),
        ((0.1,), RED, True),
    ],
    ids=["sure", "ahead", "close", "refused", "make only", "one class", "one class, unsure"],
)
def test_an_answer_is_hard_if_its_lead_is_small_or_it_backs_off(
    probabilities: tuple[float, ...], name: str, hard: bool
) -> None:
    assert is_hard(event(probabilities=probabilities, name=name)) is hard


def test_training_reads_collected_pictures_with_the_guessed_classes(tmp_path: Path) -> None:
    with collector(tmp_path) as kept:
        kept.write(event(0, RED), crop(0))
        kept.write(event(1, RED), crop(1))
        kept.write(event(2, BLUE, name=UNKNOWN), crop(2))
    dataset = open_dataset(tmp_path)
    assert dataset.classes.names == (RED, BLUE)
    assert [sample.label for sample in dataset.samples] == [0, 0, 1]
    assert kept.status().kept == 3
    assert kept.status().bytes == sum(path.stat().st_size for path in pictures(tmp_path))


def test_only_hard_examples_are_saved_once_per_visit(tmp_path: Path) -> None:
    with collector(tmp_path) as kept:
        kept.write(event(0, probabilities=(0.9, 0.05, 0.05)), crop())
        kept.write(event(1, type="start"), crop())
        kept.write(event(1, type="update"), crop())
        kept.write(event(1), crop())
        kept.write(event(2), NO_CROP)
    assert len(pictures(tmp_path)) == 1


def test_the_oldest_pictures_of_all_classes_are_deleted_first_and_empty_folders_too(tmp_path: Path) -> None:
    with collector(tmp_path) as kept:
        kept.write(event(0, GREEN), crop(0))
    (size,) = (path.stat().st_size for path in pictures(tmp_path))
    limit = int(size * 3.5)
    with collector(tmp_path, limit) as kept:
        for number in range(1, 6):
            kept.write(event(number, (RED, BLUE)[number % 2]), crop(number))
            assert sum(path.stat().st_size for path in pictures(tmp_path)) <= limit
    assert [path.name[:15] for path in pictures(tmp_path)] == ["20250301T120003", "20250301T120004", "20250301T120005"]
    assert open_dataset(tmp_path).classes.names == (RED, BLUE)


def test_pictures_of_earlier_runs_count_against_the_limit(tmp_path: Path) -> None:
    with collector(tmp_path) as kept:
        for number in range(6):
            kept.write(event(number), crop(number))
    total = kept.status().bytes
    with collector(tmp_path, total // 2) as kept:
        assert kept.status().bytes == sum(path.stat().st_size for path in pictures(tmp_path)) <= total // 2
        assert kept.status().kept == 0
    assert pictures(tmp_path)[-1].name.startswith("20250301T120005")


def test_files_that_a_person_moved_or_added_are_never_deleted(tmp_path: Path) -> None:
    with collector(tmp_path) as kept:
        kept.write(event(0, RED), crop(0))
        kept.write(event(1, RED), crop(1))
    corrected = tmp_path / GREEN / pictures(tmp_path)[0].name
    corrected.parent.mkdir()
    pictures(tmp_path)[0].rename(corrected)
    own = tmp_path / RED / "20240101T000000.000Z-mine.jpg"
    own.write_bytes(corrected.read_bytes())
    with collector(tmp_path, 1) as kept:
        kept.write(event(2, RED), crop(2))
        assert kept.status().bytes == 0
    assert sorted(pictures(tmp_path)) == sorted([corrected, own])


def test_symbolic_links_are_not_followed(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "hard"
    with collector(outside) as kept:
        kept.write(event(0, RED), crop(0))
    folder.mkdir()
    (folder / RED).symlink_to(outside / RED)
    with collector(folder, 1):
        pass
    assert len(pictures(outside)) == 1


def test_files_that_were_deleted_meanwhile_cause_no_error(tmp_path: Path) -> None:
    with collector(tmp_path) as kept:
        kept.write(event(0, RED), crop(0))
        size = kept.status().bytes
    with collector(tmp_path, int(size * 1.5)) as kept:
        pictures(tmp_path)[0].unlink()
        (tmp_path / RED).rmdir()
        kept.write(event(1, BLUE), crop(1))
        kept.write(event(2, BLUE), crop(2))
    assert [path.name[:15] for path in pictures(tmp_path)] == ["20250301T120002"]


def test_the_number_of_pictures_per_minute_is_limited(tmp_path: Path) -> None:
    now = [1000.0]
    with collector(tmp_path, max_per_minute=2, monotonic=lambda: now[0]) as kept:
        for number in range(5):
            kept.write(event(number), crop(number))
        assert (kept.status().kept, kept.status().dropped) == (2, 3)
        now[0] += 60
        kept.write(event(5), crop(5))
        assert kept.status().kept == 3


def test_partial_files_of_a_killed_run_are_deleted(tmp_path: Path) -> None:
    with collector(tmp_path) as kept:
        kept.write(event(0, RED), crop(0))
    half = tmp_path / RED / ".0123456789abcdef.jpg"
    half.write_bytes(b"\xff\xd8half")
    with collector(tmp_path):
        assert not half.exists()


def test_a_full_disk_is_a_delivery_error_and_collecting_resumes_when_there_is_space(tmp_path: Path) -> None:
    free = [10**9]
    with collector(tmp_path, reserve_bytes=10**8, free_bytes=lambda _folder: free[0]) as kept:
        free[0] = 10**6
        with pytest.raises(DeliveryError, match=r"less than 100 MB free \(1 MB now\)"):
            kept.write(event(0), crop(0))
        assert pictures(tmp_path) == []
        free[0] = 10**9
        kept.write(event(1), crop(1))
        assert (kept.status().kept, kept.status().dropped) == (1, 1)


def test_disk_errors_do_not_reach_the_publisher_of_events(tmp_path: Path) -> None:
    def broken(_folder: Path) -> int:
        raise OSError(errno.EIO, "Input/output error")

    said: list[str] = []
    delivery = Delivery(
        collector(tmp_path, free_bytes=broken),
        "collect",
        DeliveryPolicy(crops=True, retry=False),
        on_problem=said.append,
    )
    with delivery:
        delivery.put(event(0), crop(0))
    assert delivery.status().dropped == 1
    assert said == ["collect: cannot save a hard example: [Errno 5] Input/output error"]


def test_a_folder_that_cannot_be_created_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write into"):
        collector(tmp_path / "file" / "hard").__enter__()


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("Ram C/V Cargo Van Minivan 2012", "Ram C-V Cargo Van Minivan 2012"),
        ("../../etc/passwd", "_.-..-etc-passwd"),
        (".", "_"),
        ("..", "_."),
        (".hidden", "_hidden"),
        ("a\\b", "a-b"),
    ],
)
def test_class_names_cannot_escape_the_folder_or_create_hidden_folders(name: str, folder: str) -> None:
    assert class_folder(name) == folder


_PRINTABLE = st.characters(exclude_categories=("C", "Z"))
CLASS_NAMES = st.text(st.one_of(_PRINTABLE, st.sampled_from(" ./\\_")), min_size=1, max_size=200)


@given(CLASS_NAMES.map(lambda text: " ".join(text.split())).filter(bool))
def test_every_possible_class_name_becomes_a_folder_that_a_data_set_can_read(name: str) -> None:
    ClassMapping((name,))
    folder = class_folder(name)
    assert folder
    assert not folder.startswith(".")
    assert "/" not in folder
    assert len(folder.encode()) <= 255
    ClassMapping((folder,))
