"""Counts the nodes of a model that each provider runs. This proves which provider is used, and how much falls back."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twincar_edge.errors import ModelError
from twincar_edge.runtime.inference.engine import open_engine
from twincar_edge.runtime.inference.providers import AUTO, PROVIDERS

_KERNEL_EVENT = "_kernel_time"  # suffix of the profile events for node runs


def nodes_by_provider(
    model: Path, batch_nhwc: NDArray[np.uint8], *, ep: str = AUTO, threads: int | None = None
) -> dict[str, int]:
    """Run one profiled inference in a separate session, and count the nodes that each provider ran.

    Counts refer to the optimized graph: a provider that fuses the whole graph, such as OpenVINO and TensorRT, runs one
    node, and nodes that were folded into constants are not counted.

    Args:
        model: an .onnx file that `twincar-edge export` wrote.
        batch_nhwc: any input of the model, uint8 [N, H, W, 3].
        ep: a provider's short name, or `auto`.
        threads: threads within one inference; None for all usable cores.

    Returns:
        The number of nodes by the provider's short name, largest first.

    Raises:
        TwincarError: see `open_engine` and `Engine.run`.
        ModelError: ONNX Runtime did not write a readable profile.
    """
    with tempfile.TemporaryDirectory(prefix="twincar-edge-") as folder:
        engine = open_engine(model, ep=ep, threads=threads, profile=Path(folder) / "profile")
        engine.run(batch_nhwc)
        try:
            events: list[dict[str, Any]] = json.loads(Path(engine.session.end_profiling()).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"cannot read ONNX Runtime's profile of {model}: {error}") from error
    short_names = {provider.ort_name: name for name, provider in PROVIDERS.items()}
    counts = Counter(
        short_names.get(provider, provider)
        for event in events
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith(_KERNEL_EVENT)
        if (provider := event.get("args", {}).get("provider"))
    )
    return dict(counts.most_common())
