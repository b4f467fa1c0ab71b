"""What a sweep computes: targets x methods x budget; these may grow, the rest is fixed when the sweep is made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

from search_spaces import EXTRAS, Space, space_from_text, space_named
from trainables.config import METHODS
from trainables.data.splits import PUBLISHED
from trainables.errors import ConfigError, StorageError
from trainables.target import Target

PLAN_VERSION = 2
SCORES = ("encoding", "transfer", "classification")
"""What can be measured of every trial on validation stimuli."""
LEAST = {"seed": 0, "trials": 1, "epochs": 1, "grace_epochs": 1, "batch_size": 2, "keep_weights": 1}
"""Smallest value of each number among the options."""


@dataclass(frozen=True, order=True)
class StudyKey:
    """One search: a method for a target."""

    target: Target
    method: str

    @property
    def name(self) -> str:
        """``subj01/lh/V1v/contrastive``."""
        return f"{self.target.name}/{self.method}"


@dataclass(frozen=True)
class SkippedRoi:
    """A target that the data set has too few voxels for."""

    name: str
    n_voxels: int
    reason: str


@dataclass(frozen=True)
class SweepPlan:
    """Everything that decides a sweep's trials; kept beside them, so that `resume` needs a name alone.

    Raises:
        ConfigError: a value outside its range.
    """

    name: str
    sweep_id: str
    """Tells two sweeps of one name apart, in a ledger or on a tracking server that they share."""
    data: str
    """Root of the data set: a folder or an ``s3://`` URI."""
    dataset: str
    protocol: str
    split_seed: int
    split_digest: str
    """Digest of the whole data set's split; every result carries it."""
    targets: tuple[Target, ...]
    skipped: tuple[SkippedRoi, ...]
    roi_groups: Mapping[str, str]
    """ROI label to its group."""
    methods: tuple[str, ...]
    space: str
    trials: int
    """Trials of each tuned (target, method), up to the space's limits."""
    epochs: int
    batch_size: int
    reduction_factor: int
    """Asynchronous successive halving keeps one in so many trials at each rung."""
    grace_epochs: int
    """Epochs before a trial can be pruned: the first rung."""
    backbone: str
    weights_source: str
    weights_digest: str
    weights_fallback: bool
    """Random weights stand in for pretrained ones that could not be had (demo only)."""
    cutoffs: tuple[str, ...]
    """Layer cutoffs that the weights allow."""
    keep_weights: int
    """Trials of each study whose weights are kept."""
    tracking_uri: str
    ledger: str
    """Optuna storage: a journal file's path or a database URL."""
    profile: str
    seed: int
    version: str
    git_commit: str
    space_text: str = ""
    """Text of an own space's file; empty for a named one."""
    explore: tuple[str, ...] = ()
    """What tuned methods explore beside their space, of `search_spaces.EXTRAS`."""
    encoder: str = "ridge"
    """Encoding model: ``ridge`` or ``pls``."""
    scores: tuple[str, ...] = ("encoding",)
    """Validation scores of every complete trial, of `SCORES`."""
    optimise: tuple[str, ...] = ("encoding",)
    """Scores that the search maximises; several mean a search for the Pareto set, without pruning."""
    labelled: str = ""
    """Labelled image set whose classification is among the scores."""
    neighbours: bool = True
    """Every other trial of a study takes over what a study of the same method has found for a target like its own."""
    candidates: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """Of a sweep that confirms another one, by study's name: ``params`` by Optuna's names, the ``trial`` that they are
    of and its ``value``. Nothing else is tried."""
    seeds: int = 0
    """On how many seeds each candidate runs."""
    ledger_name: str = ""
    """What the ledger calls a sweep that was renamed: its first name."""

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                option = "--" + name.replace("_", "-")
                raise ConfigError(f"{option} is {getattr(self, name)}; expected at least {least}")
        if not self.targets:
            raise ConfigError("no target is left to tune for; choose other --subjects, --hemispheres or --rois")
        for option, known in (("methods", METHODS), ("explore", EXTRAS), ("scores", SCORES), ("optimise", SCORES)):
            values = getattr(self, option)
            unknown = [value for value in values if value not in known]
            if unknown or not (values or option == "explore"):
                raise ConfigError(
                    f"--{option} holds {(unknown or ['nothing'])[0]!r}; expected some of {', '.join(known)}"
                )
        self._require_scores()

    def _require_scores(self) -> None:
        if "encoding" not in self.scores or self.optimise[0] != "encoding":
            raise ConfigError(
                f"--scores is {','.join(self.scores)} and --optimise {','.join(self.optimise)}; expected encoding "
                "among the first and at the beginning of the second, since readout layers are chosen by it"
            )
        if missing := [name for name in self.optimise if name not in self.scores]:
            raise ConfigError(f"--optimise holds {missing[0]!r}, which --scores lacks; add it there")
        if "classification" in self.scores and not self.labelled:
            raise ConfigError("--scores holds 'classification' without --labelled; name a labelled image set")
        if "transfer" in self.scores:
            self._require_others()
        if not self.search_space.searched and (self.explore or self.trials != 1):
            raise ConfigError(f"--space {self.space} fixes the recipe; leave out --explore, and --trials other than 1")
        if self.protocol in PUBLISHED and (self.search_space.searched or self.scores != ("encoding",)):
            raise ConfigError(
                f"--protocol {self.protocol} has no validation part to search or choose by; use --space published, "
                "with --scores encoding"
            )

    def _require_others(self) -> None:
        has: dict[tuple[str, str], set[str]] = {}
        for target in self.targets:
            has.setdefault((target.hemisphere, target.roi), set()).update(target.subjects)
        asked = [key.target for key in self.studies]
        lonely = [t for t in asked if not has[t.hemisphere, t.roi] - set(t.subjects)]
        if lonely and ("transfer" in self.optimise or len(lonely) == len(asked)):
            raise ConfigError(
                f"--scores holds 'transfer', but {lonely[0].label} leaves no other subject that has this ROI; leave it "
                "out, or name more --subjects"
            )

    @cached_property
    def search_space(self) -> Space:
        """What the methods explore."""
        return space_from_text(self.space_text, self.space) if self.space_text else space_named(self.space)

    @cached_property  # asked for at every trial, and thousands of keys
    def studies(self) -> Mapping[StudyKey, int]:
        """Every study with its number of trials; the baselines first, as the others are judged by them."""
        methods = sorted(self.methods, key=METHODS.index)
        if self.candidates:
            keys = [StudyKey(target, method) for method in methods for target in self.targets]
            return {key: len(self.candidates[key.name]) * self.seeds for key in keys if key.name in self.candidates}
        return {
            StudyKey(target, method): self.search_space.trials_of(method, self.trials)
            for method in methods
            for target in self.targets
            if target.is_pooled == method.startswith("pooled")
        }

    @property
    def pools(self) -> list[Target]:
        """Pooled targets of all subjects; what is left are pools without one of them."""
        most: dict[tuple[str, str], int] = {}
        for target in self.targets:
            place = target.hemisphere, target.roi
            most[place] = max(most.get(place, 2), len(target.subjects))
        return [target for target in self.targets if len(target.subjects) == most[target.hemisphere, target.roi]]

    @property
    def score_epochs(self) -> tuple[int, ...]:
        """Epochs with a validation score: the rungs and the last one."""
        epochs, rung = [], self.grace_epochs
        while rung < self.epochs:
            epochs.append(rung)
            rung *= self.reduction_factor
        return (*epochs, self.epochs)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the plan's file."""
        values = {**asdict(self), "targets": [target.to_dict() for target in self.targets]}
        return {"plan_version": PLAN_VERSION, **values}

    @classmethod
    def from_dict(cls, values: object) -> SweepPlan:
        """Inverse of `to_dict`.

        Raises:
            StorageError: another version wrote the plan, or it is damaged.
        """
        plain: dict[str, Any] = dict(values) if isinstance(values, Mapping) else {}
        version = plain.pop("plan_version", None)
        for name, value in {"neighbours": False, "candidates": {}, "seeds": 0, "ledger_name": ""}.items():
            plain.setdefault(name, value)  # made before there were any: it goes on as it began
        odd = sorted(set(plain) ^ {each.name for each in fields(cls)})
        if version != PLAN_VERSION or odd:
            raise StorageError(
                f"the sweep's plan has version {version}{' and differs in ' + odd[0] if odd else ''}; this program "
                f"reads version {PLAN_VERSION}, run it with the release that made the sweep"
            )
        plain["targets"] = tuple(Target.from_dict(target) for target in plain["targets"])
        plain["skipped"] = tuple(SkippedRoi(**roi) for roi in plain["skipped"])
        for name in ("methods", "cutoffs", "explore", "scores", "optimise"):
            plain[name] = tuple(plain[name])
        return cls(**plain)

    def differences(self, other: SweepPlan) -> list[str]:
        """Names of the fields that change trials and differ from ``other``; where it runs is no difference."""
        elsewhere = {"sweep_id", "ledger_name", "profile", "version", "git_commit", "tracking_uri", "ledger"}
        names = [each.name for each in fields(self) if each.name not in elsewhere]
        return [name for name in names if plain(getattr(self, name)) != plain(getattr(other, name))]


def plain(value: Any) -> Any:
    """As it comes back from the plan's file."""
    return json.loads(json.dumps(value, default=asdict))


def default_grace_epochs(epochs: int) -> int:
    """A third of a trial's epochs.

    Not less: tuning first costs accuracy and then gains it, the more of both the higher the learning rate is, so an
    earlier rung would favour trials that hardly move.
    """
    return -(-epochs // 3)


def stable_seed(*parts: str | int) -> int:
    """A 32-bit seed that depends on ``parts`` alone, the same in every process."""
    return int.from_bytes(hashlib.sha256("|".join(map(str, parts)).encode()).digest()[:4], "big")


def parse_list(text: str) -> Sequence[str]:
    """``a, b`` as ``["a", "b"]``."""
    return [part.strip() for part in text.split(",") if part.strip()]
