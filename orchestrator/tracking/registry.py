"""The model registry: one registered model per target, a version per selected trial, an alias per method.

The alias ``champion`` points at the best method of its target by validation score, pooled ones left out.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types.schema import Schema, TensorSpec
from upath import UPath

import trainables
from orchestrator.plan import StudyKey
from orchestrator.tracking.client import tracking_errors
from orchestrator.tracking.contents import study_tags
from orchestrator.tracking.projection import Projection
from trainables.errors import StorageError
from trainables.remote import read_whole
from trainables.target import Target

CHAMPION, CHALLENGER = "champion", "challenger"
REQUIREMENTS = ("torch", "torchvision", "numpy", "safetensors", "pillow", "universal-pathlib")
SIGNATURE = ModelSignature(
    inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))]),
    outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, -1))]),
)


class Registry:
    """Registered models of a sweep."""

    def __init__(self, projection: Projection) -> None:
        self.projection = projection
        self.client = projection.client
        self.plan = projection.plan

    def model_name(self, target: Target) -> str:
        """``algonauts.subj01-lh-V1v``."""
        return f"{target.dataset}.{target.slug}"

    def holds(self, key: StudyKey, trial: str) -> bool:
        """Whether this sweep's ``trial`` is a version already."""
        return self._version(key, trial) is not None

    def _version(self, key: StudyKey, trial: str) -> str | None:
        return self._version_of(key.target, trial)

    def _version_of(self, target: Target, trial: str) -> str | None:
        with tracking_errors(self.plan.tracking_uri):
            versions = self.client.search_model_versions(f"name='{self.model_name(target)}'")
        wanted = {"sweep.trial": trial, "sweep.id": self.plan.sweep_id}
        for version in versions:
            if wanted.items() <= version.tags.items() and version.status == "READY":
                return str(version.version)
        return None

    def register(self, key: StudyKey, selected: dict[str, Any], predictor: UPath, artifact: str = "model") -> None:
        """Log the predictor under its trial's run, in the folder ``artifact``, and make it a version.

        Raises:
            StorageError: MLflow does not know the trial, or cannot be written.
        """
        run_id = self.projection.run_id(selected["trial"])
        if run_id is None:
            raise StorageError(
                f"MLflow at {self.plan.tracking_uri} lacks trial {selected['trial']}; "
                f"`sweep.py resume {self.plan.name}` writes it"
            )
        name = self.model_name(key.target)
        tags = {
            **study_tags(self.plan, key),
            "sweep.trial": selected["trial"],
            "val_r": f"{selected['val_r']:.6f}",
        }
        with tracking_errors(self.plan.tracking_uri):
            with tempfile.TemporaryDirectory() as folder:
                model = Path(folder) / "model"
                _save_pyfunc(model, predictor)
                self.client.log_artifacts(run_id, str(model), artifact)
            self._ensure_model(name, key)
            run = self.client.get_run(run_id)
            source = f"{run.info.artifact_uri}/{artifact}"
            self.client.create_model_version(name, source=source, run_id=run_id, tags=tags)
            self.client.set_tag(run_id, "selected", "true")
            self.client.log_inputs(run_id, [self._dataset(key)])

    def _dataset(self, key: StudyKey) -> DatasetInput:
        """What the trial was tuned and chosen on, as MLflow's own notion of a data set: the split is its digest."""
        what = Dataset(
            name=f"{self.plan.dataset}.{key.target.slug}",
            digest=self.plan.split_digest,
            source_type="local" if "://" not in self.plan.data else self.plan.data.partition("://")[0],
            source=json.dumps({"uri": self.plan.data}),
        )
        return DatasetInput(what, [InputTag("mlflow.data.context", "training")])

    def _ensure_model(self, name: str, key: StudyKey) -> None:
        try:
            self.client.create_registered_model(
                name,
                tags={
                    "dataset": key.target.dataset,
                    "roi": key.target.roi,
                    "hemisphere": key.target.hemisphere,
                },
                description=f"Predicts the voxel responses of {key.target.name} ({key.target.dataset}) from pictures.",
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def describe(self, target: Target, trial: str, card: str) -> None:
        """Make ``card`` (Markdown) the description of the trial's version.

        Raises:
            StorageError: MLflow does not know the version, or cannot be written.
        """
        version = self._version_of(target, trial)
        if version is None:
            raise StorageError(f"the registry lost {trial}; run `sweep.py select {self.plan.name}` again")
        with tracking_errors(self.plan.tracking_uri):
            self.client.update_model_version(self.model_name(target), version, card)

    def champion_of_another_sweep(self, target: Target) -> str | None:
        """Whose model the alias ``champion`` means so far, if it is not this sweep's: its name and score."""
        with tracking_errors(self.plan.tracking_uri):
            name = self.model_name(target)
            aliases = self.client.get_registered_model(name).aliases
            if CHAMPION not in aliases:
                return None
            tags = self.client.get_model_version(name, aliases[CHAMPION]).tags
        if tags.get("sweep.id") == self.plan.sweep_id:
            return None
        return (
            f"version {aliases[CHAMPION]}, of sweep {tags.get('sweep.name', '?')} with val r {tags.get('val_r', '?')}"
        )

    def point(self, key: StudyKey, trial: str, champion: bool, challenger: bool = False) -> None:
        """Point the method's alias at ``trial``'s version; ``champion`` for the target's best method, ``challenger``
        for its second best.
        """
        version = self._version(key, trial)
        if version is None:
            raise StorageError(f"the registry lost {trial}; run `sweep.py select {self.plan.name}` again")
        name = self.model_name(key.target)
        with tracking_errors(self.plan.tracking_uri):
            for alias in (key.method, *([CHAMPION] if champion else []), *([CHALLENGER] if challenger else [])):
                self.client.set_registered_model_alias(name, alias, version)
        if champion:
            self._crown(key.target, trial)

    def withdraw_challenger(self, target: Target) -> None:
        """Take the alias ``challenger`` from a target that has no second method any more."""
        name = self.model_name(target)
        with tracking_errors(self.plan.tracking_uri):
            if CHALLENGER in self.client.get_registered_model(name).aliases:
                self.client.delete_registered_model_alias(name, CHALLENGER)

    def _crown(self, target: Target, trial: str) -> None:
        """Mark the run of the target's champion, and no other one of this sweep."""
        run_id = self.projection.run_id(trial)
        if run_id is None:
            return
        place = [self.projection.experiment_id]
        with tracking_errors(self.plan.tracking_uri):
            for former in self.client.search_runs(place, f"tags.{CHAMPION} = 'true' and tags.target = '{target.name}'"):
                if former.data.tags["sweep.trial"] != trial:
                    self.client.set_tag(former.info.run_id, CHAMPION, "false")
            self.client.set_tag(run_id, CHAMPION, "true")


def _save_pyfunc(place: Path, predictor: UPath) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "predictor"
        for source in predictor.rglob("*"):
            if source.is_file():
                copy = data / str(source.relative_to(predictor))
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(read_whole(source))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # asks for an example beside the signature
            mlflow.pyfunc.save_model(
                path=str(place),
                loader_module="trainables.predictor",
                data_path=str(data),
                code_paths=[str(Path(trainables.__file__).parent)],
                pip_requirements=list(REQUIREMENTS),
                signature=SIGNATURE,
            )
