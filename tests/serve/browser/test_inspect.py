"""The page of inspection: tokens as one types, and the model's inside as `fledge inspect` computes it."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

import fledge
from fledge.evaluate.inspection import inspect_ids


def test_tokens_follow_the_typing(page: Page, real: str, tiny: Path) -> None:
    page.goto(f"{real}/inspect")
    page.fill("textarea", "The zebra <|im_end|> sees 🦓")
    tokenizer = fledge.load(tiny / "base").tokenizer
    ids = tokenizer.encode("The zebra <|im_end|> sees 🦓")
    expect(page.locator(".sums b").first).to_have_text(str(len(ids)))
    page.check("text=show token ids")
    expect(page.locator(".piece").first).to_have_text(str(ids[0]))
    assert page.locator(".piece").all_inner_texts() == [str(i) for i in ids]
    assert page.locator(".piece.special").count() == 0  # what spells a special token stays text
    page.check("text=through the chat template")
    expect(page.locator(".piece.special").first).to_be_visible()


def test_the_inside_is_what_the_command_computes(page: Page, real: str, tiny: Path) -> None:
    page.goto(f"{real}/inspect")
    page.fill("textarea", "The lion sees the otter")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".lens")).to_be_visible()
    assistant = fledge.load(tiny / "base")
    ids = [assistant.tokenizer.document_id, *assistant.tokenizer.encode("The lion sees the otter")]
    expected = inspect_ids(assistant.model, assistant.tokenizer, ids)
    rows = page.locator(".lens tbody tr")
    expect(rows).to_have_count(len(expected["lens"]))
    assert page.locator(".facts dd").first.inner_text() == f"{expected['loss'] / 0.6931471805599453:.2f}"
    assert page.locator(".next li").count() == 5
    page.select_option("#attention-layer", "0")
    heads = expected["attention"][0]["heads"]
    page.select_option("#attention-head", str(len(heads) - 1))
    page.locator(".looked").nth(3).click()
    label = page.locator(".looked").nth(1).get_attribute("aria-label") or ""
    share = float(label.rsplit(", ", 1)[1].split(" %")[0])
    assert share == pytest.approx(100 * heads[-1][3][1], abs=0.06)


def test_too_long_a_text_is_said(page: Page, real: str) -> None:
    page.goto(f"{real}/inspect")
    page.fill("textarea", "zebra " * 400)
    page.click("#look")
    expect(page.locator(".alert")).to_contain_text("at most")
