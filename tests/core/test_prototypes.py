"""Prototypes round-trip through their stored form, and a damaged table is refused."""

from __future__ import annotations

import base64
import json
import tracemalloc
import zlib

import numpy as np
import pytest

from twincar_edge.errors import InputError, ModelError
from twincar_edge.prototypes import Prototypes, class_prototypes, normalized, parse_prototypes


def test_familiarity_is_one_minus_half_the_squared_distance_to_the_nearest_mean(rng: np.random.Generator) -> None:
    means = rng.normal(size=(5, 8)).astype(np.float32) / 4
    embeddings = rng.normal(size=(7, 8)).astype(np.float32)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    distances = ((unit[:, None] - means[None]) ** 2).sum(axis=2)
    found = Prototypes(means).familiarity(embeddings)
    np.testing.assert_allclose(found, (1 - distances / 2).max(axis=1), atol=1e-6)
    np.testing.assert_allclose(Prototypes(means).familiarity(embeddings * 7), found, atol=1e-6)


def test_gradients_predict_the_change_of_similarities(rng: np.random.Generator) -> None:
    table = Prototypes(rng.normal(size=(6, 8)).astype(np.float32) / 4, (1, 2, 3))
    embeddings = rng.normal(size=(5, 8)).astype(np.float32)
    step = 0.01 * rng.normal(size=(5, 8)).astype(np.float32)
    changed = table.similarities(embeddings + step) - table.similarities(embeddings - step)
    for label in range(3):
        predicted = 2 * (table.gradients(embeddings, label) * step).sum(axis=1)
        np.testing.assert_allclose(changed[:, label], predicted, atol=1e-5)


def test_a_large_table_is_multiplied_in_blocks_small_enough_for_one_blas_thread(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    means, embeddings = (rng.random((count, 1280), dtype=np.float32) / 36 for count in (500, 3))
    sizes, matmul = [], np.matmul

    def recorded(one: np.ndarray, other: np.ndarray, out: np.ndarray) -> np.ndarray:
        sizes.append(one.shape[0] * other.size)
        return matmul(one, other, out=out)

    monkeypatch.setattr(np, "matmul", recorded)
    found = Prototypes(means).similarities(embeddings)
    exact = normalized(embeddings) @ means.T + 0.5 * (1 - np.square(means).sum(axis=1))
    np.testing.assert_allclose(found, exact, atol=1e-5)
    assert len(sizes) == 9 and max(sizes) <= 262_144  # OpenBLAS's limit for one thread


def test_a_zero_embedding_has_finite_familiarity() -> None:
    assert np.isfinite(Prototypes(np.eye(3, dtype=np.float32)).familiarity(np.zeros((1, 3), np.float32))).all()


def test_means_in_8_bits_are_accurate_and_round_trip(rng: np.random.Generator) -> None:
    embeddings = rng.normal(size=(27, 32)).astype(np.float32) + 1  # too few per class for two groups
    labels = np.arange(27) % 3
    made = class_prototypes(embeddings, labels, 3)
    exact = np.stack([normalized(embeddings)[labels == label].mean(axis=0) for label in range(3)])
    assert np.abs(made.means - exact).max() <= np.abs(exact).max() / 127
    read = parse_prototypes(made.to_json(), "x")
    np.testing.assert_array_equal(read.means, made.means)
    assert read.counts is None
    assert "counts" not in made.to_json()


def test_a_table_of_schema_version_1_is_read() -> None:
    values = base64.b64encode(np.array([[127, 0], [-127, 64]], np.int8).tobytes()).decode()
    document = {"schema_version": 1, "dimensions": 2, "scales": [0.01, 0.005], "values": values}
    read = parse_prototypes(json.dumps(document), "x")
    np.testing.assert_allclose(read.means, [[1.27, 0], [-0.635, 0.32]])


def test_a_table_larger_than_declared_is_refused_without_unpacking_it() -> None:
    document = json.loads(Prototypes(np.eye(3, dtype=np.float32)).to_json())
    document["values"] = base64.b64encode(zlib.compress(bytes(10**8))).decode()
    tracemalloc.start()
    with pytest.raises(ModelError, match="10 values, not 3 x 3"):
        parse_prototypes(json.dumps(document), "x")
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()


def test_a_table_too_large_to_use_is_refused_without_unpacking_it() -> None:
    document = json.loads(Prototypes(np.eye(3, dtype=np.float32)).to_json())
    document |= {"dimensions": 16_384, "scales": [0.5] * 100_000}
    document["values"] = base64.b64encode(zlib.compress(bytes(16_384 * 100_000))).decode()
    with pytest.raises(ModelError, match="more than 67108864 values"):
        parse_prototypes(json.dumps(document), "x")


def test_a_class_with_two_views_has_a_prototype_near_each(rng: np.random.Generator) -> None:
    views = np.eye(4, dtype=np.float32)[[0, 1]] * 3
    of_views = np.concatenate([view + rng.normal(0, 0.1, (20, 4)).astype(np.float32) for view in views])
    few = np.array([0, 0, 3, 0], np.float32) + rng.normal(0, 0.1, (9, 4)).astype(np.float32)
    made = class_prototypes(np.concatenate([few, of_views]), np.repeat([0, 1], [9, 40]), 2)
    assert (made.counts, made.classes, made.dimensions) == ((1, 2), 2, 4)
    mean = normalized(of_views).mean(axis=0)
    for view in views:
        halfway = (normalized(view[None])[0] + mean) / 2
        assert np.abs(made.means[1:] - halfway).max(axis=1).min() < 0.05
    similarities = made.similarities(np.stack([views[0], views[1], few[0]]))
    assert similarities.shape == (3, 2)
    assert similarities.argmax(axis=1).tolist() == [1, 1, 0]
    np.testing.assert_allclose(made.familiarity(views), similarities[:2].max(axis=1), atol=1e-6)
    read = parse_prototypes(made.to_json(), "x")
    np.testing.assert_array_equal(read.means, made.means)
    assert read.counts == made.counts
    again = class_prototypes(np.concatenate([few, of_views]), np.repeat([0, 1], [9, 40]), 2)
    np.testing.assert_array_equal(again.means, made.means)


def test_a_group_of_few_images_gets_no_prototype(rng: np.random.Generator) -> None:
    embeddings = np.ones((30, 4), np.float32) + rng.normal(0, 0.05, (30, 4)).astype(np.float32)
    embeddings[:3] = -1  # three outliers are not a view
    assert class_prototypes(embeddings, np.zeros(30, np.int64), 1).counts is None


def test_equal_embeddings_have_one_prototype() -> None:
    made = class_prototypes(np.ones((40, 3), np.float32), np.zeros(40, np.int64), 1)
    assert len(made.means) == 1


def test_a_class_without_images_is_refused() -> None:
    with pytest.raises(InputError, match="1 of the 3 classes have no image"):
        class_prototypes(np.ones((2, 4), np.float32), np.array([0, 2]), 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 1, "values": "AAAA"}, "3 values, not 3 x 3"),
        ({"values": "AAAA"}, "cannot be read"),
        ({"values": "?"}, "cannot be read"),
        ({"scales": [float("nan")] * 3}, "not valid"),
        ({"scales": [2.0, 1.0, 1.0]}, "not valid"),
        ({"scales": []}, "not valid"),
        ({"dimensions": 10**9}, "not valid"),
        ({"dimensions": 0}, "not valid"),
        ({"more": 1}, "not valid"),
        ({"schema_version": 1, "counts": [1, 1, 1]}, "not valid"),
        ({"counts": [1, 1]}, "not valid"),
        ({"counts": [3, 0]}, "not valid"),
        ({"schema_version": 3}, "not valid"),
    ],
)
def test_a_damaged_table_is_refused_in_one_line(changes: dict[str, object], message: str) -> None:
    document = json.loads(Prototypes(np.eye(3, dtype=np.float32)).to_json()) | changes
    with pytest.raises(ModelError, match=message) as caught:
        parse_prototypes(json.dumps(document), "the file")
    assert "\n" not in str(caught.value)
