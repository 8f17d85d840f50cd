"""The peers reproduce the steps of the original's quickstart and the answers of the bundled model."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.tiny_model import tiny_model
from twincar_edge.benchmarks import peers
from twincar_edge.benchmarks.config import PEERS, RowSpec
from twincar_edge.benchmarks.worker import Worker
from twincar_edge.bundled import default_model
from twincar_edge.cli.bench_precisions import bundled_in
from twincar_edge.errors import InputError, MissingExtraError
from twincar_edge.manifest import read_manifest
from twincar_edge.preprocess import prepare_batch
from twincar_edge.runtime.inference.session import open_session
from twincar_edge.runtime.timing import Clock


def tick() -> Clock:
    """Return a clock that advances by a second per call."""
    seconds = iter(range(10**6))
    return lambda: float(next(seconds))


def spec(peer: str, model: Path | None = None) -> RowSpec:
    return RowSpec(model, PEERS[peer].engine, 1, 1, spinning=True, peer=peer)


def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)


def test_every_peer_has_an_opener() -> None:
    assert peers.OPENERS.keys() == PEERS.keys()


def test_the_quickstart_runs_resnet50_with_torchvisions_steps() -> None:
    ready = peers.open_quickstart(spec("quickstart"), tick())
    batch = ready.prepare([ready.load(image())])
    assert tuple(batch.shape) == (1, 3, 224, 224)
    assert ready.predict(batch).shape == (1, 196)
    assert (ready.ep, ready.threads) == ("PyTorch eager", 1)
    # A white picture becomes (1 - mean) / std in red.
    white = ready.prepare([ready.load(np.full((10, 10, 3), 255, np.uint8))])
    assert float(white[0, 0, 0, 0]) == pytest.approx((1 - 0.485) / 0.229)


def test_the_bundled_checkpoint_in_pytorch_gives_the_logits_of_its_fp32_file() -> None:
    ready = peers.open_lite0(spec("lite0"), tick())
    batch_nhwc = prepare_batch([image()], read_manifest(default_model()).preprocess)
    (file,) = bundled_in(["fp32"])
    expected = open_session(file, ep="cpu", threads=1).run(batch_nhwc)
    np.testing.assert_allclose(ready.predict(batch_nhwc), expected, atol=1e-4)
    manifest = read_manifest(file)
    assert (manifest.precision, manifest.quantization, manifest.parity) == ("fp32", None, None)


def test_the_bundled_model_in_its_own_precision_is_the_bundled_file() -> None:
    assert bundled_in(["int8", "int8"]) == (default_model(),)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def test_native_openvino_gives_the_logits_of_onnx_runtime(tmp_path: Path) -> None:
    pytest.importorskip("openvino", exc_type=ImportError)
    model = tiny_model(tmp_path / "tiny.onnx")
    ready = peers.open_native_openvino(spec("openvino-native", model), tick())
    batch_nhwc = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    expected = open_session(model, ep="cpu", threads=1).run(batch_nhwc)
    np.testing.assert_allclose(ready.predict(batch_nhwc), expected, atol=1e-3)


def test_a_peer_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"twincar-edge\[peers\]"):
        peers.open_native_openvino(spec("openvino-native", default_model()), tick())


def test_a_peer_is_timed_by_a_worker_like_any_row() -> None:
    worker = Worker(spec("quickstart"), [image()], tick())
    ep, threads, start = worker.open()
    assert (ep, threads) == ("PyTorch eager", 1)
    assert start.first_ms == 1000
    (sample,) = worker.turn(1, True)
    assert (sample.pre_ms, sample.infer_ms, sample.post_ms) == (1000, 1000, 1000)


def test_an_unavailable_precision_of_the_bundled_model_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    (file,) = bundled_in(["fp32"])
    monkeypatch.setattr("twincar_edge.cli.bench_precisions.default_model", lambda: file)
    with pytest.raises(InputError, match="not available in int8"):
        bundled_in(["int8"])
