"""The options of `watch`, each in a group of its help.

No option has a default of its own: what is not given is not passed on, and the configuration's default stands. The
help repeats it, since reading it from there would load half the runtime first.
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
GROUPS = ("Source", "Locating", "Tracking", "Model", "Events", "Pictures", "Service")  # of the help
_PATH = click.Path(path_type=Path)


def _all(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


# Each is a key of [[cameras]].
camera_options = _all(
    option("--name", group="Source", help="Call the camera so in events and metrics.  [default: camera]"),
    option("--size", group="Source", metavar="WxH", help="Ask a local camera for frames of this size, in pixels."),
    option(
        "--poll",
        "poll_s",
        group="Source",
        metavar="TIME",
        help="Ask an HTTP camera that gives one picture a request for the next after this time.  [default: 1s]",
    ),
    option(
        "--max-frame-megapixels",
        group="Source",
        metavar="N",
        type=click.FloatRange(0, 250, min_open=True),
        help="Refuse video and leave out images whose pictures are larger, in millions of pixels.  [default: 40]",
    ),
    option(
        "--locate",
        group="Locating",
        common=True,
        type=click.Choice(["auto", "whole", "zone", "motion", "detector"]),
        help="How to find vehicles: by motion before a fixed camera, in zones, with a detector, or the whole frame as "
        "one. auto: a detector where one is named; for video and cameras the one that `twincar-edge detector pull` "
        "has got, else motion; for images whole.  "
        "[default: auto]",
    ),
    option(
        "--zone",
        "zones",
        group="Locating",
        common=True,
        multiple=True,
        metavar='"X,Y X,Y X,Y"',
        help="Count only what lies inside this polygon, or the rectangle between two corners: in pixels, or in shares "
        "of the frame from 0 to 1. NAME= in front names the zone, exclude= leaves it out. Repeatable.",
    ),
    option(
        "--min-area",
        group="Locating",
        metavar="SHARE",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        help="Ignore moving things below this share of the frame, from 0 to 1.  [default: 0.01]",
    ),
    option(
        "--detect-classes",
        group="Locating",
        metavar="NAME,…",
        help="Let the detector look for these classes, by COCO name or number, or any.  [default: "
        "car,bus,truck,motorcycle]",
    ),
    option(
        "--detect-score",
        group="Locating",
        metavar="SCORE",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        help="Ignore detections below this score, from 0 to 1.  [default: 0.3]",
    ),
    option(
        "--stride", group="Source", metavar="N", type=click.IntRange(min=1), help="Use every Nth frame.  [default: 1]"
    ),
    option(
        "--once", group="Source", is_flag=True, help="Stop after the images that a folder has now; wait for no more."
    ),
    option(
        "--classify-every",
        group="Model",
        metavar="N",
        type=click.IntRange(min=1),
        help="Classify a vehicle in every Nth frame that shows it.  [default: 1]",
    ),
    option(
        "--lost-after",
        "lost_after_s",
        group="Tracking",
        metavar="SECONDS",
        type=click.FloatRange(min=0, min_open=True),
        help="End a visit when its vehicle has been out of sight for this long.  [default: 1]",
    ),
    option(
        "--parked-after",
        "parked_after_s",
        group="Tracking",
        metavar="SECONDS",
        type=click.FloatRange(min=0, min_open=True),
        help="Count a vehicle as parked when it has stood still for this long; its visit then continues while it "
        "is not found.  [default: 3]",
    ),
    option(
        "--parked-for",
        "parked_for_s",
        group="Tracking",
        metavar="SECONDS",
        type=click.FloatRange(min=0, min_open=True),
        help="End the visit of a parked vehicle that has not been found for this long.  [default: 86400]",
    ),
    option(
        "--early-start",
        group="Events",
        is_flag=True,
        help="Send a visit's start with its first answer, marked provisional until the vehicle is confirmed.",
    ),
)

# Each is a key at the top of the file, or of [[sink]].
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
        help="Run a model even if its answers to its golden inputs differ from those of its export.",
    ),
    option(
        "--model-sha256",
        group="Model",
        metavar="HEX",
        help="Run no other model file than that with this SHA-256, as `inspect` and `sha256sum` print it.",
    ),
    option(
        "--require-signature",
        group="Model",
        metavar="KEY.pub",
        type=_PATH,
        help="Run only models that `twincar-edge sign` has signed with the private key of this public one.",
    ),
    option(
        "--detector",
        group="Locating",
        type=_PATH,
        help="Find vehicles with this detector, an ONNX file in the layout of YOLOX.  [default: the one in the state "
        "folder]",
    ),
    option(
        "--duration",
        "duration_s",
        group="Source",
        metavar="SECONDS",
        type=click.FloatRange(min=0, min_open=True),
        help="Stop after this long.  [default: when the source ends]",
    ),
    option("--keep-trying", group="Source", is_flag=True, help="Wait for a camera that cannot be opened yet."),
    option(
        "-o",
        "--output",
        group="Events",
        common=True,
        type=_PATH,
        help="Append the events to this .jsonl or .csv file instead of writing them to standard output.",
    ),
    option(
        "--store",
        group="Events",
        metavar="PATH|none",
        shell_complete=complete_files,
        help="Keep the events in this database, or in none.  [default: one in the state folder]",
    ),
    option(
        "--store-limit",
        group="Events",
        metavar="SIZE",
        help="Remove the oldest events when the database exceeds this size, such as 500MB.",
    ),
    option("--store-age", group="Events", metavar="TIME", help="Remove events older than this, such as 365d."),
    option(
        "--state",
        group="Service",
        type=_PATH,
        help="Keep what outlives a run in this folder.  [default: $TWINCAR_STATE, or the system's]",
    ),
    option("--webhook", group="Events", common=True, metavar="URL", help="Send the events to this address, signed."),
    option(
        "--mqtt",
        group="Events",
        common=True,
        metavar="mqtt[s]://HOST[:PORT][/TOPIC]",
        help="Publish the events at this broker.",
    ),
    option(
        "--save-crops",
        group="Pictures",
        common=True,
        type=_PATH,
        help="Save each vehicle's best picture in this folder.",
    ),
    option(
        "--crops-limit",
        group="Pictures",
        metavar="SIZE",
        help="Remove the oldest pictures when all together exceed this size, such as 500MB.",
    ),
    option("--crops-age", group="Pictures", metavar="TIME", help="Remove pictures older than this, such as 30d."),
    option("--save-clips", group="Pictures", type=_PATH, help="Save a short video of each vehicle in this folder."),
    option(
        "--clips-limit",
        group="Pictures",
        metavar="SIZE",
        help="Remove the oldest videos when all together exceed this size, such as 2GB.",
    ),
    option("--clips-age", group="Pictures", metavar="TIME", help="Remove videos older than this, such as 7d."),
    option(
        "--monitor",
        group="Service",
        metavar="HOST:PORT",
        help="Serve /metrics and /healthz at this address, such as 127.0.0.1:9464.",
    ),
    option(
        "--page",
        cls=PageOption,
        group="Service",
        common=True,
        metavar="[HOST:PORT]",
        help=f"Serve the web page: cameras, visits, explanations. Needs the extra `page`.  [default: {PAGE_ADDRESS}]",
    ),
    option("--collect", group="Pictures", type=_PATH, help="Save pictures that the model is unsure of in this folder."),
    option(
        "--collect-limit",
        group="Pictures",
        metavar="SIZE",
        help="Remove the oldest of these when all together exceed this size.  [default: 500MB]",
    ),
)
