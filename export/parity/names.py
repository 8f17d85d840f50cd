"""Names of the compared models: `precision`, `precision:file` or `precision:file@provider`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PYTORCH = "pytorch"
FP32 = "fp32"

# Titles for reports. A provider that is not listed keeps its short name.
TITLES = {PYTORCH: "PyTorch", FP32: "FP32", "fp16": "FP16", "int8": "INT8"}
_PROVIDER_TITLES = {"cpu": "CPU", "cuda": "CUDA", "openvino": "OpenVINO", "tensorrt": "TensorRT"}


@dataclass(frozen=True)
class SideName:
    """The parsed name of a side; `str()` returns the name.

    Attributes:
        precision: "pytorch", "fp32", "fp16" or "int8".
        file: distinguishes files of the same precision; empty if there is only one.
        ep: the execution provider; empty for the CPU's and for PyTorch.
    """

    precision: str
    file: str = ""
    ep: str = ""

    @classmethod
    def parse(cls, name: str) -> SideName:
        """Parse a name."""
        model, _, ep = name.partition("@")
        precision, _, file = model.partition(":")
        return cls(precision, file, ep)

    def __str__(self) -> str:
        """Return the name."""
        return self.precision + (f":{self.file}" if self.file else "") + (f"@{self.ep}" if self.ep else "")

    @property
    def title(self) -> str:
        """Return the title for reports: "INT8", "INT8 (cars-v2) on OpenVINO"."""
        title = TITLES.get(self.precision, self.precision)
        file = f" ({self.file})" if self.file else ""
        return title + file + (f" on {_PROVIDER_TITLES.get(self.ep, self.ep)}" if self.ep else "")


def title(name: str) -> str:
    """Return the title of the side `name` for reports."""
    return SideName.parse(name).title


def distinct_names(models: Sequence[tuple[str, str]]) -> list[str]:
    """Return a unique name for each model: its precision and, if several have the same precision, its file.

    Args:
        models: the precision and the file's stem of each model.
    """
    precisions = [precision for precision, _ in models]
    names: list[str] = []
    for precision, stem in models:
        file = stem.replace("@", "_").replace(":", "_") if precisions.count(precision) > 1 else ""
        name, number = str(SideName(precision, file)), 1
        while name in names:
            number += 1
            name = str(SideName(precision, f"{file}-{number}"))
        names.append(name)
    return names


def default_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs to compare: each side with the one that it was made from.

    A file on another provider is compared with itself on the CPU, if that is one of the sides. If the reference is a
    PyTorch model and there is exactly one FP32 file, the lower precisions are compared with that file. All others are
    compared with the reference.

    Args:
        names: the sides, the reference first.

    Returns:
        (subject, against) for each side but the first.
    """
    reference, *others = names
    fp32 = [name for name in others if SideName.parse(name).precision == FP32 and not SideName.parse(name).ep]
    made_from = fp32[0] if len(fp32) == 1 and SideName.parse(reference).precision == PYTORCH else reference
    pairs = []
    for name in others:
        parts = SideName.parse(name)
        on_cpu = str(SideName(parts.precision, parts.file))
        if parts.ep and on_cpu in names:
            pairs.append((name, on_cpu))
        else:
            pairs.append((name, reference if parts.precision == FP32 else made_from))
    return pairs
