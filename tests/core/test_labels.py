"""Class names round-trip exactly, and an invalid mapping is a one-line error."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st

from twincar_edge.errors import InputError
from twincar_edge.labels import ClassMapping, VehicleName, parse_name, read_mat

PARTS = [
    ("AM General Hummer SUV 2000", "AM General", "Hummer", "SUV", 2000),
    ("Acura TL Type-S 2008", "Acura", "TL Type-S", None, 2008),
    ("Aston Martin V8 Vantage Convertible 2012", "Aston Martin", "V8 Vantage", "Convertible", 2012),
    ("Audi 100 Wagon 1994", "Audi", "100", "Wagon", 1994),
    ("BMW 1 Series Coupe 2012", "BMW", "1 Series", "Coupe", 2012),
    ("Bentley Continental Supersports Conv. Convertible 2012", "Bentley", "Continental Supersports Conv.",
     "Convertible", 2012),
    ("Bugatti Veyron 16.4 Coupe 2009", "Bugatti", "Veyron 16.4", "Coupe", 2009),
    ("Cadillac Escalade EXT Crew Cab 2007", "Cadillac", "Escalade EXT", "Crew Cab", 2007),
    ("Chevrolet Corvette Ron Fellows Edition Z06 2007", "Chevrolet", "Corvette Ron Fellows Edition Z06", None, 2007),
    ("Chevrolet Express Cargo Van 2007", "Chevrolet", "Express", "Cargo Van", 2007),
    ("Chevrolet Express Van 2007", "Chevrolet", "Express", "Van", 2007),
    ("Chevrolet Silverado 1500 Classic Extended Cab 2007", "Chevrolet", "Silverado 1500 Classic", "Extended Cab", 2007),
    ("Chrysler Town and Country Minivan 2012", "Chrysler", "Town and Country", "Minivan", 2012),
    ("Dodge Ram Pickup 3500 Crew Cab 2010", "Dodge", "Ram Pickup 3500", "Crew Cab", 2010),
    ("FIAT 500 Abarth 2012", "FIAT", "500 Abarth", None, 2012),
    ("Ford E-Series Wagon Van 2012", "Ford", "E-Series Wagon", "Van", 2012),
    ("Ford Ranger SuperCab 2011", "Ford", "Ranger", "SuperCab", 2011),
    ("Infiniti G Coupe IPL 2012", "Infiniti", "G Coupe IPL", None, 2012),
    ("Land Rover Range Rover SUV 2012", "Land Rover", "Range Rover", "SUV", 2012),
    ("Lincoln Town Car Sedan 2011", "Lincoln", "Town Car", "Sedan", 2011),
    ("MINI Cooper Roadster Convertible 2012", "MINI", "Cooper Roadster", "Convertible", 2012),
    ("McLaren MP4-12C Coupe 2012", "McLaren", "MP4-12C", "Coupe", 2012),
    ("Mercedes-Benz 300-Class Convertible 1993", "Mercedes-Benz", "300-Class", "Convertible", 1993),
    ("Nissan NV Passenger Van 2012", "Nissan", "NV", "Passenger Van", 2012),
    ("Ram C/V Cargo Van Minivan 2012", "Ram", "C/V Cargo Van", "Minivan", 2012),
    ("Rolls-Royce Phantom Drophead Coupe Convertible 2012", "Rolls-Royce", "Phantom Drophead Coupe", "Convertible",
     2012),
    ("smart fortwo Convertible 2012", "smart", "fortwo", "Convertible", 2012),
    # Not from Stanford Cars: missing parts, and words that only look like a part.
    ("Tesla", "Tesla", "", None, None),
    ("2012", "2012", "", None, None),
    ("Land Rover", "Land Rover", "", None, None),
    ("Land Roverish Thing 2012", "Land", "Roverish Thing", None, 2012),
    ("Peugeot 2008", "Peugeot", "", None, 2008),
    ("Peugeot 2008 2019", "Peugeot", "2008", None, 2019),
    ("Mazda MX-5 1.5", "Mazda", "MX-5 1.5", None, None),
    ("Tesla Sedan", "Tesla", "", "Sedan", None),
    ("Citroën C4 Coupé 2012", "Citroën", "C4 Coupé", None, 2012),
    ("Kia Rio 20١٢", "Kia", "Rio 20١٢", None, None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "make", "model", "body_type", "year"), PARTS, ids=[part[0] for part in PARTS])
def test_a_name_round_trips_through_its_parts(
    name: str, make: str, model: str, body_type: str | None, year: int | None
) -> None:
    assert parse_name(name) == VehicleName(make, model, body_type, year)
    assert str(parse_name(name)) == name


def test_underscores_separate_words_in_names_without_spaces() -> None:
    assert parse_name("AM_General_Hummer_SUV_2000") == parse_name("AM General Hummer SUV 2000")
    assert parse_name("Kia Ceed_SW Wagon 2012").model == "Ceed_SW"
    assert (parse_name("_").make, parse_name("_Kia__Rio_").make) == ("_", "Kia")


def test_a_class_is_found_by_other_spellings_of_its_name_unless_ambiguous() -> None:
    mapping = ClassMapping(("Ram C/V 2012", "Ram C-V 2012", "Citro\u00ebn C4", "Audi A/B"))
    assert [mapping.find(name) for name in mapping.names] == [0, 1, 2, 3]
    assert mapping.find("Citroe\u0308n_C4") == 2
    assert mapping.find("Audi A-B") == 3
    assert mapping.find("Ram_C-V_2012") is None
    assert mapping.find("Audi") is None


@pytest.mark.shared
def test_all_196_names_of_stanford_cars_round_trip_through_their_parts(shared: Path) -> None:
    classes = ClassMapping.from_json(shared / "cars196" / "class_mapping.json")
    assert len(classes) == 196
    for label, name in enumerate(classes):
        vehicle = classes.vehicle(label)
        assert str(vehicle) == name
        assert vehicle.year is not None and 1990 < vehicle.year < 2013
        assert vehicle.model
    makes = {classes.vehicle(label).make for label in range(196)}
    assert {"AM General", "Aston Martin", "Land Rover", "smart"} <= makes
    assert len(makes) == 49


WORDS = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8)
CAR_WORDS = st.sampled_from(["Land", "Rover", "AM", "General", "Cargo", "Van", "Minivan", "Cab", "Crew", "SUV", "2012"])


@given(st.lists(WORDS | CAR_WORDS, min_size=1, max_size=7).map(" ".join))
def test_any_printable_name_round_trips_except_underscores_used_as_spaces(name: str) -> None:
    vehicle = parse_name(name)
    assert str(vehicle) == (name if " " in name else " ".join(name.replace("_", " ").split()) or name)
    assert vehicle.make


@given(st.lists(st.lists(WORDS, min_size=1, max_size=4).map(" ".join), min_size=1, max_size=12, unique=True))
def test_any_mapping_round_trips_through_json(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    path = tmp_path_factory.mktemp("mapping") / "class_mapping.json"
    classes = ClassMapping(tuple(names))
    path.write_text(classes.to_json(), "utf-8")
    assert ClassMapping.from_json(path) == classes


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not the JSON"),
        ('{"0": "A"', "not the JSON"),
        ("[" * 100_000, "not the JSON"),
        ('{"0": "A", "0": "B"}', "appears twice"),
        ('{"0": "A", "2": "B"}', 'must map "0" to "1"'),
        ('{"1": "A", "2": "B"}', 'must map "0" to "1"'),
        ('{"00": "A", "0": "B"}', 'must map "0" to "1"'),
        ('{"A": 0, "B": 1}', 'must map "0" to "1"'),
        ('{"' + "9" * 5000 + '": "A"}', 'must map "0" to "0"'),
        ('{"²": "A"}', 'must map "0" to "0"'),
        ("{}", "found 0"),
        ("[]", "found 0"),
        ('"A"', "must hold an object"),
        ("7", "must hold an object"),
        ('["A", "A"]', "'A' appears twice"),
        ('["A", 5]', "'5' is empty"),
        ('["A", ""]', "'' is empty"),
        ('["A", null]', "'None' is empty"),
        ('["A", " B"]', "spaces"),
        ('["A", "B  C"]', "spaces"),
        ('["A", "B\\u001b[2J"]', "not printable"),
        ('["A", "\\ud800"]', "not printable"),
        ('["A", "' + "B" * 201 + '"]', "too long"),
    ],
)
def test_an_invalid_mapping_is_a_one_line_error(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "class_mapping.json"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError) as caught:
        ClassMapping.from_json(path)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))


def test_a_mapping_may_be_a_list_and_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "class_mapping.json"
    path.write_text('["B", "A"]', "utf-8-sig")
    assert ClassMapping.from_json(path).names == ("B", "A")


def test_mapping_keys_are_ordered_numerically(tmp_path: Path) -> None:
    path = tmp_path / "class_mapping.json"
    path.write_text(json.dumps({str(i): f"Car {i}" for i in sorted(range(12), key=str)}))
    assert ClassMapping.from_json(path).names == tuple(f"Car {i}" for i in range(12))


def test_a_missing_mapping_and_a_folder_are_input_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(InputError, match="cannot read the class mapping"):
            ClassMapping.from_json(path)


@pytest.mark.parametrize(
    "names", [["AM General Hummer SUV 2000"], ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]]
)
def test_cars_meta_gives_the_class_names_in_order(tmp_path: Path, names: list[str]) -> None:
    cells = np.empty((1, len(names)), object)
    cells[0, :] = names
    scipy.io.savemat(tmp_path / "cars_meta.mat", {"class_names": cells})
    assert ClassMapping.from_cars_meta(tmp_path / "cars_meta.mat").names == tuple(names)


def test_a_mat_file_without_class_names_is_refused(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "cars_meta.mat", {"something": np.arange(3)})
    with pytest.raises(InputError, match="no variable class_names"):
        ClassMapping.from_cars_meta(tmp_path / "cars_meta.mat")


def test_an_invalid_mat_file_is_a_one_line_error(tmp_path: Path, rng: np.random.Generator) -> None:
    scipy.io.savemat(tmp_path / "good.mat", {"class_names": np.array(["A", "B"], object)})
    good = (tmp_path / "good.mat").read_bytes()
    path = tmp_path / "bad.mat"
    cases = [b"", b"junk", good[:60], good[:140], good[:-9], b"MATLAB 7.3 MAT-file" + bytes(200), rng.bytes(500)]
    for data in cases:
        path.write_bytes(data)
        with pytest.raises(InputError) as caught:
            read_mat(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="cannot read"):
        read_mat(tmp_path / "none.mat")


def test_folder_names_are_sorted_and_underscores_become_spaces_if_no_name_has_a_space() -> None:
    assert ClassMapping.from_folder_names(["B_SUV_2012", "A_Sedan"]).names == ("A Sedan", "B SUV 2012")
    assert ClassMapping.from_folder_names(["B_1 SUV", "A_1"]).names == ("A_1", "B_1 SUV")
    with pytest.raises(InputError, match="appears twice"):
        ClassMapping.from_folder_names(["A_B", "A__B"])
