"""Which provider ran how many of a model's nodes: the proof that one is really used, and how much falls back."""

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

_RAN = "_kernel_time"  # how ONNX Runtime ends the name of an event that is a node's run


def nodes_by_provider(
    model: Path, batch_nhwc: NDArray[np.uint8], *, ep: str = AUTO, threads: int | None = None
) -> dict[str, int]:
    """Run one inference in a session of its own, profiled, and count the nodes that each provider ran.

    Counted is what really runs, after optimization: a provider that fuses the whole graph, as OpenVINO and TensorRT
    do, ran one node. Nodes that were folded into constants run nowhere.

    Args:
        model: an .onnx file that `twincar-edge export` wrote.
        batch_nhwc: uint8 [N, H, W, 3], any input of the model's.
        ep: a provider's short name, or `auto`.
        threads: threads within one inference; None for all cores that this process may use.

    Returns:
        Nodes by the provider's short name, most first.

    Raises:
        TwincarError: as `open_engine` and `Engine.run`.
        ModelError: ONNX Runtime wrote no profile that can be read.
    """
    with tempfile.TemporaryDirectory(prefix="twincar-edge-") as folder:
        engine = open_engine(model, ep=ep, threads=threads, profile=Path(folder) / "profile")
        engine.run(batch_nhwc)
        try:
            events: list[dict[str, Any]] = json.loads(Path(engine.session.end_profiling()).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"ONNX Runtime wrote no profile of {model} that can be read: {error}") from error
    short = {provider.ort_name: name for name, provider in PROVIDERS.items()}
    found = Counter(
        short.get(provider, provider)
        for event in events
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith(_RAN)
        if (provider := event.get("args", {}).get("provider"))
    )
    return dict(found.most_common())
