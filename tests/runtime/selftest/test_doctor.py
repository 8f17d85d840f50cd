"""Doctor: every problem of a box is a row of the table, and problems that make answers wrong are exit code 1."""

from __future__ import annotations

import fcntl
import functools
import itertools
import json
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.support.event_toys import CROP, visit
from tests.support.tiny_model import tiny_model, undigested, with_manifest
from twincar_edge import cli
from twincar_edge.errors import InputError, TwincarError
from twincar_edge.machine import Machine
from twincar_edge.manifest import QuantizationRecord, read_manifest
from twincar_edge.runtime.inference import providers
from twincar_edge.runtime.selftest import doctor
from twincar_edge.runtime.selftest.cameras import captures_video, check_cameras
from twincar_edge.runtime.selftest.diagnosis import Check, Diagnosis, DoctorError
from twincar_edge.runtime.selftest.doctor import DoctorConfig, diagnose
from twincar_edge.runtime.selftest.instructions import check_instructions
from twincar_edge.runtime.sinks.store import EventStore
from twincar_edge.runtime.sources import Frame, FrameSource
from twincar_edge.runtime.timing import Schedule

ONCE = Schedule(warmup=0, rounds=1, per_round=1)
NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("healthy") / "tiny.onnx", golden=True)


@pytest.fixture
def drifted(healthy: Path, tmp_path: Path) -> Path:
    """The healthy model with another resize in its manifest than at export."""
    preprocess = read_manifest(healthy).preprocess.model_copy(update={"resize": "letterbox"})
    return with_manifest(healthy, tmp_path / "drifted.onnx", preprocess=preprocess)


def examine(model: Path, **config: object) -> Diagnosis:
    return diagnose(
        DoctorConfig(model=model, **({"ep": "cpu", "threads": 1} | config)),  # type: ignore[arg-type]
        cameras=lambda: [Check(name="cameras", status="ok", found="none asked")],
        schedule=ONCE,
    )


def row(diagnosis: Diagnosis, name: str) -> Check:
    (check,) = (check for check in diagnosis.checks if check.name == name)
    return check


ROWS = (
    "Python", "packages", "ONNX Runtime", "provider cuda", "provider openvino", "provider cpu", "provider tensorrt",
    "model", "session", "cores", "INT8 instructions", "golden inputs", "latency", "cameras",
)  # fmt: skip


def test_a_healthy_box_has_a_row_for_each_check_and_no_failure(healthy: Path) -> None:
    diagnosis = examine(healthy)
    assert tuple(check.name for check in diagnosis.checks) == ROWS
    assert diagnosis.failures == ()
    assert (diagnosis.ep_asked, diagnosis.ep) == ("cpu", "cpu")
    assert row(diagnosis, "session").found == "requested cpu, runs on cpu with 1 thread"
    assert row(diagnosis, "golden inputs").status == "ok"
    assert diagnosis.measured.pixel_difference == 0
    assert np.__version__ in row(diagnosis, "packages").found


def test_a_diagnosis_survives_a_round_trip_through_json(healthy: Path) -> None:
    diagnosis = diagnose(DoctorConfig(model=healthy, ep="cpu"), cameras=list, schedule=ONCE, clock=lambda: NOON)
    assert diagnosis.created == NOON
    assert Diagnosis.model_validate_json(diagnosis.to_json()) == diagnosis


def test_latency_and_frame_rate_come_from_the_time_per_frame(healthy: Path) -> None:
    ticks = itertools.count()
    diagnosis = diagnose(
        DoctorConfig(model=healthy, ep="cpu", threads=1), cameras=list, timer=lambda: next(ticks) / 1000
    )
    measured = diagnosis.measured
    assert (measured.latency_p50_ms, measured.latency_p95_ms, measured.locate_p95_ms) == (1, 1, 1)
    assert measured.sustained_fps == 500  # one millisecond to locate the vehicle and one to classify it
    assert "500 fps" in row(diagnosis, "latency").found


def test_a_store_is_checked_for_drift(healthy: Path, tmp_path: Path) -> None:
    store = tmp_path / "events.sqlite"
    with EventStore(store) as sink:
        sink.write(visit(), CROP)
    diagnosis = examine(healthy, store=store)
    assert diagnosis.checks[-1].name == "visits of gate"
    assert "too few to compare" in diagnosis.checks[-1].found


# --- failures ---


def test_drifted_answers_fail_and_say_what_drifted(drifted: Path) -> None:
    diagnosis = examine(drifted)
    assert [check.name for check in diagnosis.failures] == ["golden inputs"]
    check = row(diagnosis, "golden inputs")
    assert "another resize or color order than at export" in check.found
    assert "export the file again" in check.advice
    assert diagnosis.measured.pixel_difference is not None
    assert diagnosis.measured.pixel_difference > 1


@pytest.mark.parametrize(
    ("content", "says"), [(None, "cannot read the model"), (b"", "not an ONNX model"), (b"text" * 9, "not an ONNX")]
)
def test_an_unreadable_model_fails_and_the_other_checks_still_run(
    tmp_path: Path, content: bytes | None, says: str
) -> None:
    path = tmp_path / "car.onnx"
    if content is not None:
        path.write_bytes(content)
    diagnosis = examine(path)
    assert [check.name for check in diagnosis.failures] == ["model"]
    assert says in row(diagnosis, "model").found
    assert {"packages", "provider cpu", "cores", "cameras"} <= {check.name for check in diagnosis.checks}


def test_a_graph_that_cannot_be_opened_fails_the_session(healthy: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(undigested(onnx.load(str(healthy))).replace(b"MatMul", b"MatNil"))
    diagnosis = examine(path)
    assert [check.name for check in diagnosis.failures] == ["session"]
    assert diagnosis.ep is None
    assert diagnosis.measured.sustained_fps is None


def test_two_onnxruntimes_fail_and_the_table_is_still_there(healthy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.distribution  # the second wheel has the metadata of a real one
    monkeypatch.setattr(metadata, "distribution", lambda name: real("numpy" if name == "onnxruntime-gpu" else name))
    diagnosis = examine(healthy)
    assert [check.name for check in diagnosis.failures] == ["ONNX Runtime"]
    assert "pip uninstall onnxruntime onnxruntime-gpu" in row(diagnosis, "ONNX Runtime").found
    assert {"packages", "model", "cores", "cameras"} <= {check.name for check in diagnosis.checks}


def test_a_broken_onnxruntime_is_a_row_and_not_a_traceback(healthy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ImportError("libgomp.so.1: cannot open shared object file")

    monkeypatch.setattr(doctor, "load_onnxruntime", broken)
    check = row(examine(healthy), "ONNX Runtime")
    assert (check.status, "libgomp.so.1" in check.found) == ("fail", True)
    assert "--force-reinstall" in check.advice


def test_a_requested_but_missing_provider_fails_and_names_its_extra(healthy: Path) -> None:
    diagnosis = examine(healthy, ep="tensorrt")
    assert [check.name for check in diagnosis.failures] == ["provider tensorrt", "session"]
    assert "twincar-edge[gpu]" in row(diagnosis, "provider tensorrt").found


def test_a_provider_that_was_not_requested_may_be_absent(healthy: Path) -> None:
    diagnosis = examine(healthy)
    for name, extra in (("cuda", "gpu"), ("tensorrt", "gpu")):
        check = row(diagnosis, f"provider {name}")
        assert (check.status, check.found) == ("absent", "not installed")
        assert f"pip install 'twincar-edge[{extra}]'" in check.advice
        assert "uninstall" not in check.found + check.advice
    assert diagnosis.failures == ()


def test_a_provider_that_is_silently_replaced_fails(healthy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fallen = providers.Provider("CUDAExecutionProvider", "gpu", lambda *_: None, lambda *_: None)
    monkeypatch.setitem(providers.PROVIDERS, "cuda", fallen)
    diagnosis = examine(healthy, ep="cuda")
    assert [check.name for check in diagnosis.failures] == ["session"]
    assert "silently chose CPUExecutionProvider" in row(diagnosis, "session").found


def test_a_plugin_that_does_not_load_is_a_row(healthy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def obstacle(*_: object) -> TwincarError | None:
        raise OSError("libopenvino.so: undefined symbol")

    broken = providers.Provider("OpenVINOExecutionProvider", "openvino", lambda *_: None, obstacle)
    monkeypatch.setitem(providers.PROVIDERS, "openvino", broken)
    check = row(examine(healthy), "provider openvino")
    assert (check.status, "undefined symbol" in check.found) == ("warn", True)


# --- warnings ---


def test_a_file_without_golden_inputs_is_a_warning(tmp_path: Path) -> None:
    diagnosis = examine(tiny_model(tmp_path / "tiny.onnx"))
    check = row(diagnosis, "golden inputs")
    assert (check.status, check.advice) == ("warn", "export it again")
    assert diagnosis.failures == ()


def test_more_threads_than_cores_are_a_warning(healthy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "usable_cores", lambda: 1)
    monkeypatch.setattr(doctor.os, "cpu_count", lambda: 4)
    check = row(examine(healthy, threads=2), "cores")
    assert check.status == "warn"
    assert "1 of 4 cores usable (affinity or cgroup quota)" in check.found
    assert "`threads=1`" in check.advice
    assert row(examine(healthy, threads=1), "cores").status == "ok"


def test_two_opencvs_of_different_versions_are_a_warning(healthy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"opencv-python": "5.0.0", "opencv-python-headless": "4.10.0", "numpy": "2.0"}
    monkeypatch.setattr(doctor, "installed_versions", lambda names: {n: versions[n] for n in names if n in versions})
    check = row(examine(healthy), "packages")
    assert (check.status, check.advice.startswith("pip uninstall opencv-python")) == ("warn", True)
    assert "not installed: pydantic" in check.found


X86, ARM = "Linux x86_64", "Linux aarch64"
U8S8 = QuantizationRecord(
    activations="uint8", weights="int8", per_channel=True, reduce_range=True, calibration="minmax", calibration_images=8
)
FULL, S8S8 = U8S8.model_copy(update={"reduce_range": False}), U8S8.model_copy(update={"activations": "int8"})


@pytest.mark.parametrize(
    ("system", "flags", "record", "ep", "status", "says"),
    [
        (X86, ("avx2", "avx512_vnni"), U8S8, "cpu", "ok", "exact and fast"),
        (X86, ("avx2", "avx_vnni"), FULL, "cpu", "ok", "exact and fast"),
        (X86, ("avx2", "amx_int8"), FULL, "openvino", "ok", "AMX INT8: exact and fast"),
        (X86, ("avx2",), U8S8, "cpu", "ok", "no sum overflows"),
        (X86, ("avx2",), FULL, "cpu", "warn", "exact kernels are used, but slow"),
        (X86, (), U8S8, "cpu", "warn", "neither VNNI nor AVX2"),
        (X86, ("avx2", "avx_vnni"), S8S8, "cpu", "warn", "x86 is fast only with uint8 and int8"),
        (X86, ("avx2",), None, "cpu", "ok", "the file is fp32 and needs none"),
        (X86, ("avx2",), FULL, "cuda", "ok", "cuda does not use them"),
        (ARM, ("asimd", "asimddp"), U8S8, "cpu", "ok", "dotprod: exact and fast"),
        (ARM, ("asimd", "i8mm"), S8S8, "cpu", "ok", "i8mm: exact and fast"),
        (ARM, ("asimd",), S8S8, "cpu", "warn", "hardly faster than FP32"),
        ("Linux riscv64", (), U8S8, "cpu", "warn", "unknown architecture riscv64"),
    ],
)
def test_what_int8_instructions_mean_for_the_file(
    healthy: Path,
    system: str,
    flags: tuple[str, ...],
    record: QuantizationRecord | None,
    ep: str,
    status: str,
    says: str,
) -> None:
    manifest = read_manifest(healthy)
    if record is not None:
        manifest = manifest.model_copy(update={"precision": "int8", "quantization": record})
    machine = Machine(cpu="a CPU", flags=flags, usable_cores=1, system=system, python="3.12")
    check = check_instructions(machine, manifest, ep)
    assert check.status == status
    assert says in check.found


# --- cameras ---


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    """A folder with two camera nodes as the kernel names them, and other files of /dev."""
    for name in ("video0", "video10", "video2", "videos", "null"):
        (tmp_path / name).touch()
    return tmp_path


def camera(_spec: str) -> FrameSource:
    source = FrameSource([Frame(0, 0.0, np.zeros((720, 1280, 3), np.uint8), "camera")])
    source.fps = 30.0
    return source


def test_a_machine_without_cameras_says_so(tmp_path: Path) -> None:
    (check,) = check_cameras(tmp_path, camera)
    assert (check.status, check.found) == ("ok", f"none found ({tmp_path}/video*); streams need none")


def test_each_camera_is_opened_and_its_frame_size_reported(devices: Path) -> None:
    checks = check_cameras(devices, camera)
    assert [check.name for check in checks] == [f"camera {devices}/video{number}" for number in (0, 2, 10)]
    assert {(check.status, check.found) for check in checks} == {("ok", "1280x720, 30 fps")}


def test_a_node_that_does_not_capture_video_is_not_a_camera(devices: Path) -> None:
    checks = check_cameras(devices, camera, is_camera=lambda path: path.name == "video2")
    assert [check.name for check in checks] == [f"camera {devices}/video2"]


def test_a_camera_is_always_released(devices: Path) -> None:
    released = []

    def empty(spec: str) -> FrameSource:
        source = FrameSource([])
        source.release = lambda: released.append(spec)  # type: ignore[method-assign]
        return source

    checks = check_cameras(devices, empty)
    assert released == [f"{devices}/video{number}" for number in (0, 2, 10)]
    assert {check.status for check in checks} == {"warn"}
    assert "sends no picture" in checks[0].found


def test_missing_permission_for_a_camera_names_the_group(devices: Path) -> None:
    line = "permission denied on /dev/video0, which belongs to the group video: sudo usermod -aG video box"

    def refuse(_spec: str) -> FrameSource:
        raise InputError(line)

    check = check_cameras(devices, refuse)[0]
    assert (check.status, check.found) == ("warn", line)


def test_a_hanging_camera_does_not_block_doctor(devices: Path) -> None:
    over = threading.Event()

    def frames() -> Iterator[Frame]:
        over.wait(30)
        yield from ()

    checks = check_cameras(devices, lambda _: FrameSource(frames()), timeout_s=0.05)
    over.set()
    assert {(check.status, check.found) for check in checks} == {("warn", "no picture within 0.05 s")}


@pytest.mark.parametrize(("flags", "is_camera"), [(0x1, True), (0x1000, True), (0x800000, False), (0x4000, False)])
def test_camera_nodes_are_recognized_by_their_capabilities(
    devices: Path, monkeypatch: pytest.MonkeyPatch, flags: int, is_camera: bool
) -> None:
    """Capture and multi-planar capture; metadata and the codecs of a Raspberry Pi."""
    answer = bytes(84) + struct.pack("=II", 0x85800001, flags) + bytes(12)
    monkeypatch.setattr(fcntl, "ioctl", lambda _node, request, space: answer if len(space) == len(answer) else None)
    assert captures_video(devices / "video0") is is_camera


def test_a_node_that_cannot_be_queried_is_treated_as_a_camera(devices: Path) -> None:
    assert captures_video(devices / "video0")  # a regular file does not support the ioctl
    assert captures_video(devices / "video77")


# --- the command ---

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command without cameras in this process: exit code, standard output, standard error."""
    monkeypatch.setattr(doctor, "diagnose", functools.partial(diagnose, cameras=list, schedule=ONCE))

    def run_it(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            cli.main(["doctor", "--ep", "cpu", "--threads", "1", *map(str, arguments)])
        assert isinstance(caught.value.code, int)
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    return run_it


def test_the_table_shows_every_check_and_exit_code_0(run: Run, healthy: Path) -> None:
    code, out, err = run("--model", healthy)
    assert (code, err) == (0, "")
    for name in ROWS[:-1]:
        assert f" {name} " in out


def test_a_failure_is_exit_code_1_after_the_table(run: Run, drifted: Path) -> None:
    code, out, err = run("--model", drifted)
    assert code == 1
    assert "fail" in out
    assert err == "error: checks failed on this machine: golden inputs\n"
    assert DoctorError.exit_code == 1


def test_standard_output_is_only_json_even_after_a_failure(run: Run, healthy: Path, drifted: Path) -> None:
    for model, expected in ((healthy, 0), (drifted, 1)):
        code, out, _ = run("--model", model, "--json")
        assert code == expected
        document = json.loads(out)
        assert document["schema_version"] == 1
        assert {check["status"] for check in document["checks"]} <= {"ok", "absent", "warn", "fail"}


def test_the_bundled_model_is_checked_by_default(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "twincar_edge", "doctor", "--json", "--ep", "cpu", "--threads", "1"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"].endswith("lite0-cars196.onnx")


def test_its_help_imports_no_heavy_library() -> None:
    program = (
        "import sys\nfrom twincar_edge.cli import main\n"
        "try:\n    main(['doctor', '--help'])\nexcept SystemExit:\n    pass\n"
        "print('loaded:', [name for name in ('torch', 'onnxruntime', 'cv2', 'numpy') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("loaded: []\n")
