"""Limits for CI, the comparison of two reports, and the plot of latency against accuracy."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import pytest

from twincar_edge.benchmarks import (
    BenchmarkReport,
    Latency,
    Limits,
    Row,
    Timing,
    check_limits,
    compare,
    write_report,
)
from twincar_edge.benchmarks.formats import reasons
from twincar_edge.benchmarks.gates import breaches
from twincar_edge.benchmarks.plot import pareto_front
from twincar_edge.cli import main
from twincar_edge.errors import GateError, InputError
from twincar_edge.machine import this_machine
from twincar_edge.runtime.timing import Sample


def row(ms: float = 4.0, **fields: Any) -> Row:
    known: dict[str, Any] = dict(
        model="car", file="car.int8.onnx", sha256="a" * 64, weights="b" * 64, size_mb=4.2, precision="int8",
        ep_asked="cpu", ep="cpu", threads=2, batch=1, spinning=True, top1=0.92, top5=0.98,
        timing=Timing.of([Sample(1.0, ms - 1.5, 0.5)] * 4, 1),
    )  # fmt: skip
    return Row(**(known | fields))


def report(*rows: Row, **fields: Any) -> BenchmarkReport:
    known: dict[str, Any] = dict(
        created=datetime(2025, 1, 1, tzinfo=UTC), machine=this_machine(), versions={"onnxruntime": "1.31.0"},
        images="cars", data=None, warmup=1, rounds=2, per_round=2, auto="auto takes cpu",
    )  # fmt: skip
    return BenchmarkReport(rows=rows, **(known | fields))


PEER = row(60.0, model="ResNet50", peer="quickstart", ep="PyTorch eager", top1=None, top5=None)
FAILED = row(timing=None, ep=None, top1=None, top5=None, status="its process crashed")


@pytest.mark.parametrize(
    ("limits", "messages"),
    [
        (Limits(), []),
        (Limits(min_top5=98, max_p95_ms=4.01), []),
        (Limits(max_p95_ms=3), ["car int8 on cpu, batch 1, threads 2: p95 is 4.00 ms (limit 3 ms)"]),
        (Limits(min_top5=98.5), ["car int8 on cpu, batch 1, threads 2: top-5 is 98.00% (limit 98.5%)"]),
    ],
)
def test_limits_apply_to_rows_but_not_to_peers(limits: Limits, messages: list[str]) -> None:
    assert breaches(report(PEER, row()), limits) == messages


def test_a_limit_for_top5_is_met_by_the_same_figure() -> None:
    assert 100 * 0.58 < 58
    assert breaches(report(row(top5=0.58)), Limits(min_top5=58)) == []


def test_an_unmeasured_row_meets_no_limit() -> None:
    (failed,) = breaches(report(FAILED), Limits(max_p95_ms=10))
    assert "its process crashed" in failed
    (unrated,) = breaches(report(row(top5=None)), Limits(min_top5=90))
    assert "was not measured" in unrated
    with pytest.raises(GateError) as missed:
        check_limits(report(FAILED), Limits(max_p95_ms=10))
    assert missed.value.exit_code == 1


@pytest.mark.parametrize("figures", [{"min_top5": 101}, {"min_top5": -1}, {"max_p95_ms": 0}, {"max_p95_ms": -2}])
def test_an_invalid_limit_is_rejected(figures: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Limits(**figures)


def test_the_same_row_of_two_reports_is_compared() -> None:
    found = compare(report(PEER, row(4.0), row(8.0, batch=8)), report(row(2.0, top5=0.985), row(9.0, threads=1)))
    (change,) = found.changes
    assert (change.p50_before_ms, change.p50_after_ms, change.times_p50) == pytest.approx((4, 2, 2))
    assert change.top5_change == pytest.approx(0.005)
    assert len(found.only_before) == 2 and len(found.only_after) == 1
    assert found.cautions == ()


def test_rows_that_differ_only_in_their_file_are_matched_by_it() -> None:
    before = report(row(4.0, file="a.onnx"), row(6.0, file="b.onnx"), row(9.0, file="c.onnx"))
    after = report(row(3.0, file="b.onnx"), row(4.0, file="a.onnx"))
    found = compare(before, after)
    assert [(change.label.rpartition(", ")[2], change.p50_before_ms) for change in found.changes] == [
        ("b.onnx", 6.0),
        ("a.onnx", 4.0),
    ]
    assert found.only_before == ("car int8 on cpu, batch 1, threads 2, c.onnx",)
    same = compare(report(row(4.0), row(6.0)), report(row(2.0), row(3.0)))  # in two folders
    assert [change.times_p50 for change in same.changes] == [2, 2]


def test_a_row_that_failed_after_its_timing_is_incomplete() -> None:
    lines = reasons(report(row(status="its process crashed"), FAILED, row()))
    assert [line.partition(":")[0] for line in lines] == ["incomplete", "not measured"]


def test_reasons_for_caution_are_listed() -> None:
    other = this_machine().model_copy(update={"cpu": "Another"})
    after = report(
        row(sha256="c" * 64), machine=other, versions={"onnxruntime": "1.32.0"}, images="others", interrupted=True
    )
    cautions = "\n".join(compare(report(row()), after).cautions)
    for word in ("Another", "onnxruntime 1.31.0 and 1.32.0", "others", "the files of car differ", "not all rounds"):
        assert word in cautions


def command(*args: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in args])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_bench_compare_prints_the_ratios(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = tmp_path / "a.json", tmp_path / "b.json"
    write_report(report(row(4.0)), before)
    write_report(report(row(2.0), FAILED), after)
    assert command("bench", "compare", before, after) == 0
    out, err = capsys.readouterr()
    assert "2.00 (2.00 to 2.00)" in out and "faster" in out and "car int8 on cpu" in out and err == ""


def noisy(*rounds_ms: float) -> Row:
    """Return a row whose rounds, of two runs each, took these times."""
    return row(timing=Timing.of([Sample(1.0, ms - 1.5, 0.5) for ms in rounds_ms for _ in range(2)], 1))


def test_a_ratio_has_an_interval_over_rounds_and_a_verdict() -> None:
    before = report(noisy(4.0, 4.4, 3.8, 4.1, 4.2, 3.9))
    for after, verdict in [
        (noisy(2.0, 2.1, 1.9, 2.2, 2.0, 2.1), "faster"),
        (noisy(8.0, 8.1, 7.9, 8.2, 8.0, 8.1), "slower"),
        (noisy(3.9, 4.5, 3.7, 4.2, 4.3, 3.8), "within noise"),
    ]:
        (change,) = compare(before, report(after)).changes
        assert change.interval is not None
        low, high = change.interval
        assert low <= change.times_p50 <= high
        assert change.verdict == verdict


def test_the_interval_is_resampled_over_rounds_instead_of_runs() -> None:
    """A few slow rounds of many runs are a few accidents, not many samples of a slower program."""
    slow = [Sample(1.0, 7.0, 0.0)] * 30 + [Sample(1.0, 3.0, 0.0)] * 20
    steady = [Sample(1.0, 3.0, 0.0)] * 50
    reports = [report(row(timing=Timing.of(samples, 1)), per_round=10) for samples in (slow, steady)]
    (change,) = compare(*reports).changes
    assert change.times_p50 == 2
    assert change.verdict == "within noise"


def test_without_two_rounds_a_ratio_has_no_interval() -> None:
    one = report(row(), per_round=4)
    (change,) = compare(one, one).changes
    assert (change.interval, change.verdict) == (None, "–")


def test_comparing_reports_without_common_rows_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = tmp_path / "a.json", tmp_path / "b.json"
    write_report(report(row(batch=8)), before)
    write_report(report(row()), after)
    assert command("bench", "compare", before, after) == 2
    assert "no measured row in common" in capsys.readouterr().err


def test_a_missed_limit_is_exit_code_1_after_the_report_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("twincar_edge.cli.bench.run", lambda *_, **__: report(row(4.0)))
    output = tmp_path / "results.json"
    assert command("bench", "--max-p95", 3, "-o", output) == 1
    assert output.is_file()
    assert "p95 is 4.00 ms (limit 3 ms)" in capsys.readouterr().err
    assert command("bench", "--max-p95", 5) == 0


def test_no_point_beats_a_point_of_the_pareto_front_in_both_dimensions() -> None:
    points = [(4.0, 98.0), (2.0, 97.0), (3.0, 96.0), (5.0, 98.0), (9.0, 99.0), (2.0, 95.0)]
    assert pareto_front(points) == [1, 0, 4]
    assert pareto_front([]) == []


def test_latency_is_plotted_against_accuracy(tmp_path: Path) -> None:
    drawn = report(row(4.0), row(2.0, top5=0.95, precision="fp16"), row(9.0, top5=0.9), PEER, FAILED)
    write_report(drawn, tmp_path / "front.png")
    picture = cv2.imread(str(tmp_path / "front.png"))
    assert picture is not None and picture.shape[0] > 400
    blue = (picture.astype(int) - (0xA8, 0x5F, 0x1F)).__abs__().sum(axis=2) < 12
    assert blue.sum() > 200  # points and line of the Pareto front
    write_report(report(PEER), tmp_path / "unrated.png")
    with pytest.raises(InputError, match="no row was measured"):
        write_report(report(FAILED), tmp_path / "nothing.png")


def test_all_latency_figures_of_one_sample_equal_it() -> None:
    latency = Latency.of([3.0])
    assert set(latency.model_dump().values()) == {3.0}
