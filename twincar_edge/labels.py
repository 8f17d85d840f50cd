"""Reads class names, and splits them into make, model, body type and year."""

from __future__ import annotations

import json
import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from twincar_edge.errors import InputError, require

# Makes of more than one word; every other make is the first word of the name.
MULTI_WORD_MAKES = (
    "AM General", "Alfa Romeo", "Aston Martin", "De Tomaso", "Great Wall", "Land Rover", "Lynk & Co", "Mercedes Benz",
    "Rolls Royce",
)  # fmt: skip

# Longest first, so that "Crew Cab" wins over a bare "Cab" and "Cargo Van" over "Van".
BODY_TYPES = (
    "Extended Cab", "Regular Cab", "Crew Cab", "Quad Cab", "Club Cab", "Double Cab", "Cargo Van", "Passenger Van",
    "Convertible", "Hatchback", "Crossover", "SuperCab", "Roadster", "Minivan", "Pickup", "Sedan", "Coupe", "Wagon",
    "Motorcycle", "Bicycle", "Truck", "SUV", "Van", "Bus",
)  # fmt: skip

# Body types that detectors classify as trucks: also most pickups, and some vans and SUVs.
_TRUCKS = frozenset({"Pickup", "Truck", "SUV", *(body for body in BODY_TYPES if body.endswith(("Cab", "Van", "van")))})

_YEAR = re.compile(r"(?:18|19|20|21)[0-9]{2}")  # not \d, which matches digits of other scripts
MAX_CLASSES = 100_000
MAX_NAME_LENGTH = 200


@dataclass(frozen=True)
class VehicleName:
    """A class name in parts. `str()` returns the name, with spaces between words.

    `model` is everything but make, body type and year, trim included, and may be empty. `body_type` and `year` are None
    if the name does not end in one.
    """

    make: str
    model: str
    body_type: str | None
    year: int | None

    def __str__(self) -> str:
        """Return the class name."""
        parts = (self.make, self.model, self.body_type, None if self.year is None else str(self.year))
        return " ".join(part for part in parts if part)


def parse_name(name: str) -> VehicleName:
    """Split `name` in the format of Stanford Cars: make, model, body type, year.

    Underscores separate words if the name has no space, as in folder and file names. A body type counts only at the end
    of the name (before the year): in "Infiniti G Coupe IPL 2012" it is part of the model.
    """
    rest = name if " " in name else " ".join(name.replace("_", " ").split()) or name
    year = None
    head, _, last = rest.rpartition(" ")
    if head and _YEAR.fullmatch(last):
        rest, year = head, int(last)
    make = next((known for known in MULTI_WORD_MAKES if rest == known or rest.startswith(known + " ")), None)
    if make is None:
        make = rest.split(" ", 1)[0]
    rest = rest[len(make) + 1 :]
    body = next((known for known in BODY_TYPES if rest == known or rest.endswith(" " + known)), None)
    if body is not None:
        rest = rest[: -len(body)].removesuffix(" ")
    return VehicleName(make, rest, body, year)


def may_be_a(vehicle: VehicleName, kind: str | None) -> bool:
    """Return whether a vehicle of this detector class may have this name.

    A car may have any name: detectors call pickups, vans and SUVs cars too. A truck may have a name whose body type is
    one that detectors call a truck, or that has no body type. Any other kind has only names with that body type: a bus
    may be a "Setra S 415 Bus 2010", but no car.

    Args:
        vehicle: the name, in parts.
        kind: the detector's COCO class of the vehicle; None if unknown.
    """
    if kind in (None, "car"):
        return True
    if kind == "truck":
        return vehicle.body_type is None or vehicle.body_type in _TRUCKS
    return vehicle.body_type is not None and vehicle.body_type.lower() == kind


@dataclass(frozen=True)
class ClassMapping:
    """Class names in the order of the model's outputs: `names[i]` is logit `i`.

    Raises:
        InputError: there are no names, or one is empty, too long, unprintable, not stripped or not unique.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check the names: they come from untrusted files, and go into events and pages."""
        if not 1 <= len(self.names) <= MAX_CLASSES:
            raise InputError(f"a class mapping needs 1 to {MAX_CLASSES} names, found {len(self.names)}")
        for name in self.names:
            if not isinstance(name, str) or not name or len(name) > MAX_NAME_LENGTH or not name.isprintable():
                raise InputError(f"class name {str(name)[:60]!r} is empty, too long or not printable")
            if name != " ".join(name.split()):
                raise InputError(f"class name {name!r} has spaces at its ends or two in a row")
        seen = set[str]()
        for name in self.names:
            if name in seen:
                raise InputError(f"class name {name!r} appears twice in the mapping")
            seen.add(name)

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names in output order."""
        return iter(self.names)

    def __getitem__(self, label: int) -> str:
        """Return the name of output `label`."""
        return self.names[label]

    def find(self, name: str) -> int | None:
        """Return the output index of a class by its name or a variant spelling; None if there is no match.

        Folders and files cannot have every name, and file systems change some. `Ram C-V` is found as
        `Ram C/V`, `AM_General_Hummer` as `AM General Hummer`, and letters with accents in composed or decomposed form.
        """
        exact = self._by_name.get(name)
        alike = self._by_spelling.get(_plain(name), []) if exact is None else [exact]
        return alike[0] if len(alike) == 1 else None

    @cached_property
    def _by_name(self) -> dict[str, int]:
        return {name: label for label, name in enumerate(self.names)}

    @cached_property
    def _by_spelling(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for label, name in enumerate(self.names):
            found.setdefault(_plain(name), []).append(label)
        return found

    def vehicle(self, label: int) -> VehicleName:
        """Return the name of output `label`, in parts."""
        return parse_name(self.names[label])

    def to_json(self) -> str:
        """Return the mapping in the format of `class_mapping.json`: `{"0": "AM General Hummer SUV 2000", …}`."""
        return json.dumps({str(i): name for i, name in enumerate(self.names)}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, path: Path) -> ClassMapping:
        """Read `class_mapping.json`: an object from output index to name, or a list of names.

        Raises:
            InputError: the file is missing, is not such JSON, or its indices are not 0 to N-1.
        """
        try:
            data = json.loads(path.read_text("utf-8-sig"), object_pairs_hook=_without_repeats)
        except OSError as error:
            raise InputError(f"cannot read the class mapping {path}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is not the JSON of a class mapping: {error}") from error
        if isinstance(data, dict):
            indices = sorted(int(key) for key in data if key.isascii() and key.isdigit() and len(key) < 10)
            if indices != list(range(len(data))):
                raise InputError(f'{path} must map "0" to "{len(data) - 1}" to names, one for each output of the model')
            by_index = {int(key): value for key, value in data.items()}
            data = [by_index[i] for i in indices]
        if not isinstance(data, list):
            raise InputError(f"{path} must hold an object from index to name, or a list of names")
        return cls(tuple(data))

    @classmethod
    def from_cars_meta(cls, path: Path) -> ClassMapping:
        """Read the names from Stanford's `cars_meta.mat` (variable `class_names`, 1-based there, 0-based here).

        Raises:
            InputError: the file is missing or is not Stanford's.
            MissingExtraError: scipy, which reads it, is not installed.
        """
        names = read_mat(path).get("class_names")
        if names is None:
            raise InputError(f"{path} has no variable class_names: it is not the cars_meta.mat of Stanford Cars")
        return cls(tuple(str(name) for name in np.atleast_1d(names).ravel().tolist()))

    @classmethod
    def from_folder_names(cls, names: Iterable[str]) -> ClassMapping:
        """Take class folders' names, sorted, as the classes; underscores become spaces if no name has a space.

        Accented letters are composed, however the system that wrote the folders encoded them.
        """
        ordered = [unicodedata.normalize("NFC", name) for name in sorted(names)]
        if not any(" " in name for name in ordered):
            ordered = [" ".join(name.replace("_", " ").split()) for name in ordered]
        return cls(tuple(ordered))


def _plain(name: str) -> str:
    """Return the normalized form of a name, for matching variant spellings."""
    return " ".join(unicodedata.normalize("NFC", name).translate(_SPELLINGS).split())


_SPELLINGS = str.maketrans({"_": " ", "/": "-", "\\": "-"})


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object from JSON pairs; the default would keep the last of two equal keys and silently drop a class."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an index appears twice")
    return found


# Exceptions of scipy for damaged files, found by fuzzing.
_MAT_ERRORS = (
    AttributeError, LookupError, NameError, NotImplementedError, OverflowError, TypeError, ValueError, zlib.error,
)  # fmt: skip


def read_mat(path: Path) -> dict[str, Any]:
    """Read a MATLAB 5 file as Stanford Cars ships them, structs simplified.

    Raises:
        InputError: the file is missing or not MATLAB's.
        MissingExtraError: scipy is not installed.
    """
    scipy_io = require("scipy.io", "bench")
    try:
        with path.open("rb") as file:
            return dict(scipy_io.loadmat(file, squeeze_me=True))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (*_MAT_ERRORS, scipy_io.matlab.MatReadError) as error:
        raise InputError(f"{path} is not a MATLAB 5 file: {error}") from error
