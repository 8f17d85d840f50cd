from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from twincar_edge.errors import InputError
from twincar_edge.runtime.locating.zones import Zone, counts, masks, parse_zone, regions, zone_of

PICTURE = np.zeros((100, 200, 3), np.uint8)
SIZE_WH = (200, 100)


def standing_at(x: float, y: float) -> tuple[float, float, float, float]:
    """The box of a car of 20 by 10 pixels at a position."""
    return x - 10, y - 10, x + 10, y


def test_a_zone_is_a_polygon_with_an_optional_name() -> None:
    triangle = ((0.1, 0.2), (0.9, 0.2), (0.5, 0.9))
    assert parse_zone("0.1,0.2 0.9,0.2 0.5,0.9") == Zone(points=triangle)
    assert parse_zone("gate=0.1,0.2 0.9,0.2 0.5,0.9") == Zone(points=triangle, name="gate")
    assert parse_zone("exclude=0.1,0.2 0.9,0.2 0.5,0.9") == Zone(points=triangle, exclude=True)
    assert Zone.model_validate({"points": [[0.1, 0.2], [0.9, 0.2], [0.5, 0.9]], "name": "gate"}).points == triangle


def test_two_points_are_the_corners_of_a_rectangle() -> None:
    assert parse_zone("10,20 30,60").points == ((10, 20), (30, 20), (30, 60), (10, 60))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1,2",
        "1,2 3",
        "0,0 1,1 2,2",
        "a,b c,d e,f",
        "0,0 0,0.5",
        "-1,0 2,2",
        "nan,0 1,1",
        "0,0 inf,1",
        "1 2,3 4,5 6",
        "=0,0 1,1",
        "a/b=0,0 1,1",
        "gate=",
        "one=two=0,0 1,1",
        "exclude=0,0",
        " ".join("0,0" for _ in range(101)),
    ],
)
def test_an_invalid_zone_is_a_one_line_error(text: str) -> None:
    with pytest.raises(InputError, match="zone") as caught:
        parse_zone(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "zone", [{"points": [[0, 0], [0, 0.5]]}, {"points": [[0, 0], [1, 1]], "name": "a b"}, {"points": [], "also": 1}]
)
def test_zones_of_a_file_are_validated_alike(zone: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Zone.model_validate(zone)


def test_a_vehicle_is_in_the_first_zone_that_contains_its_wheels() -> None:
    zones = (parse_zone("in=0,0 0.5,1"), parse_zone("all=0,0 1,1"))
    assert zone_of(standing_at(50, 80), SIZE_WH, zones) == "in"
    assert zone_of(standing_at(150, 80), SIZE_WH, zones) == "all"
    assert zone_of(standing_at(50, 80), SIZE_WH, ()) is None
    far = (parse_zone("far=0,0 200,40"),)
    assert zone_of((40, 5, 60, 60), SIZE_WH, far) is None  # it reaches into the zone, but its wheels are below it
    assert zone_of(standing_at(50, 40.4), SIZE_WH, far) == "far"  # half a pixel below it is tolerated
    assert zone_of(standing_at(50, 80), SIZE_WH, (parse_zone("0,0 1,1"),)) is None  # the zone has no name
    assert zone_of(standing_at(50, 80), SIZE_WH, (parse_zone("exclude=0,0 1,1"), zones[1])) == "all"


def test_a_vehicle_counts_inside_the_zones_and_outside_the_excluded_ones() -> None:
    left, hole = parse_zone("0,0 0.5,1"), parse_zone("exclude=0,0 0.2,1")
    assert counts(standing_at(150, 80), SIZE_WH, ())
    assert [counts(standing_at(x, 80), SIZE_WH, (left,)) for x in (20, 80, 150)] == [True, True, False]
    assert [counts(standing_at(x, 80), SIZE_WH, (left, hole)) for x in (20, 80, 150)] == [False, True, False]
    assert [counts(standing_at(x, 80), SIZE_WH, (hole,)) for x in (20, 80, 150)] == [False, True, True]


def test_masks_exclude_excluded_zones_and_regions_cover_the_counting_ones() -> None:
    zones = (parse_zone("0,0 100,99"), parse_zone("exclude=0,0 50,99"))
    (mask,) = masks(PICTURE, zones)
    assert mask[:, 55:95].all()
    assert not mask[:, :48].any()
    assert not mask[:, 105:].any()
    assert regions(PICTURE, zones) == [(0, 0, 100, 99)]
    (all_but,) = masks(PICTURE, zones[1:])
    assert all_but[:, 55:].all()
    assert regions(PICTURE, zones[1:]) == [(0, 0, 200, 100)]


def test_pixel_and_relative_coordinates_are_equivalent() -> None:
    assert regions(PICTURE, [parse_zone("0.25,0.5 0.75,1")]) == regions(PICTURE, [parse_zone("50,50 150,100")])


def test_the_error_for_a_zone_outside_the_frame_names_it() -> None:
    with pytest.raises(InputError, match="the zone gate lies outside the frame, which is 200 by 100"):
        regions(PICTURE, [parse_zone("gate=400,10 500,90")])
