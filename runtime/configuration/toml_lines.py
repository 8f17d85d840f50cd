"""Finds the line of each key in a TOML document, which `tomllib` does not provide."""

from __future__ import annotations

import re
import tomllib
from collections import Counter

KeyPath = tuple[str | int, ...]
"""The path to a value, such as `("cameras", 0, "stride")`."""

_KEY = re.compile(r"""[ \t]*("(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[A-Za-z0-9_-]+)[ \t]*(\.?)""")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)+")
_REST_OF_LINE = re.compile(r"[^\n]*")
_PIECE = re.compile(
    r"""
    "{3}(?:[^\\]|\\.)*?"{3}"{0,2} | '{3}.*?'{3}'{0,2}    # multi-line strings may end with up to two quotes of their own
    | "(?:[^"\\\n]|\\.)*" | '[^'\n]*'
    | \#[^\n]* | [\[{] | [\]}] | \n | [^"'#\[\]{}\n]+
    """,
    re.VERBOSE | re.DOTALL,
)


def key_lines(text: str) -> dict[KeyPath, int]:
    """Return the line number, from 1, of every key and table in a document that `tomllib` accepts.

    Values inside an array or an inline table have no entry; use the line of their longest prefix.
    """
    found: dict[KeyPath, int] = {}
    tables: Counter[KeyPath] = Counter()  # the number of tables in each array of tables so far
    inside: KeyPath = ()
    position, line = 0, 1

    def advance_to(end: int) -> None:
        nonlocal position, line
        line += text.count("\n", position, end)
        position = end

    while position < len(text):
        if blank := _BLANK.match(text, position):
            advance_to(blank.end())
            continue
        opening = "[[" if text.startswith("[[", position) else "[" if text[position] == "[" else ""
        parts, end = _dotted_key(text, position + len(opening))
        if end == position:  # not valid TOML
            break
        key = _resolve(parts, () if opening else inside, tables)
        if opening == "[[":
            tables[key] += 1
            found.setdefault(key, line)
            key = (*key, tables[key] - 1)
        for length in range(1, len(key) + 1):
            found.setdefault(key[:length], line)
        if opening:
            inside = key
            rest = _REST_OF_LINE.match(text, end)
            advance_to(rest.end() if rest else len(text))
        else:
            advance_to(_value_end(text, end))
    return found


def _dotted_key(text: str, position: int) -> tuple[list[str], int]:
    """Return the parts of the dotted key at a position, and its end."""
    parts = []
    while key := _KEY.match(text, position):
        part = key[1]
        parts.append(tomllib.loads(f"key = {part}")["key"] if part[0] in "\"'" else part)
        position = key.end()
        if not key[2]:
            break
    return parts, position


def _resolve(parts: list[str], key: KeyPath, tables: Counter[KeyPath]) -> KeyPath:
    """Return the path of a dotted key below `key`; an array of tables in it means its last table."""
    for number, part in enumerate(parts):
        key = (*key, part)
        if number + 1 < len(parts) and key in tables:
            key = (*key, tables[key] - 1)
    return key


def _value_end(text: str, position: int) -> int:
    """Return the position of the line break after a value, or the end of the text."""
    depth = 0
    while piece := _PIECE.match(text, position):
        if piece[0] == "\n" and depth == 0:
            break
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(piece[0], 0)
        position = piece.end()
    return position
