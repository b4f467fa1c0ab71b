"""From options to a finished sweep: make the plan, run what is left of it, go on after a crash."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from cluster.profiles import choose_profile
from orchestrator.driver import sole_driver
from orchestrator.ledger import Ledger
from orchestrator.plan import SkippedRoi, SweepPlan, default_grace_epochs, parse_list
from orchestrator.preparation import prepare_data, prepare_weights
from orchestrator.progress import SweepProgress
from orchestrator.storage import SweepStorage, read_json, sweep_names, write_json
from orchestrator.tracking.projection import Projection
from orchestrator.tracking.projector import Projector
from orchestrator.tuning import ray_running, run_trials
from search_spaces import budget_named
from trainables.data.algonauts import AlgonautsDataset, open_algonauts
from trainables.data.splits import nested_digest
from trainables.data.targets import TargetPlan, parse_subjects, plan_targets
from trainables.errors import ConfigError, StorageError
from trainables.models.weights import PretrainedWeights, save_weights
from trainables.target import HEMISPHERES

SPLIT_SEED = 0
REDUCTION_FACTOR = 3


@dataclass(frozen=True)
class SweepOptions:
    """The options of ``sweep.py run``; None leaves the choice to the budget or the data."""

    data: str
    name: str
    storage: str
    subjects: str = "all"
    hemispheres: str = "lh,rh"
    rois: str | None = None
    methods: str = "contrastive,regression,untuned"
    space: str = "early_visual"
    trials: int | None = None
    epochs: int | None = None
    grace_epochs: int | None = None
    batch_size: int | None = None
    weights: str | None = None
    backbone: str = "alexnet"
    cutoffs: str | None = None
    keep_weights: int = 1
    tracking_uri: str | None = None
    ledger: str | None = None
    profile: str = "auto"
    seed: int = 0
    min_voxels: int = 20
    address: str | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    finished: bool
    """False: interrupted."""
    tracked: bool
    """False: MLflow stayed away at the end."""


def run(options: SweepOptions, console: Console, quiet: bool) -> tuple[SweepPlan, Outcome]:
    """A new sweep, or the rest of one that was made with the same options.

    Raises:
        CortexSweepError: anything that the options, the data, the weights or the storage lack.
    """
    storage = SweepStorage(options.storage, options.name)
    choose_profile(options.profile, {})  # an unknown name is told before anything is made
    dataset = open_algonauts(options.data)
    weights = prepare_weights(options.weights, options.backbone, dataset.is_demo, console)
    plan = make_plan(options, storage, dataset, weights)
    if storage.plan_file.exists():
        existing = load_plan(storage)
        changed = existing.differences(plan)
        if changed:
            field = changed[0]
            raise ConfigError(
                f"sweep {plan.name!r} exists with another {field}; `sweep.py resume {plan.name}` goes on with it as it "
                "was made, another --name starts a new one"
            )
        plan = existing
    else:
        storage.create()
        save_weights(weights, storage.weights_file)
        write_json(storage.plan_file, plan.to_dict())
    return plan, execute(plan, storage, options.address, console, quiet)


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
    with sole_driver(storage.driver_lock, plan.ledger):
        ledger = Ledger(plan)
        ledger.open_studies()
        projection = Projection(ledger, storage.artifacts_uri)
        projector = Projector(projection)
        progress = SweepProgress(console, plan, quiet)
        finished = False
        try:
            finished = _run_left(plan, storage, ledger, progress, address, console, quiet)
        finally:
            progress.stop()
            tracked = projector.close()
        return Outcome(finished, tracked)


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
    if not left:
        return True
    if not address:
        prepare_data(plan, console, quiet)
    say: Callable[..., None] = (lambda *_: None) if quiet else console.print
    say(f"Starting Ray {'at ' + address if address else 'on this machine'} …")
    with ray_running(address) as resources:
        profile = choose_profile(plan.profile, resources)
        slots = profile.slots(resources)
        say(f"{left} trials to run on {slots} slots (profile {profile.name}).")
        return run_trials(storage, ledger, profile, slots, progress)


def make_plan(
    options: SweepOptions, storage: SweepStorage, dataset: AlgonautsDataset, weights: PretrainedWeights
) -> SweepPlan:
    """What ``options`` mean for this data set and these weights.

    Raises:
        ConfigError, DataError: an option or a part of the data set does not fit.
    """
    budget = budget_named(options.space)
    chosen = _choose_targets(options, dataset)
    epochs = budget.epochs if options.epochs is None else options.epochs
    all_ids = (stimulus for subject in dataset.subjects.values() for stimulus in subject.stimulus_ids.tolist())
    return SweepPlan(
        name=options.name,
        data=str(dataset.root),
        dataset=dataset.name,
        protocol="nested",
        split_seed=SPLIT_SEED,
        split_digest=nested_digest(all_ids, SPLIT_SEED),
        targets=tuple(chosen.targets),
        skipped=tuple(SkippedRoi(skip.target.name, skip.n_voxels, skip.reason) for skip in chosen.skipped),
        roi_groups={target.roi: dataset.group_of(target.roi) for target in chosen.targets},
        methods=tuple(parse_list(options.methods)),
        space=options.space,
        trials=budget.trials if options.trials is None else options.trials,
        epochs=epochs,
        batch_size=budget.batch_size if options.batch_size is None else options.batch_size,
        reduction_factor=REDUCTION_FACTOR,
        grace_epochs=default_grace_epochs(epochs) if options.grace_epochs is None else options.grace_epochs,
        backbone=options.backbone,
        weights_source=weights.source,
        weights_digest=weights.digest,
        weights_fallback=options.weights is None and weights.source == "random",
        cutoffs=choose_cutoffs(options.cutoffs, budget.deepest_cutoff, weights),
        keep_weights=options.keep_weights,
        tracking_uri=options.tracking_uri or storage.default_tracking_uri,
        ledger=options.ledger or str(storage.journal_file),
        profile=options.profile,
        seed=options.seed,
        version=version("cortex-sweep"),
        git_commit=git_commit(),
    )


def choose_cutoffs(asked: str | None, deepest: str, weights: PretrainedWeights) -> tuple[str, ...]:
    """Layer cutoffs to explore, from shallow to deep.

    Raises:
        ConfigError: a cutoff that the weights do not reach.
    """
    if asked is not None:
        words = parse_list(asked)
        unknown = [word for word in words if word not in weights.cutoffs]
        if unknown or not words:
            raise ConfigError(
                f"--cutoffs holds {(unknown or ['nothing'])[0]!r}; weights {weights.source} allow "
                f"{', '.join(weights.cutoffs)}"
            )
        return tuple(cutoff for cutoff in weights.cutoffs if cutoff in words)
    cutoffs = weights.cutoffs
    if deepest in cutoffs:
        cutoffs = cutoffs[: cutoffs.index(deepest) + 1]
    # The last readout layer and `output` both name the whole network: one of them is enough.
    return (*cutoffs[:-2], cutoffs[-1]) if cutoffs[-1] == "output" else cutoffs


def _choose_targets(options: SweepOptions, dataset: AlgonautsDataset) -> TargetPlan:
    hemispheres = parse_list(options.hemispheres)
    unknown = [hemisphere for hemisphere in hemispheres if hemisphere not in HEMISPHERES]
    if unknown or not hemispheres:
        raise ConfigError(f"--hemispheres is {options.hemispheres!r}; expected lh, rh or lh,rh")
    words = parse_list(options.rois) if options.rois is not None else budget_named(options.space).rois
    rois = list(dict.fromkeys(roi for word in words for roi in dataset.rois_of(word)))
    subjects = parse_subjects(options.subjects, dataset)
    chosen = plan_targets(dataset, subjects, hemispheres, rois, min_voxels=options.min_voxels)
    if not chosen.targets:
        sizes = ", ".join(f"{skip.target.name}: {skip.n_voxels}" for skip in chosen.skipped[:3]) or "no ROI was named"
        raise ConfigError(
            f"no ROI of --rois {options.rois or options.space!r} has the {options.min_voxels} voxels it takes "
            f"({sizes}); `sweep.py data check` lists what there is"
        )
    return chosen


def open_sweep(name: str, storage: str) -> tuple[SweepStorage, Ledger]:
    """The places and the ledger of an existing sweep, for reading.

    Raises:
        StorageError: there is none of that name.
    """
    places = SweepStorage(storage, name)
    return places, Ledger(load_plan(places))


def load_plan(storage: SweepStorage) -> SweepPlan:
    """The plan of an existing sweep.

    Raises:
        StorageError: there is none of that name.
    """
    if not storage.plan_file.exists():
        known = ", ".join(sweep_names(str(storage.base))) or "none"
        raise StorageError(f"no sweep {storage.name!r} in {storage.base}; there are: {known} (see --storage)")
    return SweepPlan.from_dict(read_json(storage.plan_file))


def git_commit() -> str:
    """Commit of this program's own checkout, or ``unknown`` where it was installed without one."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"
