"""What of the machine a training uses: device, threads, arithmetic, random state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from twincar_edge.errors import InputError, Parameter
from twincar_edge.training.data import DEFAULT_CACHE_MB

PRECISIONS = ("auto", "fp32", "bf16")
# On a CPU with AMX, the bfloat16 gradient that torch 2.14 gives a strided 3x3 convolution over a map of one pixel holds
# memory that nobody wrote: numbers up to 1e32, or NaN. A backbone that halves its input five times meets no such map
# from 17 pixels on; twice that leaves room for one that halves it once more.
AMX_SMALLEST_SIDE = 33
_NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"


@dataclass(frozen=True)
class Machine:
    """What of the machine a training may use; none of it changes what a recipe means.

    `device` is "auto" (CUDA where there is a GPU), "cpu" or "cuda". `threads` bounds the CPU threads, 0 leaves
    PyTorch's choice; on a machine that does other work too, 1 can be faster than all cores. `cache_mb` bounds the
    memory for decoded images. `precision` is "fp32", "bf16" (autocast), or "auto": bf16 on GPUs that have it, and on
    CPUs with matrix units for it. `compile` lets torch.compile make the model faster, after a minute of compiling.
    """

    device: str = "auto"
    threads: int = 0
    cache_mb: int = DEFAULT_CACHE_MB
    precision: str = "auto"
    compile: bool = False


def choose_device(name: str) -> torch.device:
    """Return the device of `Machine.device`.

    Raises:
        InputError: the name is none of these, or CUDA was asked for and PyTorch finds no GPU.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"no device {name!r}: use auto, cpu or cuda")
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise InputError(
            "cuda was requested, but PyTorch finds no GPU: see nvidia-smi, or use ", Parameter("device", "cpu")
        )
    return torch.device("cuda" if found and name != "cpu" else "cpu")


def uses_bf16(precision: str, device: torch.device, smallest_crop_wh: tuple[int, int]) -> bool:
    """Return whether a training computes in bfloat16 on this device, for `Machine.precision`.

    "auto" takes it where the hardware is sure to gain: emulated it only costs, and on x86 without matrix units (AMX) a
    depthwise network was measured between 14% slower and 17% faster, by the size of the crops. It does not where a
    backbone may come down to maps of one pixel: see `AMX_SMALLEST_SIDE`.

    Args:
        precision: "auto", "fp32" or "bf16".
        device: where to train.
        smallest_crop_wh: the smallest size of the training crops, in pixels.

    Raises:
        InputError: the name is none of these, or bfloat16 was asked for where it gives wrong gradients.
    """
    if precision not in PRECISIONS:
        raise InputError(f"no precision {precision!r} to train in: use {', '.join(PRECISIONS)}")
    if precision == "fp32":
        return False
    if device.type == "cuda":
        return precision == "bf16" or bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    if not capabilities.get("amx_bf16"):
        return precision == "bf16"
    side = min(smallest_crop_wh)
    if precision == "bf16" and side < AMX_SMALLEST_SIDE:
        raise InputError(
            f"this CPU cannot train on crops of {side} pixels in bf16: its matrix units give wrong gradients for maps "
            "of one pixel; use ",
            Parameter("precision", "fp32"),
            f", or crops of {AMX_SMALLEST_SIDE} pixels or more",
        )
    return side >= AMX_SMALLEST_SIDE


@contextmanager
def memory_advice(batch_size: int) -> Iterator[None]:
    """Turn running out of memory inside the block into one line that says what to try.

    Raises:
        InputError: instead of the library's error.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # on a CPU, torch reports it as a plain RuntimeError
        where = "GPU" if isinstance(error, torch.OutOfMemoryError) else "machine"
        if where == "machine" and not isinstance(error, MemoryError) and _NO_MEMORY not in str(error):
            raise
        raise InputError(
            f"the {where} has too little memory for batches of {batch_size}: try ",
            Parameter("batch_size", max(2, batch_size // 2)),
            ", or a smaller ",
            Parameter("train_size"),
        ) from error


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the seed of one epoch: other epochs and other seeds share nothing with it. Epoch 0 is the start."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch for the block, and give the caller its own random state back."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):  # named, else several GPUs are a warning
        torch.manual_seed(epoch_seed(seed, 0))
        yield


@contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """Bound the CPU threads of torch and OpenCV for the block; 0 leaves them."""
    before, before_cv2 = torch.get_num_threads(), cv2.getNumThreads()
    if count > 0:
        torch.set_num_threads(count)
        cv2.setNumThreads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        cv2.setNumThreads(before_cv2)
