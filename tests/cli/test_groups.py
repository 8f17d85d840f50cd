"""The help of commands with many options shows them in groups, the most needed ones first."""

from __future__ import annotations

import importlib

import click
import pytest

from twincar_edge import cli
from twincar_edge.cli.groups import COMMON, GroupedCommand, GroupedOption, option

GROUPED = ("watch", "export", "train")


def command(name: str) -> GroupedCommand:
    found = importlib.import_module(f"twincar_edge.cli.{name}").command
    assert isinstance(found, GroupedCommand)
    return found


def help_of(found: click.Command) -> str:
    return found.get_help(click.Context(found, info_name=found.name, terminal_width=80))


def sections(text: str) -> dict[str, str]:
    """Return the help's sections after its prose, by title."""
    parts = [part for part in text.split("\n\n") if part.split("\n")[0].endswith(":") and part[0] != " "]
    return {part.split("\n")[0][:-1]: part for part in parts}


@pytest.mark.parametrize("name", GROUPED)
def test_every_option_has_a_group_that_the_help_shows(name: str) -> None:
    found = command(name)
    groups: dict[str, set[str]] = {}
    for declared in found.params:
        if isinstance(declared, click.Option):
            assert isinstance(declared, GroupedOption), f"declare {declared.opts[0]} with groups.option"
            assert declared.help, f"{declared.opts[0]} does not say what it does"
            groups.setdefault(declared.group, set()).add(max(declared.opts, key=len))
    assert set(found.groups) == set(groups)
    shown = sections(help_of(found))
    common = {max(o.opts, key=len) for o in found.params if isinstance(o, GroupedOption) and o.common}
    assert 3 <= len(common) <= 10
    assert all(one in shown[COMMON] for one in (*common, "--help"))
    for group, options in groups.items():
        for one in options - common:
            assert one in shown[group]


def test_watch_shows_its_groups_in_order() -> None:
    groups = ["Source", "Locating", "Tracking", "Model", "Events", "Pictures", "Service"]
    assert list(sections(help_of(command("watch")))) == [COMMON, *groups]


def test_groups_keep_the_order_of_the_command_and_share_a_column() -> None:
    @click.command("one", cls=GroupedCommand, groups=("First", "Second"))
    @option("--late", group="Second", metavar="SECONDS", type=click.IntRange(min=1), default=3, show_default=True)
    @option("--early-and-long", group="First", is_flag=True, help="Do it early.")
    @option("-x", "--needed", group="Second", common=True, help="Do it at all.")
    def one() -> None: ...

    assert help_of(one).split("\n\n", 1)[1].splitlines() == [
        "Common options:",
        "  -x, --needed TEXT  Do it at all.",
        "  --help             Show this message and exit.",
        "",
        "First:",
        "  --early-and-long   Do it early.",
        "",
        "Second:",
        "  --late SECONDS     [default: 3]",
    ]


@pytest.mark.parametrize("name", GROUPED)
def test_help_ends_with_the_default_and_shows_no_range(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert text.count("[default: ") > 5
    assert "x>" not in text
    assert "<=x" not in text
    assert "RANGE" not in text
