"""The page as a whole: what is on it, what it loads, what it says of what is missing."""

from __future__ import annotations

import base64
import csv
import io
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image
from rich.console import Console

from orchestrator.plan import SweepPlan
from orchestrator.report import write_report
from orchestrator.report.layers import layers_section
from orchestrator.report.page import make_sections
from orchestrator.report.parts import Section
from orchestrator.report.results import Results, read_results
from orchestrator.tracking.figures import log_figures
from orchestrator.tracking.projection import Projection
from tests.orchestrator.plans import open_ledger
from tests.orchestrator.report_results import GROUPS, Maker, Size
from trainables.errors import StorageError

TITLES = {
    "leaderboard": "Leaderboard",
    "methods": "Methods per ROI",
    "layers": "Layer × ROI",
    "voxels": "Voxels",
    "transfer": "Transfer",
    "pooled": "Pooled subjects",
    "classification": "Classification kept",
    "information": "Information and retrieval",
    "landscape": "Landscape",
    "salience": "Salience",
    "search": "What the search found",
    "published": "Beside the published figures",
}
WITHOUT_FIGURE = {"published"}
NASTY = "<script>alert(1)</script> & $x$"


class Page(HTMLParser):
    """What a browser would find: tags with attributes, text of tables, and text outside scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.csv: dict[str, str] = {}
        self.text = ""
        self._table = ""
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag in ("script", "style", "h2"):
            self._inside.append(tag)
        if tag == "h3":
            self._table = str(found["id"]).removeprefix("table-")
            self.tables[self._table] = []
        if tag == "a" and "download" in found:
            self.csv[self._table] = str(found["href"])
        if tag == "tr":
            self.tables[self._table].append([])
        if tag in ("td", "th"):
            self.tables[self._table][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._inside):
            self.text += data
            if self.tags and self.tags[-1][0] in ("td", "th") and data.strip():
                self.tables[self._table][-1][-1] += data

    def csv_rows(self, table: str) -> list[list[str]]:
        header, content = self.csv[table].split(",", 1)
        assert header == "data:text/csv;charset=utf-8;base64"
        return list(csv.reader(io.StringIO(base64.b64decode(content).decode())))


def quiet() -> Console:
    return Console(file=io.StringIO(), width=10_000)


@pytest.fixture(scope="module")
def page(made: Maker, sections: dict[str, Section]) -> Page:
    """The page as it is on disk, from sections that are made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.report.page.make_sections", lambda _: list(sections.values()))
        path = write_report("small", str(made.places.base), quiet())
    assert str(path) == str(made.places.root / "report.html")
    return Page(path.read_text())


def test_complete_results_fill_every_section(page: Page, sections: dict[str, Section]) -> None:
    anchors = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert {str(anchor): sections[str(anchor)].title for anchor in anchors} == TITLES
    links = {attributes["href"] for tag, attributes in page.tags if tag == "a" and "download" not in attributes}
    assert links == {f"#{anchor}" for anchor in TITLES}
    for anchor, section in sections.items():
        assert section.tables, anchor
        assert bool(section.all_pictures) != (anchor in WITHOUT_FIGURE), anchor
        assert section.title in page.text
        assert bool(section.missing) == (anchor == "published"), anchor  # nested is not what was published


def test_every_table_downloads_what_it_shows(page: Page, sections: dict[str, Section]) -> None:
    tables = [table for section in sections.values() for table in section.tables]
    assert {table.name for table in tables} == set(page.tables) == set(page.csv)
    assert len({table.name for table in tables}) == len(tables)
    for table in tables:
        header, *rows = page.csv_rows(table.name)
        assert header == [column.heading for column in table.columns] == page.tables[table.name][0]
        assert rows == [["" if cell is None else str(cell) for cell in row] for row in table.rows]
        assert len(page.tables[table.name]) == len(rows) + 1
        assert len(page.tables[table.name][1]) == len(header)
        assert table.basis
        assert table.basis in page.text


def test_page_loads_nothing(page: Page, made: Maker) -> None:
    attributes = [value for _, found in page.tags for name, value in found.items() if name in ("src", "href", "srcset")]
    assert all(value is not None and value.startswith(("data:", "#")) for value in attributes)
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "base"}
    (policy,) = [str(a["content"]) for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    style = (made.places.root / "report.html").read_text().split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_every_figure_is_in_mlflow(page: Page, made: Maker, sections: dict[str, Section], tmp_path: Path) -> None:
    client = MlflowClient(made.plan.tracking_uri)
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.kind = 'report'")
    assert run.info.status == "FINISHED"
    assert run.data.tags["split.digest"] == made.plan.split_digest
    found = {file.path for file in client.list_artifacts(run.info.run_id, "figures")}
    pictures = [picture for section in sections.values() for picture in section.all_pictures]
    assert len({picture.name for picture in pictures}) == len(pictures)
    assert found == {f"figures/{picture.name}.png" for picture in pictures}
    folder = Path(client.download_artifacts(run.info.run_id, "figures", str(tmp_path)))
    for picture in pictures:
        with Image.open(folder / f"{picture.name}.png") as image:
            assert image.width == 960
            assert len(np.unique(np.asarray(image.convert("L")))) > 5, f"{picture.name} is blank"
    shown = [str(a["src"]) for tag, a in page.tags if tag == "img"]
    assert {picture.uri for section in sections.values() for picture in section.pictures} <= set(shown)


def test_second_report_replaces_the_figures_of_the_first(tracked_plan: SweepPlan, tmp_path: Path) -> None:
    projection = Projection(open_ledger(tracked_plan), (tmp_path / "artifacts").as_uri())
    run_id = log_figures(projection, {"a": b"1", "b": b"2"})
    assert log_figures(projection, {"b": b"3"}) == run_id
    assert [file.path for file in projection.client.list_artifacts(run_id, "figures")] == ["figures/b.png"]
    assert Path(projection.client.download_artifacts(run_id, "figures/b.png", str(tmp_path))).read_bytes() == b"3"
    projection.sync(ended=True)  # trials do not mind that run


def test_missing_files_are_named_with_their_command(tmp_path: Path, empty_database: Path) -> None:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    maker = Maker(tmp_path, Size(rois=("V1v",), trials=1))
    sections = {section.anchor: section for section in make_sections(read_results("small", f"{tmp_path}"))}
    assert set(sections) == set(TITLES)
    place = f"--storage {tmp_path}"
    evaluate = f"`python sweep.py select small {place}` and then `python sweep.py evaluate small --evaluations"
    makes = {
        "methods": "encoding",
        "layers": "encoding",
        "voxels": "encoding",
        "transfer": "transfer",
        "pooled": "encoding",
        "classification": "classification --labelled DIR",
        "information": "information",
        "landscape": "landscape --labelled DIR",
        "salience": "salience",
    }
    for anchor, asked in makes.items():
        (sentence, *_) = sections[anchor].missing
        assert f"{evaluate} {asked} {place}` makes it." in sentence
        assert not sections[anchor].all_pictures
    for anchor in ("leaderboard", "search"):
        assert f"`python sweep.py resume small {place}` goes on" in sections[anchor].missing[0]
    text = write_report("small", str(tmp_path), quiet()).read_text()
    assert f"<code>python sweep.py resume small {place}</code>" in text
    assert "have not ended" in text
    assert len(text) < 60_000  # no interactive figure, so not its library either
    assert maker.plan.split_digest in text


def test_names_are_shown_and_never_run(tmp_path: Path, empty_database: Path) -> None:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    GROUPS[NASTY] = "words"
    try:
        maker = Maker(tmp_path, Size(subjects=("subj01",), rois=(NASTY,), trials=1), dataset=NASTY)
        maker.run_trials()
        maker.transfer()
        maker.classification()
        maker.landscape()
        text = write_report("small", str(tmp_path), quiet()).read_text()
    finally:
        del GROUPS[NASTY]
    assert "<script>alert" not in text
    assert "alert(1)</script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; $x$" in text
    page = Page(text)
    assert NASTY in page.text
    scripts = [tag for tag, _ in page.tags if tag == "script"]
    assert len(scripts) == 2  # the library, and the one figure of the landscape


def test_damaged_file_is_told_in_one_sentence(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{name: value for name, value in row.items() if name != "layer"} for row in results.rows("layers")]
    lacking = replace(results, files={**results.files, "layers": {"protocol": "nested", "split": "x", "rows": rows}})
    monkeypatch.setattr("orchestrator.report.page.SECTIONS", (layers_section,))
    with pytest.raises(StorageError, match="'layer'.*evaluate again"):
        make_sections(lacking)


def test_tracking_server_that_is_away_costs_no_page(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database" * 100)
    Maker(tmp_path, Size(subjects=("subj01",), rois=("V1v",), trials=1))
    console = quiet()
    assert write_report("small", str(tmp_path), console).exists()
    assert isinstance(console.file, io.StringIO)
    assert "figures are not in MLflow" in console.file.getvalue()


def test_pictures_outside_the_evaluation_are_not_read(results: Results) -> None:
    assert results.image("../plan.json") is None
    assert results.image(str(results.storage.plan_file)) is None
