"""Data-parallel tuning: N workers with 1/N of each batch compute what one worker computes with all of it.

Batch normalisation and the negatives of a contrastive objective depend on the whole batch. So each worker
runs the backbone on its share alone, gathers the small projected features of all workers, and then computes
head and loss on the whole batch, all workers the same. The gradient of each share's features is known
everywhere, and averaging the parameters' gradients over workers gives those of a single worker. Backbones are
assumed to have no batch normalisation of their own; dropout in the backbone draws its own masks on every
worker.

Without an initialised process group, or in one of a single worker, every function here does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn

from trainables.errors import CortexSweepError

T = TypeVar("T")


def world() -> tuple[int, int]:
    """Rank of this worker and number of workers."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def share_of(batch: Tensor) -> Tensor:
    """This worker's consecutive part of the batch's first axis; parts differ by one row at most."""
    rank, n_workers = world()
    return batch.tensor_split(n_workers)[rank]


def gather_rows(share: Tensor) -> Tensor:
    """The whole batch from every worker's share, in order of rank, with gradient.

    Every worker must go on to compute the same loss from the result; see the module's description.

    Args:
        share: ``[n_rows of this worker, ...]``; numbers of rows differ by one at most, as `share_of` cuts
            them.

    Returns:
        ``[n_rows of all workers, ...]``.
    """
    if world()[1] == 1:
        return share
    gathered: Tensor = _GatherRows.apply(share)
    return gathered


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over workers."""
    n_workers = world()[1]
    if n_workers == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    # Few large tensors: one request each, all under way at once, needs no buckets.
    requests = [distributed.all_reduce(gradient, async_op=True) for gradient in gradients]
    for request in requests:
        request.wait()
    torch._foreach_div_(gradients, n_workers)


def copy_from_first_worker(module: nn.Module) -> None:
    """Make parameters and buffers those of rank 0, whatever the machines' own initialisation gave."""
    if world()[1] == 1:
        return
    for tensor in module.state_dict().values():
        distributed.broadcast(tensor, src=0)


def from_first_worker(value: Any) -> Any:
    """What rank 0 passes, on every worker; small plain values."""
    if world()[1] == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def all_agree(here: bool) -> bool:
    """Whether every worker passes True."""
    n_workers = world()[1]
    if n_workers == 1:
        return here
    found: list[Any] = [None] * n_workers
    distributed.all_gather_object(found, here)
    return all(found)


def together(work: Callable[[], T]) -> T:
    """Do what may fail on a single worker, as reading files does; if it fails on any, all raise that error.

    Else the others would go on, and wait for the one that failed.
    """
    if world()[1] == 1:
        return work()
    result, failed = None, None
    try:
        result = work()
    except CortexSweepError as error:
        failed = error
    found: list[Any] = [None] * world()[1]
    distributed.all_gather_object(found, failed)
    for each in found:
        if each is not None:
            raise each
    return cast(T, result)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, share: Tensor) -> Tensor:
        rank, n_workers = world()
        counts = torch.zeros(n_workers, dtype=torch.int64, device=share.device)
        counts[rank] = len(share)
        distributed.all_reduce(counts)
        sizes = counts.tolist()
        # Collective calls want equal shapes, so shorter shares are padded and the padding is cut off again.
        padded = share.new_zeros(max(sizes), *share.shape[1:])
        padded[: len(share)] = share
        parts = [torch.empty_like(padded) for _ in range(n_workers)]
        distributed.all_gather(parts, padded)
        ctx.start, ctx.size, ctx.n_workers = sum(sizes[:rank]), len(share), n_workers
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Every worker computes the same loss, so the gradient of this share is here already. Averaging over
        # workers divides by their number later, but only this worker's backbone sees this share: multiplied
        # in advance.
        gradient: Tensor = gradients[0][ctx.start : ctx.start + ctx.size] * ctx.n_workers
        return gradient
