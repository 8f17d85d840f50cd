"""Callback types for progress bars. They are called often."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with the work done and the total."""

StageProgress = Callable[[str, int, int], None]
"""Called with the stage, the work done and the total."""
