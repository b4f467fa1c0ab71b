"""Two workers with half a batch each against one worker with all of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn

from tests.synthetic import POOLED_TARGET, planted_data, planted_pair, tiny_config, tiny_weights
from tests.tuning.in_hand import in_hand
from trainables.config import TrialConfig
from trainables.errors import DataError, NonFiniteLossError, StorageError
from trainables.models.backbone import BACKBONES
from trainables.models.tuned_model import TunedModel
from trainables.tuning.bench import as_answer
from trainables.tuning.distributed import (
    all_agree,
    average_gradients,
    from_first_worker,
    gather_rows,
    share_of,
    together,
    world,
)
from trainables.tuning.loop import TrialRun

N_WORKERS = 2
# 40 stimuli in batches of 13, 13 and 14: the last one of a single stimulus is merged, and 13 does not divide by 2.
CONFIGS = [
    tiny_config(**changes, batch_size=13, epochs=3, layer_cutoff="classifier.2", learning_rate=3e-3)
    for changes in (
        {"method": "contrastive"},
        {"method": "regression"},
        {"method": "contrastive", "objective": "hard_negatives", "mse_weight": 0.7},
        {"method": "contrastive", "objective": "bimixco"},
        {"method": "pooled-avg", "target": POOLED_TARGET, "mse_weight": 0.7},
    )
]

Outcome = dict[str, Tensor | list[float]]


def _without_dropout() -> None:
    """Workers draw their own dropout masks, so only a network without them can agree to the last digits."""
    tiny_weights()
    spec = BACKBONES["tiny"]
    without = [(name, module) for name, module in spec.chain() if name != "classifier.0"]
    assert len(without) == len(spec.chain()) - 1
    chain = spec.chain
    BACKBONES["tiny"] = replace(spec, chain=lambda: [(name, m) for name, m in chain() if name != "classifier.0"])


def _outcome(config: TrialConfig) -> Outcome:
    torch.set_num_threads(1)
    weights = tiny_weights()
    _without_dropout()
    data = planted_pair() if config.is_pooled else planted_data()
    run = TrialRun(config, data, weights, device="cpu", precision="float32")
    generator = torch.Generator().manual_seed(0)
    torch.stack([run._batch_loss(torch.arange(13), generator, subject) for subject in run._subjects]).sum().backward()
    average_gradients(run._parameters)
    names = [name for module in (run.backbone, run.head) for name, _ in module.named_parameters()]
    gradients = {name: p.grad.clone() for name, p in zip(names, run._parameters, strict=True) if p.grad is not None}
    results = list(TrialRun(config, data, weights, device="cpu", precision="float32"))
    score = results[-1].score
    assert score is not None
    return {**gradients, "losses": [result.train_loss for result in results], "r": [score.r]}


def _gathered(rank: int) -> Outcome:
    """Rows and gradient of an uneven gather; the loss weighs rows differently, so a mix-up of rows shows."""
    whole = torch.arange(10.0).reshape(5, 2)
    share = share_of(whole).clone().requires_grad_()
    gathered = gather_rows(share)
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])[:, None]
    (gathered**2 * weights).sum().backward()
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([1.0, 10.0 * rank])
    average_gradients([parameter, torch.nn.Parameter(torch.zeros(1))])
    assert share.grad is not None
    return {"rows": gathered.detach(), "share_gradient": share.grad, "mean_gradient": parameter.grad}


def _check_failures(rank: int) -> None:
    """What fails on one worker alone fails on all of them, or ends them all."""

    def read() -> int:
        if rank == 1:
            raise DataError("a file that this machine alone cannot read")
        return rank

    with pytest.raises(DataError, match="this machine alone"):
        together(read)
    assert together(lambda: 10 + rank) == 10 + rank
    with pytest.raises(torch.OutOfMemoryError):
        as_answer(torch.OutOfMemoryError("of this worker"))
    assert "learning rate" in as_answer(NonFiniteLossError("lower the learning rate"))["failed"]


def _worker(rank: int, folder: str) -> None:
    rendezvous = f"file://{folder}/rendezvous"
    distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=N_WORKERS)
    assert from_first_worker(("a", rank)) == ("a", 0)
    assert [all_agree(True), all_agree(rank == 0), all_agree(False)] == [True, False, False]
    _check_failures(rank)
    trial = in_hand(Path(folder) / "in-hand")
    answers = [trial.advance() for _ in range(3)]
    torch.save(
        [(answer["epoch"], answer["score"], json.loads(answer["details"])["weights"]) for answer in answers],
        f"{folder}/answers{rank}.pt",
    )
    (Path(folder) / "full").touch()  # a file where the weights' folder has to be
    full = in_hand(Path(folder) / "full")
    full.advance(), full.advance()
    with pytest.raises(StorageError, match="cannot be written"):
        full.advance()
    outcomes = [_gathered(rank), *(_outcome(config) for config in CONFIGS)]
    torch.save(outcomes, f"{folder}/rank{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workers")


@pytest.fixture(scope="module")
def outcomes(workers: Path) -> list[list[Outcome]]:
    """Of both workers: what they gathered, then each configuration's trial."""
    spawn(_worker, args=(str(workers),), nprocs=N_WORKERS)
    return [torch.load(workers / f"rank{rank}.pt") for rank in range(N_WORKERS)]


def test_one_worker_writes_for_all(outcomes: list[list[Outcome]], workers: Path) -> None:
    first, second = (torch.load(workers / f"answers{rank}.pt") for rank in range(N_WORKERS))
    assert first == second
    assert [answer[2] for answer in first] == [None, None, str(workers / "in-hand/weights")]
    assert [place.name for place in (workers / "in-hand").iterdir()] == ["weights"]
    assert TunedModel.load(workers / "in-hand/weights").provenance["validation_r"] == max(r for _, r, _ in first)


def test_gathered_rows_and_their_gradient(outcomes: list[list[Outcome]]) -> None:
    whole = torch.arange(10.0).reshape(5, 2)
    gradient = 2 * whole * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])[:, None]
    for rank, rows in enumerate((slice(0, 3), slice(3, 5))):
        gathered = outcomes[rank][0]
        torch.testing.assert_close(gathered["rows"], whole)
        # Times the number of workers, which averaging over workers takes away again.
        torch.testing.assert_close(gathered["share_gradient"], N_WORKERS * gradient[rows])
        torch.testing.assert_close(gathered["mean_gradient"], torch.tensor([1.0, 5.0]))


@pytest.mark.parametrize(
    "index", range(len(CONFIGS)), ids=[f"{config.method}-{config.objective_name}" for config in CONFIGS]
)
def test_two_workers_compute_what_one_computes(
    outcomes: list[list[Outcome]], index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKBONES, "tiny", BACKBONES.get("tiny"))
    alone = _outcome(CONFIGS[index])
    for of_worker in outcomes:
        for name, expected in alone.items():
            torch.testing.assert_close(of_worker[index + 1][name], expected, rtol=1e-4, atol=1e-6)
    assert outcomes[0][index + 1]["losses"] == outcomes[1][index + 1]["losses"]


def test_a_single_process_is_left_alone() -> None:
    batch = torch.arange(5.0)
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.ones(1)
    average_gradients([parameter])
    assert world() == (0, 1)
    assert share_of(batch).equal(batch)
    assert gather_rows(batch) is batch
    assert from_first_worker(batch) is batch
    assert together(lambda: batch) is batch
    assert [all_agree(True), all_agree(False)] == [True, False]
    assert parameter.grad.item() == 1.0
