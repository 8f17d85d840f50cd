"""`tw.enroll`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from twincar_edge.api.data import PathLike, optional_path
from twincar_edge.arguments import checked_arguments, refuse_unused
from twincar_edge.runtime.inference.inputs import ImageLike

if TYPE_CHECKING:
    from twincar_edge.runtime.enroll import EnrollReport


@checked_arguments
def enroll(
    output: PathLike,
    classes: Mapping[str, Sequence[ImageLike]] | PathLike | None = None,
    *,
    model: PathLike | None = None,
    remove: Sequence[str] = (),
    unchecked: bool = False,
    reach: float | None = None,
    ep: str = "auto",
    threads: int | None = None,
) -> EnrollReport:
    """Add new classes to a model file from a few images each, without training.

    >>> crops = sorted(Path("rigel").glob("*.png"))
    >>> enrolled = tw.enroll("new.onnx", {"Rigel Nova Sedan 2024": crops}, unchecked=True)
    >>> enrolled.enrolled
    ('Rigel Nova Sedan 2024',)
    >>> tw.Classifier("new.onnx")(crops[0]).name
    'Rigel Nova Sedan 2024'

    Args:
        output: the new file. It may be the model's own path; a running `watch` reloads it on SIGHUP.
        classes: the images of each new class by class name, cropped to the car, in a form that `Classifier` accepts;
            or a folder with one subfolder of images per class.
        model: an exported .onnx file with an embedding output; None for the bundled model of 196 cars.
        remove: names of enrolled classes to remove first.
        unchecked: write the file even if a check fails or cannot run.
        reach: the largest distance of an image from its class, as a multiple of the class's variance. A larger value
            names more images, but also more cars of other classes wrongly. None for 1.
        ep: the execution provider.
        threads: CPU threads; None for all usable cores.

    Raises:
        GateError: too few of the new images are recognized from the other images of their class, or too many answers
            for held-out images change. No file is written.
        InputError: a name or image cannot be used, a check cannot run, or the file cannot be written.
        ModelError: the model cannot be used, or has no embedding output.
        MissingExtraError: ONNX Runtime is not installed.
    """
    from twincar_edge.enrolled import REACH
    from twincar_edge.runtime.enroll import EnrollConfig, read_class_folders
    from twincar_edge.runtime.enroll import enroll as enroll_config

    pictures = classes or {} if classes is None or isinstance(classes, Mapping) else read_class_folders(Path(classes))
    refuse_unused("without classes", reach=reach is not None and not pictures)
    config = EnrollConfig(
        output=Path(output),
        model=optional_path(model),
        classes=pictures,
        remove=tuple(remove),
        unchecked=unchecked,
        reach=REACH if reach is None else reach,
        ep=ep,
        threads=threads,
    )
    return enroll_config(config)
