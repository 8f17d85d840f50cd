"""Explanations of visits and of uploaded pictures: the page shows what the model answers."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.event_toys import visit
from tests.support.memory import traced_memory
from tests.support.pages import Answer, ServedPage, served
from twincar_edge.bundled import demo_model
from twincar_edge.images import decode_image, write_image
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.page import answers
from twincar_edge.runtime.page.content import Content
from twincar_edge.synthetic import draw_twin_car

TWIN, OTHER_TWIN = "Castor Vela Sedan 2019", "Castor Vela Sedan 2022"
BOUNDARY = "----picture"


@pytest.fixture(scope="module")
def car() -> NDArray[np.uint8]:
    return draw_twin_car(0, np.random.default_rng(5)).image_bgr


@pytest.fixture
def page(tmp_path: Path, car: NDArray[np.uint8]) -> Iterator[ServedPage]:
    events = [visit(id="drawn", crop="drawn.png"), visit(id="bare"), visit(id="gone", crop="gone.png")]
    with served(tmp_path, events, model=demo_model()) as page:
        write_image(tmp_path / "pictures" / "drawn.png", car)
        (tmp_path / "pictures" / "gone.png").unlink()
        yield page


def send(page: ServedPage, picture: bytes, name: str = "car.png") -> Answer:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="picture"; filename="{name}"\r\n\r\n'
    body = head.encode() + picture + f"\r\n--{BOUNDARY}--\r\n".encode()
    return page.ask("POST", "/try", body, Accept="text/html", Content_Type=f"multipart/form-data; boundary={BOUNDARY}")


def png(image_bgr: NDArray[np.uint8]) -> bytes:
    return bytes(cv2.imencode(".png", image_bgr)[1])


def pictures_of(page: ServedPage, text: str) -> dict[str, NDArray[np.uint8]]:
    paths = re.findall(r'src="(/answers/[^"]+)"', text)
    return {path.rpartition("/")[2]: decode_image(page.get(path).body, path) for path in paths}


def test_a_visit_is_explained_by_its_pictures_answer(page: ServedPage, car: NDArray[np.uint8]) -> None:
    assert "/visits/drawn/explain" in page.get("/visits/drawn").text
    answer = page.get("/visits/drawn/explain")
    assert answer.status == 200
    expected = Classifier(demo_model())(car)
    assert f"Why {expected.name}?" in answer.text
    shown = pictures_of(page, answer.text)
    assert set(shown) == {"picture", "evidence", "contrast"}
    assert shown["picture"].shape == car.shape
    assert not np.array_equal(shown["evidence"], shown["contrast"])
    assert "Another model file answered this visit" in answer.text  # the visit names a model of zeros


def test_an_answer_is_compared_with_the_requested_class(page: ServedPage) -> None:
    query = urlencode({"against": OTHER_TWIN})
    assert f"support <strong>{OTHER_TWIN}</strong>" in page.get(f"/visits/drawn/explain?{query}").text
    unknown = page.get(f"/visits/drawn/explain?{urlencode({'against': 'Castor <b>Vela'})}")
    assert unknown.status == 400
    assert "the model has no class &#39;Castor &lt;b&gt;Vela&#39;" in unknown.text


@pytest.mark.parametrize("id", ["bare", "gone"])
def test_a_visit_without_a_picture_cannot_be_explained(page: ServedPage, id: str) -> None:
    assert f"/visits/{id}/explain" not in page.get(f"/visits/{id}").text
    answer = page.get(f"/visits/{id}/explain")
    assert answer.status == 404
    assert "there is nothing to explain" in answer.text


def test_an_uploaded_picture_is_classified_explained_and_not_stored(
    page: ServedPage, car: NDArray[np.uint8], tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    answer = send(page, png(car))
    assert answer.status == 200
    assert Classifier(demo_model())(car).name in answer.text
    assert set(pictures_of(page, answer.text)) == {"picture", "evidence", "contrast"}
    assert sorted(tmp_path.rglob("*")) == before


def test_an_upload_that_is_not_a_picture_is_a_one_line_error(page: ServedPage) -> None:
    answer = send(page, b"<script>alert(1)</script>", name="<img>.png")
    assert answer.status == 400
    assert "&lt;img&gt;.png is not a JPEG, PNG, BMP, WebP or TIFF image" in answer.text
    assert "<script>alert" not in answer.text


def test_a_picture_with_too_many_pixels_is_not_decoded(page: ServedPage) -> None:
    answer = send(page, png(np.zeros((6400, 6400, 3), np.uint8)))
    assert answer.status == 400
    assert "is 6400x6400, more than 40 megapixels" in answer.text


def test_unknown_explanations_are_not_found(page: ServedPage) -> None:
    assert page.get("/answers/unknown/picture").status == 404


def test_pictures_wait_undecoded_for_their_turn_and_too_many_are_refused(
    tmp_path: Path, car: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoding, most, refused = [0], [0], threading.Event()

    def decode(*_: object, **__: object) -> NDArray[np.uint8]:
        decoding[0] += 1
        most[0] = max(most[0], decoding[0])
        assert refused.wait(60)
        decoding[0] -= 1
        return car

    def upload(_: int) -> Answer:
        answer = send(page, png(car))
        if answer.status == 503:
            refused.set()
        return answer

    monkeypatch.setattr(answers, "decode_image", decode)
    monkeypatch.setattr(answers, "_BUSY_S", 60.0)
    monkeypatch.setattr(answers, "_PLACES", 2)
    with served(tmp_path, model=demo_model()) as page, ThreadPoolExecutor(3) as pool:
        found = sorted(pool.map(upload, range(3)), key=lambda answer: answer.status)
    assert [answer.status for answer in found] == [200, 200, 503]
    assert found[-1].headers["Retry-After"] == "60"
    assert "busy with other explanations" in found[-1].text
    assert most == [1]


def test_a_large_picture_is_explained_with_one_map_of_its_size_in_memory(
    tmp_path: Path, car: NDArray[np.uint8]
) -> None:
    model = Classifier(demo_model(), threads=1)
    explainer = answers.Answers(Content(tmp_path / "store", tmp_path, (), lambda: model))
    explainer.answer(lambda: car)  # loads what is needed once
    large = cv2.resize(car, (4000, 3000))
    with traced_memory() as peak_bytes:
        explainer.answer(lambda: large.copy())  # type: ignore[arg-type,return-value]
    map_bytes = large.nbytes * 4 / 3
    assert peak_bytes() < large.nbytes + 2.5 * map_bytes  # one map, and overlays of 1280 pixels


def test_the_oldest_pictures_leave_the_cache_at_a_limit_in_bytes(
    page: ServedPage, car: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "_CACHED_BYTES", 1)
    first, second = (re.findall(r'src="(/answers/[^"]+)"', send(page, png(car)).text) for _ in range(2))
    assert [page.get(path).status for path in first] == [404] * 3
    assert [page.get(path).status for path in second] == [200] * 3
