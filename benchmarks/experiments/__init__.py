"""Measurements for this project's own decisions: `python -m twincar_edge.benchmarks.experiments NAME …`.

`bench` is the benchmark for users. What stands here made the tables of docs/measurements.md.
"""

from __future__ import annotations

import click

from twincar_edge import cli

# Name -> the line that help shows. The function `command` of the module of that name in this package.
EXPERIMENTS = {
    "endurance": "What a run of watch holds over time: memory, open files, threads.",
    "enrollment": "What classes enrolled from a few pictures are worth, and what they cost the others.",
    "levels": "Coverage and accuracy at each level of a name, on labelled pictures.",
    "open_set_ssb": "The Semantic Shift Benchmark: known cars against easy, medium and hard unknown ones.",
    "page_overhead": "The loop without the web page, with it, and with three clients that watch it.",
    "pointing": "Whether explanations point at the part that tells twin cars apart.",
    "training_throughput": "How fast training is: real images, one fixed batch, and timm's own step.",
    "uncut": "How much of an explanation's heat lies on the vehicles of uncut pictures.",
    "visits": "How many vehicles the loop finds in clips with known truth, and what a visit gains over a crop.",
    "watch_overhead": "The loop on a clip, against decoding alone and inference alone.",
}
PROGRAM = "python -m twincar_edge.benchmarks.experiments"


class ExperimentGroup(cli.LazyGroup):
    """Imports an experiment when it is asked for, not before."""

    table = EXPERIMENTS
    package = __name__


@click.group(cls=ExperimentGroup, context_settings=cli.CONTEXT)
def group() -> None:
    """Experiments behind docs/measurements.md.

    Exit codes: 0 done, 1 a limit was not met, 2 bad input, 130 interrupted.
    """


def main(args: list[str] | None = None) -> None:
    """Run an experiment and exit."""
    cli.main(args, group, PROGRAM)
