"""Every error message of the code, by subject: what docs/troubleshooting.md lists below its remedies.

The messages are read from the sources, so that the page has them as they are. What a message fills in is shown as `…`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

# Subject -> the modules whose messages belong to it, by the longest prefix that fits.
SUBJECTS: dict[str, tuple[str, ...]] = {
    "command line": ("twincar_edge/cli", "twincar_edge/api", "twincar_edge/files", "twincar_edge/bundled"),
    "labeled images": (
        "twincar_edge/datasets",
        "twincar_edge/dataset_logits",
        "twincar_edge/labels",
        "twincar_edge/metrics",
    ),
    "pictures": ("twincar_edge/images", "twincar_edge/image_headers", "twincar_edge/preprocess", "runtime/classify"),
    "training": ("training",),
    "checkpoints": ("training/checkpoint", "training/hub", "training/weights", "training/model", "training/state"),
    "export": ("export",),
    "model files": (
        "twincar_edge/enrolled",
        "twincar_edge/golden",
        "twincar_edge/held_out",
        "twincar_edge/manifest",
        "twincar_edge/onnx",
        "twincar_edge/protobuf",
        "twincar_edge/prototypes",
        "runtime/inference",
        "runtime/reload",
    ),
    "sources": ("runtime/connection", "runtime/sources", "runtime/annotating", "runtime/loop"),
    "locating": ("runtime/locating",),
    "configuration": ("runtime/configuration", "runtime/quantities", "runtime/sinks/settings"),
    "sinks": ("runtime/sinks", "runtime/storage", "runtime/collect"),
    "page": ("runtime/page", "runtime/listening", "runtime/teaching", "runtime/monitoring"),
    "enrolling": ("runtime/enroll", "runtime/cluster"),
    "explanations": ("runtime/expla", "twincar_edge/heatmaps", "training/cam", "benchmarks/faithfulness"),
    "benchmark": ("benchmarks", "runtime/timing", "runtime/demo"),
}
WORD = re.compile("[A-Za-z]{2,}")
FOLDERS = ("twincar_edge", "training", "export", "runtime", "benchmarks")
# Errors whose text no user sees: those of Python's protocols, and those that are always caught.
INTERNAL = {"AssertionError", "AttributeError", "IndexError", "KeyError", "NotImplementedError", "OSError"}
INTERNAL |= {"RuntimeError", "StopIteration", "TypeError", "HeaderError"}
# Modules that return, collect or list the reasons in other modules' errors.
REASONS = ("runtime/configuration/config_file", "runtime/connection", "runtime/inference/refusals")
# Modules whose ValueErrors pydantic shows to the user.
VALIDATING = ("runtime/configuration", "runtime/locating/zones", "runtime/quantities", "runtime/sinks/settings")


def messages(repository: Path) -> dict[str, list[str]]:
    """Return the messages of each subject, sorted, each once."""
    found: dict[str, set[str]] = {subject: set() for subject in SUBJECTS}
    for folder in FOLDERS:
        for file in sorted((repository / folder).rglob("*.py")):
            module = file.relative_to(repository).as_posix()
            linked = folder == "twincar_edge" and module.split("/")[1] in FOLDERS
            if not linked and "experiments" not in file.parts:
                tree = ast.parse(file.read_text("utf-8"))
                found[subject_of(module)].update([*raised(tree, module), *reasons(tree, module)])
    return {subject: sorted(texts) for subject, texts in found.items()}


def subject_of(module: str) -> str:
    """Return the subject of a module, given as its path."""
    fits = [(len(prefix), name) for name, all_of in SUBJECTS.items() for prefix in all_of if module.startswith(prefix)]
    return max(fits)[1] if fits else "command line"


def raised(tree: ast.Module, module: str) -> Iterator[str]:
    """Yield the messages of the errors that a module raises."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)):
            continue
        name = ast.unparse(node.exc.func).rpartition(".")[2]
        if name in INTERNAL or (name == "ValueError" and not module.startswith(VALIDATING)):
            continue
        arguments = node.exc.args[1:2] if name == "HTTPException" else node.exc.args  # its first is the status
        text = "".join(map(written, arguments))
        if len(WORD.findall(text)) > 1:
            yield re.sub("…+", "…", " ".join(text.split()))


def reasons(tree: ast.Module, module: str) -> Iterator[str]:
    """Yield the reasons that a module words for other modules' errors."""
    if not module.startswith(REASONS):
        return
    for node in ast.walk(tree):
        match node:
            case ast.Return(value=ast.Constant() | ast.JoinedStr() as value):
                text = written(value)
            case ast.Call(func=ast.Attribute(attr="add"), args=[_, text_node]):
                text = written(text_node)
            case ast.Tuple(elts=[ast.Call(), ast.Constant() | ast.BinOp() as value]):
                text = re.sub(r"(\\\d)+", "…", written(value))
            case _:
                continue
        if len(WORD.findall(text)) > 2:
            yield text


def written(node: ast.AST) -> str:
    """Return the text of an argument, with `…` for what is filled in."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else "…"
    if isinstance(node, ast.JoinedStr):
        return "".join(map(written, node.values))
    if isinstance(node, ast.BinOp):
        return written(node.left) + written(node.right)
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "Parameter" and node.args:
        name = node.args[0]
        return name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else "…"
    return "…"


def with_messages(page: str, repository: Path) -> str:
    """Return the page with the messages of each subject instead of its mark, `<!-- messages: SUBJECT -->`.

    Raises:
        ValueError: a subject has no mark, or a mark no subject.
    """
    for subject, texts in messages(repository).items():
        mark = f"<!-- messages: {subject} -->"
        if mark not in page:
            raise ValueError(f"docs/troubleshooting.md has no mark for messages of {subject!r}")
        rows = "\n".join(f"    - `{text.replace('`', '')}`" for text in texts)
        page = page.replace(mark, f'??? note "All {len(texts)} messages"\n\n{rows}\n')
    if "<!-- messages:" in page:
        raise ValueError("docs/troubleshooting.md has a mark for messages of a subject that is not there")
    return page
