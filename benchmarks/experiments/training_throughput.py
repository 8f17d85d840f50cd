"""Measures training throughput: real images against one fixed batch, and this project's step against timm's.

    python -m twincar_edge.benchmarks.experiments training_throughput DATA -o results.json

Three subjects run in interleaved rounds, so that drift of the machine affects all of them:

- `real`: an epoch's batches as in training, gathered from the cache and augmented, with one step on each;
- `fixed`: the same step on one batch that is already on the device: the upper limit for any input pipeline;
- `timm`: timm's classification task, optimizer and weight average on that batch, with the same model and freezing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Literal

import click
import torch
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from timm.task import ClassificationTask
from timm.utils.model_ema import ModelEmaV3

from twincar_edge.benchmarks.experiments.options import output_option, publish
from twincar_edge.cli.commands import Command
from twincar_edge.cli.options import data_options
from twincar_edge.datasets import Dataset, OpenOptions
from twincar_edge.machine import Machine, installed_versions, this_machine
from twincar_edge.memory import freed_memory_kept
from twincar_edge.records import Record
from twincar_edge.training.data import TrainingImages
from twincar_edge.training.distributed import SingleProcess
from twincar_edge.training.environment import PACKAGES
from twincar_edge.training.loop import TrainingLoop
from twincar_edge.training.machine import Machine as TrainingMachine
from twincar_edge.training.machine import choose_device, limited_threads, seeded
from twincar_edge.training.model import CarClassifier
from twincar_edge.training.objective import Batch
from twincar_edge.training.optimization import freeze_stages, train_mode
from twincar_edge.training.recipe import Recipe
from twincar_edge.training.recipe_files import DEFAULT_RECIPE, read_recipe
from twincar_edge.training.weights import load_weights

SCHEMA_VERSION: Literal[1] = 1
ENDLESS = 10_000  # epochs, so that the schedule does not end before the measurement


class Ratio(Record):
    """The ratio of two subjects' images per second over the rounds: median, smallest and largest."""

    median: float
    smallest: float
    largest: float


class Throughput(Record):
    """The full measurement. `images_per_s` has one value per round for each subject."""

    schema_version: Literal[1] = SCHEMA_VERSION
    created: datetime
    machine: Machine
    gpu: str | None
    versions: dict[str, str]
    device: str
    precision: Literal["fp32", "bf16"]
    threads: int
    recipe: str
    architecture: str
    train_size: int
    batch_size: int
    steps_a_round: int
    images_per_s: dict[str, tuple[float, ...]]
    real_over_fixed: Ratio
    step_over_timm: Ratio
    not_run: tuple[str, ...]

    def to_markdown(self) -> str:
        """Return the report as a Markdown table."""
        rows = [
            f"{self.architecture} at {self.train_size} px, batch {self.batch_size}, {self.precision}, "
            f"{self.gpu or self.machine.cpu}, {len(self.images_per_s['real'])} rounds of {self.steps_a_round} steps",
            "",
            "| subject | images/s, median | smallest | largest |",
            "| --- | ---: | ---: | ---: |",
        ]
        rows += [
            f"| {name} | {median(found):.1f} | {min(found):.1f} | {max(found):.1f} |"
            for name, found in self.images_per_s.items()
        ]
        rows.append("")
        for words, ratio in (
            ("real images / fixed batch", self.real_over_fixed),
            ("this project's step / timm's", self.step_over_timm),
        ):
            rows.append(f"{words}: {ratio.median:.3f} ({ratio.smallest:.3f} to {ratio.largest:.3f})")
        return "\n".join([*rows, *(f"not run: {line}" for line in self.not_run)]) + "\n"


def measure(
    recipe: Recipe,
    dataset: Dataset,
    machine: TrainingMachine,
    *,
    name: str = "",
    rounds: int = 7,
    steps: int = 12,
    clock: Callable[[], float] = time.perf_counter,
) -> Throughput:
    """Measure the three subjects on one device.

    Args:
        recipe: model, sizes and augmentation; the final training size is measured.
        dataset: usable images.
        machine: device, threads and precision.
        name: the recipe's name for the report.
        rounds: rounds for each subject.
        steps: optimizer steps per round, after one that is not counted.
        clock: returns the time in seconds.

    Raises:
        InputError: as in `training.fit`.
    """
    recipe = recipe.model_copy(update={"first_train_size": 0, "epochs": ENDLESS})
    device = choose_device(machine.device)
    with seeded(recipe.seed), limited_threads(machine.threads), freed_memory_kept():
        images = TrainingImages(dataset, recipe.preprocess, recipe.train_size_wh, machine.cache_mb)
        models = [CarClassifier(recipe.architecture, len(dataset.classes), recipe.preprocess) for _ in range(2)]
        for model in models:
            load_weights(model, recipe.weights)
            freeze_stages(model, recipe.freeze_stages)
        loop = TrainingLoop(recipe, models[0], images, device, machine, SingleProcess())
        batch = next(iter(loop.batches(1)))
        theirs = _TimmStep(models[1], recipe, batch, device, loop.bf16)
        for model in models:
            train_mode(model)
        subjects: dict[str, Callable[[int], None]] = {
            "real": lambda count: _take_real(loop, count),
            "fixed": lambda count: _repeat(lambda: loop.step(batch, 0), count),
            "timm": lambda count: _repeat(theirs, count),
        }
        found: dict[str, list[float]] = {subject: [] for subject in subjects}
        for _ in range(rounds):
            for subject, take in subjects.items():
                take(1)
                _finish(device)
                start = clock()
                take(steps)
                _finish(device)
                found[subject].append(steps * recipe.batch_size / (clock() - start))
    return Throughput(
        created=datetime.now(UTC),
        machine=this_machine(),
        gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        versions=installed_versions(PACKAGES),
        device=device.type,
        precision="bf16" if loop.bf16 else "fp32",
        threads=machine.threads or torch.get_num_threads(),
        recipe=name,
        architecture=recipe.architecture,
        train_size=recipe.train_size_wh[0],
        batch_size=recipe.batch_size,
        steps_a_round=steps,
        images_per_s={subject: tuple(rates) for subject, rates in found.items()},
        real_over_fixed=_ratio(found["real"], found["fixed"]),
        step_over_timm=_ratio(found["fixed"], found["timm"]),
        not_run=() if torch.cuda.is_available() else ("cuda: PyTorch finds no GPU on this machine",),
    )


class _TimmStep:
    """One step as in timm's training script, on an already normalized batch."""

    def __init__(
        self,
        model: CarClassifier,
        recipe: Recipe,
        batch: Batch,
        device: torch.device,
        bf16: bool,
    ) -> None:
        self._backbone = model.to(device, memory_format=torch.channels_last).backbone  # type: ignore[call-overload]
        pixels = batch.images_nhwc.permute(0, 3, 1, 2) * model.scale + model.shift
        self._input = pixels.contiguous(memory_format=torch.channels_last)
        self._targets = batch.targets
        self._device, self._bf16 = device, bf16
        # The criterion accepts both label weights, for a mixed batch, and labels.
        criterion = torch.nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
        self._task = ClassificationTask(self._backbone, criterion, device=device, verbose=False)
        self._optimizer = create_optimizer_v2(
            [parameter for parameter in self._backbone.parameters() if parameter.requires_grad],
            opt=recipe.optimizer, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True,
        )  # fmt: skip
        self._ema = ModelEmaV3(self._backbone, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None

    def __call__(self) -> None:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            loss = self._task(self._input, self._targets)["loss"]
        loss.backward()
        self._optimizer.step()
        if self._ema is not None:
            self._ema.update(self._backbone, 0)
        self._optimizer.zero_grad()


def _take_real(loop: TrainingLoop, count: int) -> None:
    taken = 0
    while taken < count:
        for batch in loop.batches(1):
            loop.step(batch, 0)
            taken += 1
            if taken == count:
                return


def _repeat(step: Callable[[], object], count: int) -> None:
    for _ in range(count):
        step()


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _ratio(ours: list[float], reference: list[float]) -> Ratio:
    ratios = [one / other for one, other in zip(ours, reference, strict=True)]
    return Ratio(median=median(ratios), smallest=min(ratios), largest=max(ratios))


@click.command("training_throughput", cls=Command)
@data_options(argument=True)
@click.option("--recipe", default=DEFAULT_RECIPE, show_default=True, help="Model, sizes and augmentation.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a key of the recipe; repeatable.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", show_default=True)
@click.option("--threads", type=int, default=0, help="CPU threads.  [default: all]")
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True, help="Rounds for each subject.")
@click.option("--steps", type=click.IntRange(min=1), default=12, show_default=True, help="Optimizer steps per round.")
@output_option
def command(
    data: OpenOptions,
    recipe: str,
    changes: tuple[str, ...],
    rounds: int,
    steps: int,
    output: Path | None,
    **machine: Any,
) -> None:
    """Train on DATA, labeled images, interleaved with a fixed batch and with timm's step on that batch."""
    chosen = read_recipe(recipe, changes)
    report = measure(chosen, data.open(), TrainingMachine(**machine), name=recipe, rounds=rounds, steps=steps)
    publish(report, report.to_markdown(), output)
