"""Labeled images open from every supported layout, and anything else is a one-line error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io

from twincar_edge.datasets import LAYOUTS, check_integrity, open_dataset, read_split, stratified_split, write_split
from twincar_edge.datasets import parquet as parquet_layout
from twincar_edge.errors import InputError
from twincar_edge.images import ImageError, decode_image

Jpeg = Callable[[int], bytes]
NAMES = ["AM General Hummer SUV 2000", "Aston Martin Virage Coupe 2012", "Ram C/V Cargo Van Minivan 2012"]


def error_of_opening(path: Path, **options: Any) -> str:
    """Return the one-line error of opening `path`."""
    with pytest.raises(InputError) as caught:
        open_dataset(path, **options)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    return line


# CSV


def test_a_folder_with_labels_csv_opens_with_its_images_and_class_names(labeled_folder: Path) -> None:
    dataset = open_dataset(labeled_folder)
    assert dataset.name == "blobs"
    assert len(dataset) == 18
    assert dataset.labels.tolist() == [0, 1, 2] * 6
    assert dataset.classes.names[2] == "Beta SUV 2011"
    assert dataset.samples[7].name == "007.jpg"
    assert all(sample.read().shape == (32, 48, 3) for sample in dataset.samples)
    assert open_dataset(labeled_folder / "labels.csv") == dataset


def test_images_may_be_beside_the_csv_or_in_a_given_folder(labeled_folder: Path, tmp_path: Path) -> None:
    inside = open_dataset(labeled_folder).samples[4].read()
    table = labeled_folder / "images" / "val.csv"
    (labeled_folder / "labels.csv").rename(table)
    beside = open_dataset(table, class_mapping=labeled_folder / "class_mapping.json")
    assert beside.name == "val"
    assert np.array_equal(beside.samples[4].read(), inside)
    moved = tmp_path / "val.csv"
    table.rename(moved)
    (labeled_folder / "class_mapping.json").rename(tmp_path / "class_mapping.json")
    apart = open_dataset(moved, images=labeled_folder / "images")
    assert np.array_equal(apart.samples[4].read(), inside)
    assert "does not exist" in error_of_opening(moved, images=tmp_path / "none")


def test_file_names_may_be_relative_to_the_csv_or_to_its_images_folder(labeled_folder: Path) -> None:
    inside = open_dataset(labeled_folder)
    table = labeled_folder / "labels.csv"
    heading, *rows = table.read_text().splitlines()
    table.write_text("\n".join([heading, "images/gone.jpg,0", *(f"images/{row}" for row in rows)]))
    kept, report = check_integrity(open_dataset(labeled_folder))
    assert [sample.name for sample in kept.samples] == [f"images/{sample.name}" for sample in inside.samples]
    assert [finding.name for finding in report.findings] == ["images/gone.jpg"]


def test_a_csv_may_have_class_names_quotes_and_a_byte_order_mark(labeled_folder: Path) -> None:
    rows = 'filename, label,comment\r\n"000.jpg",Beta SUV 2011,x\r\n\r\n./sub//a.jpg, 1,\r\n"with,comma.jpg",0,\r\n'
    (labeled_folder / "labels.csv").write_text(rows, "utf-8-sig", newline="")
    dataset = open_dataset(labeled_folder)
    assert [(sample.name, sample.label) for sample in dataset.samples] == [
        ("000.jpg", 2),
        ("sub/a.jpg", 1),
        ("with,comma.jpg", 0),
    ]


def test_a_file_name_in_a_csv_may_have_spaces_around_it_or_composed_letters(labeled_folder: Path) -> None:
    images = labeled_folder / "images"
    (images / "001.jpg").rename(images / "citroe\u0308n.jpg")  # as macOS writes it
    (labeled_folder / "labels.csv").write_text("filename,label\n 000.jpg ,0\ncitro\u00ebn.jpg,1\n", "utf-8")
    kept, _ = check_integrity(open_dataset(labeled_folder))
    assert [sample.name for sample in kept.samples] == [" 000.jpg ", "citro\u00ebn.jpg"]


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ("", "needs the columns filename,label in its first line, found nothing"),
        ("000.jpg,1\n", "found 000.jpg, 1"),
        ("file;label\n", "found file;label"),
        ("filename\n000.jpg\n", "found filename"),
        ("filename,label\n", "holds no labeled images"),
        ("filename,label\n000.jpg,0\n001.jpg,1\n000.jpg,0\n", "line 4 repeats '000.jpg' of line 2"),
        ("filename,label\nsub/a.jpg,0\nsub//./a.jpg,1\n", "line 3 repeats 'sub/a.jpg' of line 2"),
        ("filename,label\n000.jpg,3\n", "line 2: label '3' is neither an index from 0 to 2 nor a class name"),
        ("filename,label\n000.jpg,-1\n", "line 2: label '-1'"),
        ("filename,label\n000.jpg,1.0\n", "line 2: label '1.0'"),
        ("filename,label\n000.jpg,²\n", "line 2: label '²'"),
        ("filename,label\n000.jpg,Gamma\n", "line 2: label 'Gamma'"),
        ("filename,label\n000.jpg," + "9" * 5000 + "\n", "line 2: label '9999"),
        ("filename,label\n000.jpg\n", "line 2 needs a filename and a label"),
        ("filename,label\n,1\n", "line 2 needs a filename and a label"),
        ("filename,label\n000.jpg,\n", "line 2 needs a filename and a label"),
        ("filename,label\n/etc/passwd,1\n", "must be relative"),
        ("filename,label\n../000.jpg,1\n", "must be relative"),
        ("filename,label\nsub/../../000.jpg,1\n", "must be relative"),
        ("filename,label\nC:\\cars\\000.jpg,1\n", "must be relative"),
        ("filename,label\n.,1\n", "must be relative"),
        ("filename,label\na\0b.jpg,1\n", "line 2"),
        ("filename,label\na\x1b[2J.jpg,1\n", "control characters"),
        ('filename,label\n"000.jpg,1\n', "is not CSV"),
        ('filename,label\n"0"00.jpg,1\n', "is not CSV"),
        ("filename,label\n" + "x" * 200_000 + ",1\n", "is not CSV"),
    ],
)
def test_an_invalid_csv_is_refused_and_the_line_named(labeled_folder: Path, rows: str, complaint: str) -> None:
    (labeled_folder / "labels.csv").write_text(rows, "utf-8", newline="")
    line = error_of_opening(labeled_folder)
    assert complaint in line
    assert len(line) < 400 + len(str(labeled_folder))


def test_a_csv_in_another_encoding_or_without_class_names_is_refused(labeled_folder: Path) -> None:
    (labeled_folder / "labels.csv").write_bytes("filename,label\nŠkoda.jpg,0\n".encode("utf-16"))
    assert "is not UTF-8" in error_of_opening(labeled_folder)
    (labeled_folder / "labels.csv").write_text("filename,label\n000.jpg,0\n")
    (labeled_folder / "class_mapping.json").unlink()
    assert "put class_mapping.json next to it" in error_of_opening(labeled_folder)


def test_a_label_that_is_an_index_and_another_class_name_is_refused(labeled_folder: Path) -> None:
    (labeled_folder / "class_mapping.json").write_text('["208", "1", "2"]')
    (labeled_folder / "labels.csv").write_text("filename,label\n000.jpg,208\n001.jpg,1\n")
    assert open_dataset(labeled_folder).labels.tolist() == [0, 1]
    (labeled_folder / "class_mapping.json").write_text('["1", "0", "2"]')
    (labeled_folder / "labels.csv").write_text("filename,label\n000.jpg,1\n")
    assert "the index of one class and the name of another" in error_of_opening(labeled_folder)


@pytest.mark.shared
def test_real_crops_open_and_their_known_conflicts_are_found(shared: Path) -> None:
    dataset = open_dataset(shared / "cars196")
    assert (dataset.name, len(dataset), len(dataset.classes)) == ("cars196", 7329, 196)
    some = dataset.select(["00001.jpg", "00595.jpg", "03516.jpg", "07329.jpg"])
    kept, report = check_integrity(some)
    assert report.counts == {"conflicting labels": 2}
    assert [sample.name for sample in kept.samples] == ["00001.jpg", "07329.jpg"]


# One folder for each class


@pytest.fixture
def class_folders(tmp_path: Path, jpeg: Jpeg) -> Path:
    root = tmp_path / "by class"
    for label, name in enumerate(["Beta_SUV_2011", "Alpha_2010"]):
        (root / name).mkdir(parents=True)
        for number in range(3):
            (root / name / f"{number}.jpg").write_bytes(jpeg(label))
    return root


def test_class_folders_open_with_their_names_as_classes(class_folders: Path) -> None:
    (class_folders / ".cache").mkdir()
    (class_folders / ".cache" / "x.jpg").write_bytes(b"")
    (class_folders / "Alpha_2010" / ".DS_Store").write_bytes(b"x")
    (class_folders / "README.txt").write_text("not a class")
    dataset = open_dataset(class_folders)
    assert dataset.name == "by class"
    assert dataset.classes.names == ("Alpha 2010", "Beta SUV 2011")
    assert [sample.name for sample in dataset.samples][:2] == ["Alpha_2010/0.jpg", "Alpha_2010/1.jpg"]
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.samples[5].read().shape == (32, 48, 3)


def test_class_folders_follow_a_given_class_mapping(class_folders: Path, tmp_path: Path) -> None:
    mapping = tmp_path / "class_mapping.json"
    mapping.write_text('["Gamma", "Beta SUV 2011", "Alpha 2010"]')
    dataset = open_dataset(class_folders, class_mapping=mapping)
    assert dataset.labels.tolist() == [2, 2, 2, 1, 1, 1]
    mapping.write_text('["Gamma", "Alpha 2010"]')
    assert "lacks 1 class folders, the first 'Beta SUV 2011'" in error_of_opening(class_folders, class_mapping=mapping)


def test_a_class_folder_without_files_is_refused(class_folders: Path) -> None:
    (class_folders / "Empty" / "deeper").mkdir(parents=True)
    assert "Empty holds no files" in error_of_opening(class_folders)


def test_files_that_are_not_images_are_found_by_the_integrity_check(class_folders: Path) -> None:
    (class_folders / "Alpha_2010" / "Thumbs.db").write_bytes(b"junk")
    kept, report = check_integrity(open_dataset(class_folders))
    assert report.counts == {"not an image": 1}
    assert len(kept) == 6


def test_the_parts_of_a_split_open_together_or_alone(tmp_path: Path, jpeg: Jpeg) -> None:
    root = tmp_path / "car_data" / "car_data"  # Kaggle's layout
    for part, count in (("train", 2), ("test", 1)):
        for label, name in enumerate(["Alpha 2010", "Beta SUV 2011"]):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                (root / part / name / f"{part}{number}.jpg").write_bytes(jpeg(label))
    for path in (root, root.parent):
        dataset = open_dataset(path)
        assert dataset.classes.names == ("Alpha 2010", "Beta SUV 2011")
        assert sorted(dataset.labels.tolist()) == [0, 0, 0, 1, 1, 1]
    assert [sample.name for sample in open_dataset(root / "test").samples] == [
        "Alpha 2010/test0.jpg",
        "Beta SUV 2011/test0.jpg",
    ]


@pytest.mark.parametrize("names", [("cars_train", "cars_test"), ("train", "val"), ("cars_train",)])
def test_split_folders_without_class_folders_are_refused(tmp_path: Path, jpeg: Jpeg, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "00001.jpg").write_bytes(jpeg(0))
    assert "parts of a split, not classes" in error_of_opening(tmp_path)


def test_a_split_of_classes_with_numeric_names_round_trips(tmp_path: Path, jpeg: Jpeg) -> None:
    names = ("1", "2", "10", "11")
    for label, name in enumerate(names):
        (tmp_path / "cars" / name).mkdir(parents=True)
        for number in range(4):
            (tmp_path / "cars" / name / f"{number}.jpg").write_bytes(jpeg(label))
    dataset = open_dataset(tmp_path / "cars")
    split = stratified_split(dataset, 0.25, seed=0)
    write_split(split, tmp_path)
    again = read_split(dataset, tmp_path)
    assert again.train.labels.tolist() == split.train.labels.tolist()
    (tmp_path / "class_mapping.json").write_text(dataset.classes.to_json())
    listed = open_dataset(tmp_path / "train.csv", images=tmp_path / "cars")
    assert listed.labels.tolist() == split.train.labels.tolist()


@pytest.mark.parametrize("folder", ["Ram C-V Cargo Van 2012", "Ram_C-V_Cargo_Van_2012"])
def test_folders_match_class_names_that_no_folder_can_have(tmp_path: Path, jpeg: Jpeg, folder: str) -> None:
    mapping = tmp_path / "class_mapping.json"
    mapping.write_text('["Alpha 2010", "Ram C/V Cargo Van 2012", "Citro\u00ebn C4 2012"]')
    for name in ("Citroe\u0308n C4 2012", folder):
        (tmp_path / "cars" / name).mkdir(parents=True)
        (tmp_path / "cars" / name / "0.jpg").write_bytes(jpeg(0))
    dataset = open_dataset(tmp_path / "cars", class_mapping=mapping)
    assert sorted(dataset.labels.tolist()) == [1, 2]
    labels = tmp_path / "labels.csv"
    labels.write_text(f"filename,label\n{folder}/0.jpg,Ram C-V Cargo Van 2012\n")
    assert open_dataset(labels, images=tmp_path / "cars").labels.tolist() == [1]


def test_a_csv_and_the_disk_may_normalize_file_names_differently(labeled_folder: Path, jpeg: Jpeg) -> None:
    (labeled_folder / "images" / "coupe\u0301.jpg").write_bytes(jpeg(0))
    (labeled_folder / "labels.csv").write_text("filename,label\ncoup\u00e9.jpg,0\n", "utf-8")
    dataset = open_dataset(labeled_folder)
    assert check_integrity(dataset)[1].counts == {}


# Stanford Cars


FIELDS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")


def write_annotations(path: Path, rows: list[tuple[Any, ...]], fields: tuple[str, ...] = FIELDS) -> None:
    records = np.empty((1, len(rows)), [(field, object) for field in fields])
    for place, row in enumerate(rows):
        records[0, place] = tuple(np.uint16(value) if isinstance(value, int) else value for value in row)
    scipy.io.savemat(path, {"annotations": records})


@pytest.fixture
def stanford(tmp_path: Path, jpeg: Jpeg) -> Path:
    """A small copy of the download: three training and two test images, with 1-based, inclusive boxes."""
    root = tmp_path / "stanford_cars"
    for folder, labels in (("cars_train", [2, 0, 1]), ("cars_test", [1, 1]), ("devkit", [])):
        (root / folder).mkdir(parents=True)
        for number, label in enumerate(labels, start=1):
            (root / folder / f"{number:05d}.jpg").write_bytes(jpeg(label))
    cells = np.empty((1, len(NAMES)), object)
    cells[0, :] = NAMES
    scipy.io.savemat(root / "devkit" / "cars_meta.mat", {"class_names": cells})
    write_annotations(
        root / "devkit" / "cars_train_annos.mat",
        [(13, 9, 36, 24, 3, "00001.jpg"), (1, 1, 48, 32, 1, "00002.jpg"), (5, 5, 90, 90, 2, "00003.jpg")],
    )
    write_annotations(
        root / "devkit" / "cars_test_annos_withlabels.mat",
        [(2, 2, 9, 9, 2, "00001.jpg"), (20, 20, 10, 10, 2, "00002.jpg")],
    )
    return root


def test_stanford_cars_opens_with_zero_based_labels_and_boxes(stanford: Path) -> None:
    dataset = open_dataset(stanford)
    assert dataset.name == "stanford_cars"
    assert dataset.classes.names == tuple(NAMES)
    assert [(sample.name, sample.label) for sample in dataset.samples] == [
        ("cars_train/00001.jpg", 2),
        ("cars_train/00002.jpg", 0),
        ("cars_train/00003.jpg", 1),
        ("cars_test/00001.jpg", 1),
        ("cars_test/00002.jpg", 1),
    ]
    whole = decode_image((stanford / "cars_train" / "00001.jpg").read_bytes(), "x")
    assert np.array_equal(dataset.samples[0].read(), whole[8:24, 12:36])
    assert dataset.samples[1].read().shape == (32, 48, 3)
    assert dataset.samples[2].read().shape == (28, 44, 3)


def test_an_inverted_stanford_box_is_reported_and_dropped(stanford: Path) -> None:
    kept, report = check_integrity(open_dataset(stanford))
    assert report.counts == {"degenerate box": 1}
    assert report.findings[0].name == "cars_test/00002.jpg"
    assert len(kept) == 4


def test_stanford_cars_opens_uncropped_and_one_part_at_a_time(stanford: Path) -> None:
    train = open_dataset(stanford / "cars_train", crop=False)
    assert [sample.read().shape for sample in train.samples] == [(32, 48, 3)] * 3
    assert [sample.name for sample in open_dataset(stanford / "cars_test").samples] == [
        "cars_test/00001.jpg",
        "cars_test/00002.jpg",
    ]
    (stanford / "devkit" / "cars_test_annos_withlabels.mat").rename(stanford / "cars_test_annos_withlabels.mat")
    assert len(open_dataset(stanford)) == 5
    (stanford / "cars_test_annos_withlabels.mat").unlink()
    assert len(open_dataset(stanford)) == 3
    assert "has no labels: put cars_test_annos_withlabels.mat" in error_of_opening(stanford / "cars_test")


def test_kaggles_copy_of_stanford_cars_opens_with_its_images_one_folder_deeper(stanford: Path) -> None:
    expected = [(sample.name, sample.label, sample.box_xyxy) for sample in open_dataset(stanford).samples]
    for part in ("cars_train", "cars_test"):
        (stanford / part).rename(stanford / "images")
        (stanford / part).mkdir()
        (stanford / "images").rename(stanford / part / part)
    (stanford / "car_devkit").mkdir()
    (stanford / "devkit").rename(stanford / "car_devkit" / "devkit")
    labels = stanford / "car_devkit" / "devkit" / "cars_test_annos_withlabels.mat"
    labels.rename(stanford / "cars_test_annos_withlabels (1).mat")
    copy = open_dataset(stanford)
    assert [(sample.name, sample.label, sample.box_xyxy) for sample in copy.samples] == expected
    assert check_integrity(copy)[1].counts.get("missing") is None
    for train in (stanford / "cars_train", stanford / "cars_train" / "cars_train"):
        assert len(open_dataset(train)) == 3


def test_the_merged_copy_of_stanford_cars_opens_with_its_own_annotations(stanford: Path, tmp_path: Path) -> None:
    root = tmp_path / "merged"
    (root / "car_ims").mkdir(parents=True)
    for number in (1, 2):
        (stanford / "cars_train" / f"{number:05d}.jpg").rename(root / "car_ims" / f"{number:06d}.jpg")
    fields = ("relative_im_path", *FIELDS[:5], "test")
    records = np.empty((1, 2), [(field, object) for field in fields])
    records[0, 0] = ("car_ims/000001.jpg", *map(np.uint16, (13, 9, 36, 24, 3, 0)))
    records[0, 1] = ("car_ims/000002.jpg", *map(np.uint16, (1, 1, 48, 32, 1, 1)))
    cells = np.empty((1, len(NAMES)), object)
    cells[0, :] = NAMES
    scipy.io.savemat(root / "cars_annos.mat", {"annotations": records, "class_names": cells})
    for path in (root, root / "car_ims"):
        dataset = open_dataset(path)
        assert dataset.classes.names == tuple(NAMES)
        assert [(sample.name, sample.label) for sample in dataset.samples] == [
            ("car_ims/000001.jpg", 2),
            ("car_ims/000002.jpg", 0),
        ]
        assert check_integrity(dataset)[1].counts == {}


def test_a_single_annotation_is_read_like_many(stanford: Path) -> None:
    write_annotations(stanford / "devkit" / "cars_train_annos.mat", [(13, 9, 36, 24, 3, "00001.jpg")])
    assert [sample.label for sample in open_dataset(stanford / "cars_train").samples] == [2]


@pytest.mark.parametrize(
    ("rows", "fields", "complaint"),
    [
        ([(1, 1, 9, 9, "00001.jpg")], ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "fname"), "no structs annotations"),
        ([(1, 1, 9, 9, 4, "00001.jpg")], FIELDS, "has label 3, outside the 3 classes"),
        ([(1, 1, 9, 9, 0, "00001.jpg")], FIELDS, "has label -1, outside the 3 classes"),
        ([(1, 1, 9, 9, 1, "../../00001.jpg")], FIELDS, "row 1 names '../../00001.jpg'"),
        ([(1, 1, 9, 9, 1, "a.jpg"), (1, 1, 9, 9, 1, "a.jpg")], FIELDS, "appears twice"),
        ([(1, 1, 9, "nine", 1, "a.jpg")], FIELDS, "row 1 has a box or class that is not a number"),
        ([(1, 1, 9, np.array([1, 2]), 1, "a.jpg")], FIELDS, "row 1 has a box or class that is not a number"),
    ],
)
def test_invalid_stanford_annotations_are_refused(
    stanford: Path, rows: list[tuple[Any, ...]], fields: tuple[str, ...], complaint: str
) -> None:
    write_annotations(stanford / "devkit" / "cars_train_annos.mat", rows, fields)
    assert complaint in error_of_opening(stanford)


@pytest.mark.parametrize("name", ["cars_meta.mat", "cars_train_annos.mat"])
def test_a_damaged_devkit_is_a_one_line_error(stanford: Path, name: str) -> None:
    path = stanford / "devkit" / name
    for length in (300, 100, 0):
        path.write_bytes(path.read_bytes()[:length])
        assert name in error_of_opening(stanford)


def test_a_devkit_without_class_names_accepts_a_mapping(stanford: Path, tmp_path: Path) -> None:
    (stanford / "devkit" / "cars_meta.mat").unlink()
    assert "cars_meta.mat: No such file" in error_of_opening(stanford)
    (tmp_path / "class_mapping.json").write_text(json.dumps(NAMES))
    assert open_dataset(stanford, class_mapping=tmp_path / "class_mapping.json").classes.names == tuple(NAMES)


# Parquet


def write_shard(path: Path, rows: list[tuple[bytes | None, Any]], names: list[str] | None, row_group: int = 2) -> None:
    image = pa.array(
        [None if data is None else {"bytes": data, "path": f"{i}.jpg"} for i, (data, _) in enumerate(rows)],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    table = pa.table({"image": image, "label": pa.array([label for _, label in rows], pa.int64())})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group)


def test_the_training_shards_of_a_hugging_face_folder_open_as_one_data_set(tmp_path: Path, jpeg: Jpeg) -> None:
    data = [jpeg(label) for label in (0, 1, 2, 0, 1)]
    root = tmp_path / "stanford_cars"
    write_shard(root / "data" / "train-00000-of-00002.parquet", [(data[0], 0), (data[1], 1), (data[2], 2)], NAMES)
    write_shard(root / "data" / "train-00001-of-00002.parquet", [(data[3], 0), (data[4], 1)], NAMES)
    write_shard(root / "data" / "test-00000-of-00001.parquet", [(data[0], 0)], NAMES)
    dataset = open_dataset(root)
    assert dataset.name == "stanford_cars"
    assert dataset.classes.names == tuple(NAMES)
    assert [sample.name for sample in dataset.samples][2:4] == [
        "train-00000-of-00002.parquet#2",
        "train-00001-of-00002.parquet#0",
    ]
    assert dataset.labels.tolist() == [0, 1, 2, 0, 1]
    for sample, encoded in zip(dataset.samples, data, strict=True):
        assert np.array_equal(sample.read(), decode_image(encoded, "x"))
    assert len(open_dataset(root / "data")) == 5
    assert len(open_dataset(root / "data" / "test-00000-of-00001.parquet")) == 1
    assert check_integrity(dataset)[1].findings == ()


def test_parquet_is_read_one_row_group_at_a_time_in_bounded_memory(
    tmp_path: Path, jpeg: Jpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = [jpeg(0) for _ in range(12)]
    write_shard(tmp_path / "cars.parquet", [(encoded, 0) for encoded in data], NAMES, row_group=3)
    kept = parquet_layout._RowGroups()
    monkeypatch.setattr(parquet_layout, "_KEPT", kept)
    monkeypatch.setattr(parquet_layout, "KEPT_BYTES", 7 * len(data[0]))
    reads: list[int] = []
    read = parquet_layout._read_row_group
    monkeypatch.setattr(parquet_layout, "_read_row_group", lambda path, group: reads.append(group) or read(path, group))
    dataset = open_dataset(tmp_path / "cars.parquet")
    assert reads == []
    for sample, encoded in zip(dataset.samples, data, strict=True):
        assert sample.source.read_bytes() == encoded
        assert kept.kept_bytes <= 7 * len(data[0])
    assert reads == [0, 1, 2, 3]
    dataset.samples[-1].read()
    assert reads == [0, 1, 2, 3]


def test_parquet_rows_without_a_usable_image_are_dropped(tmp_path: Path, jpeg: Jpeg) -> None:
    write_shard(tmp_path / "cars.parquet", [(jpeg(0), 0), (None, 1), (b"", 1), (b"junk", 2)], NAMES)
    kept, report = check_integrity(open_dataset(tmp_path / "cars.parquet"))
    assert report.counts == {"missing": 1, "empty": 1, "not an image": 1}
    assert len(kept) == 1


def test_a_small_parquet_file_that_unfolds_to_gigabytes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cars.parquet"
    monkeypatch.setattr(parquet_layout, "MOST_GROUP_BYTES", 2**20)
    write_shard(path, [(b"x" * 2**16, 0)] * 100, NAMES, row_group=100)  # a dictionary holds the value once
    assert path.stat().st_size < 2**14
    dataset = open_dataset(path)
    with pytest.raises(ImageError, match="row group 0 has more than"):
        dataset.samples[0].read()
    write_shard(path, [(None, 0)] * 100_000, NAMES, row_group=100_000)
    assert "claims 100000 rows, more than it has bytes" in error_of_opening(path)


def test_parquet_without_class_names_accepts_a_mapping(tmp_path: Path, jpeg: Jpeg) -> None:
    write_shard(tmp_path / "cars.parquet", [(jpeg(0), 1)], None)
    assert "does not name its classes" in error_of_opening(tmp_path / "cars.parquet")
    (tmp_path / "class_mapping.json").write_text(json.dumps(NAMES))
    dataset = open_dataset(tmp_path / "cars.parquet", class_mapping=tmp_path / "class_mapping.json")
    assert dataset.classes.names == tuple(NAMES)


def test_invalid_parquet_is_refused(tmp_path: Path, jpeg: Jpeg) -> None:
    path = tmp_path / "data" / "train-0.parquet"
    write_shard(path, [(jpeg(0), 5)], NAMES)
    assert "'train-0.parquet#0' has label 5, outside the 3 classes" in error_of_opening(tmp_path)
    write_shard(path, [(jpeg(0), 0), (jpeg(0), None)], NAMES)
    assert "row 1 has no label" in error_of_opening(tmp_path)
    write_shard(path, [(jpeg(0), -1)], NAMES)
    assert "row 0 has no label" in error_of_opening(tmp_path)
    pq.write_table(pa.table({"x": [1], "label": [0]}), path)
    assert "needs the columns image (bytes, path) and label, found x (int64)" in error_of_opening(tmp_path)
    pq.write_table(pa.table({"image": ["a.jpg"], "label": [0]}), path)
    assert "image (string)" in error_of_opening(tmp_path)
    pq.write_table(pa.table({"image": [{"bytes": "a.jpg", "path": ""}], "label": [0]}), path)
    assert "image (struct<bytes: string" in error_of_opening(tmp_path)
    write_shard(path, [(jpeg(0), 0)], NAMES)
    write_shard(tmp_path / "data" / "train-1.parquet", [(jpeg(0), 0)], NAMES[::-1])
    assert "train-1.parquet has other classes than train-0.parquet" in error_of_opening(tmp_path)
    path.write_bytes(b"PAR1 and then nothing")
    assert "cannot be read as Parquet" in error_of_opening(tmp_path)
    path.unlink()
    (tmp_path / "data" / "train-1.parquet").rename(tmp_path / "data" / "test-0.parquet")
    write_shard(tmp_path / "data" / "noise-0.parquet", [(jpeg(0), 0)], NAMES)
    assert "has Parquet files of noise, test, but no train" in error_of_opening(tmp_path)


def test_a_shard_deleted_after_opening_gives_unreadable_images(tmp_path: Path, jpeg: Jpeg) -> None:
    write_shard(tmp_path / "cars.parquet", [(jpeg(0), 0)], NAMES)
    dataset = open_dataset(tmp_path / "cars.parquet")
    (tmp_path / "cars.parquet").unlink()
    with pytest.raises(ImageError) as caught:
        dataset.samples[0].read()
    assert caught.value.problem == "unreadable"


# Which layout


def test_the_error_for_an_unknown_layout_lists_all_layouts(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    for path in (tmp_path, tmp_path / "notes.txt"):
        line = error_of_opening(path)
        for name, layout in LAYOUTS.items():
            assert f"{name}: {layout.looks_like}" in line


def test_a_missing_path_and_an_invalid_layout_name_are_refused(tmp_path: Path, labeled_folder: Path) -> None:
    assert "does not exist" in error_of_opening(tmp_path / "none")
    assert "cannot open" in error_of_opening(tmp_path / ("x" * 300))
    assert "did you mean 'parquet'?" in error_of_opening(labeled_folder, layout="parket")


def test_a_forced_layout_must_fit(labeled_folder: Path, tmp_path: Path) -> None:
    assert open_dataset(labeled_folder, layout="folders").classes.names == ("images",)
    for layout in ("stanford", "parquet", "csv"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert str(tmp_path / "empty") in error_of_opening(tmp_path / "empty", layout=layout)
    assert "can be given only for a CSV" in error_of_opening(labeled_folder, layout="folders", images=tmp_path)
