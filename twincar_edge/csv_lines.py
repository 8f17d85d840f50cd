"""Lines of CSV files that people open in a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

# Prefixes that spreadsheets interpret as a formula (OWASP, CSV Injection): the last four are the full-width = + - @.
FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")


def csv_line(cells: Sequence[Any]) -> str:
    """Return cells as one line of CSV (RFC 4180).

    Names of classes and files are untrusted: a text that looks like a formula gets a leading apostrophe.
    """
    line = io.StringIO()
    safe = [_escape_formula(cell) if isinstance(cell, str) else cell for cell in cells]
    csv.writer(line, lineterminator="\n").writerow(safe)
    return line.getvalue()


def _escape_formula(text: str) -> str:
    text = text.replace("\0", "")
    return "'" + text if text.startswith(FORMULA) else text
