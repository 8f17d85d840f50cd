"""Finds phrases of the project's own list (phrases.txt) in prose: `python docs/_lint/phrases.py FILE_OR_FOLDER…`.

Of Markdown, fenced and indented code and text in backticks are skipped. Of Python, everything is read: docstrings,
comments and messages are prose, and none of the phrases is a word of Python.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
SUFFIXES = {".md", ".py", ".yml"}
NOT_PROSE = re.compile(r"^ *(```|~~~).*?^ *\1 *$|^ {4,}.*?$|`[^`\n]*`", re.DOTALL | re.MULTILINE)


def phrases() -> list[tuple[re.Pattern[str], str]]:
    """Return the list: patterns, each with what to write."""
    lines = (HERE / "phrases.txt").read_text("utf-8").splitlines()
    rows = [line.split("\t", 1) for line in lines if line and not line.startswith("#")]
    return [(re.compile(pattern), advice) for pattern, advice in rows]


def prose(file: Path) -> str:
    """Return a file's text with code blanked out, so that lines keep their numbers."""
    text = file.read_text("utf-8")
    if file.suffix != ".md":
        return text
    return NOT_PROSE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


def found(file: Path) -> Iterator[str]:
    """Yield a line for each phrase in a file."""
    text = prose(file)
    for pattern, advice in phrases():
        for match in pattern.finditer(text.replace("\n", " ")):
            line = text.count("\n", 0, match.start()) + 1
            yield f"{file}:{line}: {' '.join(match[0].split())!r}: write {advice}"


def files(arguments: list[str]) -> Iterator[Path]:
    """Yield the files to check, without this folder's own."""
    for argument in map(Path, arguments):
        inside = sorted(argument.rglob("*")) if argument.is_dir() else [argument]
        yield from (one for one in inside if one.suffix in SUFFIXES and one.parent.resolve() != HERE.resolve())


def main() -> int:
    """Print what was found, and return the exit code."""
    lines = [line for file in files(sys.argv[1:]) for line in sorted(found(file))]
    sys.stdout.writelines(line + "\n" for line in lines)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
