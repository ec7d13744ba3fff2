"""What the page says and does when something is wrong: with the server, an image, the key, or time."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
from fastapi import FastAPI
from playwright.sync_api import Locator, Page, Route, expect

import browsing
from browsing import CAT, PHOTOS, Server, Visitor, answer, refusal
from hierax.serve.app import create_app
from hierax.serve.limits import Limits

pytestmark = [pytest.mark.browser, pytest.mark.slow]
browser, visitors = browsing.browser, browsing.visitors  # fixtures
Visitors = Callable[..., Visitor]
KEY = "a long secret key"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """hierax/femto, which may be stopped and started by a test."""
    server = Server(lambda: create_app(backend="torch", threads=1))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def locked() -> Iterator[Server]:
    """hierax/femto behind a key, which takes at most 2 MB and 3 images."""
    server = Server(
        lambda: create_app(backend="torch", threads=1, api_key=KEY, limits=Limits(max_body=2_000_000, max_images=3))
    )
    yield server
    server.stop()


def notice(page: Page, view: str = "what") -> Locator:
    return page.locator(f"#view-{view} .notice")


def enter(page: Page, key: str) -> None:
    expect(page.locator("#key")).to_be_visible()
    page.fill("#key-field", key)
    page.keyboard.press("Enter")


def test_a_server_that_goes_away_is_told_and_asked_again_when_it_is_back(server: Server, visitors: Visitors) -> None:
    visitor = visitors(server.url)
    page = visitor.open()
    server.stop()
    try:
        visitor.give(CAT)
        expect(page.locator("#banner")).to_contain_text("does not answer")
        expect(notice(page)).to_contain_text("The page asks again when it is back")
    finally:
        server.start()
    expect(page.locator("#view-what .verdict")).to_contain_text("mammals")
    expect(notice(page)).to_be_empty()
    expect(page.locator("#banner")).to_be_hidden()


def test_a_page_that_opens_while_the_server_loads_waits_for_it(server: Server, visitors: Visitors) -> None:
    visitor = visitors(server.url)
    loading = answer(503, refusal(503, "not_ready", "the model is being loaded"), **{"Retry-After": "1"})
    visitor.page.route("**/v1/model", loading, times=2)
    page = visitor.open()
    visitor.give(CAT)
    expect(page.locator("#view-what .verdict")).to_contain_text("mammals")
    expect(page.locator("#banner")).to_be_hidden()


@pytest.mark.parametrize("view", ["what", "see", "imagine"])
def test_a_broken_file_is_told_and_the_next_image_is_answered(
    server: Server, visitors: Visitors, tmp_path: Path, view: str
) -> None:
    visitor = visitors(server.url)
    page = visitor.open(view)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(CAT.read_bytes()[:900])
    visitor.give(PHOTOS[0])
    expect(page.locator("[aria-busy=true]")).to_have_count(0)
    visitor.give(broken)
    expect(notice(page, view)).to_contain_text("This image cannot be read")
    place = ".seen" if view == "what" else ".frame"
    expect(page.locator(f"#view-{view} {place} img:visible")).to_have_count(0)  # nothing of the image before
    visitor.give(CAT)
    expect(notice(page, view)).to_be_empty()
    expect(page.locator("[aria-busy=true]")).to_have_count(0)


def slow(page: Page, path: str) -> list[Route]:
    """Holds the requests to a route back."""
    held: list[Route] = []
    page.route(path, lambda route: held.append(route))
    return held


def test_a_slow_answer_says_so_after_a_second_and_can_be_canceled(server: Server, visitors: Visitors) -> None:
    visitor = visitors(server.url)
    page = visitor.open()
    held = slow(page, "**/v1/classify*")
    visitor.give(CAT)
    expect(notice(page)).to_contain_text("The server is still working on this.")
    page.get_by_role("button", name="Cancel").click()
    expect(notice(page)).to_contain_text("Canceled.")
    expect(page.locator("[aria-busy=true]")).to_have_count(0)
    for route in held:
        route.abort()


def test_a_slow_answer_is_shown_when_it_comes(server: Server, visitors: Visitors) -> None:
    visitor = visitors(server.url)
    page = visitor.open()
    held = slow(page, "**/v1/classify*")
    visitor.give(CAT)
    expect(notice(page)).to_contain_text("still working")
    for route in held:
        route.continue_()
    expect(page.locator("#view-what .verdict")).to_contain_text("mammals")
    expect(notice(page)).to_be_empty()


def test_the_request_about_an_image_before_is_ended(server: Server, visitors: Visitors) -> None:
    visitor = visitors(server.url)
    page = visitor.open()
    held: list[Route] = []
    page.route("**/v1/classify*", lambda route: route.continue_() if held else held.append(route))
    visitor.give(CAT)
    expect(notice(page)).to_contain_text("still working")
    visitor.give(next(path for path in PHOTOS if path.stem == "mountains"))
    expect(page.locator("#view-what .verdict")).to_contain_text("landscapes")
    assert held[0].request.failure == "net::ERR_ABORTED"
    expect(page.locator("#what-list tbody tr").first).to_contain_text("mammals")


def test_a_busy_server_is_asked_again_after_the_time_that_it_names(server: Server, visitors: Visitors) -> None:
    visitor = visitors(server.url)
    page = visitor.open()
    busy = answer(429, refusal(429, "busy", "256 images wait"), **{"Retry-After": "1"})
    page.route("**/v1/classify*", busy, times=1)
    visitor.give(CAT)
    expect(notice(page)).to_contain_text("The server is busy. It is asked again in a second.")
    expect(page.locator("#view-what .verdict")).to_contain_text("mammals")


@pytest.mark.parametrize(
    ("status", "code", "sentence"),
    [
        (400, "bad_argument", "size is 7; expected more"),
        (415, "unsupported_media", "cannot read files of this kind"),
        (422, "unreadable_image", "cannot be read"),
        (500, "fault", "The server failed."),
        (504, "deadline", "did not answer in time"),
    ],
)
def test_errors_are_sentences_and_can_be_tried_again(
    server: Server, visitors: Visitors, status: int, code: str, sentence: str
) -> None:
    visitor = visitors(server.url)
    page = visitor.open()
    page.route("**/v1/classify*", answer(status, refusal(status, code, "size is 7; expected more")), times=1)
    visitor.give(CAT)
    expect(notice(page)).to_contain_text(sentence)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#view-what .verdict")).to_contain_text("mammals")
    expect(notice(page)).to_be_empty()


def test_the_page_asks_for_a_key_and_keeps_it_in_memory_only(locked: Server, visitors: Visitors) -> None:
    visitor = visitors(locked.url)
    page = visitor.page
    page.goto(locked.url)
    enter(page, "wrong")
    expect(page.locator("#key-wrong")).to_be_visible()
    enter(page, KEY)
    expect(page.locator("nav a[href='#what']")).to_be_visible()
    visitor.give(CAT)
    expect(page.locator("#view-what .verdict")).to_contain_text("mammals")
    kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])")
    assert KEY not in kept
    page.reload()
    expect(page.locator("#key")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#banner")).to_contain_text("needs a key")


def test_a_key_that_no_request_can_bring_is_asked_for_again(locked: Server, visitors: Visitors) -> None:
    page = visitors(locked.url).page
    page.goto(locked.url)
    for key in ("clé", "a key\u200b"):
        enter(page, key)
        expect(page.locator("#key-wrong")).to_be_visible()
    enter(page, KEY)
    expect(page.locator("nav a[href='#what']")).to_be_visible()
    expect(page.locator("#banner")).to_be_hidden()


def test_a_file_that_is_gone_is_told_and_the_server_is_not_blamed(
    server: Server, visitors: Visitors, tmp_path: Path
) -> None:
    visitor = visitors(server.url)
    page = visitor.open()
    file = tmp_path / "mine.jpg"
    file.write_bytes(CAT.read_bytes())
    visitor.give(file, PHOTOS[0])
    expect(page.locator("#what-list h2")).to_have_text("2 images")
    file.unlink()
    page.select_option("#what-count", "3")
    gone = "mine.jpg cannot be read. It is a folder, or it was changed, moved or deleted after you chose it."
    expect(notice(page)).to_contain_text(gone)
    expect(page.locator("#what-list tbody tr").first).to_contain_text(gone)
    expect(page.locator("#what-list h2")).to_have_text("2 images")
    expect(page.locator("#banner")).to_be_hidden()


def test_the_map_of_the_image_before_is_not_waited_for(server: Server, visitors: Visitors) -> None:
    visitor = visitors(server.url)
    page = visitor.open("see")
    visitor.give(CAT)
    expect(page.locator("[aria-busy=true]")).to_have_count(0)
    held: list[Route] = []
    page.route(lambda url: "stage=1" in url and "format" not in url, lambda route: held.append(route))
    page.click('#see-stages [value="1"]')
    with page.expect_event("requestfailed", lambda request: "stage=1" in request.url):
        visitor.give(PHOTOS[0])
    assert held[0].request.failure == "net::ERR_ABORTED"


def test_stages_that_fail_are_not_waited_for(server: Server, visitors: Visitors) -> None:
    visitor = visitors(server.url)
    page = visitor.open("see")
    late = answer(504, refusal(504, "deadline", "the deadline has passed before there was an answer"))
    page.route("**/v1/features*", late)
    visitor.give(CAT)
    expect(notice(page, "see")).to_contain_text("did not answer in time")
    expect(page.locator("[aria-busy=true]")).to_have_count(0)
    page.unroute("**/v1/features*")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#see-stages img:visible")).to_have_count(4)
    expect(page.locator("[aria-busy=true]")).to_have_count(0)


def test_a_page_that_opens_at_its_content_shows_the_first_view(server: Server, visitors: Visitors) -> None:
    page = visitors(server.url).open("main")
    expect(page).to_have_title("What is it · hierax")
    expect(page.locator("nav a[aria-current=page]")).to_have_count(1)


def test_the_page_works_below_a_path_of_another_application(visitors: Visitors) -> None:
    def mounted() -> FastAPI:
        outer = FastAPI()
        outer.mount("/vision", create_app(backend="torch", threads=1))
        return outer

    server = Server(mounted)
    try:
        visitor = visitors(server.url + "vision/")  # the visitor also checks that nothing else is asked
        page = visitor.open()
        page.locator(".sample").first.click()
        expect(page.locator("#view-what .verdict")).to_contain_text("mammals")
    finally:
        server.stop()


def test_an_image_larger_than_the_limit_is_told_with_the_limit(
    locked: Server, visitors: Visitors, tmp_path: Path
) -> None:
    visitor = visitors(locked.url)
    page = visitor.page
    page.goto(locked.url)
    enter(page, KEY)
    large = tmp_path / "large.jpg"
    large.write_bytes(CAT.read_bytes() + bytes(3_000_000))
    expect(page.locator("nav a[href='#what']")).to_be_visible()
    visitor.give(large)
    expect(notice(page)).to_contain_text("larger than the server accepts (2 MB, 3 images)")


def test_more_images_than_a_request_may_have_are_sent_in_parts(locked: Server, visitors: Visitors) -> None:
    visitor = visitors(locked.url)
    page = visitor.page
    page.goto(locked.url)
    enter(page, KEY)
    expect(page.locator("nav a[href='#what']")).to_be_visible()
    images = CAT, *PHOTOS[:5]
    visitor.give(*images)
    expect(page.locator("#what-list h2")).to_have_text("6 images")
    expect(page.locator("#what-list tbody td.number span")).to_have_count(len(images))


def test_the_keyboard_reaches_every_view_and_focus_is_seen(server: Server, visitors: Visitors) -> None:
    page = visitors(server.url).open()
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    seen = []
    for _ in range(4):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate("[document.activeElement.hash, getComputedStyle(document.activeElement).outlineStyle]")
        )
    assert seen == [[name, "solid"] for name in ("#what", "#what", "#see", "#imagine")]
    page.keyboard.press("Enter")
    expect(page).to_have_title("Imagine the rest · hierax")


def test_nothing_moves_for_those_who_asked_for_less_motion(server: Server, visitors: Visitors) -> None:
    visitor = visitors(server.url, reduced_motion="reduce")
    page = visitor.open()
    visitor.give(CAT)
    expect(page.locator(".bars .bar").first).to_be_visible()
    moving = page.evaluate(
        "[...document.querySelectorAll('*')].filter((one) => getComputedStyle(one).transitionDuration !== '0s').length"
    )
    assert moving == 0


def test_nothing_shifts_when_answers_come(server: Server, visitors: Visitors) -> None:
    visitor = visitors(server.url)
    page = visitor.open("what")
    page.evaluate(
        """() => {
            window.shifts = 0;
            new PerformanceObserver((list) => {
                for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts += entry.value;
            }).observe({type: "layout-shift", buffered: false});
        }"""
    )
    visitor.give(CAT)
    expect(page.locator("#view-what .verdict")).to_contain_text("mammals")
    for view in ("see", "imagine"):
        page.evaluate(f"location.hash = '{view}'")
        expect(page.locator(f"#view-{view} .pair, #view-{view} .twins")).to_be_visible()
        expect(page.locator("[aria-busy=true]")).to_have_count(0)
    assert page.evaluate("window.shifts") < 0.1, "the limit that browsers call good"
