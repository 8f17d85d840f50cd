"""The page in a real browser: use, accessibility, and no requests to other hosts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import pytest

from tests.runtime.monitoring.test_monitoring import STATUS
from tests.support.browsers import chromium, violations
from tests.support.event_toys import MOMENT, eventually, visit, visits
from tests.support.pages import ServedPage, repeating, served, write_store
from twincar_edge.bundled import demo_model
from twincar_edge.images import write_image
from twincar_edge.runtime.configuration.config import CameraConfig
from twincar_edge.runtime.loop.answering import LiveFrame
from twincar_edge.runtime.monitoring.health import HealthLimits
from twincar_edge.runtime.page.content import Running
from twincar_edge.runtime.page.pictures import LivePictures
from twincar_edge.runtime.page.tokens import OWNER, Tokens
from twincar_edge.runtime.sources import Frame
from twincar_edge.synthetic import draw_twin_car

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

EVIL = "<script>document.title = 'taken over'</script>"
PATHS = (
    "/",
    "/visits",
    "/visits?name=nothing&make=Castor",
    "/visits/seen",
    "/visits/unknown",
    "/charts",
    "/teach",
    "/try",
    "/nowhere",
)
NARROW = 360
GRAYS = (60, 180)  # of the frames before and after a restart


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedPage]:
    """A page with a named, an unknown and a hostile visit, and some more."""
    many = [visit(id=f"{n}", started_at=MOMENT - timedelta(hours=n), camera="yard") for n in range(1, 60)]
    unknown = visit(id="unknown", level="unknown", name="unknown", make=None, model=None, familiarity=0.4)
    evil = visit(id="evil", name=EVIL, make=EVIL, camera=EVIL, crop="evil.jpg", started_at=MOMENT - timedelta(days=9))
    events = [visit(id="seen", crop="seen.jpg", name="Pollux Blue SUV 2021", make="Pollux"), unknown, *many, evil]
    with served(tmp_path_factory.mktemp("page"), events) as page:
        yield page


@pytest.fixture
def context(browser: Browser, page: ServedPage) -> Iterator[BrowserContext]:
    with browser.new_context(base_url=page.server.url, viewport={"width": NARROW, "height": 740}) as context:
        context.set_default_timeout(10_000)
        yield context


@dataclass
class Seen:
    """Observations of one page in one theme."""

    violations: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    widths: dict[int, int] = field(default_factory=dict)


@pytest.fixture(scope="module")
def seen(browser: Browser, page: ServedPage) -> dict[tuple[str, str], Seen]:
    """Visit each page once in each theme."""
    found = {}
    for theme in ("light", "dark"):
        with browser.new_context(base_url=page.server.url, color_scheme=theme) as context:  # type: ignore[arg-type]
            for path in PATHS:
                one = found[path, theme] = Seen()
                tab = context.new_page()
                tab.on("console", lambda line, one=one: one.console.append(line.text))
                tab.on("pageerror", lambda error, one=one: one.console.append(str(error)))
                tab.on("request", lambda request, one=one: one.requests.append(request.url))
                tab.goto(path, wait_until="load")
                for width in (1280, NARROW):
                    tab.set_viewport_size({"width": width, "height": 740})
                    one.widths[width] = tab.evaluate("document.documentElement.scrollWidth")
                    if width == (1280 if theme == "light" else NARROW):
                        one.violations += violations(tab)
                tab.close()
    return found


def test_axe_finds_no_violations_on_desktops_and_phones(
    seen: dict[tuple[str, str], Seen],
) -> None:
    assert {key: one.violations for key, one in seen.items() if one.violations} == {}


def test_no_page_scrolls_horizontally(seen: dict[tuple[str, str], Seen]) -> None:
    wide = {key: one.widths for key, one in seen.items() if any(one.widths[width] > width for width in one.widths)}
    assert wide == {}


def test_the_console_stays_empty(seen: dict[tuple[str, str], Seen]) -> None:
    assert {key: one.console for key, one in seen.items() if one.console and key[0] != "/nowhere"} == {}


def test_no_request_leaves_the_machine(seen: dict[tuple[str, str], Seen], page: ServedPage) -> None:
    asked = {urlsplit(url).netloc for one in seen.values() for url in one.requests if not url.startswith("blob:")}
    assert asked == {f"127.0.0.1:{page.port}"}


def test_visits_are_filtered_by_keyboard(context: BrowserContext) -> None:
    tab = context.new_page()
    tab.goto("/visits")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the content"
    tab.keyboard.press("Enter")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.name") == "name"
    tab.keyboard.type("pollux suv")
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/visits?name=pollux+suv*")
    assert tab.locator(".card h3").all_text_contents() == ["Pollux Blue SUV 2021"]


def test_choices_make_an_address_that_others_can_open(context: BrowserContext) -> None:
    tab = context.new_page()
    tab.goto("/visits")
    tab.get_by_text("More filters").click()
    tab.get_by_label("Camera").select_option("gate")
    tab.get_by_label("Answer").select_option("unknown")
    tab.get_by_role("button", name="Show").click()
    tab.wait_for_url("**level=unknown*")
    other = context.new_page()
    other.goto(tab.url)
    assert other.locator(".card h3").all_text_contents() == ["Unknown vehicle"]
    assert other.get_by_label("Answer").input_value() == "unknown"


def test_scripts_in_names_are_escaped(context: BrowserContext) -> None:
    tab = context.new_page()
    for path in ("/visits/evil", f"/visits?make={EVIL}", "/charts"):
        tab.goto(path)
        assert EVIL in tab.locator("main").text_content()
        assert "taken over" not in tab.title().removeprefix(EVIL)


def test_all_pages_can_be_read_without_javascript(browser: Browser, page: ServedPage) -> None:
    with browser.new_context(base_url=page.server.url, java_script_enabled=False) as context:
        tab = context.new_page()
        tab.goto("/visits")
        tab.get_by_role("link", name="Older visits").click()
        assert tab.locator(".card").count() == 62 - 48
        tab.get_by_role("link", name="Charts").click()
        tab.get_by_text("As a table").first.click()
        assert tab.get_by_role("row", name="Castor").is_visible()
        tab.goto("/visits/seen")
        assert tab.get_by_role("heading", name="Pollux Blue SUV 2021").is_visible()
        assert tab.get_by_alt_text("The vehicle at its best moment").is_visible()


def test_a_visit_appears_within_a_second_of_its_end(browser: Browser, tmp_path: Path) -> None:
    with served(tmp_path) as page, browser.new_context(base_url=page.server.url) as context:
        tab = context.new_page()
        tab.goto("/")
        assert "No vehicle has passed yet" in tab.locator("main").text_content()
        took_s = []
        for event in visits(3):
            write_store(tmp_path, [event.model_copy(update={"crop": f"{event.id}.jpg"})])
            ended_s = time.monotonic()
            tab.locator(f'[data-visit="{event.id}"] img').wait_for()
            took_s.append(time.monotonic() - ended_s)
        assert min(took_s) < 1
        assert tab.locator(".card h3").count() == 3
        assert "No vehicle has passed yet" not in tab.locator("main").text_content()


def test_an_uploaded_picture_is_classified_and_explained(browser: Browser, tmp_path: Path) -> None:
    write_image(tmp_path / "car.png", draw_twin_car(0, np.random.default_rng(5)).image_bgr)
    with (
        served(tmp_path / "state", [visit(id="seen", crop="seen.png")], model=demo_model()) as page,
        browser.new_context(base_url=page.server.url) as context,
    ):
        write_image(tmp_path / "state" / "pictures" / "seen.png", draw_twin_car(2, np.random.default_rng(5)).image_bgr)
        tab = context.new_page()
        tab.goto("/try")
        tab.get_by_label("A picture of one car").set_input_files(tmp_path / "car.png")
        tab.get_by_role("button", name="Name the car").click()
        tab.get_by_role("heading", name="Castor Vela Sedan 2019").wait_for()
        shown = tab.get_by_alt_text("The picture under")
        assert shown.count() == 2
        assert all(one.evaluate("image => image.naturalWidth") > 0 for one in shown.all())
        assert violations(tab) == []
        tab.goto("/visits/seen")
        tab.get_by_role("link", name="Why this answer?").click()
        tab.get_by_role("heading", name="Why ").wait_for()
        assert tab.get_by_alt_text("The picture under a heat map").evaluate("image => image.naturalWidth") > 0
        assert violations(tab) == []


def test_a_correction_saves_the_picture(browser: Browser, tmp_path: Path) -> None:
    with (
        served(tmp_path, [visit(id="seen", crop="seen.jpg")]) as page,
        browser.new_context(base_url=page.server.url) as context,
    ):
        tab = context.new_page()
        tab.goto("/visits/seen")
        tab.get_by_label("It is").fill("Rigel Yellow Sedan 2024")
        tab.get_by_role("button", name="Save").click()
        tab.get_by_text("Rigel Yellow Sedan 2024").first.wait_for()
        assert (tmp_path / "labeled" / "Rigel Yellow Sedan 2024" / "seen.jpg").is_file()


def test_the_cameras_cards_are_accessible(browser: Browser, tmp_path: Path) -> None:
    cameras = [CameraConfig(name=camera.name) for camera in STATUS.cameras]
    with (
        LivePictures(cameras) as pictures,
        served(tmp_path, running=Running(lambda: STATUS, HealthLimits(), pictures)) as page,
        browser.new_context(base_url=page.server.url, viewport={"width": NARROW, "height": 740}) as context,
    ):
        tab = context.new_page()
        for theme in ("light", "dark"):
            tab.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
            tab.goto("/", wait_until="domcontentloaded")  # live pictures keep loading
            assert tab.get_by_text("stalled for 10 s").is_visible()
            assert violations(tab) == []
        assert tab.evaluate("document.documentElement.scrollWidth") == NARROW


def filming(pictures: LivePictures, camera: str, gray: int) -> AbstractContextManager[None]:
    """Simulate a loop whose frames have one gray."""
    frame = Frame(0, 0.0, np.full((90, 160, 3), gray, np.uint8), camera)
    return repeating(lambda: pictures(LiveFrame(camera, frame, ())), every_s=0.02)


# The middle of the live picture, once it is a stream.
SHOWN_GRAY = """() => {
  const picture = document.querySelector("img.live[data-shows=stream]");
  if (!picture?.naturalWidth) return null;
  const canvas = new OffscreenCanvas(1, 1).getContext("2d");
  canvas.drawImage(picture, 80, 45, 1, 1, 0, 0, 1, 1);
  return canvas.getImageData(0, 0, 1, 1).data[0];
}"""


def shown_gray(tab: Page) -> int | None:
    """Return which of two grays the live picture shows: JPEG changes them a little."""
    found = tab.evaluate(SHOWN_GRAY)
    return None if found is None else min(GRAYS, key=lambda gray: abs(gray - found))


def test_live_pictures_and_visits_resume_after_a_restart(browser: Browser, tmp_path: Path) -> None:
    camera = STATUS.cameras[0].name
    status = replace(STATUS, cameras=STATUS.cameras[:1])
    address = "127.0.0.1:0"
    with browser.new_context() as context:
        tab = context.new_page()
        for event, gray in zip(visits(2), GRAYS, strict=True):
            with (
                LivePictures([CameraConfig(name=camera)]) as pictures,
                served(tmp_path, address=address, running=Running(lambda: status, HealthLimits(), pictures)) as page,
                filming(pictures, camera, gray),
            ):
                if tab.url == "about:blank":
                    tab.goto(page.server.url, wait_until="domcontentloaded")
                eventually(lambda gray=gray: shown_gray(tab) == gray, "the live picture shows", 30)
                write_store(tmp_path, [event])
                tab.locator(f'[data-visit="{event.id}"]').wait_for(timeout=20_000)
                address = f"127.0.0.1:{page.port}"


def test_an_open_page_leads_to_the_log_in_form_when_its_token_is_removed(browser: Browser, tmp_path: Path) -> None:
    with served(tmp_path, tokens=True) as page, browser.new_context(base_url=page.server.url) as context:
        tab = context.new_page()
        tab.goto("/")
        tab.get_by_label("Token").fill(page.server.first_token or "")
        tab.get_by_role("button", name="Log in").click()
        tab.get_by_role("heading", name="Now").wait_for()
        Tokens(tmp_path).remove(OWNER)
        tab.get_by_label("Token").wait_for(timeout=20_000)


def test_log_in_and_log_out(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> None:
    with (
        served(tmp_path_factory.mktemp("guarded"), [visit(id="seen")], tokens=True) as page,
        browser.new_context(base_url=page.server.url) as context,
    ):
        tab = context.new_page()
        tab.goto("/visits/seen")
        assert violations(tab) == []
        tab.keyboard.type(page.server.first_token or "")  # the field has the focus
        tab.keyboard.press("Enter")
        tab.get_by_role("heading", name="Castor Red Sedan 2020").wait_for()
        assert tab.evaluate("document.cookie") == ""
        tab.get_by_role("button", name="Log out").click()
        tab.get_by_label("Token").wait_for()
        tab.goto("/visits/seen")
        assert urlsplit(tab.url).path == "/login"
