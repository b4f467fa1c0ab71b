"""Choosing a model in the MLflow UI, in a real browser: what docs/choosing-models.md walks through.

Screenshots are left in build/screenshots.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from upath import UPath

from orchestrator.storage import read_json
from orchestrator.tracking.figures import log_figures
from orchestrator.tracking.projection import Projection
from orchestrator.tracking.registry import Registry
from orchestrator.tracking.scores import log_test_scores
from orchestrator.tracking.views import publish_views
from tests.orchestrator.report_results import Maker, Size

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt install chromium"),
    pytest.mark.timeout(280),
]

SCREENSHOTS = Path(__file__).resolve().parents[2] / "build/screenshots"
PATIENCE_MS = 90_000
SEEN_BEFORE = """
localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
localStorage.setItem('mlflow.detectIssues.guidanceShown_v1', 'true');
localStorage.setItem('_mlflow_model_registry_promo_modal_dismissed_v1', 'true');
"""
"""What the UI remembers of a person who has closed its greetings."""
NAMES = ".ag-pinned-left-cols-container .ag-row[row-index='{}']"
CARD = "[data-testid='experiment-view-compare-runs-card']"
CELLS = ".ag-center-cols-container .ag-row[row-index='{}'] .ag-cell"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """A finished sweep with all that its commands leave in MLflow; numbers that nobody computed."""
    storage = tmp_path_factory.mktemp("seen")
    maker = Maker(storage, Size(rois=("V1v", "EBA"))).everything()
    projection = Projection(maker.ledger, maker.places.artifacts_uri)
    projection.sync(ended=True)
    log_test_scores(projection, read_json(maker.places.evaluation_file("encoding"))["rows"])
    trials = {f"{selected.key.target.slug}.{selected.method}": selected.trial for selected in maker.selection}
    for images, table in read_json(maker.places.evaluation_file("classification"))["sets"].items():
        rows = [row | {"set": images, "trial": trials[row["network"]]} for row in table["rows"] if row["target"]]
        log_test_scores(projection, rows)
    predictor = UPath(storage / "predictor")
    predictor.mkdir()
    (predictor / "model.json").write_text("{}")
    registry = Registry(projection)
    for selected in maker.selection:
        if selected.champion and selected.key.target.roi == "V1v":
            registry.register(selected.key, vars(selected), predictor)
            registry.point(selected.key, selected.trial, champion=True)
            registry.describe(
                selected.key.target, selected.trial, f"# {selected.key.target.name}\n\n## Limits\n\nMany."
            )
    png = io.BytesIO()
    Image.new("RGB", (320, 200), "teal").save(png, "PNG")
    log_figures(projection, {"encoding": png.getvalue()})
    publish_views(projection.client, projection.experiment_id, maker.plan)
    return maker


@pytest.fixture(scope="module")
def address(sweep: Maker) -> Iterator[str]:
    """What ``sweep.py ui`` says to open."""
    command = [sys.executable, "sweep.py", "ui", "small", "--storage", str(sweep.places.base), "--port", "5230"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield next(line.split()[1] for line in server.stdout if line.startswith("Open"))
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(PATIENCE_MS)
    context.add_init_script(SEEN_BEFORE)
    yield context
    context.close()


def opened(context: BrowserContext, link: str, wait_for: str = ".ag-center-cols-container .ag-row") -> Page:
    """A page of its own: one that changes only the part behind # would not load anew."""
    page = context.new_page()
    page.goto(link)
    page.wait_for_selector(wait_for)
    return page


def photographed(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.wait_for_timeout(1500)  # charts and columns move into place
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def rows(page: Page) -> list[str]:
    names = page.locator(".ag-pinned-left-cols-container .ag-row a").all_inner_texts()
    return [name for name in names if "/" in name]


def cells(page: Page, row: int) -> dict[str, str]:
    """Text by column's id."""
    found: dict[str, str] = page.locator(CELLS.format(row)).evaluate_all(
        "cells => Object.fromEntries(cells.map(cell => [cell.getAttribute('col-id'), cell.innerText]))"
    )
    return found


def view(address: str, key: str, chart: bool = False) -> str:
    link = re.sub(r"viewStateShareKey=[^&]*", f"viewStateShareKey={key}", address)
    return link + ("&compareRunsMode=CHART" if chart else "")


def test_ui_opens_on_the_best_models(sweep: Maker, context: BrowserContext, address: str) -> None:
    page = opened(context, address)
    best = {key: sweep.ledger.best(key)[0] for key in sweep.plan.studies}
    winner = max(best.values(), key=lambda record: record.value or 0)
    assert rows(page)[0] == winner.uid
    assert float(cells(page, 0)["metrics.`val/encoding_r`"]) == pytest.approx(winner.value, abs=1e-6)
    page.get_by_text(f"{len(best)} matching runs").wait_for()
    assert {"metrics.`test/encoding_r`", "tags.`roi`"} <= set(cells(page, 0))
    assert page.get_by_role("link", name="Curves of the best trials").count() == 1, "the description shows its links"
    photographed(page, "best")


def test_best_v1_model_is_the_first_line_of_its_view(sweep: Maker, context: BrowserContext, address: str) -> None:
    page = opened(context, view(address, "V1v"))
    of_v1 = [r for key in sweep.plan.studies if key.target.roi == "V1v" for r in sweep.ledger.study_records(key)]
    page.get_by_text(f"{len(of_v1)} matching runs").wait_for()
    shown = rows(page)
    assert all("/V1v/" in name for name in shown)
    best = max((r for r in of_v1 if r.state == "complete"), key=lambda record: record.value or 0)
    assert shown[0] == best.uid
    photographed(page, "V1v")


@pytest.mark.parametrize(
    ("key", "drawn", "words"),
    [
        ("search", 1, ("temperature", "layer_cutoff", "learning_rate", "val/encoding_r")),
        ("classification", 1, ("test/encoding_r", "classification/")),
        ("curves", 2, ("val/encoding_r", "train/loss")),
    ],
)
def test_charts_are_those_of_the_view_and_no_others(
    context: BrowserContext, address: str, key: str, drawn: int, words: tuple[str, ...]
) -> None:
    page = opened(context, view(address, key, chart=True), CARD)
    page.wait_for_function(f'document.querySelectorAll("{CARD} svg, {CARD} canvas").length >= {drawn}')
    page.wait_for_timeout(3000)  # whatever else the UI would add
    assert page.locator(CARD).count() == drawn
    text = " ".join(page.locator(CARD).all_text_contents())
    assert [word for word in words if word not in text] == []
    photographed(page, key)


def test_three_runs_are_compared(context: BrowserContext, address: str) -> None:
    page = opened(context, view(address, "V1v"))
    chosen = rows(page)[:3]
    for row in range(3):
        page.locator(NAMES.format(row) + " .ag-selection-checkbox input").check()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.wait_for_url("**/compare-runs*")
    page.get_by_text("Comparing 3 Runs").first.wait_for()
    for name in chosen:
        page.get_by_text(name).first.wait_for()
    photographed(page, "compare")


def test_figure_of_the_report_opens(sweep: Maker, context: BrowserContext, address: str) -> None:
    client = Projection(sweep.ledger, sweep.places.artifacts_uri).client
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    (report,) = client.search_runs([experiment.experiment_id], "tags.kind = 'report'")
    place = f"#/experiments/{experiment.experiment_id}/runs/{report.info.run_id}/artifacts/figures/encoding.png"
    page = opened(context, address.partition("#")[0] + place, "img[src^='blob:']")
    size = page.locator("img[src^='blob:']").first.evaluate("image => [image.naturalWidth, image.naturalHeight]")
    assert size == [320, 200]
    photographed(page, "figure")


def test_models_page_says_what_it_is(sweep: Maker, context: BrowserContext, address: str) -> None:
    champion = next(s for s in sweep.selection if s.champion and s.key.target.roi == "V1v")
    name = f"demo.{champion.key.target.slug}"
    page = opened(context, f"{address.partition('#')[0]}#/models/{name}", f"text={name}")
    page.get_by_text("@ champion").first.wait_for()
    version = opened(context, f"{address.partition('#')[0]}#/models/{name}/versions/1", "text=Limits")
    card = [version.get_by_role("heading", name=words).count() for words in (champion.key.target.name, "Limits")]
    assert card == [1, 1], "the card is drawn as Markdown"
    photographed(version, "model")
