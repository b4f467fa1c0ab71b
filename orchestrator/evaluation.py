"""Scores selected models on test stimuli: the only place where test responses are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from orchestrator.cell_scoring import score_cells
from orchestrator.cells import OPTIMISTIC, SHARED, Cell, CellKey
from orchestrator.comparisons import compare_methods
from orchestrator.information_evaluation import information_rows, why_no_information
from orchestrator.labelled_evaluation import classify_networks, landscapes
from orchestrator.ledger import Ledger
from orchestrator.networks import UNTUNED, Network, network_name, networks_of, places_of, subjects_of
from orchestrator.opening import open_sweep
from orchestrator.plan import SweepPlan
from orchestrator.registry_cards import update_cards
from orchestrator.salience_evaluation import salience_of_networks
from orchestrator.selected import Selected, read_selection
from orchestrator.storage import SweepStorage, write_arrays, write_json
from orchestrator.tasks import TaskRunner
from orchestrator.tracking.projection import Projection
from orchestrator.tracking.registry import Registry
from orchestrator.tracking.scores import log_test_scores
from orchestrator.tracking.views import publish_views
from orchestrator.transfer_evaluation import external_keys, former_external_rows, transfer_keys, transfer_rows
from trainables.data.splits import NESTED, PUBLISHED
from trainables.encoding.scores import noise_normalised_r2
from trainables.errors import ConfigError
from trainables.evaluations.encoding import voxels_improved

EVALUATIONS = ("encoding", "transfer", "information", "classification", "landscape", "salience")
DEFAULT = ("encoding", "transfer", "information")
REFERENCES = {"untuned": "voxels_improved_percent", "regression": "voxels_above_regression_percent"}
"""Methods that others are held against, voxel by voxel, and where a row says it."""


@dataclass(frozen=True)
class EvaluationOptions:
    """The options of ``sweep.py evaluate``."""

    evaluations: tuple[str, ...] = DEFAULT
    labelled: tuple[str, ...] = ()
    """Labelled image sets for classification, landscape and the salience of classes."""
    external: str | None = None
    """Another data set for transfer."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.evaluations if name not in EVALUATIONS]
        if unknown or not self.evaluations:
            raise ConfigError(
                f"--evaluations holds {(unknown or ['nothing'])[0]!r}; expected all or some of {', '.join(EVALUATIONS)}"
            )
        if {"classification", "landscape"} & set(self.evaluations) and not self.labelled:
            raise ConfigError(
                "--evaluations holds classification or landscape without --labelled; name a labelled image set"
            )


def evaluate(name: str, storage_uri: str, tasks: TaskRunner, options: EvaluationOptions) -> dict[str, Any]:
    """Score what `select` chose; what was scored before is not scored again.

    Returns:
        ``{"protocol", "split", "trials", "rows": [...]}`` as in ``evaluation/encoding.json``.

    Raises:
        CortexSweepError: nothing is selected, or data or models are missing.
    """
    storage, ledger = open_sweep(name, storage_uri)
    storage.require_not_archived()
    selection = read_selection(storage)
    networks = networks_of(storage, ledger, selection)
    with tasks.ray():
        return _evaluate(storage, ledger, selection, networks, tasks, options)


def _evaluate(
    storage: SweepStorage,
    ledger: Ledger,
    selection: Sequence[Selected],
    networks: Sequence[Network],
    tasks: TaskRunner,
    options: EvaluationOptions,
) -> dict[str, Any]:
    keys = own_keys(ledger.plan, networks, selection)
    cells = score_cells(storage, ledger.plan, keys, tasks, "scoring on test stimuli")
    head = table_head(ledger.plan, selection)
    result = _encoding(storage, ledger, selection, cells, head)
    projection = Projection(ledger, storage.artifacts_uri)
    log_test_scores(projection, result["rows"])
    for evaluation in options.evaluations:
        for rows in _further(evaluation, storage, ledger.plan, networks, cells, tasks, options, head):
            log_test_scores(projection, rows)
    update_cards(storage, ledger.plan, Registry(projection))
    publish_views(projection.client, projection.experiment_id, ledger.plan)
    return result


def table_head(plan: SweepPlan, selection: Sequence[Selected]) -> dict[str, Any]:
    """What every table begins with: protocol, split, and the trials that it is of, by study."""
    trials = {selected.key.name: selected.trial for selected in selection}
    return {"protocol": plan.protocol, "split": plan.split_digest, "trials": trials}


def own_keys(plan: SweepPlan, networks: Sequence[Network], selection: Sequence[Selected]) -> list[CellKey]:
    """Cells of every network on its own subjects, and of the untuned one on all, in all ROIs of the plan."""
    untuned = {s.key.target: s.readout_layer for s in selection if s.method == UNTUNED}
    keys = []
    for network in networks:
        for subject in network.target.subjects if network.target else subjects_of(plan):
            places = tuple(places_of(plan, subject))
            own = [(place, network.readout_layer) for place in network.places]
            if network.target is None:  # one network for all: each target has its own layer
                known = {(t.hemisphere, t.roi): layer for t, layer in untuned.items() if t.subjects == (subject,)}
                own = [(place, known[place]) for place in places if place in known]
            keys.append(CellKey(network, plan.data, plan.dataset, subject, False, places, tuple(own)))
    return keys


def _further(
    evaluation: str,
    storage: SweepStorage,
    plan: SweepPlan,
    networks: Sequence[Network],
    cells: dict[CellKey, Cell],
    tasks: TaskRunner,
    options: EvaluationOptions,
    head: dict[str, Any],
) -> list[list[dict[str, Any]]]:
    """One evaluation besides encoding: writes its file, returns rows for MLflow."""
    if evaluation == "transfer":
        keys = [*transfer_keys(plan, networks), *external_keys(networks, options.external)]
        found = score_cells(storage, plan, keys, tasks, "transfer to other subjects", known=cells)
        rows = transfer_rows(plan, cells | found)
        rows += former_external_rows(storage, networks, rows)
        optimistic = SHARED if plan.protocol in PUBLISHED else ""
        write_json(storage.evaluation_file("transfer"), {**head, "optimistic": optimistic, "rows": rows})
        return [rows]
    if evaluation == "information":
        rows = information_rows(plan, cells)
        if rows:
            write_json(storage.evaluation_file("information"), {**head, "rows": rows})
        else:
            tasks.console.print(f"information: nothing to compute. {why_no_information(plan)}", soft_wrap=True)
        return [rows]
    if evaluation == "classification":
        return [classify_networks(storage, plan, networks, options.labelled, tasks, head)]
    if evaluation == "landscape":
        classified = classify_networks(storage, plan, networks, options.labelled, tasks, head)
        landscapes(storage, networks, head)
        return [classified]
    if evaluation == "salience":
        labelled = options.labelled
        classified = classify_networks(storage, plan, networks, labelled, tasks, head, maps=True) if labelled else []
        return [classified, salience_of_networks(storage, plan, cells, tasks, head)]
    return []


def _encoding(
    storage: SweepStorage,
    ledger: Ledger,
    selection: Sequence[Selected],
    cells: dict[CellKey, Cell],
    head: dict[str, Any],
) -> dict[str, Any]:
    plan = ledger.plan
    by_place = {(key.network.name, key.subject): cell for key, cell in cells.items()}
    rows, voxel_r = [], {}
    for selected in selection:
        for subject in selected.key.target.subjects:
            if selected.key.target.is_pooled and selected.key.target not in plan.pools:
                continue  # a pool that leaves a subject out is for that subject: see transfer
            cell = by_place[network_name(selected.key), subject]
            row, r = _encoding_row(selected, subject, cell)
            rows.append(row)
            voxel_r[row["slug"], row["method"]] = r
            _keep_voxels(storage, row["slug"], row["method"], r)
    for row in rows:
        for reference, field in REFERENCES.items():
            reference_r = voxel_r.get((row["slug"], reference))
            if reference_r is not None and row["method"] not in ("untuned", reference):
                row[field] = voxels_improved(voxel_r[row["slug"], row["method"]], reference_r)
    result = {**head, "optimistic": OPTIMISTIC[plan.protocol], "rows": rows}
    write_json(storage.encoding_scores_file, result)
    write_json(storage.evaluation_file("layers"), {**head, "rows": layer_rows(plan, cells)})
    write_json(storage.evaluation_file("statistics"), {**head, **compare_methods(plan, rows, voxel_r, by_place)})
    return result


def _encoding_row(selected: Selected, subject: str, cell: Cell) -> tuple[dict[str, Any], NDArray[np.float64]]:
    target = selected.key.target.of_subject(subject)
    place = (target.hemisphere, target.roi)
    layer = cell.layer(place)
    r, val = cell.r("test", layer, place), cell.r("val", layer, place)
    assert r is not None  # the protocol's layer has scores
    ceiling = cell.noise_ceiling(place)
    row = {
        "target": target.name,
        "slug": target.slug,
        "method": selected.method,
        "trial": selected.trial,
        "network": network_name(selected.key),
        "subject": subject,
        "hemisphere": target.hemisphere,
        "roi": target.roi,
        "val_r": selected.val_r if val is None or not selected.key.target.is_pooled else float(val.mean()),
        "readout_layer": layer,
        "champion": selected.champion and not selected.key.target.is_pooled,
        "split_digest": selected.split_digest,
        "test_r": float(r.mean()),
        "test_noise_normalised_r2": None if ceiling is None else float(np.median(noise_normalised_r2(r, ceiling))),
        "n_voxels": len(r),
        "n_test_stimuli": cell.n_test,
        "voxels_improved_percent": None,
        "voxels_above_regression_percent": None,
    }
    return row, r


def _keep_voxels(storage: SweepStorage, slug: str, method: str, r: NDArray[np.float64]) -> None:
    write_arrays(storage.evaluation_dir / "encoding" / slug / f"{method}.npz", r=r)


def layer_rows(plan: SweepPlan, cells: dict[CellKey, Cell]) -> list[dict[str, Any]]:
    """Every readout layer × every ROI of a network's own subjects."""
    rows = []
    for key, cell in cells.items():
        for place in cell.places:
            for layer in cell.layers:
                val, test = cell.r("val", layer, place), cell.r("test", layer, place)
                known = [r for r in (test, val) if r is not None]
                if not known:
                    continue
                rows.append(
                    {
                        "network": key.network.name,
                        "method": key.network.method,
                        "subject": key.subject,
                        "hemisphere": place[0],
                        "roi": place[1],
                        "roi_group": plan.roi_groups[place[1]],
                        "layer": layer,
                        "val_r": None if val is None else float(val.mean()),
                        "test_r": None if test is None else float(test.mean()),
                        "n_voxels": len(known[0]),
                    }
                )
    return rows


def evaluation_table(result: dict[str, Any]) -> Table:
    """Test scores, target by target."""
    title = f"Encoding on test stimuli, protocol {result['protocol']}, split {result['split']}"
    table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
    table.add_column("target", no_wrap=True)
    table.add_column("method", no_wrap=True)
    for heading in ("test r", "norm. r²", "val r", "readout", "% vox ↑"):
        table.add_column(heading, justify="left" if heading == "readout" else "right", no_wrap=True)
    for row in result["rows"]:
        normalised, improved = row["test_noise_normalised_r2"], row["voxels_improved_percent"]
        table.add_row(
            row["target"],
            row["method"] + (" *" if row["champion"] else ""),
            f"{row['test_r']:.3f}",
            "–" if normalised is None else f"{normalised:.3f}",
            f"{row['val_r']:.3f}" if result["protocol"] == NESTED else "–",
            row["readout_layer"],
            "–" if improved is None else f"{improved:.0f}",
        )
    notes = [
        "test r: mean Pearson r over voxels; norm. r²: median of r² over the noise ceiling (– without ncsnr)",
        "% vox ↑: voxels predicted better than by the untuned network; *: champion by validation score",
    ]
    table.caption = "; ".join([*notes, *filter(None, [result["optimistic"]])])
    table.caption_justify = "left"
    return table
