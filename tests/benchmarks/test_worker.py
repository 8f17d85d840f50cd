"""The worker process of a row: every way in which it can end is reported, and it does not outlive the benchmark."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.support.tiny_model import CLASSES, tiny_model
from twincar_edge.benchmarks.config import RowSpec
from twincar_edge.benchmarks.gpu import gpus, process_memory_mb
from twincar_edge.benchmarks.report import Start
from twincar_edge.benchmarks.worker import SETTLE_S, Worker
from twincar_edge.benchmarks.worker_client import RowError, SubprocessClient
from twincar_edge.errors import ModelError
from twincar_edge.memory import available_bytes, peak_memory_mb
from twincar_edge.runtime.inference.binding import bound_predict
from twincar_edge.runtime.inference.engine import open_engine
from twincar_edge.runtime.inference.nodes import nodes_by_provider
from twincar_edge.runtime.inference.session import open_session

IMAGES = [np.full((20, 30, 3), shade, np.uint8) for shade in (0, 200)]
BATCH = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "tiny.fp32.onnx")


def spec(model: Path, batch: int = 1) -> RowSpec:
    return RowSpec(model, "cpu", 1, batch, spinning=False)


def program(body: str) -> tuple[str, ...]:
    """Return the command of a broken worker, which receives two messages and then runs `body`."""
    imports = "import os, signal, sys, time\nfrom multiprocessing.connection import Connection\n"
    receive = "connection = Connection(int(sys.argv[1]))\nconnection.recv(); connection.recv()\n"
    return (sys.executable, "-c", f"{imports}{receive}{body}")


def test_a_worker_opens_times_classifies_and_reports_memory(model: Path) -> None:
    with SubprocessClient(spec(model), IMAGES, 60) as client:
        ep, threads, start = client.call("open")
        assert (ep, threads) == ("cpu", 1)
        assert isinstance(start, Start) and start.open_ms > 0
        assert client.call("turn", 2, False) == ()
        assert len(client.call("turn", 3, True)) == 3
        np.testing.assert_array_equal(client.call("logits", BATCH), open_session(model, ep="cpu").run(BATCH))
        assert client.call("nodes") == {"cpu": 4}
        peak_mb, gpu_mb = client.call("memory")
        assert 20 < peak_mb < 2000 and gpu_mb is None


def test_runs_during_the_settling_time_are_not_counted(model: Path) -> None:
    ticks = itertools.count(0, 0.001)

    def clock() -> float:
        return next(ticks)

    worker = Worker(spec(model), IMAGES, clock)
    worker.open()
    begun = clock()
    assert worker.turn(3, False) == ()
    assert clock() - begun < SETTLE_S
    begun = clock()
    assert len(worker.turn(3, True)) == 3
    assert clock() - begun > SETTLE_S


def test_a_worker_is_suspended_between_calls(model: Path) -> None:
    with SubprocessClient(spec(model), IMAGES, 60) as client:
        client.call("open")
        status = Path(f"/proc/{client._process.pid}/status")
        deadline = time.monotonic() + 10
        while "T (stopped)" not in status.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert client.call("turn", 1, True)


def test_a_worker_ends_with_its_benchmark(model: Path) -> None:
    with SubprocessClient(spec(model), IMAGES, 60) as client:
        client.call("open")
        process = client._process
    assert process.poll() == 0


def test_an_error_is_returned_and_the_worker_continues(model: Path) -> None:
    with SubprocessClient(RowSpec(model, "tensorrt", 1, 1, spinning=False), IMAGES, 60) as client:
        for _ in range(2):
            with pytest.raises(RowError, match=r"twincar-edge\[gpu\]"):
                client.call("open")


def test_a_batch_that_does_not_fit_in_memory_is_reported(model: Path) -> None:
    with (
        SubprocessClient(spec(model, batch=10**9), IMAGES, 60) as client,
        pytest.raises(RowError, match="does not fit in memory"),
    ):
        client.call("open")


def test_allocations_above_the_memory_limit_fail() -> None:
    program = (
        "import numpy as np\nfrom twincar_edge.memory import limit_memory\nlimit_memory(2**29)\n"
        "try:\n    np.ones(2**30, np.uint8)\nexcept MemoryError:\n    print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "refused\n", done.stderr


def test_available_memory_is_the_minimum_of_machine_and_cgroup(tmp_path: Path) -> None:
    meminfo, group = tmp_path / "meminfo", tmp_path / "group"
    assert available_bytes(meminfo, group) is None
    meminfo.write_text("MemTotal:  24000000 kB\nMemAvailable:    8000 kB\n")
    assert available_bytes(meminfo, group) == 8000 * 1024
    group.mkdir()
    (group / "memory.current").write_text("1000\n")
    for limit, free in (("max", 8000 * 1024), ("5000", 4000), ("900", 0)):
        (group / "memory.max").write_text(f"{limit}\n")
        assert available_bytes(meminfo, group) == free


def test_a_memory_error_of_a_provider_is_recognized(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> object:
        raise ModelError("failed on cuda: Failed to allocate memory for requested buffer of size 1")

    monkeypatch.setattr("twincar_edge.benchmarks.worker.open_model", full)
    with pytest.raises(ModelError, match="a batch of 64 does not fit in memory: failed on cuda"):
        Worker(spec(model, batch=64), IMAGES).open()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed, probably because memory ran out"),
        ("os.abort()", "crashed .SIGABRT."),
        ("sys.exit('libcudnn.so.9: cannot open shared object file')", "exited with code 1: libcudnn.so.9: cannot open"),
    ],
)
def test_the_error_for_a_dead_worker_says_how_it_ended(model: Path, body: str, message: str) -> None:
    with SubprocessClient(spec(model), IMAGES, 60, program(body)) as client, pytest.raises(RowError, match=message):
        client.call("open")


def test_a_hanging_worker_times_out_and_is_killed(model: Path) -> None:
    with SubprocessClient(spec(model), IMAGES, 1.5, program("time.sleep(600)")) as client:
        with pytest.raises(RowError, match=r"timed out after 1\.5 s"):
            client.call("open")
        assert client._process.wait(10) == -signal.SIGKILL
        with pytest.raises(RowError):  # later calls fail too
            client.call("turn", 1, True)


def test_a_worker_does_not_outlive_a_killed_parent(model: Path) -> None:
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time\nfrom pathlib import Path\nimport numpy as np\n"
            "from twincar_edge.benchmarks.config import RowSpec\n"
            "from twincar_edge.benchmarks.worker_client import SubprocessClient\n"
            f"spec = RowSpec(Path({str(model)!r}), 'cpu', 1, 1, False)\n"
            "client = SubprocessClient(spec, [np.zeros((9, 9, 3), np.uint8)], 60)\n"
            "client.call('open')\nprint(client._process.pid, flush=True)\ntime.sleep(600)\n",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 10
    while _runs(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        return "Z (zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_peak_memory_of_this_process_never_decreases(tmp_path: Path) -> None:
    before = peak_memory_mb()
    assert before is not None
    block = np.ones(64 * 2**20, np.uint8)
    after = peak_memory_mb()
    assert after is not None and after >= before and block[0] == 1
    assert peak_memory_mb(tmp_path / "absent") is None


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a fake `nvidia-smi` with the given shell commands first in PATH."""

    def write(body: str) -> None:
        tool = tmp_path / "bin" / "nvidia-smi"
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f"#!/bin/sh\n{body}\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")

    return write


def test_gpus_and_gpu_memory_are_read_from_nvidia_smi(nvidia_smi: Callable[[str], None]) -> None:
    nvidia_smi('case "$1" in *query-gpu*) echo "NVIDIA T4, 15360, 550.54";; *) echo "7, 12"; echo "8, 512";; esac')
    (gpu,) = gpus()
    assert (gpu.name, gpu.memory_mb, gpu.driver) == ("NVIDIA T4", 15360, "550.54")
    assert process_memory_mb(8) == 512
    assert process_memory_mb(9) is None


@pytest.mark.parametrize("body", ["exit 9", "echo 'No devices were found'", "echo '8, [N/A]'"])
def test_a_failing_nvidia_smi_means_no_gpu(nvidia_smi: Callable[[str], None], body: str) -> None:
    nvidia_smi(body)
    assert gpus() == ()
    assert process_memory_mb(8) is None


def test_nodes_are_counted_by_the_provider_that_ran_them(model: Path) -> None:
    assert nodes_by_provider(model, BATCH, ep="cpu", threads=1) == {"cpu": 4}


def test_bound_inference_gives_the_same_logits_for_any_batch_size(model: Path) -> None:
    """Tested on the CPU, which every machine has. On a GPU, the same code binds memory of the GPU."""
    session = open_session(model, ep="cpu", threads=1)
    predict = bound_predict(session.engine, "cpu", len(CLASSES))
    for batch_nhwc in (BATCH, BATCH[:1], BATCH[::-1].copy(), BATCH):
        np.testing.assert_array_equal(predict(batch_nhwc), session.run(batch_nhwc))


def test_an_error_of_bound_inference_that_is_not_utf8_is_shown(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["batch"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["float", "shape"], ["logits"], name="fold!"),
    ]
    batch = helper.make_tensor_value_info("batch", TensorProto.UINT8, [1, "H", 2, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 12])
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [1, 12])
    graph = helper.make_graph(nodes, "two rows only", [batch], [logits], [shape])
    path = tmp_path / "model.onnx"
    whole = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()
    path.write_bytes(whole.replace(b"fold!", b"fold\xff"))
    predict = bound_predict(open_engine(path, ep="cpu", threads=1), "cpu", 12)
    with pytest.raises(ModelError, match=r"failed on cpu: .*fold\ufffd"):
        predict(np.zeros((1, 3, 2, 3), np.uint8))


def test_a_missing_device_is_a_one_line_error(model: Path) -> None:
    predict = bound_predict(open_session(model, ep="cpu", threads=1).engine, "cuda", len(CLASSES))
    with pytest.raises(ModelError, match="failed on cpu"):
        predict(BATCH)
