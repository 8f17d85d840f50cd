"""A training uses the requested device, precision and threads, or fails with a one-line error."""

from __future__ import annotations

import pytest
import torch

from twincar_edge.errors import InputError
from twincar_edge.training.machine import choose_device, limited_threads, memory_advice, uses_bf16

CPU = torch.device("cpu")


def test_missing_devices_are_errors() -> None:
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(InputError, match="unknown device 'tpu': use auto, cpu or cuda"):
        choose_device("tpu")
    if not torch.cuda.is_available():
        assert choose_device("auto").type == "cpu"
        with pytest.raises(InputError, match="PyTorch finds no GPU"):
            choose_device("cuda")


def test_bfloat16_is_the_default_only_with_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    for capabilities, expected in (({"avx512_bf16": True}, False), ({"amx_bf16": True}, True)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False)
        assert uses_bf16("auto", CPU, (64, 64)) is expected
        assert uses_bf16("bf16", CPU, (64, 64)) and not uses_bf16("fp32", CPU, (64, 64))
    with pytest.raises(InputError, match="unknown training precision 'fp16': use auto, fp32, bf16"):
        uses_bf16("fp16", CPU, (64, 64))


def test_bfloat16_with_amx_rejects_crops_with_wrong_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    assert not uses_bf16("auto", CPU, (64, 32))
    with pytest.raises(
        InputError, match=r"cannot train on crops of 32 pixels in bf16 on this CPU: .*`precision='fp32'`"
    ):
        uses_bf16("bf16", CPU, (64, 32))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": False}, raising=False)
    assert uses_bf16("bf16", CPU, (32, 32))


def test_thread_limits_are_restored() -> None:
    before = torch.get_num_threads()
    with limited_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_running_out_of_memory_suggests_a_smaller_batch() -> None:
    advice = "ran out of memory with a batch size of 64: try `batch_size=32`"
    with pytest.raises(InputError, match=f"the machine {advice}"), memory_advice(64):
        torch.empty(2**60, dtype=torch.uint8)  # more than any machine has
    with pytest.raises(InputError, match=f"the GPU {advice}"), memory_advice(64):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="shape"), memory_advice(64):
        raise RuntimeError("shape mismatch")
