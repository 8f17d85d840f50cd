"""A small classifier, trained in seconds, and its run folder."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from twincar_edge.datasets import OpenOptions, open_dataset, stratified_split, write_split
from twincar_edge.labels import ClassMapping
from twincar_edge.preprocess import Preprocess, prepare_batch
from twincar_edge.training.checkpoint import write_checkpoint
from twincar_edge.training.model import CarClassifier
from twincar_edge.training.recipe import Recipe
from twincar_edge.training.run_folder import RunFolder

CLASSES = ClassMapping(("Alpha One Sedan 2010", "Alpha Two Sedan 2010", "Beta SUV 2011"))
PREPROCESS = Preprocess(size_wh=(64, 64))
ARCHITECTURE = "test_efficientnet"  # timm's test model: depthwise convolutions, 0.4 MB


def write_cars(folder: Path, per_class: int = 40, seed: int = 0) -> Path:
    """Write a CSV data set whose classes differ in color and shape; return its folder."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    rows = ["filename,label"]
    for number in range(per_class * len(CLASSES)):
        label = number % len(CLASSES)
        image = np.full((72, 96, 3), 90, np.uint8)
        color = np.roll([200, 60, 60], label) + rng.integers(-30, 30, 3)
        left, top = (int(value) for value in rng.integers(4, 20, 2))
        cv2.rectangle(image, (left, top), (left + 60, top + 30 + 10 * label), color.tolist(), -1)
        image += rng.integers(0, 30, image.shape, dtype=np.uint8)
        name = f"{number:03d}.png"
        assert cv2.imwrite(str(folder / "images" / name), image)
        rows.append(f"{name},{label}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    (folder / "class_mapping.json").write_text(CLASSES.to_json())
    return folder


def train_toy(folder: Path, steps: int = 40) -> Path:
    """Train on `write_cars` and return the checkpoint, in a run folder like that of `fit`."""
    data = write_cars(folder / "cars")
    run = RunFolder(folder / "run")
    run.prepare()
    recipe = Recipe(architecture=ARCHITECTURE, preprocess=PREPROCESS, weights="none", epochs=1, validation_share=0.3)
    split = stratified_split(open_dataset(data), recipe.validation_share, recipe.seed)
    write_split(split, run.path)
    run.write_record(recipe, OpenOptions(data))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # steps this small gain nothing from threads
    torch.manual_seed(0)
    model = CarClassifier(ARCHITECTURE, len(CLASSES), PREPROCESS).train()
    images = torch.from_numpy(prepare_batch([sample.read() for sample in split.train.samples], PREPROCESS))
    labels = torch.from_numpy(split.train.labels)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(steps):
        picked = torch.randint(len(images), (32,))
        loss = torch.nn.functional.cross_entropy(model(images[picked]), labels[picked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.set_num_threads(threads)
    write_checkpoint(
        run.checkpoint,
        architecture=ARCHITECTURE,
        state_dict=model.backbone.state_dict(),
        classes=CLASSES,
        preprocess=PREPROCESS,
        recipe=recipe.model_dump(mode="json"),
        data=split.train.record(),
    )
    return run.checkpoint
