"""The playground: models side by side, tokens with their probabilities, the same task with more and fewer examples."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from playwright.sync_api import Page, expect

import fledge


def test_two_models_stream_at_once(page: Page, scripted: str, script: Any) -> None:
    script.say("a b c d", paused_after=2)
    page.goto(f"{scripted}/playground")
    page.fill("#compare-prompt", "Count")
    page.click("#run-all")
    bodies = page.locator(".model .body")
    for i in range(2):  # both have begun, neither is done
        expect(bodies.nth(i)).to_have_text("a b")
        expect(bodies.nth(i)).to_have_attribute("aria-busy", "true")
    script.go.set()
    for i in range(2):
        expect(bodies.nth(i)).to_have_text("a b c d")
    assert sorted(each["model"] for each in script.asked) == ["one", "two"]
    page.click("button:has-text('Another model')")
    expect(page.locator(".model")).to_have_count(3)
    page.reload()
    expect(page.locator(".model")).to_have_count(3)
    expect(page.locator("#compare-prompt")).to_have_value("Count")


def test_stop_stops_all(page: Page, scripted: str, script: Any) -> None:
    script.say("a b c d", paused_after=2)
    page.goto(f"{scripted}/playground")
    page.fill("#compare-prompt", "Count")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".model .body").nth(1)).to_have_text("a b")
    page.click("#run-all")
    expect(page.locator(".model .badge")).to_have_text(["stopped", "stopped"])
    page.wait_for_timeout(150)
    assert script.dropped == 2


def settings(page: Page, **sampling: Any) -> None:
    page.add_init_script(f"localStorage.setItem('fledge.playground', '{json.dumps({'sampling': sampling})}')")


def chances(page: Page) -> list[float]:
    return page.locator(".token").evaluate_all("all => all.map(t => Number(t.style.getPropertyValue('--p')))")


def test_tokens_show_the_models_own_probabilities(page: Page, real: str, tiny: Path) -> None:
    settings(page, temperature=0, max_tokens=8)
    page.goto(f"{real}/playground#complete")
    page.fill("#complete-prompt", "The zebra sees")
    page.click("#run-complete")
    expect(page.locator("#run-complete")).to_have_text("Complete")
    shown = chances(page)
    assistant = fledge.load(tiny / "base", dtype="bfloat16")
    done = assistant.complete(["The zebra sees"], temperature=0, max_new_tokens=8)[0]
    expected = torch.tensor(done.logprobs).exp()
    torch.testing.assert_close(torch.tensor(shown), expected, atol=2e-3, rtol=2e-2)


def test_an_alternative_is_followed_and_undone(page: Page, real: str) -> None:
    settings(page, temperature=0, max_tokens=8)
    page.goto(f"{real}/playground#complete")
    page.fill("#complete-prompt", "The zebra sees")
    page.click("#run-complete")
    expect(page.locator("#run-complete")).to_have_text("Complete")
    before = page.locator(".token").all_inner_texts()
    page.locator(".token").nth(2).press("Enter")
    rows = page.locator(".alternative")
    expect(rows.first).to_be_focused()
    shares = [float(re.sub(r"[^0-9.]", "", text)) for text in page.locator(".alternative .share").all_inner_texts()]
    assert len(shares) >= 5
    assert shares == sorted(shares, reverse=True)
    page.keyboard.press("ArrowDown")
    chosen = rows.nth(1).locator(".mono").inner_text()
    page.keyboard.press("Enter")
    expect(page.locator(".token.chosen")).to_have_count(1)
    expect(page.locator("#run-complete")).to_have_text("Complete")
    after = page.locator(".token").all_inner_texts()
    assert after[:2] == before[:2]
    assert after[2].strip() == chosen.strip()
    assert after[2] != before[2]
    assert len(after) == 3 + 8
    page.click("button:has-text('Undo')")
    assert page.locator(".token").all_inner_texts() == before


def test_the_template_has_no_one_and_all_examples(page: Page, real: str) -> None:
    settings(page, temperature=0, max_tokens=4)
    page.goto(f"{real}/playground#fewshot")
    page.select_option("[aria-label=Task]", "Translation")
    for i in range(3):
        page.locator(".model summary").nth(i).click()
    prompts = page.locator(".model pre").all_inner_texts()
    task = "Translate English to French.\n\n"
    assert prompts[0] == f"{task}Q: cheese\nA:"
    assert prompts[1] == f"{task}Q: sea otter\nA: loutre de mer\n\nQ: cheese\nA:"
    assert prompts[2].count("Q:") == 4
    page.click("#run-fewshot")
    expect(page.locator("#run-fewshot")).to_have_text("Run zero, one and few")
    assert page.locator(".model .alert").count() == 0
    expect(page.locator(".model .figures")).to_contain_text(["4 tokens", "4 tokens", "4 tokens"])
