"""Broken model files, detectors, stores, state and truths: commands use them or refuse them with one error line."""

from __future__ import annotations

import base64
import json
import math
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import onnx
import pytest
from onnx import helper

from tests.support.clips import RED_BGR, drive_by, film, write_video
from tests.support.detector_toys import red_detector
from tests.support.event_toys import CROP, visits
from tests.support.fuzzing import CPU, Case, CommandLine, check, damaged, flipped, put
from tests.support.tiny_model import digested, tiny_model, undigested
from twincar_edge.bundled import demo_model
from twincar_edge.golden import GOLDEN_KEY
from twincar_edge.manifest import METADATA_KEY
from twincar_edge.runtime.sinks.store import EventStore

DAMAGED, BUNDLED, FALSE_METADATA, DETECTORS, STORES, JOURNALS, TRUTHS = 200, 30, 200, 30, 60, 24, 30
CASES = DAMAGED + BUNDLED + FALSE_METADATA + DETECTORS + STORES + JOURNALS + TRUTHS
SLOW_CASES = 2 * DAMAGED  # in the tests that are marked slow


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good model, a good detector, a clip and a picture."""
    folder = tmp_path_factory.mktemp("inputs")
    tiny_model(folder / "tiny.onnx", golden=True)
    red_detector(folder / "detector.onnx")
    small = [cv2.resize(image, (64, 48)) for image in film([drive_by(RED_BGR, 1, 8)], 10)]
    write_video(folder / "clip.mp4", small)
    cv2.imwrite(str(folder / "picture.jpg"), small[4])
    return folder


def command_with_model(inputs: Path, number: int) -> tuple[str, ...]:
    """Return a command that reads or runs model.onnx."""
    picture, clip = str(inputs / "picture.jpg"), str(inputs / "clip.mp4")
    commands = [
        ("classify", picture, "--model", "model.onnx", *CPU),
        ("inspect", "model.onnx"),
        ("watch", picture, "--model", "model.onnx", *CPU),
        ("inspect", "--json", "model.onnx"),
        ("classify", picture, "--model", "model.onnx", "--top", "5", *CPU),
        ("watch", clip, "--model", "model.onnx", "--allow-drift", *CPU),
    ]
    return commands[number % len(commands)]


def graph_of(data: bytes) -> tuple[int, int]:
    """Return the start and the end of the graph in a model file."""
    graph = onnx.load_from_string(data).graph.SerializeToString()
    start = data.index(graph)
    return start, start + len(graph)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_damaged_models_are_run_or_refused(seed: int, command_line: CommandLine, inputs: Path, tmp_path: Path) -> None:
    golden = (inputs / "tiny.onnx").read_bytes()
    plain = tiny_model(tmp_path / "plain.onnx").read_bytes()
    cases = []
    for number in range(DAMAGED):
        good = plain if number % 4 else golden
        if number % 2:  # no digest, so that the damaged graph reaches ONNX Runtime
            good = undigested(onnx.load_from_string(good))
            data = flipped(good, f"{seed} {number}", *graph_of(good))
            command = command_with_model(inputs, number - 1)
        else:
            data, command = damaged(good, f"{seed} {number}"), command_with_model(inputs, number // 2)
        cases.append(Case(command, put(tmp_path / str(number), {"model.onnx": data}), f"{seed} {number}"))
    outcomes = command_line.run(cases)
    check(outcomes)
    assert len(outcomes) == DAMAGED
    assert {outcome.status for outcome in outcomes} == {0, 2}


def test_damaged_bundled_models_are_run_or_refused(command_line: CommandLine, inputs: Path, tmp_path: Path) -> None:
    good = undigested(onnx.load(str(demo_model())))
    start, stop = graph_of(good)
    cases = []
    for number in range(BUNDLED):
        place = {} if number % 3 else {"start": stop - 60_000, "stop": stop}  # the nodes are after the weights
        data = damaged(good, number) if number % 3 == 1 else flipped(good, number, **(place or {"start": start}))
        command = ("classify", str(inputs / "picture.jpg"), "--model", "model.onnx", *CPU)
        if number % 10 == 9:
            command = ("doctor", "--model", "model.onnx", *CPU)
        cases.append(Case(command, put(tmp_path / str(number), {"model.onnx": data}), f"bundled {number}"))
    outcomes = command_line.run(cases)
    check(outcomes)
    assert len(outcomes) == BUNDLED


# --- false metadata ---

VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 0.5, 2**31, 10**400, 1e308, -0.0, 1e-320, math.nan, math.inf, "", "x", "NaN", "x" * 5000,
    "\x1b[31m", "\u202e", "\ud800", [], [[]], {}, {"x": 1}, [8, 8], [4096, 4096], [1, 1], [0.1, 0.2, 0.3], "2025-13-01",
    "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59",
)  # fmt: skip


def places(document: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to every value of a JSON document."""
    entries = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in entries:
        yield (*place, key)
        yield from places(value, (*place, key))


def with_value(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    """Return a copy of a document with one value replaced."""
    copied = json.loads(json.dumps(document))
    inside = copied
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    return copied


def manifests(manifest: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield names and texts of false manifests."""
    names: list[Any] = [
        [], ["a"], ["a", "a", "b"], [" a", "b", "c"], ["a", "b", "c" * 300], ["\x1b[2J", "b", "c"], ["../x", "/", "."],
        ["[red]x[/red]", "[/]", "{}"], ["%s", "\\", '"'], ["\u202ea", "b", "c"], ["A 2020", "A 2021", "B"],
        ["é", "e\u0301", "日"],
        ["2020", "1999", "SUV"], ["a", "b", "c", "d"], ["a"] * 100_001, [1, 2, 3], "abc",
    ]  # fmt: skip
    for one in names:
        yield f"classes {str(one)[:40]}", json.dumps({**manifest, "classes": one})
    every = list(places(manifest))
    for number, value in enumerate(VALUES * 3):
        place = every[number * 7 % len(every)]
        yield f"{place} is {str(value)[:40]!r}", json.dumps(with_value(manifest, place, value))
    for value in VALUES:
        for key in ("temperature", "reject_below"):
            yield f"{key} is {str(value)[:40]!r}", json.dumps({**manifest, key: value})
    for text in (
        "",
        "null",
        "[]",
        "{",
        "[" * 100_000,
        '{"a":' * 10_000,
        "\0",
        "NaN",
        json.dumps(manifest) * 2,
        "1e999",
    ):
        yield f"text {text[:40]!r}", text


def goldens(golden: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield names and texts of false golden inputs."""
    pixels = base64.b64decode(golden["pixels"])
    first, *rest = golden["images_png"]
    png = base64.b64decode(first)
    changes: list[dict[str, Any]] = [
        {"pixels": base64.b64encode(pixels[:-1]).decode()}, {"pixels": ""}, {"pixels": "é"}, {"pixels": "="},
        {"pixels": base64.b64encode(bytes(len(pixels))).decode()}, {"images_png": golden["images_png"] * 30},
        {"images_png": [base64.b64encode(png[:-40]).decode(), *rest]}, {"images_png": []},
        {"images_png": [base64.b64encode(png[:16] + b"\x00\x01\x00\x00" * 2 + png[24:]).decode(), *rest]},
        {"logits": []}, {"logits": [[]] * 3}, {"logits": [[1.0], [1.0, 2.0], [3.0]]}, {"logits": [[0.0] * 3] * 3},
        {"logits": [[1e308] * 3] * 3}, {"logits": [[1e-320] * 3] * 3}, {"logits": [[math.nan] * 3] * 3},
        {"logits": [[1.0] * 4] * 3}, {"logits": [[1.0] * 3] * 2}, {"schema_version": 2}, {"x": 1},
    ]  # fmt: skip
    for change in changes:
        yield f"golden {str(change)[:60]}", json.dumps({**golden, **change})


def test_models_with_false_metadata_are_run_or_refused(command_line: CommandLine, inputs: Path, tmp_path: Path) -> None:
    model = onnx.load(str(inputs / "tiny.onnx"))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    false_entries = [(name, METADATA_KEY, text) for name, text in manifests(json.loads(metadata[METADATA_KEY]))]
    false_entries += [(name, GOLDEN_KEY, text) for name, text in goldens(json.loads(metadata[GOLDEN_KEY]))]
    cases = []
    for number, (name, key, text) in enumerate(false_entries):
        changed = {**metadata, key: text}
        if number % 2 and key == METADATA_KEY:
            del changed[GOLDEN_KEY]
        helper.set_model_props(model, changed)
        folder = put(tmp_path / str(number), {"model.onnx": digested(model)})
        cases.append(Case(command_with_model(inputs, number if key == METADATA_KEY else number // 2 * 2), folder, name))
    outcomes = command_line.run(cases)
    check(outcomes)
    assert len(outcomes) >= FALSE_METADATA


def test_a_model_with_the_largest_allowed_input_runs(command_line: CommandLine, inputs: Path, tmp_path: Path) -> None:
    folder = put(tmp_path / "large", {})
    tiny_model(folder / "model.onnx", size_wh=(4096, 4096))
    outcomes = command_line.run([Case(command_with_model(inputs, 0), folder, "large")])
    check(outcomes)
    assert outcomes[0].status == 0


# --- other files that a run reads ---


def test_damaged_detectors_are_run_or_refused(command_line: CommandLine, inputs: Path, tmp_path: Path) -> None:
    good = (inputs / "detector.onnx").read_bytes()
    cases = []
    for number in range(DETECTORS):
        data = flipped(good, number, *graph_of(good)) if number % 3 else damaged(good, number)
        folder = put(tmp_path / str(number), {"detector.onnx": data})
        command = (
            "watch",
            str(inputs / "picture.jpg"),
            "--detector",
            "detector.onnx",
            "--model",
            str(inputs / "tiny.onnx"),
        )
        cases.append(Case((*command, *CPU), folder, f"detector {number}"))
    outcomes = command_line.run(cases)
    check(outcomes)
    assert len(outcomes) == DETECTORS


def test_damaged_stores_are_read_or_refused_without_partial_exports(
    command_line: CommandLine, inputs: Path, tmp_path: Path
) -> None:
    with EventStore(tmp_path / "good.sqlite") as store:
        for event in visits(12):
            store.write(event, CROP)
    with closing(sqlite3.connect(tmp_path / "good.sqlite")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    good = (tmp_path / "good.sqlite").read_bytes()
    commands = [
        ("events", "--json", "--store", "store.sqlite"),
        ("events", "--store", "store.sqlite", "--make", "castor", "--since", "2020-01-01"),
        ("events", "export", "--csv", "out/events.csv", "--store", "store.sqlite"),
        ("watch", str(inputs / "picture.jpg"), "--model", str(inputs / "tiny.onnx"), *CPU, "--store", "store.sqlite"),
    ]
    cases = []
    for number in range(STORES):
        folder = put(tmp_path / str(number), {"store.sqlite": (flipped if number % 2 else damaged)(good, number)})
        cases.append(Case(commands[number % 4], folder, f"store {number}"))
    outcomes = command_line.run(cases)
    check(outcomes)
    assert len(outcomes) == STORES
    for outcome in outcomes:
        written = outcome.case.folder / "out" / "events.csv"
        if outcome.status == 0 and outcome.case.arguments[1] == "export":
            assert written.read_bytes().endswith(b"\n")
        else:
            assert not written.exists(), outcome.case


def test_damaged_files_in_the_state_folder_are_replaced_or_reported(
    command_line: CommandLine, inputs: Path, tmp_path: Path
) -> None:
    options = ("--model", str(inputs / "tiny.onnx"), *CPU, "--state", "state", "-o", "out.jsonl")
    first = put(tmp_path / "first", {})
    put(first / "pictures", {"a.jpg": (inputs / "picture.jpg").read_bytes()})
    good_run = Case(("watch", "pictures", *options, "--duration", "0.8"), first, "a good run")
    check(command_line.run([good_run]))
    journals = [path for path in (first / "state").rglob("*") if path.is_file() and path.name != "lock"]
    assert {path.parent.name for path in journals} == {"state", "spool"}
    cases = []
    for number in range(JOURNALS):
        folder = put(tmp_path / str(number), {})
        put(folder / "pictures", {"a.jpg": (inputs / "picture.jpg").read_bytes()})
        for path in journals:
            place = folder / path.relative_to(first)
            place.parent.mkdir(parents=True, exist_ok=True)
            data = path.read_bytes()
            place.write_bytes(damaged(data, f"{number} {path.name}") if data else data)
        cases.append(Case(("watch", "pictures", *options, "--duration", "0.5"), folder, f"journals {number}"))
    outcomes = command_line.run(cases, processes=8, cases_per_process=3)
    check(outcomes)
    assert len(outcomes) == JOURNALS


def test_damaged_truths_are_used_or_refused(command_line: CommandLine, inputs: Path, tmp_path: Path) -> None:
    good = json.dumps(
        {"passes": [{"label": 0, "first_frame": 1, "last_frame": 9, "name": "Castor Red Sedan 2020"}] * 3}
    )
    broken: list[Callable[[int], bytes]] = [
        lambda number: damaged(good.encode(), number),
        lambda number: json.dumps(
            with_value(json.loads(good), ("passes", 0, "label"), VALUES[number % len(VALUES)])
        ).encode(),
        lambda number: json.dumps(
            with_value(json.loads(good), ("passes", 1, "name"), VALUES[number % len(VALUES)])
        ).encode(),
    ]
    cases = []
    for number in range(TRUTHS):
        folder = put(tmp_path / str(number), {"truth.json": broken[number % 3](number)})
        command = (
            "watch",
            str(inputs / "clip.mp4"),
            "--truth",
            "truth.json",
            "--model",
            str(inputs / "tiny.onnx"),
            *CPU,
        )
        cases.append(Case(command, folder, f"truth {number}"))
    outcomes = command_line.run(cases)
    check(outcomes)
    assert len(outcomes) == TRUTHS
