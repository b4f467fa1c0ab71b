from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from upath import UPath

from orchestrator.storage import SweepStorage, read_json, storage_errors, sweep_names, write_json
from tests.orchestrator.plans import EBA, V1
from trainables.errors import ConfigError, StorageError
from trainables.target import Target

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "name", ["../x", "", "a/b", "/etc", ".", "..", ".hidden", "-x", "a b", "a\n", "é", "a" * 81, "a\\b", "a:b", "%2e"]
)
def test_names_that_are_no_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="sweep name is") as refused:
        SweepStorage(str(tmp_path), name)
    assert repr(name) in str(refused.value)


@pytest.mark.parametrize("name", ["a", "demo", "2026-01-31", "A.b_c-d", "a" * 80])
def test_plain_names_are_folders_of_the_storage(tmp_path: Path, name: str) -> None:
    storage = SweepStorage(str(tmp_path), name)
    storage.create()
    assert (tmp_path / name).is_dir()
    assert str(storage.root) == str(tmp_path / name)


def test_everything_of_a_sweep_lies_in_its_folder(tmp_path: Path) -> None:
    storage = SweepStorage(str(tmp_path), "demo")
    places = [
        storage.plan_file,
        storage.journal_file,
        storage.driver_lock,
        storage.weights_file,
        storage.scratch,
        storage.trial_dir(V1, "contrastive", 3),
        storage.selection_file,
        storage.encoding_scores_file,
        storage.voxel_scores_file(V1, "untuned"),
        storage.model_dir(V1, "untuned"),
        storage.artifacts_uri.removeprefix("file://"),
    ]
    for place in places:
        assert Path(str(place)).is_relative_to(tmp_path / "demo")
    assert len({str(place) for place in places}) == len(places)


def test_places_of_trials_never_meet(tmp_path: Path) -> None:
    storage = SweepStorage(str(tmp_path), "demo")
    streams = Target("demo", ("subj01",), "lh", "streams:early")
    places = {
        str(storage.trial_dir(target, method, number))
        for target in (V1, EBA, streams)
        for method in ("contrastive", "regression")
        for number in (0, 1, 99999, 100000)
    }
    assert len(places) == 24
    assert all(":" not in place for place in places)


def test_relative_storage_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = SweepStorage("results", "demo")
    monkeypatch.chdir("/")
    assert str(storage.plan_file) == str(tmp_path / "results/demo/plan.json")
    assert storage.default_tracking_uri == f"sqlite:///{tmp_path / 'results/mlflow.db'}"


def test_remote_storage_keeps_what_needs_a_file_system_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = SweepStorage("s3://bucket/results", "demo")
    assert not storage.is_local
    assert str(storage.plan_file) == "s3://bucket/results/demo/plan.json"
    assert storage.artifacts_uri == "s3://bucket/results/demo/artifacts"
    assert storage.trial_dir(V1, "regression", 7).as_uri() == (
        "s3://bucket/results/demo/trials/subj01-lh-V1v/regression/00007"
    )
    assert storage.journal_file == tmp_path / "results/demo/ledger.journal"


def test_sweeps_are_listed_by_their_plans(tmp_path: Path) -> None:
    assert sweep_names(str(tmp_path / "nowhere")) == []
    for name in ("b", "a"):
        write_json(SweepStorage(str(tmp_path), name).plan_file, {})
    (tmp_path / "no-sweep").mkdir()
    (tmp_path / "mlflow.db").touch()
    assert sweep_names(str(tmp_path)) == ["a", "b"]


def test_json_is_written_and_read(tmp_path: Path) -> None:
    path = UPath(tmp_path / "deep" / "file.json")
    content = {"r": 0.1, "layers": ["features.2"], "none": None, "µ": "é"}
    write_json(path, content)
    assert read_json(path) == content
    write_json(path, [1])
    assert read_json(path) == [1]
    assert [entry.name for entry in (tmp_path / "deep").iterdir()] == ["file.json"]


def test_numbers_that_are_not_json_are_refused(tmp_path: Path) -> None:
    path = UPath(tmp_path / "file.json")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"r": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_colleagues_can_read_what_is_written(tmp_path: Path) -> None:
    write_json(UPath(tmp_path / "file.json"), 1)
    (tmp_path / "ordinary").write_text("1")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes["file.json"] == modes["ordinary"]


@pytest.mark.parametrize("content", [b"", b'{"half": ', b"\xff\xfe\x00", b"\x00" * 100], ids=repr)
def test_damaged_json_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(StorageError, match="is damaged") as told:
        read_json(UPath(path))
    assert str(path) in str(told.value)


def test_missing_json_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="could not read"):
        read_json(UPath(tmp_path / "file.json"))


def test_full_disk_keeps_the_former_content_and_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(UPath(path), {"former": True})
    code = (
        "import resource, sys\n"
        "from upath import UPath\n"
        "from orchestrator.storage import write_json\n"
        "from trainables.errors import StorageError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        f"    write_json(UPath({str(path)!r}), list(range(100_000)))\n"
        "except StorageError as error:\n"
        "    sys.exit(str(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith(f"could not write {path}: File too large")
    assert len(done.stderr.splitlines()) == 1
    assert json.loads(path.read_text()) == {"former": True}
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.json"]


def test_place_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("no folder")
    with pytest.raises(StorageError, match="could not write .* choose another --storage"):
        SweepStorage(str(tmp_path / "results"), "demo").create()


def test_other_errors_pass_through() -> None:
    with pytest.raises(KeyError), storage_errors("there"):
        raise KeyError("mine")
