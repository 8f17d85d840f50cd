"""What of the machine a training uses is what was asked for, and what it lacks is said in one line."""

from __future__ import annotations

import pytest
import torch

from twincar_edge.errors import InputError
from twincar_edge.training.machine import choose_device, limited_threads, memory_advice, uses_bf16

CPU = torch.device("cpu")


def test_devices_that_are_not_there_say_so() -> None:
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(InputError, match="no device 'tpu': use auto, cpu or cuda"):
        choose_device("tpu")
    if not torch.cuda.is_available():
        assert choose_device("auto").type == "cpu"
        with pytest.raises(InputError, match="PyTorch finds no GPU"):
            choose_device("cuda")


def test_bfloat16_is_chosen_only_where_the_processor_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    for capabilities, expected in (({"avx512_bf16": True}, False), ({"amx_bf16": True}, True)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False)
        assert uses_bf16("auto", CPU, (64, 64)) is expected
        assert uses_bf16("bf16", CPU, (64, 64)) and not uses_bf16("fp32", CPU, (64, 64))
    with pytest.raises(InputError, match="no precision 'fp16' to train in: use auto, fp32, bf16"):
        uses_bf16("fp16", CPU, (64, 64))


def test_matrix_units_are_not_given_crops_whose_gradients_they_get_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    assert not uses_bf16("auto", CPU, (64, 32))
    with pytest.raises(InputError, match=r"this CPU cannot train on crops of 32 pixels in bf16: .*`precision='fp32'`"):
        uses_bf16("bf16", CPU, (64, 32))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": False}, raising=False)
    assert uses_bf16("bf16", CPU, (32, 32))


def test_threads_are_bounded_and_given_back() -> None:
    before = torch.get_num_threads()
    with limited_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_running_out_of_memory_suggests_a_smaller_batch() -> None:
    advice = "has too little memory for batches of 64: try `batch_size=32`"
    with pytest.raises(InputError, match=f"the machine {advice}"), memory_advice(64):
        torch.empty(2**60, dtype=torch.uint8)  # more than any machine has
    with pytest.raises(InputError, match=f"the GPU {advice}"), memory_advice(64):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="shape"), memory_advice(64):
        raise RuntimeError("shape mismatch")
