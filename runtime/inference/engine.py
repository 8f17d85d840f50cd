"""Opens an ONNX file, and verifies that the requested execution provider runs it.

All sessions of ONNX Runtime are opened here.
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

from twincar_edge.arguments import require_at_least
from twincar_edge.cores import usable_cores
from twincar_edge.errors import InputError, ModelError, Parameter
from twincar_edge.files import is_file
from twincar_edge.runtime.inference.providers import AUTO, choose_provider, explain_auto, load_onnxruntime
from twincar_edge.runtime.inference.refusals import first_line, why_not_opened

logger = logging.getLogger(__name__)

SPIN_US = "100"  # bridges the gaps within an inference; longer spinning does not make it faster

MAX_THREADS = 1024  # ONNX Runtime starts all threads when it opens a model, and may hang with more


@dataclass(frozen=True)
class Engine:
    """An ONNX file, open on one provider. `open_session` and `open_detector` check what it computes.

    Attributes:
        model: the file.
        ep: the short name of the provider that runs it.
        threads: threads within one inference.
        session: the session of ONNX Runtime.
    """

    model: Path
    ep: str
    threads: int
    session: Any = field(repr=False)
    _errors: tuple[type[Exception], ...] = field(repr=False)

    def run(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Return the graph's first output for its first input. Thread-safe.

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
    """Open an ONNX file and verify that the requested provider runs it.

    Args:
        model: the file; the caller checks its content.
        ep: a provider's short name, or `auto` for the best usable one.
        threads: threads within one inference; None for all usable cores.
        spinning: let idle threads spin. This is faster in a tight loop, but wastes a core at a camera's frame rate.
        entries: further entries of ONNX Runtime's session configuration.
        profile: prefix of the file to which ONNX Runtime writes a profile, for `nodes_by_provider`.
        data: the file's content, if the caller has read it.

    Raises:
        InputError: the file or provider does not exist, there are too many threads or none, or ONNX Runtime cannot use
            the provider or chose another one.
        MissingExtraError: the provider, or ONNX Runtime itself, is not installed.
        ModelError: ONNX Runtime cannot open the file.
    """
    ort = load_onnxruntime()
    name, provider = choose_provider(ep)
    require_at_least(1, threads=threads)
    threads = threads or usable_cores()
    if threads > MAX_THREADS:
        raise InputError(f"{threads} threads are too many: use at most {MAX_THREADS}")
    if not is_file(model):
        raise InputError(f"cannot read {model}: no such file")
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
        # WeightBiasQuantization would quantize at load what the INT8 recipe left in float on purpose. The fallback
        # would print to standard output, and open the file without these options.
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
        logger.debug("%s", explain_auto())
    return Engine(model, name, threads, session, errors)


def _idling(ort: ModuleType, spinning: bool) -> dict[str, str]:
    """Return the session entries for idle threads: spin always, or only for the gaps within an inference.

    ONNX Runtime before 1.26 has no limit on spinning; there, `spinning=False` disables it.
    """
    spin, limit = "session.intra_op.allow_spinning", "session.intra_op.spin_duration_us"
    if spinning:
        return {spin: "1"}
    if tuple(int(part) for part in ort.__version__.split(".")[:2]) < (1, 26):
        return {spin: "0"}
    return {spin: "1", limit: SPIN_US}


def ort_errors(ort: ModuleType) -> tuple[type[Exception], ...]:
    """Return the exception types of ONNX Runtime: its own, which have no common base, and those of C++ exceptions."""
    members = vars(ort.capi.onnxruntime_pybind11_state).values()
    own = (member for member in members if isinstance(member, type) and issubclass(member, Exception))
    return (*own, RuntimeError, ValueError, MemoryError)


def _check_names(model: Path, session: Any) -> None:
    """Read the names of all inputs and outputs. ONNX Runtime accepts any bytes as names, but fails to return them."""
    try:
        for value in (*session.get_inputs(), *session.get_outputs()):
            _ = value.name, value.shape
    except UnicodeDecodeError as error:
        raise ModelError(f"{model} is corrupt: the name of an input or output is not UTF-8") from error
