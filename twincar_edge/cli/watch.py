"""`twincar-edge watch`: turn a camera, video or folder into one event per vehicle."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from twincar_edge.cli import EXIT_INTERRUPTED
from twincar_edge.cli.pipes import discard_output

if TYPE_CHECKING:
    from twincar_edge.runtime.sinks import Sink
    from twincar_edge.runtime.truth import Pass
    from twincar_edge.runtime.watch import WatchSummary


@click.command("watch")
@click.argument("source")
@click.option("--model", type=click.Path(path_type=Path), help="An exported .onnx file.  [default: the bundled model]")
@click.option("--ep", default="auto", show_default=True, help="Execution provider.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all]")
@click.option(
    "--allow-drift",
    is_flag=True,
    help="Go on with a model whose answers to its golden inputs are not those of its export.",
)
@click.option(
    "--locate",
    type=click.Choice(["auto", "whole", "zone", "motion"]),
    default="auto",
    show_default=True,
    help="How vehicles are found: by motion before a fixed camera, in zones, or in the whole frame. "
    "auto: motion for video and cameras, the whole frame for images.",
)
@click.option(
    "--zone",
    "zones",
    multiple=True,
    metavar='"X,Y X,Y X,Y"',
    help="A polygon (or two corners of a rectangle) in pixels, or in shares of the frame from 0 to 1. "
    "With motion, only what lies inside counts. May be given again.",
)
@click.option(
    "--min-area",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.01,
    show_default=True,
    help="The least share of the frame that a moving vehicle covers.",
)
@click.option("--stride", type=click.IntRange(min=1), default=1, show_default=True, help="Take every Nth frame.")
@click.option("--once", is_flag=True, help="Of a folder, only the images that are there; do not wait for more.")
@click.option("--duration", type=click.FloatRange(min=0, min_open=True), help="Stop after so many seconds.")
@click.option(
    "--classify-every",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Classify a vehicle in every Nth of its frames.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Append the events to this file, instead of writing them to standard output.",
)
@click.option("--save-crops", type=click.Path(path_type=Path), help="Save each vehicle's best picture in this folder.")
@click.option(
    "--truth",
    type=click.Path(path_type=Path),
    help="What truly drives through a clip, as `synthesize clip` writes it: says in the end how many passes are right.",
)
@click.option("--json", "as_json", is_flag=True, help="Write events to a terminal as JSON lines too, not as a table.")
def command(
    source: str,
    model: Path | None,
    ep: str,
    threads: int | None,
    allow_drift: bool,
    locate: str,
    zones: tuple[str, ...],
    min_area: float,
    stride: int,
    once: bool,
    duration: float | None,
    classify_every: int,
    output: Path | None,
    save_crops: Path | None,
    truth: Path | None,
    as_json: bool,
) -> None:
    """Watch SOURCE and give one event per vehicle that passes.

    SOURCE is /dev/video0, a camera's index, an rtsp:// or http:// stream, a video file, a folder of images (those that
    are there, then new ones as they arrive), or a quoted pattern. Events are JSON lines on standard output, and a
    table on a terminal; docs/events.md describes them. Ctrl-C ends the run with a summary, and so does SIGTERM (exit
    code 0).
    """
    from twincar_edge.runtime.watch import WatchConfig, watch
    from twincar_edge.runtime.zones import parse_zone

    config = WatchConfig(
        source=source,
        model=model,
        ep=ep,
        threads=threads,
        allow_drift=allow_drift,
        locate=locate,
        zones=tuple(parse_zone(zone) for zone in zones),
        min_area=min_area,
        stride=stride,
        once=once,
        duration_s=duration,
        classify_every=classify_every,
        keep=truth is not None,
    )
    passes = None if truth is None else _read_truth(truth, model)
    stop = threading.Event()
    with _signals(stop) as received:
        try:
            summary = watch(config, _sinks(source, output, save_crops, as_json), stop=stop)
        except BrokenPipeError:  # whoever read the events has enough of them
            discard_output()
            return
    _print_summary(summary)
    if passes is not None:
        from twincar_edge.runtime.truth import score_visits

        click.echo(f"  truth: {score_visits(passes, summary.results).summary()}", err=True)
    if signal.SIGINT in received:
        click.get_current_context().exit(EXIT_INTERRUPTED)


@contextlib.contextmanager
def _signals(stop: threading.Event) -> Iterator[list[int]]:
    """Let the first SIGINT or SIGTERM end the run in good order; a second one ends it at once, as by default."""
    received: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        stop.set()
        for one, handler in before.items():
            signal.signal(one, handler)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _sinks(source: str, output: Path | None, save_crops: Path | None, as_json: bool) -> list[Sink]:
    from twincar_edge.runtime.sinks import CropSaver, JsonLines, LiveTable
    from twincar_edge.runtime.sources import redact_url

    sinks: list[Sink] = []
    if output is not None:
        sinks.append(JsonLines(output))
    if sys.stdout.isatty() and not as_json:
        sinks.append(LiveTable(redact_url(source)))
    elif output is None:
        sinks.append(JsonLines())
    if save_crops is not None:
        sinks.append(CropSaver(save_crops))
    return sinks


def _read_truth(truth: Path, model: Path | None) -> list[Pass]:
    """Read the truth before the run: a mistake in it must not show an hour later."""
    from twincar_edge.bundled import default_model
    from twincar_edge.manifest import read_manifest
    from twincar_edge.runtime.truth import read_truth

    return read_truth(truth, read_manifest(model or default_model()).class_mapping)


def _print_summary(summary: WatchSummary) -> None:
    """Say on standard error what the run did: standard output holds events only."""
    skipped = ", ".join(f"{count} {reason}" for reason, count in summary.skip_reasons.items())
    click.echo(
        f"{summary.source}: {summary.visits} visits in {summary.frames} frames, {summary.seconds:.1f} s, "
        f"{summary.fps:.1f} fps; skipped: {skipped or 'none'}",
        err=True,
    )
    for name, stage in summary.stages.items():
        click.echo(f"  {name:<9} p50 {stage.p50_ms:8.2f} ms   p95 {stage.p95_ms:8.2f} ms   {stage.runs} runs", err=True)
