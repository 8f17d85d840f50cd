"""The ground truth of a gate clip, and its JSON form."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twincar_edge.synthetic.catalog import CLASS_NAMES

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class GatePass:
    """One vehicle's drive through the clip.

    `first_frame` to `last_frame` (inclusive) are the frames in which it is visible; `direction` is +1 from left to
    right in the image and -1 from right to left; `boxes_xyxy` has one box per frame in pixels, end-exclusive, clipped
    to the frame.
    """

    label: int
    first_frame: int
    last_frame: int
    direction: int
    boxes_xyxy: tuple[Box, ...]


@dataclass(frozen=True)
class GateTruth:
    """The ground truth of a clip: `frames` frames of `size_wh` pixels at `fps` per second."""

    fps: float
    size_wh: tuple[int, int]
    frames: int
    passes: tuple[GatePass, ...]

    def to_json(self) -> str:
        """Return the truth as JSON, with class names in addition to the labels, for readers without this package."""
        passes = [
            {
                "label": one.label,
                "name": CLASS_NAMES[one.label],
                "first_frame": one.first_frame,
                "last_frame": one.last_frame,
                "direction": one.direction,
                "boxes_xyxy": [list(box) for box in one.boxes_xyxy],
            }
            for one in self.passes
        ]
        head = {"fps": self.fps, "size_wh": list(self.size_wh), "frames": self.frames, "classes": list(CLASS_NAMES)}
        return json.dumps({**head, "passes": passes}) + "\n"

    @classmethod
    def from_json(cls, text: str) -> GateTruth:
        """Read the output of `to_json`.

        Raises:
            ValueError: the text is invalid; the message names the place and what is expected there.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"gate truth is not JSON: {error}") from error
        table = _object(data, "the document")
        fps = _number(table, "fps", "the document")
        width, height = _integers(table, "size_wh", 2, "the document")
        frames = _integer(table, "frames", "the document")
        _expect(fps > 0, "fps", "a positive number", fps)
        _expect(width > 0 and height > 0, "size_wh", "two positive integers", [width, height])
        _expect(frames > 0, "frames", "a positive integer", frames)
        classes = table.get("classes")
        _expect(classes == list(CLASS_NAMES), "classes", f"this generator's {len(CLASS_NAMES)} class names", classes)
        listed = table.get("passes")
        if not isinstance(listed, list):
            raise ValueError(f"gate truth: passes should be a list, found {_show(listed)}")
        passes = tuple(_read_pass(item, f"passes[{k}]", (width, height), frames) for k, item in enumerate(listed))
        return cls(fps, (width, height), frames, passes)


def _read_pass(item: object, where: str, size_wh: tuple[int, int], frames: int) -> GatePass:
    table = _object(item, where)
    label, first, last, direction = (
        _integer(table, key, where) for key in ("label", "first_frame", "last_frame", "direction")
    )
    _expect(0 <= label < len(CLASS_NAMES), f"{where}.label", f"0 to {len(CLASS_NAMES) - 1}", label)
    name = table.get("name")
    _expect(name == CLASS_NAMES[label], f"{where}.name", repr(CLASS_NAMES[label]), name)
    _expect(direction in (-1, 1), f"{where}.direction", "-1 or 1", direction)
    _expect(0 <= first <= last < frames, f"{where}.first_frame and last_frame", f"0 <= first <= last < {frames}",
            [first, last])  # fmt: skip
    boxes = table.get("boxes_xyxy")
    wanted = last - first + 1
    if not isinstance(boxes, list) or len(boxes) != wanted:
        found = len(boxes) if isinstance(boxes, list) else _show(boxes)
        raise ValueError(f"gate truth: {where}.boxes_xyxy should hold {wanted} boxes, one per frame, found {found}")
    read = []
    for k, box in enumerate(boxes):
        x0, y0, x1, y1 = _integers({"box": box}, "box", 4, f"{where}.boxes_xyxy[{k}]")
        inside = 0 <= x0 < x1 <= size_wh[0] and 0 <= y0 < y1 <= size_wh[1]
        _expect(inside, f"{where}.boxes_xyxy[{k}]", f"a box inside {size_wh[0]} x {size_wh[1]}", box)
        read.append((x0, y0, x1, y1))
    return GatePass(label, first, last, direction, tuple(read))


def _show(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _expect(holds: bool, where: str, wanted: str, found: object) -> None:
    if not holds:
        raise ValueError(f"gate truth: {where} should be {wanted}, found {_show(found)}")


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"gate truth: {where} should be an object, found {_show(value)}")
    return value


def _checked(table: dict[str, Any], key: str, where: str, fits: Callable[[object], bool], wanted: str) -> Any:
    if key not in table:
        raise ValueError(f"gate truth: {where} lacks {key!r}")
    _expect(fits(table[key]), f"{where}, {key!r}", wanted, table[key])
    return table[key]


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _integer(table: dict[str, Any], key: str, where: str) -> int:
    return int(_checked(table, key, where, _is_int, "an integer"))


def _number(table: dict[str, Any], key: str, where: str) -> float:
    return float(_checked(table, key, where, lambda value: _is_int(value) or isinstance(value, float), "a number"))


def _integers(table: dict[str, Any], key: str, count: int, where: str) -> list[int]:
    def fits(value: object) -> bool:
        return isinstance(value, list) and len(value) == count and all(map(_is_int, value))

    return list(_checked(table, key, where, fits, f"{count} integers"))
