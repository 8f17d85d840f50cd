"""Opens candidate graphs in the same way as deployed files, so that measurements apply to deployment."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from twincar_edge.export.graph import EMBEDDING, has_embedding, to_bytes
from twincar_edge.manifest import HeadRecord, Manifest, Precision, QuantizationRecord
from twincar_edge.runtime.inference.session import ModelSession, open_session
from twincar_edge.runtime.timing import Schedule, Subject, measure

SCHEDULE = Schedule(warmup=5, rounds=15, per_round=4)


class TrialSession:
    """Opens graphs on ONNX Runtime's CPU provider, through temporary files in one folder."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Take the folder for temporary files, and the manifest of the FP32 file."""
        self._folder = folder
        self._manifest = manifest

    def open(
        self,
        graph: onnx.ModelProto,
        precision: Precision,
        quantization: QuantizationRecord | None = None,
        head: HeadRecord | None = None,
    ) -> ModelSession:
        """Open a graph.

        Args:
            graph: the graph.
            precision: its precision.
            quantization: how an INT8 graph was quantized; the session chooses kernels that do not saturate by it.
            head: the record of the graph's head, if it has the `features` output.

        Raises:
            ModelError: ONNX Runtime cannot open the graph.
            OSError: the temporary file cannot be written.
        """
        manifest = self._manifest.model_copy(
            update={
                "precision": precision,
                "quantization": quantization,
                "embedding": EMBEDDING if has_embedding(graph) else None,
                "head": head,
            }
        )
        file = self._folder / f"{precision}.onnx"
        file.write_bytes(to_bytes(graph, manifest))
        return open_session(file, ep="cpu")

    def latencies_ms(self, sessions: Mapping[str, ModelSession]) -> dict[str, float]:
        """Return each session's median latency at batch 1, in ms, measured in interleaved rounds.

        Raises:
            ModelError: inference fails.
        """
        width, height = self._manifest.preprocess.size_wh
        image_nhwc: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
        subjects = {
            name: Subject(pre=lambda _number: image_nhwc, infer=session.run, post=lambda _logits: None)
            for name, session in sessions.items()
        }
        medians = {}
        for name, samples in measure(subjects, SCHEDULE).items():
            if isinstance(samples, Exception):
                raise samples
            medians[name] = statistics.median(sample.infer_ms for sample in samples)
        return medians
