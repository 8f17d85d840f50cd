"""`tw.export`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from twincar_edge.api.data import PathLike, labeled_images, optional_path
from twincar_edge.arguments import checked_arguments
from twincar_edge.errors import InputError
from twincar_edge.export.confidence.report import ConfidenceOptions
from twincar_edge.export.int8.config import Int8Config, Int8Search
from twincar_edge.export.parity.report import ParityLimits

if TYPE_CHECKING:
    from twincar_edge.export.config import ExportResult


@checked_arguments
def export(
    checkpoint: PathLike,
    output: PathLike,
    *,
    int8: bool | Int8Config | Int8Search = False,
    target: str | None = None,
    fp16: bool = False,
    opset: int | None = None,
    limits: ParityLimits | None = None,
    confidence: ConfidenceOptions | None = None,
    data: PathLike | None = None,
    images: PathLike | None = None,
    data_class_mapping: PathLike | None = None,
    crop: bool = True,
    class_mapping: PathLike | None = None,
    validation_model: PathLike | None = None,
    name: str | None = None,
    notes: str = "",
    explainable: bool = True,
    keep_failed: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> ExportResult:
    """Export a checkpoint to ONNX files, and verify image by image that they answer like the checkpoint.

    >>> exported = tw.export("runs/cars/best.pt", "models", name="cars")
    >>> exported.fp32, exported.parity.passed
    (PosixPath('models/cars.fp32.onnx'), True)

    Args:
        checkpoint: a .pt, .pth or .safetensors file, or hf://OWNER/REPO/PATH/FILE[@REVISION].
        output: the folder for the model files and reports.
        int8: also write an INT8 file. True searches for the fastest one within the limits, an `Int8Search` configures
            the search, and an `Int8Config` skips it.
        target: with `int8=True`, the hardware of the INT8 file: "x86-avx2", "x86-vnni", "arm64", "tensorrt" or
            "openvino"; None for this machine's kind.
        fp16: also write a half-precision file, for GPU providers.
        opset: the ONNX operator set; None for the default.
        limits: the largest accepted differences from the checkpoint.
        confidence: how to choose the temperature and the rejection threshold, or their values.
        data: labeled images, in a layout that `train` accepts; None for the run's held-out images.
        images: the image folder of a CSV; None for `images/` next to the CSV, or the CSV's own folder.
        data_class_mapping: class_mapping.json of the labels; None for the class names in the data.
        crop: crop to the annotated box, if the data has one.
        class_mapping: class names of a bare state dict; None for class_mapping.json next to it.
        validation_model: for a checkpoint that was trained on all images, an exported file from a training by the same
            recipe that held `data` out; temperature and thresholds come from its answers.
        name: the base name of the files; None uses the architecture and the checkpoint's digest.
        notes: free text for the manifest.
        explainable: add the last feature map as an output, so that the box can explain answers without PyTorch.
        keep_failed: keep a file that missed a limit, as NAME.int8.failed.onnx.
        progress: called with the stage, the work done and the total.

    Raises:
        ParityError: a file missed a limit; it is removed, or renamed with `keep_failed`.
        CoverageError: a file names too few of the held-out images (`confidence.min_coverage`); it is treated likewise.
        InputError: the images, the folder or an option cannot be used.
        ModelError: the checkpoint cannot be used or exported.
        MissingExtraError: the extra `export`, or ONNX Runtime, is not installed.
    """
    from twincar_edge.export import ExportConfig
    from twincar_edge.export import export as export_config
    from twincar_edge.export.opset import OPSET
    from twincar_edge.training.hub import resolve_checkpoint

    if target is not None and int8 is not True:
        raise InputError("target needs int8=True")
    choices = int8 if not isinstance(int8, bool) else Int8Search(target=target) if int8 else None
    if isinstance(choices, Int8Search):
        choices.presets()  # reject an unknown target now, not minutes later
    config = ExportConfig(
        checkpoint=resolve_checkpoint(str(checkpoint)),
        output=Path(output),
        int8=choices,
        fp16=fp16,
        opset=OPSET if opset is None else opset,
        limits=limits or ParityLimits(),
        data=labeled_images(data, images, data_class_mapping, crop),
        class_mapping=optional_path(class_mapping),
        name=name,
        notes=notes,
        validation_model=optional_path(validation_model),
        confidence=confidence or ConfidenceOptions(),
        explainable=explainable,
        keep_failed=keep_failed,
    )
    return export_config(config, progress)
