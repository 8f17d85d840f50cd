"""The command line responds fast, imports only what it runs, and ends with the right message and exit code."""

from __future__ import annotations

import importlib
import json
import re
import resource
import subprocess
import sys
import types
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
from onnx import TensorProto, helper

from tests.support.tiny_model import digested
from twincar_edge import __version__, cli
from twincar_edge.benchmarks import experiments
from twincar_edge.bundled import DEFAULT_NAME
from twincar_edge.cli.bench import compare_command
from twincar_edge.cli.commands import Command, walk
from twincar_edge.cli.inspect import _quantization
from twincar_edge.errors import GateError, InputError, MissingExtraError, ModelError, TwincarError, nearest, require
from twincar_edge.files import sha256
from twincar_edge.manifest import METADATA_KEY, Manifest, QuantizationRecord, TrainingRecord
from twincar_edge.preprocess import Preprocess

HEAVY = ("torch", "torchvision", "timm", "onnxruntime", "onnx", "cv2", "numpy", "pydantic", "scipy", "pyarrow")


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run the command line here: exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert isinstance(caught.value.code, int)
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--version"], ["wach"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom twincar_edge.cli import main\n"
        f"try:\n    main({arguments})\nexcept SystemExit:\n    pass\n"
        f"print('loaded:', [name for name in {HEAVY} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("loaded: []\n")


@pytest.mark.parametrize("arguments", [["train", "cars", "-o", "run"], ["explain", "--checkpoint", "a.pt", "car.png"]])
def test_without_torch_a_command_that_needs_it_names_the_extra(arguments: list[str]) -> None:
    program = f"import sys\nsys.modules['torch'] = None\nfrom twincar_edge.cli import main\nmain({arguments})\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: torch is not installed: pip install 'twincar-edge[")
    assert done.stderr.count("\n") == 1


def test_help_takes_less_than_a_third_of_a_second_of_cpu_time() -> None:
    costs = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "twincar_edge", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(costs) < 0.3  # CPU seconds, which do not depend on other processes


def test_help_lists_every_command_in_workflow_order(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["--help"], capsys)
    assert code == 0
    places = [out.index(f"\n  {name} ") for name in cli.COMMANDS]
    assert places == sorted(places)
    assert "Exit codes" in out


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"], capsys)[:2] == (0, f"twincar-edge, version {__version__}\n")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_a_module_and_begins_its_help_with_what_it_does(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = importlib.import_module(f"twincar_edge.cli.{name}").command
    assert isinstance(command, click.Command)
    assert command.name == name
    first = (command.help or "").strip().splitlines()[0]
    assert first.endswith(".")
    code, out, _ = run([name, "--help"], capsys)
    assert code == 0
    assert first.split()[0] in out


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_path_of_a_command_is_a_path_and_every_default_is_shown(name: str) -> None:
    command = importlib.import_module(f"twincar_edge.cli.{name}").command
    for parameter in command.params:
        if isinstance(parameter.type, click.Path):
            assert parameter.type.type is Path, parameter.name
        if (
            isinstance(parameter, click.Option)
            and isinstance(parameter.default, int | float | str)
            and parameter.default != ""
        ):
            shown = parameter.show_default or parameter.is_flag or "[default: " in (parameter.help or "")
            assert shown, f"{parameter.name} does not show its default"


@pytest.mark.parametrize(("typed", "meant"), [("wach", "watch"), ("inspekt", "inspect"), ("trian", "train")])
def test_an_unknown_command_suggests_the_nearest(typed: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run([typed], capsys)
    assert code == 2
    assert f"no command {typed!r}: did you mean {meant!r}?" in err


def test_a_command_similar_to_no_other_lists_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(["qqq"], capsys)
    assert code == 2
    assert all(name in err for name in cli.COMMANDS)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A command `fake` of the group; the test sets its behavior."""
    module = types.ModuleType("twincar_edge.cli.fake")
    monkeypatch.setitem(cli.COMMANDS, "fake", "Do what a test asks.")
    monkeypatch.setitem(sys.modules, "twincar_edge.cli.fake", module)
    return module


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (None, 0, ""),
        (GateError("agreement 91.0% is below 98.0%"), 1, "error: agreement 91.0% is below 98.0%\n"),
        (InputError("no such device /dev/video7"), 2, "error: no such device /dev/video7\n"),
        (ModelError("x.onnx is corrupt"), 2, "error: x.onnx is corrupt\n"),
        (InputError("cannot read a\nb.jpg"), 2, "error: cannot read a b.jpg\n"),
        (InputError("cannot read \x1b[31mcaf\udce9.jpg"), 2, "error: cannot read \\x1b[31mcaf\\udce9.jpg\n"),
        (InputError("cannot read Škoda\u202f日本.jpg"), 2, "error: cannot read Škoda\u202f日本.jpg\n"),
        (MissingExtraError("torch", "train"), 2, "error: torch is not installed: pip install 'twincar-edge[train]'\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_each_outcome_has_its_exit_code_and_one_line(
    fake: types.ModuleType,
    raised: BaseException | None,
    code: int,
    line: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    @click.command("fake")
    def command() -> None:
        if raised is not None:
            raise raised

    fake.command = command  # type: ignore[attr-defined]
    got, out, err = run(["fake"], capsys)
    assert (got, out, err.lstrip("\n")) == (code, "", line)


@pytest.mark.parametrize("module", ["twincar_edge.cli", "twincar_edge.cli.inspect"])
def test_an_interrupt_during_an_import_is_exit_code_130_without_a_traceback(module: str) -> None:
    program = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background begins with it ignored
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "sys.argv[1:] = ['inspect']\n"
        "from twincar_edge.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.strip() in ("", "interrupted")


def test_an_internal_error_is_not_reported_as_bad_input(fake: types.ModuleType) -> None:
    @click.command("fake")
    def command() -> None:
        raise ZeroDivisionError

    fake.command = command  # type: ignore[attr-defined]
    with pytest.raises(ZeroDivisionError):
        cli.main(["fake"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("classify", "missing argument 'PATH...': see `twincar-edge classify --help`"),
        ("inspect a.onnx b.onnx", "got unexpected extra argument (b.onnx)"),
        ("inspect --jsn a", "no such option"),
        ("classify --top 9 a.jpg", "invalid value for '--top': 9 is not in the range 1<=x<=5"),
        ("events show", "missing argument 'ID': see `twincar-edge events show --help`"),
        ("watch", "give either SOURCE or --config FILE"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(arguments.split(), capsys)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}") and err.count("\n") == 1


def test_without_a_command_the_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run([], capsys)
    assert code == 2
    assert "Exit codes" in err


@pytest.mark.parametrize("program", [cli.group, experiments.group], ids=["twincar-edge", "experiments"])
def test_every_command_has_the_base_that_checks_its_options(program: click.Group) -> None:
    commands = dict(walk(program))
    assert commands.keys() >= set(program.list_commands(click.Context(program)))
    assert [path for path, command in commands.items() if not isinstance(command, Command)] == []
    assert isinstance(program, Command)


def test_the_walk_over_all_commands_includes_subcommands() -> None:
    paths = [path for path, _ in walk(cli.group)]
    assert paths[0] == next(iter(cli.COMMANDS)) and paths.index("events export") > paths.index("events")
    assert isinstance(compare_command, Command)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("enroll --class a -o x.onnx --class b", "--class was given twice: give it once"),
        ("watch a.mp4 -o a.jsonl --output b.jsonl", "--output was given twice: give it once"),
        ("watch a.mp4 --page --page", "--page was given twice: give it once"),
        ("synthesize clip a.mp4 --size 640 480 --size 320 240", "--size was given twice: give it once"),
        ("token add a --role view --role teach", "--role was given twice: give it once"),
    ],
)
def test_an_option_that_takes_one_value_is_given_once(
    arguments: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments.split(), capsys) == (2, "", f"error: {line}\n")


def test_help_is_shown_whatever_else_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["watch", "", "--name", "a", "--name", "b", "--help"], capsys)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["classify", ""], "PATH"),
        (["classify", "a.jpg", "--model", ""], "--model"),
        (["watch", ""], "SOURCE"),
        (["watch", "a.mp4", "-o", ""], "--output"),
        (["score", "", "-o", "out"], "INPUT"),
        (["evaluate", "best.pt", "--data", ""], "--data"),
        (["evaluate", "best.pt", "--unknown", "cars", "--unknown", ""], "--unknown"),
        (["synthesize", "images", ""], "FOLDER"),
        (["train", "cars", "--resume="], "--resume"),
    ],
)
def test_an_empty_value_is_refused_not_taken_for_the_current_folder(
    arguments: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments, capsys) == (2, "", f"error: {name} is empty: give a value\n")


def test_a_closed_pipe_causes_no_traceback(model: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m twincar_edge inspect --json {model} | head -c 1",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "{"
    assert "Traceback" not in done.stderr


def test_errors_have_their_exit_codes() -> None:
    kinds = {kind.__name__: kind.exit_code for kind in (TwincarError, InputError, ModelError, GateError)}
    assert kinds == {"TwincarError": 2, "InputError": 2, "ModelError": 2, "GateError": 1}


def test_a_missing_extra_is_named_and_a_broken_package_is_not_mistaken_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert require("json", "train") is json
    with pytest.raises(MissingExtraError, match=r"no_such_pkg is not installed: pip install 'twincar-edge\[bench\]'"):
        require("no_such_pkg.part", "bench")
    (tmp_path / "broken_pkg.py").write_text("import no_such_pkg\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_pkg"):
        require("broken_pkg", "bench")


def test_the_nearest_names_or_all_of_them() -> None:
    assert nearest("cudda", ["cuda", "openvino"]) == "did you mean 'cuda'?"
    assert nearest("zzz", ("cpu", "cuda")) == "known: cpu, cuda"


# inspect


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny ONNX file with a manifest."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    manifest = Manifest(
        name="twins [/red]",
        architecture="resnet50",
        precision="fp32",
        classes=("Alpha [2010]", "Beta"),
        preprocess=Preprocess(),
        training=TrainingRecord(checkpoint_sha256="ab" * 32, recipe={}),
        notes="[bold]drawn cars",
        created=datetime(2026, 1, 2, tzinfo=UTC),
        twincar_edge_version=__version__,
    )
    proto = helper.make_model(graph)
    helper.set_model_props(proto, {METADATA_KEY: manifest.to_json()})
    (tmp_path / "model.onnx").write_bytes(digested(proto))
    return tmp_path / "model.onnx"


def test_inspect_prints_the_manifest_as_json(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(["inspect", str(model), "--json"], capsys)
    assert (code, err) == (0, "")
    assert json.loads(out)["classes"] == ["Alpha [2010]", "Beta"]


def test_inspect_prints_a_table_with_brackets_unchanged(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["inspect", str(model)], capsys)
    assert code == 0
    assert "twins [/red] (resnet50, fp32)" in out
    assert "2: Alpha [2010], Beta" in out
    assert "[bold]drawn cars" in out
    assert sha256(model) in out  # as `sha256sum` prints it, to copy into a configuration
    assert re.search(r"digest +matches\nsignature +none\n", re.sub(" +\n", "\n", out))


def test_inspect_prints_the_bundled_model_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["inspect", "--json"], capsys)
    assert (code, json.loads(out)["name"]) == (0, DEFAULT_NAME)


def test_inspect_rejects_other_files_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    for path in (tmp_path / "none.onnx", tmp_path / "junk.onnx", tmp_path):
        code, out, err = run(["inspect", str(path)], capsys)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["clip", "gate"], ["clip", "gate.mp4", "--size", "161", "163"]])
def test_a_clip_that_cannot_be_drawn_is_one_line(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(["synthesize", *arguments])
    assert ended.value.code == 2
    assert len(capfd.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("name", ["detector", "events", "synthesize", "token"])
def test_the_descriptions_of_subcommands_are_not_cut(name: str) -> None:
    command = importlib.import_module(f"twincar_edge.cli.{name}").command
    text = command.get_help(click.Context(command, info_name=name, terminal_width=80))
    assert "..." not in text.split("Commands:")[1]


def test_quantization_is_described_in_words() -> None:
    record = QuantizationRecord(
        target="x86-avx2", activations="uint8", weights="int8", per_channel=True, reduce_range=True, float_layers=3,
        float_nodes=("conv",), calibration="minmax", calibration_images=1,
    )  # fmt: skip
    assert _quantization(record) == (
        "target x86-avx2; QDQ: uint8 activations, int8 weights per channel (reduced range); "
        "in float: 3 layers at the input, 1 by name; calibrated by minmax on 1 image"
    )
    assert _quantization(None) == "none"
