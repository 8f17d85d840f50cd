"""`twincar-edge synthesize`: labeled synthetic cars, as a data set or a gate clip with its ground truth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from twincar_edge.cli.commands import Group
from twincar_edge.cli.written import print_written
from twincar_edge.errors import InputError
from twincar_edge.files import check_new
from twincar_edge.wording import counted

_OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace files that exist.")


@click.group("synthesize", cls=Group)
def command() -> None:
    """Generate twin cars: synthetic cars in near-identical pairs that differ in one part.

    Use them to try every command without a camera or a data set. The bundled demo model is trained on them.
    """


@command.command("images", short_help="Write a labeled data set that `train` accepts.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--per-class",
    type=click.IntRange(1, 100_000),
    default=100,
    show_default=True,
    help="Draw this many images per class.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed the random generator.")
@click.option(
    "--size",
    nargs=2,
    type=click.IntRange(48, 2048),
    default=(256, 192),
    show_default=True,
    help="Draw at this width and height, in pixels.",
)
@_OVERWRITE
def images(folder: Path, per_class: int, seed: int, size: tuple[int, int], overwrite: bool) -> None:
    """Write FOLDER/images, labels.csv and class_mapping.json: a data set that `train` accepts as is."""
    from twincar_edge.synthetic import CLASS_NAMES, write_image_folder

    if not overwrite:
        check_new(folder)
    with _reported():
        written = write_image_folder(folder, per_class=per_class, seed=seed, size_wh=size)
    print_written(
        written, about=f"{counted(per_class * len(CLASS_NAMES), 'image')} of {counted(len(CLASS_NAMES), 'class')}"
    )


@command.command("clip", short_help="Write a clip of a gate camera, and its ground truth.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--passes",
    type=click.IntRange(1, 1000),
    default=12,
    show_default=True,
    help="Let this many vehicles drive through.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed the random generator.")
@click.option(
    "--size",
    nargs=2,
    type=click.IntRange(160, 3840),
    default=(960, 540),
    show_default=True,
    help="Draw at this width and height, in pixels.",
)
@_OVERWRITE
def clip(file: Path, passes: int, seed: int, size: tuple[int, int], overwrite: bool) -> None:
    """Write FILE (.mp4), a clip of a fixed gate camera, and a .json file next to it that lists every pass."""
    import numpy as np

    from twincar_edge.synthetic import CLASS_NAMES, write_gate_clip

    if not overwrite:
        check_new(file, file.with_suffix(".json"))
    # Show every class once before repeating any; the seed determines the order.
    rng = np.random.default_rng(seed)
    labels = [int(label) for _ in range(0, passes, len(CLASS_NAMES)) for label in rng.permutation(len(CLASS_NAMES))]
    with _reported():
        truth = write_gate_clip(file, labels[:passes], seed, size_wh=size)
    print_written(file, about=f"{counted(len(truth.passes), 'pass')} in {counted(truth.frames, 'frame')}")
    print_written(file.with_suffix(".json"), about="the ground truth")


@contextmanager
def _reported() -> Iterator[None]:
    """Report an unusable size, suffix or folder in one line."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise InputError(str(error)) from error
