"""twincar-edge: fine-grained car recognition on a camera box, with the answers that were validated.

    import twincar_edge as tw

    classifier = tw.Classifier()  # the bundled model
    print(classifier("crop.jpg").name)

    for event in tw.watch("rtsp://camera/stream"):
        print(event.type, event.name)

docs/python.md describes every name of `__all__`. Names are imported on first use (PEP 562), so that this
module imports nothing heavy. The subpackages are `training`, `export`, `runtime`, `benchmarks`. Import from
them, never from the bare folder names.
"""

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from twincar_edge._version import __version__

if TYPE_CHECKING:
    from twincar_edge.api.benchmark import benchmark
    from twincar_edge.api.enroll import enroll
    from twincar_edge.api.evaluate import evaluate
    from twincar_edge.api.explain import explain
    from twincar_edge.api.export import export
    from twincar_edge.api.resend import resend_events
    from twincar_edge.api.score import score
    from twincar_edge.api.train import train
    from twincar_edge.api.watch import watch
    from twincar_edge.benchmarks.report import BenchmarkReport
    from twincar_edge.bundled import demo_clip, demo_model
    from twincar_edge.errors import GateError, InputError, MissingExtraError, ModelError, TwincarError
    from twincar_edge.export.config import ExportResult
    from twincar_edge.manifest import Manifest, read_manifest
    from twincar_edge.runtime.annotating.photo import annotate
    from twincar_edge.runtime.configuration.config import CameraConfig, WatchConfig
    from twincar_edge.runtime.enroll import EnrollReport
    from twincar_edge.runtime.event_stream import EventStream
    from twincar_edge.runtime.events import Event
    from twincar_edge.runtime.explanation import Explanation
    from twincar_edge.runtime.inference.answers import Guess, Prediction
    from twincar_edge.runtime.inference.classifier import Classifier
    from twincar_edge.runtime.scoring.score import ScoreReport
    from twincar_edge.training.evaluation import Evaluation
    from twincar_edge.training.result import TrainingResult

# From 1.29 on, ONNX Runtime sends usage data about the models it opens. The variable turns that off; it is read when
# ONNX Runtime is imported, which none of our modules does earlier.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "BenchmarkReport",
    "CameraConfig",
    "Classifier",
    "EnrollReport",
    "Evaluation",
    "Event",
    "EventStream",
    "Explanation",
    "ExportResult",
    "GateError",
    "Guess",
    "InputError",
    "Manifest",
    "MissingExtraError",
    "ModelError",
    "Prediction",
    "ScoreReport",
    "TrainingResult",
    "TwincarError",
    "WatchConfig",
    "__version__",
    "annotate",
    "benchmark",
    "demo_clip",
    "demo_model",
    "enroll",
    "evaluate",
    "explain",
    "export",
    "read_manifest",
    "resend_events",
    "score",
    "train",
    "watch",
]

_MODULES = {
    "BenchmarkReport": "benchmarks.report",
    "CameraConfig": "runtime.configuration.config",
    "Classifier": "runtime.inference.classifier",
    "EnrollReport": "runtime.enroll",
    "Evaluation": "training.evaluation",
    "Event": "runtime.events",
    "EventStream": "runtime.event_stream",
    "Explanation": "runtime.explanation",
    "ExportResult": "export.config",
    "GateError": "errors",
    "Guess": "runtime.inference.answers",
    "InputError": "errors",
    "Manifest": "manifest",
    "MissingExtraError": "errors",
    "ModelError": "errors",
    "Prediction": "runtime.inference.answers",
    "ScoreReport": "runtime.scoring.score",
    "TrainingResult": "training.result",
    "TwincarError": "errors",
    "WatchConfig": "runtime.configuration.config",
    "annotate": "runtime.annotating.photo",
    "benchmark": "api.benchmark",
    "demo_clip": "bundled",
    "demo_model": "bundled",
    "enroll": "api.enroll",
    "evaluate": "api.evaluate",
    "explain": "api.explain",
    "read_manifest": "manifest",
    "resend_events": "api.resend",
    "score": "api.score",
    "train": "api.train",
    "watch": "api.watch",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used.

    Raises:
        InputError: an environment variable would make OpenCV end the process as it is imported.
    """
    if name != "export" and name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _MODULES.get(name) != "errors":  # an error's class is needed to catch this one
        import_module(f"{__name__}.opencv_environment").check_opencv_environment()
    if name == "export":
        return import_module("twincar_edge.export")  # a package that can be called, see `_CallableExport`
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, "benchmarks", "runtime", "training"})


class _CallableExport(ModuleType):
    """The subpackage `twincar_edge.export`, which can be called: `tw.export(...)` is `twincar_edge.api.export.export`.

    The function and the subpackage share the name `export`, and importing the subpackage sets it on this package.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)

    @property
    def __wrapped__(self) -> Any:
        """Return the function; `inspect.signature` follows this."""
        return import_module("twincar_edge.api.export").export

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        """Return the function's docstring, which `help` prints."""
        return str(self.__wrapped__.__doc__)


class _Package(ModuleType):
    """This package: makes `twincar_edge.export` callable as soon as it is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "export" and isinstance(value, ModuleType):
            value.__class__ = _CallableExport
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
