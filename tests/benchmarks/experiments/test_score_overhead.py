"""The overhead of Ray for a worker of `score` is measured on a real cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ray_cluster import ray_cluster
from tests.support.score_toys import pictures
from tests.support.tiny_model import tiny_model
from twincar_edge.benchmarks.experiments.score_overhead import ScoreOverhead


@pytest.mark.slow
def test_a_ray_worker_is_compared_with_the_plain_model(tmp_path: Path) -> None:
    model, output = tiny_model(tmp_path / "tiny.onnx"), tmp_path / "found.json"
    folder = pictures(tmp_path / "cars", 12)
    with ray_cluster(tmp_path) as cluster:
        cluster.add_node()
        command = [sys.executable, "-m", "twincar_edge.benchmarks.experiments", "score_overhead", folder]
        command += ["--model", model, "--ray", cluster.address, "--rounds", 1, "--partition-size", 3, "-o", output]
        done = subprocess.run(list(map(str, command)), env=cluster.environment, capture_output=True, text=True)
    found = ScoreOverhead.model_validate_json(output.read_text("utf-8"))
    assert done.stdout == found.summary() + "\n"
    assert done.returncode == (found.shares("ray")[0] < 0.85)
    assert all(rates[0] > 0 for rates in (found.session, found.stage, found.ray))


def test_a_measurement_with_too_few_images_is_a_one_line_error(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "cars", 2)
    command = [sys.executable, "-m", "twincar_edge.benchmarks.experiments", "score_overhead", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"error: {folder} has too few images: 3 partitions of 250 are needed at least\n"
