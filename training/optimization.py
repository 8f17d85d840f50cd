"""Freezing of stages, the optimizer, and the learning-rate schedule."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from twincar_edge.errors import InputError
from twincar_edge.training.model import CarClassifier
from twincar_edge.training.recipe import Recipe

# As in the original TwinCar: the rate is halved when macro F1 has not improved for more than two epochs.
PLATEAU_FACTOR, PLATEAU_PATIENCE = 0.5, 2
OPTIMIZERS: dict[str, type[Adam]] = {"adamw": AdamW, "adam": Adam}


def freeze_stages(model: CarClassifier, count: int) -> None:
    """Freeze the stem and the first `count` stages; 0 freezes nothing.

    Raises:
        InputError: the backbone has fewer stages.
    """
    if count == 0:
        return
    stages = model.stages()
    if count >= len(stages):
        raise InputError(f"cannot freeze {count} stages: {model.architecture} has {len(stages) - 1} after its stem")
    parameters = dict(model.backbone.named_parameters())
    for stage in stages[: count + 1]:  # the stem is not counted, and is frozen with the first stage
        for name in stage:
            parameters[name].requires_grad_(False)


def train_mode(model: CarClassifier) -> None:
    """Set the model to training mode, except for its frozen normalization layers.

    In training mode, their running statistics would drift away from the frozen weights. The layers are looked for each
    time, because training on several GPUs replaces them (`ProcessGroup.wrap`).
    """
    model.train()
    for module in model.backbone.modules():
        own = list(module.parameters(recurse=False))
        if hasattr(module, "running_mean") and own and not any(parameter.requires_grad for parameter in own):
            module.eval()


class Schedule:
    """The learning-rate schedule of a recipe: one-cycle with cosine decay, or reduction on a plateau."""

    def __init__(self, optimizer: Optimizer, recipe: Recipe, steps: int, peaks: list[float]) -> None:
        """Set the initial learning rates.

        Args:
            optimizer: the optimizer, whose parameter groups hold the rates.
            recipe: chooses the schedule.
            steps: optimizer steps in the whole run.
            peaks: the highest rate of each parameter group.
        """
        self._scheduler: OneCycleLR | ReduceLROnPlateau
        if recipe.schedule == "cosine":
            # One-cycle: Smith and Topin, "Super-Convergence", 2018. For a warmup of one step, PyTorch divides by zero.
            warmup = recipe.warmup_share if recipe.warmup_share * steps != 1 else 0.0
            self._scheduler = OneCycleLR(optimizer, max_lr=peaks, total_steps=steps, pct_start=warmup)
        else:
            self._scheduler = ReduceLROnPlateau(optimizer, mode="max", factor=PLATEAU_FACTOR, patience=PLATEAU_PATIENCE)

    def after_step(self) -> None:
        """Update the rates after an optimizer step."""
        if isinstance(self._scheduler, OneCycleLR):
            self._scheduler.step()

    def after_epoch(self, macro_f1: float) -> None:
        """Update the rates after an epoch, given its macro F1 on the held-out images."""
        if isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step(macro_f1)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for `load_state_dict`, as plain values."""
        return self._scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from `state_dict`."""
        self._scheduler.load_state_dict(state)


def build_optimizer(
    model: CarClassifier, recipe: Recipe, steps: int, extra: nn.Module | None = None
) -> tuple[Optimizer, Schedule]:
    """Return the optimizer of the trainable parameters, and its learning-rate schedule.

    The head and each stage have their own peak rate. Biases and normalization parameters have no weight decay: the next
    layer would compensate for it. AdamW: Loshchilov and Hutter, 2019; Adam adds the decay to the gradient instead.

    Args:
        model: the model with its frozen parameters, on the training device.
        recipe: chooses the optimizer and its rates.
        steps: optimizer steps in the whole run.
        extra: modules in addition to the model (`Objective.extra`), trained at the head's rate.
    """
    head = {id(parameter) for parameter in model.head().parameters()}
    by_name = dict(model.backbone.named_parameters())
    parts = [([p for p in by_name.values() if id(p) in head], recipe.head_learning_rate)]
    if recipe.layer_decay == 1:
        parts.insert(0, ([p for p in by_name.values() if id(p) not in head], recipe.learning_rate))
    else:
        rate = recipe.learning_rate
        for stage in reversed(model.stages()):
            parts.insert(0, ([by_name[name] for name in stage], rate))
            rate *= recipe.layer_decay
    if extra is not None:
        parts.append((list(extra.parameters()), recipe.head_learning_rate))
    groups, peaks = [], []
    for members, rate in parts:
        for decays in (True, False):
            trainable = [p for p in members if p.requires_grad and (p.ndim > 1) == decays]
            if trainable:
                decay = recipe.weight_decay if decays else 0.0
                groups.append({"params": trainable, "lr": rate, "weight_decay": decay})
                peaks.append(rate)
    optimizer = OPTIMIZERS[recipe.optimizer](groups, lr=recipe.learning_rate, fused=True)
    return optimizer, Schedule(optimizer, recipe, steps, peaks)
