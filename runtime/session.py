"""Opens an ONNX file on an execution provider, and proves that it is the model and the provider asked for.

The one place that opens sessions of ONNX Runtime: `open_engine` for any file, `open_session` for an exported model.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twincar_edge.cores import usable_cores
from twincar_edge.errors import InputError, ModelError
from twincar_edge.files import sha256
from twincar_edge.machine import this_machine
from twincar_edge.manifest import Manifest, read_manifest
from twincar_edge.runtime.providers import AUTO, choose_provider, explain_auto, load_onnxruntime

logger = logging.getLogger(__name__)


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
        try:
            output: NDArray[np.float32] = self.session.run(None, {self.session.get_inputs()[0].name: batch})[0]
        except self._errors as error:
            raise ModelError(f"{self.model} failed on {self.ep}: {_first_line(error)}") from error
        return output


def open_engine(
    model: Path,
    *,
    ep: str = AUTO,
    threads: int | None = None,
    spinning: bool = False,
    entries: Mapping[str, str] | None = None,
    profile: Path | None = None,
) -> Engine:
    """Open an ONNX file and prove that the provider asked for is the one that runs.

    Args:
        model: the file; what is in it is for the caller to check.
        ep: a provider's short name, or `auto` for the best usable one.
        threads: threads within one inference; None for all cores that this process may use.
        spinning: let idle threads spin. Faster in a tight loop; at a camera's pace it burns a core for nothing.
        entries: further entries of ONNX Runtime's session configuration.
        profile: where ONNX Runtime writes what each node did, as `nodes_by_provider` reads it; it adds to the name.

    Raises:
        InputError: no such file or provider, or ONNX Runtime gave another one than was asked for.
        MissingExtraError: the provider, or ONNX Runtime itself, is not installed.
        ModelError: ONNX Runtime cannot open the file.
    """
    ort = load_onnxruntime()
    name, provider = choose_provider(ep)
    threads = threads or usable_cores()
    errors = ort_errors(ort)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    provider.attach(ort, options, threads)
    try:
        # WeightBiasQuantization quantizes again, at load, what the INT8 recipe left in float on purpose: what the file
        # says must be what runs.
        session = ort.InferenceSession(model.read_bytes(), options, disabled_optimizers=["WeightBiasQuantization"])
    except OSError as error:
        raise InputError(f"cannot read {model}: {error.strerror}") from error
    except errors as error:
        raise ModelError(f"{model} cannot be opened on {name}: {_first_line(error)}") from error
    actual = session.get_providers()[0]
    if actual != provider.ort_name:
        raise InputError(
            f"asked for {name}, ONNX Runtime silently took {actual}: run with --ep cpu, or mend the {name} install"
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
    """

    model: Path
    manifest: Manifest
    sha256: str
    ep: str
    threads: int
    _engine: Engine = field(repr=False)

    def run(self, batch_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits, float32 [N, classes], for uint8 [N, H, W, 3] that `prepare_batch` made.

        Raises:
            ModelError: the provider failed, or gave numbers that are not finite.
        """
        if len(batch_nhwc) == 0:
            return np.empty((0, len(self.manifest.classes)), np.float32)
        logits = self._engine.run(batch_nhwc)
        if not np.isfinite(logits).all():
            raise ModelError(
                f"{self.model} gave logits that are not finite on {self.ep}: run `twincar-edge evaluate` on it"
            )
        return logits


def open_session(model: Path, *, ep: str = AUTO, threads: int | None = None, spinning: bool = False) -> ModelSession:
    """Open an exported model.

    Args:
        model: an .onnx file that `twincar-edge export` wrote.
        ep: a provider's short name, or `auto` for the best usable one.
        threads: threads within one inference; None for all cores that this process may use.
        spinning: let idle threads spin. Faster in a tight loop; at a camera's pace it burns a core for nothing.

    Raises:
        InputError: no such provider, or ONNX Runtime gave another one than was asked for.
        MissingExtraError: the provider, or ONNX Runtime itself, is not installed.
        ModelError: the file is not ours, is corrupt, or its graph does not fit its manifest.
    """
    manifest = read_manifest(model)
    entries = {}
    if manifest.quantization is not None and not manifest.quantization.reduce_range and not this_machine().has_vnni:
        # Full 8-bit weights overflow the fast kernels of x86 CPUs without VNNI; these are exact, and take twice as long
        # (also on CPUs with VNNI, which need them not).
        entries["session.x64quantprecision"] = "1"
    engine = open_engine(model, ep=ep, threads=threads, spinning=spinning, entries=entries)
    _check_contract(model, manifest, engine.session)
    return ModelSession(model, manifest, sha256(model), engine.ep, engine.threads, engine)


def ort_errors(ort: ModuleType) -> tuple[type[Exception], ...]:
    """Return ONNX Runtime's exception types; they share no base of their own."""
    members = vars(ort.capi.onnxruntime_pybind11_state).values()
    return tuple(member for member in members if isinstance(member, type) and issubclass(member, Exception))


def _check_contract(model: Path, manifest: Manifest, session: Any) -> None:
    """Hold the graph's input and output against the manifest: they come from one file, and may still not agree."""
    width, height = manifest.preprocess.size_wh
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(uint8)" or inputs[0].shape[1:] != [height, width, 3]:
        found = ", ".join(f"{i.type} {i.shape}" for i in inputs)
        raise ModelError(f"{model} takes {found}, its manifest says uint8 [N, {height}, {width}, 3]: export it again")
    if len(outputs) != 1 or outputs[0].type != "tensor(float)" or outputs[0].shape[1:] != [len(manifest.classes)]:
        found = ", ".join(f"{o.type} {o.shape}" for o in outputs)
        raise ModelError(f"{model} gives {found}, its manifest names {len(manifest.classes)} classes: export it again")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]
