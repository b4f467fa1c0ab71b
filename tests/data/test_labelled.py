"""Labelled sets in torchvision's layouts, read as torchvision reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image
from torchvision import transforms

from trainables.data import decoding
from trainables.data.decoding import BLOCK
from trainables.data.files import FaultyFileError
from trainables.data.labelled import LabelledImages, decode_labelled, open_labelled
from trainables.errors import ConfigError, DataError, StorageError


def write_picture(path: Path, size: tuple[int, int] = (40, 30), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)


def write_classes(root: Path, classes: Sequence[str] = ("b_cat", "a_dog"), n: int = 4) -> Path:
    for name in classes:
        for number in range(n):
            write_picture(root / name / f"{number:03d}.jpg", seed=number)
    return root


def found(images: LabelledImages, root: Path) -> list[tuple[str, int]]:
    names = [Path(path.path).relative_to(root).as_posix() for path in images.paths]
    return list(zip(names, images.labels.tolist(), strict=True))


def test_folders_of_classes_are_what_torchvision_finds(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "pets", ("b_cat", "a_dog", "C_cow"), n=3)
    (root / "a_dog/notes.txt").write_text("no image")
    (root / "a_dog/.hidden.jpg").write_text("no image")
    (root / "readme.txt").write_text("no class")
    (root / ".git").mkdir()
    write_picture(root / "b_cat/upper.JPEG")
    images = open_labelled(root)
    (root / "a_dog/.hidden.jpg").unlink()
    (root / ".git").rmdir()
    reference = torchvision.datasets.ImageFolder(root)
    assert images.name == "pets"
    assert list(images.class_names) == reference.classes == ["C_cow", "a_dog", "b_cat"]
    assert [(str(path), label) for path, label in zip(images.paths, images.labels, strict=True)] == reference.imgs
    assert images.labels.dtype == np.int64


@pytest.mark.parametrize("parent", ["", "caltech256"])
def test_caltech256(tmp_path: Path, parent: str) -> None:
    folder = tmp_path / parent / "256_ObjectCategories"
    for label, name in enumerate(["001.ak47", "002.american-flag", "257.clutter"], start=1):
        for number in (1, 2):
            write_picture(folder / name / f"{label:03d}_{number:04d}.jpg")
    write_picture(folder / "002.american-flag/more/002_0009.jpg")  # torchvision does not look there
    images = open_labelled(tmp_path)
    assert images.name == "caltech256"
    assert images.class_names == ("001.ak47", "002.american-flag", "257.clutter")
    assert images.labels.tolist() == [0, 0, 1, 1, 2, 2]
    if parent:
        reference = torchvision.datasets.Caltech256(tmp_path)
        assert (len(reference), reference.categories) == (6, list(images.class_names))


def test_caltech101_without_its_background(tmp_path: Path) -> None:
    write_classes(tmp_path / "caltech101/101_ObjectCategories", ("BACKGROUND_Google", "Faces", "ant"))
    images = open_labelled(tmp_path)
    assert images.name == "caltech101"
    assert images.class_names == ("Faces", "ant")
    assert torchvision.datasets.Caltech101(tmp_path).categories == ["Faces", "ant"]
    assert len(images.paths) == 8


def test_imagenet_classes_are_in_the_order_of_the_outputs(tmp_path: Path) -> None:
    for name in ("n02000000", "n01440764"):
        write_picture(tmp_path / "val" / name / "ILSVRC2012_val_00000001.JPEG")
    (tmp_path / "meta.bin").write_bytes(b"not read")
    write_classes(tmp_path / "train")
    images = open_labelled(tmp_path)
    assert (images.name, images.class_names) == ("imagenet", ("n01440764", "n02000000"))
    assert found(images, tmp_path)[1] == ("val/n02000000/ILSVRC2012_val_00000001.JPEG", 1)


def test_a_class_called_val_is_a_class(tmp_path: Path) -> None:
    write_classes(tmp_path, ("val", "kol"))
    images = open_labelled(tmp_path)
    assert (images.name, images.class_names) == (tmp_path.name, ("kol", "val"))


def write_places(root: Path, listing: str = "b.jpg 0\na.jpg 2\nc.jpg 0\n") -> Path:
    (root / "val_256").mkdir(parents=True)
    (root / "places365_val.txt").write_text(listing)
    (root / "categories_places365.txt").write_text("/b/bar 1\n/a/airfield 0\n/z/zoo 2\n")
    return root


def test_places_follows_its_list(tmp_path: Path) -> None:
    images = open_labelled(write_places(tmp_path))
    assert images.name == "places365"
    assert images.class_names == ("/a/airfield", "/b/bar", "/z/zoo")
    assert found(images, tmp_path) == [("val_256/b.jpg", 0), ("val_256/a.jpg", 2), ("val_256/c.jpg", 0)]


@pytest.mark.parametrize("listing, message", [("b.jpg 3\n", "class 3 is none of the 3"), ("b.jpg\n", "a name and a")])
def test_a_damaged_list_is_named(tmp_path: Path, listing: str, message: str) -> None:
    with pytest.raises(FaultyFileError, match=rf"places365_val\.txt: .*{message}"):
        open_labelled(write_places(tmp_path, listing))


def test_damaged_categories_are_named(tmp_path: Path) -> None:
    (write_places(tmp_path) / "categories_places365.txt").write_text("/a 0\n/b 2\n")
    with pytest.raises(FaultyFileError, match="not 0 to 1, each once"):
        open_labelled(tmp_path)
    (tmp_path / "categories_places365.txt").unlink()
    with pytest.raises(FaultyFileError, match=r"categories_places365\.txt: it is missing"):
        open_labelled(tmp_path)


def test_a_limit_takes_some_of_what_a_higher_limit_takes(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "pets", n=12)
    everything = found(open_labelled(root), root)
    few, more = (found(open_labelled(root, limit_per_class=limit), root) for limit in (3, 7))
    assert [len(few), len(more)] == [6, 14]
    assert set(few) < set(more) < set(everything)
    assert few == sorted(few)
    assert few == found(open_labelled(root, limit_per_class=3), root)
    assert [name for name, label in few if label == 0] != ["a_dog/000.jpg", "a_dog/001.jpg", "a_dog/002.jpg"]
    assert found(open_labelled(root, limit_per_class=100), root) == everything
    with pytest.raises(ConfigError, match="limit_per_class is 0"):
        open_labelled(root, limit_per_class=0)


def test_folders_that_are_no_labelled_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        open_labelled(tmp_path / "nowhere")
    with pytest.raises(DataError, match="0 class folders; expected two"):
        open_labelled(tmp_path)
    root = write_classes(tmp_path / "pets")
    (root / "empty").mkdir()
    with pytest.raises(FaultyFileError, match="empty: the folder of a class holds no image"):
        open_labelled(root)


SHAPES = [(500, 375), (375, 500), (256, 256), (256, 300), (90, 61), (1000, 227), (333, 257), (64, 64)]


def test_pixels_are_torchvisions(tmp_path: Path) -> None:
    for number, size in enumerate(SHAPES):
        write_picture(tmp_path / "in" / "ab"[number % 2] / f"{number}.png", size, seed=number)
    Image.new("L", (300, 280), 77).save(tmp_path / "in/a/grey.png")
    images = open_labelled(tmp_path / "in")
    decoded = decode_labelled(images, tmp_path / "cache")
    assert decoded.shape == (len(SHAPES) + 1, 224, 224, 3)
    assert decoded.dtype == np.uint8
    assert not decoded.flags.writeable
    reference = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    for path, pixels in zip(images.paths, decoded, strict=True):
        expected = reference(Image.open(str(path)).convert("RGB"))
        np.testing.assert_array_equal(pixels, np.asarray(expected), err_msg=str(path))


@pytest.mark.parametrize("shorter_side, size", [(31, 24), (32, 31), (24, 24)])
def test_other_sizes_are_torchvisions(tmp_path: Path, shorter_side: int, size: int) -> None:
    root = tmp_path / "in"
    write_picture(root / "a/1.png", (71, 50))
    write_picture(root / "b/1.png", (50, 93))
    images = open_labelled(root)
    decoded = decode_labelled(images, tmp_path / "cache", size=size, shorter_side=shorter_side)
    reference = transforms.Compose([transforms.Resize(shorter_side), transforms.CenterCrop(size)])
    for path, pixels in zip(images.paths, decoded, strict=True):
        np.testing.assert_array_equal(pixels, np.asarray(reference(Image.open(str(path)))))


def test_second_start_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_labelled(write_classes(tmp_path / "pets"))
    first = decode_labelled(images, tmp_path / "cache", size=16, shorter_side=20)

    def no_reading(path: object) -> bytes:
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr(decoding, "read_bytes", no_reading)
    calls: list[tuple[int, int]] = []
    progress = lambda done, total: calls.append((done, total))  # noqa: E731
    again = decode_labelled(images, tmp_path / "cache", size=16, shorter_side=20, progress=progress)
    np.testing.assert_array_equal(again, first)
    assert calls == [(8, 8)]


def test_the_name_follows_from_content_and_recipe(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    images = open_labelled(write_classes(tmp_path / "pets"))

    def names() -> set[str]:
        return {path.name for path in cache.glob("*.npy")}

    decode_labelled(images, cache, size=16, shorter_side=20)
    first = names()
    decode_labelled(open_labelled(write_classes(tmp_path / "elsewhere")), cache, size=16, shorter_side=20)
    assert names() == first
    assert len(first) == 1
    decode_labelled(images, cache, size=16, shorter_side=21)
    decode_labelled(images, cache, size=17, shorter_side=20)
    decode_labelled(open_labelled(tmp_path / "pets", limit_per_class=2), cache, size=16, shorter_side=20)
    assert len(names()) == 4
    write_picture(tmp_path / "pets/a_dog/000.jpg", size=(30, 30), seed=9)
    changed = decode_labelled(images, cache, size=16, shorter_side=20)
    assert len(names()) == 5
    assert not np.array_equal(changed[0], np.load(cache / first.pop())[0])


@pytest.mark.parametrize("damage", [b"", b"gone.npy", b"\xff"])
def test_a_damaged_memo_is_made_anew(tmp_path: Path, damage: bytes) -> None:
    images = open_labelled(write_classes(tmp_path / "pets"))
    expected = np.array(decode_labelled(images, tmp_path / "cache", size=16, shorter_side=20))
    (memo,) = (tmp_path / "cache").glob("*.txt")
    memo.write_bytes(damage)
    found = decode_labelled(images, tmp_path / "cache", size=16, shorter_side=20)
    np.testing.assert_array_equal(found, expected)


def test_progress_counts_blocks(tmp_path: Path) -> None:
    n = BLOCK // 2 + 5
    images = open_labelled(write_classes(tmp_path / "pets", n=n))
    calls: list[tuple[int, int]] = []
    progress = lambda done, total: calls.append((done, total))  # noqa: E731
    decode_labelled(images, tmp_path / "cache", size=8, shorter_side=8, progress=progress)
    assert calls == [(BLOCK, 2 * n), (2 * n, 2 * n)]


def test_an_unreadable_image_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "pets")
    images = open_labelled(root)
    whole = (root / "b_cat/002.jpg").read_bytes()
    (root / "b_cat/002.jpg").write_bytes(whole[:-200])
    with pytest.raises(FaultyFileError, match=r"b_cat/002\.jpg: the image cannot be decoded"):
        decode_labelled(images, tmp_path / "cache", size=8, shorter_side=8)
    (root / "b_cat/002.jpg").unlink()
    with pytest.raises(FaultyFileError, match=r"b_cat/002\.jpg: it is missing"):
        decode_labelled(images, tmp_path / "cache", size=8, shorter_side=8)
    assert [path.suffix for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == []


def test_places_that_cannot_be_cropped_or_written(tmp_path: Path) -> None:
    images = open_labelled(write_classes(tmp_path / "pets"))
    with pytest.raises(ConfigError, match="size is 257; expected 1 to 256"):
        decode_labelled(images, tmp_path / "cache", size=257)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be written"):
        decode_labelled(images, tmp_path / "file/cache")
