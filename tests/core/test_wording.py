from __future__ import annotations

import pytest

from twincar_edge.wording import counted, percent, titled


@pytest.mark.parametrize(
    ("share", "decimals", "text"),
    [
        (0.934, 0, "93%"),
        (0.996, 0, "99.6%"),
        (0.001, 0, "0.1%"),
        (0.99951, 0, ">99.9%"),
        (0.0004, 0, "<0.1%"),
        (0.0, 0, "0%"),
        (1.0, 0, "100%"),
        (0.5, 1, "50.0%"),
        (1.0, 1, "100.0%"),
        (0.99996, 2, ">99.99%"),
    ],
)
def test_a_percentage_is_0_or_100_only_if_the_share_is(share: float, decimals: int, text: str) -> None:
    assert percent(share, decimals) == text


def test_a_counted_noun_is_singular_only_for_one() -> None:
    texts = [
        counted(number, noun) for number, noun in ((0, "image"), (1, "visit"), (2, "enrolled class"), (1500, "row"))
    ]
    assert texts == ["0 images", "1 visit", "2 enrolled classes", "1,500 rows"]


def test_a_camera_of_the_default_name_is_not_called_camera_camera() -> None:
    assert [titled("camera", name) for name in ("gate", "camera")] == ["camera gate", "camera"]
