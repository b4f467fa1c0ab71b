"""The model card of every registered model, in MLflow: written when it is selected, again when it is evaluated."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

from orchestrator.export import describe, scores_on_test
from orchestrator.model_card import model_card
from orchestrator.plan import SweepPlan
from orchestrator.selected import find_model, read_selection
from orchestrator.storage import SweepStorage, read_json, write_json
from orchestrator.tracking.registry import Registry
from trainables.errors import ConfigError, StorageError
from trainables.target import Target

CARD = "card.json"


def write_cards(
    places: SweepStorage,
    plan: SweepPlan,
    registry: Registry,
    models: Iterable[tuple[Target, str]],
    new: Container[tuple[Target, str]] = (),
) -> None:
    """Describe registered models.

    Args:
        places: of the sweep.
        plan: its plan.
        registry: where the versions are.
        models: target of one subject and method of each.
        new: those whose files have just been made; of others a card that is there is only brought up to date.

    Raises:
        CortexSweepError: a model is gone, or MLflow cannot be written.
    """
    for target, method in models:
        saved = find_model(places, target.name, method)
        card = saved.directory / CARD
        about = read_json(card) if card.exists() and (target, method) not in new else describe(places, plan, saved)
        about |= {"champion": saved.champion, "sweep": plan.name, "test": scores_on_test(places, saved)}
        write_json(card, about)
        registry.describe(target, saved.selected.trial, model_card(about, use_of(about, registry.model_name(target))))


def update_cards(places: SweepStorage, plan: SweepPlan, registry: Registry) -> None:
    """Put the scores on test stimuli into the cards of all selected models.

    Raises:
        CortexSweepError: MLflow cannot be written.
    """
    models = []
    for selected in read_selection(places):
        for subject in selected.key.target.subjects:
            target = selected.key.target.of_subject(subject)
            try:
                find_model(places, target.name, selected.method)
            except (ConfigError, StorageError):  # a pool without this subject is not registered
                continue
            models.append((target, selected.method))
    write_cards(places, plan, registry, models)


def use_of(about: dict[str, Any], name: str) -> str:
    """How a registered model is loaded, as the card's section."""
    alias = "champion" if about["champion"] else about["method"]
    return f"""## Use

```python
import mlflow

model = mlflow.pyfunc.load_model("models:/{name}@{alias}")
responses = model.predict(pictures)  # uint8 [n, height, width, 3], RGB -> float32 [n, {about["n_voxels"]}]
```

In this project: `load_champion("{about["target"]}", sweep="{about["sweep"]}")` of `orchestrator.models`, a
scikit-learn estimator; `sweep.py export {about["target"]} DIR --name {about["sweep"]}` makes files that need torch and
NumPy alone."""
