"""Environment variables that OpenCV cannot read are one line, not a crash, on the command line and from Python."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from twincar_edge import cli
from twincar_edge.bundled import demo_clip
from twincar_edge.errors import InputError
from twincar_edge.opencv_environment import MAX_PIXELS, check_opencv_environment
from twincar_edge.runtime.sources.video import open_video_file

NUMBERS = [MAX_PIXELS[0], "OPENCV_IO_MAX_IMAGE_WIDTH", "OPENCV_FFMPEG_READ_ATTEMPTS", "OPENCV_FOR_THREADS_NUM"]
SWITCHES = ["OPENCV_VIDEOIO_DEBUG", "OPENCV_FFMPEG_DEBUG", "OPENCV_LOG_TIMESTAMP"]
WRONG = [(name, value, "a number") for name in NUMBERS for value in ("many", "", "5x", "-1", "9" * 20)]
WRONG += [(name, value, "0 or 1") for name in SWITCHES for value in ("maybe", "", "2", "yes")]
RIGHT = [(name, value) for name in NUMBERS for value in ("5", "5KB")]
RIGHT += [(name, value) for name in SWITCHES for value in ("0", "1", "true", "False")]


def line(name: str, value: str, kind: str) -> str:
    return f"the environment variable {name} is {value!r}, not {kind}: correct it, or unset it"


def python(program: str, **environ: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **environ}
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environ)


@pytest.mark.parametrize(("name", "value", "kind"), WRONG)
def test_a_wrong_value_is_one_line(
    name: str, value: str, kind: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 2
    assert capfd.readouterr().err == f"error: {line(name, value, kind)}\n"


@pytest.mark.parametrize(("name", "value"), RIGHT)
def test_a_value_that_opencv_reads_is_accepted(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    check_opencv_environment()


@pytest.mark.parametrize("name", ["OPENCV_IO_MAX_IMAGE_PIXELS", "OPENCV_TRACE", "OPENCV_FFMPEG_READ_ATTEMPTS"])
def test_python_users_get_an_error_that_they_can_catch(name: str) -> None:
    program = (
        "import twincar_edge as tw\n"
        "for wanted in ('Classifier', 'export'):\n"
        "    try:\n        getattr(tw, wanted)\n"
        "    except tw.InputError as error:\n        print(error)\n"
    )
    done = python(program, **{name: "nonsense"})
    kind = "0 or 1" if name == "OPENCV_TRACE" else "a number"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{line(name, 'nonsense', kind)}\n" * 2


@pytest.mark.parametrize("name", ["OPENCV_IO_MAX_IMAGE_PIXELS", "OPENCV_TRACE"])
@pytest.mark.parametrize("module", ["runtime.watch", "training.recipe", "export.data", "benchmarks.bench"])
def test_a_module_of_a_subpackage_gives_the_same_error_as_it_is_imported(module: str, name: str) -> None:
    program = (
        "from twincar_edge.errors import InputError\n"
        f"try:\n    import twincar_edge.{module}\nexcept InputError as error:\n    print(error)\n"
    )
    done = python(program, **{name: "nonsense"})
    kind = "0 or 1" if name == "OPENCV_TRACE" else "a number"
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{line(name, 'nonsense', kind)}\n", "")


def test_the_command_line_checks_before_opencv_is_imported() -> None:
    program = "from twincar_edge.cli import main; main(['classify', 'car.jpg'])"
    done = python(program, OPENCV_TRACE_MAX_CHILDREN="nonsense")
    wanted = f"error: {line('OPENCV_TRACE_MAX_CHILDREN', 'nonsense', 'a number')}\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", wanted)


def test_a_variable_set_after_the_import_is_reported_when_a_video_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCV_FFMPEG_READ_ATTEMPTS", "nonsense")
    with pytest.raises(InputError, match="OPENCV_FFMPEG_READ_ATTEMPTS is 'nonsense', not a number"):
        open_video_file(str(demo_clip()), stride=1)
