"""Opens an ONNX file on an execution provider, and proves that it is the model and the provider asked for.

The one place that opens sessions of ONNX Runtime: `open_engine` for any file, `open_session` for an exported model.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twincar_edge.cores import usable_cores
from twincar_edge.enrolled import ENROLLED_KEY, Enrolled, parse_enrolled
from twincar_edge.errors import InputError, ModelError, Parameter
from twincar_edge.files import is_file
from twincar_edge.machine import this_machine
from twincar_edge.manifest import METADATA_KEY, Manifest, parse_manifest
from twincar_edge.model_file import read_model_file
from twincar_edge.prototypes import Prototypes
from twincar_edge.runtime.inference.contract import check_contract, open_prototypes
from twincar_edge.runtime.inference.head import Head, read_head
from twincar_edge.runtime.inference.providers import AUTO, choose_provider, explain_auto, load_onnxruntime
from twincar_edge.runtime.inference.refusals import first_line, why_not_opened

logger = logging.getLogger(__name__)

SPIN_US = "100"  # bridges the gaps within an inference; ten times as long gains nothing more

MOST_THREADS = 1024  # they are all started when a model is opened; ONNX Runtime knows no limit and may hang at it


@dataclass(frozen=True)
class Engine:
    """Any ONNX file, open on one provider. `open_session` and `open_detector` know what may be asked of theirs.

    Attributes:
        model: the file.
        ep: the provider that is really used, by its short name.
        threads: threads within one inference.
        session: ONNX Runtime's.
    """

    model: Path
    ep: str
    threads: int
    session: Any = field(repr=False)
    _errors: tuple[type[Exception], ...] = field(repr=False)

    def run(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Return the graph's first output for its first input; may be called from several threads at once.

        Raises:
            ModelError: the provider failed.
        """
        return self.outputs(batch, [self.session.get_outputs()[0].name])[0]

    def outputs(self, batch: NDArray[Any], names: Sequence[str]) -> list[NDArray[np.float32]]:
        """Return the named outputs for the graph's first input, in one run.

        Raises:
            ModelError: the provider failed.
        """
        try:
            found: list[NDArray[np.float32]] = self.session.run(names, {self.session.get_inputs()[0].name: batch})
        except self._errors as error:
            raise ModelError(f"{self.model} failed on {self.ep}: {first_line(error)}") from error
        return found


def open_engine(
    model: Path,
    *,
    ep: str = AUTO,
    threads: int | None = None,
    spinning: bool = False,
    entries: Mapping[str, str] | None = None,
    profile: Path | None = None,
    data: bytes | None = None,
) -> Engine:
    """Open an ONNX file and prove that the provider asked for is the one that runs.

    Args:
        model: the file; what is in it is for the caller to check.
        ep: a provider's short name, or `auto` for the best usable one.
        threads: threads within one inference; None for all cores that this process may use.
        spinning: let idle threads spin on. Faster in a tight loop; at a camera's pace it burns a core for nothing.
        entries: further entries of ONNX Runtime's session configuration.
        profile: where ONNX Runtime writes what each node did, as `nodes_by_provider` reads it; it adds to the name.
        data: what was read of the file already; it is then not read again.

    Raises:
        InputError: no such file or provider, too many threads, or ONNX Runtime cannot use the provider, or gave another
            than was asked for.
        MissingExtraError: the provider, or ONNX Runtime itself, is not installed.
        ModelError: ONNX Runtime cannot open the file.
    """
    ort = load_onnxruntime()
    name, provider = choose_provider(ep)
    threads = threads or usable_cores()
    if threads > MOST_THREADS:
        raise InputError(f"{threads} threads are more than a machine can start: {MOST_THREADS} at most")
    if not is_file(model):
        raise InputError(f"cannot read {model}: there is no such file")
    errors = ort_errors(ort)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    for key, value in _idling(ort, spinning).items():
        options.add_session_config_entry(key, value)
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    try:
        provider.attach(ort, options, threads)
    except errors as error:
        raise InputError(
            f"{name} cannot be used: {first_line(error)}; repair its installation, or use ", Parameter("ep", "cpu")
        ) from error
    try:
        # WeightBiasQuantization quantizes again, at load, what the INT8 recipe left in float on purpose: what the file
        # says must be what runs. The fallback would print to standard output, and open it without any of this.
        session = ort.InferenceSession(
            model.read_bytes() if data is None else data,
            options,
            disabled_optimizers=["WeightBiasQuantization"],
            enable_fallback=0,
        )
    except OSError as error:
        raise InputError(f"cannot read {model}: {error.strerror}") from error
    except errors as error:
        raise ModelError(f"{model} {why_not_opened(error, name)}") from error
    _check_names(model, session)
    actual = session.get_providers()[0]
    if actual != provider.ort_name:
        raise InputError(
            f"{name} was requested, but ONNX Runtime silently chose {actual}: repair its installation, or use ",
            Parameter("ep", "cpu"),
        )
    if ep == AUTO:
        logger.info(explain_auto())
    return Engine(model, name, threads, session, errors)


@dataclass(frozen=True)
class ModelSession:
    """An exported model, open on one provider.

    Attributes:
        model: the file.
        manifest: what the file says of itself.
        sha256: its digest, by which events and reports name it.
        ep: the provider that is really used, by its short name.
        threads: threads within one inference.
        engine: what runs the graph, whatever the manifest says of it.
        prototypes: the mean embedding of each class; None where the file has none.
        enrolled: the classes that were enrolled after the export; None where there are none.
        head: the weights behind the last feature map; None where the file does not give that map.
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

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of all classes that `judge` answers with: the graph's outputs, then the enrolled ones."""
        return self.manifest.classes + (() if self.enrolled is None else self.enrolled.names)

    def run(self, batch_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits, float32 [N, classes], for uint8 [N, H, W, 3] that `prepare_batch` made.

        Raises:
            ModelError: the provider failed, or gave numbers that are not finite.
        """
        if len(batch_nhwc) == 0:
            return np.empty((0, len(self.manifest.classes)), np.float32)
        return self._finite("logits", self.engine.run(batch_nhwc))

    def embed(self, batch_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return embeddings, float32 [N, D]: the features that the last layer of the network sees.

        Raises:
            ModelError: the file has no embedding output, the provider failed, or gave numbers that are not finite.
        """
        _, embeddings = self.outputs(batch_nhwc)
        if embeddings is None:
            raise ModelError(f"{self.model} has no embedding output: export it again")
        return embeddings

    def judge(self, batch_nhwc: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Return logits, float32 [N, classes], and how familiar each image is, float32 [N], in one run.

        The logits are of all `classes`, the enrolled ones too. The familiarity is None where the file has no
        prototypes.

        Raises:
            ModelError: as `run`.
        """
        if self.prototypes is None:
            return self.run(batch_nhwc), None
        if len(batch_nhwc) == 0:
            return np.empty((0, len(self.classes)), np.float32), np.empty(0, np.float32)
        return self.judge_outputs(*self.outputs(batch_nhwc))

    def judge_outputs(
        self, logits: NDArray[np.float32], embeddings: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Return what `judge` does, for the outputs of a run that was made already."""
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
        """Return logits, float32 [N, classes], and embeddings, float32 [N, D], in one run, for one image or more.

        The embeddings are None where the file has no such output.

        Raises:
            ModelError: as `run`.
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

        What the file does not give is None.

        Raises:
            ModelError: as `run`.
        """
        names = [output.name for output in self.engine.session.get_outputs()]
        found = zip(names, self.engine.outputs(batch_nhwc, names), strict=True)
        logits, *rest = (self._finite(name, values.astype(np.float32, copy=False)) for name, values in found)
        features = None if self.manifest.head is None else rest.pop()
        return logits, rest[0] if rest else None, features

    def _finite(self, what: str, found: NDArray[np.float32]) -> NDArray[np.float32]:
        if not np.isfinite(found).all():
            raise ModelError(
                f"{self.model} gave {what} that are not finite on {self.ep}: run `twincar-edge evaluate` on it"
            )
        return found


def open_session(model: Path, *, ep: str = AUTO, threads: int | None = None, spinning: bool = False) -> ModelSession:
    """Open an exported model.

    Args:
        model: an .onnx file that `twincar-edge export` wrote.
        ep: a provider's short name, or `auto` for the best usable one.
        threads: threads within one inference; None for all cores that this process may use.
        spinning: let idle threads spin on. Faster in a tight loop; at a camera's pace it burns a core for nothing.

    Raises:
        InputError: no such provider, or ONNX Runtime gave another one than was asked for.
        MissingExtraError: the provider, or ONNX Runtime itself, is not installed.
        ModelError: the file is not ours, is corrupt, does not match its digest, or its graph does not fit its manifest.
    """
    file = read_model_file(model)
    file.warn_without_digest()
    manifest = parse_manifest(file.metadata.get(METADATA_KEY), str(model))
    entries = {}
    if manifest.quantization is not None and not manifest.quantization.reduce_range and not this_machine().has_vnni:
        # Full 8-bit weights overflow the fast kernels of x86 CPUs without VNNI; these are exact, and take twice as long
        # (also on CPUs with VNNI, which need them not).
        entries["session.x64quantprecision"] = "1"
    engine = open_engine(model, ep=ep, threads=threads, spinning=spinning, entries=entries, data=file.data)
    check_contract(model, manifest, engine.session)
    prototypes = None if manifest.familiarity is None else open_prototypes(file, manifest, engine.session)
    text = file.metadata.get(ENROLLED_KEY)
    enrolled = None if text is None else parse_enrolled(text, manifest, prototypes, str(model))
    head = read_head(file, manifest, engine.session)
    return ModelSession(model, manifest, file.sha256, engine.ep, engine.threads, engine, prototypes, enrolled, head)


def _idling(ort: ModuleType, spinning: bool) -> dict[str, str]:
    """Return how threads wait for work: spinning on, or only for as long as they wait within an inference.

    ONNX Runtime before 1.26 knows no such limit; there, threads that shall not spin on sleep at once.
    """
    spin, limit = "session.intra_op.allow_spinning", "session.intra_op.spin_duration_us"
    if spinning:
        return {spin: "1"}
    if tuple(int(part) for part in ort.__version__.split(".")[:2]) < (1, 26):
        return {spin: "0"}
    return {spin: "1", limit: SPIN_US}


def ort_errors(ort: ModuleType) -> tuple[type[Exception], ...]:
    """Return what ONNX Runtime raises: its own exception types, which share no base, and what C++'s own become."""
    members = vars(ort.capi.onnxruntime_pybind11_state).values()
    own = (member for member in members if isinstance(member, type) and issubclass(member, Exception))
    return (*own, RuntimeError, ValueError, MemoryError)


def _check_names(model: Path, session: Any) -> None:
    """Ask for all names of inputs and outputs once: ONNX Runtime takes any bytes for them, and fails when asked."""
    try:
        for value in (*session.get_inputs(), *session.get_outputs()):
            _ = value.name, value.shape
    except UnicodeDecodeError as error:
        raise ModelError(f"{model} is corrupt: its inputs and outputs have names that are no text") from error
