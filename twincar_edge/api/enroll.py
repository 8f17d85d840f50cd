"""`tw.enroll`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from twincar_edge.api.data import PathLike, optional_path

if TYPE_CHECKING:
    from twincar_edge.runtime.enroll import EnrollReport
    from twincar_edge.runtime.inference.inputs import ImageLike


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
    """Teach a model file new classes from a handful of pictures each, without training.

    >>> crops = sorted(Path("rigel").glob("*.png"))
    >>> enrolled = tw.enroll("new.onnx", {"Rigel Nova Sedan 2024": crops}, unchecked=True)
    >>> enrolled.enrolled
    ('Rigel Nova Sedan 2024',)
    >>> tw.Classifier("new.onnx")(crops[0]).name
    'Rigel Nova Sedan 2024'

    Args:
        output: the new file; it may be the model's own path, which a running `watch` takes on SIGHUP.
        classes: the pictures of each new class by its name, cut to the car, as `Classifier` takes them; or a folder
            with a subfolder of pictures for each class.
        model: an exported .onnx file with an embedding output; None for the bundled model of 196 cars.
        remove: enrolled classes to take out first, by name.
        unchecked: write the file although a check fails, or cannot be made.
        reach: how far a picture may lie from its class, as a share of the class's variance. Larger names more pictures,
            and more cars of other classes wrongly. None for 1.
        ep: the execution provider.
        threads: CPU threads; None for all usable cores.

    Raises:
        GateError: too few of the new pictures are recognized by the others of their class, or too many answers for
            held-out pictures change. Nothing is written.
        InputError: a name or picture cannot be used, a check cannot be made, or the file cannot be written.
        ModelError: the model cannot be used, or has no embedding output.
        MissingExtraError: ONNX Runtime is not installed.
    """
    from twincar_edge.enrolled import REACH
    from twincar_edge.runtime.enroll import EnrollConfig, read_class_folders
    from twincar_edge.runtime.enroll import enroll as enroll_config

    pictures = classes or {} if classes is None or isinstance(classes, Mapping) else read_class_folders(Path(classes))
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
