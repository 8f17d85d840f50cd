"""`twincar-edge watch`: turn cameras, videos or folders into vehicle events."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from twincar_edge.cli import EXIT_INTERRUPTED
from twincar_edge.cli.completion import complete_files
from twincar_edge.cli.groups import GroupedCommand, option
from twincar_edge.cli.logs import log_to_stderr
from twincar_edge.cli.options import check_needs
from twincar_edge.cli.page_option import announce
from twincar_edge.cli.pipes import discard_output
from twincar_edge.cli.stopping import stop_signals
from twincar_edge.cli.watch_flags import GROUPS, camera_options, run_options
from twincar_edge.cli.watch_options import watch_config
from twincar_edge.cli.written import print_written
from twincar_edge.errors import InputError, one_line, parameter_spelling
from twincar_edge.wording import counted

if TYPE_CHECKING:
    from twincar_edge.runtime.annotating.window import Windows
    from twincar_edge.runtime.configuration.config import WatchConfig
    from twincar_edge.runtime.page.server import PageServer
    from twincar_edge.runtime.truth import Pass
    from twincar_edge.runtime.watch import WatchSummary


@click.command("watch", cls=GroupedCommand, groups=GROUPS)
@click.argument("source", required=False, shell_complete=complete_files)
@option(
    "--config",
    "config_file",
    group="Source",
    common=True,
    type=click.Path(path_type=Path),
    help="Read cameras, sinks and all other settings from this file instead of SOURCE and the options. Events go only "
    "to the sinks in the file, or to standard output if it has none.",
)
@camera_options
@run_options
@option(
    "--truth",
    group="Events",
    type=click.Path(path_type=Path),
    help="Compare the visits with this ground-truth file of a clip, as written by `synthesize clip`.",
)
@option(
    "--json",
    "as_json",
    group="Events",
    is_flag=True,
    help="Print events as JSON lines even on a terminal, instead of a table.",
)
@option(
    "--annotate",
    group="Pictures",
    type=Path,  # `click.Path` would examine the file here, without a limit if its disk hangs
    shell_complete=complete_files,
    metavar="FILE.mp4",
    help="Write an annotated video with boxes, trails, zones, answers and ignored objects. {camera} in the name is "
    "replaced by the camera's name. Needs the extra `clips`.",
)
@option("--show", group="Pictures", is_flag=True, help="Show the annotated video in a window; q or Esc ends the run.")
def command(
    source: str | None,
    config_file: Path | None,
    truth: Path | None,
    annotate: Path | None,
    show: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Watch SOURCE and report events for each vehicle that passes.

    SOURCE is /dev/video0, a camera's index, an rtsp:// or http:// stream, a video file, a folder of images (those
    present, then new ones as they arrive), or a quoted pattern. Events are printed as a table on a terminal, and as
    JSON lines otherwise; they are also stored for `twincar-edge events`. docs/events.md describes the events,
    docs/sinks.md the other destinations.

    A lost camera is reopened until it answers. Ctrl-C ends the run with a summary (exit code 130), and so does
    SIGTERM (exit code 0). With --page and a file, the page stays up until Ctrl-C if standard error is a terminal.
    SIGHUP reloads the model file, if it passes its checks. With a live camera, a log goes to standard error.
    """
    from twincar_edge.runtime.service import Service
    from twincar_edge.runtime.sources import is_camera

    check_needs({"collect_limit": ("collect",)})
    config = watch_config(source, config_file, options, terminal=sys.stdout.isatty() and not as_json)
    if truth is not None:
        config = config.model_copy(update={"keep": True})
    passes = None if truth is None else _read_truth(truth, config.model)
    stop = threading.Event()
    served = config.monitor is not None or any(is_camera(camera.source, once=camera.once) for camera in config.cameras)
    with (
        _spelling(config_file),
        log_to_stderr() if served else contextlib.nullcontext(),
        stop_signals(stop) as received,
    ):
        windows = _windows(config) if show else None
        service = Service(config, stop=stop, annotate=annotate, on_frame=windows)
        with service, _on_hangup(service.reload):
            if service.page is not None:
                announce(service.page)
            summary = service.run() if windows is None else windows.run(service.run, stop)
            if service.page is not None and not stop.is_set():
                _keep_page(service.page, stop)
                received.clear()  # Ctrl-C ended the page, not the run
        if service.reader_gone.is_set():
            discard_output()
            return
    _print_summary(summary)
    click.echo(f"  events went to: {one_line(service.destinations)}", err=True)
    lost = [sink for sink in service.status().sinks if sink.dropped]
    for sink in lost:
        why = sink.problem or "the sink was too slow, or failed for a time"
        click.echo(f"  {sink.name} lost {counted(sink.dropped, 'event')}: {why}", err=True)
    for video in service.videos:
        dropped = f"; {video.dropped} dropped because encoding was too slow" if video.dropped else ""
        print_written(video.path, about=f"{counted(video.frames, 'frame')}{dropped}", err=True)
    if passes is not None:
        from twincar_edge.runtime.truth import score_visits

        click.echo(f"  truth: {score_visits(passes, summary.results).summary()}", err=True)
    if signal.SIGINT in received:
        click.get_current_context().exit(EXIT_INTERRUPTED)
    if lost and not received:
        click.get_current_context().exit(InputError.exit_code)


def _keep_page(page: PageServer, stop: threading.Event) -> None:
    """Keep the page of a file open at a terminal until Ctrl-C; in a script, return at once."""
    if sys.stderr.isatty():
        click.echo(f"the source has ended; the page stays open until Ctrl-C: {page.url}", err=True)
        stop.wait()
    else:
        click.echo("the source has ended, so the page is closed: run `twincar-edge page` to see its visits", err=True)


def _windows(config: WatchConfig) -> Windows:
    from twincar_edge.runtime.annotating.window import Windows

    return Windows(config.cameras)


@contextlib.contextmanager
def _on_hangup(reload: Callable[[], None]) -> Iterator[None]:
    before = signal.signal(signal.SIGHUP, lambda *_: reload())
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _read_truth(truth: Path, model: Path | None) -> list[Pass]:
    """Read the ground truth before the run, so that an error in it is reported at once."""
    from twincar_edge.bundled import default_model
    from twincar_edge.manifest import read_manifest
    from twincar_edge.runtime.truth import read_truth

    return read_truth(truth, read_manifest(model or default_model()).class_mapping)


def _spelling(config_file: Path | None) -> AbstractContextManager[None]:
    """Spell parameters in messages as keys of the configuration file, if there is one."""
    from twincar_edge.runtime.configuration.config_file import key_spelling

    return contextlib.nullcontext() if config_file is None else parameter_spelling(key_spelling)


def _print_summary(summary: WatchSummary) -> None:
    """Print the summary of the run to standard error; standard output carries only events."""
    for camera in summary.cameras:
        skipped = ", ".join(f"{count} {reason}" for reason, count in camera.skip_reasons.items())
        line = (
            f"{one_line(camera.source)}: {counted(camera.visits, 'visit')} in {counted(camera.frames, 'frame')}, "
            f"{summary.seconds:.1f} s, "
            f"{camera.frames / summary.seconds if summary.seconds else 0.0:.1f} fps; skipped: {skipped or 'none'}"
        )
        lost = {"frames dropped": camera.dropped, "crops dropped": camera.crops_dropped}
        line += "".join(f"; {what}: {count}" for what, count in lost.items() if count)
        line += f"; reconnected {counted(camera.reconnects, 'time')}" if camera.reconnects else ""
        click.echo(line + (f"; ended by: {camera.error}" if camera.error else ""), err=True)
        click.echo(f"  located by: {camera.located_by}", err=True)
        for note in camera.notes:
            click.echo(f"  {note}", err=True)
    for name, stage in summary.stages.items():
        click.echo(
            f"  {name:<9} p50 {stage.p50_ms:8.2f} ms   p95 {stage.p95_ms:8.2f} ms   {counted(stage.runs, 'run')}",
            err=True,
        )
