"""A trial in a worker's hands, on data with planted truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.synthetic import planted_data, tiny_config, tiny_weights
from trainables.config import TrialConfig
from trainables.data.responses import TargetData
from trainables.tuning.bench import Bench, TrialInHand, Workspace
from trainables.tuning.loop import TrialRun

EPOCHS = 5


class PlantedBench(Bench):
    """A worker's bench whose data are planted."""

    def __init__(self, leaving: bool = False) -> None:
        workspace = Workspace("", "", "tiny", None, 0, "nested", ("encoding",), (), "", 1, 0.0)
        super().__init__(workspace, lambda: leaving)

    def start(self, config: TrialConfig) -> TrialRun:
        return TrialRun(config, planted_data(), tiny_weights(), device="cpu", precision="float32")

    def _load_target(self, _: Any) -> list[TargetData]:
        return [planted_data()]


def in_hand(place: Path, leaving: bool = False) -> TrialInHand:
    config = tiny_config(epochs=EPOCHS, score_epochs=(1, 3))
    places = {"weights_dir": str(place / "weights"), "snapshot_dir": str(place / "snapshots")}
    return TrialInHand(PlantedBench(leaving), {"config": config.to_dict(), "score_to_beat": -1.0, **places})
