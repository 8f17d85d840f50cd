"""A model file is first opened in a child process, so that a bad file crashes that process and not the camera loop."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.tiny_model import digested, tiny_model
from twincar_edge.errors import InputError, ModelError, parameter_spelling
from twincar_edge.runtime.subprocess_check import ModelCheck, check_in_subprocess


def looping(path: Path) -> Path:
    """A good model except for an endless loop before its logits, which optimization cannot remove."""
    model = onnx.load(str(tiny_model(path)))
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["keep"], ["keep_on"]),
            helper.make_node("Sin", ["state"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("keep", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, ["N", 3]),
        ],
        [
            helper.make_tensor_value_info("keep_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, ["N", 3]),
        ],
    )
    loop = helper.make_node("Loop", ["", "always", "color"], ["looped"], body=body)
    model.graph.node.insert(3, loop)
    model.graph.node[4].input[0] = "looped"
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))
    path.write_bytes(digested(model))
    return path


def greedy(path: Path) -> Path:
    """A good model of a few kilobytes, except for a tensor of 40 GB before its logits."""
    model = onnx.load(str(tiny_model(path)))
    model.graph.node.insert(3, helper.make_node("Expand", ["color", "wide"], ["expanded"]))
    model.graph.node.insert(4, helper.make_node("ReduceMax", ["expanded", "first"], ["greatest"], keepdims=0))
    model.graph.node[5].input[0] = "greatest"
    model.graph.initializer.append(numpy_helper.from_array(np.array([3_000_000_000, 1, 3], np.int64), "wide"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "first"))
    path.write_bytes(digested(model))
    return path


def test_a_model_with_an_endless_loop_is_killed_at_the_time_limit(tmp_path: Path) -> None:
    model = looping(tmp_path / "loop.onnx")
    with pytest.raises(ModelError, match=r"the check of .*loop\.onnx timed out after 4 s"):
        check_in_subprocess(ModelCheck(model, "cpu", 1), threading.Event(), limit_s=4)


def test_the_end_of_the_run_cancels_the_check(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(InputError, match="was canceled because the run ended"):
        check_in_subprocess(ModelCheck(looping(tmp_path / "loop.onnx"), "cpu", 1), stop)


def test_a_model_that_uses_up_all_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"greedy\.onnx") as caught:
        check_in_subprocess(ModelCheck(greedy(tmp_path / "greedy.onnx"), "cpu", 1), threading.Event())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("golden", [True, False])
def test_a_good_model_passes(golden: bool, tmp_path: Path) -> None:
    check_in_subprocess(ModelCheck(tiny_model(tmp_path / "good.onnx", golden=golden), "cpu", 2), threading.Event())


def test_a_refusal_has_the_usual_message_with_this_processes_parameter_spelling(tmp_path: Path) -> None:
    model = onnx.load(str(tiny_model(tmp_path / "drifted.onnx", golden=True)))
    [weights] = [tensor for tensor in model.graph.initializer if tensor.name == "weights"]
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(0.5), "weights"))
    (tmp_path / "drifted.onnx").write_bytes(digested(model))
    with (
        parameter_spelling(lambda parameter: f"<{parameter.name}>"),
        pytest.raises(ModelError, match=r"answers differently on cpu .* use it anyway with <allow_drift>"),
    ):
        check_in_subprocess(ModelCheck(tmp_path / "drifted.onnx", "cpu", 1), threading.Event())
    check_in_subprocess(ModelCheck(tmp_path / "drifted.onnx", "cpu", 1, allow_drift=True), threading.Event())
