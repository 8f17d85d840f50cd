"""Scoring on a real Ray cluster on this machine, whose nodes are killed during the run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ray_cluster import RayCluster, ray_cluster
from tests.support.score_toys import name_of, names_by_file, pictures, read_rows
from twincar_edge.errors import InputError
from twincar_edge.files import sha256
from twincar_edge.runtime.scoring.on_ray import RayOptions, Shipped, places
from twincar_edge.runtime.scoring.stage import StageConfig

IMAGES = 40


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with ray_cluster(tmp_path_factory.mktemp("nodes")) as running:
        running.add_node()
        running.add_node()
        yield running


def start(cluster: RayCluster, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "twincar_edge", "score", *map(str, arguments)]
    return subprocess.Popen(
        command, env=cluster.environment | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def partitions(output: Path) -> int:
    return len(list(output.glob("part-*.parquet")))


def wait_for_partitions(output: Path, count: int, process: subprocess.Popen[str]) -> None:
    for _ in range(2000):
        if partitions(output) >= count:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("no partition was written")


@pytest.mark.slow
def test_each_image_has_one_row_after_a_node_and_the_driver_were_killed(
    cluster: RayCluster, model: Path, tmp_path: Path
) -> None:
    folder, output = pictures(tmp_path / "cars", IMAGES), tmp_path / "out"
    (folder / "bad.png").write_bytes(b"no image")
    arguments = (folder, "-o", output, "--model", model, "--ray", cluster.address, "--partition-size", 1, "--json")
    doomed = cluster.add_node()
    first = start(cluster, *arguments, "--resume")
    wait_for_partitions(output, 3, first)
    cluster.kill(doomed)
    wait_for_partitions(output, 15, first)
    first.kill()
    first.communicate()
    second = start(cluster, *arguments, "--resume")
    out, errors = second.communicate(timeout=300)
    assert second.returncode == 0, errors
    assert f'"rows": {IMAGES + 1}' in out
    expected: dict[str, str | None] = {f"car_{number:02d}.png": name_of(number) for number in range(IMAGES)}
    assert names_by_file(output) == expected | {"bad.png": None}
    assert [row["path"] for row in read_rows(output) if row["error"]] == [f"{folder}/bad.png"]


@pytest.mark.slow
def test_an_unable_node_is_a_one_line_error_before_the_work_begins(
    cluster: RayCluster, model: Path, tmp_path: Path
) -> None:
    folder = pictures(tmp_path / "cars", 1)
    process = start(cluster, folder, "-o", tmp_path / "out", "--model", model, "--ray", cluster.address, "--ep", "cuda")
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 2
    assert errors.splitlines()[-1].startswith("error: node ")
    assert "cuda" in errors.splitlines()[-1]


@pytest.mark.slow
def test_another_version_of_ray_is_a_one_line_error(model: Path, tmp_path: Path) -> None:
    program = "import ray, ray.scripts.scripts as scripts\nray.__version__ = '2.1.0'\nscripts.main()"
    folder = pictures(tmp_path / "cars", 1)
    with ray_cluster(tmp_path) as other:
        other.add_node((sys.executable, "-c", program))
        process = start(other, folder, "-o", tmp_path / "out", "--model", model, "--ray", other.address)
        _, errors = process.communicate(timeout=200)
    assert process.returncode == 2
    assert "runs another version than this machine" in errors.splitlines()[-1]
    assert "2.1.0" in errors.splitlines()[-1]


@pytest.mark.slow
def test_no_cluster_is_a_one_line_error(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    folder = pictures(tmp_path / "cars", 1)
    command = [sys.executable, "-m", "twincar_edge", "score", folder, "-o", tmp_path / "out", "--model", model]
    environment = os.environ | {"RAY_TMPDIR": str(tmp_path), "RAY_ADDRESS": ""}
    done = subprocess.run(
        [*map(str, command), "--ray", "auto"], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: no Ray cluster is running on this machine")


def test_a_node_with_another_version_or_without_the_output_is_refused(model: Path, tmp_path: Path) -> None:
    config = StageConfig(str(tmp_path), "run", model, sha256(model), ep="cpu")
    with pytest.raises(InputError, match=r"this node has twincar-edge .*, the driver has 0\.0\.0"):
        Shipped(config, model.read_bytes(), None, "0.0.0").open()
    with pytest.raises(InputError, match=r"does not see the run in .*: name an output that all nodes share"):
        Shipped(config, model.read_bytes(), None).open()


def nodes(*resources: dict[str, float]) -> list[dict[str, object]]:
    """Return these nodes as Ray lists them."""
    return [{"NodeID": str(number), "Alive": True, "Resources": each} for number, each in enumerate(resources)]


def test_a_worker_that_no_single_node_fits_is_refused_instead_of_waiting_forever() -> None:
    small = nodes({"CPU": 4.0}, {"CPU": 4.0, "GPU": 1.0})
    for options in (RayOptions("auto", num_cpus=8), RayOptions("auto", num_gpus=2)):
        with pytest.raises(InputError, match=r"no node of the Ray cluster fits a worker of .* or request less"):
            places(small, options)
    gone = [node | {"Alive": False} for node in nodes({"CPU": 64.0})]
    with pytest.raises(InputError, match=r"no node .* fits a worker of 8 CPU and 0 GPU"):
        places(small + gone, RayOptions("auto", num_cpus=8))


def test_workers_are_counted_per_node() -> None:
    mixed = nodes({"CPU": 7.0}, {"CPU": 7.0, "GPU": 1.0}, {"memory": 1e9})
    assert places(mixed, RayOptions("auto", num_cpus=4)) == {"0": 1, "1": 1}
    assert places(mixed, RayOptions("auto", num_cpus=1, num_gpus=0.5)) == {"1": 2}
    assert sum(places(mixed, RayOptions("auto", num_cpus=0)).values()) == 3
