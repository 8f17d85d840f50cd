"""Opens an exported model on an execution provider, and verifies that its graph matches its manifest."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twincar_edge.enrolled import ENROLLED_KEY, Enrolled, parse_enrolled
from twincar_edge.errors import ModelError
from twincar_edge.golden import GOLDEN_KEY
from twincar_edge.machine import this_machine
from twincar_edge.manifest import METADATA_KEY, Manifest, parse_manifest
from twincar_edge.model_file import read_model_file
from twincar_edge.prototypes import Prototypes
from twincar_edge.runtime.inference.contract import check_contract, open_prototypes
from twincar_edge.runtime.inference.engine import Engine, open_engine
from twincar_edge.runtime.inference.head import Head, read_head
from twincar_edge.runtime.inference.providers import AUTO
from twincar_edge.trust import ANY, Trust


@dataclass(frozen=True)
class ModelSession:
    """An exported model, open on one provider.

    Attributes:
        model: the file.
        manifest: the file's metadata.
        sha256: the file's digest, which identifies it in events and reports.
        ep: the short name of the provider that runs it.
        threads: threads within one inference.
        engine: runs the graph.
        prototypes: the mean embedding of each class; None if the file has none.
        enrolled: the classes that were enrolled after the export; None without such classes.
        head: the weights after the last feature map; None if the file does not output that map.
        golden: whether the file has golden inputs.
    """

    model: Path
    manifest: Manifest
    sha256: str
    ep: str
    threads: int
    engine: Engine = field(repr=False)
    prototypes: Prototypes | None = field(default=None, repr=False)
    enrolled: Enrolled | None = field(default=None, repr=False)
    head: Head | None = field(default=None, repr=False)
    golden: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of all classes in the order of `judge`: the graph's outputs, then the enrolled ones."""
        return self.manifest.classes + (() if self.enrolled is None else self.enrolled.names)

    def run(self, batch_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits, float32 [N, classes], for a batch from `prepare_batch`, uint8 [N, H, W, 3].

        Raises:
            ModelError: the provider failed, or returned numbers that are not finite.
        """
        if len(batch_nhwc) == 0:
            return np.empty((0, len(self.manifest.classes)), np.float32)
        return self._finite("logits", self.engine.run(batch_nhwc))

    def embed(self, batch_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return embeddings, float32 [N, D]: the inputs of the network's last layer.

        Raises:
            ModelError: the file has no embedding output, the provider failed, or returned numbers that are not finite.
        """
        _, embeddings = self.outputs(batch_nhwc)
        if embeddings is None:
            raise ModelError(f"{self.model} has no embedding output: export it again")
        return embeddings

    def judge(self, batch_nhwc: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Return logits, float32 [N, classes], and the familiarity of each image, float32 [N], in one run.

        The logits cover all `classes`, including enrolled ones. The familiarity is None if the file has no prototypes.

        Raises:
            ModelError: see `run`.
        """
        if self.prototypes is None:
            return self.run(batch_nhwc), None
        if len(batch_nhwc) == 0:
            return np.empty((0, len(self.classes)), np.float32), np.empty(0, np.float32)
        return self.judge_outputs(*self.outputs(batch_nhwc))

    def judge_outputs(
        self, logits: NDArray[np.float32], embeddings: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Return the same as `judge`, from the outputs of an earlier run."""
        if self.prototypes is None:
            return logits, None
        assert embeddings is not None, "a manifest with familiarity names an embedding"
        familiarity = self.prototypes.familiarity(embeddings)
        if self.enrolled is None:
            return logits, familiarity
        assert self.manifest.familiarity is not None, "a file with prototypes has thresholds"
        leads = self.enrolled.leads(embeddings, familiarity)
        year = self.manifest.familiarity.thresholds.year
        return self.enrolled.extend(logits, familiarity, leads, self.manifest.temperature, year)

    def outputs(self, batch_nhwc: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Return logits, float32 [N, classes], and embeddings, float32 [N, D], of at least one image, in one run.

        The embeddings are None if the file has no such output.

        Raises:
            ModelError: see `run`.
        """
        if self.manifest.embedding is None:
            return self.run(batch_nhwc), None
        names = [self.engine.session.get_outputs()[0].name, self.manifest.embedding]
        logits, embeddings = self.engine.outputs(batch_nhwc, names)
        return self._finite("logits", logits), self._finite("embeddings", embeddings.astype(np.float32, copy=False))

    def features(
        self, batch_nhwc: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.float32] | None]:
        """Return logits, embeddings, and the last feature map, float32 [N, C, h, w], in one run.

        Outputs that the file does not have are None.

        Raises:
            ModelError: see `run`.
        """
        names = [output.name for output in self.engine.session.get_outputs()]
        found = zip(names, self.engine.outputs(batch_nhwc, names), strict=True)
        logits, *rest = (self._finite(name, values.astype(np.float32, copy=False)) for name, values in found)
        features = None if self.manifest.head is None else rest.pop()
        return logits, rest[0] if rest else None, features

    def _finite(self, what: str, found: NDArray[np.float32]) -> NDArray[np.float32]:
        if not np.isfinite(found).all():
            raise ModelError(
                f"{self.model} returned {what} that are not finite on {self.ep}: run `twincar-edge evaluate` on it"
            )
        return found


def open_session(
    model: Path, *, ep: str = AUTO, threads: int | None = None, spinning: bool = False, trust: Trust = ANY
) -> ModelSession:
    """Open an exported model.

    Args:
        model: an .onnx file that `twincar-edge export` wrote.
        ep: a provider's short name, or `auto` for the best usable one.
        threads: threads within one inference; None for all usable cores.
        spinning: let idle threads spin. This is faster in a tight loop, but wastes a core at a camera's frame rate.
        trust: which files may be opened.

    Raises:
        InputError: the provider does not exist, or ONNX Runtime chose another one.
        MissingExtraError: the provider, or ONNX Runtime itself, is not installed.
        ModelError: the file is not trusted, is not a model of this project, is corrupt, does not match its digest, or
            its graph does not match its manifest.
    """
    file = read_model_file(model)
    trust.check(file)
    file.warn_without_digest()
    manifest = parse_manifest(file.metadata.get(METADATA_KEY), str(model))
    entries = {}
    if manifest.quantization is not None and not manifest.quantization.reduce_range and not this_machine().has_vnni:
        # Full 8-bit weights overflow the fast kernels of x86 CPUs without VNNI. These kernels are exact, but take twice
        # as long.
        entries["session.x64quantprecision"] = "1"
    engine = open_engine(model, ep=ep, threads=threads, spinning=spinning, entries=entries, data=file.data)
    check_contract(model, manifest, engine.session)
    prototypes = None if manifest.familiarity is None else open_prototypes(file, manifest, engine.session)
    text = file.metadata.get(ENROLLED_KEY)
    enrolled = None if text is None else parse_enrolled(text, manifest, prototypes, str(model))
    head = read_head(file, manifest, engine.session)
    golden = GOLDEN_KEY in file.metadata
    return ModelSession(
        model, manifest, file.sha256, engine.ep, engine.threads, engine, prototypes, enrolled, head, golden
    )
