"""The page of runs: what is done and what goes on, its curves and answers, what was made from what."""

import json
import os
import shutil
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from playwright.sync_api import Page, expect

from fledge.core.log import Log
from fledge.serve.pages_runs import Reports, runs_router


def test_a_finished_run_is_told(page: Page, real: str) -> None:
    page.goto(f"{real}/runs")
    expect(page.locator(".timeline li")).to_have_count(12)
    page.click("#step-ppo")
    expect(page.locator(".step-view h2")).to_have_text("ppo")
    expect(page.locator("figcaption b").first).to_have_text("loss")
    expect(page.locator(".step-view figcaption b", has_text="reward").first).to_be_visible()
    expect(page.locator(".turn.user").first).to_contain_text("Tell me about")
    assert page.locator(".chart").count() >= 4
    assert page.url.endswith("#pydoc/ppo")
    page.reload()
    expect(page.locator(".step-view h2")).to_have_text("ppo")


def test_a_run_in_the_making_is_followed_live(page: Page, real: str, runs: Path) -> None:
    run, work = runs / "live", runs / "live" / ".sft.work"
    shutil.copytree(runs / "pydoc" / "pretrain", run / "pretrain")
    work.mkdir(parents=True)
    (run / "configs").mkdir()
    (run / "configs" / "sft.yaml").write_text(f"model: {run}/pretrain\nepochs: 3\n")
    (work / "fingerprint").write_text("0" * 16)
    (run / ".lock").write_text(str(os.getpid()))
    log = Log(work, quiet=True)
    try:
        log.metrics(5, loss=4.5)
        log.metrics(10, loss=3.5)
        with log.progress(100, "sft") as bar:
            bar.update(25)
        page.goto(f"{real}/runs#live")
        expect(page.locator(".run-head .badge").first).to_have_text("running")
        expect(page.locator(".step-view h2")).to_have_text("sft")
        expect(page.locator(".step-view [role=progressbar]")).to_have_attribute("aria-valuenow", "25")
        expect(page.locator("figcaption .value").first).to_have_text("3.5")
        expect(page.locator(".origin a").first).to_have_text("pretrain")
        log.metrics(15, loss=2.5)  # and it comes by itself
        expect(page.locator("figcaption .value").first).to_have_text("2.5")
    finally:
        shutil.rmtree(run)


@pytest.fixture
def client(runs: Path) -> TestClient:
    app = FastAPI()
    app.include_router(runs_router(runs, Reports()))
    return TestClient(app)


def test_metrics_are_read_from_where_one_was(client: TestClient, runs: Path) -> None:
    path = "/app/runs/pydoc/steps/sft/metrics"
    first = client.get(path).json()
    lines = (runs / "pydoc" / "sft" / "metrics.jsonl").read_text().splitlines()
    assert first["rows"] == [json.loads(line) for line in lines]
    assert client.get(path, params={"since": first["next"]}).json() == {"rows": [], "next": len(lines)}
    again = client.get(path, params={"since": first["next"] + 5}).json()  # the file was rewound
    assert len(again["rows"]) == len(lines)


def test_names_never_become_paths(client: TestClient, runs: Path) -> None:
    secret = runs.parent / "secret"
    secret.mkdir(exist_ok=True)
    (secret / "metrics.jsonl").write_text('{"step": 1}\n')
    for path in ("..", "%2e%2e", "pydoc/steps/..%2f..%2fsecret/metrics", "pydoc/steps/%2e%2e/metrics", "nothing"):
        assert client.get(f"/app/runs/{path}").status_code in (404, 405), path


def test_lineage_follows_the_configs(client: TestClient, runs: Path) -> None:
    run = runs / "family"
    for name, config in {
        "curate": {"documents": "/etc/hostname"},
        "pretrain": {"documents": "elsewhere/family/curate/train.parquet", "mixture": {"a": 1}},
        "evaluate": {"models": {"base": "elsewhere/family/pretrain"}, "note": "not/a/path"},
    }.items():
        shutil.copytree(runs / "pydoc" / "curate", run / name)
        artifact = json.loads((run / name / "artifact.json").read_text()) | {"step": name, "config": config}
        (run / name / "artifact.json").write_text(json.dumps(artifact))
    try:
        steps = {step["name"]: step for step in client.get("/app/runs/family").json()["steps"]}
    finally:
        shutil.rmtree(run)
    assert steps["pretrain"]["inputs"] == ["curate"]
    assert steps["evaluate"]["inputs"] == ["pretrain"]
    assert steps["curate"]["outside"] == ["/etc/hostname"]


def test_the_report_opens_without_a_key_for_a_while(page: Page, real: str, runs: Path) -> None:
    (runs / "pydoc" / "report").mkdir(exist_ok=True)
    shutil.copy(runs / "pydoc" / "curate" / "artifact.json", runs / "pydoc" / "report" / "artifact.json")
    (runs / "pydoc" / "report" / "report.html").write_text(
        "<!doctype html><style>h1 { color: red }</style><h1>It flew</h1>"
    )
    try:
        page.goto(f"{real}/runs#pydoc")
        with page.expect_popup() as popup:
            page.click("#report")
        expect(popup.value.locator("h1")).to_have_text("It flew")
        assert popup.value.evaluate("getComputedStyle(document.querySelector('h1')).color") == "rgb(255, 0, 0)"
    finally:
        shutil.rmtree(runs / "pydoc" / "report")
