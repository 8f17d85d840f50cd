"""The self-test of a box: checks everything that decides whether its answers are right, and how fast it is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
from pydantic import Field

from twincar_edge.bundled import default_model
from twincar_edge.cores import inference_threads, usable_cores
from twincar_edge.errors import InputError, MissingExtraError, Parameter, TwincarError
from twincar_edge.files import sha256
from twincar_edge.golden import read_golden
from twincar_edge.machine import Machine, installed_versions, this_machine
from twincar_edge.manifest import Manifest, read_manifest
from twincar_edge.records import Settings
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.inference.engine import ort_errors
from twincar_edge.runtime.inference.golden_check import check_golden
from twincar_edge.runtime.inference.providers import AUTO, ORT_WHEELS, PROVIDERS, NotInWheelError, load_onnxruntime
from twincar_edge.runtime.inference.session import ModelSession, open_session
from twincar_edge.runtime.locating.locate import LocateOptions, make_locator
from twincar_edge.runtime.selftest.cameras import check_cameras
from twincar_edge.runtime.selftest.diagnosis import Check, Diagnosis, Measured, Status
from twincar_edge.runtime.selftest.drift import check_drift
from twincar_edge.runtime.selftest.instructions import check_instructions
from twincar_edge.runtime.sources import Frame
from twincar_edge.runtime.timing import Clock, Schedule, Subject, measure
from twincar_edge.wording import counted

REQUIRED = ("numpy", "opencv-python", "pydantic", "click", "rich")
OPTIONAL = ("onnxruntime", "onnxruntime-ep-openvino", "torch", "onnx")
OPENCV_WHEELS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
RUNS = Schedule(warmup=5, rounds=8, per_round=5)
FRAME_SIZE_WH = (1280, 720)


class DoctorConfig(Settings):
    """What to check.

    Attributes:
        model: the model file; None for the bundled one.
        ep: see `WatchConfig`.
        threads: see `WatchConfig`.
        store: a store of visits to check for drift; None skips the check.
    """

    model: Path | None = None
    ep: str = AUTO
    threads: int | None = Field(default=None, ge=1)
    store: Path | None = None


def diagnose(
    config: DoctorConfig,
    *,
    cameras: Callable[[], Sequence[Check]] = check_cameras,
    machine: Machine | None = None,
    schedule: Schedule = RUNS,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    timer: Clock = time.perf_counter,
) -> Diagnosis:
    """Check this machine, and a model on it. Every problem becomes a row; no error is raised for it.

    Args:
        config: what to check.
        cameras: checks the cameras.
        machine: the description of the machine; by default, of this one.
        schedule: the number of runs for latencies.
        clock: returns the time of day, with a time zone.
        timer: the monotonic clock, in seconds, for latencies.
    """
    machine = machine or this_machine()
    checks = [_python(machine), _packages()]
    ort, check = _onnxruntime()
    checks.append(check)
    if ort is not None:
        checks += _providers(ort, config.ep)
    model, manifest, check = _model(config)
    checks.append(check)
    session = None
    if ort is not None and manifest is not None:
        session, check = _session(model, config)
        checks.append(check)
    checks.append(_cores(config.threads))
    if manifest is not None:
        checks.append(check_instructions(machine, manifest, session.ep if session else "cpu"))
    measured = Measured()
    if session is not None:
        measured, more = _measure(session, schedule, timer)
        checks += more
    checks += cameras()
    now = clock()
    if config.store is not None:
        checks += check_drift(config.store, now)
    return Diagnosis(
        created=now,
        machine=machine,
        model=str(model),
        ep_asked=config.ep,
        ep=session and session.ep,
        checks=tuple(checks),
        measured=measured,
    )


def _python(machine: Machine) -> Check:
    return Check(name="Python", status="ok", found=f"{machine.python}, {machine.system}, {machine.cpu}")


def _packages() -> Check:
    """List the versions of installed packages, and the packages that are not installed."""
    installed = installed_versions(dict.fromkeys((*REQUIRED, *OPENCV_WHEELS, *ORT_WHEELS, *OPTIONAL)))
    found = ", ".join(f"{name} {version}" for name, version in installed.items())
    absent = [name for name in (*REQUIRED, *OPTIONAL) if name not in installed]
    if absent:
        found += f"; not installed: {', '.join(absent)}"
    opencv = {name: installed[name] for name in OPENCV_WHEELS if name in installed}
    status: Status = "ok"
    advice = ""
    if len(set(opencv.values())) > 1:
        status = "warn"
        found += (
            f"; {' and '.join(opencv)} overwrite each other's files and differ in version; {cv2.__version__} is loaded"
        )
        advice = f"pip uninstall {' '.join(opencv)}, then pip install opencv-python"
    return Check(name="packages", status=status, found=found, advice=advice)


def _onnxruntime() -> tuple[ModuleType | None, Check]:
    name = "ONNX Runtime"
    try:
        ort = load_onnxruntime()
    except TwincarError as error:
        return None, _failed(name, error)
    except (ImportError, OSError) as error:  # installed but broken, often because a system library is missing
        found = f"cannot be imported: {_first_line(error)}"
        return None, Check(name=name, status="fail", found=found, advice="pip install --force-reinstall onnxruntime")
    return ort, Check(name=name, status="ok", found=f"{ort.__version__}, the only one installed")


def _providers(ort: ModuleType, asked: str) -> list[Check]:
    """Check for each provider whether it is usable here. Only opening a session proves that it is really used."""
    checks = []
    errors: tuple[type[Exception], ...] = (TwincarError, ImportError, OSError, *ort_errors(ort))
    for name, provider in PROVIDERS.items():
        row = f"provider {name}"
        try:
            obstacle = provider.obstacle(ort, name)
        except errors as error:
            obstacle = InputError(f"cannot be loaded ({_first_line(error)}): reinstall it")
        if obstacle is None:
            checks.append(Check(name=row, status="ok", found="usable"))
        elif name == asked:
            checks.append(Check(name=row, status="fail", found=f"not usable: {obstacle}"))
        elif isinstance(obstacle, NotInWheelError | MissingExtraError):
            advice = f"if you need it: pip install 'twincar-edge[{provider.extra}]' in a fresh environment"
            checks.append(Check(name=row, status="absent", found="not installed", advice=advice))
        else:
            checks.append(Check(name=row, status="warn", found=f"installed, but not usable: {obstacle}"))
    return checks


def _model(config: DoctorConfig) -> tuple[Path | None, Manifest | None, Check]:
    name = "model"
    model = config.model
    try:
        model = model or default_model()
        manifest = read_manifest(model)
        digest = sha256(model)
    except TwincarError as error:
        return model, None, _failed(name, error)
    found = f"{manifest.name}, {manifest.precision}, {len(manifest.classes)} classes, sha256 {digest[:16]}…"
    parity = manifest.parity
    if parity is None:
        advice = "export it with labeled images, to measure its parity and accuracy"
        return model, manifest, Check(name=name, status="warn", found=f"{found}; parity not measured", advice=advice)
    found += f"; {parity.agreement:.1%} agreement with {parity.against}"
    if manifest.validation_model is None:
        found += f", top-1 {parity.top1:.1%}"  # otherwise of images that it learned from
    found += f" on {parity.images} images"
    return model, manifest, Check(name=name, status="ok", found=found)


def _session(model: Path | None, config: DoctorConfig) -> tuple[ModelSession | None, Check]:
    """Open the model as `watch` does; `open_session` verifies that the requested provider runs it."""
    assert model is not None  # its manifest was read
    try:
        session = open_session(model, ep=config.ep, threads=config.threads or inference_threads())
    except TwincarError as error:
        return None, _failed("session", error)
    threads = counted(session.threads, "thread")
    if config.threads is None and session.threads < usable_cores():
        threads += ", one core left for reading frames"
    return session, Check(
        name="session", status="ok", found=f"requested {config.ep}, runs on {session.ep} with {threads}"
    )


def _cores(asked: int | None) -> Check:
    usable, board = usable_cores(), os.cpu_count() or 1
    found = f"{usable} of {board} cores usable"
    if usable < board:
        found += " (affinity or cgroup quota)"
    if asked is not None and asked > usable:
        advice = f"set {Parameter('threads', usable)}, or allow this process more cores"
        return Check(
            name="cores", status="warn", found=f"{found}, but {asked} threads requested: slower", advice=advice
        )
    return Check(name="cores", status="ok", found=found)


def _measure(session: ModelSession, schedule: Schedule, timer: Clock) -> tuple[Measured, list[Check]]:
    golden, differences = _golden(session, timer)
    latency, times = _latency(session, schedule, timer)
    return Measured(**differences, **times), [golden, latency]


def _golden(session: ModelSession, timer: Clock) -> tuple[Check, dict[str, float]]:
    name = "golden inputs"
    try:
        golden = read_golden(session.model)
        if golden is None:
            found, advice = "the file has none, so its answers here cannot be checked", "export it again"
            return Check(name=name, status="warn", found=found, advice=advice), {}
        result = check_golden(session, golden, timer)
    except TwincarError as error:
        return _failed(name, error), {}
    differences = {"pixel_difference": result.pixel_difference, "logit_difference": result.logit_difference}
    if result.passed:
        return Check(name=name, status="ok", found=result.summary()), differences
    advice = "do not trust its answers here: copy or export the file again"
    if session.ep != "cpu":
        advice += f", or run it with {Parameter('ep', 'cpu')}"
    return Check(name=name, status="fail", found="; ".join(result.faults), advice=advice), differences


def _latency(session: ModelSession, schedule: Schedule, timer: Clock) -> tuple[Check, dict[str, float]]:
    """Time the camera loop's work on a frame: locating the vehicle, and classifying its crop."""
    name = "latency"
    width, height = FRAME_SIZE_WH
    road_bgr = np.random.default_rng(0).integers(60, 120, (height, width, 3), np.uint8)
    classifier = Classifier(session)
    locator = make_locator("motion", LocateOptions())

    def frame(number: int) -> Frame:
        image_bgr = road_bgr.copy()
        left = 24 * number % (width - 400)
        image_bgr[300:550, left : left + 400] = 200  # a moving rectangle of the size of a car
        return Frame(number, number / 25, image_bgr, "drawn")

    subjects = {
        "answer": Subject(lambda _: None, lambda _: classifier.predict([road_bgr]), _discard),
        "locate": Subject(frame, locator.locate, _discard),
    }
    results = measure(subjects, schedule, timer)
    times_ms = {}
    for subject, result in results.items():
        if isinstance(result, TwincarError):
            return _failed(name, result), {}
        times_ms[subject] = [sample.infer_ms for sample in result]
    p50, p95 = (float(value) for value in np.percentile(times_ms["answer"], (50, 95)))
    locate = float(np.percentile(times_ms["locate"], 95))
    fps = 1e3 / max(p95 + locate, 1e-6)
    found = (
        f"classifying a {width}x{height} crop: {p50:.1f} ms (p95 {p95:.1f} ms); locating vehicles: p95 {locate:.1f} "
        f"ms; {fps:.0f} fps with one vehicle per frame, without decoding"
    )
    figures = {"latency_p50_ms": p50, "latency_p95_ms": p95, "locate_p95_ms": locate, "sustained_fps": fps}
    return Check(name=name, status="ok", found=found), {key: round(value, 3) for key, value in figures.items()}


def _discard(_: Any) -> None:
    """Discard a result."""


def _failed(name: str, error: TwincarError) -> Check:
    """Return a failed check for one of our errors, whose message includes the remedy."""
    return Check(name=name, status="fail", found=str(error))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
