"""Distributed data-parallel training: each process takes its part of every batch, and all take the same steps.

`torchrun --nproc-per-node=N -m twincar_edge train …` starts the processes; Hugging Face's accelerate joins them. A
single process does not need accelerate.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from twincar_edge.errors import require

if TYPE_CHECKING:  # the command calls is_main_process() before it knows whether torch is installed
    import torch
    from accelerate import Accelerator
    from torch import Tensor, nn


class Processes(Protocol):
    """The processes of a training run, as one of them sees it. `rank` counts from 0; rank 0 writes the files."""

    rank: int
    count: int

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model in a wrapper that averages its gradients over the processes."""

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over the processes; `values` is on the training device."""

    def concatenate(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the rows of all processes in the order of their ranks. A process may have none."""

    def wait(self) -> None:
        """Block until all processes have called this (a barrier)."""


class SingleProcess:
    """Training in one process."""

    rank, count = 0, 1

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model as it is."""
        return model

    def total(self, values: Tensor) -> Tensor:
        """Return the values as they are."""
        return values

    def concatenate(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the rows as they are."""
        return rows

    def wait(self) -> None:
        """Return at once."""


class ProcessGroup:
    """Several processes, joined by accelerate over torch.distributed."""

    def __init__(self, accelerator: Accelerator) -> None:
        """Take the accelerator, which has the process group and the device."""
        self._accelerator = accelerator
        self.rank = accelerator.process_index
        self.count = accelerator.num_processes

    @property
    def device(self) -> torch.device:
        """Return this process's device."""
        device: torch.device = self._accelerator.device
        return device

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model in a wrapper that averages its gradients over the processes.

        On GPUs, batch normalization is synchronized over the whole batch. PyTorch does not support that on CPUs, where
        each process normalizes by its own part.
        """
        if self.device.type == "cuda":
            from timm.layers.norm_act import convert_sync_batchnorm

            model = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        prepared: nn.Module = self._accelerator.prepare_model(model)
        return prepared

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over the processes."""
        summed: Tensor = self._accelerator.reduce(values, reduction="sum")
        return summed

    def concatenate(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the rows of all processes in the order of their ranks."""
        from accelerate.utils import gather_object

        return np.concatenate(gather_object([rows]))

    def wait(self) -> None:
        """Block until all processes have called this."""
        self._accelerator.wait_for_everyone()


def join_processes(device: torch.device) -> tuple[Processes, torch.device]:
    """Join the process group, if torchrun started one.

    Args:
        device: the type of device to train on.

    Returns:
        The processes, and the device of this one.

    Raises:
        MissingExtraError: there are several processes and accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return SingleProcess(), device
    accelerate: Any = require("accelerate", "train")
    group = ProcessGroup(accelerate.Accelerator(cpu=device.type == "cpu"))
    return group, group.device


def rank_slice(processes: Processes, count: int) -> slice:
    """Return this process's share of `count` items: equal shares (to within one item), in the order of the ranks."""
    return slice(count * processes.rank // processes.count, count * (processes.rank + 1) // processes.count)


def is_main_process() -> bool:
    """Return whether this process writes output: it is the only one, or rank 0 of torchrun's."""
    return int(os.environ.get("RANK", "0")) == 0
