"""Spell library parameters in messages as the command-line options that set them."""

from __future__ import annotations

import click

from twincar_edge.errors import Parameter, python_spelling

# Library parameters whose options have another name.
_NAMES = {"batches": "batch", "ray": "ray_address", "data": "data_path", "weights_file": "weights", "address": "page"}
_RECIPE_CHANGES = "changes"  # of `train`: `--set KEY=VALUE`


def option_spelling(command: click.Command, parameter: Parameter) -> str:
    """Spell a parameter as an option or argument of `command`, or as in Python if the command has none of that name."""
    parameters = {one.name or "": one for one in command.params}
    option = parameters.get(parameter.name) or parameters.get(_NAMES.get(parameter.name, ""))
    if option is not None:
        return _spelled(option, parameter.value)
    if _RECIPE_CHANGES in parameters and _is_key_of_recipe(parameter.name):
        value = "VALUE" if parameter.value is ... else parameter.value
        return f"{parameters[_RECIPE_CHANGES].opts[-1]} {parameter.name}={value}"
    return python_spelling(parameter)


def name_of(parameter: click.Parameter) -> str:
    """Return the name of an option or argument as the help shows it; the longest name of an option."""
    if isinstance(parameter, click.Argument):
        return parameter.human_readable_name.replace("[", "").replace("]", "").removesuffix("...")
    return max(parameter.opts, key=len)


def _spelled(option: click.Parameter, value: object) -> str:
    name = name_of(option)
    if isinstance(option, click.Argument):
        return name
    if value is None:
        return f"no {name}"
    if value is ...:
        value = "" if getattr(option, "is_flag", False) else _placeholder(option)
    elif isinstance(value, bool):
        name, value = name if value else option.secondary_opts[0], ""
    elif isinstance(value, tuple):
        value = ",".join(map(str, value))
    return f"{name} {value}".rstrip()


def _placeholder(option: click.Parameter) -> str:
    return option.metavar or ("PATH" if isinstance(option.type, click.Path) else "")


def _is_key_of_recipe(name: str) -> bool:
    from twincar_edge.training.recipe import Recipe

    return name.partition(".")[0] in Recipe.model_fields
