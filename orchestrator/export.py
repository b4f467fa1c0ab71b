"""A selected model as a folder that works without this project: weights, a model card and a small Python file."""

from __future__ import annotations

import json
import shlex
import shutil
import uuid
from pathlib import Path
from typing import Any

import click
import numpy as np

from orchestrator.model_card import model_card
from orchestrator.plan import SweepPlan
from orchestrator.selected import SavedModel, find_model
from orchestrator.storage import SweepStorage, read_json, reading_arrays
from trainables.data.open import open_dataset
from trainables.errors import ConfigError, CortexSweepError, StorageError
from trainables.models.backbone import backbone_spec
from trainables.models.module_source import standalone_source
from trainables.predictor import ResponsePredictor

FORMAT_VERSION = 1


def export_and_print(target: str, directory: Path, name: str, method: str | None, storage: str, as_json: bool) -> None:
    """Write the folder and say what is in it.

    Raises:
        CortexSweepError: see `export_model`.
    """
    about = export_model(target, directory, name, method, storage)
    if as_json:
        click.echo(json.dumps({"directory": str(directory), **about}))
        return
    click.echo(f"{directory}: {about['target']}, {about['method']}, val r {about['validation_r']:.3f}")
    if about["voxel_numbers_missing"]:
        click.echo(f"Without the numbers of its voxels: {about['voxel_numbers_missing']}")
    click.echo(f"\nNext:  {shlex.join(['python', str(directory / 'predict.py'), 'picture.png'])}")


def export_model(target: str, directory: Path, name: str, method: str | None, storage: str) -> dict[str, Any]:
    """Write a selected model into a new folder, whole or not at all.

    Weights are ``.npz`` files: NumPy reads them without running code from them, as do other languages, and torch, which
    runs the network, is no newer or older for it.

    Args:
        target: ``subj01/lh/V1v``.
        directory: the folder; new or empty, on this machine.
        name: of the sweep.
        method: whose winner; None for the champion.
        storage: folder or ``s3://`` address of all results.

    Returns:
        What ``model.json`` holds.

    Raises:
        ConfigError: ``directory`` is in use; no such target or method.
        StorageError: no such sweep, nothing selected, or the folder cannot be written.
        WeightsError: files of the model that are missing or damaged.
    """
    _require_free(directory)
    places = SweepStorage(storage, name)
    saved = find_model(places, target, method)
    predictor = ResponsePredictor.load(saved.directory, "cpu")
    plan = SweepPlan.from_dict(read_json(places.plan_file))
    about, voxels = _described(places, plan, saved, predictor)
    whole = directory.absolute()
    unfinished = whole.with_name(f".{whole.name}.{uuid.uuid4().hex[:8]}")
    try:
        unfinished.mkdir(parents=True)
        _write(unfinished, predictor, about, voxels)
        unfinished.rename(whole)  # an empty folder gives way
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"{directory} cannot be written ({reason}); free space or name another DIR") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return about


def describe(places: SweepStorage, plan: SweepPlan, saved: SavedModel) -> dict[str, Any]:
    """What a card says of a selected model.

    Raises:
        WeightsError: files of the model that are missing or damaged.
    """
    return _described(places, plan, saved, ResponsePredictor.load(saved.directory, "cpu"))[0]


def _described(
    places: SweepStorage, plan: SweepPlan, saved: SavedModel, predictor: ResponsePredictor
) -> tuple[dict[str, Any], np.ndarray | None]:
    """What the card says, and the numbers of the voxels."""
    about = _about(places, plan, saved, predictor)
    voxels, simulated, missing = _voxels(plan, saved, about["n_voxels"])
    return about | {"voxel_numbers_missing": missing, "simulated_responses": simulated}, voxels


def _require_free(directory: Path) -> None:
    if "://" in str(directory) or ":/" in str(directory):
        raise ConfigError(
            f"DIR is {str(directory)!r}; expected a folder of this machine, which you may copy afterwards"
        )
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise ConfigError(f"{directory} exists and is not an empty folder; name a new one, or empty it")


def _write(folder: Path, predictor: ResponsePredictor, about: dict[str, Any], voxels: np.ndarray | None) -> None:
    encoder = predictor.encoder
    arrays: dict[str, Any] = {
        "coef": encoder.coef_,
        "feature_mean": encoder.feature_mean_,
        "response_mean": encoder.response_mean_,
        **({} if voxels is None else {"voxels": voxels}),
    }
    np.savez(folder / "encoding.npz", **arrays)
    weights: dict[str, Any] = {
        name: tensor.contiguous().numpy() for name, tensor in predictor.network.state_dict().items()
    }
    np.savez(folder / "network.npz", **weights)
    (folder / "model.json").write_text(json.dumps(about, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(model_card(about), encoding="utf-8")
    (folder / "predict.py").write_text(standalone_source(predictor.network), encoding="utf-8")


def _about(storage: SweepStorage, plan: SweepPlan, saved: SavedModel, predictor: ResponsePredictor) -> dict[str, Any]:
    """What the card says and `predict.py` needs: plain values."""
    model, encoder, target = predictor.model, predictor.encoder, saved.target
    spec = backbone_spec(model.backbone)
    config = dict(model.provenance.get("config", {})) if saved.selected.method != "untuned" else {}
    return {
        "format": FORMAT_VERSION,
        "target": target.name,
        "subject": target.subjects[0],
        "hemisphere": target.hemisphere,
        "roi": target.roi,
        "dataset": target.dataset,
        "method": saved.selected.method,
        "tuned_for": list(saved.selected.key.target.subjects),
        "champion": saved.champion,
        "parameters": {name: value for name, value in config.items() if name not in ("target", "method", "backbone")},
        "backbone": model.backbone,
        "readout_layer": model.readout_layer,
        "pretrained": {"source": plan.weights_source, "digest": plan.weights_digest},
        "encoder": {"solver": encoder.solver, **encoder.settings(), "n_components_kept": encoder.n_components_},
        "n_features": len(encoder.coef_),
        "n_voxels": len(encoder.response_mean_),
        "image_size": spec.image_size,
        "mean": list(spec.mean),
        "std": list(spec.std),
        "protocol": plan.protocol,
        "split_digest": saved.selected.split_digest,
        "validation_r": float(model.provenance.get("val_r", saved.selected.val_r)),
        "test": scores_on_test(storage, saved),
        "sweep": plan.name,
        "trial": saved.selected.trial,
        "git_commit": plan.git_commit,
        "version": plan.version,
    }


def scores_on_test(storage: SweepStorage, saved: SavedModel) -> dict[str, Any] | None:
    """What `evaluate` found for the model on test stimuli; None if it has not scored this trial.

    The interval is None where predictions of single stimuli were not kept.
    """
    if not storage.encoding_scores_file.exists():
        return None
    table = read_json(storage.encoding_scores_file)
    sought = (saved.target.slug, saved.selected.method, saved.selected.trial)
    rows = [row for row in table["rows"] if (row["slug"], row["method"], row["trial"]) == sought]
    if not rows:
        return None
    row = rows[0]
    return {
        "r": row["test_r"],
        "r_interval": _interval(storage, saved, row["network"]),
        "noise_normalised_r2": row["test_noise_normalised_r2"],
        "n_stimuli": row["n_test_stimuli"],
        "readout_layer": row["readout_layer"],
        "remark": table.get("optimistic", ""),
    }


def _interval(storage: SweepStorage, saved: SavedModel, network: str) -> list[float] | None:
    from orchestrator.cells import measured_name, predicted_name  # brings Ray along
    from orchestrator.networks import UNTUNED
    from trainables.analyses.bootstrap import score_interval

    place, found = (saved.target.hemisphere, saved.target.roi), []
    for cell, array in ((network, predicted_name(place)), (UNTUNED, measured_name(place))):
        file = storage.evaluation_dir / "cells" / cell / f"{saved.target.subjects[0]}.npz"
        if not file.exists():
            return None
        with reading_arrays(file) as archive:
            if array not in archive:
                return None
            found.append(archive[array])
    return list(score_interval(found[0], found[1]))


def _voxels(plan: SweepPlan, saved: SavedModel, n_voxels: int) -> tuple[np.ndarray | None, bool | None, str]:
    """Numbers of the target's voxels, whether responses are simulated, and why neither is known, else ``""``.

    The model is whole without them, so a data set that is out of reach is no error.
    """
    target = saved.target
    try:
        dataset = open_dataset(plan.data)
        voxels = dataset.subject(target.subjects[0]).voxels(target.hemisphere, target.roi)
    except CortexSweepError as error:
        return None, None, f"the data set could not be read ({type(error).__name__}) when the model was exported"
    if len(voxels) != n_voxels:
        why = f"the data set has {len(voxels)} voxels there now, and the model {n_voxels}"
        return None, dataset.is_demo, why
    return np.asarray(voxels, np.int64), dataset.is_demo, ""
