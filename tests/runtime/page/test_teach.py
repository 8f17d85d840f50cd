"""Teaching on the page: judgments are saved and measured, and the model learns new classes."""

from __future__ import annotations

import html
import http.client
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.event_toys import MOMENT, visit
from tests.support.tiny_model import RED, tiny_model, with_metadata_entries
from twincar_edge.errors import InputError
from twincar_edge.files import sha256
from twincar_edge.held_out import HELD_OUT_KEY, HeldOut
from twincar_edge.images import write_image
from twincar_edge.runtime.configuration.config import CameraConfig, WatchConfig
from twincar_edge.runtime.configuration.page_settings import PageSettings
from twincar_edge.runtime.enroll import EnrollReport
from twincar_edge.runtime.events import Event
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.page import teach
from twincar_edge.runtime.page.content import Content, OwnClassifier
from twincar_edge.runtime.page.server import PageServer
from twincar_edge.runtime.page.tokens import Tokens
from twincar_edge.runtime.service import Service
from twincar_edge.runtime.sinks.settings import CropsSettings, StoreSettings
from twincar_edge.runtime.sinks.snapshots import CropSaver, crop_folder, crop_name
from twincar_edge.runtime.sinks.store import EventStore
from twincar_edge.runtime.teaching.corrections import Corrections
from twincar_edge.runtime.teaching.labeled import LabeledPictures
from twincar_edge.runtime.teaching.learning import Learner, LearningRun

YELLOW = "Rigel Yellow Sedan 2024"


@dataclass
class Box:
    """A served page over a store with visits, and a client of it."""

    state: Path
    url: str = ""
    model: OwnClassifier | None = None
    events: dict[str, Event] = field(default_factory=dict)

    def add(self, visits: Iterable[tuple[Event, NDArray[np.uint8]]]) -> None:
        """Store visits with their pictures."""
        pictures = self.state / "pictures"
        crops, store = CropSaver(crop_folder(pictures)), EventStore(self.state / "events.sqlite", crops=pictures)
        crops.open()
        for event, picture in visits:
            kept = event.model_copy(update={"crop": crop_name(event)})
            crops.write(kept, picture)
            store.write(kept, picture)
            self.events[event.id] = event
        store.close()

    def ask(self, path: str, form: list[tuple[str, str]] | None = None, token: str = "") -> tuple[int, str]:
        """Get a page, or send a form, and follow where it leads."""
        headers = {"Accept": "text/html"} | ({"Authorization": f"Bearer {token}"} if token else {})
        body = None if form is None else urlencode(form)
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        try:
            connection.request("GET" if body is None else "POST", path, body, headers)
            response = connection.getresponse()
            text = response.read().decode()
            to = response.headers.get("location")
        finally:
            connection.close()
        return (response.status, text) if to is None else self.ask(to, token=token)

    def judge(self, id: str, verdict: str, name: str = "", token: str = "", **changes: str) -> tuple[int, str]:
        fields = {"verdict": verdict, "name": name, "answered": self.events[id].name, "back": "visit"} | changes
        return self.ask(f"/visits/{id}/judgement", list(fields.items()), token)

    @property
    def labeled(self) -> list[str]:
        folders = (self.state / "labeled", self.state / "no-vehicle")
        return sorted(str(path.relative_to(self.state)) for folder in folders for path in folder.rglob("*.jpg"))


def plain(blue: int, green: int, red: int) -> NDArray[np.uint8]:
    return np.full((40, 60, 3), (blue, green, red), np.uint8)


def unknown(number: int) -> Event:
    none = dict.fromkeys(("make", "model", "body_type", "year"))
    return visit(
        id=f"u{number}", name="unknown", level="unknown", started_at=MOMENT + timedelta(seconds=number), **none
    )


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """Two named vehicles, one named by make only, and six yellow and one purple unknown vehicle."""
    found = Box(tmp_path / "state")
    make = visit(id="make", name="Castor", level="make", model=None, body_type=None, year=None)
    shown = [(visit(id="red"), plain(0, 0, 250)), (visit(id="red2"), plain(0, 0, 240)), (make, plain(0, 90, 200))]
    shown += [(unknown(number), plain(0, 200 + number, 200)) for number in range(6)]
    found.add([*shown, (unknown(6), plain(200, 0, 200))])
    source = tiny_model(tmp_path / "model.onnx", golden=True, familiar=True, reject_below=0.6)
    colors = np.array(((1, 0.1, 0), (0, 1, 0.2), (0.2, 0, 1)), np.float32)
    colors /= np.linalg.norm(colors, axis=1, keepdims=True)
    with_metadata_entries(source, source, {HELD_OUT_KEY: HeldOut(1000, 3, colors).to_json()})
    found.model = OwnClassifier(source)
    return found


@pytest.fixture
def served(box: Box) -> Iterator[Box]:
    assert box.model is not None
    content = Content(
        box.state / "events.sqlite", box.state, (box.state / "pictures",), box.model, use_model=box.model.use
    )
    with PageServer(content, PageSettings(address="127.0.0.1:0")) as server:
        box.url = server.url
        yield box


def judgments(box: Box, id: str) -> list[tuple[str, str, str | None]]:
    return [(one.user, one.kind, one.truth) for one in Corrections(box.state).history(id)]


def test_a_judgment_is_saved_with_its_user_and_keeps_the_visits_picture(served: Box) -> None:
    assert ">Right</button>" in served.ask("/visits/red")[1]
    status, text = served.judge("red", "right")
    assert status == 200
    assert f"right: {RED}" in text and "local" in text and "picture saved for training" in text
    assert served.labeled == [f"labeled/{RED}/red.jpg"]
    for picture in (served.state / "pictures").iterdir():
        picture.unlink()
    served.judge("red", "name", f"  {YELLOW[:6]}   {YELLOW[6:]} ")
    assert served.labeled == [f"labeled/{YELLOW}/red.jpg"]
    assert not (served.state / "labeled" / RED).exists()  # `train` refuses an empty folder
    text = served.ask("/visits/red")[1]
    assert "new class" in text and "2 entries in the history" in text
    served.judge("red", "none")
    assert served.labeled == ["no-vehicle/red.jpg"]
    _, text = served.judge("red", "undo")
    assert served.labeled == []
    assert "took it back" in text
    assert judgments(served, "red") == [
        ("local", "taken back", None),
        ("local", "no vehicle", None),
        ("local", "named", YELLOW),
        ("local", "named", RED),
    ]
    (first,) = Corrections(served.state).history("red")[-1:]
    assert (first.answered, first.level, first.whole, first.model_sha256) == (RED, "year", True, "0" * 64)


def test_an_incomplete_name_counts_but_does_not_become_a_class(served: Box) -> None:
    text = served.judge("make", "right")[1]
    assert "right: Castor" in text and "not a full class name" in text
    served.judge("red", "name", "Castor")
    assert served.labeled == []
    assert [one.truth for one in Corrections(served.state).newest().values()] == ["Castor", "Castor"]
    served.judge("make", "name", RED)
    assert served.labeled == [f"labeled/{RED}/make.jpg"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../../escaped", "folder"),
        ("Audi/A4", "folder"),
        (".hidden", "folder"),
        ("Audi\nA4", "not printable"),
        ("Audi\x00A4", "not printable"),
        ("A" * 201, "at most 200"),
        ("   ", "empty name"),
        ("Unknown", "not a name"),
    ],
)
def test_an_invalid_class_name_is_refused_in_one_line(served: Box, name: str, why: str) -> None:
    status, text = served.judge("red", "name", name)
    assert (status, why in html.unescape(text)) == (400, True)
    assert served.labeled == [] and judgments(served, "red") == []
    assert served.ask("/teach/name", [("visit", "u1"), ("name", name)])[0] == 400


def test_a_name_with_markup_is_escaped_on_every_page(served: Box) -> None:
    name = "<script>alert(1) & \"x\" <img src=x onerror='alert(2)'>"
    for id in ("u1", "u2"):
        status, text = served.judge(id, "name", name)
        assert status == 200
        assert name in html.unescape(text)
    assert served.labeled == [f"labeled/{name}/u1.jpg", f"labeled/{name}/u2.jpg"]
    assert served.ask("/teach/check", [])[0] == 200
    for path in ("/visits/u1", "/teach", "/teach/check"):
        text = served.ask(path)[1]
        assert "<script>alert" not in text and "<img src=x" not in text
        assert "&lt;script&gt;alert(1)" in text


def test_the_role_view_shows_judgments_but_cannot_change_anything(box: Box) -> None:
    tokens = Tokens(box.state)
    teach, view = tokens.add("anna", "teach"), tokens.add("tom", "view")
    assert box.model is not None
    content = Content(
        box.state / "events.sqlite", box.state, (box.state / "pictures",), box.model, use_model=box.model.use
    )
    with PageServer(content, PageSettings(address="127.0.0.1:0", tokens=True)) as server:
        box.url = server.url
        assert box.judge("red", "right", token=view)[0] == 403
        for path in ("/teach/name", "/teach/learn", "/teach/use", "/teach/check"):
            assert box.ask(path, [("visit", "red"), ("name", YELLOW)], token=view)[0] == 403
        assert not (box.state / "corrections.sqlite").exists()
        assert box.judge("red", "right", token=teach)[0] == 200
        for path in ("/visits/red", "/teach", "/teach/check"):
            status, text = box.ask(path, token=view)
            assert status == 200
            assert not set(re.findall(r'<form[^>]*method="post"[^>]*action="([^"]*)"', text)) - {
                "/logout",
                "/teach/name",
            }
            assert "They are" not in text
        assert f"<strong>anna</strong>: right: {RED}" in " ".join(box.ask("/visits/red", token=view)[1].split())
    assert judgments(box, "red") == [("anna", "named", RED)]


def test_an_answer_that_changed_since_it_was_shown_is_not_judged(served: Box) -> None:
    status, text = served.judge("red", "right", answered="Castor")
    assert status == 409 and RED in text
    assert served.judge("red", "guess")[0] == 400
    assert served.judge("u1", "right")[0] == 400  # "unknown" names nothing that could be right
    assert served.ask("/visits/none/judgement", [("verdict", "right"), ("answered", RED)])[0] == 404
    assert judgments(served, "red") == []


def test_similar_unknown_vehicles_form_a_group_and_are_named_together(served: Box) -> None:
    pytest.importorskip("sklearn.cluster")
    served.add((unknown(number), plain(200, 200 + number, 0)) for number in range(7, 11))
    text = served.ask("/teach")[1]
    first, second, rest = text.split('<form class="group"')[1:]
    assert "6 similar" in first and "4 similar" in second and "Not similar to others" in rest
    ids = re.findall(r'name="visit" value="(\w+)" checked', first)
    assert sorted(ids) == [f"u{number}" for number in range(6)]
    assert re.findall(r'name="visit" value="(\w+)"', rest) == ["u6"]
    chosen = [("visit", id) for id in ids if id != "u5"]
    assert served.ask("/teach/name", [*chosen, ("name", YELLOW)])[0] == 200
    assert served.labeled == [f"labeled/{YELLOW}/u{number}.jpg" for number in range(5)]
    text = served.ask("/teach")[1]
    assert 'value="u5"' in text and 'value="u4"' not in text
    assert served.ask("/teach/name", [("name", YELLOW)])[0] == 400  # nothing is selected


def test_without_scikit_learn_vehicles_can_be_named_without_groups(
    served: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    monkeypatch.delitem(__import__("sys").modules, "sklearn.cluster", raising=False)
    text = html.unescape(served.ask("/teach")[1])
    assert "cannot group similar cars: sklearn" in text and "twincar-edge[cluster]" in text
    assert text.count('name="visit"') == 7 and "Not grouped" in text


def reviewed(text: str) -> list[tuple[str, str]]:
    """Return the fields of the form with the button `Use it`."""
    return re.findall(r'<input type="hidden" name="(sha256)" value="(\w+)"', text)


def use(box: Box) -> str:
    return box.ask("/teach/use", reviewed(box.ask("/teach")[1]))[1]


def taught(box: Box) -> None:
    named = [("visit", f"u{number}") for number in range(4)]
    assert box.ask("/teach/name", [*named, ("name", YELLOW)])[0] == 200


def test_a_new_class_is_learned_and_checked_and_used_on_request(served: Box) -> None:
    assert served.model is not None
    base = served.model().session.model
    before = sha256(base)
    taught(served)
    served.judge("u6", "name", "Rigel Purple Sedan 2024")
    text = served.ask("/teach")[1]
    assert f'name="name" value="{YELLOW}" checked' in text and "With one picture: Rigel Purple Sedan 2024" in text
    status, text = served.ask("/teach/learn", [("name", YELLOW)])
    assert status == 200
    assert "4 of 4 pictures recognized from the other pictures" in text and "0 of 1000 held-out pictures" in text
    assert served.model()(plain(0, 204, 200)).name == "Castor"  # nothing changes before the request
    assert not (served.state / "models" / "learned.onnx").exists()
    status, text = served.ask("/teach/use", reviewed(text))
    learned = served.state / "models" / "learned.onnx"
    assert status == 200 and f"--model {learned}" in text
    assert served.model()(plain(0, 204, 200)).name == Classifier(learned)(plain(0, 204, 200)).name == YELLOW
    assert sha256(base) == before
    assert f'value="{YELLOW}" checked' not in text
    assert "no new model" in served.ask("/teach/use", [])[1]


def test_pictures_of_different_cars_are_refused_with_the_reason(served: Box) -> None:
    served.ask("/teach/name", [("visit", "u0"), ("visit", "u6"), ("visit", "make"), ("name", YELLOW)])
    text = html.unescape(served.ask("/teach/learn", [("name", YELLOW)])[1])
    assert "Nothing was learned" in text and f"pictures of '{YELLOW}' are recognized by the others" in text
    assert ">Use it<" not in text
    assert list((served.state / "models").glob("*.onnx")) == []
    assert served.ask("/teach/learn", [("name", "Unlabeled Car 2020")])[0] == 400


def test_randomly_drawn_visits_are_counted_separately_from_those_that_users_chose(served: Box) -> None:
    status, text = served.ask("/teach/check", [])
    assert status == 200
    assert len(set(re.findall(r'href="/visits/(\w+)"', text))) == 10
    served.judge("red", "right", back="check")
    drawn = Corrections(served.state).drawn()
    assert sorted(drawn) == sorted(served.events)
    text = served.ask("/teach/check")[1]
    assert 'href="/visits/red"' not in text and 'href="/visits/red2"' in text
    served.judge("red2", "name", "Pollux Blue SUV 2021", back="check")
    served.judge("u0", "unclear", back="check")
    text = " ".join(re.sub("<[^>]*>", " ", served.ask("/teach")[1]).split())
    assert "Visits drawn at random model 000000000000 Right full name 50% (9% to 91%) 1 of 2" in text
    assert "Wrong, of those named 50% (9% to 91%) 1 of 2" in text and "1 unclear" in text
    assert "7 drawn visits are not judged yet" in text
    assert "not representative" not in text


def test_a_running_loop_switches_to_the_new_model(box: Box, tmp_path: Path) -> None:
    (tmp_path / "arriving").mkdir()
    write_image(tmp_path / "arriving" / "1.png", plain(0, 0, 250))
    model = tmp_path / "model.onnx"
    config = WatchConfig(
        cameras=(CameraConfig(source=str(tmp_path / "arriving"), locate="whole"),),
        model=model,
        ep="cpu",
        threads=1,
        state=box.state,
        sinks=(StoreSettings(), CropsSettings(path=box.state / "pictures")),
        page=PageSettings(address="127.0.0.1:0"),
    )
    with Service(config) as service:
        assert service.page is not None
        box.url = service.page.url
        taught(box)
        box.ask("/teach/learn", [("name", YELLOW)])
        assert service.status().model.sha256 == sha256(model)
        assert "The cameras have switched" in use(box)
        learned = box.state / "models" / "learned.onnx"
        assert service.status().model.sha256 == sha256(learned) != sha256(model)

        box.ask("/teach/name", [("visit", "u4"), ("visit", "u5"), ("name", "Rigel Amber Sedan 2024")])
        box.ask("/teach/learn", [("name", "Rigel Amber Sedan 2024")])
        used = learned.read_bytes()
        (learned.with_name("candidate.onnx")).write_bytes(b"damaged meanwhile")
        text = use(box)
        assert 'role="alert"' in text and "candidate.onnx" in text
        assert learned.read_bytes() == used  # still the model in use
        assert service.status().model.sha256 == sha256(learned)


def test_the_page_names_the_learned_model_only_while_it_is_in_use(served: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(teach, "sha256", lambda path: read.append(path) or sha256(path))
    taught(served)
    served.ask("/teach/learn", [("name", YELLOW)])
    assert "This page uses the new model" in use(served)
    assert "This page uses the new model" in served.ask("/teach")[1]
    learned = served.state / "models" / "learned.onnx"
    assert read == [learned]  # not at each view
    learned.write_bytes(b"damaged meanwhile")
    status, text = served.ask("/teach")
    assert status == 200 and "This page uses the new model" not in text


def test_a_model_that_another_user_learned_since_the_review_is_not_used(served: Box) -> None:
    assert served.model is not None
    before = served.model().session.sha256
    taught(served)
    fields = reviewed(served.ask("/teach/learn", [("name", YELLOW)])[1])
    served.ask("/teach/name", [("visit", "u4"), ("visit", "u5"), ("name", "Rigel Amber Sedan 2024")])
    served.ask("/teach/learn", [("name", "Rigel Amber Sedan 2024")])
    status, text = served.ask("/teach/use", fields)
    assert status == 409 and "review it first" in text
    assert served.model().session.sha256 == before
    assert not (served.state / "models" / "learned.onnx").exists()


def test_a_model_that_the_box_refuses_never_becomes_the_active_file(tmp_path: Path) -> None:
    def refuse(path: Path) -> None:
        assert not learner.model.exists() and path != learner.model
        raise InputError("not signed")

    def switch(_: Path) -> None:
        raise AssertionError("a refused model was used")

    learner = Learner(tmp_path)
    learner.model.parent.mkdir()
    candidate = tiny_model(learner.model.with_name("candidate.onnx"))
    report = EnrollReport(output=candidate, classes=(), removed=(), enrolled=(), held_out=None, held_out_changed=None)
    learner.last_run = LearningRun((YELLOW,), "anna", report, sha256(candidate))
    with pytest.raises(InputError, match="not signed"):
        learner.use(sha256(candidate), switch, refuse)
    assert candidate.exists() and not learner.model.exists()


def test_the_active_model_remains_if_the_new_one_cannot_be_moved(served: Box) -> None:
    taught(served)
    served.ask("/teach/learn", [("name", YELLOW)])
    use(served)
    models = served.state / "models"
    used = (models / "learned.onnx").read_bytes()
    served.ask("/teach/name", [("visit", "u4"), ("visit", "u5"), ("name", "Rigel Amber Sedan 2024")])
    served.ask("/teach/learn", [("name", "Rigel Amber Sedan 2024")])
    (models / "candidate.onnx").unlink()
    text = use(served)
    assert 'role="alert"' in text and "learned.onnx: No such file" in text
    assert (models / "learned.onnx").read_bytes() == used


def test_a_folder_with_the_former_name_is_renamed(tmp_path: Path) -> None:
    (tmp_path / "labelled" / "Rigel").mkdir(parents=True)
    (tmp_path / "labelled" / "Rigel" / "a.jpg").write_bytes(b"kept")

    LabeledPictures(tmp_path)

    assert (tmp_path / "labeled" / "Rigel" / "a.jpg").read_bytes() == b"kept"
    assert not (tmp_path / "labelled").exists()


def test_a_folder_with_the_former_name_beside_the_new_one_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("labelled", "labeled"):
        (tmp_path / name / "Rigel").mkdir(parents=True)

    LabeledPictures(tmp_path)

    assert (tmp_path / "labelled" / "Rigel").is_dir()
    (line,) = caplog.messages
    assert f"{tmp_path / 'labelled'}: move them into {tmp_path / 'labeled'}" in line
