"""`twincar-edge inspect`: print the manifest of an exported model."""

from __future__ import annotations

import json
from pathlib import Path

import click

from twincar_edge.bundled import default_model
from twincar_edge.cli.commands import Command
from twincar_edge.enrolled import Enrolled, read_enrolled
from twincar_edge.golden import read_golden
from twincar_edge.manifest import METADATA_KEY, Manifest, QuantizationRecord, parse_manifest
from twincar_edge.model_file import ModelFile, read_model_file
from twincar_edge.prototypes import read_prototypes
from twincar_edge.terminal import new_table
from twincar_edge.wording import counted


@click.command("inspect", cls=Command)
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the manifest, and any enrolled classes, as JSON.")
def command(model: Path | None, as_json: bool) -> None:
    """Print the manifest of MODEL, an exported .onnx file, or of the bundled model."""
    model = model or default_model()
    file = read_model_file(model)
    manifest = parse_manifest(file.metadata.get(METADATA_KEY), str(model))
    enrolled = read_enrolled(model, manifest, read_prototypes(model))
    if as_json:
        document = manifest.model_dump(mode="json")
        if enrolled is not None:
            document["enrolled"] = [one.model_dump(mode="json") for one in enrolled.classes]
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        _print_table(file, manifest, enrolled)


def _print_table(file: ModelFile, manifest: Manifest, enrolled: Enrolled | None) -> None:
    from rich.console import Console
    from rich.markup import escape

    training, parity, preprocess = manifest.training, manifest.parity, manifest.preprocess
    first = ", ".join(manifest.classes[:3]) + (", …" if len(manifest.classes) > 3 else "")
    rows = {
        "model": f"{manifest.name} ({manifest.architecture}, {manifest.precision})",
        "file": f"{len(file.data) / 1e6:.1f} MB",
        "sha256": file.sha256,
        "digest": "none: damage cannot be detected" if file.digest is None else "matches",
        "signature": "none" if file.signature is None else "present; `watch` checks it against a key",
        "classes": f"{len(manifest.classes)}: {first}",
        "enrolled": "" if enrolled is None else _enrolled(enrolled),
        "input": f"uint8 [N, {preprocess.size_wh[1]}, {preprocess.size_wh[0]}, 3] {preprocess.color}, "
        f"{preprocess.resize}, {preprocess.interpolation}; mean and std are in the graph",
        "rejection": f"unknown below {manifest.reject_below:.2f}" if manifest.reject_below else "none",
        "familiarity": _familiarity(manifest),
        "full names": _full_names(manifest),
        "temperature": f"{manifest.temperature:g}",
        "thresholds by": _validation_model(manifest),
        "checkpoint": f"sha256 {training.checkpoint_sha256[:16]}…",
        "data": "not recorded"
        if training.data is None
        else f"{training.data.name}, {counted(training.data.images, 'image')}",
        "quantization": _quantization(manifest.quantization),
        "parity": "not checked"
        if parity is None
        else f"against {parity.against} on {counted(parity.images, 'image')}{_learned(manifest)}: "
        f"top-1 {parity.top1_reference:.2%} -> {parity.top1:.2%}, "
        f"top-5 {parity.top5_reference:.2%} -> {parity.top5:.2%}, agreement {parity.agreement:.2%}, "
        f"largest logit difference {parity.max_abs_logit_difference:.3g}",
        "golden inputs": _golden(file.path),
        "notes": manifest.notes,
        "created": f"{manifest.created:%Y-%m-%d %H:%M} by twincar-edge {manifest.twincar_edge_version}",
    }
    table = new_table(head=False)
    for name, value in rows.items():
        if value:
            table.add_row(f"[bold]{name}[/bold]", escape(value))
    Console().print(table)


def _full_names(manifest: Manifest) -> str:
    record = manifest.crop_sizes
    return "any crop" if record is None else f"crops of {record.minimum_px} px or more (shorter side)"


def _validation_model(manifest: Manifest) -> str:
    digest = manifest.validation_model
    return "" if digest is None else f"a validation model, sha256 {digest[:16]}…: this one has learned from all images"


def _learned(manifest: Manifest) -> str:
    return "" if manifest.validation_model is None else " that it learned from"


def _familiarity(manifest: Manifest) -> str:
    record = manifest.familiarity
    if record is None:
        return "not judged: no prototypes"
    least = record.thresholds
    return (
        f"full name from {least.year:g}, model from {least.model:g}, make from {least.make:g}, unknown below; "
        f"prototypes of {counted(record.prototype_images, 'image')}"
    )


def _quantization(record: QuantizationRecord | None) -> str:
    if record is None:
        return "none"
    facts = [
        f"{record.format}: {record.activations} activations{' (symmetric)' if record.symmetric else ''}, "
        f"{record.weights} weights per {'channel' if record.per_channel else 'tensor'}"
        f"{' (reduced range)' if record.reduce_range else ''}",
        f"in float: {counted(record.float_layers, 'layer')} at the input, {len(record.float_nodes)} by name",
        f"calibrated by {record.calibration} on {counted(record.calibration_images, 'image')}",
    ]
    if record.target is not None:
        facts.insert(0, f"target {record.target}")
    return "; ".join(facts)


def _enrolled(enrolled: Enrolled) -> str:
    return "\n".join(
        f"{one.name}: {counted(one.images, 'picture')}, {one.enrolled_at:%Y-%m-%d %H:%M}, "
        f"similarity {one.threshold:.3f} or more, into sha256 {one.source_sha256[:16]}…"
        for one in enrolled.classes
    )


def _golden(model: Path) -> str:
    golden = read_golden(model)
    if golden is None:
        return "none: `watch` and `doctor` cannot verify its answers on a machine"
    sizes = ", ".join(f"{image.shape[1]}x{image.shape[0]}" for image in golden.images_bgr)
    return f"{len(golden.images_bgr)} drawn pictures ({sizes}) with their logits"
