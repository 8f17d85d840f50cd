"""`import twincar_edge as tw`: light, lazy, and complete."""

from __future__ import annotations

import importlib
import inspect
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import twincar_edge
from tests import REPOSITORY

PAGE = (REPOSITORY / "docs" / "python.md").read_text("utf-8")
HEAVY = ("torch", "onnxruntime", "cv2", "numpy", "pydantic", "onnx", "timm", "sklearn", "rich", "click")


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_import_loads_no_other_library() -> None:
    assert run(f"import sys, twincar_edge; print(sorted(set({HEAVY}) & set(sys.modules)))") == "[]"


def test_the_import_turns_off_the_telemetry_of_onnx_runtime() -> None:
    program = "import os; os.environ.pop('ORT_DISABLE_TELEMETRY', None)\nimport twincar_edge\n"
    assert run(program + "print(os.environ['ORT_DISABLE_TELEMETRY'])") == "1"


def test_every_public_name_can_be_imported_without_torch() -> None:
    absent = ["torch", "torchvision", "timm", "sklearn", "scipy", "onnx", "onnxscript", "matplotlib"]
    program = f"import sys; sys.modules.update(dict.fromkeys({absent}))\nfrom twincar_edge import *\nprint(train)"
    assert run(program).startswith("<function train")


def test_a_function_whose_extra_is_missing_names_it() -> None:
    program = (
        "import sys; sys.modules['torch'] = None\nimport twincar_edge as tw\n"
        "try:\n    tw.train('cars', 'run')\nexcept tw.MissingExtraError as error:\n    print(error)"
    )
    assert run(program) == "torch is not installed: pip install 'twincar-edge[train]'"


def test_every_name_is_imported_from_its_module_and_listed() -> None:
    for name in twincar_edge.__all__:
        assert getattr(twincar_edge, name) is not None
        assert name in dir(twincar_edge)
    assert set(twincar_edge.__all__) - {"export", "__version__"} == set(twincar_edge._MODULES)
    with pytest.raises(AttributeError, match="has no attribute 'Clasifier'"):
        twincar_edge.Clasifier  # noqa: B018


@pytest.mark.parametrize(
    "order",
    [
        "import twincar_edge.export; import twincar_edge as tw",
        "import twincar_edge as tw; tw.export; import twincar_edge.export",
        "import twincar_edge as tw; from twincar_edge.export import ParityLimits",
        "from twincar_edge import export; import twincar_edge as tw",
        "import twincar_edge.export.opset; import twincar_edge as tw",
    ],
)
def test_export_is_a_function_and_a_package_in_any_order_of_imports(order: str) -> None:
    program = (
        f"{order}\n"
        "import twincar_edge.export as package\n"
        "from twincar_edge.export import ExportConfig, export as room\n"
        "assert tw.export is package and package.ExportConfig is ExportConfig\n"
        "try:\n    tw.export('best.pt', 'models', target='arm64')\nexcept tw.InputError as error:\n    print(error)"
    )
    assert run(program) == "target needs int8=True"


def test_the_signature_of_export_is_that_of_its_function() -> None:
    function = importlib.import_module("twincar_edge.api.export").export
    assert inspect.signature(twincar_edge.export) == inspect.signature(function)


def test_help_shows_the_docstring_of_the_function_export() -> None:
    shown = pydoc.render_doc(twincar_edge.export, renderer=pydoc.plaintext)
    assert shown.index("    checkpoint: a .pt") < shown.index("PACKAGE CONTENTS")


@pytest.mark.parametrize("name", twincar_edge.__all__)
def test_every_public_name_is_in_the_reference(name: str) -> None:
    assert f"`{name}" in PAGE[PAGE.index("## Reference") :]


def test_a_user_script_with_all_names_passes_a_strict_type_check() -> None:
    script = Path(__file__).with_name("user_script.py")
    assert {name for name in twincar_edge.__all__ if f"tw.{name}" not in script.read_text("utf-8")} == set()
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(REPOSITORY / ".mypy_cache"), str(script)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout
