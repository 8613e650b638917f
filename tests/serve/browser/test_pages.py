"""Every page in both themes and at phone width: accessible by axe, nothing wider than the screen, no complaints."""

from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")

WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 800}


def listened(page: Page) -> list[str]:
    """The errors of a page, as they come."""
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda message: (
            complaints.append(f"{message.text} {message.location['url']}") if message.type == "error" else None
        ),
    )
    return complaints


def opened_chat(page: Page) -> None:
    page.fill("#prompt", "Where is the lion?")
    page.keyboard.press("Enter")
    expect(page.locator(".message.assistant .figures span").first).to_be_visible()
    expect(page.locator("#log")).to_have_attribute("aria-busy", "false")


def certain(page: Page) -> None:
    """The playground draws the same eight tokens every time: a random model may end at once."""
    sampling = '{"sampling": {"temperature": 0, "max_tokens": 8}}'
    page.add_init_script(f"localStorage['fledge.playground'] = '{sampling}'")


def opened_completion(page: Page) -> None:
    page.click("#run-complete")
    expect(page.locator(".token").nth(3)).to_be_visible()
    expect(page.locator("#run-complete")).to_have_text("Complete")
    page.locator(".token").nth(2).click()


def opened_inspection(page: Page) -> None:
    expect(page.locator(".piece").first).to_be_visible()
    page.click("#look")
    expect(page.locator(".lens")).to_be_visible()


def opened_run(page: Page) -> None:
    expect(page.locator(".step-view .chart").first).to_be_visible()


STATES: dict[str, Any] = {
    "/": opened_chat,
    "/playground": lambda page: expect(page.locator(".model").first).to_be_visible(),
    "/playground#complete": opened_completion,
    "/playground#fewshot": lambda page: expect(page.locator(".model").first).to_be_visible(),
    "/inspect": opened_inspection,
    "/runs#pydoc/ppo": opened_run,
    "/label": lambda page: expect(page.locator(".guideline .prose")).to_contain_text("Truthful"),
    "/label#demonstrate": lambda page: expect(page.locator(".consent .prose")).to_contain_text("withdraw"),
}


@pytest.mark.parametrize("path", STATES)
def test_every_page_is_accessible_in_both_themes_and_on_a_phone(browser: Browser, real: str, path: str) -> None:
    for theme, size in (("light", WIDE), ("dark", PHONE)):
        context = browser.new_context(viewport=size, color_scheme=theme)
        page = context.new_page()
        complaints = listened(page)
        certain(page)
        page.goto(real + path)
        STATES[path](page)
        found = axe.Axe().run(page).response["violations"]
        assert [(each["id"], [node["target"] for node in each["nodes"]]) for each in found] == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{path} is wider than {size}"
        assert complaints == []
        context.close()


def test_nothing_is_loaded_from_elsewhere(page: Page, real: str) -> None:
    hosts = set()
    certain(page)
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    for path in STATES:
        page.goto(real + path)
        STATES[path](page)
    assert hosts == {real.removeprefix("http://")}


def test_the_keyboard_reaches_everything(page: Page, real: str) -> None:
    page.goto(real)
    expect(page.locator("#model option").first).to_be_attached()
    reached = set()
    page.locator("body").press("Tab")
    for _ in range(30):
        reached.add(
            page.evaluate("document.activeElement.id || document.activeElement.getAttribute('aria-label') || ''")
        )
        page.keyboard.press("Tab")
    assert {"prompt", "model", "send", "new", "export", "show-settings"} <= reached
    page.keyboard.press("Alt+2")
    expect(page.locator("h1")).to_have_text("Playground")
    expect(page.locator(".bar-top")).to_be_visible()  # the page has begun to listen
    page.locator("h1").click()
    page.keyboard.press("?")
    expect(page.locator("dialog")).to_contain_text("Ctrl")
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
