"""Pretrained weights from every source, and everything that can be wrong with a file."""

import hashlib
import os
import time
import urllib.error
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from trainables.errors import ConfigError, StorageError, WeightsError
from trainables.models.backbone import BACKBONES, OUTPUT
from trainables.models.weights import PretrainedWeights, load_weights, save_weights

LAYERS = tuple(BACKBONES["alexnet"].readout_layers)
CONVOLUTIONS = LAYERS[:5]


@pytest.fixture(scope="module")
def whole() -> PretrainedWeights:
    return load_weights("random")


@pytest.fixture(scope="module")
def convolutions(whole: PretrainedWeights) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in whole.state.items() if name.startswith("features")}


def _write(state: dict[str, Tensor], path: Path) -> Path:
    if path.suffix == ".npz":
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in state.items()}
        np.savez(path, **arrays)
    elif path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def test_whole_weights_reach_every_layer(whole: PretrainedWeights) -> None:
    assert whole.readout_layers == LAYERS
    assert whole.cutoffs == (*LAYERS, OUTPUT)
    assert whole.note == ""


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors", ".npz"])
def test_convolutions_alone_reach_pool5_and_say_so(
    convolutions: dict[str, Tensor], tmp_path: Path, suffix: str
) -> None:
    weights = load_weights(str(_write(convolutions, tmp_path / f"conv{suffix}")))
    assert weights.readout_layers == weights.cutoffs == CONVOLUTIONS
    assert "features.12" in weights.note
    assert weights.source == f"conv{suffix}"
    assert all(torch.equal(weights.state[name], tensor) for name, tensor in convolutions.items())


def test_the_digest_is_of_the_content(convolutions: dict[str, Tensor], tmp_path: Path) -> None:
    digests = {
        load_weights(str(_write(convolutions, tmp_path / f"conv{suffix}"))).digest
        for suffix in (".pth", ".safetensors", ".npz")
    }
    assert len(digests) == 1
    changed = {**convolutions, "features.0.bias": convolutions["features.0.bias"] + 1e-6}
    assert load_weights(str(_write(changed, tmp_path / "changed.npz"))).digest not in digests


def test_a_published_file_is_known_by_its_bytes(
    convolutions: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the start of its SHA-256, which torchvision's name for it ends in; that name itself says nothing."""
    renamed = _write(convolutions, tmp_path / "my-alexnet.pth")
    assert load_weights(str(renamed)).source == "my-alexnet.pth"
    digest = hashlib.sha256(renamed.read_bytes()).hexdigest()
    published = SimpleNamespace(DEFAULT=SimpleNamespace(url=f"https://example.org/alexnet-owt-{digest[:8]}.pth"))
    monkeypatch.setattr("torchvision.models.get_model_weights", lambda _: published)
    assert load_weights(str(renamed)).source == "imagenet"
    other = {**convolutions, "features.0.bias": convolutions["features.0.bias"] + 1}
    impostor = _write(other, tmp_path / f"alexnet-owt-{digest[:8]}.pth")
    assert load_weights(str(impostor)).source == impostor.name


def test_weights_may_end_at_any_layer(convolutions: dict[str, Tensor], tmp_path: Path) -> None:
    first = {name: tensor for name, tensor in convolutions.items() if name.startswith(("features.0", "features.3"))}
    assert load_weights(str(_write(first, tmp_path / "two.npz"))).cutoffs == ("features.2", "features.5")


def test_save_and_load(whole: PretrainedWeights, tmp_path: Path) -> None:
    save_weights(whole, tmp_path / "deep" / "random.safetensors")
    assert load_weights(str(tmp_path / "deep" / "random.safetensors")).digest == whole.digest
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["random.safetensors"]


def test_nested_state_dicts_and_half_precision(convolutions: dict[str, Tensor], tmp_path: Path) -> None:
    half = {name: tensor.half() for name, tensor in convolutions.items()}
    torch.save({"state_dict": half, "epoch": 3}, tmp_path / "checkpoint.pth")
    weights = load_weights(str(tmp_path / "checkpoint.pth"))
    assert {tensor.dtype for tensor in weights.state.values()} == {torch.float32}


class _Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.marker),)


def test_a_hostile_pickle_runs_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save({"features.0.weight": _Hostile(marker)}, tmp_path / "hostile.pth")
    hostile: dict[str, Any] = {"features.0.weight": np.array([_Hostile(marker)], dtype=object)}
    np.savez(tmp_path / "hostile.npz", **hostile)
    for name in ("hostile.pth", "hostile.npz"):
        with pytest.raises(WeightsError, match=f"{name} cannot be read"):
            load_weights(str(tmp_path / name))
    assert not marker.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_truncated_files(convolutions: dict[str, Tensor], tmp_path: Path, suffix: str, kept: float) -> None:
    path = _write(convolutions, tmp_path / f"conv{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(WeightsError, match=f"conv{suffix} cannot be read"):
        load_weights(str(path))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
def test_files_that_are_not_what_their_name_says(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_text("<html>404 Not Found</html>" * 50)
    with pytest.raises(WeightsError, match="cannot be read"):
        load_weights(str(path))


@pytest.fixture(scope="module")
def residual() -> PretrainedWeights:
    return load_weights("random", "resnet18")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
def test_batch_statistics_and_counters_are_read(residual: PretrainedWeights, tmp_path: Path, suffix: str) -> None:
    state = {**residual.state, "bn1.num_batches_tracked": torch.tensor(7), "bn1.running_var": torch.full((64,), 0.5)}
    weights = load_weights(str(_write(state, tmp_path / f"whole{suffix}")), "resnet18")
    assert weights.cutoffs[-1] == OUTPUT
    assert weights.digest != residual.digest
    assert weights.state.keys() == state.keys()
    assert all(torch.equal(weights.state[name], tensor) for name, tensor in state.items())
    assert weights.state["bn1.num_batches_tracked"].dtype == torch.int64


def test_counters_that_an_old_file_lacks_are_zero(residual: PretrainedWeights, tmp_path: Path) -> None:
    old = {name: tensor for name, tensor in residual.state.items() if not name.endswith("num_batches_tracked")}
    assert len(old) == len(residual.state) - 20
    weights = load_weights(str(_write(old, tmp_path / "old.pth")), "resnet18")
    assert (weights.digest, weights.cutoffs, weights.note) == (residual.digest, residual.cutoffs, "")
    # A counter is no sign that the file holds the layer.
    begun = {name: tensor for name, tensor in old.items() if name.startswith(("conv1", "bn1", "layer1"))}
    weights = load_weights(str(_write(begun, tmp_path / "begun.pth")), "resnet18")
    assert weights.cutoffs == ("maxpool", "layer1.1")
    assert "layer2.0.bn1.num_batches_tracked" not in weights.state


def test_a_counter_must_be_whole(residual: PretrainedWeights, tmp_path: Path) -> None:
    state = {**residual.state, "bn1.num_batches_tracked": torch.tensor(7.0)}
    with pytest.raises(
        WeightsError, match=r"bn1\.num_batches_tracked in .* is torch\.float32; expected .* whole numbers"
    ):
        load_weights(str(_write(state, tmp_path / "half.pth")), "resnet18")


def test_a_network_without_its_output_layer(residual: PretrainedWeights, tmp_path: Path) -> None:
    body = {name: tensor for name, tensor in residual.state.items() if not name.startswith("fc")}
    weights = load_weights(str(_write(body, tmp_path / "body.pth")), "resnet18")
    assert weights.cutoffs == tuple(BACKBONES["resnet18"].readout_layers)[:-1]
    assert "body.pth ends at avgpool" in weights.note


def test_weights_of_another_network(residual: PretrainedWeights, tmp_path: Path) -> None:
    path = _write(residual.state, tmp_path / "resnet.pth")
    with pytest.raises(WeightsError, match=r"'conv1\.weight', which alexnet lacks"):
        load_weights(str(path))
    with pytest.raises(WeightsError, match=r"layer1\.0\.conv1\.weight .*resnet50 expects \(64, 64, 1, 1\)"):
        load_weights(str(path), "resnet50")


def _without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: {**s, "features.3.bias": torch.zeros(7)}, r"features\.3\.bias.*\(7,\).*\(192,\)"),
        (lambda s: {**s, "layer1.0.weight": torch.zeros(7)}, r"'layer1\.0\.weight', which alexnet lacks"),
        (lambda s: {**s, "features.0.bias": torch.full((64,), torch.nan)}, r"features\.0\.bias.*NaN"),
        (lambda s: {**s, "features.0.bias": torch.zeros(64, dtype=torch.int64)}, r"floating-point"),
        (lambda s: _without(s, "features.3.weight"), r"lacks features\.3\.weight"),
        (lambda s: _without(s, "features.0.weight"), r"lacks features\.0\.weight"),
        (lambda s: {}, r"lacks features\.0\.weight"),
    ],
    ids=["shape", "other network", "NaN", "integers", "gap", "first missing", "empty"],
)
def test_states_that_do_not_fit(
    convolutions: dict[str, Tensor],
    tmp_path: Path,
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    message: str,
) -> None:
    path = _write(change(convolutions), tmp_path / "conv.safetensors")
    with pytest.raises(WeightsError, match=message):
        load_weights(str(path))


def test_a_file_without_a_state_dict(tmp_path: Path) -> None:
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds a list; expected a state dict"):
        load_weights(str(tmp_path / "list.pth"))
    torch.save({"features.0.weight": "text"}, tmp_path / "text.pth")
    with pytest.raises(WeightsError, match="is str"):
        load_weights(str(tmp_path / "text.pth"))


def test_names_that_say_nothing(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"does not exist.*--weights random"):
        load_weights(str(tmp_path / "missing.pth"))
    with pytest.raises(WeightsError, match=r"'imagnet'.*\.safetensors"):
        load_weights("imagnet")
    with pytest.raises(ConfigError, match="'vgg'"):
        load_weights("random", "vgg")


@pytest.mark.parametrize(
    "backbone, file",
    [
        ("alexnet", "alexnet-owt-7be5be79"),
        ("vgg11", "vgg11-8a719046"),
        ("resnet18", "resnet18-f37072fd"),
        ("resnet50", "resnet50-11ad3fa6"),
        ("convnext_tiny", "convnext_tiny-983f1562"),
    ],
)
def test_imagenet_without_network_names_the_alternatives(
    backbone: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that nobody listens at: the real way through, and no way out."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(WeightsError, match=rf"cannot be reached.*checkpoints/{file}\.pth.*--weights random"):
        load_weights("imagenet", backbone)
    assert time.monotonic() - started < 10


def test_imagenet_download_that_breaks_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("trainables.models.weights._require_network", lambda url, cached: None)

    def broken(*_arguments: object, **_keywords: object) -> None:
        raise urllib.error.URLError("connection reset")

    monkeypatch.setattr("torch.hub.download_url_to_file", broken)
    with pytest.raises(WeightsError, match=r"connection reset.*try again"):
        load_weights("imagenet")


def test_imagenet_from_the_cache(whole: PretrainedWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    cached = tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    cached.parent.mkdir(parents=True)
    torch.save(whole.state, cached)
    weights = load_weights("imagenet")
    assert (weights.source, weights.digest) == ("imagenet", whole.digest)
    cached.write_bytes(b"damaged")
    with pytest.raises(WeightsError, match=r"delete .*alexnet-owt-7be5be79\.pth"):
        load_weights("imagenet")


def test_imagenet_of_a_residual_network_from_the_cache(
    residual: PretrainedWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    cached = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    cached.parent.mkdir(parents=True)
    torch.save(residual.state, cached)
    assert load_weights("imagenet", "resnet18").digest == residual.digest


def test_a_place_that_cannot_be_written(whole: PretrainedWeights, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="cannot be written"):
        save_weights(whole, tmp_path / "file" / "weights.safetensors")
