"""Tuned models on disk: round trip, all or nothing, and every kind of damage."""

import errno
import json
import os
import resource
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from upath import UPath

from tests.synthetic import equal_states, tiny_weights
from trainables.errors import StorageError, WeightsError
from trainables.models import artifact
from trainables.models.heads import ContrastiveHead
from trainables.models.tuned_model import TunedModel

FILES = ["model.json", "model.safetensors"]


@pytest.fixture
def model() -> TunedModel:
    state = {name: tensor for name, tensor in tiny_weights().state.items() if name.startswith("features")}
    return TunedModel(
        backbone="tiny",
        layer_cutoff="features.3",
        method="contrastive",
        readout_layer="features.1",
        state=state,
        head=ContrastiveHead(192, 10).state_dict(),
        provenance={"epoch": 3, "validation_r": 0.25, "weights": {"source": "random"}},
    )


@pytest.fixture
def small_files() -> Iterator[None]:
    """The operating system lets no file grow beyond 1000 bytes: a write that fails half-way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_round_trip(model: TunedModel, tmp_path: Path) -> None:
    model.save(tmp_path / "new" / "model")
    loaded = TunedModel.load(tmp_path / "new" / "model")
    assert equal_states(dict(loaded.state), dict(model.state))
    assert equal_states(dict(loaded.head), dict(model.head))
    for field in ("backbone", "layer_cutoff", "method", "readout_layer", "provenance"):
        assert getattr(loaded, field) == getattr(model, field)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(loaded.build()(images), model.build()(images))
    assert not loaded.build().training
    assert _names(tmp_path / "new" / "model") == FILES
    assert _names(tmp_path / "new") == ["model"]


def test_round_trip_on_remote_storage(model: TunedModel) -> None:
    place = UPath("memory://models/subj01")
    model.save(place)
    assert equal_states(dict(TunedModel.load(place).state), dict(model.state))
    assert sorted(path.name for path in place.iterdir()) == FILES
    (place / "model.json").unlink()
    with pytest.raises(WeightsError, match="expected a saved model"):
        TunedModel.load(place)


def test_local_paths_of_every_kind(model: TunedModel, tmp_path: Path) -> None:
    model.save(UPath(tmp_path / "one"))
    model.save(UPath(f"file://{tmp_path}/two"))
    assert _names(tmp_path / "one") == _names(tmp_path / "two") == FILES
    assert equal_states(dict(TunedModel.load(UPath(f"file://{tmp_path}/one")).state), dict(model.state))


def test_the_head_may_stay_behind(model: TunedModel, tmp_path: Path) -> None:
    model.save(tmp_path / "model", with_head=False)
    loaded = TunedModel.load(tmp_path / "model")
    assert not loaded.head
    assert equal_states(dict(loaded.state), dict(model.state))


def test_saving_again_replaces(model: TunedModel, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    replace(model, readout_layer="features.3").save(tmp_path / "model")
    assert TunedModel.load(tmp_path / "model").readout_layer == "features.3"
    assert _names(tmp_path) == ["model"]


@pytest.mark.parametrize("there_already", [False, True])
def test_a_full_disk_leaves_what_was_there(
    model: TunedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there_already: bool
) -> None:
    if there_already:
        model.save(tmp_path / "model")

    def full(_tensors: object, path: Path) -> None:
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(artifact, "save_file", full)
    with pytest.raises(StorageError, match="No space left"):
        replace(model, readout_layer="features.3").save(tmp_path / "model")
    assert _names(tmp_path) == (["model"] if there_already else [])
    if there_already:
        assert TunedModel.load(tmp_path / "model").readout_layer == "features.1"


def test_a_disk_that_really_refuses(model: TunedModel, tmp_path: Path, small_files: None) -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        model.save(tmp_path / "model")
    assert _names(tmp_path) == []


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o027, 0o640)])
def test_files_may_be_read_by_whom_the_umask_says(model: TunedModel, tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        model.save(tmp_path / "model")
    finally:
        os.umask(before)
    assert {stat.S_IMODE((tmp_path / "model" / name).stat().st_mode) for name in FILES} == {mode}


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_truncated_tensors(model: TunedModel, tmp_path: Path, kept: int) -> None:
    model.save(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(WeightsError, match=r"model\.safetensors cannot be read"):
        TunedModel.load(tmp_path)


def test_a_flipped_bit(model: TunedModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    path = tmp_path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"damaged or belongs to another model"):
        TunedModel.load(tmp_path)


def test_tensors_of_another_model(model: TunedModel, tmp_path: Path) -> None:
    model.save(tmp_path / "one")
    zeroed = {name: torch.zeros_like(tensor) for name, tensor in model.state.items()}
    replace(model, state=zeroed).save(tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").replace(tmp_path / "one" / "model.safetensors")
    with pytest.raises(WeightsError, match="belongs to another model"):
        TunedModel.load(tmp_path / "one")


@pytest.mark.parametrize("missing", FILES)
def test_a_file_is_missing(model: TunedModel, tmp_path: Path, missing: str) -> None:
    model.save(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(WeightsError, match=missing):
        TunedModel.load(tmp_path)


@pytest.mark.parametrize("content, message", [("{", "damaged"), ("[]", "JSON object"), ("{}", "version None")])
def test_a_damaged_description(model: TunedModel, tmp_path: Path, content: str, message: str) -> None:
    model.save(tmp_path)
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(WeightsError, match=message):
        TunedModel.load(tmp_path)


@pytest.mark.parametrize(
    "field, value, message",
    [("format_version", 99, "version 99"), ("readout_layer", None, "lacks 'readout_layer'")],
)
def test_a_description_of_another_time(
    model: TunedModel, tmp_path: Path, field: str, value: object, message: str
) -> None:
    model.save(tmp_path)
    path = tmp_path / "model.json"
    description = json.loads(path.read_text())
    if value is None:
        del description[field]
    else:
        description[field] = value
    path.write_text(json.dumps(description))
    with pytest.raises(WeightsError, match=message):
        TunedModel.load(tmp_path)
