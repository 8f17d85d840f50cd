"""What is trained, and how fast each part of it."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from twincar_edge.errors import InputError
from twincar_edge.training.model import CarClassifier
from twincar_edge.training.recipe import Recipe

# The original TwinCar's: halved when macro F1 has not risen for more than two epochs.
PLATEAU_FACTOR, PLATEAU_PATIENCE = 0.5, 2
OPTIMIZERS: dict[str, type[Adam]] = {"adamw": AdamW, "adam": Adam}


def freeze_stages(model: CarClassifier, count: int) -> list[nn.Module]:
    """Stop the stem and the first `count` stages from learning; 0 freezes nothing.

    Returns:
        The normalization layers of the frozen part. They must stay in evaluation mode while the rest trains, else
        their running statistics drift away from weights that do not follow: see `train_mode`.

    Raises:
        InputError: the backbone does not have so many stages.
    """
    if count == 0:
        return []
    stages = model.stages()
    if count >= len(stages):
        raise InputError(f"{model.architecture} has {len(stages) - 1} stages after its stem: cannot freeze {count}")
    parameters = dict(model.backbone.named_parameters())
    for stage in stages[: count + 1]:  # the stem counts as no stage, and is frozen with the first
        for name in stage:
            parameters[name].requires_grad_(False)
    frozen = []
    for module in model.backbone.modules():
        own = list(module.parameters(recurse=False))
        if hasattr(module, "running_mean") and own and not any(parameter.requires_grad for parameter in own):
            frozen.append(module)
    return frozen


def train_mode(model: CarClassifier, frozen_norms: list[nn.Module]) -> None:
    """Set the model to training mode, its frozen normalization layers apart."""
    model.train()
    for module in frozen_norms:
        module.eval()


class Schedule:
    """How the learning rates change over a training, whichever rule the recipe names."""

    def __init__(self, optimizer: Optimizer, recipe: Recipe, steps: int, peaks: list[float]) -> None:
        """Set the rates to where they start.

        Args:
            optimizer: its parameter groups have the rates.
            recipe: names the rule.
            steps: of the whole training.
            peaks: the highest rate of each parameter group.
        """
        self._rule: OneCycleLR | ReduceLROnPlateau
        if recipe.schedule == "cosine":
            # One-cycle: Smith and Topin, "Super-Convergence", 2018.
            self._rule = OneCycleLR(optimizer, max_lr=peaks, total_steps=steps, pct_start=recipe.warmup_share)
        else:
            self._rule = ReduceLROnPlateau(optimizer, mode="max", factor=PLATEAU_FACTOR, patience=PLATEAU_PATIENCE)

    def after_step(self) -> None:
        """Follow a step of the optimizer."""
        if isinstance(self._rule, OneCycleLR):
            self._rule.step()

    def after_epoch(self, macro_f1: float) -> None:
        """Follow an epoch that reached this macro F1 on the held-out images."""
        if isinstance(self._rule, ReduceLROnPlateau):
            self._rule.step(macro_f1)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on from here: plain values."""
        return self._rule.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken."""
        self._rule.load_state_dict(state)


def build_optimizer(
    model: CarClassifier, recipe: Recipe, steps: int, own: nn.Module | None = None
) -> tuple[Optimizer, Schedule]:
    """Return the optimizer of the parameters that learn, and the schedule of its rates.

    The head and each stage have a peak rate of their own. Biases and normalization do not decay: decay would only shift
    what the following layer undoes. AdamW: Loshchilov and Hutter, 2019; Adam adds the decay to the gradient instead.

    Args:
        model: with its frozen parameters marked as such, on the device where it trains.
        recipe: names the optimizer and its rates.
        steps: of the whole training.
        own: parameters beside the model's (`Objective.own`), which learn as the head does.
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
    if own is not None:
        parts.append((list(own.parameters()), recipe.head_learning_rate))
    groups, peaks = [], []
    for members, rate in parts:
        for decays in (True, False):
            learning = [p for p in members if p.requires_grad and (p.ndim > 1) == decays]
            if learning:
                decay = recipe.weight_decay if decays else 0.0
                groups.append({"params": learning, "lr": rate, "weight_decay": decay})
                peaks.append(rate)
    optimizer = OPTIMIZERS[recipe.optimizer](groups, lr=recipe.learning_rate, fused=True)
    return optimizer, Schedule(optimizer, recipe, steps, peaks)
