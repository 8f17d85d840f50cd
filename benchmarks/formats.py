"""Formats a report as table cells, CSV, Markdown or a plot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from twincar_edge.benchmarks.plot import plot_front
from twincar_edge.benchmarks.report import OK, STEPS, BenchmarkReport, Latency, Ratio, Row
from twincar_edge.csv_lines import csv_line
from twincar_edge.errors import InputError
from twincar_edge.files import write_text
from twincar_edge.markdown import table

NONE = "–"
COLUMNS = (
    "Model", "Precision", "EP asked", "EP actual", "Threads", "Batch", "MB", "Top-1", "Top-5", "Top-5 change",
    "Pre ms", "Infer ms", "Post ms", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "FPS", "× first", "Status",
)  # fmt: skip
PACED_COLUMNS = (
    "Model", "Precision", "EP actual", "Threads", "In time", "FPS", "Decode ms", "Pre ms", "Infer ms", "p50 ms",
    "p95 ms", "p99 ms", "Last tenth by first", "MHz", "Cores busy", "Status",
)  # fmt: skip
START_COLUMNS = (
    "Model", "Precision", "EP actual", "Batch", "Import ms", "Open ms", "First ms", "Peak MB", "GPU MB", "Mean ms",
    "Least ms", "× first", "× first, infer",
)  # fmt: skip
_PLAIN = (
    "model", "file", "sha256", "weights", "size_mb", "precision", "ep_asked", "ep", "threads", "batch", "spinning",
    "top1", "top5", "top5_change", "peak_mb", "gpu_mb", "status",
)  # fmt: skip
_RATIOS = ("times_first", "times_first_infer")
_PACED = ("fps", "duration_s", "frames", "answered", "in_time", "sustained_fps", "slowdown", "cores_busy")
_CSV_COLUMNS = (
    *_PLAIN, "nodes", "fps", *(f"{step}_{figure}" for step in (*STEPS, "total") for figure in Latency.model_fields),
    *(f"{ratio}_{figure}" for ratio in _RATIOS for figure in Ratio.model_fields), "import_ms", "open_ms", "first_ms",
    *(f"paced_{name}" for name in _PACED), "paced_mhz_first", "paced_mhz_last",
    *(f"paced_latency_{figure}" for figure in Latency.model_fields),
)  # fmt: skip


def cells(report: BenchmarkReport) -> list[tuple[str, ...]]:
    """Return the cells of `COLUMNS` for each row, or of `PACED_COLUMNS` at a camera's pace."""
    return [(_paced_cells if is_paced(report) else _cells)(row) for row in report.rows]


def columns(report: BenchmarkReport) -> tuple[str, ...]:
    """Return the column headings of the table."""
    return PACED_COLUMNS if is_paced(report) else COLUMNS


def is_paced(report: BenchmarkReport) -> bool:
    """Return whether frames came at a camera's pace."""
    return any(row.paced for row in report.rows)


def to_csv(report: BenchmarkReport) -> str:
    """Return the report as CSV with one line per row; times in milliseconds, shares from 0 to 1."""
    return "".join(map(csv_line, [_CSV_COLUMNS, *map(_csv_row, report.rows)]))


def to_markdown(report: BenchmarkReport) -> str:
    """Return the report as Markdown: the conditions and the tables."""
    lines = ["# Benchmark", "", *(f"- {line}" for line in report.conditions()), ""]
    lines += table(columns(report), cells(report))
    started = [_start_cells(row) for row in report.rows if row.start is not None]
    if started:
        lines += ["", "Start, memory, and ratios with 95% intervals:", "", *table(START_COLUMNS, started)]
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    timing = row.timing
    times = [NONE] * 8
    if timing is not None:
        total = timing.total
        medians = [timing.pre.p50_ms, timing.infer.p50_ms, timing.post.p50_ms]
        times = [_ms(value) for value in (*medians, total.p50_ms, total.p90_ms, total.p95_ms, total.p99_ms)]
        times.append(f"{timing.fps:.1f}")
    return (
        row.model, row.precision, row.ep_asked, ran(row), _or_none(row.threads, "d"), str(row.batch),
        _or_none(row.size_mb, ".1f"), _or_none(row.top1, ".2%"), _or_none(row.top5, ".2%"), _change(row.top5_change),
        *times, _or_none(None if row.times_first is None else row.times_first.median, ".2f"), row.status,
    )  # fmt: skip


def _paced_cells(row: Row) -> tuple[str, ...]:
    paced = row.paced
    figures = [NONE] * 11
    if paced is not None:
        mhz = NONE
        if paced.mhz_first is not None and paced.mhz_last is not None:
            mhz = f"{paced.mhz_first:.0f} to {paced.mhz_last:.0f}"
        latency = paced.latency
        figures = [
            f"{paced.in_time:.2%}", f"{paced.sustained_fps:.2f}", _ms(paced.decode.p50_ms), _ms(paced.pre.p50_ms),
            _ms(paced.infer.p50_ms), _ms(latency.p50_ms), _ms(latency.p95_ms), _ms(latency.p99_ms),
            f"{paced.slowdown:.2f}", mhz, f"{paced.cores_busy:.2f}",
        ]  # fmt: skip
    return (row.model, row.precision, ran(row), _or_none(row.threads, "d"), *figures, row.status)


def _start_cells(row: Row) -> tuple[str, ...]:
    start, timing = row.start, row.timing
    assert start is not None
    return (
        row.model, row.precision, ran(row), str(row.batch), f"{start.import_ms:.0f}", f"{start.open_ms:.0f}",
        f"{start.first_ms:.1f}", _or_none(row.peak_mb, ".0f"), _or_none(row.gpu_mb, ".0f"),
        *((NONE, NONE) if timing is None else (_ms(timing.total.mean_ms), _ms(timing.total.min_ms))),
        ratio(row.times_first), ratio(row.times_first_infer),
    )  # fmt: skip


def ran(row: Row) -> str:
    """Return the actual providers of a row with their numbers of nodes: `cpu (72)`, `cuda 70, cpu 2`."""
    if row.ep is None:
        return NONE
    if not row.nodes:
        return row.ep
    if len(row.nodes) == 1:
        return f"{row.ep} ({next(iter(row.nodes.values()))})"
    return ", ".join(f"{name} {count}" for name, count in row.nodes.items())


def ratio(found: Ratio | None) -> str:
    """Return a ratio with its interval, if it has one."""
    if found is None:
        return NONE
    return f"{found.median:.2f}" + ("" if found.low is None else f" ({found.low:.2f} to {found.high:.2f})")


def _ms(value: float) -> str:
    return f"{value:.2f}"


def _change(value: float | None) -> str:
    return NONE if value is None else f"{value * 100:+.2f}"


def _or_none(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form)


def _csv_row(row: Row) -> list[object]:
    found: dict[str, object] = row.model_dump(include=set(_PLAIN))
    found["nodes"] = " ".join(f"{name}:{count}" for name, count in (row.nodes or {}).items())
    if row.timing is not None:
        found["fps"] = row.timing.fps
        for step in (*STEPS, "total"):
            found.update(_named(step, getattr(row.timing, step)))
    for name in _RATIOS:
        if (value := getattr(row, name)) is not None:
            found.update(_named(name, value))
    if row.start is not None:
        found.update(row.start.model_dump())
    if row.paced is not None:
        found.update({f"paced_{name}": getattr(row.paced, name) for name in (*_PACED, "mhz_first", "mhz_last")})
        found.update(_named("paced_latency", row.paced.latency))
    values = (dict.fromkeys(_CSV_COLUMNS) | found).values()
    return [value for _, value in zip(_CSV_COLUMNS, values, strict=True)]  # no figure without a column


def _named(prefix: str, part: Latency | Ratio) -> dict[str, object]:
    return {f"{prefix}_{name}": value for name, value in part.model_dump().items()}


def _as_text(write: Callable[[BenchmarkReport], str]) -> Callable[[BenchmarkReport, Path], None]:
    return lambda report, path: write_text(path, write(report))


# File suffix -> writer.
WRITERS: dict[str, Callable[[BenchmarkReport, Path], None]] = {
    ".json": _as_text(BenchmarkReport.to_json),
    ".csv": _as_text(to_csv),
    ".md": _as_text(to_markdown),
    ".png": plot_front,
}


def check_suffix(path: Path) -> None:
    """Check the suffix of a report's path, before a long measurement.

    Raises:
        InputError: the suffix is not supported.
        MissingExtraError: the suffix is that of a plot, and matplotlib is not installed.
    """
    if path.suffix.lower() not in WRITERS:
        raise InputError(f"cannot write {path}: unsupported suffix; use {', '.join(WRITERS)}")
    if WRITERS[path.suffix.lower()] is plot_front:
        from twincar_edge.errors import require

        require("matplotlib", "bench")


def write_report(report: BenchmarkReport, path: Path) -> None:
    """Write the report in the format of the path's suffix, atomically.

    Raises:
        InputError: the suffix is not supported, the file cannot be written, or there are no rows to plot.
        MissingExtraError: the suffix is that of a plot, and matplotlib is not installed.
    """
    check_suffix(path)
    WRITERS[path.suffix.lower()](report, path)


def reasons(report: BenchmarkReport) -> list[str]:
    """Return a line for each row that was not measured, or not completely, with the reason: too long for a cell."""
    return [
        f"{'not measured' if row.latency is None else 'incomplete'}: {row.file or row.model} on {row.ep_asked}, "
        f"batch {row.batch}: {row.status}"
        for row in report.rows
        if row.status != OK
    ]
