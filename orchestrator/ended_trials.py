"""What Tune would keep of every trial's results until the sweep ends, in the driver's memory."""

from __future__ import annotations

from typing import Any

from ray import tune
from ray.tune.experiment import Trial


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
