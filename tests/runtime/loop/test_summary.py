"""The summary explains ignored objects and limited answers, and names the remedy."""

from __future__ import annotations

import pytest

from twincar_edge.runtime.configuration.config import CameraConfig
from twincar_edge.runtime.loop.summary import camera_notes


def test_each_reason_is_a_sentence_with_a_remedy() -> None:
    notes = camera_notes(CameraConfig(min_area=0.02), "motion", {"small": 37, "zone": 1}, {"cut": 1, "small": 2})
    assert notes == (
        "37 moving things were smaller than `min_area=0.02`",
        "1 moving thing passed outside `zones`",
        "1 visit showed a vehicle that the frame's border cuts in every crop: let the camera see more of the road",
        "2 visits showed a vehicle too small for a full name in every crop: zoom in, or move the camera nearer",
    )


@pytest.mark.parametrize(
    ("locator", "helps"), [("motion", "`locate='detector'`"), ("detector", "a view from the side")]
)
def test_the_remedy_for_merged_vehicles_is_a_detector_or_another_view(locator: str, helps: str) -> None:
    assert camera_notes(CameraConfig(), locator, {}, {"merged": 3}) == (
        f"3 visits showed two vehicles, one after the other, and got no name: {helps} tells them apart better",
    )
