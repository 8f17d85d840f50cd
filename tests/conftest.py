"""Fixtures for the tests of all packages."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray

from tests import REPOSITORY
from tests.support.fuzzing import CommandLine
from twincar_edge.cores import usable_cores
from twincar_edge.labels import ClassMapping

# Examples have no deadline and may be slow, so that a busy machine fails no test.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_xdist_auto_num_workers() -> int:
    """Return the number of workers for `pytest -n auto`: the cores that this process may use."""
    return usable_cores()


def pytest_configure(config: pytest.Config) -> None:
    """Limit each worker to one compute thread before it starts: the other cores belong to other workers."""
    if config.getoption("numprocesses", None):
        for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
            os.environ.setdefault(variable, "1")


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The default state folder of all commands that tests run, in place of the user's."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TWINCAR_STATE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real input beside the checkout. Tests that use it are skipped without it."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "cars196").is_dir():
        pytest.skip("no real input: ../shared is not beside the checkout")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """A random generator with the same seed in every test."""
    return np.random.default_rng(2012)


def _blob(label: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A 48x32 image whose color depends on its label, with noise, so that no two are equal."""
    image = np.full((32, 48, 3), 60, np.uint8)
    image[8:24, 12:36] = np.roll([220, 40, 40], label % 3) // (1 + label // 3)
    return image + rng.integers(0, 24, image.shape, dtype=np.uint8)


@pytest.fixture
def jpeg(rng: np.random.Generator) -> Callable[[int], bytes]:
    """A function that returns a new 48x32 JPEG of a label."""

    def encode(label: int) -> bytes:
        done, data = cv2.imencode(".jpg", _blob(label, rng))
        assert done
        return data.tobytes()

    return encode


@pytest.fixture
def labeled_folder(tmp_path: Path, jpeg: Callable[[int], bytes]) -> Path:
    """A data set in the CSV layout with 6 JPEGs for each of 3 classes."""
    folder = tmp_path / "blobs"
    (folder / "images").mkdir(parents=True)
    rows = ["filename,label"]
    for number in range(18):
        (folder / "images" / f"{number:03d}.jpg").write_bytes(jpeg(number % 3))
        rows.append(f"{number:03d}.jpg,{number % 3}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    classes = ClassMapping(("Alpha One Sedan 2010", "Alpha Two Sedan 2010", "Beta SUV 2011"))
    (folder / "class_mapping.json").write_text(classes.to_json())
    return folder


@pytest.fixture(scope="session")
def command_line() -> Iterator[CommandLine]:
    """A runner for thousands of command lines."""
    with CommandLine() as ready:
        yield ready
