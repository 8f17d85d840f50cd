"""Sinks receive events; a `Delivery` runs each sink behind a queue, so that it can neither stop nor slow the loop.

`open_sinks` (in `opening`) creates deliveries from settings; docs/sinks.md describes the guarantees of each kind.
"""

from __future__ import annotations

import warnings
from typing import Any

from twincar_edge.runtime.sinks.base import NO_CROP, DeliveryError, RefusedError, Sink
from twincar_edge.runtime.sinks.csv import CsvFile
from twincar_edge.runtime.sinks.delivery import Delivery, DeliveryPolicy
from twincar_edge.runtime.sinks.jsonl import JsonLines
from twincar_edge.runtime.sinks.retention import Limits
from twincar_edge.runtime.sinks.running import running
from twincar_edge.runtime.sinks.snapshots import CropSaver, crop_folder, crop_name
from twincar_edge.runtime.sinks.spool import Spool
from twincar_edge.runtime.sinks.table import LiveTable

__all__ = [
    "NO_CROP",
    "CropSaver",
    "CsvFile",
    "Delivery",
    "DeliveryError",
    "DeliveryPolicy",
    "JsonLines",
    "Limits",
    "LiveTable",
    "RefusedError",
    "Sink",
    "Spool",
    "crop_folder",
    "crop_name",
    "running",
]


def __getattr__(name: str) -> Any:
    if name == "Terms":  # deprecated since 0.3
        warnings.warn("Terms is now DeliveryPolicy", DeprecationWarning, stacklevel=2)
        return DeliveryPolicy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
