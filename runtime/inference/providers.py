"""The table of ONNX Runtime execution providers: how to install each, how to attach it, what it is called when it runs.

Built-in and plugin providers are verified in the same way: an open session lists the provider's `ort_name` first
(`open_engine` requires it), and `runtime/inference/nodes.py` counts the nodes that it ran.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata, util
from pathlib import Path
from types import ModuleType
from typing import Any

from twincar_edge.errors import InputError, MissingExtraError, Parameter, TwincarError, nearest, require

logger = logging.getLogger(__name__)

# All these wheels install the package `onnxruntime`, and overwrite one another's files.
ORT_WHEELS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-qnn",
    "onnxruntime-migraphx",
    "onnxruntime-rocm",
)


def load_onnxruntime() -> ModuleType:
    """Import ONNX Runtime, after checking that exactly one wheel of it is installed.

    Raises:
        MissingExtraError: no wheel is installed.
        InputError: several are installed, and the order of installation decides which one is imported.
    """
    wheels = _installed_wheels()
    if len(wheels) > 1:
        raise InputError(
            f"{' and '.join(wheels)} are installed together and overwrite each other: "
            f"pip uninstall {' '.join(wheels)}, then pip install 'twincar-edge[cpu]' (or [gpu], or [openvino])"
        )
    return require("onnxruntime", "cpu")


def _installed_wheels() -> list[str]:
    return [name for name in ORT_WHEELS if _is_installed(name)]


def _is_installed(wheel: str) -> bool:
    try:
        metadata.distribution(wheel)
    except metadata.PackageNotFoundError:
        return False
    return True


class NotInWheelError(InputError):
    """The provider is not in the installed wheel of ONNX Runtime, but in another one."""


@dataclass(frozen=True)
class Provider:
    """One execution provider.

    Attributes:
        ort_name: its name in `session.get_providers()`.
        extra: the extra of this package that installs it.
        attach: adds it to session options; takes ONNX Runtime, the options, and the thread count.
        obstacle: takes ONNX Runtime and the provider's name; returns the error that says why this installation or
            machine cannot use the provider and what to do, or None. Only an open session proves that it works.
        device: the device of its inputs and outputs, as named by ONNX Runtime's IO binding.
    """

    ort_name: str
    extra: str
    attach: Callable[[ModuleType, Any, int], None]
    obstacle: Callable[[ModuleType, str], TwincarError | None]
    device: str = "cpu"


def _built_in(
    name: str, ort_name: str, extra: str, settings: Callable[[], dict[str, str]], device: str = "cpu"
) -> dict[str, Provider]:
    """Return the table entry of a provider that is compiled into a wheel; `settings` returns its options."""

    def attach(ort: ModuleType, options: Any, threads: int) -> None:
        if device == "cuda":
            _load_cuda_libraries(ort)
        if ort_name != CPU:  # ONNX Runtime always adds the CPU provider itself
            options.add_provider(ort_name, settings())

    def obstacle(ort: ModuleType, name: str) -> TwincarError | None:
        if ort_name in ort.get_available_providers():
            return _driver_obstacle() if device == "cuda" else None
        # Another wheel has it. The installed one must be removed first, because wheels overwrite one another.
        return NotInWheelError(
            f"the installed ONNX Runtime has no {name} provider: "
            f"pip uninstall {' '.join(_installed_wheels())}, then pip install 'twincar-edge[{extra}]'"
        )

    return {name: Provider(ort_name, extra, attach, obstacle, device)}


def _driver_obstacle() -> InputError | None:
    """Return why NVIDIA's driver cannot be used, or None. The GPU wheel lists CUDA even on machines without a GPU."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        failed = ctypes.CDLL(library).cuInit(0)
    except OSError:
        return InputError(
            f"NVIDIA's driver was not found ({library}): install it on the host, start containers with --gpus all, or "
            "use ",
            Parameter("ep", "cpu"),
        )
    if failed:
        return InputError(
            f"NVIDIA's driver finds no GPU (cuInit: {failed}): check nvidia-smi, or use ", Parameter("ep", "cpu")
        )
    return None


@cache  # once per process, because it redirects standard output meanwhile
def _load_cuda_libraries(ort: ModuleType) -> None:
    """Load CUDA and cuDNN from NVIDIA's wheels, which the extra `gpu` installs outside the loader's search path.

    Libraries that cannot be loaded are logged; opening the session shows whether the provider works without them.
    """
    with contextlib.redirect_stdout(io.StringIO()) as printed:  # standard output is for results
        ort.preload_dlls()
    for line in printed.getvalue().splitlines():
        logger.warning("%s", line)


def _cuda_settings() -> dict[str, str]:
    """Disable TF32: it rounds inputs to 10 bits of mantissa, and parity was not shown for it."""
    return {"use_tf32": "0"}


def _tensorrt_settings() -> dict[str, str]:
    """Cache TensorRT's engines. Without a cache, every start builds them again: silently, for minutes."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "twincar-edge" / "tensorrt"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logger.warning("cannot create %s: TensorRT builds its engine at each start (%s)", cache, error.strerror)
        return {}
    if not any(cache.iterdir()):
        logger.warning("TensorRT is building an engine for this model and GPU (minutes, once), cached in %s", cache)
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
    }


def _attach_openvino(ort: ModuleType, options: Any, threads: int) -> None:
    """Attach OpenVINO's CPU device, from the wheel `onnxruntime-openvino` or from the plugin.

    Only `load_config` has an effect; flat keys are silently ignored. Without the f32 hint, OpenVINO computes in bf16 on
    CPUs that support it, and parity was not shown for that.
    """
    config = {
        "CPU": {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": str(threads),
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
        }
    }
    settings = {"load_config": json.dumps(config)}
    if _has_openvino_built_in(ort):
        options.add_provider(OPENVINO, {"device_type": "CPU", **settings})
    else:
        options.add_provider_for_devices(_openvino_devices(ort)[:1], settings)


def _openvino_obstacle(ort: ModuleType, name: str) -> TwincarError | None:
    if _has_openvino_built_in(ort):
        return None
    if util.find_spec(_OPENVINO_PACKAGE) is None:
        return MissingExtraError(_OPENVINO_PACKAGE, "openvino")
    if not _openvino_devices(ort):
        return InputError(
            f"the {name} plugin found no device on this machine (it needs an Intel CPU): use ",
            Parameter("ep", "cpu"),
            f", or the wheel with built-in OpenVINO: pip uninstall {' '.join(_installed_wheels())}, then "
            "pip install onnxruntime-openvino",
        )
    return None


def _has_openvino_built_in(ort: ModuleType) -> bool:
    # A registered plugin is listed under the same name, but cannot be attached by name.
    return not _openvino_registered and OPENVINO in ort.get_available_providers()


def _openvino_devices(ort: ModuleType) -> list[Any]:
    """Return the plugin's CPU devices; register the plugin with plain onnxruntime once per process."""
    plugin = importlib.import_module(_OPENVINO_PACKAGE)
    if not _openvino_registered:
        ort.register_execution_provider_library("twincar_edge_openvino", plugin.get_library_path())
        _openvino_registered.append(True)  # a second registration would raise
    name = plugin.get_ep_name()
    return [d for d in ort.get_ep_devices() if d.ep_name == name and d.ep_metadata.get("ov_device") == "CPU"]


CPU = "CPUExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"
_OPENVINO_PACKAGE = "onnxruntime_ep_openvino"
_openvino_registered: list[bool] = []

# In the order of preference of `auto`. TensorRT comes after the CPU, so it is only used by name: it builds for minutes.
PROVIDERS: dict[str, Provider] = {
    **_built_in("cuda", "CUDAExecutionProvider", "gpu", _cuda_settings, "cuda"),
    "openvino": Provider(OPENVINO, "openvino", _attach_openvino, _openvino_obstacle),
    **_built_in("cpu", CPU, "cpu", dict),
    **_built_in("tensorrt", "TensorrtExecutionProvider", "gpu", _tensorrt_settings, "cuda"),
}
AUTO = "auto"
EP_CHOICES = (AUTO, *PROVIDERS)


def usable_providers() -> tuple[str, ...]:
    """Return the names of the providers that this installation and machine support, in order of preference."""
    ort = load_onnxruntime()
    return tuple(name for name, provider in PROVIDERS.items() if provider.obstacle(ort, name) is None)


def explain_auto() -> str:
    """Return one line that names the provider of `auto`, and why each preferred one was skipped."""
    ort = load_onnxruntime()
    skipped: list[str] = []
    for name, provider in PROVIDERS.items():
        obstacle = provider.obstacle(ort, name)
        if obstacle is None:
            reasons = f" ({'; '.join(skipped)})" if skipped else ""
            return f"auto takes {name}, the first usable of {', '.join(PROVIDERS)}{reasons}"
        skipped.append(f"{name}: {str(obstacle).partition(': ')[0]}")
    raise AssertionError("the CPU provider is always available")


def unknown_provider(ep: str) -> InputError:
    """Return the error for an unknown provider name. For ONNX Runtime's own name, it suggests the short one."""
    short = next((name for name, provider in PROVIDERS.items() if provider.ort_name.lower() == ep.lower()), ep)
    return InputError(f"no execution provider {ep!r}: {nearest(short, EP_CHOICES)}")


def choose_provider(ep: str) -> tuple[str, Provider]:
    """Return the provider named by `ep`; `auto` is the first usable one.

    Raises:
        InputError: the provider does not exist, or this installation or machine cannot use it.
        MissingExtraError: the provider is a plugin that is not installed.
    """
    if ep == AUTO:
        name = usable_providers()[0]
        return name, PROVIDERS[name]
    if ep not in PROVIDERS:
        raise unknown_provider(ep)
    obstacle = PROVIDERS[ep].obstacle(load_onnxruntime(), ep)
    if obstacle is not None:
        raise obstacle
    return ep, PROVIDERS[ep]
