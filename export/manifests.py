"""The part of the manifest that all files of one export share."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import ValidationError

from twincar_edge import __version__
from twincar_edge.errors import InputError, first_fault
from twincar_edge.export.config import ExportConfig
from twincar_edge.manifest import Manifest, TrainingRecord
from twincar_edge.training.checkpoint import Checkpoint


def common_manifest(config: ExportConfig, checkpoint: Checkpoint, created: datetime) -> Manifest:
    """Return the manifest from which those of all files are derived.

    Raises:
        InputError: a value of the configuration is not allowed in a manifest.
    """
    given = config.confidence.model_dump(include={"temperature", "reject_below"}, exclude_none=True)
    document: dict[str, Any] = dict(
        name=config.name or f"{checkpoint.architecture}-{checkpoint.sha256[:8]}",
        architecture=checkpoint.architecture,
        precision="fp32",
        classes=checkpoint.classes.names,
        preprocess=checkpoint.preprocess,
        training=TrainingRecord(
            checkpoint_sha256=checkpoint.sha256,
            recipe=checkpoint.recipe,
            data=checkpoint.data,
            epoch=checkpoint.epoch,
            validation_top1=checkpoint.validation_top1,
            validation_top5=checkpoint.validation_top5,
        ),
        notes=config.notes,
        created=created,
        twincar_edge_version=__version__,
    )
    try:
        return Manifest(**document, **given)
    except ValidationError as error:
        raise InputError(f"invalid value for the manifest, at {first_fault(error)}") from error
