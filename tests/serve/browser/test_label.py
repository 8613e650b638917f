"""Labelling in a browser: rank by mouse, keys and touch, write answers, skip, undo, come back; nothing lost or run."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from fledge.feedback import queue
from fledge.feedback.importing import add_rows
from fledge.feedback.people import consent, known_about, standing
from fledge.feedback.store import Store
from fledge.serve.keys import Keys
from fledge.serve.pages_feedback import GUIDELINE, words_of

ASKED = [{"role": "user", "content": "What does abs do? <script>window.hacked=1</script>"}]
ANSWERS = [{"text": text} for text in ("Alpha <img src=x onerror=window.hacked=1>", "Beta", "Gamma", "Delta")]


def emptied(store: Store) -> None:
    for table in ("judgements", "assignments", "tasks", "consents", "screenings"):
        with store.engine.begin() as connection:
            connection.exec_driver_sql(f"DELETE FROM {table}")


@pytest.fixture
def store(runs: Path) -> Iterator[Store]:
    """The store of the real server, where those who judge in the tests have agreed."""
    found = Store.open(runs / "feedback.db")
    emptied(found)
    for person in ("anyone", "ann", "bob"):
        consent(found, person, found.guideline(GUIDELINE, words_of("guideline.md")), True)
    yield found
    emptied(found)


def names(page: Page) -> list[str]:
    return [re.sub(r" .*", "", text, flags=re.S) for text in page.locator(".answer .prose").all_inner_texts()]


def answer(page: Page, name: str) -> Locator:
    return page.locator(".answer", has_text=name)


def places(page: Page) -> list[str]:
    return page.locator(".place").all_inner_texts()


def plain(text: str) -> str:
    """A random model's text without what a text area or a database cannot hold."""
    return re.sub(r"[\r\n\0\ufffd]", "?", text)


def become(page: Page, person: str) -> None:
    """Says who one is: what was open for nobody in particular is given back, and the task comes again."""
    page.fill(".me input", person)
    page.locator(".me input").press("Tab")
    expect(page.locator("#task")).to_have_attribute("data-for", person)
    expect(page.locator(".answer").first).to_be_visible()


def ranked(store: Store) -> dict[str, int]:
    texts = store.answers()
    said = store.judgements(["ranking"])[-1]
    return {
        texts[number][0].split()[0]: rank
        for number, rank in zip(said.content["completions"], said.content["ranks"], strict=True)
    }


def test_ranking_by_keys_with_ties_and_flags(page: Page, real: str, store: Store) -> None:
    queue.add_task(store, "rank", ASKED, ANSWERS)
    page.goto(f"{real}/label")
    expect(page.locator(".answer")).to_have_count(4)
    become(page, "ann")
    for place, name in enumerate(("Gamma", "Alpha", "Delta", "Beta"), 1):
        answer(page, name).focus()
        page.keyboard.press(str(place))
    assert names(page) == ["Gamma", "Alpha", "Delta", "Beta"]
    answer(page, "Beta").focus()
    page.keyboard.press("Alt+ArrowUp")
    assert names(page) == ["Gamma", "Alpha", "Beta", "Delta"]
    page.keyboard.press("t")
    assert places(page) == ["1", "2", "2", "3"]
    answer(page, "Delta").get_by_label("makes something up").check()
    page.select_option("[aria-label^='Quality']:below(:text('Gamma'))", "6")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".empty")).to_contain_text("All done")
    assert ranked(store) == {"Gamma": 0, "Alpha": 1, "Beta": 1, "Delta": 2}
    said = store.judgements(["ranking"])[-1]
    assert said.person == "ann"
    assert said.guideline == "1"
    assert said.seconds > 0
    assert list(said.content["flags"].values()) == [["hallucinated"]]
    assert list(said.content["quality"].values()) == [6]
    assert page.evaluate("window.hacked") is None


def test_ranking_by_dragging(page: Page, real: str, store: Store) -> None:
    queue.add_task(store, "rank", ASKED, ANSWERS)
    page.goto(f"{real}/label")
    expect(page.locator(".answer")).to_have_count(4)
    before = names(page)
    handle = page.locator(".answer .handle").first.bounding_box()
    last = page.locator(".answer").nth(3).bounding_box()
    assert handle
    assert last
    page.mouse.move(handle["x"] + 8, handle["y"] + 8)
    page.mouse.down()
    page.mouse.move(handle["x"] + 8, last["y"] + last["height"] - 4, steps=12)
    page.mouse.up()
    assert names(page) == [*before[1:], before[0]]
    page.click("#keep")
    expect(page.locator(".empty")).to_be_visible()
    assert ranked(store)[before[0]] == 3


def test_an_order_that_nobody_touched_is_doubted(page: Page, real: str, store: Store) -> None:
    queue.add_task(store, "rank", ASKED, ANSWERS)
    page.goto(f"{real}/label")
    page.click("#keep")
    expect(page.locator("#keep")).to_have_text("Keep it as it is")
    assert store.judgements(["ranking"]) == []
    page.click("#keep")
    expect(page.locator(".empty")).to_be_visible()
    assert len(store.judgements(["ranking"])) == 1


def test_skip_and_undo(page: Page, real: str, store: Store) -> None:
    queue.add_task(store, "rank", ASKED, ANSWERS)
    page.goto(f"{real}/label")
    page.click("#skip")
    page.get_by_label("The prompt makes no sense").check()
    page.click("dialog >> text=Skip it")
    expect(page.locator(".empty")).to_be_visible()
    assert store.judgements(["skip"])[-1].content == {"reason": "The prompt makes no sense"}
    page.click("#undo")
    expect(page.locator(".answer")).to_have_count(4)
    assert store.judgements(["skip"]) == []
    order = names(page)
    page.reload()  # closing the tab midway loses nothing: the same task, in the same order
    expect(page.locator(".answer")).to_have_count(4)
    assert names(page) == order


def test_a_lost_connection_loses_nothing(page: Page, real: str, store: Store) -> None:
    queue.add_task(store, "rank", ASKED, ANSWERS)
    page.goto(f"{real}/label")
    page.locator(".answer").nth(2).focus()
    page.keyboard.press("1")
    order = names(page)
    page.route("**/app/label/said", lambda route: route.abort())
    page.click("#keep")
    expect(page.locator("#page > .alert")).to_contain_text("try again")
    assert names(page) == order
    page.unroute("**/app/label/said")
    page.click("#keep")
    expect(page.locator(".empty")).to_be_visible()
    assert len(store.judgements(["ranking"], latest=False)) == 1


def test_demonstrating_with_a_suggestion(page: Page, real: str, store: Store) -> None:
    queue.add_task(store, "demonstrate", [{"role": "user", "content": "Where is the lion?"}])
    page.goto(f"{real}/label#demonstrate")
    page.click("#suggest")
    expect(page.locator("#suggest")).to_have_text("Suggest another")
    suggested = page.input_value("#answer")
    page.fill("#answer", "At the **river**.")
    expect(page.locator(".preview strong")).to_have_text("river")
    page.locator("#answer").press("Control+Enter")
    expect(page.locator(".empty")).to_contain_text("All done")
    said = store.judgements(["demonstration"])[-1]
    assert said.content["answer"] == "At the **river**."
    assert said.content["suggested_by"] == "tiny"
    assert plain(said.content["suggestion"]) == plain(suggested)


def test_tasks_are_added_from_a_file_and_the_team_is_shown(page: Page, real: str, store: Store, tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text('{"prompt": "One?", "completions": ["Alpha", "Beta", "Gamma"]}\n')
    page.goto(f"{real}/label")
    page.click(".adding summary")
    page.get_by_label("People for each").fill("2")
    page.set_input_files("#tasks-file", file)
    expect(page.locator(".answer")).to_have_count(3)
    for person in ("ann", "bob"):
        become(page, person)
        for place, name in enumerate(("Beta", "Alpha", "Gamma"), 1):
            answer(page, name).focus()
            page.keyboard.press(str(place))
        page.click("#keep")
        expect(page.locator(".empty")).to_be_visible()
    page.click("#mode-team")
    expect(page.locator(".facts dd").nth(0)).to_contain_text("100 %")
    expect(page.locator(".facts dd").nth(0)).to_contain_text("73 %")
    expect(page.locator(".facts dd").nth(1)).to_contain_text("1.00")
    expect(page.locator(".people tbody tr")).to_have_count(3)  # anyone agreed, but did nothing
    expect(page.get_by_role("img", name="Agreement of ann over time")).to_be_visible()


def test_ranking_works_on_a_phone(browser: Browser, real: str, store: Store) -> None:
    queue.add_task(store, "rank", ASKED, ANSWERS)
    context = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(f"{real}/label")
    expect(page.locator(".answer")).to_have_count(4)
    before = names(page)
    page.locator(".rise").nth(1).tap()
    assert names(page) == [before[1], before[0], *before[2:]]
    page.locator(".tie").nth(1).tap()
    assert places(page) == ["1", "1", "2", "3"]
    page.tap("#keep")
    expect(page.locator(".empty")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_labelling_is_accessible_while_there_is_work(browser: Browser, real: str, store: Store, theme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")
    queue.add_task(store, "rank", ASKED, ANSWERS, wanted=3)
    queue.add_task(store, "demonstrate", ASKED)
    for person in ("ann", "bob"):
        given = queue.next_task(store, person, ["rank"])
        assert given
        content = {"completions": [number for number, _ in given.answers], "ranks": [0, 1, 1, 2]}
        queue.submit(store, person, given.task, "ranking", content)
    size = {"width": 1280, "height": 800} if theme == "light" else {"width": 390, "height": 800}
    context = browser.new_context(viewport=size, color_scheme=theme)
    page = context.new_page()
    for mode, sign in (("rank", ".answer"), ("demonstrate", "#answer"), ("team", ".people")):
        page.goto(f"{real}/label#{mode}")
        expect(page.locator(sign).first).to_be_visible()
        found = axe.Axe().run(page).response["violations"]
        assert [(each["id"], [node["target"] for node in each["nodes"]]) for each in found] == [], mode
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), mode
    context.close()


def test_consent_is_asked_first_and_can_be_withdrawn(page: Page, real: str, store: Store) -> None:
    queue.add_task(store, "rank", ASKED, ANSWERS, wanted=2)
    page.goto(f"{real}/label")
    page.fill(".me input", "newcomer")
    page.locator(".me input").press("Tab")
    expect(page.locator(".consent")).to_contain_text("What is kept")
    expect(page.locator("#keep")).to_be_hidden()
    page.locator("#agree").press("Enter")
    expect(page.locator(".answer")).to_have_count(4)
    assert standing(store, "newcomer").agreed == GUIDELINE
    page.click("#your-data summary")
    page.click("#withdraw")
    page.click("dialog >> text=Withdraw >> nth=-1")
    expect(page.locator(".consent")).to_be_visible()
    assert standing(store, "newcomer").agreed == ""
    with page.expect_download() as taken:
        page.get_by_role("button", name="Take it away").click()
    assert taken.value.path().read_text().count('"consent"') == 2
    page.click("#erase")
    page.click("dialog >> text=Erase it")
    expect(page.locator("dialog")).to_have_count(0)
    expect(page.locator(".toast", has_text="erased")).to_be_visible()
    assert known_about(store, "newcomer") == []


def test_the_screening_test_comes_first_and_an_admin_lets_in(page: Page, real: str, store: Store) -> None:
    add_rows(store, [{"prompt": "Test?", "completions": ["Alpha", "Beta"], "ranks": [0, 1]}], screening=True)
    queue.add_task(store, "demonstrate", ASKED)
    page.goto(f"{real}/label#demonstrate")
    become(page, "ann")
    expect(page.locator("#progress")).to_have_text("Screening test: 1 of 1")
    answer(page, "Beta").focus()
    page.keyboard.press("1")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#task .empty")).to_contain_text("0 % of the pairs")
    page.click("#mode-team")
    page.click("text=Let in")
    expect(page.locator(".badge", has_text="let in")).to_be_visible()
    page.click("#mode-demonstrate")
    expect(page.locator("#answer")).to_be_visible()


def test_a_closed_tab_loses_no_work(page: Page, real: str, store: Store) -> None:
    queue.add_task(store, "rank", ASKED, ANSWERS)
    queue.add_task(store, "demonstrate", ASKED)
    page.goto(f"{real}/label")
    page.locator(".answer").nth(3).focus()
    page.keyboard.press("1")
    page.locator(".answer").nth(1).press("t")
    page.locator(".answer").nth(2).get_by_label("harmful").check()
    page.fill("#note", "half done")
    before = (names(page), places(page))
    page.goto(f"{real}/label#demonstrate")
    page.reload()
    page.fill("#answer", "Half an answ")
    other = page.context.new_page()
    page.close()
    other.goto(f"{real}/label#demonstrate")
    expect(other.locator("#answer")).to_have_value("Half an answ")
    other.click("#mode-rank")
    expect(other.locator(".answer")).to_have_count(4)
    assert (names(other), places(other)) == before
    expect(other.locator("#note")).to_have_value("half done")
    expect(other.locator(".answer").nth(2).get_by_label("harmful")).to_be_checked()
    other.click("#keep")
    expect(other.locator(".empty")).to_be_visible()
    other.click("#undo")  # what was taken back is there to be mended
    expect(other.locator("#note")).to_have_value("half done")
    assert names(other) == before[0]


def test_a_task_said_in_two_tabs_counts_once(page: Page, real: str, store: Store) -> None:
    queue.add_task(store, "demonstrate", ASKED)
    page.goto(f"{real}/label#demonstrate")
    other = page.context.new_page()
    other.goto(f"{real}/label#demonstrate")
    for tab, words in ((page, "first"), (other, "second")):
        tab.fill("#answer", words)
        tab.click("#keep")
    expect(other.locator(".toast", has_text="replaces what you said before")).to_be_visible()
    assert [said.content["answer"] for said in store.judgements(["demonstration"])] == ["second"]
    assert len(store.judgements(latest=False)) == 2


def test_ones_own_words_survive_a_suggestion_and_markup_is_text(page: Page, real: str, store: Store) -> None:
    queue.add_task(store, "demonstrate", ASKED)
    mine = "<img src=x onerror=window.hacked=1><script>window.hacked=1</script> [x](javascript:window.hacked=1)"
    page.goto(f"{real}/label#demonstrate")
    page.fill("#answer", mine)
    page.click("#suggest")
    expect(page.locator("#suggest")).to_have_text("Suggest another")
    page.click("#mine-again")
    expect(page.locator("#answer")).to_have_value(mine)
    expect(page.locator(".preview")).to_contain_text("<script>")
    page.click("#keep")
    expect(page.locator(".empty")).to_be_visible()
    assert store.judgements(["demonstration"])[0].content["answer"] == mine
    page.click("#mode-team")
    expect(page.locator(".people")).to_be_visible()
    assert page.evaluate("window.hacked") is None


def test_a_hundred_thousand_characters(page: Page, real: str, store: Store) -> None:
    long = "word and again. " * 6250
    queue.add_task(store, "rank", ASKED, [{"text": long}, {"text": "Short"}])
    queue.add_task(store, "demonstrate", ASKED)
    page.goto(f"{real}/label")
    expect(page.locator(".answer")).to_have_count(2)
    page.click("text=Show all 100,000 characters")
    expect(page.locator(".cut")).to_have_count(0)
    page.goto(f"{real}/label#demonstrate")
    page.reload()
    page.fill("#answer", long.strip() + "!")
    expect(page.locator("#size")).to_have_text("100,000 of 200,000 characters")
    page.click("#keep")
    expect(page.locator(".empty")).to_be_visible()
    assert len(store.judgements(["demonstration"])[0].content["answer"]) == 100_000


def test_a_lapsed_key_is_asked_for_again_and_the_work_is_kept(
    context: BrowserContext, keyed: tuple[str, Keys], tmp_path: Path
) -> None:
    address, keys = keyed
    key = keys.add("ann", "labeller")
    store = Store.open(tmp_path / "feedback.db")
    consent(store, "ann", store.guideline(GUIDELINE, words_of("guideline.md")), True)
    queue.add_task(store, "demonstrate", ASKED)
    page = context.new_page()
    page.goto(f"{address}/label#demonstrate")
    page.fill("dialog input", key)
    page.click("dialog >> text=Use this key")
    page.fill("#answer", "What I wrote")
    expect(page.locator("#mode-team")).to_be_hidden()  # a labeller sees no team
    keys.remove("ann")
    fresh = keys.add("ann", "labeller")
    page.click("#keep")
    page.fill("dialog input", fresh)
    page.click("dialog >> text=Use this key")
    expect(page.locator(".empty")).to_be_visible()
    assert [said.content["answer"] for said in store.judgements()] == ["What I wrote"]
