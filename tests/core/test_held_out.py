"""The summary of held-out pictures estimates changed answers from a sample, and a damaged summary is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from tests.support.tiny_model import tiny_model, with_metadata_entries
from twincar_edge.enrolled import learn_class
from twincar_edge.errors import ModelError
from twincar_edge.held_out import HELD_OUT_KEY, MAX_BYTES, less_familiar, read_held_out, summarize
from twincar_edge.prototypes import Prototypes, class_prototypes, normalized


def clusters(rng: np.random.Generator, spread: float) -> tuple[Prototypes, np.ndarray, np.ndarray]:
    """Prototypes of 20 classes, held-out embeddings of these, and embeddings of a class between two of them."""
    centers = np.abs(rng.normal(size=(20, 512))).astype(np.float32)
    noise = [rng.normal(size=(one * 20, 512)).astype(np.float32) * spread for one in (10, 80)]
    labels = [np.arange(len(one)) % 20 for one in noise]
    prototypes = class_prototypes(centers[labels[0]] + noise[0], labels[0], 20)
    between = centers[0] * 0.6 + centers[1] * 0.4 + rng.normal(size=(5, 512)).astype(np.float32) * spread
    return prototypes, centers[labels[1]] + noise[1], between.astype(np.float32)


@pytest.mark.parametrize("spread", [0.5, 1.0, 1.5])
def test_the_summary_estimates_the_changed_answers_of_all_pictures(rng: np.random.Generator, spread: float) -> None:
    prototypes, embeddings, new = clusters(rng, spread)
    enrolled = learn_class("new", new, prototypes, enrolled_at=datetime.now(UTC), source_sha256="0", reach=4.0)
    exact = int((enrolled.leads(embeddings, prototypes.familiarity(embeddings)).max(axis=1) > 0).sum())
    summary = summarize(embeddings, prototypes)
    assert len(summary.embeddings) == MAX_BYTES // 512 < len(embeddings) == summary.images
    assert exact > 8 or spread < 1
    assert summary.changed(enrolled, prototypes) == pytest.approx(exact, rel=0.6, abs=8)


def test_learned_images_count_as_new_ones_once_they_are_as_unfamiliar(rng: np.random.Generator) -> None:
    prototypes, embeddings, new = clusters(rng, 1.5)
    enrolled = learn_class("new", new, prototypes, enrolled_at=datetime.now(UTC), source_sha256="0", reach=4.0)
    familiarity = prototypes.familiarity(embeddings)
    learned = 0.5 * normalized(embeddings) + 0.5 * prototypes.nearest(embeddings)  # as after training on them
    moved = less_familiar(learned, prototypes, familiarity)
    exact, flattered, found = (
        int((enrolled.leads(some, prototypes.familiarity(some)).max(axis=1) > 0).sum())
        for some in (embeddings, normalized(learned), moved)
    )
    assert exact > 8 and flattered < exact / 2
    assert found == pytest.approx(exact, rel=0.2)
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 1, atol=1e-5)


def test_images_that_are_unfamiliar_enough_stay(rng: np.random.Generator) -> None:
    prototypes, embeddings, _ = clusters(rng, 1.0)
    moved = less_familiar(embeddings, prototypes, prototypes.familiarity(embeddings) + 0.1)
    np.testing.assert_allclose(moved, normalized(embeddings), atol=1e-5)


def test_a_summary_round_trips_through_a_model_file(rng: np.random.Generator, tmp_path: Path) -> None:
    prototypes, embeddings, _ = clusters(rng, 1.0)
    model = tiny_model(tmp_path / "model.onnx")
    assert read_held_out(model) is None
    summary = summarize(embeddings, prototypes)
    text = summary.to_json()
    assert len(text) < 1.4 * MAX_BYTES
    found = read_held_out(with_metadata_entries(model, model, {HELD_OUT_KEY: text}))
    assert found is not None and found.images == len(embeddings)
    np.testing.assert_allclose((normalized(found.embeddings) * summary.embeddings).sum(axis=1), 1, atol=1e-3)


@pytest.mark.parametrize("changes", [{"images": 0}, {"embeddings": "{}"}, {"farthest": 6}, {"images": 1}, {"more": 1}])
def test_a_damaged_summary_is_refused(changes: dict[str, object], rng: np.random.Generator, tmp_path: Path) -> None:
    prototypes, embeddings, _ = clusters(rng, 1.0)
    document = json.loads(summarize(embeddings[:5], prototypes).to_json()) | changes
    model = tiny_model(tmp_path / "model.onnx")
    with pytest.raises(ModelError, match=r"not valid|more pictures"):
        read_held_out(with_metadata_entries(model, model, {HELD_OUT_KEY: json.dumps(document)}))
