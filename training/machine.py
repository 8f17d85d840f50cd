"""The machine resources of a training run: device, threads, precision, random state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from twincar_edge.arguments import require_at_least
from twincar_edge.errors import InputError, Parameter
from twincar_edge.training.data import DEFAULT_CACHE_MB

PRECISIONS = ("auto", "fp32", "bf16")
# On CPUs with AMX, torch 2.14 computes wrong bfloat16 gradients for a strided 3x3 convolution of a 1x1 feature map: it
# returns uninitialized memory, values up to 1e32 or NaN. A backbone of stride 32 has no such map for inputs of 17
# pixels or more; 33 pixels are enough for a backbone of stride 64 too.
AMX_SMALLEST_SIDE = 33
_NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"


@dataclass(frozen=True)
class Machine:
    """The machine resources that training may use. They are not part of the recipe.

    `device` is "auto" (CUDA if there is a GPU), "cpu" or "cuda". `threads` limits the CPU threads; 0 leaves the choice
    to PyTorch. On a machine with other load, 1 can be faster than all cores. `cache_mb` limits the memory for decoded
    images. `precision` is "fp32", "bf16" (autocast), or "auto": bf16 on GPUs that support it and on CPUs with AMX.
    `compile` uses torch.compile, which compiles for about a minute first.
    """

    device: str = "auto"
    threads: int = 0
    cache_mb: int = DEFAULT_CACHE_MB
    precision: str = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        require_at_least(0, threads=self.threads, cache_mb=self.cache_mb)


def choose_device(name: str) -> torch.device:
    """Return the torch device for `Machine.device`.

    Raises:
        InputError: unknown name, or CUDA was requested and PyTorch finds no GPU.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"unknown device {name!r}: use auto, cpu or cuda")
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise InputError(
            "cuda was requested, but PyTorch finds no GPU: check nvidia-smi, or use ", Parameter("device", "cpu")
        )
    return torch.device("cuda" if found and name != "cpu" else "cpu")


def uses_bf16(precision: str, device: torch.device, smallest_crop_wh: tuple[int, int]) -> bool:
    """Return whether training computes in bfloat16 on this device, for `Machine.precision`.

    "auto" chooses bfloat16 only where the hardware certainly gains from it. Emulated, it is slower; on x86 without AMX,
    a depthwise network was measured from 14% slower to 17% faster, depending on the crop size. With AMX, "auto" also
    requires crops of `AMX_SMALLEST_SIDE` pixels or more.

    Args:
        precision: "auto", "fp32" or "bf16".
        device: the training device.
        smallest_crop_wh: the smallest size of the training crops, in pixels.

    Raises:
        InputError: unknown name, or bfloat16 was requested where its gradients are wrong.
    """
    if precision not in PRECISIONS:
        raise InputError(f"unknown training precision {precision!r}: use {', '.join(PRECISIONS)}")
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
            f"cannot train on crops of {side} pixels in bf16 on this CPU: PyTorch computes wrong gradients with AMX "
            "for feature maps of one pixel; use ",
            Parameter("precision", "fp32"),
            f", or crops of {AMX_SMALLEST_SIDE} pixels or more",
        )
    return side >= AMX_SMALLEST_SIDE


@contextmanager
def memory_advice(batch_size: int) -> Iterator[None]:
    """Convert an out-of-memory error in the block to one line that suggests a smaller batch or training size.

    Raises:
        InputError: the block ran out of memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # on a CPU, torch reports it as a plain RuntimeError
        where = "GPU" if isinstance(error, torch.OutOfMemoryError) else "machine"
        if where == "machine" and not isinstance(error, MemoryError) and _NO_MEMORY not in str(error):
            raise
        raise InputError(
            f"the {where} ran out of memory with a batch size of {batch_size}: try ",
            Parameter("batch_size", max(2, batch_size // 2)),
            ", or a smaller ",
            Parameter("train_size"),
        ) from error


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the seed of one epoch, independent of those of other epochs and seeds. Epoch 0 is the initialization."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch for the block, and restore the random state afterwards."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):  # without `devices`, several GPUs warn
        torch.manual_seed(epoch_seed(seed, 0))
        yield


@contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """Limit the CPU threads of torch and OpenCV in the block; 0 does not change them."""
    before, before_cv2 = torch.get_num_threads(), cv2.getNumThreads()
    if count > 0:
        torch.set_num_threads(count)
        cv2.setNumThreads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        cv2.setNumThreads(before_cv2)
