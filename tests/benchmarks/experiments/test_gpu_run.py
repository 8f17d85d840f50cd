"""A planned run composes the project's commands, fits the epochs to the time, and survives a failing step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.experiments import run_experiment
from tests.support.training_toys import toy_dataset
from twincar_edge.benchmarks.experiments.gpu_run import GpuRun, Plan, Status, Step, run
from twincar_edge.benchmarks.experiments.training_throughput import Ratio, Throughput
from twincar_edge.benchmarks.report import BenchmarkReport
from twincar_edge.machine import this_machine

TOY = ("architecture=test_resnet", "weights=none", "size=32", "train_size=32", "batch_size=16")
IMAGES, RATE = 600, 100.0


class Commands:
    """Stands in for the commands: each writes its files and takes a fifth of its time on the clock."""

    def __init__(self, plan: Plan, ends: dict[str, Status]) -> None:
        self.now_s = 0.0
        self.taken: dict[str, list[str]] = {}
        self._plan, self._ends = plan, ends

    def __call__(self, step: Step, arguments: list[str], seconds: float, log: Path) -> Status:
        self.taken[step.name] = arguments
        self.now_s += seconds / 5
        status: Status = self._ends.get(step.name, "ok")
        if status == "ok" and step.name.startswith("throughput"):
            self._plan.throughput(step.name.removeprefix("throughput-")).write_text(throughput().model_dump_json())
        elif status == "ok":
            plan = self._plan
            made = {
                "halve": plan.results / "student.safetensors",
                "export": plan.folder / "onnx" / "student.fp32.onnx",
                **{name: plan.checkpoint(name) for name in ("teacher", "student")},
            }
            if step.name in made:
                made[step.name].parent.mkdir(exist_ok=True)
                made[step.name].touch()
        return status


def throughput() -> Throughput:
    even = Ratio(median=1, smallest=1, largest=1)
    return Throughput.model_validate(
        {
            "created": "2025-01-01T00:00:00Z", "machine": this_machine(), "gpu": None, "versions": {}, "device": "cuda",
            "precision": "bf16", "threads": 1, "recipe": "toy", "architecture": "toy", "train_size": 32,
            "batch_size": 16, "steps_a_round": 1, "real_over_fixed": even, "step_over_timm": even, "not_run": (),
            "images_per_s": {"real": (RATE, RATE, 2 * RATE), "fixed": (1.0,), "timm": (1.0,)},
        }
    )  # fmt: skip


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., tuple[GpuRun, Commands]]:
    def plan_and_run(ends: dict[str, Status]) -> tuple[GpuRun, Commands]:
        keys = {name: TOY for name in ("teacher", "student", "resnet50")}
        plan = Plan(tmp_path / "cars", tmp_path / "others", tmp_path / "run", "cuda", IMAGES, keys)
        commands = Commands(plan, ends)
        return run(plan, 10, commands, lambda: commands.now_s), commands

    return plan_and_run


def test_the_epochs_fill_the_time_that_a_training_has(planned: Callable[..., tuple[GpuRun, Commands]]) -> None:
    report, commands = planned({})
    assert {step.status for step in report.steps} == {"ok"}
    had_s = {step.name: step.planned_s for step in report.steps}
    # An epoch of the teacher takes 6 s; one of the student 8 s, with the teacher's forward passes.
    for name, epoch_s in (("teacher", 6), ("student", 8)):
        assert had_s[name] * 0.6 < report.epochs[name] * epoch_s <= had_s[name] * 0.75
        assert f"epochs={report.epochs[name]}" in commands.taken[name]
    assert had_s["student"] > had_s["teacher"]  # the teacher left time over


def test_a_failed_step_ends_only_those_that_need_its_files(planned: Callable[..., tuple[GpuRun, Commands]]) -> None:
    report, _ = planned({"throughput-resnet50": "failed", "student": "timed out"})
    ended = {step.name: step.status for step in report.steps}
    assert ended == {
        "throughput-teacher": "ok", "throughput-student": "ok", "throughput-resnet50": "failed", "teacher": "ok",
        "student": "timed out", "halve": "not run", "evaluate": "not run", "export": "not run", "bench": "not run",
    }  # fmt: skip
    assert "| student | timed out |" in report.to_markdown()


@pytest.mark.slow
def test_a_run_on_toys_goes_from_images_to_the_benchmark(tmp_path: Path) -> None:
    toy_dataset(tmp_path / "cars")
    toy_dataset(tmp_path / "others", per_class=24, seed=8)
    for image in (tmp_path / "others" / "images").iterdir():  # export leaves out names that were trained on
        image.rename(image.with_name(f"other-{image.name}"))
    labels = tmp_path / "others" / "labels.csv"
    labels.write_text(labels.read_text().replace("\n", "\nother-").removesuffix("other-"))
    changes = [f"--{name}-set={key}" for name in ("teacher", "student", "resnet50") for key in TOY]
    changes += ["--student-set=distillation.teacher_size=0", "--student-set=epochs=2", "--teacher-set=epochs=2"]
    command = ["gpu_run", tmp_path / "cars", "--test", tmp_path / "others", "-o", tmp_path / "run", "--device", "cpu"]
    assert run_experiment(*command, "--minutes", 60, *changes) == 0
    results = tmp_path / "run" / "results"
    report = GpuRun.model_validate_json((results / "gpu_run.json").read_text("utf-8"))
    assert {step.status for step in report.steps} == {"ok"}
    rows = BenchmarkReport.model_validate_json((results / "bench.json").read_text("utf-8")).rows
    assert {row.precision for row in rows if row.status == "ok"} == {"fp32", "fp16", "int8"}
    assert {file.name for file in results.iterdir()} == {
        "throughput-teacher.json", "throughput-student.json", "throughput-resnet50.json", "student-metrics.csv",
        "student.safetensors", "evaluation.json", "bench.json", "gpu_run.json",
    }  # fmt: skip
    assert run_experiment(*command) == 2  # nothing is overwritten
