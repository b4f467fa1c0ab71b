"""What a trial's run shows in MLflow: tags, parameters and metrics, all taken from the plan and the ledger."""

from __future__ import annotations

import math
from typing import Any

from mlflow.entities import Metric, Param, RunTag

from orchestrator.plan import StudyKey, SweepPlan
from orchestrator.records import TrialRecord
from trainables.config import TrialConfig

RUN_STATUS = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED", "running": "RUNNING"}
PARAMS = ("temperature", "layer_cutoff", "learning_rate", "batch_size", "epochs", "weight_decay", "mse_weight", "seed")
FURTHER_SCORES = {"transfer": "val/transfer_r", "classification": "val/classification_accuracy"}
"""Validation scores besides encoding, in MLflow."""
UNUSED_PARAMS = {
    "untuned": {"temperature", "learning_rate", "batch_size", "weight_decay", "mse_weight"},
    "regression": {"temperature", "mse_weight"},
}


def sweep_tags(plan: SweepPlan) -> dict[str, str]:
    """What holds for every result of a sweep."""
    tags = {
        "sweep.name": plan.name,
        "sweep.id": plan.sweep_id,
        "dataset": plan.dataset,
        "protocol": plan.protocol,
        "split.digest": plan.split_digest,
        "backbone": plan.backbone,
        "encoder": plan.encoder,
        "weights": plan.weights_source,
        "weights.digest": plan.weights_digest,
        "version": plan.version,
        "git.commit": plan.git_commit,
    }
    return {**tags, "weights.fallback": "true"} if plan.weights_fallback else tags


def study_tags(plan: SweepPlan, key: StudyKey) -> dict[str, str]:
    """What holds for every trial of a study."""
    target = key.target
    return {
        **sweep_tags(plan),
        "target": target.name,
        "subject": "+".join(target.subjects),
        "hemisphere": target.hemisphere,
        "roi": target.roi,
        "roi_group": plan.roi_groups[target.roi],
        "method": key.method,
    }


def trial_metrics(record: TrialRecord) -> list[Metric]:
    """All that a trial measured. ``val/encoding_r`` is the best so far, so that its latest value is what counts."""

    def at(epoch: int) -> int:
        return record.started_ms + epoch

    points, best = [], -math.inf
    for epoch, score in sorted(record.scores.items()):
        best = max(best, score)
        points.append(Metric("val/encoding_r", best, at(epoch), epoch))
        points.append(Metric("val/encoding_r_of_epoch", score, at(epoch), epoch))
    epoch = int(record.details.get("best_epoch", 0))
    for layer, r in record.details.get("r_by_layer", {}).items():
        points.append(Metric(f"val/encoding_r/{layer}", r, at(epoch), epoch))
    for line in record.details.get("history", []):
        if line["train_loss"] is not None:
            points.append(Metric("train/loss", line["train_loss"], at(line["epoch"]), line["epoch"]))
    for name, score in record.details.get("scores", {}).items():
        points.append(Metric(FURTHER_SCORES[name], score, at(epoch), epoch))
    speed = record.details.get("images_per_second")
    if speed:
        points.append(Metric("train/images_per_second", speed, at(epoch), epoch))
    return points


def trial_params(record: TrialRecord) -> list[Param]:
    """The parameters that the trial's method used."""
    unused = set(UNUSED_PARAMS.get(record.study.method, ()))
    if not record.config.get("mse_weight"):
        unused.add("mse_weight")  # most sweeps do not have it
    return [Param(name, str(record.config[name])) for name in PARAMS if name not in unused]


def _objective(record: TrialRecord) -> str | None:
    config = TrialConfig.from_dict(record.config)
    return config.objective_name if config.is_contrastive else None


def trial_tags(record: TrialRecord) -> list[RunTag]:
    """How the trial went."""
    values: dict[str, Any] = {
        "state": record.state,
        "readout_layer": record.details.get("readout_layer"),
        "objective": _objective(record),
        "error": record.error,
    }
    return [RunTag(name, str(value)[:5000]) for name, value in values.items() if value is not None]
