"""The options of `watch`, grouped for its help.

The options have no defaults: values that are not given are not passed on, so the configuration's defaults apply. The
help texts repeat those, because importing the configuration would load half of the runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from twincar_edge.cli.completion import complete_files
from twincar_edge.cli.groups import option
from twincar_edge.cli.page_option import PageOption
from twincar_edge.runtime.listening import PAGE_ADDRESS

Command = Callable[..., Any]
GROUPS = ("Source", "Locating", "Tracking", "Model", "Events", "Pictures", "Service")  # sections of the help
_PATH = click.Path(path_type=Path)


def _all(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


# Each sets a key of [[cameras]].
camera_options = _all(
    option("--name", group="Source", help="Use this camera name in events and metrics.  [default: camera]"),
    option("--size", group="Source", metavar="WxH", help="Request frames of this size from a local camera, in pixels."),
    option(
        "--poll",
        "poll_s",
        group="Source",
        metavar="TIME",
        help="Request a new picture from an HTTP snapshot camera at this interval.  [default: 1s]",
    ),
    option(
        "--max-frame-megapixels",
        group="Source",
        metavar="N",
        type=click.FloatRange(0, 250, min_open=True),
        help="Reject videos and skip images with larger frames than this, in megapixels.  [default: 40]",
    ),
    option(
        "--locate",
        group="Locating",
        common=True,
        type=click.Choice(["auto", "whole", "zone", "motion", "detector"]),
        help="Find vehicles by this method: motion (fixed camera), zone, detector, whole (the frame is one vehicle). "
        "auto: the detector given with --detector; otherwise, for video and cameras, the one installed by "
        "`twincar-edge detector pull`, or motion without one; for images, whole.  "
        "[default: auto]",
    ),
    option(
        "--zone",
        "zones",
        group="Locating",
        common=True,
        multiple=True,
        metavar='"X,Y X,Y X,Y"',
        help="Count only vehicles inside this polygon, or the rectangle between two corners: in pixels, or in shares "
        "of the frame from 0 to 1. The prefix NAME= names the zone, exclude= excludes it. Repeatable.",
    ),
    option(
        "--min-area",
        group="Locating",
        metavar="SHARE",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        help="Ignore moving objects smaller than this share of the frame, from 0 to 1.  [default: 0.01]",
    ),
    option(
        "--detect-classes",
        group="Locating",
        metavar="NAME,…",
        help="Detect these classes, by COCO name or number, or any.  [default: car,bus,truck,motorcycle]",
    ),
    option(
        "--detect-score",
        group="Locating",
        metavar="SCORE",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        help="Start a track at this score, from 0 to 1; a vehicle that is tracked needs a third of it.  [default: 0.3]",
    ),
    option(
        "--stride", group="Source", metavar="N", type=click.IntRange(min=1), help="Use every Nth frame.  [default: 1]"
    ),
    option(
        "--once",
        group="Source",
        is_flag=True,
        help="Stop after the images now in a folder, instead of waiting for new ones.",
    ),
    option(
        "--classify-every",
        group="Model",
        metavar="N",
        type=click.IntRange(min=1),
        help="Classify each vehicle in every Nth frame that shows it.  [default: 1]",
    ),
    option(
        "--lost-after",
        "lost_after_s",
        group="Tracking",
        metavar="SECONDS",
        type=click.FloatRange(min=0, min_open=True),
        help="End a visit after its vehicle has been out of sight for this long, in seconds.  [default: 1]",
    ),
    option(
        "--parked-after",
        "parked_after_s",
        group="Tracking",
        metavar="SECONDS",
        type=click.FloatRange(min=0, min_open=True),
        help="Treat a vehicle as parked after it has stood still for this long, in seconds; its visit then continues "
        "even while it is not found.  [default: 3]",
    ),
    option(
        "--parked-for",
        "parked_for_s",
        group="Tracking",
        metavar="SECONDS",
        type=click.FloatRange(min=0, min_open=True),
        help="End the visit of a parked vehicle that is not found for this long, in seconds.  [default: 86400]",
    ),
    option(
        "--early-start",
        group="Events",
        is_flag=True,
        help="Send the start event with a visit's first answer, marked provisional until the vehicle is confirmed.",
    ),
)

# Each sets a top-level key of the file, or a key of [[sink]].
run_options = _all(
    option(
        "--model",
        group="Model",
        common=True,
        type=_PATH,
        help="Classify with this exported .onnx file.  [default: the bundled model]",
    ),
    option(
        "--ep",
        group="Model",
        common=True,
        help="Run the model on this execution provider: auto, cpu, openvino, cuda, …  [default: auto]",
    ),
    option(
        "--threads",
        group="Model",
        metavar="N",
        type=click.IntRange(min=1),
        help="Run one inference on this many CPU threads.  [default: all usable cores but one]",
    ),
    option(
        "--batch",
        group="Model",
        metavar="N",
        type=click.IntRange(min=1),
        help="Classify up to this many crops in one inference.  [default: 8]",
    ),
    option(
        "--allow-drift",
        group="Model",
        is_flag=True,
        help="Run a model even if its answers to its golden inputs differ from those at export.",
    ),
    option(
        "--model-sha256",
        group="Model",
        metavar="HEX",
        help="Run only the model file with this SHA-256, as printed by `inspect` or `sha256sum`.",
    ),
    option(
        "--require-signature",
        group="Model",
        metavar="KEY.pub",
        type=_PATH,
        help="Run only models signed by `twincar-edge sign` with the private key of this public key.",
    ),
    option(
        "--detector",
        group="Locating",
        type=_PATH,
        help="Find vehicles with this detector, a YOLOX ONNX file.  [default: the one in the state folder]",
    ),
    option(
        "--duration",
        "duration_s",
        group="Source",
        metavar="SECONDS",
        type=click.FloatRange(min=0, min_open=True),
        help="Stop after this long, in seconds.  [default: when the source ends]",
    ),
    option(
        "--keep-trying", group="Source", is_flag=True, help="Keep retrying a camera that cannot be opened at the start."
    ),
    option(
        "-o",
        "--output",
        group="Events",
        common=True,
        type=_PATH,
        help="Append events to this .jsonl or .csv file, instead of printing JSON lines.",
    ),
    option(
        "--store",
        group="Events",
        metavar="PATH|none",
        shell_complete=complete_files,
        help="Store events in this database; none disables the store.  [default: one in the state folder]",
    ),
    option(
        "--store-limit",
        group="Events",
        metavar="SIZE",
        help="Remove the oldest events when the database exceeds this size, for example 500MB.",
    ),
    option("--store-age", group="Events", metavar="TIME", help="Remove events older than this, for example 365d."),
    option(
        "--state",
        group="Service",
        type=_PATH,
        help="Keep persistent state in this folder.  [default: $TWINCAR_STATE, or the system's]",
    ),
    option("--webhook", group="Events", common=True, metavar="URL", help="POST events to this URL, signed."),
    option(
        "--mqtt",
        group="Events",
        common=True,
        metavar="mqtt[s]://HOST[:PORT][/TOPIC]",
        help="Publish events to this MQTT broker.",
    ),
    option(
        "--save-crops",
        group="Pictures",
        common=True,
        type=_PATH,
        help="Save the best picture of each vehicle to this folder.",
    ),
    option(
        "--crops-limit",
        group="Pictures",
        metavar="SIZE",
        help="Remove the oldest pictures when their total exceeds this size, for example 500MB.",
    ),
    option("--crops-age", group="Pictures", metavar="TIME", help="Remove pictures older than this, for example 30d."),
    option("--save-clips", group="Pictures", type=_PATH, help="Save a short video of each vehicle to this folder."),
    option(
        "--clips-limit",
        group="Pictures",
        metavar="SIZE",
        help="Remove the oldest videos when their total exceeds this size, for example 2GB.",
    ),
    option("--clips-age", group="Pictures", metavar="TIME", help="Remove videos older than this, for example 7d."),
    option(
        "--monitor",
        group="Service",
        metavar="HOST:PORT",
        help="Serve /metrics and /healthz at this address, for example 127.0.0.1:9464.",
    ),
    option(
        "--page",
        cls=PageOption,
        group="Service",
        common=True,
        metavar="[HOST:PORT]",
        help=f"Serve the web page: cameras, visits, explanations. Needs the extra `page`.  [default: {PAGE_ADDRESS}]",
    ),
    option(
        "--collect", group="Pictures", type=_PATH, help="Save pictures that the model is unsure about to this folder."
    ),
    option(
        "--collect-limit",
        group="Pictures",
        metavar="SIZE",
        help="Remove the oldest collected pictures when their total exceeds this size.  [default: 500MB]",
    ),
)
