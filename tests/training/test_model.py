"""The model takes prepared pixels, reproduces the original TwinCar, and has stages, a head and a CAM layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet50
from torchvision.transforms import v2

from tests.support.training_toys import TINY
from twincar_edge.errors import InputError, ModelError
from twincar_edge.labels import ClassMapping
from twincar_edge.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess, prepare_batch
from twincar_edge.training.checkpoint import read_checkpoint, write_checkpoint
from twincar_edge.training.model import CarClassifier, cam_layer, load_backbone, load_model, torch_predict

SMALL = Preprocess(size_wh=(32, 32))


def pixels(count: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_normalization_is_applied_once() -> None:
    preprocess = Preprocess(size_wh=(32, 32), mean=(0.1, 0.5, 0.9), std=(0.2, 0.3, 0.4))
    model = CarClassifier(TINY, 4, preprocess).eval()
    batch = pixels(2)
    normalize = v2.Normalize(preprocess.mean, preprocess.std)
    expected = model.backbone(normalize(torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255))
    np.testing.assert_allclose(torch_predict(model)(batch), expected.detach().numpy(), atol=1e-5)


def test_normalization_is_not_in_the_state_dict() -> None:
    model = CarClassifier(TINY, 4, SMALL)
    assert set(model.state_dict()) == {f"backbone.{name}" for name in model.backbone.state_dict()}


def test_prediction_uses_evaluation_mode_and_returns_float32() -> None:
    model = CarClassifier(TINY, 4, SMALL, dropout=0.9).train()
    predict = torch_predict(model)
    first, second = predict(pixels(3)), predict(pixels(3))
    assert first.dtype == np.float32 and first.shape == (3, 4)
    np.testing.assert_array_equal(first, second)


def quickstart_model(classes: int) -> nn.Module:
    """Return the original TwinCar's model, as built in its quickstart."""
    model = resnet50(weights=None)
    model.fc = nn.Sequential(nn.Linear(2048, 512), nn.ReLU(), nn.Dropout(0.2), nn.Linear(512, classes))
    return model.eval()


def test_the_originals_state_dict_gives_the_originals_logits(tmp_path: Path) -> None:
    original = quickstart_model(5)
    torch.save(original.state_dict(), tmp_path / "twin_car_best_model_v2.pth")
    names = tuple(f"Make Model {number} Sedan 2012" for number in range(5))
    (tmp_path / "class_mapping.json").write_text(ClassMapping(names).to_json())

    checkpoint = read_checkpoint(tmp_path / "twin_car_best_model_v2.pth")
    model = load_model(checkpoint)

    assert (checkpoint.architecture, checkpoint.classes.names) == ("resnet50", names)
    assert set(model.backbone.state_dict()) == set(original.state_dict())
    image_rgb = pixels(1, 224)[0]  # already of the original's input size, so that resizing has no effect
    normalize = v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)
    expected = original(normalize(torch.from_numpy(image_rgb).permute(2, 0, 1)[None].float() / 255))
    batch = prepare_batch([image_rgb[:, :, ::-1]], checkpoint.preprocess)
    np.testing.assert_allclose(torch_predict(model)(batch), expected.detach().numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("architecture", "stages", "stem", "last"),
    [
        ("resnet50", 5, "conv1.weight", "layer4."),
        ("tf_efficientnet_lite0", 8, "conv_stem.weight", "blocks.6."),
        ("test_resnet", 5, "conv1.0.weight", "layer4."),
    ],
)
def test_stages_exclude_the_head(architecture: str, stages: int, stem: str, last: str) -> None:
    model = CarClassifier(architecture, 7, SMALL)
    found = model.stages()
    assert len(found) == stages
    assert found[0][0] == stem and found[-1][0].startswith(last)
    head = {
        f"{name}" for name, p in model.backbone.named_parameters() if any(p is h for h in model.head().parameters())
    }
    assert head and sorted(head | {name for stage in found for name in stage}) == sorted(
        name for name, _ in model.backbone.named_parameters()
    )


@pytest.mark.parametrize("architecture", ["resnet50", "tf_efficientnet_lite0", "test_resnet", "test_byobnet"])
def test_the_cam_layer_is_the_map_before_pooling(architecture: str) -> None:
    model = CarClassifier(architecture, 3, Preprocess(size_wh=(64, 64))).eval()
    shapes = []
    cam_layer(model).register_forward_hook(lambda _module, _input, output: shapes.append(tuple(output.shape)))
    torch_predict(model)(pixels(1, 64))
    before_pooling = (1, 2048, 2, 2)
    if architecture != "resnet50":
        before_pooling = tuple(model.backbone.forward_features(torch.zeros(1, 3, 64, 64)).shape)
    assert shapes[0] == before_pooling


def test_a_transformer_has_no_cam_layer() -> None:
    with pytest.raises(InputError, match="test_vit has no convolutional stage"):
        cam_layer(CarClassifier("test_vit", 3, SMALL))


def test_architectures_of_fixed_input_size_are_built_for_the_given_size() -> None:
    assert torch_predict(CarClassifier("test_vit", 3, Preprocess(size_wh=(48, 64))))(
        np.zeros((1, 64, 48, 3), np.uint8)
    ).shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tf_efficientnet_lit0", "did you mean .*'tf_efficientnet_lite0'"),
        ("hf-hub:owner/something", "no architecture"),
        ("local-dir:/etc", "no architecture"),
        ("", "no architecture"),
    ],
)
def test_an_unknown_architecture_gets_a_suggestion(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CarClassifier(name, 3, SMALL)


def test_weights_that_do_not_fit_are_named_and_nothing_is_loaded() -> None:
    model = CarClassifier(TINY, 3, SMALL)
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    wrong = {name: tensor + 1 for name, tensor in before.items()}
    wrong["layer1.0.conv1.weight"] = torch.zeros(1)
    wrong["what.is.this"] = torch.zeros(1)
    del wrong["bn1.weight"]
    with pytest.raises(ModelError, match=r"w\.pth does not fit test_resnet: 3 tensors differ .bn1.weight is missing"):
        load_backbone(model, wrong, "w.pth")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.backbone.state_dict().items())


def test_a_class_count_other_than_the_names_is_an_error(tmp_path: Path) -> None:
    model = CarClassifier(TINY, 3, SMALL)
    write_checkpoint(
        tmp_path / "m.pt",
        architecture=TINY,
        state_dict=model.backbone.state_dict(),
        classes=ClassMapping(("a", "b")),
        preprocess=SMALL,
        recipe={},
    )
    with pytest.raises(ModelError, match=r"m\.pt does not have one output for each of its 2 class names"):
        load_model(read_checkpoint(tmp_path / "m.pt"))
