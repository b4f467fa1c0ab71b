"""Scores selected models on test stimuli: the only place where test responses are read."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from rich.table import Table
from upath import UPath

from orchestrator.launch import open_sweep
from orchestrator.ledger import Ledger
from orchestrator.selection import Selected, read_selection
from orchestrator.storage import SweepStorage, read_json, storage_errors, write_json
from orchestrator.tasks import TaskRunner
from orchestrator.tracking.projection import Projection
from orchestrator.tracking.scores import log_test_scores
from trainables.target import Target


def evaluate(name: str, storage_uri: str, tasks: TaskRunner) -> dict[str, Any]:
    """Score what `select` chose; a model that was scored before is not scored again.

    Returns:
        ``{"protocol", "split", "rows": [...]}`` as in ``evaluation/encoding.json``.

    Raises:
        CortexSweepError: nothing is selected, or data or models are missing.
    """
    storage, ledger = open_sweep(name, storage_uri)
    selection = read_selection(storage)
    known = _known_scores(storage)
    todo = [selected for selected in selection if selected.trial not in known]
    if todo:
        known |= _score(storage, ledger, todo, tasks)
    # Scores stand once they are made; who is champion is for the present selection to say.
    rows = _with_comparisons([known[selected.trial] | _identity(selected) for selected in selection], storage)
    result = {"protocol": ledger.plan.protocol, "split": ledger.plan.split_digest, "rows": rows}
    write_json(storage.encoding_scores_file, result)
    log_test_scores(Projection(ledger, storage.artifacts_uri), rows)
    return result


def _known_scores(storage: SweepStorage) -> dict[str, dict[str, Any]]:
    if not storage.encoding_scores_file.exists():
        return {}
    return {row["trial"]: row for row in read_json(storage.encoding_scores_file)["rows"]}


def _score(storage: SweepStorage, ledger: Ledger, todo: list[Selected], tasks: TaskRunner) -> dict[str, dict[str, Any]]:
    plan = ledger.plan
    jobs = [
        {
            "data": plan.data,
            "target": selected.target,
            "split_seed": plan.split_seed,
            "split_digest": plan.split_digest,
            "predictor": str(storage.model_dir(selected.key.target, selected.method)),
            "place": str(storage.voxel_scores_file(selected.key.target, selected.method)),
        }
        for selected in todo
    ]
    scores: dict[str, dict[str, Any]] = {}
    for index, score in tasks.run(score_predictor, jobs, "scoring on test stimuli"):
        scores[todo[index].trial] = {**_identity(todo[index]), **score}
    return scores


def _identity(selected: Selected) -> dict[str, Any]:
    kept = ("method", "trial", "val_r", "readout_layer", "champion", "split_digest")
    return {"target": selected.key.target.name, "slug": selected.key.target.slug} | {
        name: value for name, value in asdict(selected).items() if name in kept
    }


def score_predictor(
    data: str,
    target: dict[str, Any],
    split_seed: int,
    split_digest: str,
    predictor: str,
    place: str,
    device: str,
) -> dict[str, Any]:
    """Score one selected model and keep its r of every voxel; the body of a Ray task.

    Raises:
        DataError: the data set is not the one that the sweep ran on.
    """
    from trainables.data.algonauts import open_algonauts
    from trainables.data.responses import load_test, require_split
    from trainables.evaluations.encoding import evaluate_encoding
    from trainables.predictor import ResponsePredictor

    dataset = open_algonauts(data)
    require_split(dataset, split_seed, split_digest)
    model = ResponsePredictor.load(UPath(predictor), device)
    part = load_test(dataset, Target.from_dict(target), split_seed)
    scores = evaluate_encoding(model.network, model.model.readout_layer, model.encoder, part, part.noise_ceiling)
    destination = UPath(place)
    with storage_errors(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        with destination.open("wb") as file:
            np.savez(file, r=scores.r)
    return {
        "test_r": scores.mean_r,
        "test_noise_normalised_r2": scores.median_noise_normalised_r2,
        "n_voxels": len(scores.r),
        "n_test_stimuli": len(part.rows),
    }


def _with_comparisons(rows: list[dict[str, Any]], storage: SweepStorage) -> list[dict[str, Any]]:
    """Add the share of voxels (percent) that a method predicts better than the untuned network does."""
    from trainables.evaluations.encoding import voxels_improved

    compared = []
    for row in rows:
        folder = storage.evaluation_dir / "encoding" / row["slug"]
        reference = folder / "untuned.npz"
        improved = None
        if row["method"] != "untuned" and reference.exists():
            improved = voxels_improved(_voxel_r(folder / f"{row['method']}.npz"), _voxel_r(reference))
        compared.append({**row, "voxels_improved_percent": improved})
    return compared


def _voxel_r(path: UPath) -> np.ndarray[Any, np.dtype[np.float64]]:
    with storage_errors(path, "read"), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return np.asarray(archive["r"])


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
            f"{row['val_r']:.3f}",
            row["readout_layer"],
            "–" if improved is None else f"{improved:.0f}",
        )
    table.caption = (
        "test r: mean Pearson r over voxels; norm. r²: median over voxels of r² over the noise ceiling "
        "(– without ncsnr); "
        "% vox ↑: voxels predicted better than by the untuned network; *: champion by validation score"
    )
    table.caption_justify = "left"
    return table
