"""The bundled model in precisions that the package does not ship, exported once from the bundled checkpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from twincar_edge import __version__
from twincar_edge.bundled import DEFAULT_NAME, default_checkpoint, default_model
from twincar_edge.errors import InputError, require
from twincar_edge.files import sha256, write_bytes
from twincar_edge.manifest import read_manifest

EXPORTED = ("fp32", "fp16")


def bundled_in(precisions: Sequence[str]) -> tuple[Path, ...]:
    """Return the bundled model's file in each precision; FP32 and FP16 are exported on first use.

    Exports are cached in the user's cache folder, keyed by the checkpoint's digest. Their parity is not checked; a
    benchmark with `--data` measures their accuracy.

    Raises:
        InputError: the checkpoint cannot be exported in this precision.
        MissingExtraError: an export is needed, but its extra is not installed.
        ModelError: the package was installed without the model.
    """
    return tuple(_file(precision) for precision in dict.fromkeys(precisions))


def _file(precision: str) -> Path:
    model = default_model()
    if read_manifest(model).precision == precision:
        return model
    if precision not in EXPORTED:
        raise InputError(f"the bundled model is not available in {precision}: give your own model file as MODEL")
    checkpoint = default_checkpoint()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "twincar-edge" / "bench"
    path = cache / f"{sha256(checkpoint)[:16]}-{__version__}" / f"{DEFAULT_NAME}.{precision}.onnx"
    if not path.is_file():
        write_bytes(path, _export(checkpoint, precision))
    return path


def _export(checkpoint: Path, precision: str) -> bytes:
    for module in ("torch", "onnx", "onnxscript"):
        require(module, "export")
    from twincar_edge.export.graph import to_bytes, to_onnx
    from twincar_edge.export.half import to_fp16
    from twincar_edge.training.checkpoint import read_checkpoint
    from twincar_edge.training.model import load_model

    graph = to_onnx(load_model(read_checkpoint(checkpoint)))
    # Leave out what was measured on the INT8 file: other precisions decide by probability alone.
    int8_only = ("quantization", "parity", "confidence", "embedding", "familiarity", "head", "crop_sizes")
    changes = {"precision": precision, **dict.fromkeys(int8_only)}
    manifest = read_manifest(default_model()).model_copy(update=changes)
    return to_bytes(to_fp16(graph) if precision == "fp16" else graph, manifest)
