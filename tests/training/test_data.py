"""Training images are decoded once and come in batches of equal size, in an order determined by the seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.training_toys import toy_dataset
from twincar_edge.datasets import Dataset
from twincar_edge.datasets.dataset import ImageFile
from twincar_edge.images import ImageError
from twincar_edge.preprocess import Preprocess, prepare
from twincar_edge.training.data import TrainingImages, prefetch, sample_order, split_batches, with_margin

SMALL = Preprocess(size_wh=(32, 32))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return toy_dataset(tmp_path_factory.mktemp("toys") / "data", per_class=8)


def test_batches_are_preprocessed_as_for_the_model_with_a_margin(dataset: Dataset) -> None:
    images = TrainingImages(dataset, SMALL, (32, 32))
    larger = SMALL.model_copy(update={"size_wh": with_margin((32, 32))})
    batch = images.gather(torch.tensor([3, 0]), with_margin((32, 32)))
    assert batch.dtype == torch.uint8 and batch.shape == (2, 40, 40, 3)
    for row, index in zip(batch, (3, 0), strict=True):
        np.testing.assert_array_equal(row.numpy(), prepare(dataset.samples[index].read(), larger))
    smaller = images.gather(torch.tensor([3]), with_margin((16, 24)))
    assert smaller.shape == (1, 32, 24, 3)


def test_images_are_decoded_once_if_the_cache_is_large_enough(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []
    read_bytes = ImageFile.read_bytes

    def counted(self: ImageFile) -> bytes:
        reads.append(self.path)
        return read_bytes(self)

    monkeypatch.setattr(ImageFile, "read_bytes", counted)
    kept = TrainingImages(dataset, SMALL, (32, 32))
    order = torch.arange(len(dataset))
    batches = [kept.gather(order, (40, 40)) for _ in range(3)]
    assert len(reads) == len(dataset)
    decoded = TrainingImages(dataset, SMALL, (32, 32), cache_mb=0)
    assert torch.equal(decoded.gather(order, (40, 40)), batches[0])
    assert len(reads) == 2 * len(dataset)


def test_each_image_is_used_once_per_epoch_except_incomplete_batches(dataset: Dataset) -> None:
    labels = torch.from_numpy(dataset.labels)
    order = sample_order(labels, balanced=False, generator=torch.Generator().manual_seed(0))
    assert sorted(order.tolist()) == list(range(16)) and order.tolist() != sorted(order.tolist())
    assert [len(batch) for batch in split_batches(order, 5)] == [5, 5, 5]
    assert [len(batch) for batch in split_batches(order, 8)] == [8, 8]
    assert [len(batch) for batch in split_batches(order, 32)] == [16]  # except if it is the only batch


def test_balanced_sampling_equalizes_classes() -> None:
    labels = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)
    drawn = labels[sample_order(labels, balanced=True, generator=torch.Generator().manual_seed(0))]
    counts = torch.bincount(drawn)
    assert len(drawn) == 1000 and all(260 < count < 410 for count in counts.tolist())


def test_prefetched_batches_come_in_their_order_with_their_labels(dataset: Dataset) -> None:
    images = TrainingImages(dataset, SMALL, (32, 32))
    batches = split_batches(torch.arange(15, -1, -1), 2)
    found = list(prefetch(images, batches, (40, 40)))
    assert [labels.tolist() for _, labels in found] == [images.labels[batch].tolist() for batch in batches]
    for (pixels, _), indices in zip(found, batches, strict=True):
        assert torch.equal(pixels, images.gather(indices, (40, 40)))


def test_prefetching_names_an_unusable_image(dataset: Dataset, tmp_path: Path) -> None:
    broken = toy_dataset(tmp_path / "data", per_class=4)
    images = TrainingImages(broken, SMALL, (32, 32), cache_mb=0)
    (tmp_path / "data" / "images" / "005.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"005\.png"):
        list(prefetch(images, split_batches(torch.arange(8), 2), (40, 40)))
