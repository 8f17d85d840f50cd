"""The comparison of two models: agreement, differences of logits, and changed answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from twincar_edge.manifest import ParityRecord
from twincar_edge.records import Record, Share

Change = Annotated[float, Field(ge=-1, le=1)]
Magnitude = Annotated[float, Field(ge=0)]
Interval = tuple[Change, Change]

SURE_MARGIN = 0.5  # the reference counts as confident if its two best probabilities differ by more


class Flip(Record):
    """An image with a changed answer: its label, and both sides' answers with probability and margin.

    The margin is the difference between the two best probabilities. `max_logit_difference` is over the image's logits.
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
        """Return the effect of the change: a right answer lost or gained, or both answers wrong."""
        if self.reference == self.label:
            return "lost"
        return "gained" if self.answer == self.label else "wrong"


class ClassPair(Record):
    """The number of images whose answer changed from `reference` to `answer`."""

    reference: str
    answer: str
    images: int = Field(ge=1)


class ClassChange(Record):
    """A class whose number of right answers changed, with its images and both sides' numbers of right answers."""

    name: str
    images: int = Field(ge=1)
    right_reference: int = Field(ge=0)
    right: int = Field(ge=0)


class Comparison(Record):
    """The comparison of a side (`subject`) with its reference (`against`). Shares are from 0 to 1.

    Intervals are 95% confidence intervals of the paired difference subject - reference. `mcnemar_p` is for top-1.
    `sure_agreement` is the agreement on the `sure_images` where the reference is confident, or None if there are none.
    Logits are compared without temperature. KL divergence (of the subject from the reference), calibration errors
    (`ece`) and margins are computed from probabilities, with each side's temperature. Cosine similarities of embeddings
    are None if a side has no embeddings. `reference_margins` and `max_logit_differences` have one value per image, in
    data set order. `flips` and `class_pairs` are sorted by the frequency of the pair of classes, highest first, and
    flips of one pair by the reference's margin. `class_changes` starts with the class that loses most.
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
        """Return the record for the subject's manifest; `images` is the number of compared images."""
        shared = self.model_dump(include=set(ParityRecord.model_fields))
        return ParityRecord(images=images, **shared)
