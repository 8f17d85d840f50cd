"""Numbers in texts for people: shares as percentages, and counted things."""

from __future__ import annotations


def percent(share: float, decimals: int = 0) -> str:
    """Return a share as a percentage, which is 0% or 100% only if the share is exactly that.

    >>> [percent(share) for share in (0.934, 0.996, 0.001, 0.9999, 0.00001, 1.0, 0.0)]
    ['93%', '99.6%', '0.1%', '>99.9%', '<0.1%', '100%', '0%']

    Args:
        share: from 0 to 1.
        decimals: the number of decimals; close to 0% and 100%, where whole percents would say too little, at least 1.
    """
    if share in (0, 1):
        return f"{share:.{decimals}%}"
    if not 0.01 <= share <= 0.99:
        decimals = max(1, decimals)
    least = 10.0 ** -(decimals + 2)
    if share < least / 2:
        return f"<{least:.{decimals}%}"
    if share > 1 - least / 2:
        return f">{1 - least:.{decimals}%}"
    return f"{share:.{decimals}%}"


def counted(number: int, thing: str) -> str:
    """Return a number, with separators of thousands, and its noun, in the plural unless the number is 1.

    >>> counted(1, "visit"), counted(2, "enrolled class"), counted(1500, "image")
    ('1 visit', '2 enrolled classes', '1,500 images')
    """
    ending = "" if number == 1 else "es" if thing.endswith("s") else "s"
    return f"{number:,} {thing}{ending}"


def titled(thing: str, name: str) -> str:
    """Return what a thing is with its name, but not twice the same word.

    >>> titled("camera", "gate"), titled("camera", "camera")
    ('camera gate', 'camera')
    """
    return thing if name == thing else f"{thing} {name}"
