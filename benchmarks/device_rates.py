"""What a device reaches: its arithmetic by large matrix products, its memory by a large copy. Not run by itself."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from benchmarks.step_work import StepWork
from trainables.models.hardware import choose_device, choose_precision

SECONDS = 0.7
"""A rate is the best within so long."""


@dataclass(frozen=True)
class Device:
    """Where the loop runs and what it reaches."""

    device: torch.device
    dtype: torch.dtype
    """The backbone's."""
    flops: float
    """Per second, of a matrix product in the backbone's type."""
    head_flops: float
    """In float32, as heads compute."""
    bandwidth: float
    """Bytes per second, read and written, of a copy."""

    @classmethod
    def measured(cls) -> Device:
        """Best of several large products and copies, now."""
        device = choose_device()
        dtype = choose_precision("auto", device)
        n, n_copied = (8192, 2**30) if device.type == "cuda" else (3072, 2**28)
        in_float32 = product_rate(device, torch.float32, n)
        flops = in_float32 if dtype == torch.float32 else product_rate(device, dtype, n)
        source = torch.zeros(n_copied, dtype=torch.uint8, device=device)
        target = torch.ones_like(source)
        return cls(device, dtype, flops, in_float32, 2 * n_copied / best_seconds(device, lambda: target.copy_(source)))

    @classmethod
    def median(cls, found: Sequence[Device]) -> Device:
        """Of what was measured in turn with something else: the speed of a virtual machine is not the same for long."""
        rates = (
            statistics.median(getattr(each, name) for each in found) for name in ("flops", "head_flops", "bandwidth")
        )
        flops, head_flops, bandwidth = rates
        return cls(found[0].device, found[0].dtype, flops, head_flops, bandwidth)

    def roofline(self, work: StepWork) -> tuple[float, str]:
        """Least seconds of a step, and what limits it."""
        arithmetic = work.backbone_flops / self.flops + work.head_flops / self.head_flops
        memory = work.n_bytes / self.bandwidth
        return max((arithmetic, "arithmetic"), (memory, "memory"))


def best_seconds(device: torch.device, action: Callable[[], object]) -> float:
    """Of the fastest among several."""
    action()
    started, best = time.perf_counter(), float("inf")
    while time.perf_counter() - started < SECONDS:
        best = min(best, timed(device, action))
    return best


def product_rate(device: torch.device, dtype: torch.dtype, n: int) -> float:
    """Operations per second of a product of two matrices ``[n, n]``."""
    left, right = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return 2 * n**3 / best_seconds(device, lambda: left @ right)


def timed(device: torch.device, action: Callable[[], object]) -> float:
    """Seconds of the action, device included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
