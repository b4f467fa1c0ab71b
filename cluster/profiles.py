"""A profile turns the resources of a machine or cluster into slots; nothing else changes between the two.

A slot runs one trial at a time. AlexNet does not fill a modern GPU, so a GPU holds several slots.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from trainables.errors import ConfigError

COORDINATOR_CPUS = 0.01
"""What a slot's coordinator (which only waits) asks for beside its workers."""
COORDINATOR = {"CPU": COORDINATOR_CPUS, "node:__internal_head__": 1e-3}
"""The head alone has the second resource, 1 of it: elsewhere a coordinator would die with its machine, and take the
place of a slot from workers that fill their machines.
"""
ROUNDING = 1e-6
"""Sums of hundredths of a core fall short of whole numbers by less than this."""


@dataclass(frozen=True)
class Profile:
    """How many slots a resource holds, and what each slot takes."""

    name: str
    cpus_per_worker: int
    """CPU cores of one worker, also its thread count."""
    slots_per_gpu: int = 0
    """0: slots run on CPUs alone."""
    memory_gb_per_worker: float = 3.0
    """Main memory that a worker takes at its peak; bounds the slots of a machine, one is always tried."""
    workers_per_slot: int = 1
    """More than one: data-parallel, the batch is shared out."""
    max_slots: int | None = None
    """Slots of the largest cluster that may be asked for; an autoscaler is woken by slots that wait."""

    @property
    def gpus_per_worker(self) -> float:
        """Share of a GPU that one worker takes."""
        return 1.0 / self.slots_per_gpu if self.slots_per_gpu else 0.0

    @property
    def has_larger_share(self) -> bool:
        """Whether a slot could have a whole GPU and has not; several workers would need one each, on machines that may
        have no more.
        """
        return 0 < self.gpus_per_worker < 1 and self.workers_per_slot == 1

    def slots(self, resources: Mapping[str, float], can_grow: bool = True) -> int:
        """Slots that fit on ``resources``; where these can grow and `max_slots` is given, `max_slots`.

        Args:
            resources: by Ray's names: ``CPU``, ``GPU``, ``memory`` in bytes.
            can_grow: machines may join. One machine alone stays what it is, and slots that wait take memory.

        Raises:
            ConfigError: not even one slot fits.
        """
        if self.max_slots is not None and can_grow:
            return self.max_slots
        fit = self._fit(resources)
        if fit < 1:
            raise ConfigError(f"{self._lack(resources)}, choose another --profile")
        return fit if self.max_slots is None else min(fit, self.max_slots)

    def waits_for_machines(self, resources: Mapping[str, float], slots: int) -> str | None:
        """One sentence if not all of ``slots`` fit today, so that some wait for machines to join; else None."""
        fit = self._fit(resources)
        if fit < 1:
            return f"{self._lack(resources)}: slots wait until an autoscaler, or you, start machines with that"
        if fit < slots:
            return f"{fit} of {slots} slots have room now, {slots - fit} wait for machines to join"
        return None

    def _fit(self, resources: Mapping[str, float]) -> int:
        fit = [int(resources.get("CPU", 0) / self._cpus + ROUNDING)]
        if "memory" in resources:
            fit.append(max(1, int(resources["memory"] / (self.workers_per_slot * self.memory_gb_per_worker * 1e9))))
        if self.slots_per_gpu:
            fit.append(int(resources.get("GPU", 0) * self.slots_per_gpu / self.workers_per_slot + ROUNDING))
        return min(fit)

    @property
    def _cpus(self) -> float:
        return self.workers_per_slot * self.cpus_per_worker + COORDINATOR_CPUS

    def _lack(self, resources: Mapping[str, float]) -> str:
        gpus = self.workers_per_slot * self.gpus_per_worker
        return (
            f"profile {self.name!r} needs {self._cpus} CPUs and {gpus:g} GPUs for one slot; "
            f"found {resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"
        )


PROFILES = {
    "cpu": Profile("cpu", cpus_per_worker=1),
    "gpu": Profile("gpu", cpus_per_worker=2, slots_per_gpu=1),
    "gpu-shared": Profile("gpu-shared", cpus_per_worker=2, slots_per_gpu=4),
}


AUTO_SLOTS = "slots_per_gpu=auto"
"""As many as a GPU's memory holds."""
SETTINGS = [field.name for field in fields(Profile) if field.name != "name"]


def choose_profile(
    text: str, resources: Mapping[str, float], slots_that_fit: Callable[[], int | None] = lambda: None
) -> Profile:
    """A named profile, with settings of one's own behind its name: ``gpu-shared,slots_per_gpu=8,max_slots=64``.

    Args:
        text: ``auto`` takes ``gpu-shared`` where there is a GPU and ``cpu`` elsewhere.
        resources: by Ray's names.
        slots_that_fit: asked for ``slots_per_gpu=auto`` alone; None leaves the profile's own number.

    Raises:
        ConfigError: no profile has that name, or no profile has such a setting.
    """
    name, *words = (word.strip() for word in text.split(","))
    if name == "auto":
        name = "gpu-shared" if resources.get("GPU", 0) else "cpu"
    if name not in PROFILES:
        raise ConfigError(f"--profile is {name!r}; expected auto or one of {', '.join(PROFILES)}")
    profile = PROFILES[name]
    fitting = AUTO_SLOTS in words and profile.slots_per_gpu > 0
    settings = dict(_setting(word) for word in words if word != AUTO_SLOTS)
    if fitting:
        settings["slots_per_gpu"] = slots_that_fit() or profile.slots_per_gpu
    return replace(profile, **settings)


def _setting(word: str) -> tuple[str, Any]:
    key, _, value = word.partition("=")
    if key not in SETTINGS:
        raise ConfigError(f"--profile holds {word!r}; expected some of {', '.join(f'{name}=…' for name in SETTINGS)}")
    try:
        number = float(value) if key == "memory_gb_per_worker" else int(value)
    except ValueError:
        number = -1
    if number < (0 if key == "slots_per_gpu" else 1e-3):
        raise ConfigError(f"--profile holds {word!r}; expected a number above 0 behind {key}=")
    return key, number
