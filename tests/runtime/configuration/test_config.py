"""The configuration of a run with one camera, from named options."""

from __future__ import annotations

import pytest

from twincar_edge.errors import InputError
from twincar_edge.runtime.configuration.config import CameraConfig, WatchConfig, one_camera


def test_options_are_assigned_to_the_camera_or_the_run() -> None:
    assert one_camera("clip.mp4", name="gate", batch=4) == WatchConfig(
        cameras=(CameraConfig(name="gate", source="clip.mp4"),), batch=4
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_hit": 2}, "no option 'min_hit': did you mean 'min_hits'"),
        ({"source": "other.mp4"}, "multiple values"),
        ({"min_area": 2}, "`min_area`: "),
        ({"name": "a/b"}, "`name`: "),
    ],
)
def test_an_unknown_option_or_value_is_a_one_line_error(options: dict[str, object], message: str) -> None:
    with pytest.raises((InputError, TypeError), match=message):
        one_camera("clip.mp4", **options)
