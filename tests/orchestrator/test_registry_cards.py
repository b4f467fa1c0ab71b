"""What the registry says of a selected model: card, aliases, data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from orchestrator.opening import open_sweep
from orchestrator.registry_cards import update_cards
from orchestrator.selected import read_selection
from orchestrator.selection import challengers
from orchestrator.storage import SweepStorage, write_json
from orchestrator.tracking.projection import Projection
from orchestrator.tracking.registry import Registry
from tests.orchestrator.selected import saved_sweep
from trainables.data.algonauts import AlgonautsDataset

NAME = "demo.subj01-lh-V1v"


@pytest.fixture(scope="module")
def places(demo: AlgonautsDataset, tmp_path_factory: pytest.TempPathFactory) -> SweepStorage:
    """Selected by `select` itself."""
    folder = tmp_path_factory.mktemp("cards")
    saved_sweep(demo, folder)
    return SweepStorage(str(folder), "small")


def version(places: SweepStorage, alias: str) -> ModelVersion:
    client = MlflowClient(places.default_tracking_uri, registry_uri=places.default_tracking_uri)
    return client.get_model_version_by_alias(NAME, alias)


def card_of(places: SweepStorage, alias: str) -> str:
    card: str | None = version(places, alias).description
    assert card is not None
    return card


def test_card_says_what_it_is_and_how_to_load_it(places: SweepStorage) -> None:
    card = card_of(places, "champion")
    assert card.startswith("# V1v, left hemisphere, subj01 (demo)")
    assert f'mlflow.pyfunc.load_model("models:/{NAME}@champion")' in card
    for words in (
        "| test r | not evaluated |",
        "| protocol | nested, split ",
        "## Limits",
        "The responses are simulated",
    ):
        assert words in card


def test_second_best_method_is_the_challenger(places: SweepStorage) -> None:
    chosen = [selected for selected in read_selection(places) if selected.key.target.slug == "subj01-lh-V1v"]
    champion = next(selected for selected in chosen if selected.champion)
    (second,) = [selected for selected in chosen if not selected.champion]
    assert version(places, "champion").tags["sweep.trial"] == champion.trial
    assert version(places, "challenger").tags["sweep.trial"] == second.trial
    assert {second.trial} == challengers(chosen)


def test_trial_names_its_data_set_with_the_split_as_digest(places: SweepStorage) -> None:
    _, ledger = open_sweep("small", str(places.base))
    client = MlflowClient(places.default_tracking_uri)
    run = client.get_run(version(places, "champion").run_id or "")
    assert run.inputs is not None
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("demo.subj01-lh-V1v", ledger.plan.split_digest)
    assert json.loads(used.dataset.source) == {"uri": ledger.plan.data}
    assert run.data.tags["champion"] == "true"


def test_evaluation_comes_into_the_card(places: SweepStorage) -> None:
    _, ledger = open_sweep("small", str(places.base))
    champion = next(s for s in read_selection(places) if s.champion and s.key.target.slug == "subj01-lh-V1v")
    row: dict[str, Any] = {
        "slug": "subj01-lh-V1v",
        "method": champion.method,
        "trial": champion.trial,
        "network": "none",
        "test_r": 0.1234,
        "test_noise_normalised_r2": 0.05,
        "n_test_stimuli": 77,
        "readout_layer": champion.readout_layer,
    }
    write_json(places.encoding_scores_file, {"rows": [row]})
    update_cards(places, ledger.plan, Registry(Projection(ledger, places.artifacts_uri)))
    Path(str(places.encoding_scores_file)).unlink()
    card = card_of(places, "champion")
    assert "| test r | 0.123, 77 pictures |" in card
    assert "not evaluated" in card_of(places, "challenger")
