"""A live camera goes on after an error that may pass, and not after one that will not."""

from __future__ import annotations

import logging

import pytest

from twincar_edge.errors import InputError, ModelError
from twincar_edge.runtime.backoff import Backoff
from twincar_edge.runtime.loop.recovery import MODEL_TRIES, Recovery

OUT_OF_MEMORY = ModelError("out of memory")
OUTSIDE = InputError("the zone lies outside the frame")


def recovery(live: bool = True) -> Recovery:
    return Recovery("gate", live=live, backoff=Backoff(1.0, 60.0, draw=lambda: 1.0))


def test_the_pauses_grow_until_a_frame_is_processed(caplog: pytest.LogCaptureFixture) -> None:
    camera = recovery()
    for _ in range(2):
        assert [camera.failed(OUT_OF_MEMORY) for _ in range(3)] == [1.0, 2.0, 4.0]
        assert camera.error is OUT_OF_MEMORY
        camera.processed()
        assert camera.error is None
    assert caplog.messages == 2 * ["camera gate failed, and tries again: out of memory", "camera gate works again"]


def test_a_model_that_fails_in_many_frames_in_a_row_is_given_up() -> None:
    camera = recovery()
    for _ in range(MODEL_TRIES - 1):
        camera.failed(OUT_OF_MEMORY)
    with pytest.raises(ModelError, match="out of memory"):
        camera.failed(OUT_OF_MEMORY)


def test_settings_are_retried_only_if_they_have_fit_before() -> None:
    camera = recovery()
    with pytest.raises(InputError, match="outside"):
        camera.failed(OUTSIDE)
    camera = recovery()
    camera.processed()
    assert [camera.failed(OUTSIDE) for _ in range(9)][-2:] == [60.0, 60.0]


def test_an_error_in_a_file_is_not_retried() -> None:
    camera = recovery(live=False)
    camera.processed()
    with pytest.raises(ModelError, match="out of memory"):
        camera.failed(OUT_OF_MEMORY)


def test_a_camera_that_fails_again_and_again_is_logged_ever_more_rarely(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    camera = recovery()
    for _ in range(100):
        camera.failed(OUT_OF_MEMORY)
        camera.processed()
    assert len(caplog.messages) == 2 * 7  # the 1st, 2nd, 4th, … 64th time
