"""The matrix: which rows a configuration becomes, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from twincar_edge.benchmarks.config import PEERS, BenchmarkConfig, RowSpec
from twincar_edge.bundled import default_model
from twincar_edge.errors import InputError
from twincar_edge.manifest import Manifest, read_manifest
from twincar_edge.runtime.inference.providers import usable_providers

RANDOM_WEIGHTS = "quickstart"  # peers whose names begin so: an accuracy of theirs would say nothing


def rows_of(config: BenchmarkConfig) -> Iterator[RowSpec]:
    """Give the rows in their order: the quickstart first, since ratios are to the first; the other peers last.

    Raises:
        InputError: a file of a wanted precision is missing.
        ModelError: a file is not a model that this project exported.
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
    """Return what the row's model says of itself; a peer with random weights has nothing to say.

    Raises:
        ModelError: the file is not a model that this project exported.
    """
    if spec.model is not None:
        return read_manifest(spec.model)
    return None if (spec.peer or "").startswith(RANDOM_WEIGHTS) else read_manifest(default_model())


def _model_files(config: BenchmarkConfig) -> tuple[Path, ...]:
    """Return the files to measure: those given, or in each wanted precision the one that lies beside them."""
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
            f"{model} is {own}, and there is no {wanted} file of it: expected NAME.{wanted}.onnx beside NAME.{own}.onnx"
        )
    return sibling
