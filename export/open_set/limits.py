"""Limits for wrong names of unknown images. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The largest shares (0 to 1) of unknown images with a wrong full name (`names`) and any wrong name (`claims`)."""

    names: float
    claims: float
