"""What is trained, and how fast each part of it."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from twincar_edge.errors import InputError
from twincar_edge.training.model import CarClassifier
from twincar_edge.training.recipe import Recipe


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


def build_optimizer(model: CarClassifier, recipe: Recipe, steps: int) -> tuple[Optimizer, OneCycleLR]:
    """Return AdamW over the parameters that learn, and its one-cycle schedule of `steps` steps.

    Body and head have a peak rate of their own. Biases and normalization do not decay: decay would only shift what the
    following layer undoes. One-cycle: Smith and Topin, "Super-Convergence", 2018; AdamW: Loshchilov and Hutter, 2019.
    """
    head = {id(parameter) for parameter in model.head().parameters()}
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups, peaks = [], []
    for in_head, rate in ((False, recipe.learning_rate), (True, recipe.head_learning_rate)):
        for decays in (True, False):
            members = [p for p in learning if (id(p) in head) == in_head and (p.ndim > 1) == decays]
            if members:
                groups.append({"params": members, "weight_decay": recipe.weight_decay if decays else 0.0})
                peaks.append(rate)
    optimizer = AdamW(groups, lr=recipe.learning_rate)
    return optimizer, OneCycleLR(optimizer, max_lr=peaks, total_steps=steps, pct_start=recipe.warmup_share)
