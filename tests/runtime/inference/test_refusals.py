"""Files that ONNX Runtime refuses: each error is one line that says what to do."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.support.tiny_model import digested, tiny_model
from twincar_edge.errors import ModelError
from twincar_edge.runtime.inference.session import open_session


def spoil(model: onnx.ModelProto, what: str, folder: Path) -> None:
    if what == "IR":
        model.ir_version = 99
    elif what == "opset":
        model.opset_import[0].version = 99
    elif what == "operator":
        model.graph.node[0].op_type = "Nope"
    elif what == "domain":
        model.graph.node[0].domain = "com.acme"
        model.opset_import.add(domain="com.acme", version=1)
    else:
        (folder / "w.data").write_bytes(bytes(1000))
        for tensor in model.graph.initializer:
            if what == "all external" or tensor.name == "weights":
                onnx.external_data_helper.set_external_data(tensor, "w.data", 0, len(tensor.raw_data))
                tensor.ClearField("raw_data")
                tensor.data_location = onnx.TensorProto.EXTERNAL


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("IR", r"has IR version 99, but the installed ONNX Runtime supports up to \d+: upgrade onnxruntime"),
        ("opset", r"needs opset 99 of ai\.onnx, but the installed ONNX Runtime supports up to \d+: upgrade"),
        ("operator", "uses the operator Nope, which"),
        ("domain", r"uses the operator com\.acme:\w+, which"),
        ("all external", r"has its weights in other files \(external data\), which is not supported: write"),
        (
            "weights external",
            r"has its weights in other files \(external data\), which is not supported: write",
        ),
    ],
)
def test_refused_files_give_an_error_with_the_reason_and_remedy(tmp_path: Path, what: str, message: str) -> None:
    path = tiny_model(tmp_path / "model.onnx")
    model = onnx.load(path)
    spoil(model, what, tmp_path)
    path.write_bytes(digested(model))
    with pytest.raises(ModelError, match=message) as caught:
        open_session(path, ep="cpu")
    text = str(caught.value)
    assert text.startswith(str(path)) and "\n" not in text
    assert "onnxruntime_src" not in text and "ONNXRuntimeError" not in text
