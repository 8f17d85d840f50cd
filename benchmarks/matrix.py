"""Expands a configuration to the ordered list of rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from twincar_edge.benchmarks.config import PEERS, BenchmarkConfig, RowSpec
from twincar_edge.bundled import default_model
from twincar_edge.errors import InputError
from twincar_edge.manifest import Manifest, read_manifest
from twincar_edge.runtime.inference.providers import usable_providers

RANDOM_WEIGHTS = "quickstart"  # prefix of the peers with random weights, whose accuracy is not measured


def rows_of(config: BenchmarkConfig) -> Iterator[RowSpec]:
    """Yield the rows in order: the quickstart first, since ratios are relative to the first row; other peers last.

    Raises:
        InputError: the file of a requested precision is missing.
        ModelError: a file is not an exported model.
    """
    eps = tuple(dict.fromkeys(config.eps or usable_providers()))
    models = _model_files(config)
    sizes = [(threads, batch) for batch in dict.fromkeys(config.batches) for threads in dict.fromkeys(config.threads)]
    peers = tuple(PEERS) if config.peers else ()
    for peer in peers[:1]:
        for threads, batch in sizes:
            yield RowSpec(None, PEERS[peer].engine, threads, batch, config.spins(), peer)
    for model in models:
        for ep in eps:
            for threads, batch in sizes:
                yield RowSpec(model, ep, threads, batch, config.spins())
    for peer in peers[1:]:
        for file in models if PEERS[peer].of_file else (None,):
            for threads, batch in sizes:
                yield RowSpec(file, PEERS[peer].engine, threads, batch, config.spins(), peer)


def manifest_of(spec: RowSpec) -> Manifest | None:
    """Return the manifest of the row's model, or None for a peer with random weights.

    Raises:
        ModelError: the file is not an exported model.
    """
    if spec.model is not None:
        return read_manifest(spec.model)
    return None if (spec.peer or "").startswith(RANDOM_WEIGHTS) else read_manifest(default_model())


def _model_files(config: BenchmarkConfig) -> tuple[Path, ...]:
    """Return the files to measure: the given ones, or their siblings in each requested precision."""
    models = config.models or (default_model(),)
    if not config.precisions:
        return tuple(dict.fromkeys(models))
    return tuple(dict.fromkeys(_in_precision(model, wanted) for model in models for wanted in config.precisions))


def _in_precision(model: Path, wanted: str) -> Path:
    own = read_manifest(model).precision
    if own == wanted:
        return model
    sibling = model.with_name(model.name.removesuffix(f".{own}.onnx") + f".{wanted}.onnx")
    if not model.name.endswith(f".{own}.onnx") or not sibling.is_file():
        raise InputError(
            f"there is no {wanted} file of {model}, which is {own}: expected NAME.{wanted}.onnx next to NAME.{own}.onnx"
        )
    return sibling
