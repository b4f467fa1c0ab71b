"""What Tune would keep of every trial until the sweep ends: results in the driver's memory, files that nobody reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from orchestrator.storage import SweepStorage


class EndedTrials(tune.Callback):
    """Lets go of a trial's results once search and scheduler have had them: the ledger is who remembers."""

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Of a trial that was scored to its end, or pruned."""
        _forget_results(trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Of a trial whose slot died at every attempt."""
        _forget_results(trial)


def _forget_results(trial: Trial) -> None:
    kept = trial.run_metadata
    # Extremes and means, over the last five and ten results, of every number in a result.
    kept.metric_analysis, kept.metric_n_steps = {}, {}
    kept.last_result = {"done": True}  # not empty: Tune would look for the stand-in below
    # A result of none, which stood in until there was one: a reference, and with it Ray's copy of the value.
    trial._default_result_or_future = None


@contextmanager
def tune_folder(storage: SweepStorage) -> Iterator[str]:
    """Where Tune keeps its bookkeeping, which nothing of a sweep ever reads: a folder of this machine's.

    In object storage Tune would look there for four files of every trial when all have ended, one after another, while
    the machines of a cluster wait.
    """
    if storage.is_local:
        yield storage.scratch
    else:
        with TemporaryDirectory(prefix="cortex-sweep-") as folder:
            yield folder
