"""Explains why ONNX Runtime refuses a file, and what to do."""

from __future__ import annotations

import re

# Messages of onnxruntime 1.20 to 1.27, in model.cc, model_load_utils.h, tensorprotoutils.cc and graph.cc.
_REFUSALS: list[tuple[re.Pattern[str], str]] = [
    (
        re.compile(r"external (?:data|tensors)", re.IGNORECASE),
        "has its weights in other files (external data), which is not supported: write a single file with "
        'onnx.save(onnx.load("in.onnx"), "out.onnx")',
    ),
    (
        re.compile(r"Unsupported model IR version: (\d{1,9}), max supported IR version: (\d{1,9})"),
        r"has IR version \1, but the installed ONNX Runtime supports up to \2: upgrade onnxruntime, or export the "
        "model with an older onnx",
    ),
    (
        re.compile(r"Opset (\d{1,9}) is under development.*official support for domain (\S{1,40}) is till opset (\d+)"),
        r"needs opset \1 of \2, but the installed ONNX Runtime supports up to \3: upgrade onnxruntime, or export the "
        "model with a lower opset",
    ),
    (
        re.compile(r"No Op registered for ([\w.]+) with|Fatal error: ([\w.:]+)\(-?\d+\) is not a registered", re.ASCII),
        r"uses the operator \1\2, which the installed ONNX Runtime does not support: upgrade onnxruntime, or export "
        "the model without it",
    ),
]


def why_not_opened(error: Exception, ep: str) -> str:
    """Return the reason why ONNX Runtime refused a file, as the predicate of a sentence about it."""
    text = " ".join(_text(error).split())
    for pattern, message in _REFUSALS:
        if found := pattern.search(text):
            return found.expand(message)
    return f"cannot be opened on {ep}: {first_line(error)}"


def first_line(error: Exception) -> str:
    """Return the first line of an ONNX Runtime error, at most 300 characters."""
    return _text(error).strip().split("\n", 1)[0][:300]


def _text(error: Exception) -> str:
    # A message that quotes a damaged file may not be UTF-8, and then reaches Python as a UnicodeDecodeError.
    return error.object.decode("utf-8", "replace") if isinstance(error, UnicodeDecodeError) else str(error)
