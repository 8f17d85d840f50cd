"""Parameters learn at the rates of the recipe, and frozen stages do not change."""

from __future__ import annotations

import pytest
import torch
from timm.layers.norm_act import convert_sync_batchnorm
from torch.optim import Adam, AdamW

from tests.support.training_toys import TINY, toy_recipe
from twincar_edge.errors import InputError
from twincar_edge.preprocess import Preprocess
from twincar_edge.training.model import CarClassifier
from twincar_edge.training.optimization import build_optimizer, freeze_stages, train_mode

SMALL = Preprocess(size_wh=(32, 32))


def test_training_mode_leaves_frozen_normalization_in_evaluation_mode() -> None:
    model = CarClassifier("test_efficientnet", 2, SMALL)
    freeze_stages(model, 1)
    train_mode(model)
    assert model.backbone.bn2.training and not model.backbone.bn1.training
    with pytest.raises(InputError, match="cannot freeze 6 stages: test_efficientnet has 5 after its stem"):
        freeze_stages(model, 6)


def test_freezing_two_stages_of_resnet50_freezes_stem_and_first_two_layers() -> None:
    model = CarClassifier("resnet50", 3, Preprocess(size_wh=(64, 64)))
    freeze_stages(model, 2)
    learning = {name.split(".")[0] for name, p in model.backbone.named_parameters() if p.requires_grad}
    assert learning == {"layer3", "layer4", "fc"}
    assert frozen_norms(model) == {"bn1", "layer1", "layer2"}


def test_frozen_normalization_that_is_replaced_for_several_gpus_stays_in_evaluation_mode() -> None:
    model = CarClassifier("resnet50", 3, Preprocess(size_wh=(64, 64)))
    freeze_stages(model, 2)
    convert_sync_batchnorm(model)  # as ProcessGroup.wrap does on GPUs
    assert isinstance(model.backbone.bn1, torch.nn.SyncBatchNorm)
    assert frozen_norms(model) == {"bn1", "layer1", "layer2"}


def frozen_norms(model: CarClassifier) -> set[str]:
    """Return the parts whose normalization layers are in evaluation mode when the model trains."""
    train_mode(model)
    norms = [(name, module) for name, module in model.backbone.named_modules() if hasattr(module, "running_mean")]
    return {name.split(".")[0] for name, module in norms if not module.training}


def test_body_and_head_have_separate_rates_and_biases_do_not_decay() -> None:
    model = CarClassifier(TINY, 2, SMALL)
    freeze_stages(model, 1)
    recipe = toy_recipe(learning_rate=0.01, head_learning_rate=0.05, weight_decay=0.1)
    optimizer, schedule = build_optimizer(model, recipe, steps=10)
    groups = optimizer.param_groups
    assert isinstance(optimizer, AdamW)
    assert [(group["max_lr"], group["weight_decay"]) for group in groups] == [
        (0.01, 0.1), (0.01, 0.0), (0.05, 0.1), (0.05, 0.0),
    ]  # fmt: skip
    assert all(parameter.requires_grad for group in groups for parameter in group["params"])
    assert {id(p) for group in groups[2:] for p in group["params"]} == {id(p) for p in model.backbone.fc.parameters()}
    rates = []
    for _ in range(10):
        rates.append(groups[2]["lr"])
        optimizer.step()
        schedule.after_step() if len(rates) < 10 else None
    assert max(rates) == pytest.approx(0.05) and rates[-1] < rates[0] < 0.05


def test_a_warmup_of_one_step_starts_near_the_peak() -> None:
    recipe = toy_recipe(warmup_share=0.2, learning_rate=0.01)
    optimizer, schedule = build_optimizer(CarClassifier(TINY, 2, SMALL), recipe, steps=5)
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.after_step()
    assert 0.009 < rates[0] < 0.01 and rates == sorted(rates, reverse=True)


def test_earlier_stages_have_lower_rates() -> None:
    model = CarClassifier("resnet50", 3, Preprocess(size_wh=(64, 64)))
    freeze_stages(model, 2)
    recipe = toy_recipe(
        optimizer="adam", schedule="plateau", learning_rate=1e-4, head_learning_rate=1e-3, layer_decay=0.1
    )
    optimizer, _ = build_optimizer(model, recipe, steps=10)
    assert isinstance(optimizer, Adam) and not isinstance(optimizer, AdamW)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    by_part = {name.split(".")[0]: rates[id(p)] for name, p in model.backbone.named_parameters() if p.requires_grad}
    assert by_part == {"layer3": pytest.approx(1e-5), "layer4": 1e-4, "fc": 1e-3}


def test_the_plateau_schedule_halves_the_rates_after_three_epochs_without_a_better_f1() -> None:
    model = CarClassifier(TINY, 2, SMALL)
    optimizer, schedule = build_optimizer(model, toy_recipe(schedule="plateau", learning_rate=0.01), steps=10)
    rates = []
    for macro_f1 in (0.5, 0.6, 0.6, 0.55, 0.6, 0.7):
        schedule.after_step()
        schedule.after_epoch(macro_f1)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [0.01, 0.01, 0.01, 0.01, 0.005, 0.005]


@pytest.mark.parametrize("rule", ["cosine", "plateau"])
def test_a_schedule_resumes_from_its_state(rule: str) -> None:
    def start() -> tuple[torch.optim.Optimizer, object]:
        torch.manual_seed(0)
        return build_optimizer(CarClassifier(TINY, 2, SMALL), toy_recipe(schedule=rule), steps=8)

    def steps(optimizer, schedule, count: int) -> list[float]:  # type: ignore[no-untyped-def]
        seen = []
        for number in range(count):
            optimizer.step()
            schedule.after_step()
            schedule.after_epoch(0.1 if number else 0.5)
            seen.append(optimizer.param_groups[0]["lr"])
        return seen

    whole = steps(*start(), 7)
    optimizer, schedule = start()
    first = steps(optimizer, schedule, 3)
    saved = optimizer.state_dict(), schedule.state_dict()
    optimizer, schedule = start()
    optimizer.load_state_dict(saved[0])
    schedule.load_state_dict(saved[1])
    if rule == "cosine":
        assert first + steps(optimizer, schedule, 4) == pytest.approx(whole)
    else:
        assert schedule.state_dict()["num_bad_epochs"] == saved[1]["num_bad_epochs"]
