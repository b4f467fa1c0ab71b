"""What the roofline's table says of times that are known."""

from __future__ import annotations

import argparse
from typing import Any, cast

import pytest
import torch

from benchmarks.device_rates import Device
from benchmarks.roofline import CompiledRun, Side, against_eager, apart, counted_flops, subject_of
from benchmarks.step_work import StepWork
from tests.synthetic import planted_data, tiny_config, tiny_weights
from trainables.tuning.loop import TrialRun


def side(seconds: float, losses: list[float], compiling: float = 0.0) -> Side:
    return Side(cast(Any, None), compiling, losses, [seconds] * 3)


def test_the_longer_of_arithmetic_and_memory_is_the_least_time() -> None:
    at = Device(torch.device("cpu"), torch.float32, flops=100.0, head_flops=10.0, bandwidth=50.0)
    assert at.roofline(StepWork(200, 10, 20, 20, 10)) == (3.0, "arithmetic")
    assert at.roofline(StepWork(200, 10, 200, 20, 30)) == (5.0, "memory")


def test_compiling_pays_after_as_many_epochs_as_make_up_for_it() -> None:
    asked = argparse.Namespace(stimuli=1000, epochs=30)
    sides = [side(2.0, [4.0, 2.0, 1.0]), side(1.0, [4.0, 2.0, 1.01], compiling=20.0), side(3.0, [4.0, 2.0, 1.0])]
    # Ten steps an epoch: ten seconds are saved in each, and 300 steps take 320 seconds instead of 600.
    assert against_eager(sides, asked, 100) == ["2.00", "20", "2.0", "1.88", "0.67", "0", "never", "0.67"]
    assert apart(sides) == pytest.approx(0.01)
    assert apart(sides[:1]) == 0.0


def test_parts_of_a_subject_are_those_of_the_nested_split() -> None:
    size = subject_of(7380)
    assert (size.n_train, size.n_val, size.n_stimuli) == (7380, 984, 9840)


def test_the_compiled_side_makes_the_trials_own_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler, so that it takes no minute."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    runs = [
        kind(tiny_config(), planted_data(), tiny_weights(), device="cpu", precision="float32")
        for kind in (TrialRun, CompiledRun)
    ]
    losses = [float(run.step(torch.arange(16), torch.Generator().manual_seed(0))) for run in runs]
    assert losses[0] == losses[1]
    assert counted_flops(Side(runs[0]), 16) == counted_flops(Side(runs[1]), 16)
