"""How long work says how far it is: callbacks for progress bars, called often."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with how much is done, and of how much."""

StageProgress = Callable[[str, int, int], None]
"""Called with the name of a stage, how much of it is done, and of how much."""
