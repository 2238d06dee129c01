"""The pages of a competition in a real browser: upload, errors, countdown, freeze, phone."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lookalike.competition.organizer import local_time
from lookalike.competition.serve import store_of
from tests.competition.conftest import SECRET, Serve, Served, submission

pytestmark = [pytest.mark.slow, pytest.mark.browser]
Token = Callable[[str], str]


@pytest.fixture
def errors(browser: Any) -> list[str]:
    return []


@pytest.fixture
def page(browser: Any, errors: list[str]) -> Any:
    return new_page(browser, errors)


def new_page(browser: Any, errors: list[str], **options: Any) -> Any:
    """Open a page that notes whatever the browser complains about."""
    page = browser.new_page(**options)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    return page


def sign_in(page: Any, served: Served, token: str) -> None:
    page.goto(f"{served.url}sign-in")
    page.get_by_label("token").fill(token)
    page.get_by_role("button", name="Sign in").click()


def upload(page: Any, name: str, content: Any) -> None:
    Path(name).write_text(json.dumps(content))
    page.get_by_label("Submission (JSON").set_input_files(name)
    page.get_by_role("button", name="Send").click()


def test_a_team_joins_uploads_and_sees_its_curve(
    page: Any, serve: Serve, folder: Path, errors: list[str]
) -> None:
    served = serve()
    page.goto(served.url)
    page.get_by_role("link", name="Join").click()
    page.get_by_label("Name").fill("the A team")
    page.get_by_label("Join code").fill(store_of(folder).state()["join_code"])
    page.get_by_role("button", name="Join").click()
    assert len(page.locator("#token").inner_text()) == 32
    page.get_by_role("link", name="Go on").click()
    for number in (40, 70, 55):
        upload(page, "s.json", submission(number))
    assert "Submission 3 is in" in page.get_by_role("status").first.inner_text()
    assert page.locator(".curve circle").count() == 3
    assert [page.locator("tbody tr").nth(i).locator("b").all_inner_texts() for i in (0, 1)] == [
        ["last"],
        ["best"],
    ]
    page.get_by_role("link", name="Ranking").click()
    assert "the A team" in page.locator("#ranking").inner_text()
    assert not errors


def test_what_is_wrong_with_a_file_is_on_the_page(page: Any, serve: Serve, token: Token) -> None:
    ours = token("us")
    sign_in(page, serve(), ours)
    upload(page, "s.json", {"q000.jpg": []})
    assert "queries that are missing (99)" in page.get_by_role("alert").inner_text()
    upload(page, "s.json", submission(5))
    assert page.get_by_role("alert").count() == 0


def test_the_countdown_ends_the_upload(
    page: Any, serve: Serve, token: Token, errors: list[str]
) -> None:
    ours, now = token("us"), time.time()
    served = serve(wall=[now])
    store_of(Path("friday")).set_state("closes", str(now + 6))
    sign_in(page, served, ours)
    left = page.get_by_role("timer")
    assert left.inner_text().startswith("00:00:0")
    first = left.inner_text()
    page.wait_for_function("was => document.getElementById('left').textContent < was", arg=first)
    page.wait_for_selector("text=This is the final ranking", timeout=15_000)
    assert page.get_by_role("button", name="Send").count() == 0
    assert not errors


def test_a_wrong_clock_of_the_browser_moves_no_countdown(
    page: Any, serve: Serve, token: Token
) -> None:
    page.clock.install(time="2001-01-01T00:00:00")
    served = serve(wall=[time.time()])
    served.act("closes", local_time(str(time.time() + 7200)))
    page.goto(served.url)
    assert page.get_by_role("timer").inner_text()[:4] in ("01:5", "02:0")


def test_the_organizer_freezes_withdraws_and_closes(
    page: Any, browser: Any, serve: Serve, token: Token, errors: list[str]
) -> None:
    ours, theirs = token("us"), token("they")
    served = serve()
    served.send(ours, submission(50))
    page.goto(f"{served.url}organizer")
    page.get_by_label("Password").fill(SECRET)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Freeze the ranking").click()
    served.send(theirs, submission(80))
    reader = new_page(browser, errors)
    reader.goto(served.url)
    assert "frozen" in reader.locator("caption").inner_text()
    assert "they" not in reader.locator("#ranking").inner_text()
    page.get_by_role("button", name="Let the ranking move again").click()
    reader.wait_for_selector("#ranking >> text=they", timeout=15_000)  # without a reload
    page.get_by_role("row", name="1 us").get_by_role("button", name="Withdraw").first.click()
    reader.wait_for_selector("text=1 team, 1 submission", timeout=15_000)
    assert not page.get_by_role("button", name="Close the competition").is_visible()
    page.get_by_text("Close now").click()
    page.get_by_role("button", name="Close the competition").click()
    reader.reload()
    assert "This is the final ranking" in reader.locator(".clock").inner_text()
    with page.expect_download() as download:
        page.get_by_role("link", name="ranking.csv").click()
    assert "they" in Path(download.value.path()).read_text()
    assert not errors


def test_the_pages_fit_a_phone_and_can_be_read_without_scripts(
    browser: Any, serve: Serve, token: Token, errors: list[str]
) -> None:
    ours = token("M" * 64)
    served = serve()
    served.act("closes", "2036-01-01T10:00:00")
    for number in range(3):
        served.send(ours, submission(20 * number))
    for scripts in (True, False):
        context = browser.new_context(
            viewport={"width": 320, "height": 640}, java_script_enabled=scripts
        )
        phone = context.new_page()
        sign_in(phone, served, ours)
        for path in ("", "team", "join", "sign-in", "organizer/sign-in", "none"):
            phone.goto(f"{served.url}{path}")
            box = phone.locator("main").bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= 320, path
            widest = phone.locator("main *:visible").all()
            for element in widest:
                edges = element.bounding_box()
                assert edges is None or edges["x"] + edges["width"] <= 321, path
        context.close()


CONTRAST = """() => {
  const light = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
      .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if (!color.endsWith(", 0)") && color !== "transparent") return color;
    }
    return "rgb(255, 255, 255)";
  };
  return [...document.querySelectorAll("body *")]
    .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()))
    .filter((e) => e.checkVisibility() && e.tagName !== "SCRIPT")
    .map((e) => {
      const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
      return [(a + 0.05) / (b + 0.05), e.outerHTML.slice(0, 80)];
    })
    .filter(([ratio]) => ratio < 4.5);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read_and_reached_in_both_colors(
    browser: Any, serve: Serve, token: Token, scheme: str, errors: list[str]
) -> None:
    """WCAG 2.1 AA: contrast of 4.5 to 1; a name for every input; headings; the keyboard."""
    ours = token("us")
    served = serve()
    served.send(ours, submission(50))
    served.act("withdraw-submission", 1)
    page = new_page(browser, errors, color_scheme=scheme)
    sign_in(page, served, "wrong")
    assert page.evaluate(CONTRAST) == []
    sign_in(page, served, ours)
    for path in ("", "team", "join"):
        page.goto(f"{served.url}{path}")
        assert page.evaluate(CONTRAST) == [], path
        assert page.locator("h1").count() == 1 and page.locator("html[lang]").count() == 1
        for field in page.locator("input:not([type=hidden]):not([hidden])").all():
            assert page.locator(f"label[for={field.get_attribute('id')}]").count() == 1
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"


def test_the_page_says_when_the_server_is_gone(page: Any, serve: Serve, token: Token) -> None:
    ours = token("us")
    served = serve()
    served.send(ours, submission(50))
    page.goto(served.url)
    page.route("**/ranking.html", lambda route: route.abort())
    page.wait_for_selector("text=The server does not answer", timeout=15_000)
    assert "us" in page.locator("#ranking").inner_text()
