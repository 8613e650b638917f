"""The chat as a person uses it: ask, watch, stop, ask again, edit, rate, come back, take away."""

import json
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect

from fledge.data.columns import to_conversations
from fledge.feedback.store import Store

SEND, STOP = "button[aria-label=Send]", "button[aria-label=Stop]"


def ask(page: Page, text: str) -> None:
    page.fill("#prompt", text)
    page.keyboard.press("Enter")


def answered(page: Page) -> None:
    expect(page.locator("#log")).to_have_attribute("aria-busy", "false")
    expect(page.locator(".message.assistant").last.locator(".figures span").first).to_be_visible()


def answers(page: Page) -> Any:
    return page.locator(".message.assistant .body")


def certain(page: Page) -> None:
    """Short answers, the same every time."""
    settings = json.dumps({"sampling": {"temperature": 1, "seed": 3, "max_tokens": 20}})
    page.add_init_script(f"localStorage.getItem('fledge.chat') || localStorage.setItem('fledge.chat', '{settings}')")


def said_by_the_model(page: Page) -> str:
    """The answer as it was streamed, from the browser's own database."""
    script = """async () => {
        const { all } = await import("/web/history.js");
        return Object.values((await all())[0].nodes).find((node) => node.role === "assistant").content;
    }"""
    return page.evaluate(script)


def test_an_answer_streams_and_tells_what_it_took(page: Page, scripted: str, script: Any) -> None:
    script.say("The absolute value of the argument.", paused_after=3)
    page.goto(scripted)
    ask(page, "What does abs do?")
    expect(answers(page)).to_have_text("The absolute value")
    expect(page.locator("#log")).to_have_attribute("aria-busy", "true")
    script.go.set()
    expect(answers(page)).to_have_text("The absolute value of the argument.")
    answered(page)
    figures = page.locator(".figures").inner_text()
    assert "6 tokens" in figures
    assert "first after" in figures
    assert "$" in figures
    assert script.asked[0]["messages"] == [{"role": "user", "content": "What does abs do?"}]


def test_who_asks_before_the_models_are_known_is_answered(page: Page, scripted: str, script: Any) -> None:
    script.say("Patience.")
    held: list[Any] = []
    page.route("**/v1/models", lambda route: held.append(route))
    page.goto(scripted)
    ask(page, "Quick!")
    page.wait_for_timeout(300)
    assert script.asked == []
    held[0].continue_()
    expect(answers(page)).to_have_text("Patience.")
    assert script.asked[0]["model"] == "one"


def test_stop_keeps_what_was_said_and_frees_the_server(page: Page, scripted: str, script: Any) -> None:
    script.say("one two three four five six", paused_after=2)
    page.goto(scripted)
    ask(page, "Count!")
    expect(answers(page)).to_have_text("one two")
    page.click(STOP)
    answered(page)
    expect(page.locator(".message.assistant .badge")).to_have_text("stopped")
    expect(answers(page)).to_have_text("one two")
    page.wait_for_timeout(150)
    assert script.dropped == 1
    script.say("one two three", paused_after=1)
    ask(page, "Again!")
    expect(answers(page).last).to_have_text("one")
    page.keyboard.press("Escape")
    answered(page)
    assert [turn["content"] for turn in script.asked[0]["messages"]] == ["Count!", "one two ", "Again!"]


def test_another_answer_and_an_edited_question_are_branches(page: Page, scripted: str, script: Any) -> None:
    script.say("first")
    page.goto(scripted)
    ask(page, "Question A")
    answered(page)
    script.say("second")
    page.click("[aria-label='Answer again']")
    answered(page)
    expect(answers(page)).to_have_text("second")
    expect(page.locator(".message.assistant .branches")).to_contain_text("2 / 2")
    page.click(".message.assistant [aria-label='Previous version']")
    expect(answers(page)).to_have_text("first")

    script.say("third")
    page.locator(".message.user").hover()
    page.click("[aria-label='Edit and branch']")
    page.fill(".editing textarea", "Question B")
    page.keyboard.press("Control+Enter")
    answered(page)
    expect(answers(page)).to_have_text("third")
    assert script.asked[-1]["messages"] == [{"role": "user", "content": "Question B"}]
    page.click(".message.user [aria-label='Previous version']")
    expect(page.locator(".message.user .body")).to_have_text("Question A")
    expect(answers(page)).to_have_text("first")


def test_system_message_and_dials_are_sent(page: Page, scripted: str, script: Any) -> None:
    script.say("Aye.")
    page.goto(scripted)
    page.click("#show-settings")
    page.fill("#system", "You are a pirate.")
    page.fill("[name=max_tokens]", "33")
    page.fill("[name=seed]", "5")
    page.fill("[name=stop]", "END")
    page.locator("[name=temperature]").fill("0")
    page.locator("[name=stop]").blur()
    page.select_option("#model", "two")
    ask(page, "Ready?")
    answered(page)
    sent = script.asked[0]
    assert sent["messages"][0] == {"role": "system", "content": "You are a pirate."}
    assert (sent["model"], sent["max_tokens"], sent["seed"], sent["temperature"]) == ("two", 33, 5, 0)
    assert sent["stop"] == ["END"]
    assert "top_k" not in sent


def test_markup_of_a_model_is_text_never_code(page: Page, scripted: str, script: Any) -> None:
    page.goto(scripted)
    hostile = (
        "<img src=x onerror=window.hacked=1> **bold <b>x</b>** [a](javascript:window.hacked=1) "
        "[ok](https://example.org) ![p](https://example.org/p.png) `<script>window.hacked=1</script>`"
    )
    script.say(hostile)
    ask(page, "<script>window.hacked=1</script>")
    answered(page)
    body = answers(page)
    expect(body.locator("strong")).to_have_text("bold <b>x</b>")
    expect(body.locator("code")).to_have_text("<script>window.hacked=1</script>")
    links = body.locator("a").evaluate_all("all => all.map(a => a.getAttribute('href'))")
    assert links == ["https://example.org", "https://example.org/p.png"]
    assert page.locator("#log script, #log .body img").count() == 0
    expect(page.locator(".message.user .body")).to_have_text("<script>window.hacked=1</script>")
    assert page.evaluate("window.hacked") is None


def test_markdown_becomes_elements(page: Page, scripted: str) -> None:
    page.goto(scripted)
    text = (
        "# Title\n\nA *b* **c** `d`\n\n1. one\n2. two\n   - inner\n\n```python\nif x:  # y\n    return 'z'\n```\n\n"
        "| a | b |\n|---|--:|\n| 1 | 2 |\n\n> quote\n\n---\nlast\n"
    )
    script = """async (text) => {
        const { render } = await import("/web/markdown.js");
        const place = document.createElement("div");
        for (let i = 1; i <= text.length; i += 7) render(place, text.slice(0, i));  // as it streams
        render(place, text);
        const whole = document.createElement("div");
        render(whole, text);
        return [place.innerHTML, whole.innerHTML];
    }"""
    streamed, whole = page.evaluate(script, text)
    assert streamed == whole
    for part in (
        "<h3>Title</h3>", "<em>b</em>", "<strong>c</strong>", "<code>d</code>", "<li>two<ul><li>inner</li></ul></li>",
        '<span class="keyword">if</span>', '<span class="remark"># y</span>', '<td class="number">2</td>',
        "<blockquote><p>quote</p></blockquote>", "<hr>",
    ):  # fmt: skip
        assert part in whole, part


def test_very_long_and_odd_text_does_not_hang(page: Page, scripted: str) -> None:
    page.goto(scripted)
    script = """async (text) => {
        const { render } = await import("/web/markdown.js");
        const place = document.createElement("div");
        const started = performance.now();
        render(place, text);
        return [place.textContent.length, performance.now() - started];
    }"""
    for text in ("*" * 100_000, "> " * 5000 + "x", "`" * 30_000, "[" * 50_000, "- " * 3000 + "x", "word " * 20_000):
        _, milliseconds = page.evaluate(script, text)
        assert milliseconds < 5000, text[:10]


def test_ratings_and_corrections_reach_the_store(page: Page, real: str, runs: Path) -> None:
    store = Store.open(runs / "feedback.db")
    with store.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM consents")
    certain(page)
    page.goto(real)
    ask(page, "Where is the otter?")
    answered(page)
    page.click("[aria-label='Good answer']")
    page.click("dialog >> text=Rather not")
    expect(page.locator(".toast", has_text="Not kept")).to_be_visible()
    page.click("[aria-label='Good answer']")
    page.click("dialog >> text=I agree")  # asked until one agrees, and then no more
    expect(page.locator("[aria-label='Good answer']")).to_have_attribute("aria-pressed", "true")
    page.click("[aria-label='Bad answer']")
    page.fill("#correction", "At the river. <b>Really</b>")
    page.click("dialog button:has-text('Keep')")
    expect(page.locator(".message.assistant .badge.good")).to_have_text("corrected")
    both = [
        each for each in store.judgements(["rating"], latest=False) if each.prompt[0].content == "Where is the otter?"
    ]
    assert [each.content["rating"] for each in both] == [1, -1]
    assert both[1].content["correction"] == "At the river. <b>Really</b>"
    answer, model = store.answers()[both[1].content["completion"]]
    assert answer == said_by_the_model(page)
    assert model == "tiny"


def test_a_conversation_survives_a_reload_and_can_be_taken_away(page: Page, real: str) -> None:
    certain(page)
    page.goto(real)
    ask(page, "Where is the zebra?")
    answered(page)
    shown = page.locator("#log").inner_text()
    page.reload()
    expect(page.locator(".message.user .body")).to_have_text("Where is the zebra?")
    assert page.locator("#log").inner_text() == shown
    with page.expect_download() as download:
        page.click("#export")
    rows = [json.loads(line) for line in Path(download.value.path()).read_text().splitlines()]
    conversations, dropped = to_conversations(rows)
    assert dropped == {}
    assert conversations[0].messages[0].content == "Where is the zebra?"
    assert conversations[0].messages[1].role == "assistant"
    page.click("#new")
    expect(page.locator("#welcome")).to_be_visible()
    page.click(".entry")
    expect(page.locator(".message.user .body")).to_have_text("Where is the zebra?")
    page.hover(".entries li")
    page.click("[aria-label^='Delete']")
    expect(page.locator(".entries li")).to_have_count(0)


def test_what_the_server_refuses_is_said(page: Page, real: str) -> None:
    page.goto(real)
    ask(page, "zebra " * 2000)
    expect(page.locator(".message.assistant .alert")).to_contain_text("context")
    expect(page.locator("#log")).to_have_attribute("aria-busy", "false")


def test_the_theme_turns_and_stays(page: Page, scripted: str) -> None:
    page.goto(scripted)
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("[aria-label='Change between light and dark']")
    after = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert after != before
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == after
