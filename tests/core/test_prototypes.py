"""Prototypes: what is stored is what was meant, and nothing else is read."""

from __future__ import annotations

import json

import numpy as np
import pytest

from twincar_edge.errors import InputError, ModelError
from twincar_edge.prototypes import Prototypes, class_means, normalized, parse_prototypes


def test_familiarity_is_one_less_half_the_squared_distance_to_the_nearest_mean(rng: np.random.Generator) -> None:
    means = rng.normal(size=(5, 8)).astype(np.float32) / 4
    embeddings = rng.normal(size=(7, 8)).astype(np.float32)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    distances = ((unit[:, None] - means[None]) ** 2).sum(axis=2)
    found = Prototypes(means).familiarity(embeddings)
    np.testing.assert_allclose(found, (1 - distances / 2).max(axis=1), atol=1e-6)
    np.testing.assert_allclose(Prototypes(means).familiarity(embeddings * 7), found, atol=1e-6)


def test_an_embedding_of_zeros_gives_a_number() -> None:
    assert np.isfinite(Prototypes(np.eye(3, dtype=np.float32)).familiarity(np.zeros((1, 3), np.float32))).all()


def test_eight_bits_hold_the_means_and_reading_gives_what_was_stored(rng: np.random.Generator) -> None:
    embeddings = rng.normal(size=(60, 32)).astype(np.float32) + 1
    labels = np.arange(60) % 3
    made = class_means(embeddings, labels, 3)
    exact = np.stack([normalized(embeddings)[labels == label].mean(axis=0) for label in range(3)])
    assert np.abs(made.means - exact).max() <= np.abs(exact).max() / 127
    read = parse_prototypes(made.to_json(), "x")
    np.testing.assert_array_equal(read.means, made.means)


def test_a_class_without_an_image_has_no_prototype() -> None:
    with pytest.raises(InputError, match="no image of 1 of the 3 classes"):
        class_means(np.ones((2, 4), np.float32), np.array([0, 2]), 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": "AAAA"}, "3 values, not 3 x 3"),
        ({"values": "?"}, "cannot be read"),
        ({"scales": [float("nan")] * 3}, "not valid"),
        ({"scales": [2.0, 1.0, 1.0]}, "not valid"),
        ({"scales": []}, "not valid"),
        ({"dimensions": 10**9}, "not valid"),
        ({"dimensions": 0}, "not valid"),
        ({"more": 1}, "not valid"),
    ],
)
def test_a_damaged_table_is_refused_in_one_line(changes: dict[str, object], message: str) -> None:
    document = json.loads(Prototypes(np.eye(3, dtype=np.float32)).to_json()) | changes
    with pytest.raises(ModelError, match=message) as caught:
        parse_prototypes(json.dumps(document), "the file")
    assert "\n" not in str(caught.value)
