"""The comparisons of a parity report as Markdown: the figures with what each means, then the answers that changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twincar_edge.export.parity.comparison import SURE_MARGIN, Comparison, Flip
from twincar_edge.export.parity.names import title

FLIP_COLUMNS = ("Image", "Is", "Was answered", "Margin", "Now answered", "Margin now", "Right answer")
PAIR_COLUMNS = ("Was answered", "Now answered", "Images")
CLASS_COLUMNS = ("Class", "Images", "Right before", "Right now", "Change")

_OUTCOMES = {"lost": "**lost**", "gained": "gained", "wrong": "wrong both times"}

_Figure = tuple[str, Callable[[Comparison], str], str]
"""A line of the table of figures: its name, its value for a comparison, and what it means."""


def points(share: float) -> str:
    """Return a difference of shares in points, with its sign: "-0.13", and "+0.00" for none."""
    return f"{round(100 * share, 2) + 0.0:+.2f}"


def interval(low_high: tuple[float, float]) -> str:
    """Return an interval of shares in points: "-0.60 to +0.33"."""
    return f"{points(low_high[0])} to {points(low_high[1])}"


def _embeddings(side: Comparison) -> str:
    if side.mean_embedding_cosine is None or side.min_embedding_cosine is None:
        return "–"
    return f"{side.mean_embedding_cosine:.6f}, {side.min_embedding_cosine:.6f}"


def _sure(side: Comparison) -> str:
    return "–" if side.sure_agreement is None else f"{side.sure_agreement:.2%} of {side.sure_images}"


_FIGURES: tuple[_Figure, ...] = (
    ("Top-1", lambda c: f"{c.top1_reference:.2%} → {c.top1:.2%}", "Share of images whose first answer is right."),
    (
        "Top-1 change, points",
        lambda c: f"{points(c.top1 - c.top1_reference)} ({interval(c.top1_difference_interval)})",
        "In brackets, where the change would lie on all such images, with 95% confidence (paired; Bonett and Price).",
    ),
    (
        "McNemar's p",
        lambda c: f"{c.mcnemar_p:.3g}",
        "How often chance alone makes as uneven a change of top-1; below 0.05 the change is hardly chance.",
    ),
    (
        "Top-5",
        lambda c: f"{c.top5_reference:.2%} → {c.top5:.2%}",
        "Share of images with the right class in the first 5.",
    ),
    (
        "Top-5 change, points",
        lambda c: f"{points(c.top5 - c.top5_reference)} ({interval(c.top5_difference_interval)})",
        "As for top-1.",
    ),
    ("Agreement", lambda c: f"{c.agreement:.2%}", "Share of images with the same first answer, right or wrong."),
    (
        "Agreement where sure",
        _sure,
        f"The same where the reference's two best probabilities are more than {SURE_MARGIN} apart.",
    ),
    (
        "Logit difference, largest",
        lambda c: f"{c.max_abs_logit_difference:.3g} (logits up to {c.max_abs_logit_reference:.3g})",
        "The worst logit of all images; in brackets, the reference's largest.",
    ),
    ("Logit difference, mean", lambda c: f"{c.mean_abs_logit_difference:.3g}", "Over all logits of all images."),
    (
        "Cosine, mean and least",
        lambda c: f"{c.mean_cosine:.6f}, {c.min_cosine:.6f}",
        "Of the angle between both sides' logits of an image; 1 is the same direction.",
    ),
    (
        "Embedding cosine, mean and least",
        _embeddings,
        "Of the angle between both sides' embeddings of an image, which familiarity is judged by.",
    ),
    (
        "KL divergence, mean and largest",
        lambda c: f"{c.mean_kl_nats:.3g}, {c.max_kl_nats:.3g}",
        "How far the probabilities lie from the reference's, in nats; 0 is equal.",
    ),
    (
        "Calibration error",
        lambda c: f"{c.ece_reference:.2%} → {c.ece:.2%}",
        "How far the first answer's probability is, on average, from how often it is right.",
    ),
)


def figures_table(comparisons: Sequence[Comparison]) -> list[str]:
    """Return the table of all figures: a column for each comparison, and what each figure means."""
    figures = [(name, *(value(side) for side in comparisons), text) for name, value, text in _FIGURES]
    return table(("Figure", *map(_head, comparisons), "What it means"), figures)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table's lines; a bar in a cell does not end it."""
    lines = [columns, ("---",) * len(columns), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def changes_markdown(side: Comparison, images: int) -> list[str]:
    """Return the section about the answers that changed: how many, the pairs of classes, each image, the classes."""
    title_line = f"## Answers that changed: {_head(side)}"
    if not side.flips:
        return [title_line, "", f"None of {images}."]
    outcomes = [flip.outcome for flip in side.flips]
    lines = [
        title_line,
        "",
        f"{len(side.flips)} of {images}: {outcomes.count('lost')} were right before and are wrong now, "
        f"{outcomes.count('gained')} the other way, {outcomes.count('wrong')} wrong both times. "
        "A margin is the answer's probability less the next class's.",
        "",
    ]
    often = [pair for pair in side.class_pairs if pair.images > 1]
    if often:
        rows = [(pair.reference, pair.answer, str(pair.images)) for pair in often]
        lines += ["Pairs of classes that changed more than once:", "", *table(PAIR_COLUMNS, rows), ""]
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
