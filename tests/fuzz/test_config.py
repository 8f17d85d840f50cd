"""Broken cameras.toml: `watch --config` reports an error in one line, with the file and the line in it.

The configurations write only into their own folder and connect only to this machine.
"""

from __future__ import annotations

import json
import math
import os
import re
import tomllib
from collections.abc import Iterable, Iterator
from datetime import date
from itertools import count, islice
from pathlib import Path
from typing import Any, get_args

import cv2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from tests.support.clips import film, write_video
from tests.support.fuzzing import Case, CommandLine, Outcome, check, damaged, put
from tests.support.tiny_model import tiny_model
from twincar_edge.runtime.configuration.config import CameraConfig, WatchConfig
from twincar_edge.runtime.configuration.config_file import MAX_BYTES
from twincar_edge.runtime.locating.zones import Zone
from twincar_edge.runtime.sinks.settings import SinkSettings

DAMAGED, HOSTILE, ONE_BY_ONE, MADE, AT_ONCE = 120, 19, 280, 120, 8
CASES = DAMAGED + HOSTILE + ONE_BY_ONE + MADE
SLOW_CASES = 2000 - MADE  # in the tests that are marked slow

SECRET = "hunter2"
GOOD = """
# The valid configuration that damaged ones are made from.
model = "{inputs}/tiny.onnx"
ep = "cpu"
threads = 1
batch = 4
duration_s = 2
collect = "hard"
collect_limit = "200MB"
monitor = "127.0.0.1:0"

[[cameras]]
name = "gate"
source = "{inputs}/clip.mp4"
zones = ["road=0.1,0.2 0.9,0.9", "exclude=0,0 0.1,0.1", {{ points = [[10, 20], [30, 40], [10, 40]], name = "pixels" }}]
min_area = 0.02
lost_after_s = 0.5

[[cameras]]
name = "yard"
source = "{inputs}/*.jpg"
stride = 1
locate = "whole"

[[sinks]]
kind = "jsonl"
path = "events.jsonl"
types = ["start", "end"]

[[sinks]]
kind = "crops"
path = "crops"
limit = "1GB"
age = "30d"
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a clip of an empty road and a picture."""
    folder = tmp_path_factory.mktemp("inputs")
    tiny_model(folder / "tiny.onnx")
    road = [cv2.resize(image, (64, 48)) for image in film([], 5)]
    write_video(folder / "clip.mp4", road)
    cv2.imwrite(str(folder / "picture.jpg"), road[0])
    return folder


def case(folder: Path, data: bytes, name: str) -> Case:
    return Case(("watch", "--config", "cameras.toml"), put(folder, {"cameras.toml": data}), name, (SECRET,))


def check_locations(outcomes: list[Outcome]) -> None:
    """Check that errors in the file have a line number."""
    for outcome in outcomes:
        for line in outcome.err.splitlines():
            if line.startswith(("error: cameras.toml", "error: invalid configuration")):
                form = r"error: (cameras\.toml line \d+|invalid configuration cameras\.toml): \S"
                assert re.match(form, line), line


def test_damaged_configurations_are_reported_with_their_line(
    command_line: CommandLine, inputs: Path, tmp_path: Path
) -> None:
    good = GOOD.format(inputs=inputs).encode()
    outcomes = command_line.run([case(tmp_path / "good", good, "good")])
    check(outcomes)
    assert outcomes[0].status == 0, outcomes[0].err
    broken = (data for number in count() if is_contained(data := damaged(good, number)))
    cases = [case(tmp_path / str(number), data, f"{number}") for number, data in enumerate(islice(broken, DAMAGED))]
    outcomes = command_line.run(cases)
    check(outcomes)
    check_locations(outcomes)
    assert len(outcomes) == DAMAGED
    assert {outcome.status for outcome in outcomes} == {0, 2}


def is_contained(data: bytes) -> bool:
    """Return whether a configuration, if it is valid, writes only into its own folder and listens only on loopback."""
    try:
        document = tomllib.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return True
    written = [document.get("state"), document.get("collect")]
    sinks = document.get("sinks")
    written += [sink.get("path") for sink in sinks if isinstance(sink, dict)] if isinstance(sinks, list) else []
    outside = any(isinstance(path, str) and (path.startswith("/") or ".." in path) for path in written)
    monitor = document.get("monitor", "127.0.0.1:0")
    return not outside and (not isinstance(monitor, str) or monitor.startswith("127.0.0.1:"))


def hostile(inputs: Path) -> Iterator[tuple[str, bytes]]:
    good = GOOD.format(inputs=inputs).encode()
    camera = f'[[cameras]]\nsource = "{inputs}/clip.mp4"\n'.encode()
    yield "empty", b""
    yield "only a byte order mark", b"\xef\xbb\xbf"
    yield "UTF-16", good.decode().encode("utf-16")
    yield "Latin-1", camera + b'name = "caf\xe9"\n'
    yield "NUL", camera + b"\0"
    yield "NUL in a source", b'[[cameras]]\nsource = "a\\u0000b"\n'
    yield "NUL in a pattern", b'[[cameras]]\nsource = "*\\u0000"\n'
    yield "NUL in a path", camera + b'[[sinks]]\nkind = "jsonl"\npath = "a\\u0000b"\n'
    yield "NUL in the model", b'model = "\\u0000"\n' + camera
    yield "too large", b"#" * (MAX_BYTES + 1)
    yield "long line", b"a" * 5000 + b" = 1\n"
    yield "deep array", b"a = " + b"[" * 3900
    yield "deep table", b"\n".join(b"[" + b".".join([b"a"] * depth) + b"]" for depth in range(1, 300))
    yield "deep key", b".".join([b"a"] * 1900) + b" = 1\n"
    yield "many cameras", b"".join(camera + b'name = "c%d"\nstride = 0\n' % number for number in range(1500))
    yield "huge number", b"batch = " + b"9" * 3900 + b"\n" + camera
    yield "escapes", camera + b'"\\u001b[31m" = "\\u202e\\u0007"\n'
    yield (
        "password",
        b'[[cameras]]\nsource = "rtsp://admin:hunter2@127.0.0.1:1/"\nstride = "hunter2"\n'.replace(b'"hunter2"', b"0"),
    )
    yield "password, and no camera there", b'[[cameras]]\nsource = "rtsp://admin:hunter2@127.0.0.1:1/"\n'


def test_hostile_configurations_are_reported_in_one_line(
    command_line: CommandLine, inputs: Path, tmp_path: Path
) -> None:
    made = list(hostile(inputs))
    # The file is outside the folder of the case, because it contains the password.
    cases = [
        Case(("watch", "--config", "../cameras.toml"), put(tmp_path / str(number) / "run", {}), name, (SECRET,))
        for number, (name, _) in enumerate(made)
    ]
    for one, (_, data) in zip(cases, made, strict=True):
        (one.folder.parent / "cameras.toml").write_bytes(data)
    outcomes = command_line.run(cases)
    check(outcomes)
    assert [outcome.case.name for outcome in outcomes if outcome.status != 2] == [
        "huge number"
    ]  # a valid number of crops per batch
    assert len(outcomes) == HOSTILE


# --- documents made of keys and values ---

TEXTS = (
    "", "a", "0", "9" * 30, "x" * 300, "cpu", "warp", "motion", "zone", "detector", "${HOME}", "${NO_SUCH}", "${", "\0",
    "\x1b[31m", "\u202e",
)  # fmt: skip
# Alone, only every second value is tried; in documents of several keys, all are drawn.
INTEGERS = (2**63, 7, 10**30, 1, 2**31 - 1, 0)
FLOATS = (1e308, 0.5, 1e-320, 60.0, 1e18, math.inf, 10**400, 0.0)
QUANTITIES = ("999999999999TB", "1B", "100w", "0", "999999999999w", "1e9", *INTEGERS)
ZONES = (
    "0,0 1,1", "a=0,0 9,9", "exclude=0,0 1,1", "0,0 nan,1", "0,0 1e999,1", "=", "999998,0 999999,9", "0,0 1,1 2,2",
    "0,0 1e-30,1e-30",
)  # fmt: skip
ODD = (
    0, -1, 0.5, math.nan, True, 10**400, "", "x", date(2025, 3, 1), [], [[]], {}, {"a": {}}, [1, 2], ["a"],
)  # fmt: skip
# Values for a field by a part of its type; the first match counts.
BY_TYPE: dict[str, tuple[Any, ...]] = {
    "tuple[int, int]": tuple([one, other] for one in INTEGERS[::2] for other in (1, -1)),
    "Literal['start'": ([], ["start"], ["end", "end"], ["start", "update", "end"], ["begin"]),
    "tuple[str": ([], ["any"], ["car"], ["0"], ["79"], ["9" * 30], [""], ["car"] * 500),
    "Zone": tuple([zone] for zone in ZONES),
    "timedelta": QUANTITIES,
    "BeforeValidator": QUANTITIES,
    "bool": (True, False),
    "float": FLOATS,
    "int": INTEGERS,
    "": TEXTS,
}
# Values of the keys that could reach outside the folder or this machine.
OUT = ("out/events", "events.csv", ".", "", "cameras.toml", "cameras.toml/x", "x" * 300, "a\0b", "/dev/null", "pipe")
BY_NAME: dict[str, tuple[str, ...]] = {
    "path": OUT, "secret_file": OUT, "ca_file": OUT, "password_file": OUT, "detector": OUT, "model": OUT,
    "state": ("state", *OUT[:-2]),
    "collect": ("hard", *OUT[:-2]),
    "source": ("rtsp://127.0.0.1:1/x", f"rtsp://admin:{SECRET}@127.0.0.1:1/", "http://127.0.0.1:1/", "nothing.mp4",
               "*.mp4", "cameras.toml", "/dev/video99", "ftp://127.0.0.1/", "a\0b", "", "x" * 300, "pipe"),
    "monitor": ("127.0.0.1:0", ":0", "[::1]:0", "127.0.0.1:99999", "127.0.0.1", "", "[127.0.0.1]:0", ":x"),
    "url": ("http://127.0.0.1:1/hook", f"http://admin:{SECRET}@127.0.0.1:1/", "http://", "ftp://127.0.0.1/", "", "\0",
            "http://127.0.0.1:99999/", "http://[", "https://127.0.0.1:1/"),
    "host": ("127.0.0.1", "::1", "", "a b", "127.0.0.1:1", "\0"),
}  # fmt: skip
SINKS = {str(model.model_fields["kind"].default): model for model in get_args(get_args(SinkSettings)[0])}
BASE = {"model": "tiny.onnx", "ep": "cpu", "threads": 1, "duration_s": 1}


def values(model: type[BaseModel]) -> dict[str, tuple[Any, ...]]:
    """Return values for each key of a table: of its type, and mostly extreme."""
    found = {}
    for key, field in model.model_fields.items():
        if key not in ("keep", "cameras", "sinks", "kind", "keep_trying"):
            kind = f"{field.annotation} {field.metadata}"
            found[key] = BY_NAME.get(key) or next(some for part, some in BY_TYPE.items() if part in kind)
    return found


def sink(kind: str) -> dict[str, str]:
    """Return a sink of this kind with its required keys."""
    needed = [key for key, field in SINKS[kind].model_fields.items() if field.is_required()]
    return {"kind": kind, **{key: BY_NAME[key][0] for key in needed}}


def one_by_one() -> Iterator[dict[str, Any]]:
    """Yield configurations with one unusual key: each key with each of its values, and one of an unusual type."""
    camera = {"source": "clip.mp4"}
    for number, (key, some) in enumerate(values(WatchConfig).items()):
        for one in (*some[:: 1 if key in BY_NAME else 2], ODD[number % len(ODD)]):
            yield {**BASE, key: one, "cameras": [camera]}
    for number, (key, some) in enumerate(values(CameraConfig).items()):
        for one in (*some[:: 1 if key in BY_NAME else 2], ODD[number % len(ODD)]):
            yield {**BASE, "cameras": [{**camera, key: one}]}
    for kind, model in SINKS.items():
        for number, (key, some) in enumerate(values(model).items()):
            if kind != "jsonl" and key in ("name", "types"):  # the same for all kinds
                continue
            for one in (*some[:: 1 if key in BY_NAME else 2], ODD[number % len(ODD)]):
                yield {**BASE, "cameras": [camera], "sinks": [{**sink(kind), key: one}]}


@st.composite
def table(draw: st.DrawFn, model: type[BaseModel], base: dict[str, Any], most: int) -> dict[str, Any]:
    """Draw a table in which some keys have unusual values or are unknown."""
    known = values(model)
    drawn = {
        key: draw(st.sampled_from(known[key])) for key in draw(st.lists(st.sampled_from(list(known)), max_size=most))
    }
    if draw(st.integers(0, 30)) == 17:
        drawn[draw(st.sampled_from(["nme", "x.y", "", "é", "name"]))] = draw(st.sampled_from(ODD))
    return base | drawn


@st.composite
def document(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a configuration with a few unusual keys."""
    cameras = draw(st.lists(table(CameraConfig, {"source": "clip.mp4"}, 2), min_size=1, max_size=2))
    for number, camera in enumerate(cameras):
        camera.setdefault("name", f"camera-{number}")
        if draw(st.booleans()):
            side = st.floats(0, 1) | st.floats(0, 60)
            points = draw(st.lists(st.lists(side, min_size=2, max_size=2), min_size=3, max_size=5))
            camera["zones"] = [draw(table(Zone, {"points": points, "name": "a"}, 1))]
    sinks = [
        draw(table(SINKS[kind], sink(kind), 1)) for kind in draw(st.sets(st.sampled_from(list(SINKS)), max_size=2))
    ]
    return {**draw(table(WatchConfig, BASE, 1)), "cameras": cameras, **({"sinks": sinks} if sinks else {})}


def toml(value: object) -> str:
    """Return a value in TOML syntax, with inline tables."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case dict():
            return "{" + ", ".join(f"{json.dumps(key)} = {toml(one)}" for key, one in value.items()) + "}"
    return str(value)


def run(documents: Iterable[dict[str, Any]], command_line: CommandLine, inputs: Path, folder: Path) -> None:
    """Run `watch` with each document, in a subfolder of `folder`."""
    cases = []
    for number, whole in enumerate(documents):
        text = "".join(f"{json.dumps(key, ensure_ascii=False)} = {toml(one)}\n" for key, one in whole.items())
        cases.append(Case(("watch", "--config", "cameras.toml"), folder / str(number), text))
        put(cases[-1].folder, {"cameras.toml": text.encode()})
        os.mkfifo(cases[-1].folder / "pipe")
        for name in ("clip.mp4", "tiny.onnx"):
            (cases[-1].folder / name).symlink_to(inputs / name)
    outcomes = command_line.run(cases, cases_per_process=min(8, len(cases) // AT_ONCE))
    check(outcomes)
    check_locations(outcomes)
    for outcome in outcomes:
        assert SECRET not in outcome.err + outcome.out, outcome.case.name


def test_every_kind_of_value_of_every_key_is_accepted_or_reported(
    command_line: CommandLine, inputs: Path, tmp_path: Path
) -> None:
    documents = list(one_by_one())
    run(documents, command_line, inputs, tmp_path)
    assert len(documents) >= ONE_BY_ONE


@pytest.mark.parametrize("examples", [MADE // AT_ONCE, pytest.param(2000 // AT_ONCE, marks=pytest.mark.slow)])
def test_several_unusual_keys_are_accepted_or_reported(
    examples: int, command_line: CommandLine, inputs: Path, tmp_path: Path
) -> None:
    made = 0

    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example, HealthCheck.data_too_large],
    )  # fmt: skip
    @given(st.lists(document(), min_size=AT_ONCE, max_size=AT_ONCE))
    def test(documents: list[dict[str, Any]]) -> None:
        nonlocal made
        made += len(documents)
        run(documents, command_line, inputs, tmp_path / str(made))

    test()
    assert made >= examples * AT_ONCE
