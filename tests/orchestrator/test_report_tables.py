"""Numbers of the report's tables against the files that they come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.report.comparisons import interval_of
from orchestrator.report.encoding import leaderboard_section, methods_section
from orchestrator.report.importance import importances
from orchestrator.report.page import make_sections
from orchestrator.report.parts import Section
from orchestrator.report.pooled import pooled_section
from orchestrator.report.published import ENCODING, published_section
from orchestrator.report.results import Results, read_results
from orchestrator.report.salience import salience_section
from orchestrator.report.transfer import transfer_section
from orchestrator.storage import read_json
from tests.orchestrator.report_results import GROUPS, Maker, Size
from tests.orchestrator.tables import only_table, records


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


def test_each_comparison_of_the_hemispheres_says_what_it_can(
    made: Maker, results: Results, sections: dict[str, Section]
) -> None:
    section = sections["salience"]
    says = {table.name: table.note for table in section.tables}
    assert "any two models do" in says["lateralisation"]
    assert "dealt out at random" in says["lateralisation_voxels"]
    assert "brains in general" in says["lateralisation_subjects"]
    voxels = records(only_table(section, "lateralisation_voxels"))
    assert [row["spread of exchanges"] for row in voxels] == [0.011] * len(made.size.subjects) * 4
    content = {**(results.files["salience"] or {}), "lateralisation_voxels": [], "lateralisation_subjects": []}
    alone = salience_section(replace(results, files={**results.files, "salience": content}))
    assert [table.name for table in alone.tables] == ["lateralisation"]
    assert any("two subjects" in sentence for sentence in alone.missing)


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


def test_weights_of_a_file_stand_beside_published_ones_with_a_remark(results: Results) -> None:
    plan = replace(results.plan, protocol="published-b", dataset="nsd", space="published", trials=1)
    encoding = {**(results.files["encoding"] or {}), "protocol": "published-b"}
    files = {**results.files, "encoding": encoding}
    own = {}
    for source in ("imagenet", "mine.safetensors", "random"):
        section = published_section(replace(results, plan=replace(plan, weights_source=source), files=files))
        own[source] = [row["own r"] for row in records(only_table(section, "published_b"))], section.missing
    assert own["mine.safetensors"][0] == own["imagenet"][0]
    assert None not in own["imagenet"][0]
    assert own["imagenet"][1] == ()
    (remark,) = own["mine.safetensors"][1]
    assert "file mine.safetensors (content fedcba987654)" in remark
    assert "cannot be verified" in remark
    assert set(own["random"][0]) == {None}
    assert "left out" in own["random"][1][0]


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
