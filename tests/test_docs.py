"""The documentation matches the code: commands, configurations, events, names, links.

`tests/api/test_examples.py` runs the Python examples.
"""

from __future__ import annotations

import importlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from types import ModuleType

import click
import pytest

from tests import REPOSITORY
from twincar_edge.benchmarks.experiments import group as experiments
from twincar_edge.cli import group
from twincar_edge.cli.watch_options import refuse_options_of_file
from twincar_edge.runtime.configuration.config_file import read_config
from twincar_edge.runtime.events import Event

ROOT_PAGES = ("README.md", "CONTRIBUTING.md", "RELEASING.md", "SECURITY.md", "deploy/README.md")
DOCS = REPOSITORY / "docs"
PAGES = [path for path in (REPOSITORY / name for name in ROOT_PAGES) if path.exists()] + sorted(DOCS.rglob("*.md"))
FENCE = re.compile(r"^```([\w ]*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
STARTS = {"twincar-edge", "python", "python3", "torchrun", "sudo", "docker"}
NOT_OURS = (["build"], ["run"])  # subcommands of docker whose arguments may equal the program's name
PROGRAMS = {"twincar-edge": group, "twincar_edge": group, "twincar_edge.benchmarks.experiments": experiments}


@cache
def fences(page: Path, *languages: str) -> tuple[str, ...]:
    """Return a page's fenced blocks in these languages."""
    return tuple(text for language, text in FENCE.findall(page.read_text("utf-8")) if language.strip() in languages)


def with_blocks(*languages: str) -> list[pytest.ParameterSet]:
    return [
        pytest.param(page, id=page.relative_to(REPOSITORY).as_posix()) for page in PAGES if fences(page, *languages)
    ]


# --- commands ---


def shell_lines(page: Path) -> Iterator[str]:
    """Yield the command lines of a page's shell blocks and of its text, with continued lines joined."""
    text = page.read_text("utf-8")
    for block in fences(page, "sh"):
        yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"^ {4}(.*)$", FENCE.sub("", text).replace("\\\n", " "), re.MULTILINE)  # indented code
    for span in re.findall(r"`([^`\n]+)`", FENCE.sub("", text)):
        if "…" not in span:
            yield span


def arguments(line: str) -> Iterator[tuple[click.Group, list[str]]]:
    """Yield each call of this project's programs in a line, with its arguments."""
    words = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
    words.whitespace_split = True
    try:
        tokens = list(words)
    except ValueError:  # prose with an apostrophe
        return
    for is_operator, part in groupby(tokens, key=lambda token: set(token) <= set("|&;<>()")):
        command = list(part)
        while command and "=" in command[0]:  # environment variables
            del command[0]
        if is_operator or not command or command[0].rpartition("/")[2] not in STARTS or command[1:2] in NOT_OURS:
            continue
        at = [place for place, token in enumerate(command) if token.rpartition("/")[2] in PROGRAMS]
        if at:
            place = at[-1] if command[0] == "docker" else at[0]  # docker exec twincar-edge twincar-edge …
            yield PROGRAMS[command[place].rpartition("/")[2]], command[place + 1 :]


def parse(program: click.Group, words: list[str]) -> None:
    """Parse a command line as the program does, without running it.

    Raises:
        click.UsageError: unknown command or option, invalid value, or an option that `--config` excludes.
    """
    command: click.Command = program
    context = command.make_context("twincar-edge", list(words))
    while isinstance(command, click.Group) and (rest := [*context._protected_args, *context.args]):
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command, context = found, found.make_context(name, rest, parent=context)
    if command.name == "watch" and (config_file := context.params["config_file"]) is not None:
        refuse_options_of_file(context, config_file)


def test_every_command_line_parses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(click.Path, "convert", lambda _self, value, _param, _ctx: Path(value))  # files need not exist
    count, wrong = 0, []
    for page in PAGES:
        for line in shell_lines(page):
            for program, words in arguments(line):
                if not words:
                    continue
                count += 1
                try:
                    parse(program, words)
                except click.exceptions.Exit:  # --help and --version
                    pass
                except click.MissingParameter:  # a command that is only mentioned
                    assert f"`{line}`" in page.read_text("utf-8"), f"{page.name}: {line}"
                except click.ClickException as error:
                    wrong.append(f"{page.relative_to(REPOSITORY)}: {line.strip()}: {error.format_message()}")
    assert wrong == []
    assert count > 150


@pytest.mark.parametrize(
    "line",
    [
        "twincar-edge watch gate.mp4 --min-aera 0.1",
        "twincar-edge wacth x",
        "twincar-edge watch x --locate by-magic",
        "twincar-edge watch --config x.toml --duration 600",
    ],
)
def test_an_invalid_command_line_is_detected(line: str) -> None:
    ((program, words),) = arguments(f"sudo {line} | head  # try it")
    with pytest.raises(click.ClickException):
        parse(program, words)


# --- configurations and events ---


@pytest.mark.parametrize("page", with_blocks("toml"))
def test_every_toml_example_is_a_valid_configuration(page: Path, tmp_path: Path) -> None:
    for block in fences(page, "toml"):
        camera = '\n[[cameras]]\nname = "gate"\nsource = "gate.mp4"\n' if "[[cameras]]" not in block else ""
        store = '\n[[sinks]]\nkind = "store"\n' if "[page]" in block and "[[sinks]]" not in block else ""
        path = tmp_path / "cameras.toml"
        path.write_text(block + camera + store)
        assert read_config(path, {name: "value" for name in re.findall(r"\$\{(\w+)\}", block)}).cameras


@pytest.mark.parametrize("page", with_blocks("json"))
def test_every_json_example_is_valid(page: Path) -> None:
    for block in fences(page, "json"):
        if "schema_version" in json.loads(block):
            Event.model_validate_json(block)


# --- names ---


def test_every_function_in_the_architecture_table_exists() -> None:
    text = (DOCS / "architecture.md").read_text("utf-8")
    table = text[text.index("| command, or") : text.index("## Things that exist once")]
    names = [name for name in re.findall(r"`([a-z_]+(?:\.\w+)+)`", table) if not name.startswith("tw.")]
    assert len(names) > 20
    for name in names:
        module, _, attribute = name.rpartition(".")
        value = getattr(importlib.import_module(f"twincar_edge.{module}"), attribute)
        assert not isinstance(value, ModuleType), f"{name} is a module"
    commands = set(re.findall(r"`([a-z]+)", "".join(row.split("|")[1] for row in table.splitlines() if row)))
    assert set(group.list_commands(click.Context(group))) <= commands


def test_every_file_named_in_the_documentation_exists() -> None:
    named = re.compile(
        r"`((?:twincar_edge|training|export|runtime|benchmarks|tests|deploy|docs)/[\w./-]+\.(?:py|md|toml))`"
    )
    missing = {
        f"{page.relative_to(REPOSITORY)}: {name}"
        for page in PAGES
        for name in named.findall(page.read_text("utf-8"))
        if not (REPOSITORY / name).exists() and not (REPOSITORY / "tests" / name).exists()
    }
    assert missing == set()


# --- the site ---


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a broken link or anchor fails."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_loads_nothing_from_other_hosts(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    loads = re.compile(
        r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?https?:|<link\b[^>]*rel=["']?(?:stylesheet|preconnect|preload|icon)[^>]*href=["']?https?:"""
    )
    assert [page.name for page in pages if loads.search(page.read_text("utf-8"))] == []
    styles = "".join(style.read_text("utf-8") for style in site.rglob("*.css"))
    assert re.search(r"url\(['\"]?https?:|@import", styles) is None


def test_the_references_describe_every_option_key_and_field(site: Path) -> None:
    commands = (site / "reference" / "commands.html").read_text("utf-8")
    assert all(f'id="{name}"' in commands for name in group.list_commands(click.Context(group)))
    for name in ("configuration", "event"):
        page = (site / "reference" / f"{name}.html").read_text("utf-8")
        rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
        assert [row for row in rows if re.match(r"\s*<td>.*?</td>\s*<td></td>", row)] == []  # without a description
    api = (site / "reference" / "python.html").read_text("utf-8")
    assert 'id="twincar_edge.runtime.inference.classifier.Classifier"' in api
    messages = (site / "troubleshooting.html").read_text("utf-8")
    assert "were exported by twincar-edge" in messages or "was not exported by twincar-edge" in messages


# --- the phrase linter ---


def test_the_phrase_linter_checks_prose_but_not_code(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("A file that\nis none of ours.\n\n`is none`\n\n    is none\n\n```\nis none\n```\n")
    command = [sys.executable, str(DOCS / "_lint" / "phrases.py"), str(page)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout.count("\n")) == (1, 1)
    assert done.stdout.startswith(f"{page}:2: 'is none'")
    page.write_text("All is well.\n")
    assert subprocess.run(command, capture_output=True, text=True).returncode == 0
