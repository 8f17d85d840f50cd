"""cameras.toml: every key is read, errors name file, line and key, and no message contains a secret."""

from __future__ import annotations

import os
import random
from datetime import timedelta
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from tests import REPOSITORY
from twincar_edge.errors import InputError
from twincar_edge.runtime.configuration.config import CameraConfig, WatchConfig
from twincar_edge.runtime.configuration.config_file import MAX_BYTES, read_config
from twincar_edge.runtime.configuration.page_settings import PageSettings
from twincar_edge.runtime.configuration.toml_lines import key_lines
from twincar_edge.runtime.locating.zones import Zone, parse_zone
from twincar_edge.runtime.sinks.settings import CropsSettings, MqttSettings, SinkSettings, WebhookSettings

FULL = """
# The gate and the yard.
model = "models/cars.int8.onnx"
threads = 2
allow_drift = false
collect = "hard"
collect_limit = "200MB"
monitor = "127.0.0.1:9464"

[[cameras]]
name = "gate"
source = "rtsp://watch:${GATE_PASSWORD}@10.0.0.7/live"
size = [1280, 720]
zones = [
    "road=0.1,0.2 0.9,0.9",   # as on the command line
    "exclude=0,0 0.1,0.1",
    { points = [[10, 20], [30, 40], [10, 40]], name = "pixels" },
]

[[cameras]]
name = "yard"
source = "clips/yard.mp4"
stride = 2
min_area = 0.02

[[cameras]]
name = "usb"
source = "/dev/video0"

[[cameras]]
name = "built-in"
source = "0"

[[sinks]]
kind = "webhook"
url = "https://example.org/hook?token=${TOKEN}"
types = ["start", "end"]

[[sinks]]
kind = "crops"
path = "crops"
limit = "1GB"
age = "30d"

[[sinks]]
kind = "mqtt"
host = "localhost"
"""
ENVIRON = {"GATE_PASSWORD": "s3cret", "TOKEN": "t0ken"}
MINIMAL = '[[cameras]]\nname = "gate"\nsource = "0"\n'


def read(folder: Path, text: str, environ: dict[str, str] | None = None) -> WatchConfig:
    (folder / "cameras.toml").write_text(text, encoding="utf-8")
    return read_config(folder / "cameras.toml", ENVIRON if environ is None else environ)


def refusal(folder: Path, text: str, environ: dict[str, str] | None = None) -> str:
    """Return the message for an invalid file, without the file's name."""
    with pytest.raises(InputError) as refused:
        read(folder, text, environ)
    message = str(refused.value)
    assert message.startswith(f"{folder / 'cameras.toml'} ")
    assert "\n" not in message
    return message.removeprefix(f"{folder / 'cameras.toml'} ")


def test_every_key_of_the_file_reaches_the_configuration(tmp_path: Path) -> None:
    config = read(tmp_path, FULL)
    gate, yard, usb, built_in = config.cameras
    assert gate.source == "rtsp://watch:s3cret@10.0.0.7/live"
    assert gate.size == (1280, 720)
    assert gate.zones[:2] == (parse_zone("road=0.1,0.2 0.9,0.9"), parse_zone("exclude=0,0 0.1,0.1"))
    assert gate.zones[2].name == "pixels"
    assert (yard.stride, yard.min_area) == (2, 0.02)
    assert (usb.source, built_in.source) == ("/dev/video0", "0")
    assert config.collect_limit == 200_000_000
    webhook, crops, mqtt = config.sinks
    assert isinstance(webhook, WebhookSettings)
    assert isinstance(crops, CropsSettings)
    assert isinstance(mqtt, MqttSettings)
    assert webhook.url == "https://example.org/hook?token=t0ken"
    assert webhook.types == {"start", "end"}
    assert (crops.limit, crops.age) == (10**9, timedelta(days=30))


def test_paths_are_relative_to_the_file_wherever_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "cameras.toml").write_text(FULL)
    monkeypatch.chdir(tmp_path)
    config = read_config(Path("etc/cameras.toml"), ENVIRON)
    assert config.model == folder / "models/cars.int8.onnx"
    assert config.collect == folder / "hard"
    assert config.cameras[1].source == str(folder / "clips/yard.mp4")
    assert isinstance(config.sinks[1], CropsSettings)
    assert config.sinks[1].path == folder / "crops"
    assert WatchConfig(model=Path("a.onnx")).model == Path("a.onnx")  # unchanged for callers in Python
    absolute = read(tmp_path, 'model = "/opt/cars.onnx"\n' + MINIMAL)
    assert absolute.model == Path("/opt/cars.onnx")


def test_every_duration_has_an_upper_limit() -> None:
    models = (WatchConfig, CameraConfig, PageSettings, *get_args(get_args(SinkSettings)[0]))
    keys = [(model, key) for model in models for key in model.model_fields if key.endswith("_s") or key == "age"]
    assert len(keys) > 10
    for model, key in keys:
        with pytest.raises(ValidationError) as refused:
            model.model_validate({key: 1e10})
        (error,) = [one for one in refused.value.errors() if one["loc"] == (key,)]
        assert error["type"] == "less_than_equal", (model, key)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            MINIMAL + "zones = ['a\\u0000b']".replace("'", '"') + "\n",
            "line 4: cameras[0].zones[0]: contains a NUL character",
        ),
        (MINIMAL + "strid = 2\n", "line 4: cameras[0].strid: there is no such key: did you mean 'stride'?"),
        ("xyzzy = 2\n" + MINIMAL, "line 1: xyzzy: there is no such key: known: cameras, model, ep, threads,"),
        (
            MINIMAL + '[[sinks]]\nkind = "csv"\npaht = "a"\n',
            "line 6: sinks[0].paht: there is no such key: did you mean",
        ),
        (
            MINIMAL + 'model = "a.onnx"\n',
            "line 4: cameras[0].model: there is no such key in this table: put it at the top of",
        ),
        ("thread = 2\n" + MINIMAL, "line 1: thread: there is no such key: did you mean 'threads'?"),
        ("keep = true\n" + MINIMAL, "line 1: keep: there is no such key: did you mean"),
        (MINIMAL + "stride = 0\n", "line 4: cameras[0].stride: Input should be greater than or equal to 1"),
        (MINIMAL + "size = [1920, 0]\n", "line 4: cameras[0].size[1]: Input should be greater than or equal to 1"),
        (MINIMAL + 'once = "yes"\n', "line 4: cameras[0].once: Input should be a valid boolean"),
        (MINIMAL + "stride = true\n", "line 4: cameras[0].stride: Input should be a number, not a boolean"),
        (MINIMAL + "stride = 2.5\n", "line 4: cameras[0].stride: Input should be a valid integer"),
        (MINIMAL + "min_area = nan\n", "line 4: cameras[0].min_area: Input should be "),
        (MINIMAL + "min_hits = 1979-05-27\n", "line 4: cameras[0].min_hits: Input should be a valid integer"),
        ("\n\n" + MINIMAL + MINIMAL, "line 7: cameras[1].name: the camera at line 3 has the name 'gate' too"),
        ('[[cameras]]\nsource="0"\n[[cameras]]\nsource="1"\n', "line 3: cameras[1].name: the camera at line 1 has"),
        ('[[cameras]]\nname = "gate"\n', "line 1: cameras[0]: no `source`"),
        ("", "line 1: cameras: no camera: add a table [[cameras]]"),
        ("cameras = []\n", "line 1: cameras: no camera"),
        ("cameras = 3\n", "line 1: cameras: Input should be a valid array"),
        ("cameras = [3]\n", "line 1: cameras[0]: Input should be an object"),
        ('[cameras]\nname = "gate"\n', "line 1: cameras: write [[cameras]] in double brackets: there may be several"),
        ('state = ""\n' + MINIMAL, "line 1: state: is empty: give a path"),
        (MINIMAL + '[[sinks]]\nkind = "crops"\npath = ""\n', "line 6: sinks[0].path: is empty: give a path"),
        (MINIMAL + '[sinks]\nkind = "store"\n', "line 4: sinks: write [[sinks]] in double brackets"),
        (MINIMAL + '[cameras.zones]\nname = "a"\n', "line 4: cameras[0].zones: write [[cameras.zones]] in double"),
        ('[[cameras]]\nname = "a/b"\nsource = "0"\n', "line 2: cameras[0].name: use up to 64 ASCII letters"),
        (
            MINIMAL + 'zones = [{ name = "a/b", points = [[0, 0], [1, 1]] }]\n',
            "line 4: cameras[0].zones[0].name: use up to 64 ASCII letters",
        ),
        ('model_sha256 = "ABC"\n' + MINIMAL, "line 1: model_sha256: use the 64 hex digits that"),
        (MINIMAL + '[[sinks]]\nkind = "stdout"\nname = "ä"\n', "line 6: sinks[0].name: use up to 64 ASCII letters"),
        (
            MINIMAL + '[[sinks]]\nkind = "mqtt"\nhost = "mqtt://a"\n',
            "line 6: sinks[0].host: use a host name or an IP address alone",
        ),
        (
            MINIMAL + '[[sinks]]\nkind = "mqtt"\nhost = "a"\ntopic = "a/+"\n',
            "line 7: sinks[0].topic: use ASCII letters, digits and _ -, with / between levels",
        ),
        (MINIMAL + '[page]\nhosts = ["a_b"]\n', "line 5: page.hosts[0]: use a host name alone"),
        (MINIMAL + '[page]\nroot_path = "cars"\n', "line 5: page.root_path: use a path that begins with /"),
        (
            MINIMAL + 'zones = [\n  "0.1,0.1 0.5,0.5",\n  "here",\n]\n',
            "line 4: cameras[0].zones[1]: a zone is",
        ),
        (MINIMAL + "zones = [{ points = [[0, 0]] }]\n", "line 4: cameras[0].zones[0].points: Tuple should have at"),
        (MINIMAL + "zones = [{ point = [] }]\n", "line 4: cameras[0].zones[0].point: there is no such key"),
        (MINIMAL + "[[sinks]]\n", "line 4: sinks[0]: `kind` is missing: use one of stdout, jsonl, csv, table"),
        (
            MINIMAL + '[[sinks]]\nkind = "mqqt"\n',
            "line 5: sinks[0].kind: there is no kind 'mqqt': did you mean 'mqtt'?",
        ),
        (MINIMAL + '[[sinks]]\nkind = "mqtt"\n', "line 4: sinks[0].host: Field required"),
        (
            MINIMAL + '[[sinks]]\nkind = "mqtt"\nhost = "a"\nport = 0\n',
            "line 7: sinks[0].port: Input should be greater",
        ),
        (MINIMAL + '[[sinks]]\nkind = "crops"\npath = "a"\nage = "soon"\n', "line 7: sinks[0].age: "),
        (
            MINIMAL + '[[sinks]]\nkind = "webhook"\nurl = "http://a"\ntimeout_s = 1e10\n',
            "line 7: sinks[0].timeout_s: Input should be less than or equal to 3600",
        ),
        ('monitor = "127.0.0.1:p"\n' + MINIMAL, "line 1: monitor: invalid address '127.0.0.1:p': use HOST:PORT"),
        ("threads = 2\nthreads = 3\n" + MINIMAL, "line 2: Cannot overwrite a value"),
        ("threads == 2\n", "line 1: Invalid value"),
        ('model = "a\n', "line 1: "),
        ('model = """a\n', "line 2: "),
    ],
)
def test_an_error_names_line_and_key(tmp_path: Path, text: str, said: str) -> None:
    assert refusal(tmp_path, text).startswith(said)


def test_of_several_errors_the_first_is_named_and_the_others_are_counted(tmp_path: Path) -> None:
    message = refusal(tmp_path, 'mdoel = "a"\n' + MINIMAL + "strid = 2\nonec = true\n")
    assert message.startswith("line 1: mdoel: there is no such key: did you mean 'model'")
    assert message.endswith("(and 2 more errors)")
    text = MINIMAL + "min_hits = 0\nstride = 0\n"
    assert refusal(tmp_path, text).startswith("line 4: cameras[0].min_hits: ")
    assert refusal(tmp_path, text).endswith("(and 1 more error)")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("rtsp://a:${NOPE}@h/", "the environment variable NOPE is not set"),
        ("rtsp://a:${EMPTY}@h/", "the environment variable EMPTY is not set"),
        ("rtsp://a:${BREAK}@h/", "the environment variable BREAK contains a line break"),
        ("rtsp://a:${NOPE", "${…} needs the name of an environment variable"),
        ("rtsp://a:${}@h/", "${…} needs the name of an environment variable"),
        ("rtsp://a:${A B}@h/", "${…} needs the name of an environment variable"),
    ],
)
def test_a_variable_that_cannot_be_substituted_is_an_error(tmp_path: Path, source: str, said: str) -> None:
    environ = {"EMPTY": "", "BREAK": "a\nb"}
    message = refusal(tmp_path, f'[[cameras]]\nsource = "{source}"\n', environ)
    assert message.startswith(f"line 2: cameras[0].source: {said}")


def test_a_dollar_is_escaped_by_doubling_it_before_a_brace(tmp_path: Path) -> None:
    config = read(tmp_path, '[[cameras]]\nsource = "rtsp://a:$${x}$y$1@h/"\n')
    assert config.cameras[0].source == "rtsp://a:${x}$y$1@h/"


def test_no_message_contains_the_value_of_a_variable(tmp_path: Path) -> None:
    for text in (
        MINIMAL + 'zones = ["${SECRET}"]\n',
        '[[cameras]]\nname = "${SECRET}"\nsource = "0"\n',
        MINIMAL + 'stride = "${SECRET}"\n',
        MINIMAL + '[[sinks]]\nkind = "${SECRET}"\n',
        MINIMAL + '[[sinks]]\nkind = "crops"\npath = "a"\nage = "${SECRET}"\n',
        MINIMAL + '[[sinks]]\nkind = "mqtt"\nhost = "${SECRET}"\n',
        '[[cameras]]\nname = "${SECRET}"\nsource = "0"\n[[cameras]]\nname = "${SECRET}"\nsource = "1"\n',
    ):
        assert "hunter2" not in refusal(tmp_path, text, {"SECRET": "hunter2 'n'"})


def test_neither_messages_nor_the_repr_of_a_config_contain_a_password_of_a_source(tmp_path: Path) -> None:
    text = '[[cameras]]\nsource = "rtsp://u:hunter2@h/"\nstride = 0\n'
    assert "hunter2" not in refusal(tmp_path, text)
    assert "hunter2" not in repr(read(tmp_path, text.replace("stride = 0", "")))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"#" * (MAX_BYTES + 1), "larger than 256 KiB"),
        (b"# fine\nmodel = '\xff'\n", "line 2: not UTF-8"),
        (b"a = 1\n" + b"b." * 4000 + b"c = 1\n", "line 2: longer than 4000 characters"),
        (b"a = " + b"[" * 3000, "nested too deeply"),
        (b"a = " + b"1" * 3990 + b"\n", "no such key"),
    ],
    ids=["huge", "not UTF-8", "long line", "deep", "digits"],
)
def test_a_hostile_file_is_refused_in_one_line(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "cameras.toml"
    path.write_bytes(data)
    with pytest.raises(InputError, match=said):
        read_config(path, {})


def test_a_path_that_is_not_a_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in (
        (tmp_path / "absent", "No such file"),
        (tmp_path, "not a regular file"),
        (tmp_path / "pipe", "not a regular file"),
    ):
        with pytest.raises(InputError, match=said):
            read_config(path, {})


def test_a_byte_order_mark_and_windows_line_endings_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "cameras.toml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode() + b"stride = 0\r\n")
    with pytest.raises(InputError, match="line 4: "):
        read_config(path, {})


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), times=st.integers(1, 12))
def test_a_damaged_file_is_read_or_refused_without_another_error(tmp_path: Path, seed: int, times: int) -> None:
    rng = random.Random(seed)
    data = bytearray(FULL.encode())
    for _ in range(times):
        place = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                data[place] = rng.randrange(256)
            case 1:
                del data[place : place + rng.randrange(1, 30)]
            case 2:
                data[place:place] = rng.choice([b'"', b"[", b"]", b"{", b"=", b"\n", b"'''", b"${", b".", b"1e999"])
            case 3:
                end = rng.randrange(place, min(len(data), place + 200))
                data[place:place] = data[place:end]
    path = tmp_path / "cameras.toml"
    path.write_bytes(data)
    try:
        config = read_config(path, ENVIRON)
    except InputError as error:
        assert "\n" not in str(error)
        assert "s3cret" not in str(error)
    else:
        assert config.cameras


def keys(model: type[BaseModel]) -> set[str]:
    return set(model.model_fields) - {"keep", "cameras", "sinks", "kind"}


def test_the_documentation_has_every_key() -> None:
    text = (REPOSITORY / "docs" / "operations.md").read_text()
    kinds = get_args(get_args(SinkSettings)[0])
    wanted = keys(WatchConfig) | keys(PageSettings) | keys(CameraConfig) | keys(Zone).difference({"points", "exclude"})
    assert {key for key in wanted | set().union(*map(keys, kinds)) if f"`{key}`" not in text} == set()
    assert {kind for kind in kinds if f'`"{kind.model_fields["kind"].default}"`' not in text} == set()


# --- the lines of keys ---


def test_lines_are_found_for_every_way_to_write_a_key() -> None:
    text = '''# a comment with [brackets] and = signs
plain = 1
"quoted.key" = 2 # b = 3
dotted . "in\\u0065r" = 3
array = [ # [[no.table]]
  1, "]", \'\'\'
  x = 4
\'\'\', { y = 5 },
]
text = """
z = 6
\\""" w = 7 """""
[table]
a = 1
[table.inner]
a = 1
[[tables]]
a = 1
  [[tables.nested]]
  a = 1
  [tables.nested.deep]
  a = {b = 1, c = "}"}
[[tables]]
a = 1
[[tables.nested]]
a = 1'''
    assert {place: line for place, line in key_lines(text).items() if not isinstance(place[-1], int)} == {
        ("plain",): 2,
        ("quoted.key",): 3,
        ("dotted",): 4,
        ("dotted", "iner"): 4,
        ("array",): 5,
        ("text",): 10,
        ("table",): 13,
        ("table", "a"): 14,
        ("table", "inner"): 15,
        ("table", "inner", "a"): 16,
        ("tables",): 17,
        ("tables", 0, "a"): 18,
        ("tables", 0, "nested"): 19,
        ("tables", 0, "nested", 0, "a"): 20,
        ("tables", 0, "nested", 0, "deep"): 21,
        ("tables", 0, "nested", 0, "deep", "a"): 22,
        ("tables", 1, "a"): 24,
        ("tables", 1, "nested"): 25,
        ("tables", 1, "nested", 0, "a"): 26,
    }


_VALUES = st.sampled_from(
    [
        "1",
        '"a"',
        "[1,\n 2]",
        "[\n]",
        '"""\n"""',
        "'''a\n''''",
        "{a = 1}",
        '["[", "]"]',
        "1979-05-27",
        '"#"',
        "[[1],\n[2]]",
    ]
)
_KEYS = st.sampled_from(["a", "b-1", '"q k"', "'l.k'", "c.d", 'e . "f"'])


@given(st.lists(st.tuples(_KEYS, _VALUES, st.sampled_from(["", " # c", "\n", "\r", "\n# [x]"])), max_size=30))
def test_every_key_of_a_document_is_found_on_its_line(rows: list[tuple[str, str, str]]) -> None:
    text, expected = "", []
    for number, (key, value, after) in enumerate(rows):
        text += f"[t{number}]\n"
        expected.append(text.count("\n") + 1)
        text += f"{key} = {value}{after}\n"
    lines = key_lines(text)
    deepest = [max((p for p in lines if p[0] == f"t{number}"), key=len) for number in range(len(rows))]
    assert [lines[place] for place in deepest] == expected
