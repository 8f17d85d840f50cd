"""One planned run on a GPU that is lent for minutes: throughput, a teacher, its student, the export, and `bench`.

    python -m twincar_edge.benchmarks.experiments gpu_run TRAIN --test OTHERS -o RUN --minutes 12

Each step is a command of this project in its own process, with a time limit; unused time goes to the next step. The
measured throughput decides how many epochs fit. A step whose input is missing is not run, so if a step fails, only the
steps that depend on it are skipped. RUN/results has the files worth keeping.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Literal

import click

from twincar_edge.benchmarks.experiments.options import PATH, publish
from twincar_edge.benchmarks.experiments.training_throughput import Throughput
from twincar_edge.cli.commands import Command
from twincar_edge.datasets import OpenOptions
from twincar_edge.errors import GateError, InputError
from twincar_edge.files import make_folder
from twincar_edge.machine import Machine, this_machine
from twincar_edge.records import Record
from twincar_edge.training.run_folder import RunFolder

SCHEMA_VERSION: Literal[1] = 1
Status = Literal["ok", "failed", "timed out", "not run"]
EPOCHS_SHARE = 0.75  # of a training's time; the rest starts the process, reads the images and writes the run
TEACHER_FORWARD = 3  # a training step costs about as much as three forward passes
RECIPE = "lite0-cars196"
GPU_KEYS = (
    "freeze_stages=0",
    "batch_size=256",
    "first_train_size=0",
    "learning_rate=2.4e-3",
    "head_learning_rate=8e-3",
)
TEACHER_KEYS = ("architecture=tf_efficientnet_lite2", "size=260", "train_size=224", *GPU_KEYS)
# Long and patient, on the teacher's own crops (Beyer et al., "Knowledge distillation: a good teacher is patient and
# consistent", 2021).
STUDENT_KEYS = ("distillation.weight=0.9", "distillation.teacher_size=260", "size=224", "train_size=192", *GPU_KEYS)
NO_LIMITS = (
    "--max-top1-drop", "100", "--max-top5-drop", "100", "--min-agreement", "0", "--min-sure-agreement", "0",
    "--min-coverage", "0",
)  # fmt: skip
RANDOM_RESNET50 = ("weights=none", "freeze_stages=0", "batch_size=256")


class StepRecord(Record):
    """A step: its arguments, and how it ended.

    `planned_s` is the time limit of the step, `seconds` the time that it took.
    """

    name: str
    arguments: tuple[str, ...]
    status: Status
    planned_s: float
    seconds: float


class GpuRun(Record):
    """The whole run. `epochs` is how many epochs fit, by training; a key that was set takes precedence."""

    schema_version: Literal[1] = SCHEMA_VERSION
    created: datetime
    machine: Machine
    minutes: float
    epochs: dict[str, int]
    steps: tuple[StepRecord, ...]

    def to_markdown(self) -> str:
        """Return the steps as a Markdown table."""
        rows = [f"| {step.name} | {step.status} | {step.planned_s:.0f} | {step.seconds:.0f} |" for step in self.steps]
        return "\n".join(["| step | status | planned s | s |", "| --- | --- | ---: | ---: |", *rows]) + "\n"


@dataclass(frozen=True)
class Step:
    """A step to take.

    Attributes:
        name: its name, and that of its log.
        share: its share of the planned time.
        module: what `python -m` runs.
        arguments: returns its arguments when its turn comes, given the seconds that it has.
        needs: files without which it cannot run.
    """

    name: str
    share: float
    module: str
    arguments: Callable[[float], list[str]]
    needs: tuple[Path, ...] = ()


Take = Callable[[Step, list[str], float, Path], Status]


@dataclass(frozen=True)
class Plan:
    """What to train and measure: `train` has `images` images; `keys` has recipe keys by training."""

    train: Path
    test: Path
    folder: Path
    device: str
    images: int
    keys: dict[str, tuple[str, ...]]

    @property
    def results(self) -> Path:
        """Return the folder of the files worth keeping."""
        return self.folder / "results"

    def throughput(self, name: str) -> Path:
        """Return the throughput report of a training."""
        return self.results / f"throughput-{name}.json"

    def checkpoint(self, name: str) -> Path:
        """Return the checkpoint that a training writes."""
        return RunFolder(self.folder / name).checkpoint

    def steps(self, epochs: dict[str, int]) -> list[Step]:
        """Return the steps in order; a training that takes its turn enters its number of epochs."""
        halved, model = self.results / "student.safetensors", self.folder / "onnx" / "student.fp32.onnx"
        experiments, project = "twincar_edge.benchmarks.experiments", "twincar_edge"
        teacher, student = self.checkpoint("teacher"), self.checkpoint("student")
        data = ["--data", str(self.test)]

        def measure(name: str, recipe: str = RECIPE) -> Step:
            arguments = ["training_throughput", str(self.train), "--recipe", recipe, *self._on(name)]
            arguments += ["--rounds", "3", "-o", str(self.throughput(name))]
            return Step(f"throughput-{name}", 0.06, experiments, lambda _: arguments)

        def train(name: str, rates: tuple[tuple[str, float], ...], *more: str, needs: tuple[Path, ...] = ()) -> Step:
            def arguments(seconds: float) -> list[str]:
                costs = [1 / (self._measured(one) * steps) for one, steps in rates]
                epochs[name] = max(1, int(EPOCHS_SHARE * seconds / (sum(costs) * self.images)))
                given = ["train", str(self.train), "-o", str(self.folder / name), "--recipe", RECIPE, "--no-validation"]
                return [*given, "--set", f"epochs={epochs[name]}", *self._on(name), *more]

            return Step(name, 0.3, project, arguments, (*needs, *(self.throughput(one) for one, _ in rates)))

        # Without a search or limits: this INT8 file is for its time here. The search needs no GPU.
        export = ["export", str(student), "-o", str(model.parent), "--name", "student", "--fp16", "--int8"]
        export += ["--no-search", "--target", "x86-avx2", *NO_LIMITS, *data]
        bench = ["bench", str(model), "--precision", "fp32,fp16,int8", "--ep", "auto,cpu,cuda,tensorrt", *data]
        bench += ["--rounds", "10", "-o", str(self.results / "bench.json")]
        evaluate = ["evaluate", str(halved), *data, "--json", str(self.results / "evaluation.json")]
        return [
            measure("teacher"),
            measure("student"),
            measure("resnet50", "resnet50-cars196"),
            train("teacher", (("teacher", 1),)),
            train(
                "student", (("student", 1), ("teacher", TEACHER_FORWARD)), "--teacher", str(teacher), needs=(teacher,)
            ),
            Step("halve", 0.01, "twincar_edge.training.halve", lambda _: [str(student), str(halved)], (student,)),
            Step("evaluate", 0.03, project, lambda _: evaluate, (halved,)),
            Step("export", 0.1, project, lambda _: export, (student,)),
            Step("bench", 0.08, project, lambda _: bench, (model,)),
        ]

    def _on(self, name: str) -> list[str]:
        return ["--device", self.device, *(part for key in self.keys[name] for part in ("--set", key))]

    def _measured(self, name: str) -> float:
        """Return the measured images per second of a training."""
        found = Throughput.model_validate_json(self.throughput(name).read_text("utf-8"))
        return median(found.images_per_s["real"])


def run(plan: Plan, minutes: float, take: Take | None = None, clock: Callable[[], float] = time.monotonic) -> GpuRun:
    """Take all steps within `minutes`; one that fails or runs out of time ends only those that need its files.

    Args:
        plan: what to do.
        minutes: the time for all steps.
        take: runs a step's command; None for a process of its own.
        clock: returns the time in seconds.

    Raises:
        InputError: the folder exists already, or cannot be made.
    """
    if plan.folder.exists():
        raise InputError(f"{plan.folder} exists already: name a new folder")
    make_folder(plan.results)
    epochs: dict[str, int] = {}
    records: list[StepRecord] = []
    steps = plan.steps(epochs)
    begun_s, planned = clock(), 0.0
    whole = sum(step.share for step in steps)
    for step in steps:
        planned += step.share
        step_begun_s = clock()
        left_s = begun_s + 60 * minutes * planned / whole - step_begun_s
        arguments: list[str] = []
        status: Status = "not run"
        if left_s > 0 and all(path.is_file() for path in step.needs):
            arguments = step.arguments(left_s)
            status = (take or run_command)(step, arguments, left_s, plan.folder / f"{step.name}.log")
        seconds = clock() - step_begun_s
        records.append(
            StepRecord(
                name=step.name, arguments=tuple(arguments), status=status,
                planned_s=round(max(0.0, left_s), 1), seconds=round(seconds, 1),
            )
        )  # fmt: skip
        click.echo(f"{step.name}: {status}, {seconds:.0f} s", err=True)
    metrics = RunFolder(plan.folder / "student").metrics
    if metrics.is_file():
        shutil.copyfile(metrics, plan.results / "student-metrics.csv")
    return GpuRun(
        created=datetime.now(UTC), machine=this_machine(), minutes=minutes, epochs=epochs, steps=tuple(records)
    )


def run_command(step: Step, arguments: list[str], seconds: float, log: Path) -> Status:
    """Run a step's command for at most `seconds`; its output goes to a log."""
    with log.open("wb") as output:
        try:
            done = subprocess.run(
                [sys.executable, "-m", step.module, *arguments],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, timeout=seconds,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return "timed out"
    return "ok" if done.returncode == 0 else "failed"


@click.command("gpu_run", cls=Command)
@click.argument("train", type=PATH)
@click.option("--test", type=PATH, required=True, help="Labeled images of the same classes that TRAIN does not have.")
@click.option(
    "-o", "--output", type=PATH, required=True, help="A new folder for the run; its results/ is worth keeping."
)
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=12, show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="cuda", show_default=True)
@click.option("--teacher-set", multiple=True, metavar="KEY=VALUE", help="Change a key of the teacher's recipe.")
@click.option("--student-set", multiple=True, metavar="KEY=VALUE", help="Change a key of the student's recipe.")
@click.option(
    "--resnet50-set", multiple=True, metavar="KEY=VALUE", help="Change a key of the recipe that is only timed."
)
def command(
    train: Path, test: Path, output: Path, minutes: float, device: str,
    teacher_set: tuple[str, ...], student_set: tuple[str, ...], resnet50_set: tuple[str, ...],
) -> None:  # fmt: skip
    """Train a teacher on TRAIN, and a student of it, for as many epochs as fit; then export and time the student."""
    keys = {
        "teacher": (*TEACHER_KEYS, *teacher_set),
        "student": (*STUDENT_KEYS, *student_set),
        "resnet50": (*RANDOM_RESNET50, *resnet50_set),
    }
    plan = Plan(train, test, output, device, len(OpenOptions(train).open()), keys)
    report = run(plan, minutes)
    publish(report, report.to_markdown(), plan.results / "gpu_run.json")
    ended = [step.name for step in report.steps if step.status != "ok"]
    if ended:
        raise GateError(
            f"{len(ended)} of {len(report.steps)} steps did not succeed ({', '.join(ended)}): see the logs in {output}"
        )
