"""The tuning loop against a plain one, and what a trial promises."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.synthetic import TINY, equal_states, planted_data, tiny_config, tiny_weights
from trainables.encoding.validation import score_readout_layers
from trainables.errors import ConfigError, NonFiniteLossError, WeightsError
from trainables.models.heads import ContrastiveHead
from trainables.models.images import normalised_batch
from trainables.models.tuned_model import TunedModel
from trainables.models.weights import load_weights
from trainables.tuning import loop
from trainables.tuning.loop import TrialRun

CPU = torch.device("cpu")


def _run(**changes: object) -> TrialRun:
    return TrialRun(tiny_config(**changes), planted_data(), tiny_weights(), device="cpu", precision="float32")


def _plain_losses(run: TrialRun, epochs: int) -> Iterator[float]:
    """The published recipe on the whole training part as one batch, written out; tunes the run's own modules."""
    data, config = planted_data(), run.config
    images = normalised_batch(data.train.stimuli, data.train.rows, TINY, CPU)
    responses = torch.from_numpy(data.train.responses)
    parameters = [*run.backbone.parameters(), *run.head.parameters()]
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
    for step in range(1, epochs + 1):
        features = run.backbone(images)
        if isinstance(run.head, ContrastiveHead):
            z_response = run.head.shared(responses @ run.head.response_projection.weight.T)
            z_image = run.head.shared(features @ run.head.image_projection.weight.T)
            similarity = functional.cosine_similarity(z_response[:, None], z_image[None], dim=2) / config.temperature
            loss = (similarity.logsumexp(0) - similarity.diag()).mean()
        else:
            loss = ((run.head(features) - responses) ** 2).mean()
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, gradient, (first, second) in zip(parameters, gradients, moments, strict=True):
                first.mul_(0.9).add_(0.1 * gradient)
                second.mul_(0.999).add_(0.001 * gradient**2)
                corrected = (second / (1 - 0.999**step)).sqrt() + 1e-8
                parameter.sub_(config.learning_rate * first / (1 - 0.9**step) / corrected)
        yield float(loss.detach())


@pytest.mark.parametrize("method", ["contrastive", "regression"])
def test_is_the_plain_loop(method: str) -> None:
    changes = {"method": method, "epochs": 4, "batch_size": 1000}
    losses = [result.train_loss for result in _run(**changes)]
    np.testing.assert_allclose(losses, list(_plain_losses(_run(**changes), 4)), rtol=1e-4)
    assert losses[-1] < losses[0]


def test_weight_decay_pulls_parameters_towards_zero() -> None:
    size = []
    for weight_decay in (0.0, 3.0):
        run = _run(method="regression", epochs=20, weight_decay=weight_decay, learning_rate=1e-2)
        list(run)
        size.append(float(sum(p.detach().norm() for p in run.backbone.parameters())))
    assert size[1] < 0.8 * size[0]


@pytest.mark.parametrize("layer_cutoff", ["features.3", "output"])
def test_a_seed_gives_the_same_trial_whatever_ran_before(layer_cutoff: str) -> None:
    """With ``output``, dropout draws random numbers too."""
    runs, losses = [], []
    for seed, noise in ((3, 1), (3, 999), (4, 1)):
        torch.manual_seed(noise)
        run = _run(seed=seed, layer_cutoff=layer_cutoff, epochs=3, score_epochs=(1,) if noise == 1 else ())
        epoch_losses = []
        for result in run:
            torch.rand(noise)  # what else the process does between two epochs
            epoch_losses.append(result.train_loss)
        runs.append(run)
        losses.append(epoch_losses)
    assert losses[0] == losses[1]
    assert equal_states(runs[0].backbone.state_dict(), runs[1].backbone.state_dict())
    assert losses[0] != losses[2]


def test_untuned_is_one_scored_result_of_the_pretrained_network() -> None:
    run = _run(method="untuned", epochs=0, layer_cutoff="output")
    (result,) = list(run)
    assert (result.epoch, result.images_per_second) == (0, 0.0)
    assert math.isnan(result.train_loss)
    assert result.score is not None
    assert list(result.score.r_by_layer) == list(TINY.readout_layers)
    model = run.best_model()
    assert equal_states(dict(model.state), tiny_weights().state)
    assert not model.head


def test_pretrained_weights_are_left_as_they_were() -> None:
    weights = tiny_weights()
    run = TrialRun(tiny_config(), planted_data(), weights, device="cpu")
    list(run)
    assert equal_states(weights.state, tiny_weights().state)
    assert not torch.equal(run.backbone.state_dict()["features.0.weight"], weights.state["features.0.weight"])


def test_every_layer_up_to_the_cutoff_learns() -> None:
    run = _run(epochs=1, layer_cutoff="output", method="regression")
    before = {name: parameter.detach().clone() for name, parameter in run.backbone.named_parameters()}
    next(run)
    assert all(not torch.equal(before[name], p) for name, p in run.backbone.named_parameters())


def test_scores_come_at_the_epochs_asked_for_and_the_best_is_kept() -> None:
    run = _run(epochs=6, score_epochs=(1, 2, 4), learning_rate=0.05, method="regression")
    states: dict[int, dict[str, Tensor]] = {}
    scores: dict[int, float] = {}
    for result in run:
        states[result.epoch] = {name: t.clone() for name, t in run.backbone.state_dict().items()}
        assert (result.score is not None) == (result.epoch in (1, 2, 4, 6))
        if result.score is not None:
            scores[result.epoch] = result.score.r
            assert result.score_seconds > 0
        assert run.backbone.training
    best = max(scores, key=scores.__getitem__)
    assert best != 6, "the test needs a trial that gets worse again"
    assert run.best is not None
    assert run.best.epoch == best
    model = run.best_model()
    assert equal_states(dict(model.state), states[best])
    assert score_readout_layers(model.build(), planted_data()).r == pytest.approx(scores[best], abs=1e-6)
    assert model.provenance["epoch"] == best
    assert model.provenance["split_digest"] == "synthetic"
    assert model.readout_layer == run.best.score.best_layer  # type: ignore[union-attr]


def test_scores_by_the_encoder_of_the_configuration() -> None:
    found = {}
    for encoder in ("ridge", "pls"):
        run = _run(encoder=encoder, method="untuned", epochs=0)
        (result,) = list(run)
        assert result.score is not None
        found[encoder] = result.score.r
        expected = score_readout_layers(run.backbone, planted_data(), encoder=encoder).r
        assert result.score.r == pytest.approx(expected, abs=1e-6)
    assert abs(found["ridge"] - found["pls"]) > 1e-4


def test_the_best_model_survives_the_disk(tmp_path: Path) -> None:
    run = _run()
    list(run)
    run.best_model().save(tmp_path / "best")
    loaded = TunedModel.load(tmp_path / "best")
    assert equal_states(loaded.build().state_dict(), dict(run.best_model().state))
    assert equal_states(dict(loaded.head), dict(run.best_model().head))


def test_there_is_no_best_model_before_the_first_score() -> None:
    run = _run(epochs=3)
    next(run)
    with pytest.raises(ValueError, match="scored"):
        run.best_model()


def test_tuning_brings_the_planted_responses_closer() -> None:
    data = planted_data(n_train=300, n_val=100)
    changes = {
        "method": "regression",
        "layer_cutoff": "classifier.2",
        "learning_rate": 3e-3,
        "batch_size": 32,
    }
    run = TrialRun(tiny_config(**changes, epochs=30), data, tiny_weights(), device="cpu")
    untuned = TrialRun(tiny_config(method="untuned", epochs=0, layer_cutoff="output"), data, tiny_weights())
    before, after = (next(iter(r)) if r is untuned else list(r)[-1] for r in (untuned, run))
    assert before.score is not None
    assert after.score is not None
    assert after.score.r_by_layer["classifier.2"] > before.score.r_by_layer["classifier.2"] + 0.05


def test_contrastive_embeddings_of_training_stimuli_find_their_responses() -> None:
    config = tiny_config(epochs=40, learning_rate=3e-3, batch_size=40)
    run = TrialRun(config, planted_data(n_train=40, n_voxels=30), tiny_weights(), device="cpu")
    losses = [result.train_loss for result in run]
    chance = math.log(40)
    assert losses[0] > 0.9 * chance
    assert losses[-1] < 0.5 * chance


def test_validation_responses_do_not_reach_the_tuning() -> None:
    data = planted_data()
    other = replace(data, val=replace(data.val, responses=-data.val.responses))
    runs = [TrialRun(tiny_config(), each, tiny_weights(), device="cpu") for each in (data, other)]
    assert [r.train_loss for r in runs[0]] == [r.train_loss for r in runs[1]]
    assert equal_states(runs[0].backbone.state_dict(), runs[1].backbone.state_dict())
    assert runs[0].best is not None
    assert runs[1].best is not None
    assert runs[0].best.score != runs[1].best.score


@pytest.mark.parametrize("n_stimuli, batch_size, sizes", [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (8, 8, [8]), (3, 2, [3])])
def test_batches_hold_every_stimulus_once(n_stimuli: int, batch_size: int, sizes: list[int]) -> None:
    batches = loop._shuffled_batches(n_stimuli, batch_size, torch.Generator().manual_seed(0))
    assert [len(batch) for batch in batches] == sizes
    assert sorted(torch.cat(batches).tolist()) == list(range(n_stimuli))


def test_batches_are_shuffled_anew_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    original = loop._shuffled_batches

    def recorded(n_stimuli: int, batch_size: int, generator: torch.Generator) -> list[Tensor]:
        batches = original(n_stimuli, batch_size, generator)
        seen.append(torch.cat(batches).tolist())
        return batches

    monkeypatch.setattr(loop, "_shuffled_batches", recorded)
    list(_run(epochs=3))
    assert len(seen) == 3
    assert all(one != other for one, other in pairwise(seen))
    assert seen[0] != sorted(seen[0])


@pytest.mark.parametrize("method", ["contrastive", "regression"])
def test_divergence_is_an_error(method: str) -> None:
    with pytest.raises(NonFiniteLossError, match=r"learning rate \(1e\+30\)"):
        list(_run(method=method, learning_rate=1e30, epochs=3, score_epochs=()))


def test_refuses_what_cannot_be_tuned() -> None:
    with pytest.raises(ConfigError, match=r"'no_such'; expected one of info_nce"):
        _run(objective="no_such")
    with pytest.raises(ConfigError, match="backbone"):
        TrialRun(tiny_config(backbone="alexnet"), planted_data(), tiny_weights())
    with pytest.raises(ConfigError, match=r"layer is 'features\.9'"):
        _run(layer_cutoff="features.9")
    with pytest.raises(ConfigError, match="at least 5"):
        TrialRun(tiny_config(), planted_data(n_voxels=4), tiny_weights())
    with pytest.raises(ConfigError, match=r"1 training stimuli"):
        TrialRun(tiny_config(), planted_data(n_train=1), tiny_weights())


def test_weights_that_end_before_the_cutoff() -> None:
    weights = tiny_weights()
    short = replace(weights, state={k: v for k, v in weights.state.items() if k.startswith("features")})
    with pytest.raises(WeightsError, match=r"classifier.1.weight"):
        TrialRun(tiny_config(layer_cutoff="output"), planted_data(), short)


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_alexnet_for_real(precision: str) -> None:
    """Whole network, stimuli of full size, one epoch of two batches."""
    data = planted_data(n_train=12, n_val=6)
    stimuli = data.train.stimuli.repeat(14, axis=1).repeat(14, axis=2)
    data = replace(data, train=replace(data.train, stimuli=stimuli), val=replace(data.val, stimuli=stimuli))
    config = tiny_config(backbone="alexnet", layer_cutoff="output", batch_size=6, epochs=1)
    run = TrialRun(config, data, load_weights("random"), device="cpu", precision=precision)
    (result,) = list(run)
    assert result.score is not None
    assert len(result.score.r_by_layer) == 8
    assert math.isfinite(result.train_loss)
    assert all(p.dtype == torch.float32 for p in (*run.backbone.parameters(), *run.head.parameters()))
