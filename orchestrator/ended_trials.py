"""What Tune would keep of every trial until the sweep ends: more than half of what a trial costs a driver in memory."""

from __future__ import annotations

from typing import Any

from ray import tune
from ray.tune.experiment import Trial


class EndedTrials(tune.Callback):
    """Lets go of a trial's results once search and scheduler have had them: the ledger is who remembers."""

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Keep no more of a trial than that it is done."""
        kept = trial.run_metadata
        # Means over the last five and ten results, and extremes, of every number in a result.
        kept.metric_analysis, kept.metric_n_steps = {}, {}
        kept.last_result = {"done": True}  # not empty: Tune would ask the slot for another one
        # A result of none, which stands in until there is one, still on its way from the slot as far as Ray knows.
        trial._default_result_or_future = None
