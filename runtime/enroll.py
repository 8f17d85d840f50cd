"""Enrolls classes in a model file: a handful of pictures of a car become a class, without training and without torch.

The new file is checked before it is written: each new picture must be recognized by the others of its class, and the
answers for the held-out pictures that the file carries a summary of must stay as they were.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from twincar_edge.bundled import default_model
from twincar_edge.enrolled import ENROLLED_KEY, MAX_ENROLLED, REACH, Enrolled, join, learn_class
from twincar_edge.errors import GateError, InputError, ModelError, Parameter, nearest
from twincar_edge.files import replacing
from twincar_edge.held_out import HeldOut, read_held_out
from twincar_edge.labels import ClassMapping
from twincar_edge.manifest import Text
from twincar_edge.onnx_metadata import with_metadata
from twincar_edge.preprocess import prepare_batch
from twincar_edge.prototypes import Prototypes
from twincar_edge.records import Record, Share
from twincar_edge.runtime.inference.classifier import BATCH
from twincar_edge.runtime.inference.golden_check import require_golden
from twincar_edge.runtime.inference.inputs import ImageLike, as_image_bgr
from twincar_edge.runtime.inference.providers import AUTO
from twincar_edge.runtime.inference.session import ModelSession, open_session
from twincar_edge.runtime.sources.images import expand

logger = logging.getLogger(__name__)

MOST_PICTURES = 1000  # of one class; a mean gains nothing more
LEAST_RECOGNIZED = 0.4  # of the pictures of a class, by the others, within a reach of at least CHECK_REACH
CHECK_REACH = 4 / 3
MOST_CHANGED = 0.005  # of the held-out pictures
MOST_REACH = 4  # variances; beyond it, almost any car is of the class
UNNAMED = re.compile(r"cluster-\d+|unsorted")  # folders that `cluster` made and nobody has named
# A picture that lies so many times as far from all trained classes as the threshold of a make shows no car. Measured on
# the bundled model: noise and empty road lie beyond, none of 353 cars of other classes.
NO_CAR = 1.6


@dataclass(frozen=True)
class EnrollConfig:
    """What to enroll, and into which file.

    Attributes:
        output: the new file; it may be the model's own path.
        model: an exported file; None for the bundled one.
        classes: the pictures of each new class, by its name.
        remove: enrolled classes to take out.
        unchecked: write the file although its checks fail, or cannot be made.
        reach: how far from its class a picture may lie, see `enrolled.REACH`.
        ep: the execution provider.
        threads: CPU threads; None for all usable cores.
    """

    output: Path
    model: Path | None = None
    classes: Mapping[str, Sequence[ImageLike]] = field(default_factory=dict)
    remove: tuple[str, ...] = ()
    unchecked: bool = False
    reach: float = REACH
    ep: str = AUTO
    threads: int | None = None


class ClassCheck(Record):
    """A new class: `recognized` of its `images` pictures get its name from the others alone; None for one picture."""

    name: Text
    images: int = Field(ge=1)
    threshold: float
    recognized: int | None


class EnrollReport(Record):
    """What was enrolled, and what the checks found.

    `held_out_changed` of `held_out` pictures that the model was validated on get another answer, as far as the file's
    summary of them tells; both are None where it carries none.
    `classes` are the new ones, `enrolled` the names of all in the new file.
    `faults` are the limits that an unchecked file misses, in words.

    >>> report = tw.enroll("again.onnx", "drawn", unchecked=True)
    >>> report.enrolled, report.removed
    (('Rigel Nova Sedan 2024',), ())
    """

    output: Path
    classes: tuple[ClassCheck, ...]
    removed: tuple[Text, ...]
    enrolled: tuple[Text, ...]
    held_out: int | None
    held_out_changed: int | None
    faults: tuple[str, ...] = ()

    @property
    def held_out_share(self) -> Share | None:
        """Return the share of held-out pictures whose answer changes."""
        return None if self.held_out is None or self.held_out_changed is None else self.held_out_changed / self.held_out


def enroll(config: EnrollConfig, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> EnrollReport:
    """Write a model file with more classes, or with some of the enrolled ones taken out.

    Raises:
        GateError: a check failed; nothing is written.
        InputError: a name or picture cannot be used, a check cannot be made, or the file cannot be written.
        ModelError: the model cannot be used, or has no embedding output.
        MissingExtraError: ONNX Runtime is not installed.
    """
    session = open_session(config.model or default_model(), ep=config.ep, threads=config.threads)
    require_golden(session)
    trained = session.prototypes
    if trained is None:
        raise ModelError(
            f"{session.model} has no embedding output with prototypes, which enrolling needs: export it again"
        )
    before = _without(session, config.remove)
    _check_names(session, before, config)
    held_out = read_held_out(session.model)
    if held_out is not None and held_out.embeddings.shape[1] != trained.dimensions:
        raise ModelError(f"{session.model} has a summary of held-out pictures that does not fit: export it again")
    if config.classes and not config.unchecked:
        _require_checks(session, config, held_out)
    pictures = {name: _embed(session, trained, name, images) for name, images in config.classes.items()}
    about: dict[str, Any] = dict(trained=trained, source_sha256=session.sha256, reach=config.reach)
    about["enrolled_at"] = clock().replace(microsecond=0)
    new = [learn_class(name, embeddings, **about) for name, embeddings in pictures.items()]
    after = join([*([] if before is None else [before]), *new])
    report = EnrollReport(
        output=config.output,
        classes=tuple(
            ClassCheck(
                name=name,
                images=len(embeddings),
                threshold=round(one.classes[0].threshold, 4),
                recognized=_recognized(after, name, embeddings, about),
            )
            for (name, embeddings), one in zip(pictures.items(), new, strict=True)
        ),
        removed=config.remove,
        enrolled=() if after is None else after.names,
        held_out=None if held_out is None else held_out.images,
        held_out_changed=None if held_out is None else 0 if after is None else held_out.changed(after, trained),
    )
    report = report.model_copy(update={"faults": _faults(report)})
    if report.faults and not config.unchecked:
        raise GateError("nothing is written: " + "; ".join(report.faults))
    _write(session, after, config.output)
    return report


def read_class_folders(folder: Path) -> dict[str, list[Path]]:
    """Return the pictures in each subfolder of a folder, by the class that the subfolder is named after.

    Folders that `cluster` made and nobody has named are left out. Underscores read as spaces where no name has a space.

    Raises:
        InputError: the folder cannot be read, has no such subfolder, or one without pictures.
    """
    try:
        found = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror}") from error
    named = [entry for entry in found if not UNNAMED.fullmatch(entry.name)]
    if len(named) < len(found):
        logger.warning("left out %d folders of %s that nobody has named", len(found) - len(named), folder)
    if not named:
        raise InputError(f"{folder} has no folder that is named after a class")
    names = ClassMapping.from_folder_names(entry.name for entry in named)
    return {name: expand([entry]) for name, entry in zip(names, named, strict=True)}


def _without(session: ModelSession, remove: Sequence[str]) -> Enrolled | None:
    enrolled = session.enrolled
    names = () if enrolled is None else enrolled.names
    for name in remove:
        if name in session.manifest.classes:
            raise InputError(f"{name!r} was trained and cannot be removed: only enrolled classes can")
        if name not in names:
            clause = nearest(name, names) if names else "none is enrolled"
            raise InputError(f"{session.model} has no enrolled class {name!r}: {clause}")
    if enrolled is None:
        return None
    kept = [place for place, name in enumerate(names) if name not in remove]
    if not kept:
        return None
    return Enrolled(tuple(enrolled.classes[place] for place in kept), Prototypes(enrolled.means.means[kept]))


def _check_names(session: ModelSession, before: Enrolled | None, config: EnrollConfig) -> None:
    if not 0 < config.reach <= MOST_REACH:
        raise InputError(Parameter("reach"), f" must be above 0 and {MOST_REACH} at most, found {config.reach}")
    if not config.classes and not config.remove:
        raise InputError("nothing to do: name a class and its pictures, or a class to remove")
    known = session.manifest.classes + (() if before is None else before.names)
    for name in config.classes:
        if name in known:
            raise InputError(f"{session.model} has the class {name!r} already: choose another name, or remove it first")
    ClassMapping((*known, *config.classes))
    if len(known) - len(session.manifest.classes) + len(config.classes) > MAX_ENROLLED:
        raise InputError(f"a model file holds {MAX_ENROLLED} enrolled classes at most")


def _require_checks(session: ModelSession, config: EnrollConfig, held_out: HeldOut | None) -> None:
    """Raise an error where a check cannot be made, before any picture is read."""
    if held_out is None:
        raise InputError(
            f"{session.model} carries no summary of held-out pictures, so nothing shows which of its answers change: "
            "export it again, or use ",
            Parameter("unchecked", True),
        )
    for name, images in config.classes.items():
        if len(images) == 1:
            raise InputError(
                f"{name!r} has one picture, which no other can check: give 3 or more, or use ",
                Parameter("unchecked", True),
            )


def _embed(session: ModelSession, trained: Prototypes, name: str, images: Sequence[ImageLike]) -> NDArray[np.float32]:
    """Return the embeddings of a class's pictures, float32 [N, D]."""
    if not 1 <= len(images) <= MOST_PICTURES:
        raise InputError(f"a class needs 1 to {MOST_PICTURES} pictures, {name!r} has {len(images)}")
    found = []
    for start in range(0, len(images), BATCH):
        part = [
            as_image_bgr(image, f"picture {start + place + 1} of {name!r}")
            for place, image in enumerate(images[start : start + BATCH])
        ]
        found.append(session.embed(prepare_batch(part, session.manifest.preprocess)))
    embeddings = np.concatenate(found)
    record = session.manifest.familiarity
    assert record is not None, "a file with prototypes has thresholds"
    floor = 1 - NO_CAR * (1 - record.thresholds.make)
    familiarity = trained.familiarity(embeddings)
    worst = int(familiarity.argmin())
    if familiarity[worst] < floor:
        image = images[worst]
        which = image if isinstance(image, str | Path) else f"picture {worst + 1} of {name!r}"
        raise InputError(
            f"{which} looks like no car (familiarity {familiarity[worst]:.3f}, cars have {floor:.3f} or more): "
            "leave it out"
        )
    return embeddings


def _recognized(
    after: Enrolled | None, name: str, embeddings: NDArray[np.float32], about: Mapping[str, Any]
) -> int | None:
    """Return how many pictures of a new class are recognized when it is made of the others alone.

    The reach is wider than that of the file: this is to find pictures of other cars, not those that are a little apart.
    """
    assert after is not None, "there is a new class"
    if len(embeddings) == 1:
        return None
    about = {**about, "reach": max(about["reach"], CHECK_REACH)}
    place = after.names.index(name)
    count = 0
    for left_out in range(len(embeddings)):
        fewer = learn_class(name, np.delete(embeddings, left_out, axis=0), **about)
        classes = (*after.classes[:place], *fewer.classes, *after.classes[place + 1 :])
        means = after.means.means.copy()
        means[place] = fewer.means.means[0]
        one = embeddings[left_out : left_out + 1]
        leads = Enrolled(classes, Prototypes(means)).leads(one, about["trained"].familiarity(one))[0]
        count += int(leads.argmax() == place and leads[place] > 0)
    return count


def _faults(report: EnrollReport) -> tuple[str, ...]:
    """Return the limits that are missed, in words."""
    faults = [
        f"only {one.recognized} of {one.images} pictures of {one.name!r} are recognized by the others "
        f"(limit {LEAST_RECOGNIZED:.0%}): leave out those of other cars, or add more"
        for one in report.classes
        if one.recognized is not None and one.recognized < LEAST_RECOGNIZED * one.images
    ]
    share = report.held_out_share
    if share is not None and share > MOST_CHANGED:
        faults.append(
            f"{report.held_out_changed} of {report.held_out} held-out pictures get another answer "
            f"(limit {MOST_CHANGED:.1%}): the new classes are too near to trained ones"
        )
    return tuple(faults)


def _write(session: ModelSession, enrolled: Enrolled | None, output: Path) -> None:
    """Write the new file, after it has been opened as a box will open it."""
    try:
        data = session.model.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {session.model}: {error.strerror}") from error
    text = None if enrolled is None else enrolled.to_json(session.manifest)
    changed = with_metadata(data, {ENROLLED_KEY: text}, str(session.model))
    with replacing(output) as temporary:
        temporary.write_bytes(changed)
        require_golden(open_session(temporary, ep=session.ep, threads=session.threads))
