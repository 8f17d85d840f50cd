"""`twincar-edge export`: export a checkpoint to ONNX files and check that they answer as it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from twincar_edge.cli.groups import GroupedCommand, option
from twincar_edge.cli.options import check_needs, checkpoint_argument, data_options, progress_bar, unknown_option
from twincar_edge.cli.parity_limits import limit_options, take_limits
from twincar_edge.cli.parity_table import print_parity
from twincar_edge.cli.pipes import checked_output
from twincar_edge.cli.written import print_written
from twincar_edge.datasets import OpenOptions
from twincar_edge.export import ConfidenceOptions, ExportConfig, ExportResult, Int8Search, ParityError, export
from twincar_edge.export.int8.config import CALIBRATIONS, PRESETS, Int8Config
from twincar_edge.export.opset import OPSET
from twincar_edge.export.parity.report import ParityReport
from twincar_edge.export.report_files import report_stem
from twincar_edge.wording import counted

# Options that set the `Int8Config` field of the same name.
_CHOICES = ("reduce_range", "per_channel", "symmetric", "float_layers", "calibration", "percentile")
# What fails if FP16 or INT8 lose something needs one of them.
_NEEDS = {
    **dict.fromkeys(("top1_drop", "top5_drop", "agreement", "sure_agreement"), ("int8", "fp16")),
    "max_wrong_names": ("max_wrong_claims",),
    "max_wrong_claims": ("max_wrong_names",),
}
_CONFIDENCE = tuple(ConfidenceOptions.model_fields)


@click.command("export", cls=GroupedCommand, groups=("Model", "Data", "INT8", "Confidence", "Limits"))
@checkpoint_argument()
@option(
    "-o",
    "--output",
    group="Model",
    common=True,
    type=click.Path(path_type=Path),
    required=True,
    help="Write the files into this folder.",
)
@option(
    "--int8",
    group="INT8",
    common=True,
    is_flag=True,
    help="Also write an INT8 file, calibrated on training images.",
)
@option("--fp16", group="Model", common=True, is_flag=True, help="Also write a half-precision file, for GPU providers.")
@option(
    "--explainable/--not-explainable",
    group="Model",
    default=True,
    show_default=True,
    help="Export the last feature map as an output, so that a box can explain answers without PyTorch.",
)
@option(
    "--opset",
    group="Model",
    metavar="N",
    type=int,
    default=OPSET,
    show_default=True,
    help="Export to this ONNX opset version.",
)
@option(
    "--search/--no-search",
    group="INT8",
    default=True,
    show_default=True,
    help="Search for the fastest INT8 file within the limits, or use the target's preset unchanged.",
)
@option(
    "--target",
    group="INT8",
    common=True,
    metavar="TARGET",
    help=f"Make the INT8 file for {', '.join(PRESETS)}.  [default: this machine's kind]",
)
@option(
    "--calibration-images",
    group="INT8",
    metavar="N",
    type=click.IntRange(1, 100_000),
    default=256,
    show_default=True,
    help="Calibrate on this many training images.",
)
@option(
    "--calibration",
    group="INT8",
    type=click.Choice(CALIBRATIONS),
    help="Choose activation ranges by this method.  [default: searched]",
)
@option(
    "--percentile",
    group="INT8",
    metavar="PERCENT",
    type=float,
    help=f"With --calibration percentile: keep this percentage of an activation's values.  "
    f"[default: {Int8Config().percentile}]",
)
@option(
    "--reduce-range/--no-reduce-range",
    group="INT8",
    default=None,
    help="Quantize weights to 7 bits, so that CPUs with and without VNNI give the same answers.  [default: the "
    "target's preset]",
)
@option(
    "--per-channel/--per-tensor",
    group="INT8",
    default=None,
    help="Use one scale per channel of a layer, or one per tensor.  [default: the target's preset]",
)
@option(
    "--symmetric/--asymmetric",
    group="INT8",
    default=None,
    help="Quantize activations symmetrically around zero, or with a zero point.  [default: the target's preset]",
)
@option(
    "--float-layers",
    group="INT8",
    metavar="N",
    type=click.IntRange(0, 1000),
    help="Keep this many layers in float, counted from the input.  [default: the target's preset]",
)
@option(
    "--class-mapping",
    group="Model",
    type=click.Path(path_type=Path),
    help="Take class names from this class_mapping.json, for a checkpoint without them.",
)
@data_options(required=False)
@option(
    "--name",
    group="Model",
    common=True,
    help="Use this base name for the files.  [default: architecture and the checkpoint's digest]",
)
@option(
    "--notes",
    group="Model",
    common=True,
    default="",
    help="Store this text in the files' metadata: data terms, purpose of the model.",
)
@option(
    "--temperature",
    group="Confidence",
    metavar="NUMBER",
    type=float,
    help="Divide the logits by this temperature.  [default: fitted on held-out images]",
)
@option(
    "--reject-below",
    group="Confidence",
    common=True,
    metavar="SHARE",
    type=float,
    help='Answer "unknown" below this probability, from 0 to 1.  [default: chosen by --false-accept]',
)
@option(
    "--false-accept",
    group="Confidence",
    common=True,
    metavar="SHARE",
    type=float,
    default=ConfidenceOptions().false_accept,
    show_default=True,
    help="Allow at most this share of pictures of unknown things to get a name, from 0 to 1.",
)
@unknown_option
@option("--hold-noise", group="Confidence", is_flag=True, help="Apply --false-accept to noise images too.")
@option(
    "--hold-masked",
    group="Confidence",
    is_flag=True,
    help="Apply --false-accept to known cars with their class masked too.",
)
@option(
    "--keep-known",
    group="Confidence",
    type=(float, float, float),
    metavar="FULL MODEL MAKE",
    default=ConfidenceOptions().keep_known,
    show_default=True,
    help="Choose familiarity thresholds that keep these shares of held-out cars at full name, model and make, each "
    "from 0 to 1.",
)
@option(
    "--max-wrong-names",
    group="Confidence",
    metavar="SHARE",
    type=float,
    help="Allow at most this share of the --unknown pictures to get a full name, from 0 to 1. With "
    "--max-wrong-claims, these pictures determine all thresholds.",
)
@option(
    "--max-wrong-claims",
    group="Confidence",
    metavar="SHARE",
    type=float,
    help="Allow at most this share of the --unknown pictures to get any wrong name, from 0 to 1.",
)
@limit_options
@option(
    "--validation-model",
    group="Confidence",
    type=click.Path(path_type=Path),
    help="For a CHECKPOINT trained on all images: choose temperature and thresholds by the answers of this exported "
    "file to --data. Its training used the same recipe and held these images out.",
)
@option(
    "--min-coverage",
    group="Limits",
    metavar="SHARE",
    type=float,
    default=ConfidenceOptions().min_coverage,
    show_default=True,
    help="Fail if a smaller share of held-out images gets a name, even only a make, from 0 to 1.",
)
@option(
    "--keep-failed",
    group="Limits",
    is_flag=True,
    help="Keep a file that misses a limit, as NAME.PRECISION.failed.onnx.",
)
def command(
    checkpoint: str,
    output: Path,
    int8: bool,
    search: bool,
    target: str | None,
    calibration_images: int,
    data: OpenOptions | None,
    **options: Any,
) -> None:
    """Export CHECKPOINT to ONNX, and compare the answers with PyTorch's, image by image.

    CHECKPOINT is a .pt, .pth or .safetensors file: a path, or hf://OWNER/REPO/PATH/FILE[@REVISION].
    The comparison uses the images held out in training, recorded next to the checkpoint, or those of --data. A file
    that misses a limit is not kept (see --keep-failed), and the exit code is 1.
    """
    from twincar_edge.training.hub import resolve_checkpoint

    check_needs(_NEEDS)
    limits = take_limits(options)
    changes = {name: value for name in _CHOICES if (value := options.pop(name)) is not None}
    choices = Int8Search(target=target, changes=changes, calibration_images=calibration_images)
    int8_choices = None
    if int8:
        int8_choices = _int8(choices, search)
    else:
        check_needs(dict.fromkeys((*_CHOICES, "search", "target", "calibration_images"), ("int8",)))
    confidence = ConfidenceOptions(**{name: options.pop(name) for name in _CONFIDENCE})
    config = ExportConfig(
        checkpoint=resolve_checkpoint(checkpoint),
        output=output,
        int8=int8_choices,
        limits=limits,
        data=data,
        confidence=confidence,
        **options,
    )
    with progress_bar() as bar:
        task = bar.add_task("", total=None)

        def progress(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        try:
            result = export(config, progress)
        except ParityError as error:
            bar.stop()
            with checked_output():
                print_parity(error.report, _report_name(error.report, "parity"))
            raise
    print_parity(result.parity, _report_name(result.parity, "parity"))
    _print_result(result)


def _int8(choices: Int8Search, search: bool) -> Int8Config | Int8Search:
    """Validate the choices up front, and return them; without a search, return the first preset."""
    presets = choices.presets()
    return choices if search else presets[0]


def _report_name(parity: ParityReport, kind: str) -> str:
    return f"{report_stem(parity.name, kind)}.md"


def _print_result(result: ExportResult) -> None:
    sure = result.confidence
    folder = result.fp32.parent
    if result.search is not None:
        [row] = [row for row in result.search.rows if row.chosen]
        speed = "" if row.speedup is None else f", {row.speedup:.1f} times as fast as FP32"
        click.echo(f"INT8: {row.name}, of {len(result.search.rows)} tried{speed}")
    for path in (result.fp32, result.fp16, result.int8):
        if path is not None:
            print_written(path, about=f"{path.stat().st_size / 1e6:.1f} MB")
    parity, confidence = (folder / _report_name(result.parity, kind) for kind in ("parity", "confidence"))
    changed = counted(len(result.parity.comparisons[-1].flips), "answer")
    print_written(parity, about=f"{changed} changed")
    sure_from = f'temperature {sure.temperature:g}, "unknown" below {sure.threshold:g}'
    print_written(confidence, about=sure_from)
    for warning in sure.warnings:
        click.echo(f"warning: {warning}", err=True)
