"""A sweep's experiment and models in MLflow, when the sweep is renamed, put away or deleted."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.entities import Experiment, ViewType

from orchestrator.plan import SweepPlan
from orchestrator.tracking.client import connect, tracking_errors


class KeptExperiment:
    """The experiment of a sweep, whatever it is called and whether MLflow shows it or not.

    Raises:
        StorageError: MLflow cannot be reached, or from every method, written.
    """

    def __init__(self, plan: SweepPlan) -> None:
        self.plan = plan
        self.client: MlflowClient = connect(plan.tracking_uri)
        with tracking_errors(plan.tracking_uri):
            found = self.client.search_experiments(ViewType.ALL, filter_string=f"tags.`sweep.id` = '{plan.sweep_id}'")
        self._experiment: Experiment | None = found[0] if found else None

    def is_taken(self, name: str) -> bool:
        """Whether another experiment, shown or not, has this name."""
        with tracking_errors(self.plan.tracking_uri):
            found = self.client.get_experiment_by_name(name)
        own = None if self._experiment is None else self._experiment.experiment_id
        return found is not None and found.experiment_id != own

    def rename(self, name: str) -> None:
        """Call it ``name``."""
        if self._experiment is None:
            return
        hidden = self._experiment.lifecycle_stage != "active"
        self.show()  # a hidden one cannot be renamed
        with tracking_errors(self.plan.tracking_uri):
            self.client.rename_experiment(self._experiment.experiment_id, name)
            self.client.set_experiment_tag(self._experiment.experiment_id, "sweep.name", name)
            if hidden:
                self.client.delete_experiment(self._experiment.experiment_id)

    def hide(self) -> None:
        """Leave it out of MLflow's lists; `show` brings it back."""
        if self._experiment is not None and self._experiment.lifecycle_stage == "active":
            with tracking_errors(self.plan.tracking_uri):
                self.client.delete_experiment(self._experiment.experiment_id)

    def show(self) -> None:
        """Undo `hide`."""
        if self._experiment is not None and self._experiment.lifecycle_stage != "active":
            with tracking_errors(self.plan.tracking_uri):
                self.client.restore_experiment(self._experiment.experiment_id)

    def remove(self) -> None:
        """Hide it and free its name, which MLflow keeps until ``mlflow gc``."""
        if self._experiment is not None:
            self.show()
            with tracking_errors(self.plan.tracking_uri):
                gone = f"{self.plan.name} (deleted {self.plan.sweep_id})"
                self.client.rename_experiment(self._experiment.experiment_id, gone)
                self.client.delete_experiment(self._experiment.experiment_id)

    def remove_models(self) -> list[str]:
        """Delete the registered versions that come from the sweep, and models without any other; what went."""
        gone = []
        with tracking_errors(self.plan.tracking_uri):
            for version in self.client.search_model_versions(f"tags.`sweep.id` = '{self.plan.sweep_id}'"):
                self.client.delete_model_version(version.name, version.version)
                gone.append(f"{version.name} version {version.version}")
                if not self.client.search_model_versions(f"name = '{version.name}'"):
                    self.client.delete_registered_model(version.name)
        return gone
