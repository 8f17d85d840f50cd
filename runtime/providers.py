"""The one table of ONNX Runtime execution providers: how to get each, how to open it, what its real name is."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata, util
from types import ModuleType
from typing import Any

from twincar_edge.errors import InputError, MissingExtraError, nearest, require

# The wheels that all install the one package `onnxruntime`, each over the files of the others.
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
    """Import ONNX Runtime, after making sure that exactly one wheel of it is installed.

    Raises:
        MissingExtraError: none is installed.
        InputError: two or more are installed; which of them answers is then a matter of install order.
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


@dataclass(frozen=True)
class Provider:
    """One execution provider.

    Attributes:
        ort_name: what `session.get_providers()` calls it when it is really used.
        extra: the extra of this package that brings it.
        attach: puts it into session options; takes ONNX Runtime, the options, and the thread count.
        package: the plugin package that must be importable, or None for a provider built into the wheel.
    """

    ort_name: str
    extra: str
    attach: Callable[[ModuleType, Any, int], None]
    package: str | None = None

    def is_usable(self, ort: ModuleType) -> bool:
        """Say whether this installation offers it. Only an open session proves that it works."""
        if self.package is not None:
            return util.find_spec(self.package) is not None
        return self.ort_name in ort.get_available_providers()


def _built_in(ort_name: str, **provider_options: str) -> Callable[[ModuleType, Any, int], None]:
    def attach(ort: ModuleType, options: Any, threads: int) -> None:
        options.add_provider(ort_name, provider_options)

    return attach


def _nothing(ort: ModuleType, options: Any, threads: int) -> None:
    """The CPU provider is always there, and is not added by hand."""


def _attach_openvino(ort: ModuleType, options: Any, threads: int) -> None:
    """Register the plugin with plain onnxruntime, and ask for its CPU device.

    Only `load_config` has an effect; flat keys are ignored without a word. Without the f32 hint it computes in bf16 on
    CPUs that have it, and its answers are no longer those that parity was shown for.
    """
    plugin = importlib.import_module("onnxruntime_ep_openvino")
    name = plugin.get_ep_name()
    devices = _openvino_devices(ort, name)
    if not devices:
        ort.register_execution_provider_library("twincar_edge_openvino", plugin.get_library_path())
        devices = _openvino_devices(ort, name)
    config = {
        "CPU": {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": str(threads),
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
        }
    }
    options.add_provider_for_devices(devices[:1], {"load_config": json.dumps(config)})


def _openvino_devices(ort: ModuleType, name: str) -> list[Any]:
    return [d for d in ort.get_ep_devices() if d.ep_name == name and d.ep_metadata.get("ov_device") == "CPU"]


# In the order in which `auto` prefers them. TensorRT is asked for by name only: it builds an engine for minutes.
PROVIDERS: dict[str, Provider] = {
    "cuda": Provider("CUDAExecutionProvider", "gpu", _built_in("CUDAExecutionProvider")),
    "openvino": Provider("OpenVINOExecutionProvider", "openvino", _attach_openvino, "onnxruntime_ep_openvino"),
    "cpu": Provider("CPUExecutionProvider", "cpu", _nothing),
    "tensorrt": Provider("TensorrtExecutionProvider", "gpu", _built_in("TensorrtExecutionProvider")),
}
AUTO = "auto"
EP_CHOICES = (AUTO, *PROVIDERS)


def usable_providers() -> tuple[str, ...]:
    """Return the names of the providers that this installation offers, in order of preference."""
    ort = load_onnxruntime()
    return tuple(name for name, provider in PROVIDERS.items() if provider.is_usable(ort))


def choose_provider(ep: str) -> tuple[str, Provider]:
    """Return the provider that `ep` names; `auto` is the first usable one.

    Raises:
        InputError: there is no provider of that name.
        MissingExtraError: it exists, and this installation lacks it.
    """
    if ep == AUTO:
        name = usable_providers()[0]
        return name, PROVIDERS[name]
    if ep not in PROVIDERS:
        raise InputError(f"no execution provider {ep!r}: {nearest(ep, EP_CHOICES)}")
    provider = PROVIDERS[ep]
    if not provider.is_usable(load_onnxruntime()):
        if provider.package is not None:
            raise MissingExtraError(provider.package, provider.extra)
        # Only another wheel has it, and wheels must not pile up: the old one goes first.
        raise InputError(
            f"the installed ONNX Runtime has no {ep} provider: "
            f"pip uninstall {' '.join(_installed_wheels())}, then pip install 'twincar-edge[{provider.extra}]'"
        )
    return ep, provider
