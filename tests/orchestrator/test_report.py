from __future__ import annotations

import base64
import csv
import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image
from rich.console import Console

from orchestrator.plan import SweepPlan
from orchestrator.report import write_report
from orchestrator.report.comparisons import interval_of
from orchestrator.report.encoding import leaderboard_section, methods_section
from orchestrator.report.importance import importances
from orchestrator.report.layers import layers_section
from orchestrator.report.page import make_sections
from orchestrator.report.parts import Section, Table
from orchestrator.report.pooled import pooled_section
from orchestrator.report.published import ENCODING, published_section
from orchestrator.report.results import Results, read_results
from orchestrator.report.transfer import transfer_section
from orchestrator.storage import read_json
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
def made(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Maker:
    """A sweep with every result, read by several tests and changed by none."""
    storage = tmp_path_factory.mktemp("complete")
    shutil.copy(empty_database, storage / "mlflow.db")
    return Maker(storage, Size()).everything()


@pytest.fixture(scope="module")
def results(made: Maker) -> Results:
    return read_results("small", str(made.places.base))


@pytest.fixture(scope="module")
def sections(results: Results) -> dict[str, Section]:
    return {section.anchor: section for section in make_sections(results)}


@pytest.fixture(scope="module")
def page(made: Maker, sections: dict[str, Section]) -> Page:
    """The page as it is on disk, from sections that are made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.report.page.make_sections", lambda _: list(sections.values()))
        path = write_report("small", str(made.places.base), quiet())
    assert str(path) == str(made.places.root / "report.html")
    return Page(path.read_text())


def only_table(section: Section, name: str) -> Table:
    (table,) = [table for table in section.tables if table.name == name]
    return table


def records(table: Table) -> list[dict[str, Any]]:
    return [dict(zip([c.heading for c in table.columns], row, strict=True)) for row in table.rows]


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


@pytest.mark.parametrize(
    "evaluation, make",
    [("statistics", methods_section), ("encoding", pooled_section), ("transfer", pooled_section)],
)
def test_one_missing_file_leaves_the_rest_of_its_section(
    results: Results, evaluation: str, make: Callable[[Results], Section]
) -> None:
    section = make(replace(results, files={**results.files, evaluation: None}))
    assert any("ot computed yet" in sentence for sentence in section.missing)
    assert section.tables


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


def test_leaderboard_holds_the_best_trials(made: Maker, results: Results) -> None:
    table = records(only_table(leaderboard_section(results), "leaderboard"))
    assert len(table) == len(made.plan.studies)
    for key in made.plan.studies:
        values = [r.value for r in made.ledger.study_records(key) if r.state == "complete" and r.value is not None]
        (row,) = [row for row in table if (row["target"], row["method"]) == (key.target.name, key.method)]
        assert row["val r"] == max(values)
    assert "optimistic" in only_table(leaderboard_section(results), "leaderboard").basis


def test_methods_table_is_the_mean_over_targets(made: Maker, sections: dict[str, Section]) -> None:
    rows = read_json(made.places.evaluation_dir / "encoding.json")["rows"]
    table = records(only_table(sections["methods"], "methods"))
    assert len(table) == len(made.size.rois) * 5
    for row in table:
        scores = {
            method: [r["test_r"] for r in rows if r["roi"] == row["ROI"] and r["method"] == method]
            for method in (row["method"], "untuned")
        }
        assert row["test r"] == pytest.approx(np.mean(scores[row["method"]]))
        assert row["targets"] == len(scores[row["method"]]) == 4
        if row["method"] != "untuned":
            assert row["less untuned"] == pytest.approx(np.mean(scores[row["method"]]) - np.mean(scores["untuned"]))


def test_interval_is_students() -> None:
    from scipy import stats

    values = [0.31, 0.35, 0.29, 0.41]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert interval_of(values) == pytest.approx((low, high))
    assert interval_of([0.3]) is None


def test_layer_table_reads_networks_at_home(made: Maker, sections: dict[str, Section]) -> None:
    rows = read_json(made.places.evaluation_dir / "layers.json")["rows"]
    for row in records(only_table(sections["layers"], "layers")):
        scores = []
        for r in rows:
            home = r["network"] == f"{r['subject']}-{r['hemisphere']}-{r['roi']}.{r['method']}"
            if (r["method"], r["roi"], r["layer"]) == (row["method"], row["ROI"], row["layer"]):
                scores += [r["test_r"]] if home or r["method"] == "untuned" else []
        assert row["test r"] == pytest.approx(np.mean(scores))
        assert row["scores averaged"] == len(scores)


def test_voxel_table_counts_voxels(made: Maker, sections: dict[str, Section]) -> None:
    folder = made.places.evaluation_dir / "encoding"
    for row in records(only_table(sections["voxels"], "voxels")):
        rois = [roi for roi in made.size.rois if GROUPS[roi] == row["ROI group"]]
        places = [f"{s}-{h}-{roi}" for s in made.size.subjects for h in ("lh", "rh") for roi in rois]
        untuned, tuned = (
            np.concatenate([np.load(str(folder / place / f"{method}.npz"))["r"] for place in places])
            for method in ("untuned", "contrastive")
        )
        assert row["voxels"] == len(untuned)
        assert row["% above untuned"] == pytest.approx(100 * sum(tuned > untuned) / len(tuned))
        assert row["mean difference"] == pytest.approx((tuned - untuned).mean())


def test_pooled_networks_are_compared_on_the_same_targets(made: Maker, results: Results) -> None:
    encoding = read_json(made.places.evaluation_dir / "encoding.json")
    first = made.size.subjects[0]
    kept = [r for r in encoding["rows"] if r["subject"] == first or not r["method"].startswith("pooled")]
    section = pooled_section(replace(results, files={**results.files, "encoding": {**encoding, "rows": kept}}))
    for row in records(only_table(section, "pooled")):
        same = [
            r["test_r"]
            for r in kept
            if (r["subject"], r["roi"], r["method"]) == (first, row["ROI"], row["method"])  # no pooled r of the other
        ]
        assert row["test r"] == pytest.approx(np.mean(same))
        assert row["targets"] == len(same) == 2


def test_results_of_another_split_are_told(results: Results) -> None:
    odd = {**(results.files["transfer"] or {}), "split": "feedfacefeedface"}
    section = transfer_section(replace(results, files={**results.files, "transfer": odd}))
    assert "split feedfacefeedface (not the sweep's own)" in section.tables[0].basis


def test_published_figures_stand_beside_own_ones_of_the_same_protocol_alone(results: Results) -> None:
    nested = published_section(results)
    assert "protocol is nested" in nested.missing[0]
    assert {row["own r"] for table in nested.tables[:2] for row in records(table)} == {None}
    plan = replace(
        results.plan,
        protocol="published-b",
        dataset="nsd",
        weights_source="imagenet",
        space="published",
        trials=1,
        scores=("encoding",),
    )
    encoding = {**(results.files["encoding"] or {}), "protocol": "published-b", "optimistic": "layers are chosen there"}
    section = published_section(replace(results, plan=plan, files={**results.files, "encoding": encoding}))
    assert not section.missing
    other, same = only_table(section, "published_a"), only_table(section, "published_b")
    assert {row["own r"] for row in records(other)} == {None}
    assert "optimistic: layers are chosen there" in same.basis
    for row in records(same):
        groups = {"early": ["early"], "higher": ["faces"], "all": ["early", "faces"]}[row["ROIs"]]
        own = [r["test_r"] for r in encoding["rows"] if r["method"] == row["method"] and GROUPS[r["roi"]] in groups]
        assert row["published r"] == ENCODING["published-b"][row["method"]][row["ROIs"]]
        assert row["own r"] == pytest.approx(np.mean(own))


def test_importance_finds_the_setting_that_mattered(tmp_path: Path) -> None:
    maker = Maker(tmp_path, Size(subjects=("subj01",), rois=("V1v",), trials=12), methods=("contrastive", "untuned"))
    for key, budget in maker.plan.studies.items():
        for _ in range(budget):
            trial = maker.ledger.ask(key)
            level = 0.5 if key.target.hemisphere == "lh" else 0.1  # must not count
            score = level + 0.1 * float(np.log10(trial.config.temperature))
            maker.ledger.finish(trial, "complete", score, {"readout_layer": "features.2", "r_by_layer": {}})
    (found,) = importances(read_results("small", str(tmp_path)))
    assert (found.method, found.roi_group, found.n_trials, found.n_studies) == ("contrastive", "early", 24, 2)
    assert found.shares["temperature"] > 0.8
    assert sum(found.shares.values()) == pytest.approx(1)


def test_sweep_without_tuned_networks_has_a_page(tmp_path: Path) -> None:
    maker = Maker(tmp_path, Size(subjects=("subj01",), rois=("V1v",)), methods=("untuned",))
    maker.run_trials()
    maker.classification()
    content = read_json(maker.places.evaluation_dir / "classification.json")
    (images,) = content["sets"].values()
    images["rows"] = [row for row in images["rows"] if row["method"] == "untuned"]
    results = read_results("small", str(tmp_path))
    sections = {
        section.anchor: section
        for section in make_sections(replace(results, files={**results.files, "classification": content}))
    }
    assert "tunes nothing" in sections["search"].missing[0]
    assert len(only_table(sections["classification"], "classification_caltech101").rows) == 1
    assert "this sweep tunes none" in sections["information"].missing[0]


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
