"""Running a model over a data set gives the logits of each image in order, and names an unusable image."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from twincar_edge.dataset_logits import dataset_logits, labels_for
from twincar_edge.datasets import Dataset, open_dataset
from twincar_edge.errors import InputError, ModelError
from twincar_edge.images import ImageError
from twincar_edge.labels import ClassMapping
from twincar_edge.preprocess import Preprocess, prepare

PREPROCESS = Preprocess(size_wh=(16, 8))


def colors(batch_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A model of three classes: the mean of each color."""
    assert batch_nhwc.dtype == np.uint8
    assert batch_nhwc.flags.c_contiguous
    return batch_nhwc.mean(axis=(1, 2), dtype=np.float64).astype(np.float32)


@pytest.mark.parametrize("batch_size", [1, 4, 18, 100])
def test_logits_do_not_depend_on_the_batch_size(labeled_folder: Path, batch_size: int) -> None:
    dataset = open_dataset(labeled_folder)
    expected = [prepare(sample.read(), PREPROCESS).mean(axis=(0, 1)) for sample in dataset.samples]
    logits = dataset_logits(colors, dataset, PREPROCESS, batch_size)
    assert logits.dtype == np.float32
    assert np.allclose(logits, expected)


def test_all_batches_but_the_last_are_full_and_progress_counts_images(labeled_folder: Path) -> None:
    sizes: list[int] = []
    calls: list[tuple[int, int]] = []

    def model(batch_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert batch_nhwc.shape[1:] == (8, 16, 3)
        sizes.append(len(batch_nhwc))
        return colors(batch_nhwc)

    dataset_logits(model, open_dataset(labeled_folder), PREPROCESS, 7, lambda done, total: calls.append((done, total)))
    assert sizes == [7, 7, 4]
    assert calls == [(7, 18), (14, 18), (18, 18)]


def test_the_model_runs_on_the_callers_thread_and_other_threads_are_joined(labeled_folder: Path) -> None:
    threads: set[int] = set()

    def model(batch_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        threads.add(threading.get_ident())
        return colors(batch_nhwc)

    before = threading.active_count()
    dataset_logits(model, open_dataset(labeled_folder), PREPROCESS, 4)
    assert threads == {threading.get_ident()}
    assert threading.active_count() == before


def test_an_unusable_image_is_named_and_threads_are_joined(labeled_folder: Path) -> None:
    (labeled_folder / "images" / "011.jpg").write_bytes(b"junk")
    before = threading.active_count()
    with pytest.raises(ImageError, match=r"011\.jpg is not a"):
        dataset_logits(colors, open_dataset(labeled_folder), PREPROCESS, 4)
    assert threading.active_count() == before


@pytest.mark.parametrize(
    "answer",
    [
        lambda batch: colors(batch)[0],
        lambda batch: colors(batch)[1:],
        lambda batch: colors(batch)[:, : len(batch) - 1],
        lambda batch: batch.astype(np.float32),
    ],
)
def test_model_output_of_the_wrong_shape_is_refused(labeled_folder: Path, answer: object) -> None:
    with pytest.raises(ModelError, match=r"not \[N, classes\]"):
        dataset_logits(answer, open_dataset(labeled_folder), PREPROCESS, 4)  # type: ignore[arg-type]


def test_an_empty_data_set_and_a_batch_size_of_zero_are_refused(labeled_folder: Path) -> None:
    dataset = open_dataset(labeled_folder)
    with pytest.raises(InputError, match="is empty"):
        dataset_logits(colors, dataset.select([]), PREPROCESS)
    with pytest.raises(InputError, match="batch size must be 1 or more"):
        dataset_logits(colors, dataset, PREPROCESS, 0)


def test_labels_are_matched_by_class_name(labeled_folder: Path) -> None:
    dataset = open_dataset(labeled_folder)
    model = ClassMapping(("Gamma", "Beta SUV 2011", "Alpha One Sedan 2010", "Alpha Two Sedan 2010"))
    labels = labels_for(dataset, model)
    assert labels.dtype == np.int64
    assert labels.tolist() == [2, 3, 1] * 6
    assert labels_for(dataset, dataset.classes).tolist() == dataset.labels.tolist()


def test_the_model_must_know_only_classes_that_have_images(labeled_folder: Path) -> None:
    dataset = open_dataset(labeled_folder)
    betas = Dataset("betas", dataset.classes, tuple(sample for sample in dataset.samples if sample.label == 2))
    model = ClassMapping(("Other", "Beta SUV 2011"))
    assert set(labels_for(betas, model)) == {1}
    with pytest.raises(InputError) as caught:
        labels_for(dataset, model)
    assert str(caught.value) == (
        "the model does not know 2 classes of the data set blobs: 'Alpha One Sedan 2010', 'Alpha Two Sedan 2010'"
    )
