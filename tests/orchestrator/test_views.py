"""Views of the MLflow UI, as far as they can be read without one; tests/browser opens them."""

from __future__ import annotations

import base64
import json
import re
import zlib
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.plan import SweepPlan
from orchestrator.tracking.projection import Projection
from orchestrator.tracking.views import NOTE, publish_views, view_link, views_of
from tests.orchestrator.plans import EBA_CONTRASTIVE, V1_CONTRASTIVE, complete, open_ledger
from trainables.errors import ConfigError

LONGEST_TAG = 20_000


def state_of(tag: str) -> dict[str, Any]:
    """What the UI reads."""
    packed = json.loads(tag)["state"].removeprefix("deflate;")
    state: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(packed)))
    return state


def experiment_tags(projection: Projection) -> dict[str, str]:
    return dict(projection.client.get_experiment(projection.experiment_id).tags)


def test_every_view_is_written_and_linked_from_the_description(tracked_plan: SweepPlan) -> None:
    projection = Projection(open_ledger(tracked_plan), "file:///nowhere")
    views = publish_views(projection.client, projection.experiment_id, tracked_plan)
    assert [view.key for view in views] == ["best", "search", "curves", "V1v", "EBA"]
    tags = experiment_tags(projection)
    assert [state_of(tags[view.tag]) for view in views] == [view.state for view in views]
    assert max(map(len, tags.values())) < LONGEST_TAG
    linked = re.findall(r"\]\(([^)]+)\)", tags[NOTE])
    assert linked == [view.link(projection.experiment_id) for view in views]
    assert tags[NOTE].startswith("[Best model"), "the UI shows the first line alone"
    newest_first = sorted(views, key=lambda view: -json.loads(tags[view.tag])["createdAt"])
    assert newest_first == views
    publish_views(projection.client, projection.experiment_id, tracked_plan)
    assert experiment_tags(projection) == tags


def test_links_hold_no_filter_that_would_keep_the_ui_from_reading_the_view(tracked_plan: SweepPlan) -> None:
    links = {view.key: view.link("7") for view in views_of(tracked_plan)}
    assert links["V1v"] == "#/experiments/7/runs?viewStateShareKey=V1v&workflowType=machine_learning"
    assert links["search"].endswith("&workflowType=machine_learning&compareRunsMode=CHART")


def test_link_is_to_the_view_that_was_asked_for(tracked_plan: SweepPlan) -> None:
    assert view_link(tracked_plan) == ""
    Projection(open_ledger(tracked_plan), "file:///nowhere")
    assert "viewStateShareKey=EBA&" in view_link(tracked_plan, "EBA")
    with pytest.raises(ConfigError, match="--view is 'V9'; sweep small has best, search, curves, V1v, EBA"):
        view_link(tracked_plan, "V9")


def test_metrics_that_runs_have_become_columns_and_axes(tracked_plan: SweepPlan) -> None:
    plain = {view.key for view in views_of(tracked_plan)}
    views = {view.key: view for view in views_of(tracked_plan, ("test/encoding_r", "classification/caltech"))}
    assert set(views) - plain == {"classification"}
    (card,) = [card for card in views["classification"].state["compareRunCharts"] if not card["deleted"]]
    assert (card["xaxis"]["key"], card["yaxis"]["key"]) == ("classification/caltech", "test/encoding_r")
    assert "metrics.`test/encoding_r`" in views["best"].state["selectedColumns"]


def test_sweep_with_several_scores_has_a_view_of_their_pareto_set(tracked_plan: SweepPlan) -> None:
    assert "pareto" not in {view.key for view in views_of(tracked_plan)}
    plan = replace(tracked_plan, scores=("encoding", "classification"), labelled="/data/caltech")
    (view,) = [view for view in views_of(plan) if view.key == "pareto"]
    assert view.state["searchFilter"] == "tags.pareto = 'true'"
    assert "metrics.`val/classification_accuracy`" in view.state["selectedColumns"]


def test_best_trial_of_each_study_is_marked_and_no_former_one(tracked_plan: SweepPlan) -> None:
    ledger = open_ledger(tracked_plan)
    first, other = ledger.ask(V1_CONTRASTIVE), ledger.ask(EBA_CONTRASTIVE)
    complete(ledger, first, {9: 0.2})
    complete(ledger, other, {9: 0.1})
    projection = Projection(ledger, "file:///nowhere")
    projection.sync()

    def marked() -> set[str]:
        found = projection.client.search_runs([projection.experiment_id], "tags.best = 'true'")
        return {run.data.tags["sweep.trial"] for run in found}

    assert marked() == {first.uid, other.uid}
    better = ledger.ask(V1_CONTRASTIVE)
    complete(ledger, better, {9: 0.3})
    Projection(ledger, "file:///nowhere").sync(ended=True)  # another process: what is marked stands in MLflow
    assert marked() == {better.uid, other.uid}
