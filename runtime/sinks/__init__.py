"""Where events go: sinks, and the deliveries that keep them from stopping or slowing the loop.

`open_sinks` (in `opening`) makes deliveries from settings; docs/sinks.md says what each kind guarantees.
"""

from __future__ import annotations

from twincar_edge.runtime.sinks.base import NO_CROP, DeliveryError, RefusedError, Sink
from twincar_edge.runtime.sinks.csv import CsvFile
from twincar_edge.runtime.sinks.delivery import Delivery, Terms
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
    "JsonLines",
    "Limits",
    "LiveTable",
    "RefusedError",
    "Sink",
    "Spool",
    "Terms",
    "crop_folder",
    "crop_name",
    "running",
]
