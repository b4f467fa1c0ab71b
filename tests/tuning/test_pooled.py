"""Trials of several subjects against plain steps written out, on planted subjects that share no stimulus."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.synthetic import POOLED_TARGET, TINY, equal_states, planted_data, planted_pair, tiny_config, tiny_weights
from trainables.data.responses import TargetData
from trainables.encoding.pooled import score_pooled
from trainables.errors import ConfigError
from trainables.models.heads import PooledHead
from trainables.models.images import StimulusCache, normalised_batch
from trainables.tuning import loop
from trainables.tuning.loop import TrialRun
from trainables.tuning.objectives import info_nce
from trainables.tuning.pooled import subjects_in_training

CPU = torch.device("cpu")


def _run(data: list[TargetData] | None = None, **changes: object) -> TrialRun:
    config = tiny_config(**{"method": "pooled-avg", "target": POOLED_TARGET, **changes})
    return TrialRun(config, data or planted_pair(), tiny_weights(), device="cpu", precision="float32")


def _head(run: TrialRun) -> PooledHead:
    assert isinstance(run.head, PooledHead)
    return run.head


def _copies(run: TrialRun) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in _head(run).named_parameters()}


def test_is_one_plain_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Subject after subject, a step a batch; a subject's layers rest, Adam's moments included, in others' turns."""
    orders: list[list[Tensor]] = []
    original = loop._shuffled_batches

    def recorded(n_stimuli: int, batch_size: int, generator: torch.Generator) -> list[Tensor]:
        orders.append(original(n_stimuli, batch_size, generator))
        return orders[-1]

    monkeypatch.setattr(loop, "_shuffled_batches", recorded)
    run, plain = _run(epochs=1), _run(epochs=1)
    (result,) = list(run)
    losses = _plain_epoch(plain, orders)
    assert [len(batches) for batches in orders] == [3, 2]  # 40 and 33 stimuli by 16; a last single one is merged
    assert result.train_loss == pytest.approx(sum(losses) / (40 + 33), rel=1e-5)
    # Batch normalisation takes away the biases before it: their gradients are rounding, which Adam makes large.
    idle = {"shared.0.bias", "shared.3.bias"}
    for one, other in ((run.backbone, plain.backbone), (run.head, plain.head)):
        expected = dict(other.named_parameters())
        for name, parameter in one.named_parameters():
            if name not in idle:
                torch.testing.assert_close(parameter, expected[name], rtol=1e-4, atol=1e-5, msg=name)


def _plain_epoch(run: TrialRun, orders: list[list[Tensor]]) -> list[float]:
    """Tunes the run's own modules with Adam written out; the loss of every batch times its size."""
    head, losses = _head(run), []
    parameters = [*run.backbone.parameters(), *head.parameters()]
    moments = [(0, torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
    for subject, (data, batches) in enumerate(zip(planted_pair(), orders, strict=True)):
        for batch in batches:
            images = normalised_batch(data.train.stimuli, data.train.rows[batch.numpy()], TINY, CPU)
            responses = torch.from_numpy(data.train.responses[batch.numpy()])
            of_responses = head.shared(head.response_projections[subject](responses))
            of_images = head.shared(head.image_projection(run.backbone(images)))
            loss = info_nce(of_responses, of_images, run.config.temperature)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for k, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
                if gradient is not None:
                    moments[k] = _adam_step(parameter, gradient, moments[k], run.config.learning_rate)
            losses.append(float(loss.detach()) * len(batch))
    return losses


def _adam_step(
    parameter: Tensor, gradient: Tensor, moments: tuple[int, Tensor, Tensor], learning_rate: float
) -> tuple[int, Tensor, Tensor]:
    step = moments[0] + 1
    first, second = 0.9 * moments[1] + 0.1 * gradient, 0.999 * moments[2] + 0.001 * gradient**2
    with torch.no_grad():
        parameter -= learning_rate * first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    return step, first, second


def test_the_loss_of_both_subjects_falls_and_all_layers_learn() -> None:
    run = _run(epochs=12, batch_size=40, learning_rate=3e-3, mse_weight=0.1)
    before = _copies(run)
    losses = [result.train_loss for result in run]
    assert losses[-1] < 0.7 * losses[0]
    after = _copies(run)
    assert all(not torch.equal(before[name], after[name]) for name in before)
    shapes = {name: tuple(tensor.shape) for name, tensor in after.items() if "projection" in name}
    hidden = (10 + 17) // 2
    assert shapes == {
        "image_projection.weight": (hidden, 12 * 16),
        "response_projections.0.weight": (hidden, 10),
        "response_projections.1.weight": (hidden, 17),
    }


@pytest.mark.parametrize("subject", [0, 1])
def test_the_batch_of_one_subject_leaves_the_others_layers_alone(subject: int) -> None:
    run = _run(mse_weight=0.1)
    run._batch_loss(torch.arange(16), torch.Generator().manual_seed(0), run._subjects[subject]).backward()
    reached = {name for name, parameter in _head(run).named_parameters() if parameter.grad is not None}
    assert {f"response_projections.{subject}.weight", "image_projection.weight", "shared.0.weight"} <= reached
    assert not {name for name in reached if f"s.{1 - subject}." in name}
    assert all(parameter.grad is not None for parameter in run.backbone.parameters())


def test_every_subject_shapes_the_backbone() -> None:
    pair = planted_pair()
    for changed in (0, 1):
        other = list(pair)
        train = pair[changed].train
        other[changed] = replace(pair[changed], train=replace(train, responses=train.responses[::-1].copy()))
        one, two = _run(pair, epochs=1), _run(other, epochs=1)
        assert next(one).train_loss != next(two).train_loss
        assert not equal_states(one.backbone.state_dict(), two.backbone.state_dict())


def test_score_and_best_model_are_those_of_all_subjects() -> None:
    run = _run(epochs=2)
    result = list(run)[-1]
    expected = score_pooled(run.backbone, planted_pair())
    assert result.score is not None
    assert result.score.r == pytest.approx(expected.r, abs=1e-6)
    np.testing.assert_allclose(result.score.r_per_voxel, expected.r_per_voxel, atol=1e-5)
    assert len(result.score.r_per_voxel) == 27
    model = run.best_model()
    assert model.method == "pooled-avg"
    assert model.provenance["split_digest"] == "synthetic"
    assert model.provenance["weights"]["digest"] == tiny_weights().digest
    assert equal_states(dict(model.head), _head(run).state_dict())


def test_a_seed_gives_the_same_trial_with_what_an_objective_draws() -> None:
    states, losses = [], []
    for seed, noise in ((3, 1), (3, 2), (4, 1)):
        torch.manual_seed(noise)
        run = _run(seed=seed, objective="hard_negatives", epochs=2)
        losses.append([result.train_loss for result in run])
        states.append(run.backbone.state_dict())
    assert losses[0] == losses[1] != losses[2]
    assert equal_states(states[0], states[1])


@pytest.mark.parametrize("objective", ["hard_negatives", "bimixco"])
def test_epochs_draw_anew(objective: str) -> None:
    """A network that does not move has another loss in each epoch, since shuffling cannot change a single batch."""
    losses = []
    for name in (objective, "info_nce"):
        run = _run(objective=name, epochs=3, batch_size=40, learning_rate=1e-12)
        losses.append([result.train_loss for result in run])
    assert np.ptp(losses[0]) > 1e-4
    assert np.ptp(losses[1]) < 1e-5


def test_refuses_data_of_other_subjects() -> None:
    one, two = planted_pair()
    with pytest.raises(ConfigError, match="has 2 subjects, but data of 1 came"):
        _run([one])
    with pytest.raises(ConfigError, match="has 1 subjects, but data of 2 came"):
        TrialRun(tiny_config(), [one, two], tiny_weights(), device="cpu")
    with pytest.raises(ConfigError, match="data of subj02/lh/V1v came for subject subj01"):
        _run([two, one])
    with pytest.raises(ConfigError, match=r"different splits \(synthetic, other\)"):
        _run([one, replace(two, digest="other")])
    with pytest.raises(ConfigError, match="subj02/lh/V1v has 1 training stimuli"):
        _run(planted_pair(n_train=(40, 1)))
    with pytest.raises(ConfigError, match="6 voxels together"):
        _run(planted_pair(n_voxels=(3, 3)))


def test_a_sequence_of_one_subject_is_that_subject() -> None:
    states = []
    for data in (planted_data(), [planted_data()]):
        run = TrialRun(tiny_config(epochs=1), data, tiny_weights(), device="cpu")
        list(run)
        states.append(run.backbone.state_dict())
    assert equal_states(*states)


def test_a_cache_of_stimuli_serves_one_subject() -> None:
    pair = planted_pair()
    caches = [StimulusCache(), StimulusCache()]
    for each in (None, caches[0], caches):
        subjects = subjects_in_training(pair, each, torch.device("meta"))
        assert [subject.stimuli.shape for subject in subjects] == [data.train.stimuli.shape for data in pair]
    assert [cache._source is data.train.stimuli for cache, data in zip(caches, pair, strict=True)] == [True, True]
    with pytest.raises(ValueError, match="3 stimulus caches for 2 subjects"):
        subjects_in_training(pair, [StimulusCache()] * 3, CPU)
