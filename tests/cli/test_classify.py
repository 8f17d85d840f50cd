from __future__ import annotations

import csv
import fcntl
import json
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.support.clips import BLUE_BGR, GREEN_BGR, RED_BGR
from tests.support.detector_toys import TRUCK, expected_box, fake_official_detector, picture, red_detector
from tests.support.tiny_model import BLUE, GREEN, RED, tiny_model
from twincar_edge.cli.classify import _print_table, command
from twincar_edge.draw import PALETTE
from twincar_edge.errors import InputError, ModelError
from twincar_edge.runtime.classify import classify
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.inference.session import open_session


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three cars, and between them a file that is not an image."""
    for number, color in enumerate((RED_BGR, GREEN_BGR, BLUE_BGR)):
        cv2.imwrite(str(tmp_path / f"car_{number}.png"), np.full((40, 60, 3), color, np.uint8))
    (tmp_path / "car_1b.png").write_bytes(b"no image")
    return tmp_path


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)


def test_each_image_is_one_line_of_json_and_a_corrupt_one_is_reported_and_skipped(model: Path, folder: Path) -> None:
    result = invoke(folder, "--model", model)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(Path(line["image"]).name, line["name"]) for line in lines] == [
        ("car_0.png", RED),
        ("car_1.png", GREEN),
        ("car_2.png", BLUE),
    ]
    assert lines[0] == {
        "image": str(folder / "car_0.png"),
        "name": RED,
        "level": "year",
        "probability": pytest.approx(1.0, abs=1e-3),
        "familiarity": None,
        "make": "Castor",
        "model": "Red",
        "body_type": "Sedan",
        "year": 2020,
        "top5": [{"name": RED, "probability": lines[0]["probability"]}],
    }
    assert result.stderr.splitlines() == [
        f"skipped: {folder / 'car_1b.png'} is not a JPEG, PNG, BMP, WebP or TIFF image"
    ]
    assert result.exit_code == 0


@pytest.mark.parametrize("batch", [1, 2, 16])
def test_answers_keep_the_order_of_the_images_at_any_batch_size(model: Path, folder: Path, batch: int) -> None:
    classifier = Classifier(open_session(model, ep="cpu", threads=1))
    answers = classify([folder / "car_2.png", folder / "*_1*.png", folder], classifier, batch=batch)
    assert [(answer.image.name, answer.prediction and answer.prediction.name) for answer in answers] == [
        ("car_2.png", BLUE),
        ("car_1.png", GREEN),
        ("car_1b.png", None),
        ("car_0.png", RED),
    ]
    assert [answer.problem is None for answer in answers] == [True, True, False, True]


def test_top_shows_further_guesses(model: Path, folder: Path) -> None:
    (line,) = invoke(folder / "car_0.png", "--model", model, "--top", 3, "--threads", 1).stdout.splitlines()
    top = json.loads(line)["top5"]
    assert top[0]["name"] == RED
    assert {guess["name"] for guess in top} == {RED, GREEN, BLUE}
    assert sum(guess["probability"] for guess in top) == pytest.approx(1, abs=1e-5)


def test_a_terminal_gets_a_table(model: Path, folder: Path) -> None:
    window, ours = pty.openpty()  # a real terminal, 120 columns wide
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    arguments = ["classify", "car_0.png", "car_2.png", "--top", "2", "--model", str(model)]
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "twincar_edge", *arguments], stdout=ours, cwd=folder, env={**environment, "TERM": "dumb"}
    )
    assert process.wait(timeout=60) == 0
    os.close(ours)
    _, headings, _, *rows = os.read(window, 10_000).decode().splitlines()
    os.close(window)
    assert headings.split() == ["Image", "Vehicle", "Probability"]
    assert rows[0].split()[0] == "car_0.png" and RED in rows[0] and "%" in rows[0]
    assert rows[1].split()[0] == "2." and "%" in rows[1]  # the second guess has its own line
    assert rows[2].split()[0] == "car_2.png" and BLUE in rows[2]


def test_the_table_shows_the_rejected_guess_of_an_unknown_car(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    cv2.imwrite(str(tmp_path / "gray.png"), np.full((40, 60, 3), 128, np.uint8))
    session = open_session(tiny_model(tmp_path / "tiny.onnx", reject_below=0.9), ep="cpu", threads=1)
    _print_table(classify([tmp_path / "gray.png"], Classifier(session)), 2)
    _, _, _, answer, guess, second, _ = capsys.readouterr().out.splitlines()
    assert answer.split()[1:] == ["unknown"]
    assert guess.strip().startswith("rejected guess: ") and guess.strip().endswith("33.3%")
    assert second.strip().startswith("2. ")


def test_only_a_run_without_usable_images_is_an_error(model: Path, folder: Path) -> None:
    (folder / "empty.png").touch()
    with pytest.raises(InputError, match=r"missing\.png.*2 more images are unusable too") as caught:
        invoke(folder / "car_1b.png", folder / "empty.png", folder / "missing.png", "--model", model)
    assert caught.value.exit_code == 2


def test_a_missing_image_is_reported_once(folder: Path) -> None:
    arguments = [sys.executable, "-m", "twincar_edge", "classify"]
    only = subprocess.run([*arguments, "missing.png"], capture_output=True, text=True, cwd=folder, check=False)
    assert (only.returncode, only.stderr) == (2, "error: cannot read missing.png: No such file or directory\n")
    all_three = subprocess.run(
        [*arguments, "lost.png", "car_1b.png", "missing.png"], capture_output=True, text=True, cwd=folder, check=False
    )
    assert all_three.stderr.splitlines() == [
        "skipped: cannot read lost.png: No such file or directory",
        "skipped: car_1b.png is not a JPEG, PNG, BMP, WebP or TIFF image",
        "error: cannot read missing.png: No such file or directory (2 more images are unusable too)",
    ]


@pytest.mark.parametrize(
    ("path", "message"), [("nowhere/*.png", "no image matches"), ("bare", "holds no images"), ("a.txt", "cannot read")]
)
def test_paths_without_images_are_one_clear_error(model: Path, tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match=message):
        invoke(tmp_path / path, "--model", model)


def test_a_pipe_is_skipped_and_a_name_that_is_not_utf_8_is_escaped(model: Path, folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    (folder / "car_0.png").rename(folder / "caf\udce9.png")
    result = invoke(folder / "pipe.png", folder / "caf\udce9.png", "/dev/zero", "--model", model)
    assert [json.loads(line)["image"] for line in result.stdout.splitlines()] == [f"{folder}/caf\\udce9.png"]
    assert result.stderr.count("not a file") == 2


def test_a_foreign_model_or_another_file_is_one_clear_error(folder: Path) -> None:
    foreign = tiny_model(folder / "foreign.onnx", metadata=False)
    for model, message in ((foreign, "not exported by twincar-edge"), (folder / "car_0.png", "not an ONNX model")):
        with pytest.raises(ModelError, match=message) as caught:
            invoke(folder, "--model", model)
        assert caught.value.exit_code == 2


def test_an_answer_below_the_threshold_is_unknown(folder: Path) -> None:
    doubtful = tiny_model(folder / "strict.onnx", reject_below=0.9)
    cv2.imwrite(str(folder / "gray.png"), np.full((40, 60, 3), 128, np.uint8))
    (line,) = invoke(folder / "gray.png", "--model", doubtful).stdout.splitlines()
    answer = json.loads(line)
    assert (answer["name"], answer["level"], answer["make"], answer["year"]) == ("unknown", "unknown", None, None)
    assert answer["probability"] == pytest.approx(1 / 3, abs=1e-3)
    assert len(answer["top5"]) == 1


def test_an_answer_certain_only_of_the_make_gives_the_make(folder: Path) -> None:
    doubtful = tiny_model(folder / "strict.onnx", reject_below=0.9)
    cv2.imwrite(str(folder / "yellow.png"), np.full((40, 60, 3), (0, 200, 200), np.uint8))
    (line,) = invoke(folder / "yellow.png", "--model", doubtful, "--top", 2).stdout.splitlines()
    answer = json.loads(line)
    assert {key: answer[key] for key in ("name", "level", "make", "model", "body_type", "year")} == {
        "name": "Castor", "level": "make", "make": "Castor", "model": None, "body_type": None, "year": None
    }  # fmt: skip
    assert answer["probability"] == pytest.approx(1.0, abs=1e-4)
    assert {guess["name"] for guess in answer["top5"]} == {RED, GREEN}


def test_recursive_names_the_cars_of_subfolders(model: Path, folder: Path) -> None:
    below = folder / "below"
    below.mkdir()
    for path in sorted(folder.glob("*.png")):
        path.rename(below / path.name)
    with pytest.raises(InputError, match="its subfolders do"):
        invoke(folder, "--model", model)
    result = invoke(folder, "--recursive", "--model", model)
    names = [json.loads(line)["name"] for line in result.stdout.splitlines()]
    assert names == [RED, GREEN, BLUE]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A photo of two vehicles, one cut off by the border, and a photo of an empty road."""
    folder = tmp_path / "photos"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), picture((0, 1), (5, 3)))
    cv2.imwrite(str(folder / "b.png"), picture())
    return folder


def test_detect_names_each_vehicle_of_a_photo_the_largest_first(model: Path, photos: Path, tmp_path: Path) -> None:
    detector = red_detector(tmp_path / "detector.onnx", right=((TRUCK, 0.9),))
    result = invoke(photos, "--model", model, "--detector", detector)
    assert (result.exit_code, result.stderr) == (0, f"{photos / 'b.png'}: no vehicle found\n")
    truck, car = (json.loads(line) for line in result.stdout.splitlines())
    assert (truck["box_xyxy"], car["box_xyxy"]) == (list(expected_box(5, 3)), list(expected_box(0, 1)))
    assert (truck["vehicle_type"], car["vehicle_type"]) == ("truck", "car")
    assert 0.3 < car["detection_score"] <= 1
    [whole] = Classifier(model)(photos / "a.png", boxes=[expected_box(0, 1)])
    assert car["name"] == whole.name != "unknown"
    assert truck["name"] == "unknown"  # no class of the model is a truck


def test_detect_without_a_detector_says_how_to_get_one(model: Path, photos: Path) -> None:
    with pytest.raises(InputError) as caught:
        invoke(photos, "--model", model, "--detect")
    assert str(caught.value).startswith(
        "no detector installed: download one with `twincar-edge detector pull`, or give"
    )


def test_detect_uses_the_detector_in_the_state_folder(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWINCAR_STATE", str(tmp_path / "state"))
    with fake_official_detector(tmp_path) as file:
        folder = tmp_path / "state" / "detectors"
        folder.mkdir(parents=True)
        shutil.copy(file, folder)
        result = invoke(photos / "a.png", "--model", model, "--detect")
    assert len(result.stdout.splitlines()) == 2


def test_annotate_writes_one_picture_per_readable_image(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    decode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: decoded.append(1) or decode(*arguments))
    result = invoke(folder, "--model", model, "--annotate", folder / "named")
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (0, f"wrote {folder / 'named'}")
    written = [Path(json.loads(line)["picture"]) for line in result.stdout.splitlines()]
    assert [path.name for path in written] == ["car_0.jpg", "car_1.jpg", "car_2.jpg"]
    assert sorted((folder / "named").iterdir()) == written
    assert len(decoded) == 3
    image = cv2.imread(str(written[0]))
    assert image is not None and image.shape == (440, 660, 3)  # enlarged, so that the label hides little
    assert np.abs(image[-100:] - np.array(RED_BGR)).max() < 10
    assert (np.abs(image[:60] - np.array(RED_BGR)) > 100).any()


def test_annotate_draws_the_box_of_each_vehicle_and_keeps_photos_without_one(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    detector = red_detector(tmp_path / "detector.onnx", right=((TRUCK, 0.9),))
    invoke(photos, "--model", model, "--detector", detector, "--annotate", tmp_path / "named")
    image, empty = (cv2.imread(str(tmp_path / "named" / name)) for name in ("a.jpg", "b.jpg"))
    assert image is not None and empty is not None
    for number, cell in enumerate([(5, 3), (0, 1)]):
        _, _, right, bottom = (5 * edge for edge in expected_box(*cell))  # 128 pixels become 640
        assert np.abs(image[bottom - 2, right - 40 : right - 20].astype(int) - PALETTE[number]).max() < 60
    assert np.abs(empty.astype(int) - 90).max() < 5


def test_pictures_of_images_with_the_same_name_get_numbers(model: Path, folder: Path) -> None:
    below = folder / "below"
    below.mkdir()
    shutil.copy(folder / "car_1.png", below / "car_0.png")
    images = [folder / "car_0.png", below / "car_0.png"]
    result = invoke(*images, "--model", model, "--annotate", folder / "named")
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(Path(one["picture"]).name, one["name"]) for one in answers] == [
        ("car_0-1.jpg", RED),
        ("car_0-2.jpg", GREEN),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{0} --annotate {0}", "{0} is searched for images to classify: choose another `annotate`"),
        ("{0}/car_?.png --annotate {0}", "{0} is searched for images to classify: choose another `annotate`"),
        ("{0} --recursive --annotate {0}/new", "{0}/new is searched for images to classify: choose another `annotate`"),
        (
            "{0}/photo.jpg --annotate {0}",
            "{0}/photo.jpg is an input, and would be overwritten: choose another `annotate`",
        ),
        ("{0} --annotate {0}/car_0.png", "cannot write into {0}/car_0.png: it exists, but is not a folder"),
    ],
)
def test_pictures_never_mix_with_the_images(model: Path, folder: Path, arguments: str, message: str) -> None:
    cv2.imwrite(str(folder / "photo.jpg"), np.zeros((40, 60, 3), np.uint8))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(InputError) as caught:
        invoke(*arguments.format(folder).split(), "--model", model)
    assert str(caught.value) == message.format(folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_picture_that_cannot_be_written_stops_neither_answers_nor_other_pictures(model: Path, folder: Path) -> None:
    named = folder / "named"
    (named / "car_0.jpg").mkdir(parents=True)
    result = CliRunner().invoke(command, [str(folder), "--model", str(model), "--annotate", str(named)])
    assert isinstance(result.exception, InputError)
    assert str(result.exception) == f"cannot write {named / 'car_0.jpg'}: it is a folder or a device, not a file"
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [one["name"] for one in answers] == [RED, GREEN, BLUE]
    assert [one["picture"] and Path(one["picture"]).name for one in answers] == [None, "car_1.jpg", "car_2.jpg"]
    assert (named / "car_2.jpg").is_file()


def test_csv_has_one_row_per_vehicle(model: Path, photos: Path, tmp_path: Path) -> None:
    detector = red_detector(tmp_path / "detector.onnx", right=((TRUCK, 0.9),))
    result = invoke(photos, "--model", model, "--detector", detector, "--csv", tmp_path / "new" / "cars.csv")
    assert result.stderr.splitlines()[-1] == f"wrote {tmp_path / 'new' / 'cars.csv'}"
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    with (tmp_path / "new" / "cars.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for row, line in zip(rows, lines, strict=True):
        assert [int(row[f"box_{edge}"]) for edge in ("left", "top", "right", "bottom")] == line["box_xyxy"]
        for key in ("image", "name", "level", "vehicle_type"):
            assert row[key] == line[key]
        assert float(row["probability"]) == line["probability"]


def test_csv_goes_to_standard_output_instead_of_json(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    invoke(photos, "--model", model, "--csv", "cars.csv")
    result = invoke(photos, "--model", model, "--csv", "-")
    assert result.stdout == (tmp_path / "cars.csv").read_text(encoding="utf-8")
    assert result.stderr == "" and not (tmp_path / "-").exists()
    with pytest.raises(InputError, match="--json has no effect with `--csv -`"):
        invoke(photos, "--model", model, "--csv", "-", "--json")


def test_csv_keeps_a_former_file_if_no_image_can_be_read(model: Path, folder: Path) -> None:
    table = folder / "cars.csv"
    table.write_text("former\n")
    with pytest.raises(InputError, match="not a JPEG"):
        invoke(folder / "car_1b.png", "--model", model, "--csv", table)
    assert table.read_text() == "former\n"
