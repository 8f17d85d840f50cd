"""The limits of parity as options, for the commands that hold files to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from pydantic import ValidationError

from twincar_edge.errors import InputError
from twincar_edge.export.parity.report import ParityLimits

# Option -> field of `ParityLimits`, how many of the option's units make 1 there, and what it bounds.
_LIMITS: dict[str, tuple[str, int, str]] = {
    "--max-logit-difference": ("fp32_logit_difference", 1, "FP32 with its reference, relative to the largest logit."),
    "--max-provider-difference": (
        "provider_logit_difference",
        1,
        "The same between execution providers, of which some round more coarsely.",
    ),
    "--max-top1-drop": ("top1_drop", 100, "FP16 and INT8 against their reference, in points."),
    "--max-top5-drop": ("top5_drop", 100, "FP16 and INT8 against their reference, in points."),
    "--min-agreement": ("agreement", 100, "FP16 and INT8 with their reference, in percent."),
    "--min-sure-agreement": ("sure_agreement", 100, "The same where the reference is sure, in percent."),
    "--min-embedding-cosine": ("embedding_cosine", 1, "The mean cosine of embeddings with the reference's."),
}


def limit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command an option for each limit; `take_limits` makes `ParityLimits` of what it is then called with."""
    defaults = ParityLimits().model_dump()
    for option, (field, unit, text) in reversed(_LIMITS.items()):
        default = round(defaults[field] * unit, 9)
        command = click.option(option, field, type=float, default=default, show_default=True, help=text)(command)
    return command


def take_limits(options: dict[str, Any]) -> ParityLimits:
    """Take the limits out of a command's options.

    Raises:
        InputError: one is negative, not finite, or above 100 percent.
    """
    given = {option: options.pop(field) for option, (field, _, _) in _LIMITS.items()}
    try:
        return ParityLimits(**{field: given[option] / unit for option, (field, unit, _) in _LIMITS.items()})
    except ValidationError as error:
        named = {field: option for option, (field, _, _) in _LIMITS.items()}
        option = named[str(error.errors()[0]["loc"][0])]
        bounds = "0 or more" if _LIMITS[option][1] == 1 else f"between 0 and {_LIMITS[option][1]}"
        raise InputError(f"{option} cannot be {given[option]:g}: must be {bounds}") from error
