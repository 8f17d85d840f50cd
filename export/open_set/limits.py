"""How many pictures of what a model does not know may be named wrongly. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The shares of unknown pictures that may get a wrong name in full, and any wrong claim."""

    names: float
    claims: float
