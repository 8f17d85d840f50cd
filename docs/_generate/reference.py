"""The reference pages, made from the code: commands from click, configuration and event from the pydantic models.

The types, defaults and limits are the code's. What a key or a field means is written once, in the tables of
docs/operations.md and docs/events.md; a test holds those tables complete.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import indent
from typing import Any, get_args

import click
from pydantic import BaseModel

import twincar_edge
from twincar_edge.cli import group
from twincar_edge.cli.commands import walk
from twincar_edge.runtime.configuration.config import CameraConfig, WatchConfig
from twincar_edge.runtime.configuration.page_settings import PageSettings
from twincar_edge.runtime.events import ClassifierRecord, Event, Lead, NamedProbability, schema_json
from twincar_edge.runtime.sinks.settings import SinkSettings

Schema = dict[str, Any]
SINKS: tuple[type[BaseModel], ...] = get_args(get_args(SinkSettings)[0])
NOT_IN_A_FILE = {"keep", "kind"}
REQUIRED_IN_A_FILE = {"source"}  # its default is Python's
ROW = re.compile(r"^\| `\"?([\w.]+)\"?` \|(.*)\|$", re.MULTILINE)

PYTHON = {
    "Use a model": ("Classifier", "Prediction", "Guess", "read_manifest", "Manifest"),
    "Show answers": ("annotate", "explain", "Explanation"),
    "Watch cameras": ("watch", "EventStream", "Event", "WatchConfig", "CameraConfig", "resend_events"),
    "Train and export": ("train", "TrainingResult", "evaluate", "Evaluation", "export", "ExportResult"),
    "Teach": ("enroll", "EnrollReport"),
    "Score an archive": ("score", "ScoreReport"),
    "Measure": ("benchmark", "BenchmarkReport"),
    "Bundled files": ("demo_model", "demo_clip"),
    "Errors": ("TwincarError", "InputError", "ModelError", "GateError", "MissingExtraError"),
}


# --- commands ---


def commands_page(_repository: Path) -> str:
    """Return the page of all commands with their arguments and options."""
    lines = [
        "# Commands\n",
        "Generated from the command line's own definitions: the text is what `--help` prints.\n",
        "Exit codes: 0 done, 1 a limit was not met, 2 bad input, 130 interrupted.\n",
    ]
    for path, command in walk(group):
        lines += command_section(path, command)
    return "\n".join(lines)


def command_section(path: str, command: click.Command) -> Iterator[str]:
    """Yield the lines of one command's section."""
    context = click.Context(command, info_name=f"twincar-edge {path}")
    yield f"\n{'##' if ' ' not in path else '###'} {path}\n"
    yield f"```text\n{' '.join(command.get_usage(context).removeprefix('Usage: ').split())}\n```\n"
    yield escaped(inspect.cleandoc(command.help or command.short_help or "")) + "\n"
    options = [one for one in command.get_params(context) if isinstance(one, click.Option) and not one.hidden]
    sections: dict[str, list[str]] = {}
    for option in options:
        record = option.get_help_record(context)
        if record is None or "--help" in option.opts:
            continue
        title = getattr(option, "group", "")
        names = ", ".join(f"`{name.strip()}`" for name in re.split(r",\s*(?=-)", record[0]))
        sections.setdefault(title, []).append(f"| {cell(names)} | {cell(escaped(record[1]))} |")
    for title, rows in sections.items():
        if title:
            yield f"**{title}**\n"
        yield "| option | meaning |\n|---|---|"
        yield from rows
        yield ""


# --- configuration ---


def configuration_page(repository: Path) -> str:
    """Return the page of all keys of `cameras.toml`."""
    operations = (repository / "docs" / "operations.md").read_text("utf-8")
    described, options = meanings(operations), key_options()
    lines = [
        "# Configuration: `cameras.toml`\n",
        "Generated from the models that validate the file. [Operations](../operations.md#the-configuration-file) "
        "explains paths, environment variables and units.\n",
        "## Run\n\nAt the top of the file.\n",
        *model_table(WatchConfig, described, options, without={"cameras", "sinks", "page"}),
        "\n## `[page]`\n\nThe web page.\n",
        *model_table(PageSettings, described, {}),
        "\n## `[[cameras]]`\n\nOne table per camera.\n",
        *model_table(CameraConfig, described, options),
        "\n## `[[sinks]]`\n\nOne table per sink; `kind` selects which. Each may have a `name`.\n",
    ]
    for sink in SINKS:
        kind = sink.model_fields["kind"].default
        lines.append(f'\n### kind = "{kind}"\n\n{escaped((sink.__doc__ or "").strip().splitlines()[0])}\n')
        lines += model_table(sink, described, {}, without={"name"})
    return "\n".join(lines) + "\n"


def meanings(page: str) -> dict[str, str]:
    """Return what the tables of a page say of each name in their first column: the last cell of its row."""
    below = re.sub(r"\]\((?!https?:)", "](../", page)  # links are relative to docs/, and the references are below it
    return {name: rest.split(" | ")[-1].strip() for name, rest in ROW.findall(below)}


def key_options() -> dict[str, str]:
    """Return which option of `watch` sets a key."""
    watch = group.get_command(click.Context(group), "watch")
    assert watch is not None
    return {one.name or "": one.opts[-1] for one in watch.params if isinstance(one, click.Option)}


def model_table(
    model: type[BaseModel], described: dict[str, str], options: dict[str, str], *, without: Iterable[str] = ()
) -> Iterator[str]:
    """Yield the table of a model's keys."""
    schema = model.model_json_schema()
    yield "| key | meaning | type | default | option |\n|---|---|---|---|---|"
    for name in model.model_fields:
        if name in {*NOT_IN_A_FILE, *without}:
            continue
        part = schema["properties"][name]
        required = name in REQUIRED_IN_A_FILE or name in schema.get("required", ())
        default = "required" if required else shown(part.get("default"))
        option = f"`{options[name]}`" if name in options else ""
        cells = (f"`{name}`", described.get(name, ""), type_name(part, schema), default, option)
        yield "| " + " | ".join(map(cell, cells)) + " |"


def shown(default: object) -> str:
    """Return a default as a TOML value."""
    if default is None or default in ([], ""):
        return "none"
    return f"`{json.dumps(default)}`"


def type_name(part: Schema, schema: Schema) -> str:
    """Return a property's type and limits in words."""
    if "$ref" in part:
        return type_name(schema["$defs"][part["$ref"].rpartition("/")[2]], schema)
    if "anyOf" in part:
        kinds = [type_name(one, schema) for one in part["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in part or "const" in part:
        return ", ".join(f"`{json.dumps(value)}`" for value in part.get("enum", [part.get("const")]))
    kind = {"array": "list", "object": "table", "number": "number", "integer": "integer", "string": "text"}.get(
        part.get("type", ""), part.get("type", "any")
    )
    if kind == "text" and "format" in part:
        kind = {"path": "path", "date-time": "time", "duration": "duration"}.get(part["format"], kind)
    limits = [
        f"{sign} {part[key]}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in part
    ]
    return kind + (f", {' and '.join(limits)}" if limits else "")


# --- event ---


def event_page(repository: Path) -> str:
    """Return the page of the event's fields, with its JSON Schema."""
    described = meanings((repository / "docs" / "events.md").read_text("utf-8"))
    schema = Event.model_json_schema(mode="serialization")
    lines = [
        "# Event\n",
        "Generated from the model that writes the events. [Events](../events.md) explains how an answer comes about.\n",
        "| field | meaning | type |\n|---|---|---|",
    ]
    nested = {"top5": NamedProbability, "course": Lead, "classifier": ClassifierRecord}
    for name, part in schema["properties"].items():
        lines.append(field_row(name, part, schema, described))
        if name in nested:
            inner = nested[name].model_json_schema(mode="serialization")
            lines += [field_row(f"{name}.{key}", one, inner, described) for key, one in inner["properties"].items()]
    lines.append(
        "\n## JSON Schema\n\nThe package ships it in `twincar_edge/runtime/schemas/`; in Python it is "
        "`twincar_edge.runtime.events.schema_json()`.\n\n"
        + '??? note "The schema"\n\n'
        + indent(f"```json\n{schema_json()}```\n", "    ")
    )
    return "\n".join(lines)


def field_row(name: str, part: Schema, schema: Schema, described: dict[str, str]) -> str:
    """Return the row of one field."""
    optional = any(one.get("type") == "null" for one in part.get("anyOf", ()))
    kind = type_name(part, schema) + (" or null" if optional else "")
    return "| " + " | ".join(map(cell, (f"`{name}`", described.get(name, ""), kind))) + " |"


# --- Python ---


def python_page(_repository: Path) -> str:
    """Return the page of the public names, which mkdocstrings fills in from their docstrings."""
    listed = {name for names in PYTHON.values() for name in names}
    unlisted = tuple(sorted(set(twincar_edge.__all__) - listed - {"__version__"}))
    lines = [
        "# Python API\n",
        "`import twincar_edge as tw`. The [Python guide](../python.md) shows how the names work together. The "
        "examples below run as tests, in a folder with a few images, clips and a data set.\n",
    ]
    for title, names in (PYTHON | ({"More": unlisted} if unlisted else {})).items():
        lines.append(f"\n## {title}\n")
        for name in names:
            module = "api.export" if name == "export" else twincar_edge._MODULES[name]
            lines.append(f"::: twincar_edge.{module}.{name}\n")
    return "\n".join(lines)


# --- Markdown ---


def cell(text: str) -> str:
    """Return text as a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def escaped(text: str) -> str:
    """Return a help text as Markdown: without what Markdown would take for HTML or emphasis."""
    text = text.replace("\b", "")
    return re.sub(r"([<>*_\[\]])", r"\\\1", text)
