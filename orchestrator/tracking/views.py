"""Ready-made views of a sweep in the MLflow UI: what to show, of which runs, in which order.

The UI keeps the views that people save as tags of the experiment; these are written the same way, so that they stand in
its menu "Views" by name and a link opens them. (Format: MLflow 3.17, looked at in a browser; a test opens each.)
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from mlflow import MlflowClient

from orchestrator.plan import SweepPlan
from orchestrator.tracking.client import connect, tracking_errors
from orchestrator.tracking.contents import FURTHER_SCORES
from orchestrator.tracking.figures import FOLDER, KIND, PAGE
from trainables.errors import ConfigError

PREFIX = "mlflow.sharedViewState."
NOTE = "mlflow.note.content"
SAVED_MS = 1_700_000_000_000
"""When a view was saved, as the UI sorts them; fixed, so that the same view is the same tag every time."""
BEST = "best"
"""The view that a link opens if nobody names another."""
TRIALS = "tags.kind = 'trial'"
BEST_TRIALS = "tags.best = 'true'"
PARETO_TRIALS = "tags.pareto = 'true'"

R, TEST_R = "metrics.`val/encoding_r`", "metrics.`test/encoding_r`"
RUN_NAME, CREATED, DURATION = "attributes.`Run Name`", "runDateAndNestInfo", "duration"
FIXED_WIDTHS = {RUN_NAME: 235, CREATED: 45, DURATION: 70}
"""Columns that the UI always shows; they can be narrow."""
PARAMETERS = [f"params.`{name}`" for name in ("temperature", "layer_cutoff", "learning_rate")]
PLACES = [f"tags.`{name}`" for name in ("subject", "hemisphere", "roi", "method")]
WIDTHS = {"tags.`subject`": 75, "tags.`hemisphere`": 65, "tags.`roi`": 70}
READOUT = "tags.`readout_layer`"
RUNS_IN_A_CHART = 100
LIVE_METRICS = ("val/encoding_r", "val/encoding_r_of_epoch", "train/loss", "train/images_per_second")


@dataclass(frozen=True)
class View:
    """A page of the UI."""

    key: str
    """What links and ``sweep.py ui --view`` call it."""
    name: str
    """What the menu "Views" calls it."""
    state: dict[str, Any]
    """As the UI keeps it."""
    is_chart: bool = False

    @property
    def tag(self) -> str:
        """Name of the experiment's tag that holds it."""
        return PREFIX + self.key

    def packed(self, place: int) -> str:
        """Value of the tag; ``place`` is the view's in the menu."""
        plain = json.dumps(self.state, separators=(",", ":"), sort_keys=True)
        state = "deflate;" + base64.b64encode(zlib.compress(plain.encode(), 9)).decode()
        moment = SAVED_MS - place
        return json.dumps({"name": self.name, "createdAt": moment, "updatedAt": moment, "state": state})

    def link(self, experiment_id: str) -> str:
        """Fragment of the link that opens it.

        It holds no filter and no order: with any of them the UI would not read the tag. Without the workflow it opens
        in a mode for language models.
        """
        query = {"viewStateShareKey": self.key, "workflowType": "machine_learning"}
        if self.is_chart:
            query["compareRunsMode"] = "CHART"
        return f"#/experiments/{experiment_id}/runs?{urlencode(query, quote_via=quote)}"


def views_of(plan: SweepPlan, metrics: Iterable[str] = ()) -> list[View]:
    """The views of a sweep, in the menu's order.

    Args:
        plan: of the sweep.
        metrics: names that its runs have besides those of every sweep. The UI adds a chart of each metric that a view
            does not know.
    """
    known = sorted({*LIVE_METRICS, *_layer_metrics(plan), *metrics})
    measured = [R, *(f"metrics.`{name}`" for name in known if name.startswith(("test/encoding_r", "classification/")))]
    trial_columns = [*measured, *PARAMETERS, READOUT, "tags.`state`"]
    views = [
        View(BEST, "Best model of every target and method", _table(BEST_TRIALS, [*measured, *PLACES, *PARAMETERS])),
        View(
            "search",
            "Temperature × cutoff × learning rate",
            _charts(f"{TRIALS} AND tags.method = 'contrastive'", trial_columns, [_parallel()], known),
            is_chart=True,
        ),
    ]
    if axes := _encoding_and_classification(known):
        cards = [_scatter(*axes)]
        views.append(
            View(
                "classification",
                "Encoding against classification",
                _charts(BEST_TRIALS if axes[1].startswith("test/") else TRIALS, trial_columns, cards, known),
                is_chart=True,
            )
        )
    if len(plan.scores) > 1:
        scores = [f"metrics.`{FURTHER_SCORES[name]}`" for name in plan.scores if name in FURTHER_SCORES]
        state = _table(PARETO_TRIALS, [R, *scores, *PLACES, *PARAMETERS])
        views.append(View("pareto", "Pareto set of select --by", state))
    curves = _charts(BEST_TRIALS, trial_columns, [_line("val/encoding_r"), _line("train/loss")], known, shown=20)
    views.append(View("curves", "Curves of the best trials", curves, is_chart=True))
    for roi in dict.fromkeys(target.roi for target in plan.targets):
        state = _table(f"{TRIALS} AND tags.roi = '{roi}'", trial_columns)
        views.append(View(roi, f"All trials of {roi}", state))
    return views


def publish_views(client: MlflowClient, experiment_id: str, plan: SweepPlan) -> list[View]:
    """Write the views and the experiment's description that links to them; the same again changes nothing.

    Raises:
        StorageError: MLflow cannot be written.
    """
    with tracking_errors(plan.tracking_uri):
        best = client.search_runs([experiment_id], BEST_TRIALS, max_results=RUNS_IN_A_CHART)
        views = views_of(plan, {name for run in best for name in run.data.metrics})
        there = client.get_experiment(experiment_id).tags
        for place, view in enumerate(views):
            value = view.packed(place)
            if there.get(view.tag) != value:
                client.set_experiment_tag(experiment_id, view.tag, value)
        report = client.search_runs([experiment_id], f"tags.kind = '{KIND}'", max_results=1)
        run_id = report[0].info.run_id if report else ""
        description = _description(plan, experiment_id, views, run_id)
        if there.get(NOTE) != description:
            client.set_experiment_tag(experiment_id, NOTE, description)
    return views


def view_link(plan: SweepPlan, wanted: str = BEST) -> str:
    """Fragment of a link to a view of a sweep, which is written again; empty if MLflow has no such sweep.

    Raises:
        ConfigError: the sweep has no view of that name.
        StorageError: MLflow cannot be reached.
    """
    client = connect(plan.tracking_uri)
    with tracking_errors(plan.tracking_uri):
        experiment = client.get_experiment_by_name(plan.name)
    if experiment is None:
        return ""
    views = {view.key: view for view in publish_views(client, experiment.experiment_id, plan)}
    if wanted not in views:
        raise ConfigError(f"--view is {wanted!r}; sweep {plan.name} has {', '.join(views)}")
    return views[wanted].link(experiment.experiment_id)


def _layer_metrics(plan: SweepPlan) -> list[str]:
    from trainables.models.backbone import backbone_spec  # imports torch, which `ui` alone does not need earlier

    return [f"val/encoding_r/{layer}" for layer in backbone_spec(plan.backbone).readout_layers]


def _encoding_and_classification(known: Sequence[str]) -> tuple[str, str] | None:
    """Metrics for the two axes: of every trial, if classification was measured while tuning, else of the evaluated."""
    if "val/classification_accuracy" in known:
        return "val/classification_accuracy", "val/encoding_r"
    measured = [name for name in known if name.startswith("classification/")]
    return (measured[0], "test/encoding_r") if measured and "test/encoding_r" in known else None


def _description(plan: SweepPlan, experiment_id: str, views: Sequence[View], report: str) -> str:
    """Markdown. The UI shows its first line until somebody opens the rest, so that is the links."""
    links = [f"[{view.name}]({view.link(experiment_id)})" for view in views]
    main = [link for link, view in zip(links, views, strict=True) if not view.name.startswith("All trials of")]
    if report:
        place = f"#/experiments/{experiment_id}/runs/{report}/artifacts"
        main += [f"[Report]({place}/{PAGE})", f"[Figures]({place}/{FOLDER})"]
    rois = [f"[{v.key}]({v.link(experiment_id)})" for v in views if v.name.startswith("All trials of")]
    what = (
        f"Sweep **{plan.name}** of {plan.dataset}: {len(plan.targets)} targets, {', '.join(plan.methods)}; "
        f"{plan.backbone} from {plan.weights_source} weights, protocol {plan.protocol}, split `{plan.split_digest}`."
    )
    how = (
        "`val/encoding_r` is the mean Pearson r over voxels on validation stimuli: choose by it. `test/…` was read "
        "once, after choosing. A run with the tag `kind` = `trial` is one trained network; `best` marks the best of "
        "its target and method, `champion` the best of its target."
    )
    return "\n\n".join([" · ".join(main), f"All trials of an ROI: {' · '.join(rois)}", what, how])


def _table(search: str, columns: Sequence[str]) -> dict[str, Any]:
    """A sorted list. Sorted by anything but dates it is flat; by dates the UI would put trials under their targets."""
    return {
        "searchFilter": search,
        "orderByKey": R,
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": list(columns),
        "columnOrder": [RUN_NAME, CREATED, *columns, DURATION],
        "columnWidths": {**FIXED_WIDTHS, **{column: WIDTHS.get(column, 90) for column in columns}},
        "groupBy": None,
        "runListHidden": False,
        "viewMaximized": False,
    }


def _charts(
    search: str,
    columns: Sequence[str],
    cards: Sequence[dict[str, Any]],
    metrics: Iterable[str],
    shown: int | None = None,
) -> dict[str, Any]:
    """Charts, and no others: a deleted one of each further metric keeps the UI from adding it."""
    section = {"uuid": "section", "name": "Charts", "display": True, "isReordered": True, "isGenerated": False}
    own = {"deleted": False, "isGenerated": False, "metricSectionId": "section", "runsCountToCompare": RUNS_IN_A_CHART}
    drawn = [{"uuid": f"card{number}", **own, **card} for number, card in enumerate(cards)]
    left_out = [
        {
            "uuid": f"no {m}",
            "type": "BAR",
            "metricKey": m,
            "deleted": True,
            "isGenerated": True,
            "metricSectionId": "no",
        }
        for m in metrics
        if m not in {card.get("metricKey") for card in cards}
    ]
    return {
        **_table(search, columns),
        "runListHidden": True,
        "runsHiddenMode": f"FIRST_{shown}_RUNS" if shown else "SHOW_ALL",
        "hideEmptyCharts": True,
        "isAccordionReordered": True,
        "compareRunSections": [{**section, "deleted": False, "columns": len(cards), "cardHeight": 430}],
        "compareRunCharts": drawn + left_out,
    }


def _parallel() -> dict[str, Any]:
    parameters = ["temperature", "layer_cutoff", "learning_rate"]
    return {
        "type": "PARALLEL",
        "showAllRuns": False,
        "selectedParams": parameters,
        "selectedMetrics": ["val/encoding_r"],
    }


def _scatter(x: str, y: str) -> dict[str, Any]:
    axes = {name: {"key": key, "type": "METRIC", "dataAccessKey": key} for name, key in (("xaxis", x), ("yaxis", y))}
    return {"type": "SCATTER", **axes}


def _line(metric: str) -> dict[str, Any]:
    return {
        "type": "LINE",
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "lineSmoothness": 0,
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
        "range": {},
    }
