"""All commands report written files in the same words, and print tables in the same style."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import REPOSITORY
from twincar_edge.cli.written import print_written
from twincar_edge.terminal import new_table


def test_a_written_file_is_one_line_even_if_its_name_has_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    print_written(Path("a.json"), "s3://cars/names", about="3 rows")
    print_written(Path("a\n\x1b[31m.json"), err=True)
    shown = capsys.readouterr()
    assert shown.out == "wrote a.json: 3 rows\nwrote s3://cars/names: 3 rows\n"
    assert shown.err == "wrote a \\x1b[31m.json\n"


def test_no_other_module_words_it_or_styles_tables() -> None:
    sources = [
        path
        for package in ("twincar_edge/cli", "twincar_edge/api", "runtime", "benchmarks", "export", "training")
        for path in sorted((REPOSITORY / package).rglob("*.py"))
    ]
    assert len(sources) > 200
    other_words = re.compile(r"""echo\(\s*f?["'](?:wrote |written: |-> )|\bTable\(""")
    found = [path for path in sources if other_words.search(path.read_text("utf-8"))]
    assert [str(path.relative_to(REPOSITORY)) for path in found] == ["twincar_edge/cli/written.py"]


def test_titles_and_captions_are_plain_text() -> None:
    table = new_table("[gate]", "Δ [/x]")
    assert (str(table.title), str(table.caption)) == ("[gate]", "Δ [/x]")
    assert table.show_header and not new_table(head=False).show_header
