"""Checks the CPU's INT8 instructions against the model file."""

from __future__ import annotations

from twincar_edge.machine import Machine
from twincar_edge.manifest import Manifest, QuantizationRecord
from twincar_edge.runtime.selftest.diagnosis import Check

_ARM = ("asimddp", "i8mm")
_NAMES = {
    "avx2": "AVX2", "avx_vnni": "VNNI", "avx512_vnni": "AVX-512 VNNI", "amx_int8": "AMX INT8", "asimddp": "dotprod",
    "i8mm": "i8mm",
}  # fmt: skip
_BENCH = "compare its speed with the FP32 file: twincar-edge bench INT8.onnx FP32.onnx"


def check_instructions(machine: Machine, manifest: Manifest, ep: str) -> Check:
    """Check how fast the CPU's INT8 instructions run a file on a provider. The answers are right in all cases."""
    name = "INT8 instructions"
    found = ", ".join(_NAMES[flag] for flag in _NAMES if flag in machine.flags) or "none known"
    if manifest.quantization is None:
        return Check(name=name, status="ok", found=f"{found}; the file is {manifest.precision} and needs none")
    if ep not in ("cpu", "openvino"):
        return Check(name=name, status="ok", found=f"{found}; {ep} does not use them")
    architecture = machine.system.rpartition(" ")[2].lower()
    if architecture in ("x86_64", "amd64", "i686"):
        return _x86(name, found, machine, manifest.quantization)
    if architecture in ("aarch64", "arm64") or architecture.startswith("armv"):
        return _arm(name, found, machine.flags)
    return Check(name=name, status="warn", found=f"unknown architecture {architecture}", advice=_BENCH)


def _x86(name: str, found: str, machine: Machine, record: QuantizationRecord) -> Check:
    if (record.activations, record.weights) != ("uint8", "int8"):
        return Check(
            name=name,
            status="warn",
            found=f"{found}; the file has {record.activations} activations and {record.weights} weights: exact, but "
            "slow, because x86 is fast only with uint8 and int8",
            advice="export it for x86",
        )
    if machine.has_vnni:
        return Check(name=name, status="ok", found=f"{found}: exact and fast")
    if not record.reduce_range:
        return Check(
            name=name,
            status="warn",
            found=f"{found}, no VNNI; the file's weights have the full range: exact, because exact kernels are used, "
            "but slow",
            advice="export it with a reduced weight range, which the fast kernels compute exactly",
        )
    if "avx2" not in machine.flags:
        return Check(name=name, status="warn", found=f"{found}, neither VNNI nor AVX2: exact, but slow", advice=_BENCH)
    return Check(
        name=name,
        status="ok",
        found=f"{found}, no VNNI; the file's weights have a reduced range, so that no sum overflows: exact, but slower "
        "than with VNNI",
    )


def _arm(name: str, found: str, flags: tuple[str, ...]) -> Check:
    if any(flag in flags for flag in _ARM):
        return Check(name=name, status="ok", found=f"{found}: exact and fast")
    return Check(name=name, status="warn", found="no dotprod: exact, but hardly faster than FP32", advice=_BENCH)
