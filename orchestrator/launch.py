"""From options to a finished sweep: make the plan, run what is left of it, go on after a crash."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from rich.console import Console

from cluster.profiles import choose_profile
from orchestrator.driver import SweepIsDrivenError, only_one, sole_driver
from orchestrator.gpu_slots import largest_trial_bytes, slots_that_fit, smallest_gpu_bytes
from orchestrator.growing import filled, grown, what_is_new
from orchestrator.hints import count
from orchestrator.ledger import Ledger
from orchestrator.ledger_storage import open_storage
from orchestrator.opening import load_plan, write_plan
from orchestrator.passwords import without_passwords
from orchestrator.plan import SweepPlan
from orchestrator.planning import SweepOptions, make_plan
from orchestrator.preparation import prepare_data, prepare_weights
from orchestrator.progress import SweepProgress
from orchestrator.storage import SweepStorage, storage_errors
from orchestrator.tracking.client import TRACKING_ERRORS
from orchestrator.tracking.projection import Projection, withdraw_experiment
from orchestrator.tracking.projector import Projector
from orchestrator.tracking.views import publish_views
from orchestrator.tuning import ray_running, run_trials
from trainables.data.dataset import Dataset
from trainables.data.open import open_dataset
from trainables.errors import CortexSweepError, StorageError
from trainables.models.weights import PretrainedWeights, save_weights


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    finished: bool
    """False: interrupted."""
    tracked: bool
    """False: MLflow stayed away at the end."""


def run(options: SweepOptions, console: Console, quiet: bool) -> tuple[SweepPlan, Outcome]:
    """A new sweep, the rest of one that was made with the same options, or one that takes on more.

    Raises:
        CortexSweepError: anything that the options, the data, the weights or the storage lack.
    """
    whole_grid = bool(options.subjects and options.rois)
    options = completed(options)
    storage, plan, _, weights = planned(options, console)
    folder_is_new = not storage.root.exists()
    new = not storage.plan_file.exists() and make_sweep(storage, plan, weights)
    existing = load_plan(storage)
    larger = _grow(storage, existing, plan, options, whole_grid, console, quiet)
    plan = replace(larger, profile=plan.profile)
    try:
        return plan, execute(plan, storage, options.address, console, quiet)
    except SweepIsDrivenError:
        raise
    except CortexSweepError:  # mended options or data may be given with the same name
        if new:
            _unmake(storage, plan, folder_is_new)
        elif larger != existing:
            _take_back(storage, existing, larger)
        raise


def _grow(
    storage: SweepStorage,
    existing: SweepPlan,
    plan: SweepPlan,
    options: SweepOptions,
    whole_grid: bool,
    console: Console,
    quiet: bool,
) -> SweepPlan:
    """The plan with what ``options`` add, in its file too."""
    if grown(existing, plan, options, whole_grid) == existing:
        return existing
    with sole_driver(storage.driver_lock, existing.ledger, existing.sweep_id):
        existing = load_plan(storage)  # another process may just have made it grow
        larger = grown(existing, plan, options, whole_grid)
        write_plan(storage, larger)
    if not quiet:
        console.print(what_is_new(existing, larger), soft_wrap=True)
    return larger


def _take_back(storage: SweepStorage, existing: SweepPlan, larger: SweepPlan) -> None:
    """Leave a sweep as it was before it grew, if no trial of what is new has begun."""
    with suppress(StorageError), sole_driver(storage.driver_lock, existing.ledger, existing.sweep_id):
        ledger = Ledger(larger)
        if all(len(ledger.study_records(key)) <= existing.studies.get(key, 0) for key in larger.studies):
            write_plan(storage, existing)


def completed(options: SweepOptions) -> SweepOptions:
    """``options`` without passwords; those that nobody gave are those of the sweep, if it exists.

    Raises:
        CortexSweepError: the sweep cannot be read, or was made with another space.
    """
    options = _without_passwords(options)
    storage = SweepStorage(options.storage, options.name)
    return filled(options, load_plan(storage)) if storage.plan_file.exists() else options


def planned(options: SweepOptions, console: Console) -> tuple[SweepStorage, SweepPlan, Dataset, PretrainedWeights]:
    """What `run` would do; nothing is made yet.

    Raises:
        CortexSweepError: anything that the options, the data or the weights lack.
    """
    options = _without_passwords(options)
    storage = SweepStorage(options.storage, options.name)
    choose_profile(options.profile, {})  # an unknown name is told before anything is made
    dataset = open_dataset(options.data)
    weights, note = prepare_weights(options.weights, options.backbone, dataset.is_demo)
    plan = make_plan(options, storage, dataset, weights)
    if note:  # behind the faults that options may have: one sentence is then all that is seen
        console.print(note, soft_wrap=True)
    return storage, plan, dataset, weights


def _without_passwords(options: SweepOptions) -> SweepOptions:
    ledger, tracking_uri = without_passwords(options.ledger, options.tracking_uri)
    return replace(options, ledger=ledger, tracking_uri=tracking_uri)


def make_sweep(storage: SweepStorage, plan: SweepPlan, weights: PretrainedWeights) -> bool:
    """Write what makes a folder a sweep, the plan last; on a full disk nothing of it stays.

    Returns:
        Whether it was this process that made it.
    """
    new = not storage.root.exists()
    with only_one(storage.driver_lock):
        if storage.plan_file.exists():  # another process was faster
            return False
        try:
            storage.create()
            save_weights(weights, storage.weights_file)
            open_storage(plan.ledger)
            if not storage.plan_file.exists():  # nor, meanwhile, one on another machine
                write_plan(storage, plan)
                return True
            return False
        except BaseException:
            if new and storage.is_local:
                shutil.rmtree(str(storage.root), ignore_errors=True)
            raise


def _has_started(plan: SweepPlan) -> bool:
    """Whether any trial is in the ledger; a ledger that cannot be read now may hold some."""
    try:
        ledger = Ledger(plan)
        return any(ledger.study_records(key) for key in plan.studies)
    except StorageError:
        return True


def _unmake(storage: SweepStorage, plan: SweepPlan, folder_is_new: bool) -> None:
    """Take back what `make_sweep` wrote, unless another process has begun to run it; studies without trials may stay in
    a database, under an id that nobody has.
    """
    with suppress(StorageError), sole_driver(storage.driver_lock, plan.ledger, plan.sweep_id):
        if _has_started(plan):
            return
        with suppress(StorageError):  # MLflow that is away tells the next run, if it kept the name
            withdraw_experiment(plan)
        with storage_errors(storage.root, "delete"):
            storage.plan_file.unlink()
            storage.weights_file.unlink()
        if storage.is_local and folder_is_new:  # otherwise somebody else's files may lie there
            shutil.rmtree(str(storage.root), ignore_errors=True)


def resume(
    name: str, storage_uri: str, address: str | None, profile: str | None, console: Console, quiet: bool
) -> tuple[SweepPlan, Outcome]:
    """Run what is left of the sweep called ``name``.

    Raises:
        CortexSweepError: there is no such sweep, or something that it needs has gone.
    """
    storage = SweepStorage(storage_uri, name)
    plan = load_plan(storage)
    if profile:
        choose_profile(profile, {})
        plan = replace(plan, profile=profile)
    return plan, execute(plan, storage, address, console, quiet)


def execute(plan: SweepPlan, storage: SweepStorage, address: str | None, console: Console, quiet: bool) -> Outcome:
    """Hold the sweep, run its trials and write them to MLflow."""
    storage.require_not_archived()
    with sole_driver(storage.driver_lock, plan.ledger, plan.sweep_id):
        if not storage.plan_file.exists():
            raise StorageError(
                f"the sweep {plan.name} has gone: the process that made it failed and took it back; run it again"
            )
        plan = replace(load_plan(storage), profile=plan.profile)  # another process may have made it grow meanwhile
        storage.forget_scratch()  # a killed driver's
        ledger = Ledger(plan)
        ledger.open_studies()
        projection = Projection(ledger, storage.artifacts_uri)
        publish_views(projection.client, projection.experiment_id, plan)
        if not ledger.trials_left():
            ended = count(sum(plan.studies.values()), "trial")
            say_to(console, quiet)(f"Nothing is left to run: {ended} of {plan.name} have ended.")
            return Outcome(True, _synced(projection))
        projector = Projector(plan, storage.artifacts_uri)
        progress = SweepProgress(console, plan, quiet)
        finished = False
        try:
            finished = _run_left(plan, storage, ledger, progress, address, console, quiet)
        finally:
            progress.stop()
            tracked = projector.close(say_to(console, quiet))
        storage.forget_scratch()
        return Outcome(finished, tracked)


def _synced(projection: Projection) -> bool:
    """Write what a former driver did not come to write; False if MLflow went away."""
    try:
        projection.sync(ended=True)
    except (*TRACKING_ERRORS, StorageError):
        return False
    return True


def say_to(console: Console, quiet: bool) -> Callable[[str], None]:
    """What tells people something, if they want to hear it."""
    return (lambda _: None) if quiet else console.print


def _run_left(
    plan: SweepPlan,
    storage: SweepStorage,
    ledger: Ledger,
    progress: SweepProgress,
    address: str | None,
    console: Console,
    quiet: bool,
) -> bool:
    left = ledger.trials_left()
    if not address:
        prepare_data(plan, console, quiet)
    say = say_to(console, quiet)
    say(f"Starting Ray {'at ' + address if address else 'on this machine'} …")
    with ray_running(address) as resources:
        profile = choose_profile(plan.profile, resources, lambda: _slots_that_fit(plan))
        slots = min(profile.slots(resources, can_grow=bool(address)), left)
        say(f"Trials to run: {left}, on {count(slots, 'slot')} (profile {profile.name}).")
        if waits := profile.waits_for_machines(resources, slots):
            say(f"Note: {waits}.")
        return run_trials(storage, ledger, profile, slots, progress)


def _slots_that_fit(plan: SweepPlan) -> int | None:
    if (gpu_bytes := smallest_gpu_bytes()) is None:
        return None
    return slots_that_fit(gpu_bytes, largest_trial_bytes(plan, open_dataset(plan.data)))
