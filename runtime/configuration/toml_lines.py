"""On which line of a TOML document a key stands, which `tomllib` does not tell."""

from __future__ import annotations

import re
import tomllib
from collections import Counter

Place = tuple[str | int, ...]

_KEY = re.compile(r"""[ \t]*("(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[A-Za-z0-9_-]+)[ \t]*(\.?)""")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)+")
_REST_OF_LINE = re.compile(r"[^\n]*")
_PIECE = re.compile(
    r"""
    "{3}(?:[^\\]|\\.)*?"{3}"{0,2} | '{3}.*?'{3}'{0,2}    # strings over several lines may end in two quotes of their own
    | "(?:[^"\\\n]|\\.)*" | '[^'\n]*'
    | \#[^\n]* | [\[{] | [\]}] | \n | [^"'#\[\]{}\n]+
    """,
    re.VERBOSE | re.DOTALL,
)


def key_lines(text: str) -> dict[Place, int]:
    """Return the line, from 1, of every key and table of a document that `tomllib` accepts.

    A place is the way to a value: `("cameras", 0, "stride")`. What stands inside an array or an inline table has no
    line of its own: that of the longest place which leads to it is the one to name.
    """
    found: dict[Place, int] = {}
    tables: Counter[Place] = Counter()  # how many each array of tables has so far
    inside: Place = ()
    position, line = 0, 1

    def goes_to(end: int) -> None:
        nonlocal position, line
        line += text.count("\n", position, end)
        position = end

    while position < len(text):
        if blank := _BLANK.match(text, position):
            goes_to(blank.end())
            continue
        opening = "[[" if text.startswith("[[", position) else "[" if text[position] == "[" else ""
        parts, end = _key(text, position + len(opening))
        if end == position:  # nothing that tomllib accepts
            break
        place = _follow(parts, () if opening else inside, tables)
        if opening == "[[":
            tables[place] += 1
            found.setdefault(place, line)
            place = (*place, tables[place] - 1)
        for length in range(1, len(place) + 1):
            found.setdefault(place[:length], line)
        if opening:
            inside = place
            rest = _REST_OF_LINE.match(text, end)
            goes_to(rest.end() if rest else len(text))
        else:
            goes_to(_value_end(text, end))
    return found


def _key(text: str, position: int) -> tuple[list[str], int]:
    """Return the parts of the dotted key that starts here, and where it ends."""
    parts = []
    while key := _KEY.match(text, position):
        part = key[1]
        parts.append(tomllib.loads(f"key = {part}")["key"] if part[0] in "\"'" else part)
        position = key.end()
        if not key[2]:
            break
    return parts, position


def _follow(parts: list[str], place: Place, tables: Counter[Place]) -> Place:
    """Return the place of a key: where it leads through an array of tables, it means the newest of them."""
    for number, part in enumerate(parts):
        place = (*place, part)
        if number + 1 < len(parts) and place in tables:
            place = (*place, tables[place] - 1)
    return place


def _value_end(text: str, position: int) -> int:
    """Return where the line break after a value stands, or the end of the text."""
    depth = 0
    while piece := _PIECE.match(text, position):
        if piece[0] == "\n" and depth == 0:
            break
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(piece[0], 0)
        position = piece.end()
    return position
