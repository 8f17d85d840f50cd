"""The tests, in folders that mirror the package: `tests/runtime/sinks/` tests `runtime/sinks/`."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
