"""Shell completion beyond the options and choices that click completes by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def complete_files(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete files, for parameters that take a path or something else, like a URL."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def complete_recipes(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the names of shipped recipes; if none matches, complete files."""
    from click.shell_completion import CompletionItem

    from twincar_edge.training.recipe_files import shipped_recipes

    names = [name for name in shipped_recipes() if name.startswith(incomplete)]
    return [CompletionItem(name) for name in names] or complete_files(context, parameter, incomplete)


def complete_table(table: Mapping[str, str], incomplete: str) -> list[CompletionItem]:
    """Complete the names in a table, with its texts as help in shells that show it."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(name, help=text) for name, text in table.items() if name.startswith(incomplete)]
