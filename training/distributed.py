"""The processes that train one model together: each takes its part of every batch, and all take the same steps.

`torchrun --nproc-per-node=N -m twincar_edge train …` starts them; Hugging Face's accelerate joins them. A training that
is alone needs none of it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from twincar_edge.errors import require

if TYPE_CHECKING:  # the command asks which process speaks before it knows whether torch is there
    import torch
    from accelerate import Accelerator
    from torch import Tensor, nn


class Processes(Protocol):
    """The processes of a training, seen from one of them; `rank` counts from 0, which writes the files."""

    rank: int
    count: int

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model such that its gradients become the mean over the processes."""

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over the processes of `values`, one or more numbers on the training's device."""

    def concatenate(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the rows of all processes, those of rank 0 first. A process may have none."""

    def wait(self) -> None:
        """Return when all processes have come here."""


class Alone:
    """One process, which is all there is."""

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


class Together:
    """Several processes, joined by accelerate over PyTorch's own torch.distributed."""

    def __init__(self, accelerator: Accelerator) -> None:
        """Take the accelerator, which knows the process group and the device."""
        self._accelerator = accelerator
        self.rank = accelerator.process_index
        self.count = accelerator.num_processes

    @property
    def device(self) -> torch.device:
        """Return this process's device."""
        device: torch.device = self._accelerator.device
        return device

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model such that its gradients become the mean over the processes.

        On GPUs, batch normalization then counts over the whole batch too; on CPUs PyTorch cannot do that, and each
        process normalizes by its own part.
        """
        if self.device.type == "cuda":
            from timm.layers.norm_act import convert_sync_batchnorm

            model = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        prepared: nn.Module = self._accelerator.prepare_model(model)
        return prepared

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over the processes of `values`."""
        summed: Tensor = self._accelerator.reduce(values, reduction="sum")
        return summed

    def concatenate(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the rows of all processes, those of rank 0 first."""
        from accelerate.utils import gather_object

        return np.concatenate(gather_object([rows]))

    def wait(self) -> None:
        """Return when all processes have come here."""
        self._accelerator.wait_for_everyone()


def join_processes(device: torch.device) -> tuple[Processes, torch.device]:
    """Join the processes that torchrun has started, if it has.

    Args:
        device: the kind of device that is asked for.

    Returns:
        The processes, and this one's own device.

    Raises:
        MissingExtraError: there are several and accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Alone(), device
    accelerate: Any = require("accelerate", "train")
    together = Together(accelerate.Accelerator(cpu=device.type == "cpu"))
    return together, together.device


def own_part(processes: Processes, count: int) -> slice:
    """Return which of `count` things this process takes: the parts are alike, and in the order of the ranks."""
    return slice(count * processes.rank // processes.count, count * (processes.rank + 1) // processes.count)


def is_main_process() -> bool:
    """Return whether this process speaks for all: the only one, or torchrun's first."""
    return int(os.environ.get("RANK", "0")) == 0
