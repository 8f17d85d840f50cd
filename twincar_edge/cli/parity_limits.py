"""The parity limits as command-line options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from twincar_edge.cli.groups import option
from twincar_edge.errors import InputError
from twincar_edge.export.parity.report import ParityLimits

# Option -> field of `ParityLimits`, option units per unit of that field, and help text.
_LIMITS: dict[str, tuple[str, int, str]] = {
    "--max-logit-difference": (
        "fp32_logit_difference",
        1,
        "Fail if FP32 logits differ from their reference by more, as a share of the largest logit.",
    ),
    "--max-provider-difference": (
        "provider_logit_difference",
        1,
        "Fail if FP32's logits differ between execution providers by more, as a share of the largest logit.",
    ),
    "--max-top1-drop": ("top1_drop", 100, "Fail if FP16 or INT8 lose more top-1 than this, in points."),
    "--max-top5-drop": ("top5_drop", 100, "Fail if FP16 or INT8 lose more top-5 than this, in points."),
    "--min-agreement": ("agreement", 100, "Fail if FP16 or INT8 agree with their reference on fewer images."),
    "--min-sure-agreement": (
        "sure_agreement",
        100,
        "Fail if FP16 or INT8 agree on fewer of the images that the reference is confident about.",
    ),
    "--min-embedding-cosine": (
        "embedding_cosine",
        1,
        "Fail if the mean cosine similarity of embeddings to the reference is lower.",
    ),
}
_METAVARS = {1: "NUMBER", 100: "PERCENT"}


def limit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add one option per limit; `take_limits` turns their values into `ParityLimits`."""
    defaults = ParityLimits().model_dump()
    for name, (field, unit, text) in reversed(_LIMITS.items()):
        default = round(defaults[field] * unit, 9)
        command = option(
            name,
            field,
            group="Limits",
            metavar=_METAVARS[unit],
            type=float,
            default=default,
            show_default=True,
            help=text,
        )(command)
    return command


def take_limits(options: dict[str, Any]) -> ParityLimits:
    """Remove the limits from a command's options, and return them.

    Raises:
        InputError: a limit is negative, not finite, or above 100 percent.
    """
    given = {name: options.pop(field) for name, (field, _, _) in _LIMITS.items()}
    try:
        return ParityLimits.model_validate({field: given[name] / unit for name, (field, unit, _) in _LIMITS.items()})
    except ValidationError as error:
        named = {field: name for name, (field, _, _) in _LIMITS.items()}
        name = named[str(error.errors()[0]["loc"][0])]
        bounds = "0 or more" if _LIMITS[name][1] == 1 else f"between 0 and {_LIMITS[name][1]}"
        raise InputError(f"{name} cannot be {given[name]:g}: must be {bounds}") from error
