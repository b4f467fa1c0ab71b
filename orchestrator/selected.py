"""What `select` chose, for whoever reads it: neither ledger nor MLflow nor Ray is asked."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from upath import UPath

from orchestrator.hints import command
from orchestrator.plan import StudyKey
from orchestrator.storage import SweepStorage, read_json, sweep_names
from trainables.errors import ConfigError, StorageError
from trainables.target import Target

if TYPE_CHECKING:
    from orchestrator.ledger import Ledger


@dataclass(frozen=True)
class Selected:
    """A study's winner."""

    target: dict[str, Any]
    """`Target.to_dict`."""
    method: str
    trial: str
    """As `TrialRecord.uid`."""
    number: int
    val_r: float
    readout_layer: str
    champion: bool
    """The best of its target over all methods."""
    split_digest: str

    @property
    def key(self) -> StudyKey:
        """The study that it won."""
        return StudyKey(Target.from_dict(self.target), self.method)


@dataclass(frozen=True)
class SavedModel:
    """A selected model of one subject, with its encoding model, in the sweep's folder."""

    target: Target
    """Of a single subject, also where the network is a pooled one."""
    selected: Selected
    """Whose network it is."""
    directory: UPath

    @property
    def champion(self) -> bool:
        """The best of its target by validation score; no pooled network is."""
        return self.selected.champion and not self.selected.key.target.is_pooled


def require_sweep(storage: SweepStorage) -> None:
    """Refuse a name that no sweep has.

    Raises:
        StorageError: there is none of that name; the message lists those that there are.
    """
    if not storage.plan_file.exists():
        if not storage.base.exists():
            raise StorageError(f"no sweep {storage.name!r}: there is no folder {storage.base} (see --storage)")
        known = ", ".join(sweep_names(str(storage.base))) or "none"
        raise StorageError(f"no sweep {storage.name!r} in {storage.base}; there are: {known} (see --storage)")


def read_selection(storage: SweepStorage) -> list[Selected]:
    """What `select` chose.

    Raises:
        StorageError: nothing was selected yet.
    """
    if not storage.selection_file.exists():
        raise StorageError(
            f"nothing is selected in sweep {storage.name}; run `sweep.py select {storage.name} --storage "
            f"{storage.base}` first"
        )
    return [Selected(**entry) for entry in read_json(storage.selection_file)]


def find_model(storage: SweepStorage, target: str, method: str | None) -> SavedModel:
    """The model of a target that `select` saved.

    Args:
        storage: of the sweep.
        target: name or slug of a target of one subject: ``subj01/lh/V1v``.
        method: whose winner; None for the champion.

    Raises:
        ConfigError: no such target, or no such method for it.
        StorageError: no such sweep, nothing selected, or the model's folder is gone.
    """
    require_sweep(storage)
    saved = _saved_models(storage)
    own = [model for model in saved if target in (model.target.name, model.target.slug)]
    if not own:
        names = sorted({model.target.name for model in saved})
        raise ConfigError(f"target is {target!r}; expected one {close_to(target, names)} in sweep {storage.name}")
    found = [model for model in own if (model.champion if method is None else model.selected.method == method)]
    if not found:
        methods = ", ".join(model.selected.method for model in own)
        raise ConfigError(
            f"{target} has no champion in sweep {storage.name} (networks of several subjects and published protocols "
            f"have none); name a method: {methods}"
            if method is None
            else f"method is {method!r}; {target} has {methods} in sweep {storage.name}"
        )
    if not (found[0].directory / "encoder" / "encoder.json").exists():
        select = command("select", storage.name, "--storage", str(storage.base))
        raise StorageError(
            f"the {found[0].selected.method} model of {target} is not in {found[0].directory}; bring the folder back, "
            f"or make it with `{select}` if MLflow does not hold it yet"
        )
    return found[0]


def weights_of(storage: SweepStorage, ledger: Ledger, selected: Selected) -> str | None:
    """Folder of a selected trial's tuned weights; None for the untuned network.

    Raises:
        StorageError: they were not kept.
    """
    if selected.method == "untuned":
        return None
    record = next(r for r in ledger.study_records(selected.key) if r.number == selected.number)
    place = storage.trial_dir(selected.key.target, selected.method, selected.number)
    if not record.details.get("weights"):
        raise StorageError(
            f"the weights of {selected.trial} were not kept; run the sweep again with a larger --keep-weights"
        )
    if not place.exists():
        again = command("select", storage.name, "--storage", str(storage.base))
        raise StorageError(
            f"the weights of {selected.trial} are gone, since a better trial has ended; `{again}` takes that one"
        )
    return str(place)


def close_to(word: str, known: list[str]) -> str:
    """``such as subj01/lh/V1v, subj01/lh/V1d (of 60)``: what may have been meant by ``word``."""
    likely = get_close_matches(word, known, n=3, cutoff=0.4) or known[:3]
    return f"such as {', '.join(likely)} (of {len(known)})" if likely else "of none that there are"


def _saved_models(storage: SweepStorage) -> list[SavedModel]:
    """A model for each winner, and for each subject of a pooled one that `select` registers."""
    models = []
    for selected in read_selection(storage):
        whole = selected.key.target
        for subject in whole.subjects:
            target = whole.of_subject(subject)
            directory = storage.model_dir(target, selected.method)
            # Pools that leave a subject out are for that subject, and are not saved.
            if not whole.is_pooled or directory.exists():
                models.append(SavedModel(target, selected, directory))
    return models
