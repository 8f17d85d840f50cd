"""The models and the clip that come with the package, in `twincar_edge/assets`."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from twincar_edge.errors import ModelError

# The default model of all commands, for ONNX Runtime and for PyTorch, written by `make bundled-model`. The .md file of
# this name is its model card.
DEFAULT_NAME = "lite0-cars196"


def default_model() -> Path:
    """Return the exported model that names the 196 cars of Stanford Cars: an INT8 .onnx file.

    Raises:
        ModelError: the package was installed without it.
    """
    return bundled(f"{DEFAULT_NAME}.onnx")


def default_checkpoint() -> Path:
    """Return the checkpoint that the default model was exported from: half-precision safetensors.

    Raises:
        ModelError: the package was installed without it.
    """
    return bundled(f"{DEFAULT_NAME}.safetensors")


def demo_model() -> Path:
    """Return the exported model that names the twin cars of the demo.

    >>> tw.Classifier(tw.demo_model())("crop.jpg").name
    'Castor Vela Sedan 2019'

    Raises:
        ModelError: the package was installed without it.
    """
    return bundled("twins.onnx")


def demo_clip() -> Path:
    """Return the demo's gate clip; its ground truth is in the .json file next to it.

    >>> tw.demo_clip().name
    'gate.mp4'

    Raises:
        ModelError: the package was installed without it.
    """
    return bundled("gate.mp4")


def bundled(name: str) -> Path:
    """Return the path of a file that comes with the package.

    Raises:
        ModelError: the package was installed without it.
    """
    path = Path(str(resources.files("twincar_edge"))) / "assets" / name
    if not path.is_file():
        raise ModelError(f"this installation has no {name}: reinstall twincar-edge, or give your own file")
    return path
