"""From the options of ``sweep.py run`` to the plan of a sweep."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from orchestrator.passwords import without_password
from orchestrator.plan import SkippedRoi, SweepPlan, default_grace_epochs, parse_list
from orchestrator.storage import SweepStorage, resolved
from orchestrator.suggestions import require_suggestions
from search_spaces import Space, read_space, space_from_text, space_named
from trainables.config import ENCODERS, PROTOCOLS
from trainables.data.dataset import Dataset
from trainables.data.labelled import open_labelled
from trainables.data.responses import split_digest
from trainables.data.splits import NESTED, PUBLISHED
from trainables.data.targets import TargetPlan, parse_subjects, plan_targets
from trainables.errors import ConfigError
from trainables.models.backbone import OUTPUT, backbone_spec
from trainables.models.weights import PretrainedWeights
from trainables.target import HEMISPHERES, Target

SPLIT_SEED = 0
REDUCTION_FACTOR = 3
DEFAULT_SPACE = "early_visual"


@dataclass(frozen=True)
class SweepOptions:
    """The options of ``sweep.py run``; None leaves the choice to the budget or the data."""

    data: str
    name: str
    storage: str
    subjects: str | None = None
    hemispheres: str | None = None
    rois: str | None = None
    methods: str | None = None
    space: str | None = None
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
    protocol: str = NESTED
    encoder: str = "ridge"
    explore: str = ""
    scores: str = "encoding"
    optimise: str = "encoding"
    labelled: str = ""
    leave_one_out: bool = False
    neighbours: bool = True
    space_text: str = ""
    """Of an own space that is not to be read from its file."""


def make_plan(options: SweepOptions, storage: SweepStorage, dataset: Dataset, weights: PretrainedWeights) -> SweepPlan:
    """What ``options`` mean for this data set and these weights.

    Raises:
        ConfigError, DataError: an option or a part of the data set does not fit.
    """
    _require_options(options, storage)
    space_name = options.space or DEFAULT_SPACE
    text, space = _space_of(space_name, options.space_text)
    methods = tuple(parse_list(options.methods)) if options.methods is not None else space.methods
    chosen = _choose_targets(options, dataset, space)
    targets = [*chosen.targets]
    pooled = any(method.startswith("pooled") for method in methods)
    if pooled:
        targets += pool(chosen.targets, options.leave_one_out)
    if options.leave_one_out and len([target for target in targets if len(target.subjects) > 1]) < 2:
        raise ConfigError("--leave-one-out needs a pooled method and three subjects that share an ROI; name them")
    epochs = space.epochs if options.epochs is None else options.epochs
    plan = SweepPlan(
        name=options.name,
        sweep_id=uuid.uuid4().hex[:8],
        data=str(dataset.root),
        dataset=dataset.name,
        protocol=options.protocol,
        split_seed=SPLIT_SEED,
        split_digest=split_digest(dataset, SPLIT_SEED, options.protocol),
        targets=tuple(targets),
        skipped=tuple(SkippedRoi(skip.target.name, skip.n_voxels, skip.reason) for skip in chosen.skipped),
        roi_groups={target.roi: dataset.group_of(target.roi) for target in chosen.targets},
        methods=methods,
        space=space_name,
        space_text=text,
        trials=space.trials if options.trials is None else options.trials,
        epochs=epochs,
        batch_size=space.batch_size if options.batch_size is None else options.batch_size,
        reduction_factor=REDUCTION_FACTOR,
        grace_epochs=default_grace_epochs(epochs) if options.grace_epochs is None else options.grace_epochs,
        backbone=options.backbone,
        weights_source=weights.source,
        weights_digest=weights.digest,
        weights_fallback=options.weights is None and weights.source == "random",
        cutoffs=choose_cutoffs(options.cutoffs, space.deepest_cutoff, weights),
        keep_weights=options.keep_weights,
        tracking_uri=options.tracking_uri or storage.default_tracking_uri,
        ledger=options.ledger or str(storage.journal_file),
        profile=options.profile,
        seed=options.seed,
        version=version("cortex-sweep"),
        git_commit=git_commit(),
        explore=tuple(parse_list(options.explore)),
        encoder=options.encoder,
        scores=tuple(parse_list(options.scores)),
        optimise=tuple(parse_list(options.optimise)),
        labelled=_labelled_root(options),
        neighbours=options.neighbours,
    )
    require_suggestions(plan)
    return plan


def _space_of(name: str, text: str) -> tuple[str, Space]:
    """Text of an own space, empty for a named one, and the space."""
    if text:
        return text, space_from_text(text, name)
    return read_space(name) if name.endswith(".py") else ("", space_named(name))


def _labelled_root(options: SweepOptions) -> str:
    """The labelled set's place as workers find it; looked at now, not after the first trials.

    Raises:
        DataError: it is no labelled set.
    """
    if not options.labelled:
        return ""
    place = str(resolved(options.labelled, "--labelled"))
    open_labelled(place)
    return place


def _require_options(options: SweepOptions, storage: SweepStorage) -> None:
    if options.min_voxels < 1:
        raise ConfigError(f"--min-voxels is {options.min_voxels}; expected at least 1")
    if not storage.is_local and not (options.ledger and options.tracking_uri):
        raise ConfigError(
            f"--storage {options.storage} is remote; give --ledger postgresql://… and --tracking-uri http://… as well: "
            "both have to be reached from wherever the sweep is resumed"
        )
    for option, known in (("protocol", PROTOCOLS), ("encoder", ENCODERS)):
        if getattr(options, option) not in known:
            raise ConfigError(f"--{option} is {getattr(options, option)!r}; expected one of {', '.join(known)}")
    if options.protocol in PUBLISHED and options.encoder != "ridge":
        raise ConfigError(f"--protocol {options.protocol} is defined for ridge; leave --encoder {options.encoder} out")


def pool(targets: Sequence[Target], leave_one_out: bool) -> list[Target]:
    """One target of all subjects for each hemisphere and ROI that two or more have; with ``leave_one_out`` also those
    without one of them each, where two or more are left.

    Raises:
        ConfigError: no two subjects share an ROI.
    """
    members: dict[tuple[str, str, str], list[str]] = {}
    for target in targets:
        members.setdefault((target.dataset, target.hemisphere, target.roi), []).extend(target.subjects)
    pools = []
    for (dataset, hemisphere, roi), subjects in members.items():
        groups = [tuple(subjects)]
        if leave_one_out:
            groups += [tuple(name for name in subjects if name != left_out) for left_out in subjects]
        pools += [Target(dataset, group, hemisphere, roi) for group in groups if len(group) > 1]
    if not pools:
        raise ConfigError("pooled methods need an ROI that two or more subjects have; name more --subjects")
    return pools


def choose_cutoffs(asked: str | None, deepest: str, weights: PretrainedWeights) -> tuple[str, ...]:
    """Layer cutoffs to explore, from shallow to deep.

    Raises:
        ConfigError: a cutoff that the weights do not reach, or a limit that the backbone has not.
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
    spec = backbone_spec(weights.backbone)
    if deepest == "convolutional":
        deepest = spec.convolutional_layer
    if deepest not in (*spec.readout_layers, OUTPUT):
        raise ConfigError(
            f"the space has deepest_cutoff {deepest!r}; expected {', '.join(spec.readout_layers)}, {OUTPUT} or "
            "convolutional"
        )
    if deepest in cutoffs:
        cutoffs = cutoffs[: cutoffs.index(deepest) + 1]
    # The last readout layer and `output` both name the whole network: one of them is enough.
    return (*cutoffs[:-2], cutoffs[-1]) if cutoffs[-1] == "output" else cutoffs


def _choose_targets(options: SweepOptions, dataset: Dataset, space: Space) -> TargetPlan:
    hemispheres = parse_list("lh,rh" if options.hemispheres is None else options.hemispheres)
    unknown = [hemisphere for hemisphere in hemispheres if hemisphere not in HEMISPHERES]
    if unknown or not hemispheres:
        raise ConfigError(f"--hemispheres is {options.hemispheres!r}; expected lh, rh or lh,rh")
    words = parse_list(options.rois) if options.rois is not None else space.rois
    rois = list(dict.fromkeys(roi for word in words for roi in dataset.rois_of(word)))
    subjects = parse_subjects("all" if options.subjects is None else options.subjects, dataset)
    chosen = plan_targets(dataset, subjects, hemispheres, rois, min_voxels=options.min_voxels)
    if not chosen.targets:
        sizes = ", ".join(f"{skip.target.name}: {skip.n_voxels}" for skip in chosen.skipped[:3]) or "no ROI was named"
        raise ConfigError(
            f"no ROI of --rois {','.join(words)!r} has the {options.min_voxels} voxels it takes "
            f"({sizes}); `sweep.py data check` lists what there is"
        )
    return chosen


def refuse_changes(existing: SweepPlan, plan: SweepPlan, options: SweepOptions) -> None:
    """Let nobody believe that a sweep goes on with other settings than it was made with.

    Raises:
        ConfigError: a field that changes trials, or where they are kept, differs.
    """
    changed = existing.differences(plan)
    changed += [
        field for field in ("ledger", "tracking_uri") if getattr(options, field) not in (None, getattr(existing, field))
    ]
    if changed:
        raise made_otherwise(plan.name, changed[0], *(getattr(each, changed[0]) for each in (existing, plan)))


def made_otherwise(sweep: str, field: str, before: object, now: object) -> ConfigError:
    """What is told to somebody who names a sweep that was made with another value of ``field``."""
    return ConfigError(
        f"sweep {sweep!r} exists with another {field} ({_told(now, before)} instead of {_told(before, now)}); "
        f"`sweep.py resume {sweep}` goes on with it as it was made, another --name starts a new one"
    )


def _told(value: object, other: object) -> str:
    """A plan's value in few words; of a list, what ``other`` lacks."""
    if isinstance(value, tuple | list) and isinstance(other, tuple | list):
        only = [each for each in value if each not in other] or value
        return shortened(", ".join(str(getattr(each, "name", each)) for each in only) or "none")
    return shortened(without_password(str(value)))


def shortened(text: str, width: int = 60) -> str:
    """``text``, cut to ``width`` characters."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def git_commit() -> str:
    """Commit of this program's own checkout, or ``unknown`` where it was installed without one."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"
