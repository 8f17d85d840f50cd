"""Enrolls classes in a model file: a few pictures of a car become a class, without training and without torch.

Two checks run before the new file is written. Enough of the new pictures must be recognized by a class that is made of
the others. And the answers for the held-out pictures, of which the file has a summary, must not change.
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
from twincar_edge.files import check_name, check_not_read, replacing
from twincar_edge.held_out import HeldOut, read_held_out
from twincar_edge.labels import ClassMapping
from twincar_edge.manifest import Text
from twincar_edge.metrics import at_least, at_most
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

MAX_PICTURES = 1000  # per class; more do not improve the mean
MIN_RECOGNIZED = 0.4  # share of a class's pictures that the others recognize, with a reach of at least CHECK_REACH
CHECK_REACH = 4 / 3
MAX_CHANGED = 0.005  # share of the held-out pictures
MAX_REACH = 4  # variances; beyond it, almost any car belongs to the class
UNNAMED = re.compile(r"cluster-\d+|unsorted")  # folders that `cluster` created and that were not renamed
# A picture shows no car if its distance to all trained classes exceeds the threshold of a make by this factor. Measured
# on the bundled model: noise and empty road exceed it, none of 353 cars of other classes does.
NOT_A_CAR_FACTOR = 1.6


@dataclass(frozen=True)
class EnrollConfig:
    """What to enroll, and into which file.

    Attributes:
        output: the new file; it may be the model's own path.
        model: an exported file; None for the bundled one.
        classes: the pictures of each new class, by class name.
        remove: enrolled classes to remove.
        unchecked: write the file even if a check fails or is impossible.
        reach: the largest distance of a picture from its class; see `enrolled.REACH`.
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
    """A new class; `recognized` of its `images` pictures are recognized by the others, None for a single picture."""

    name: Text
    images: int = Field(ge=1)
    threshold: float
    recognized: int | None


class EnrollReport(Record):
    """What was enrolled, and the results of the checks.

    `held_out` counts the held-out pictures, by the file's summary of them, and `held_out_changed` those whose answer
    changes; both are None if the file has no summary. `classes` are the new classes, `enrolled` the names of all
    enrolled classes in the new file. `faults` describes the limits that an unchecked file misses.

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
    """Write a model file with more classes, or with enrolled classes removed.

    Raises:
        GateError: a check failed; nothing is written.
        InputError: a name or picture cannot be used, a check is impossible, or the file cannot be written.
        ModelError: the model cannot be used, or has no embedding output.
        MissingExtraError: ONNX Runtime is not installed.
    """
    given = (image for images in config.classes.values() for image in images)
    check_not_read([config.output], (Path(image) for image in given if isinstance(image, str | Path)))
    session = open_session(config.model or default_model(), ep=config.ep, threads=config.threads)
    require_golden(session)
    trained = session.prototypes
    if trained is None:
        raise ModelError(f"{session.model} has no embedding output with prototypes to enroll with: export it again")
    before = _without(session, config.remove)
    _check_names(session, before, config)
    held_out = read_held_out(session.model)
    if held_out is not None and held_out.embeddings.shape[1] != trained.dimensions:
        raise ModelError(
            f"{session.model} has a summary of held-out pictures that does not match its embedding: export it again"
        )
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
        raise GateError("no file written: " + "; ".join(report.faults))
    _write(session, after, config.output)
    return report


def read_class_folders(folder: Path) -> dict[str, list[Path]]:
    """Return the pictures in each subfolder of a folder, by class; the subfolder's name is the class name.

    Folders that still have the name that `cluster` gave them are skipped. If no name has a space, underscores become
    spaces.

    Raises:
        InputError: the folder cannot be read, has no named subfolder, or one is empty.
    """
    check_name(folder)
    try:
        found = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror}") from error
    named = [entry for entry in found if not UNNAMED.fullmatch(entry.name)]
    if len(named) < len(found):
        logger.warning("skipped %d folders in %s that have no class name yet", len(found) - len(named), folder)
    if not named:
        raise InputError(f"{folder} has no subfolder named after a class: rename or add one")
    names = ClassMapping.from_folder_names(entry.name for entry in named)
    return {name: expand([entry]) for name, entry in zip(names, named, strict=True)}


def _without(session: ModelSession, remove: Sequence[str]) -> Enrolled | None:
    enrolled = session.enrolled
    names = () if enrolled is None else enrolled.names
    for name in remove:
        if name in session.manifest.classes:
            raise InputError(f"{name!r} is a trained class: only enrolled classes can be removed")
        if name not in names:
            hint = nearest(name, names) if names else "it has no enrolled classes"
            raise InputError(f"{session.model} has no enrolled class {name!r}: {hint}")
    if enrolled is None:
        return None
    remaining = [index for index, name in enumerate(names) if name not in remove]
    if not remaining:
        return None
    return Enrolled(tuple(enrolled.classes[index] for index in remaining), Prototypes(enrolled.means.means[remaining]))


def _check_names(session: ModelSession, before: Enrolled | None, config: EnrollConfig) -> None:
    if not 0 < config.reach <= MAX_REACH:
        raise InputError(Parameter("reach"), f" must be above 0 and at most {MAX_REACH}, found {config.reach}")
    if not config.classes and not config.remove:
        raise InputError("nothing to do: name a class and its pictures, or a class to remove")
    known = session.manifest.classes + (() if before is None else before.names)
    for name in config.classes:
        if name in known:
            raise InputError(f"{session.model} already has the class {name!r}: choose another name, or remove it first")
    ClassMapping((*known, *config.classes))
    if len(known) - len(session.manifest.classes) + len(config.classes) > MAX_ENROLLED:
        raise InputError(f"a model file can have at most {MAX_ENROLLED} enrolled classes: remove some first")


def _require_checks(session: ModelSession, config: EnrollConfig, held_out: HeldOut | None) -> None:
    """Raise an error if a check is impossible, before any picture is read."""
    if held_out is None:
        raise InputError(
            f"{session.model} has no summary of held-out pictures to check its answers with: export it again, or use ",
            Parameter("unchecked", True),
        )
    for name, images in config.classes.items():
        if len(images) == 1:
            raise InputError(
                f"{name!r} has only one picture, which cannot be checked: give 3 or more, or use ",
                Parameter("unchecked", True),
            )


def _embed(session: ModelSession, trained: Prototypes, name: str, images: Sequence[ImageLike]) -> NDArray[np.float32]:
    """Return the embeddings of a class's pictures, float32 [N, D]."""
    if not 1 <= len(images) <= MAX_PICTURES:
        raise InputError(f"a class needs 1 to {MAX_PICTURES} pictures, {name!r} has {len(images)}")
    parts = []
    for start in range(0, len(images), BATCH):
        batch = [
            as_image_bgr(image, f"picture {start + offset + 1} of {name!r}")
            for offset, image in enumerate(images[start : start + BATCH])
        ]
        parts.append(session.embed(prepare_batch(batch, session.manifest.preprocess)))
    embeddings = np.concatenate(parts)
    record = session.manifest.familiarity
    assert record is not None, "a file with prototypes has thresholds"
    floor = 1 - NOT_A_CAR_FACTOR * (1 - record.thresholds.make)
    familiarity = trained.familiarity(embeddings)
    worst = int(familiarity.argmin())
    if familiarity[worst] < floor:
        image = images[worst]
        which = image if isinstance(image, str | Path) else f"picture {worst + 1} of {name!r}"
        raise InputError(
            f"{which} does not look like a car (familiarity {familiarity[worst]:.3f}, cars have at least {floor:.3f}): "
            "leave it out"
        )
    return embeddings


def _recognized(
    after: Enrolled | None, name: str, embeddings: NDArray[np.float32], about: Mapping[str, Any]
) -> int | None:
    """Return how many pictures of a new class are recognized when the class is made of the others (leave-one-out).

    The reach is larger than the file's: the check looks for pictures of other cars, not for unusual ones.
    """
    assert after is not None, "there is a new class"
    if len(embeddings) == 1:
        return None
    about = {**about, "reach": max(about["reach"], CHECK_REACH)}
    index = after.names.index(name)
    count = 0
    for left_out in range(len(embeddings)):
        others = learn_class(name, np.delete(embeddings, left_out, axis=0), **about)
        classes = (*after.classes[:index], *others.classes, *after.classes[index + 1 :])
        means = after.means.means.copy()
        means[index] = others.means.means[0]
        one = embeddings[left_out : left_out + 1]
        leads = Enrolled(classes, Prototypes(means)).leads(one, about["trained"].familiarity(one))[0]
        count += int(leads.argmax() == index and leads[index] > 0)
    return count


def _faults(report: EnrollReport) -> tuple[str, ...]:
    """Describe the limits that the report misses."""
    faults = [
        f"only {one.recognized} of {one.images} pictures of {one.name!r} are recognized by the others "
        f"(limit {MIN_RECOGNIZED:.0%}): leave out pictures of other cars, or add more"
        for one in report.classes
        if one.recognized is not None and not at_least(one.recognized, MIN_RECOGNIZED * one.images)
    ]
    share = report.held_out_share
    if share is not None and not at_most(share, MAX_CHANGED):
        faults.append(
            f"the answers for {report.held_out_changed} of {report.held_out} held-out pictures change "
            f"(limit {MAX_CHANGED:.1%}): the new classes are too similar to trained ones"
        )
    return tuple(faults)


def _write(session: ModelSession, enrolled: Enrolled | None, output: Path) -> None:
    """Write the new file, if it opens the way a box will open it."""
    try:
        data = session.model.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {session.model}: {error.strerror}") from error
    text = None if enrolled is None else enrolled.to_json(session.manifest)
    changed = with_metadata(data, {ENROLLED_KEY: text}, str(session.model))
    with replacing(output) as temporary:
        temporary.write_bytes(changed)
        require_golden(open_session(temporary, ep=session.ep, threads=session.threads))
