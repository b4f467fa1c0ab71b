"""Which weights and snapshots of trials a sweep deletes while it goes on."""

from __future__ import annotations

from collections.abc import Container

from orchestrator.ledger import Ledger, OpenTrial
from orchestrator.plan import StudyKey
from orchestrator.storage import SweepStorage, storage_errors


def forget_weights(
    storage: SweepStorage, ledger: Ledger, ended: OpenTrial, selected: Container[str], gone: set[str]
) -> None:
    """Delete the weights of this study's trials that are no longer among its best, and what attempts of ``ended`` that
    died left of its own; those of ``selected`` trials stay until the next `select`.

    Trials whose weights have been deleted are added to ``gone`` and not looked for again: in object storage each look
    is two requests.
    """
    keep = {record.number for record in ledger.best(ended.study, ledger.plan.keep_weights)}
    for record in ledger.study_records(ended.study):
        wrote = record.details.get("weights") or record.number == ended.trial.number
        stays = record.number in keep or record.uid in selected or record.state == "running"
        if stays or not wrote or record.uid in gone:
            continue
        place = storage.trial_dir(record.study.target, record.study.method, record.number)
        with storage_errors(place, "delete"):
            if place.exists():
                place.rmdir(recursive=True)
        gone.add(record.uid)


def forget_snapshots(storage: SweepStorage, study: StudyKey, number: int) -> None:
    """Delete what a restart of a trial that has ended would have gone on from."""
    place = storage.snapshot_dir(study.target, study.method, number)
    with storage_errors(place, "delete"):
        if place.exists():
            place.rmdir(recursive=True)


def forget_old_snapshots(storage: SweepStorage, ledger: Ledger) -> None:
    """Delete snapshots of trials whose driver died between their end and what follows it."""
    if not storage.snapshots_dir.exists():
        return
    for key in ledger.plan.studies:
        for record in ledger.study_records(key):
            if record.state != "running":
                forget_snapshots(storage, key, record.number)
