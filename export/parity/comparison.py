"""One comparison of parity: how often two models agree, how far their logits differ, and which answers changed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from twincar_edge.manifest import ParityRecord
from twincar_edge.records import Record, Share

Change = Annotated[float, Field(ge=-1, le=1)]
Magnitude = Annotated[float, Field(ge=0)]
Interval = tuple[Change, Change]

SURE_MARGIN = 0.5  # between the reference's two best probabilities: above it, the model itself is not in doubt


class Flip(Record):
    """An image whose answer changed: what it is, and each side's answer with its probability and its margin.

    A margin is the probability of the answer less that of the next class. `max_logit_difference` is this image's.
    """

    image: str
    label: str
    reference: str
    reference_probability: Share
    reference_margin: Share
    answer: str
    probability: Share
    margin: Share
    max_logit_difference: Magnitude

    @property
    def outcome(self) -> Literal["lost", "gained", "wrong"]:
        """Say what the change did: a right answer lost or gained, or one wrong answer for another."""
        if self.reference == self.label:
            return "lost"
        return "gained" if self.answer == self.label else "wrong"


class ClassPair(Record):
    """How many images went from the class `reference` to the class `answer`."""

    reference: str
    answer: str
    images: int = Field(ge=1)


class ClassChange(Record):
    """A class whose number of right answers changed: its images, and how many each side gets right."""

    name: str
    images: int = Field(ge=1)
    right_reference: int = Field(ge=0)
    right: int = Field(ge=0)


class Comparison(Record):
    """One side (`subject`) against the one that it was made from, `against`. Shares are between 0 and 1.

    Intervals are those of the paired difference subject - reference at 95%. `mcnemar_p` is of top-1. `sure_agreement`
    counts the `sure_images` where the reference is sure, and is None where there are none. Logits are compared as the
    models give them; KL divergence (of the subject from the reference), calibration errors (`ece`) and margins are of
    probabilities, after each side's temperature. Cosines of embeddings are None where a side gives none.
    `reference_margins` and `max_logit_differences` have a figure for each image, in the order of the data. `flips` and
    `class_pairs` begin with the pair of classes that changes most often, inside a pair with the answer of which the
    reference was surest; `class_changes` with the class that loses most.
    """

    subject: str
    against: str
    top1: Share
    top5: Share
    top1_reference: Share
    top5_reference: Share
    top1_difference_interval: Interval
    top5_difference_interval: Interval
    mcnemar_p: Share
    agreement: Share
    sure_images: int = Field(ge=0)
    sure_agreement: Share | None
    max_abs_logit_difference: Magnitude
    mean_abs_logit_difference: Magnitude
    max_abs_logit_reference: Magnitude
    mean_cosine: Change
    min_cosine: Change
    mean_embedding_cosine: Change | None = None
    min_embedding_cosine: Change | None = None
    mean_kl_nats: Magnitude
    max_kl_nats: Magnitude
    ece: Share
    ece_reference: Share
    class_pairs: tuple[ClassPair, ...]
    class_changes: tuple[ClassChange, ...]
    flips: tuple[Flip, ...]
    reference_margins: tuple[Share, ...]
    max_logit_differences: tuple[Magnitude, ...]

    def record(self, images: int) -> ParityRecord:
        """Return what the subject's manifest keeps."""
        shared = self.model_dump(include=set(ParityRecord.model_fields))
        return ParityRecord(images=images, **shared)
