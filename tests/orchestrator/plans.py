"""Small plans and ledgers for tests that need no data set."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

from orchestrator.ledger import Ledger, OpenTrial
from orchestrator.plan import SkippedRoi, StudyKey, SweepPlan
from trainables.target import Target

V1 = Target("demo", ("subj01",), "lh", "V1v")
EBA = Target("demo", ("subj02",), "rh", "EBA")
CUTOFFS = ("features.2", "features.5", "features.12")

V1_CONTRASTIVE = StudyKey(V1, "contrastive")
V1_REGRESSION = StudyKey(V1, "regression")
V1_UNTUNED = StudyKey(V1, "untuned")
EBA_CONTRASTIVE = StudyKey(EBA, "contrastive")


def small_plan(folder: Path, **changes: Any) -> SweepPlan:
    """Two targets, one tuned method, 9 epochs: rungs after epochs 1 and 3."""
    values: dict[str, Any] = {
        "name": "small",
        # Two sweeps never have one id.
        "sweep_id": "0a1b2c3d"
        if (name := changes.get("name", "small")) == "small"
        else f"{zlib.crc32(name.encode()):08x}",
        "data": "/data/demo",
        "dataset": "demo",
        "protocol": "nested",
        "split_seed": 0,
        "split_digest": "0123456789abcdef",
        "targets": (V1, EBA),
        "skipped": (SkippedRoi("subj01/lh/RSC", 9, "9 voxels, fewer than 20"),),
        "roi_groups": {"V1v": "prf-visualrois", "EBA": "floc-bodies"},
        "methods": ("contrastive",),
        "space": "smoke",
        "trials": 6,
        "epochs": 9,
        "grace_epochs": 1,
        "batch_size": 32,
        "reduction_factor": 3,
        "backbone": "alexnet",
        "weights_source": "random",
        "weights_digest": "fedcba9876543210",
        "weights_fallback": False,
        "cutoffs": CUTOFFS,
        "keep_weights": 1,
        "tracking_uri": f"sqlite:///{folder / 'mlflow.db'}",
        "ledger": str(folder / "ledger.journal"),
        "profile": "cpu",
        "seed": 0,
        "version": "0.1.0",
        "git_commit": "unknown",
    }
    return SweepPlan(**{**values, **changes})


def open_ledger(plan: SweepPlan) -> Ledger:
    """A ledger as a driver opens it."""
    ledger = Ledger(plan)
    ledger.open_studies()
    return ledger


def explored(trial: OpenTrial) -> tuple[float, str, float]:
    """What a contrastive study explores."""
    return trial.config.temperature, trial.config.layer_cutoff, trial.config.learning_rate


def worker_details(best_epoch: int, r_by_layer: dict[str, float], epochs: int) -> dict[str, Any]:
    """What a worker reports at the end of a trial."""
    return {
        "best_epoch": best_epoch,
        "readout_layer": max(r_by_layer, key=lambda layer: r_by_layer[layer]),
        "r_by_layer": r_by_layer,
        "images_per_second": 100.0,
        "history": [{"epoch": epoch, "train_loss": 1.0 / epoch} for epoch in range(1, epochs + 1)],
        "weights": None,
    }


def complete(ledger: Ledger, trial: OpenTrial, scores: dict[int, float], **details: Any) -> None:
    """Report ``scores`` by epoch and end the trial with the best of them."""
    for epoch, score in scores.items():
        ledger.report(trial, epoch, score)
    best_epoch = max(scores, key=lambda epoch: scores[epoch])
    report = worker_details(best_epoch, {"features.2": scores[best_epoch]}, max(scores))
    ledger.finish(trial, "complete", scores[best_epoch], {**report, **details})
