"""The comparisons of a parity report as Markdown: metrics with their meaning, then the changed answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twincar_edge.export.parity.comparison import SURE_MARGIN, Comparison, Flip
from twincar_edge.export.parity.names import title
from twincar_edge.markdown import table

FLIP_COLUMNS = ("Image", "Class", "Reference answer", "Margin", "New answer", "New margin", "Right answer")
PAIR_COLUMNS = ("Reference answer", "New answer", "Images")
CLASS_COLUMNS = ("Class", "Images", "Right before", "Right now", "Change")

_OUTCOMES = {"lost": "**lost**", "gained": "gained", "wrong": "both wrong"}

_Figure = tuple[str, Callable[[Comparison], str], str]
"""A row of the table of metrics: its name, its value for a comparison, and its meaning."""


def points(share: float) -> str:
    """Return a difference of shares in percentage points with its sign: "-0.13", or "+0.00" for no difference."""
    return f"{round(100 * share, 2) + 0.0:+.2f}"


def interval(low_high: tuple[float, float]) -> str:
    """Return an interval of shares in percentage points: "-0.60 to +0.33"."""
    return f"{points(low_high[0])} to {points(low_high[1])}"


def _embeddings(side: Comparison) -> str:
    if side.mean_embedding_cosine is None or side.min_embedding_cosine is None:
        return "–"
    return f"{side.mean_embedding_cosine:.6f}, {side.min_embedding_cosine:.6f}"


def _sure(side: Comparison) -> str:
    return "–" if side.sure_agreement is None else f"{side.sure_agreement:.2%} of {side.sure_images}"


_FIGURES: tuple[_Figure, ...] = (
    ("Top-1", lambda c: f"{c.top1_reference:.2%} → {c.top1:.2%}", "Share of images with a right top answer."),
    (
        "Top-1 change, points",
        lambda c: f"{points(c.top1 - c.top1_reference)} ({interval(c.top1_difference_interval)})",
        "In parentheses, the 95% confidence interval of the paired difference (Bonett and Price).",
    ),
    (
        "McNemar's p",
        lambda c: f"{c.mcnemar_p:.3g}",
        "Probability of so uneven a change of top-1 by chance; below 0.05, the change is significant.",
    ),
    (
        "Top-5",
        lambda c: f"{c.top5_reference:.2%} → {c.top5:.2%}",
        "Share of images with the right class among the top 5.",
    ),
    (
        "Top-5 change, points",
        lambda c: f"{points(c.top5 - c.top5_reference)} ({interval(c.top5_difference_interval)})",
        "As for top-1.",
    ),
    ("Agreement", lambda c: f"{c.agreement:.2%}", "Share of images with the same top answer, right or wrong."),
    (
        "Agreement where confident",
        _sure,
        f"Agreement on images where the reference's two best probabilities differ by more than {SURE_MARGIN}.",
    ),
    (
        "Logit difference, max",
        lambda c: f"{c.max_abs_logit_difference:.3g} (logits up to {c.max_abs_logit_reference:.3g})",
        "Over all logits of all images; in parentheses, the reference's largest absolute logit.",
    ),
    ("Logit difference, mean", lambda c: f"{c.mean_abs_logit_difference:.3g}", "Over all logits of all images."),
    (
        "Logit cosine, mean and min",
        lambda c: f"{c.mean_cosine:.6f}, {c.min_cosine:.6f}",
        "Cosine similarity of both sides' logits for each image; 1 is the same direction.",
    ),
    (
        "Embedding cosine, mean and min",
        _embeddings,
        "Cosine similarity of both sides' embeddings for each image; familiarity is computed from embeddings.",
    ),
    (
        "KL divergence, mean and max",
        lambda c: f"{c.mean_kl_nats:.3g}, {c.max_kl_nats:.3g}",
        "Divergence of the probabilities from the reference's, in nats; 0 means equal.",
    ),
    (
        "Calibration error",
        lambda c: f"{c.ece_reference:.2%} → {c.ece:.2%}",
        "Expected calibration error: the mean gap between the top answer's probability and its accuracy.",
    ),
)


def figures_table(comparisons: Sequence[Comparison]) -> list[str]:
    """Return the table of all metrics: a column for each comparison, and the meaning of each metric."""
    figures = [(name, *(value(side) for side in comparisons), text) for name, value, text in _FIGURES]
    return table(("Metric", *map(_head, comparisons), "Meaning"), figures)


def changes_markdown(side: Comparison, images: int) -> list[str]:
    """Return the section on changed answers: their number, the pairs of classes, each image, and the classes."""
    title_line = f"## Changed answers: {_head(side)}"
    if not side.flips:
        return [title_line, "", f"None of {images}."]
    outcomes = [flip.outcome for flip in side.flips]
    lines = [
        title_line,
        "",
        f"{len(side.flips)} of {images}: {outcomes.count('lost')} changed from right to wrong, "
        f"{outcomes.count('gained')} from wrong to right, {outcomes.count('wrong')} from one wrong answer to another. "
        "The margin is the difference between the two best probabilities.",
        "",
    ]
    often = [pair for pair in side.class_pairs if pair.images > 1]
    if often:
        rows = [(pair.reference, pair.answer, str(pair.images)) for pair in often]
        lines += ["Changes that occur more than once:", "", *table(PAIR_COLUMNS, rows), ""]
    lines += table(FLIP_COLUMNS, [_flip_row(flip) for flip in side.flips])
    if side.class_changes:
        changed = [
            (
                change.name,
                str(change.images),
                str(change.right_reference),
                str(change.right),
                f"{change.right - change.right_reference:+d}",
            )
            for change in side.class_changes
        ]
        lines += ["", "Classes with more or fewer right answers:", "", *table(CLASS_COLUMNS, changed)]
    return lines


def _head(side: Comparison) -> str:
    return f"{title(side.subject)} against {title(side.against)}"


def _flip_row(flip: Flip) -> tuple[str, ...]:
    return (
        flip.image,
        flip.label,
        f"{flip.reference} ({flip.reference_probability:.2f})",
        f"{flip.reference_margin:.3f}",
        f"{flip.answer} ({flip.probability:.2f})",
        f"{flip.margin:.3f}",
        _OUTCOMES[flip.outcome],
    )
