"""Reads what a sweep left behind: its ledger and the files of its evaluations. What is missing is None."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.information_evaluation import why_no_information
from orchestrator.leaderboard import Row, leaderboard
from orchestrator.ledger import Ledger
from orchestrator.networks import network_name, subjects_of
from orchestrator.opening import open_sweep
from orchestrator.plan import StudyKey, SweepPlan
from orchestrator.storage import SweepStorage, read_json, reading_arrays, storage_errors
from trainables.data.splits import NESTED, PUBLISHED, PUBLISHED_A
from trainables.errors import StorageError
from trainables.remote import read_whole

EVALUATIONS = (
    "encoding",
    "layers",
    "transfer",
    "information",
    "classification",
    "landscape",
    "salience",
    "statistics",
)
"""Names of the evaluations and of the files that they leave."""

MADE_BY = {"layers": "encoding", "statistics": "encoding"}
"""Evaluations that come with another one."""
ON_LABELLED = ("classification", "landscape")
"""Evaluations on labelled image sets."""

CHOSEN_ON_VALIDATION = (
    "optimistic: the trial, its epoch and its readout layer were chosen by this very number, on validation stimuli"
)
NOT_OPTIMISTIC = {
    NESTED: "not optimistic: all choices were made on validation stimuli",
    PUBLISHED_A: "not optimistic: layer and penalty were chosen by cross-validation of the untuned network inside the "
    "other 85 %, the same for all methods, which favours that network",
}
"""By protocol, of a table without another flaw."""


@dataclass(frozen=True)
class Results:
    """Everything that the page tells of."""

    plan: SweepPlan
    ledger: Ledger
    storage: SweepStorage
    storage_uri: str
    """As the user wrote it, for the commands that the page names."""
    leaderboard: tuple[Row, ...]
    selected: bool
    """Whether `select` has chosen."""
    files: Mapping[str, dict[str, Any] | None]
    """Content of each file by name of the evaluation."""

    def rows(self, evaluation: str, key: str = "rows") -> list[dict[str, Any]]:
        """Rows of an evaluation; none if it was not made."""
        return list((self.files[evaluation] or {}).get(key, []))

    def sets(self, evaluation: str) -> dict[str, dict[str, Any]]:
        """Labelled image sets of an evaluation, by name; none if it was not made."""
        sets = (self.files[evaluation] or {}).get("sets", {})
        return {name: table for name, table in sets.items() if table.get("complete", True)}

    @cached_property
    def partial_pools(self) -> dict[str, StudyKey]:
        """Pooled studies that leave a subject out, by their network's name: they are made for that subject."""
        plan = self.plan
        keys = [key for key in plan.studies if key.target.is_pooled and key.target not in plan.pools]
        return {network_name(key): key for key in keys}

    def of_whole_pools(self, rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """``rows`` without those of `partial_pools`, which must not enter the means of a pooled method."""
        return [row for row in rows if row["network"] not in self.partial_pools]

    @property
    def only_subject(self) -> str:
        """The sweep's subject, if it has a single one; else empty."""
        subjects = subjects_of(self.plan)
        return subjects[0] if len(subjects) == 1 else ""

    def command(self, evaluation: str, options: str = "") -> str:
        """The sentence about an evaluation that was not made; ``options`` are further ones of the command."""
        if evaluation == "information" and self.plan.protocol in PUBLISHED:
            return why_no_information(self.plan)
        place = f"--storage {shlex.quote(self.storage_uri)}"
        first = "" if self.selected else f"`python sweep.py select {self.plan.name} {place}` and then "
        options = options or (" --labelled DIR" if evaluation in ON_LABELLED else "")
        asked = f"--evaluations {MADE_BY.get(evaluation, evaluation)}{options}"
        return f"Not computed yet: {first}`python sweep.py evaluate {self.plan.name} {asked} {place}` makes it."

    @property
    def resume(self) -> str:
        """The command that goes on with the sweep."""
        return f"`python sweep.py resume {self.plan.name} --storage {shlex.quote(self.storage_uri)}`"

    def basis(self, evaluation: str, what: str = "test stimuli", other_data: bool = False) -> str:
        """On which protocol and split the numbers of an evaluation rest, and what they are optimistic about.

        Args:
            evaluation: whose file says it.
            what: the stimuli that were scored.
            other_data: those are another data set's, which has a split of its own.
        """
        content = self.files[evaluation] or {}
        if other_data:
            return f"Protocol {content.get('protocol')}, that data set's own split, {what}; {self._optimism(content)}."
        protocol, split = str(content.get("protocol")), str(content.get("split"))
        odd = "" if (protocol, split) == (self.plan.protocol, self.plan.split_digest) else " (not the sweep's own)"
        return f"Protocol {protocol}, split {split}{odd}, {what}; {self._optimism(content)}."

    def _optimism(self, content: Mapping[str, Any]) -> str:
        encoding = self.files["encoding"] or {}
        # A file that says nothing itself rests on the same choices as the encoding scores of its protocol.
        same = encoding if encoding.get("protocol") == content.get("protocol") else {}
        said = content.get("optimistic", same.get("optimistic"))
        if said is None:
            said = "" if content.get("protocol") == NESTED else None
        if said:
            return f"optimistic: {said}"
        other = "see the protocol for what it chose where"
        return other if said is None else NOT_OPTIMISTIC.get(str(content.get("protocol")), other)

    @property
    def validation_basis(self) -> str:
        """The same for the scores that trials are compared by."""
        on = f"Protocol {self.plan.protocol}, split {self.plan.split_digest}, "
        if self.plan.protocol in PUBLISHED:
            return on + "cross-validated inside the training part; optimistic: networks were tuned on these stimuli."
        return on + f"validation stimuli; {CHOSEN_ON_VALIDATION}."

    def voxel_r(self, slug: str, method: str) -> NDArray[np.float64] | None:
        """Test r of every voxel, ``[n_voxels]``; None if it was not kept.

        Raises:
            StorageError: the file is damaged.
        """
        path = self.storage.evaluation_dir / "encoding" / slug / f"{method}.npz"
        if not path.exists():
            return None
        try:
            with reading_arrays(path) as archive:
                return np.asarray(archive["r"], dtype=np.float64)
        except (ValueError, KeyError) as error:
            raise StorageError(f"{path} is damaged ({error}); delete it and evaluate again") from error

    def image(self, place: str) -> bytes | None:
        """A file of the evaluation folder; None if it is not there or lies elsewhere."""
        parts = place.split("/")
        if place.startswith("/") or ".." in parts:
            return None
        path = self.storage.evaluation_dir.joinpath(*parts)
        if not path.exists():
            return None
        with storage_errors(path, "read"):
            return read_whole(path)


def read_results(name: str, storage_uri: str) -> Results:
    """What there is of the sweep called ``name``.

    Raises:
        StorageError: there is no such sweep, or a file of it is damaged.
    """
    storage, ledger = open_sweep(name, storage_uri)
    files = {evaluation: _current(storage, _read(storage, evaluation)) for evaluation in EVALUATIONS}
    rows = tuple(leaderboard(ledger, storage))
    if files["encoding"] is None:  # test r is shown with what it rests on, or not at all
        rows = tuple(replace(row, test_r=None) for row in rows)
    return Results(ledger.plan, ledger, storage, storage_uri, rows, storage.selection_file.exists(), files)


def _current(storage: SweepStorage, content: dict[str, Any] | None) -> dict[str, Any] | None:
    """None for results of other trials than those that are selected now, or of some of them: they have to be made
    again. So do those that do not say of which trials they are.
    """
    if content is None or not storage.selection_file.exists():
        return content
    selected = {entry["trial"] for entry in read_json(storage.selection_file)}
    trials = content.get("trials")
    return content if trials is not None and set(trials.values()) == selected else None


def _read(storage: SweepStorage, evaluation: str) -> dict[str, Any] | None:
    path = storage.evaluation_file(evaluation)
    if not path.exists():
        return None
    content = read_json(path)
    if not isinstance(content, dict):
        raise StorageError(f"{path} holds a {type(content).__name__}; expected an object, evaluate again")
    return content
