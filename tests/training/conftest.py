"""A small data set for the training tests of several modules."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.training_toys import toy_dataset
from twincar_edge.datasets import Dataset, open_dataset


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the toy data set; a module may override it."""
    folder = tmp_path_factory.mktemp("toys") / "data"
    toy_dataset(folder)
    return folder


@pytest.fixture(scope="module")
def dataset(toys: Path) -> Dataset:
    """The opened data set in `toys`."""
    return open_dataset(toys)
