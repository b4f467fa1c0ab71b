"""Where Tune keeps its files; what it keeps of trials is held in ``test_tuning.py``, on a real Tuner."""

from __future__ import annotations

from pathlib import Path

from orchestrator.storage import SweepStorage
from orchestrator.tune_leftovers import tune_folder


def test_files_of_a_local_sweep_lie_where_ray_train_keeps_its_own(tmp_path: Path) -> None:
    storage = SweepStorage(str(tmp_path), "sweep")
    with tune_folder(storage) as folder:
        assert folder == storage.scratch


def test_files_of_a_remote_sweep_lie_here_and_go() -> None:
    with tune_folder(SweepStorage("s3://bucket/sweeps", "sweep")) as folder:
        assert Path(folder).is_dir()
        Path(folder, "tune-1").mkdir()
    assert not Path(folder).exists()
