"""Experiments behind this project's own decisions: `python -m twincar_edge.benchmarks.experiments NAME …`.

They produced the tables of docs/measurements.md. The benchmark for users is `bench`.
"""

from __future__ import annotations

import click

from twincar_edge import cli

# Module of this package with a function `command` -> its line in the help.
EXPERIMENTS = {
    "endurance": "Memory, open files and threads of a long run of watch.",
    "enrollment": "Accuracy of classes enrolled from a few images, and their effect on other classes.",
    "gpu_run": "One planned run on a GPU: throughput, teacher, student, export and bench.",
    "levels": "Coverage and accuracy at each level of a name, on labeled images.",
    "open_set_ssb": "The Semantic Shift Benchmark: known cars against easy, medium and hard unknown ones.",
    "page_overhead": "The camera loop without the web page, with it, and with three clients.",
    "pointing": "Whether explanations point at the part that differs between twin cars.",
    "score_overhead": "A worker of score through Ray, against the plain model over the same images.",
    "soak": "What watch loses while everything around it fails at random and it is killed repeatedly.",
    "training_throughput": "Training throughput: real images, one fixed batch, and timm's own step.",
    "uncut": "The share of an explanation's heat on the vehicles in full frames.",
    "visits": "Vehicles found in clips with ground truth, and the accuracy of visits compared with crops.",
    "watch_overhead": "The camera loop on a clip, compared with decoding alone and inference alone.",
}
PROGRAM = "python -m twincar_edge.benchmarks.experiments"


class ExperimentGroup(cli.LazyGroup):
    """Imports an experiment when it is used."""

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
