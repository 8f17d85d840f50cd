"""The bundled model and checkpoint match, are small enough to ship, and are as accurate as their card states."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from twincar_edge.bundled import bundled, default_checkpoint, default_model
from twincar_edge.cli import main
from twincar_edge.dataset_logits import dataset_logits
from twincar_edge.datasets import open_dataset
from twincar_edge.errors import ModelError
from twincar_edge.files import sha256
from twincar_edge.manifest import Manifest, read_manifest
from twincar_edge.metrics import topk_accuracy
from twincar_edge.runtime.inference.session import open_session
from twincar_edge.training.checkpoint import Checkpoint, read_checkpoint
from twincar_edge.training.model import load_model, torch_predict
from twincar_edge.training.recipe import Recipe
from twincar_edge.training.recipe_files import read_recipe

TOLERANCE = 0.005  # of top-1 and top-5: INT8 products differ between processors


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return read_manifest(default_model())


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return read_checkpoint(default_checkpoint())


def test_the_bundled_model_was_exported_from_the_bundled_checkpoint(manifest: Manifest, checkpoint: Checkpoint) -> None:
    assert manifest.training.checkpoint_sha256 == sha256(default_checkpoint())
    assert manifest.classes == checkpoint.classes.names and len(manifest.classes) == 196
    assert manifest.preprocess == checkpoint.preprocess
    assert manifest.precision == "int8" and manifest.parity is not None
    assert 0 < manifest.reject_below < 1 and manifest.temperature != 1


def test_model_and_checkpoint_together_are_below_16_mb() -> None:
    assert default_model().stat().st_size + default_checkpoint().stat().st_size < 16_000_000


def test_the_checkpoint_is_the_mean_of_trainings_by_the_shipped_recipe(checkpoint: Checkpoint) -> None:
    recipe = dict(checkpoint.recipe)
    assert len(set(recipe.pop("averaged"))) == 7
    trained, shipped = Recipe.model_validate(recipe), read_recipe("lite0-cars196-continued")
    assert checkpoint.preprocess == shipped.preprocess
    # These trainings shrank their images by area; the file itself, and trainings since then, use a pyramid.
    of_images = shipped.preprocess.model_copy(update={"interpolation": "area"})
    assert trained == shipped.model_copy(update={"preprocess": of_images})


def test_the_card_states_terms_data_figures_and_build_command(manifest: Manifest, checkpoint: Checkpoint) -> None:
    card = bundled("lite0-cars196.md").read_text("utf-8")
    assert "non-commercial research" in card and "non-commercial research" in manifest.notes
    assert "make bundled-model" in card and "make bundled-model" in manifest.notes
    assert checkpoint.data is not None and checkpoint.data.digest[:12] in card
    parity, confidence = manifest.parity, manifest.confidence
    assert parity is not None and confidence is not None and confidence.named_top1 is not None
    figures = [f"{share:.2%}" for share in (parity.top1, parity.top5, parity.agreement)]
    figures += [f"{share:.1%}" for share in (confidence.coverage, confidence.named_top1, confidence.ece_after)]
    for figure in figures:
        assert figure in card, f"the card does not state {figure}"
    assert manifest.familiarity is not None and manifest.crop_sizes is not None
    thresholds = manifest.familiarity.thresholds
    assert f"{thresholds.year:g}" in card and f"{thresholds.make:g}" in card
    assert f"below {manifest.crop_sizes.minimum_px} pixels" in card
    assert f"{manifest.reject_below:g}" in card and f"{manifest.temperature:g}" in card


def test_the_bundled_files_contain_no_local_paths() -> None:
    for path in (default_model(), default_checkpoint()):
        assert not re.search(rb"/(home|root|tmp|work|Users)/", path.read_bytes())


def test_model_and_checkpoint_give_similar_logits() -> None:
    rng = np.random.default_rng(0)
    width, height = read_manifest(default_model()).preprocess.size_wh
    batch = rng.integers(0, 256, (4, height // 8, width // 8, 3), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    exported = open_session(default_model(), ep="cpu", threads=1).run(batch)
    trained = torch_predict(load_model(read_checkpoint(default_checkpoint())))(batch)
    similarity = (exported * trained).sum(axis=1) / np.linalg.norm(exported, axis=1) / np.linalg.norm(trained, axis=1)
    assert similarity.min() > 0.95


@pytest.mark.shared
def test_the_model_reaches_its_recorded_accuracy(shared: Path, manifest: Manifest) -> None:
    images = open_dataset(shared / "cars196_more")
    assert manifest.training.data is not None and manifest.training.data.images == 7313  # none of these
    session = open_session(default_model(), ep="cpu", threads=2, spinning=True)
    logits = dataset_logits(session.run, images, manifest.preprocess)
    assert manifest.parity is not None and manifest.parity.images == len(images)
    assert topk_accuracy(logits, images.labels, 1) == pytest.approx(manifest.parity.top1, abs=TOLERANCE)
    assert topk_accuracy(logits, images.labels, 5) == pytest.approx(manifest.parity.top5, abs=TOLERANCE)


def test_explain_and_classify_use_the_bundled_model_by_default(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = next(iter(sorted((shared / "cars196" / "images").iterdir())))
    for command in (["classify", str(image), "--json"], ["explain", str(image), "-o", str(tmp_path / "why.png")]):
        with pytest.raises(SystemExit) as caught:
            main(command)
        assert caught.value.code == 0
    assert (tmp_path / "why.png").stat().st_size > 10_000
    record, name, *guesses = capsys.readouterr().out.splitlines()
    answer = json.loads(record)
    assert name == answer["name"]
    assert len(guesses) >= 5 and guesses[0].endswith(answer["name"])
    assert float(guesses[0].partition("%")[0]) / 100 == pytest.approx(answer["probability"], abs=1e-4)


def test_a_missing_bundled_file_is_reported() -> None:
    with pytest.raises(ModelError, match=r"this installation has no absent\.onnx: reinstall twincar-edge"):
        bundled("absent.onnx")
