from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from upath import UPath

from tests.data.helpers import write_challenge
from tests.data.processes import decode_at_once, decode_with_little_room, hang_half_way
from trainables.data import decoding
from trainables.data.algonauts import open_algonauts
from trainables.data.decoding import BLOCK, decode_image
from trainables.data.files import FaultyFileError
from trainables.data.stimuli import decode_stimuli, require_one_picture_per_id
from trainables.errors import DataError, StorageError

SPAWN = multiprocessing.get_context("spawn")


def test_an_id_means_one_picture(tmp_path: Path) -> None:
    root = write_challenge(tmp_path, ids=(7, 8, 7, 9))
    stimuli = np.stack([np.full((2, 2, 3), value, np.uint8) for value in (1, 2, 1, 3)])
    require_one_picture_per_id(open_algonauts(root).subject("subj01"), stimuli)  # shown twice
    stimuli[2] = 4
    with pytest.raises(FaultyFileError, match=r"another picture than .*train-0001_.* same id 7") as caught:
        require_one_picture_per_id(open_algonauts(root).subject("subj01"), stimuli)
    assert "train-0003" in caught.value.file


def write_pictures(folder: Path, n: int, side: int = 40) -> list[UPath]:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(n)
    paths = []
    for number in range(n):
        path = folder / f"train-{number + 1:04d}_nsd-{number:05d}.png"
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(str(path))
        paths.append(UPath(path))
    return paths


def arrays(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.npy"))


def leftovers(cache: Path) -> list[str]:
    """Anything but whole arrays, their memos and (empty) locks; dot files count."""
    return [path.name for path in cache.iterdir() if path.suffix not in (".npy", ".txt", ".lock")]


@pytest.mark.parametrize("side, size", [(40, 24), (425, 224), (30, 64)])
def test_resize_is_bilinear_with_antialiasing(tmp_path: Path, side: int, size: int) -> None:
    paths = write_pictures(tmp_path / "in", 3, side)
    decoded = decode_stimuli(paths, tmp_path / "cache", size=size)
    assert decoded.shape == (3, size, size, 3)
    assert decoded.dtype == np.uint8
    assert isinstance(decoded, np.memmap)
    assert not decoded.flags.writeable
    for row, path in enumerate(paths):
        pixels = torch.from_numpy(np.array(Image.open(str(path)))).permute(2, 0, 1).float()
        expected = torch.nn.functional.interpolate(pixels[None], (size, size), mode="bilinear", antialias=True)[0]
        # Pillow rounds after each of its two passes.
        assert (expected.permute(1, 2, 0) - torch.from_numpy(np.array(decoded[row]))).abs().max() <= 1.01


def test_every_kind_of_8_bit_image_becomes_rgb(tmp_path: Path) -> None:
    colour = Image.new("RGB", (16, 12), (10, 200, 30))
    kinds = {"L": colour.convert("L"), "P": colour.quantize(4), "RGBA": colour.convert("RGBA"), "RGB": colour}
    paths = []
    for mode, image in kinds.items():
        image.save(tmp_path / f"{mode}.png")
        paths.append(UPath(tmp_path / f"{mode}.png"))
    decoded = decode_stimuli(paths, tmp_path / "cache", size=8)
    assert [pixels[0, 0].tolist() for pixels in decoded[1:]] == [[10, 200, 30]] * 3
    assert len(set(decoded[0, 0, 0].tolist())) == 1


def test_16_bit_images_are_refused(tmp_path: Path) -> None:
    path = UPath(tmp_path / "deep.png")
    Image.fromarray(np.full((8, 8), 60000, np.uint16)).save(str(path))
    with pytest.raises(FaultyFileError, match=r"deep\.png: its pixels have more than 8 bits"):
        decode_stimuli([path], tmp_path / "cache")


def test_second_start_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_pictures(tmp_path / "in", 5)
    first = decode_stimuli(paths, tmp_path / "cache", size=16)

    def no_reading(path: UPath) -> bytes:
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr(decoding, "read_bytes", no_reading)
    calls: list[tuple[int, int]] = []
    again = decode_stimuli(paths, tmp_path / "cache", size=16, progress=lambda *call: calls.append(call))
    assert np.array_equal(first, again)
    assert calls == [(5, 5)]


def test_the_name_follows_from_the_content(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    paths = write_pictures(tmp_path / "in", 4)
    decode_stimuli(paths, cache, size=16)
    (first,) = arrays(cache)
    # The same pictures elsewhere, and the same files touched, give the same array.
    decode_stimuli(write_pictures(tmp_path / "elsewhere", 4), cache, size=16)
    os.utime(str(paths[0]), (1, 1))
    decode_stimuli(paths, cache, size=16)
    assert arrays(cache) == [first]
    # Another order, another size and another picture each give another.
    decode_stimuli(paths[::-1], cache, size=16)
    decode_stimuli(paths, cache, size=17)
    content = paths[1].read_bytes()
    paths[0].write_bytes(content)
    changed = decode_stimuli(paths, cache, size=16)
    assert len(arrays(cache)) == 4
    assert np.array_equal(changed[0], changed[1])


def test_caches_of_former_releases_are_found(tmp_path: Path) -> None:
    paths = write_pictures(tmp_path / "in", 3)
    decode_stimuli(paths, tmp_path / "cache", size=16)
    whole = hashlib.sha256(b"1:16" + b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths))
    lines = [f"\n{path}:{path.stat().st_size}:{path.stat().st_mtime_ns}" for path in paths]
    (array,), (memo,) = arrays(tmp_path / "cache"), (tmp_path / "cache").glob("*.txt")
    assert array.name == memo.read_text() == f"stimuli-{whole.hexdigest()[:32]}.npy"
    assert memo.name == f"stimuli-{hashlib.sha256(('1:16' + ''.join(lines)).encode()).hexdigest()[:32]}.txt"


def test_a_replaced_image_of_the_same_size_is_read_again(tmp_path: Path) -> None:
    path = UPath(tmp_path / "one.bmp")
    Image.new("RGB", (8, 8), (1, 2, 3)).save(str(path))
    length = path.stat().st_size
    assert decode_stimuli([path], tmp_path / "cache", size=8)[0, 0, 0].tolist() == [1, 2, 3]
    Image.new("RGB", (8, 8), (4, 5, 6)).save(str(path))
    assert path.stat().st_size == length
    os.utime(str(path), ns=(0, path.stat().st_mtime_ns + 1))
    assert decode_stimuli([path], tmp_path / "cache", size=8)[0, 0, 0].tolist() == [4, 5, 6]


@pytest.mark.parametrize("damage", [b"", b"gone.npy", b"..", b"a/b", b"\xff"])
def test_a_damaged_memo_or_array_is_made_anew(tmp_path: Path, damage: bytes) -> None:
    paths = write_pictures(tmp_path / "in", 3)
    expected = np.array(decode_stimuli(paths, tmp_path / "cache", size=16))
    (memo,) = (tmp_path / "cache").glob("*.txt")
    memo.write_bytes(damage)
    assert np.array_equal(decode_stimuli(paths, tmp_path / "cache", size=16), expected)
    (array,) = arrays(tmp_path / "cache")
    array.write_bytes(array.read_bytes()[:1000])
    assert np.array_equal(decode_stimuli(paths, tmp_path / "cache", size=16), expected)


def test_progress_counts_up_to_the_total(tmp_path: Path) -> None:
    n = BLOCK + 10
    calls: list[tuple[int, int]] = []
    decode_stimuli(
        write_pictures(tmp_path / "in", n, 8), tmp_path / "cache", size=8, progress=lambda *c: calls.append(c)
    )
    assert calls == [(BLOCK, n), (n, n)]


def test_two_processes_build_once(tmp_path: Path) -> None:
    folder, cache, n = tmp_path / "in", tmp_path / "cache", 2 * BLOCK
    paths = write_pictures(folder, n, 64)
    start = SPAWN.Barrier(2)
    pipes = [SPAWN.Pipe(duplex=False) for _ in range(2)]
    workers = [SPAWN.Process(target=decode_at_once, args=(folder, cache, n, start, pipe[1])) for pipe in pipes]
    for worker in workers:
        worker.start()
    answers = [pipe[0].recv() for pipe in pipes]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    # Progress is told once per block by the one that builds, once by the one that waits.
    assert sorted(count for count, _ in answers) == [1, 2]
    assert answers[0][1] == answers[1][1]
    alone = decode_stimuli(paths, tmp_path / "alone", size=32)
    assert hashlib.sha256(alone.tobytes()).hexdigest() == answers[0][1]
    assert len(arrays(cache)) == 1
    assert leftovers(cache) == []


def test_a_killed_builder_leaves_nothing_that_is_taken_for_whole(tmp_path: Path) -> None:
    folder, cache = tmp_path / "in", tmp_path / "cache"
    paths = write_pictures(folder, BLOCK + 20, 16)
    receiver, sender = SPAWN.Pipe(duplex=False)
    worker = SPAWN.Process(target=hang_half_way, args=(folder, cache, sender))
    worker.start()
    assert receiver.recv() == (BLOCK, BLOCK + 20)
    assert leftovers(cache), "the builder was in the middle of its file"
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(60)
    assert arrays(cache) == []
    rebuilt = decode_stimuli(paths, cache, size=32)
    assert np.array_equal(rebuilt, decode_stimuli(paths, tmp_path / "other", size=32))
    assert leftovers(cache) == []


def test_no_room_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    folder, cache = tmp_path / "in", tmp_path / "cache"
    write_pictures(folder, 12, 16)  # 12 x 32 x 32 x 3 bytes are more than the operating system will let it write
    receiver, sender = SPAWN.Pipe(duplex=False)
    worker = SPAWN.Process(target=decode_with_little_room, args=(folder, cache, sender))
    worker.start()
    message = receiver.recv()
    worker.join(60)
    assert "cannot be written (File too large); free some space or choose another place" in message
    assert arrays(cache) == []
    assert leftovers(cache) == []


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainables.data.files.os.fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        decode_stimuli(write_pictures(tmp_path / "in", 2), tmp_path / "cache", size=8)
    assert arrays(tmp_path / "cache") == []
    assert leftovers(tmp_path / "cache") == []


def test_a_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be written"):
        decode_stimuli(write_pictures(tmp_path / "in", 2), tmp_path / "file/cache", size=8)


def _truncate(path: UPath) -> None:
    path.write_bytes(path.read_bytes()[:-60])


def _empty(path: UPath) -> None:
    path.write_bytes(b"")


def _write_text(path: UPath) -> None:
    path.write_text("no image")


@pytest.mark.parametrize("damage", [_truncate, _empty, _write_text, UPath.unlink])
def test_an_unreadable_image_is_named(tmp_path: Path, damage: Callable[[UPath], None]) -> None:
    paths = write_pictures(tmp_path / "in", 4)
    damage(paths[2])
    with pytest.raises(FaultyFileError, match=r"train-0003_nsd-00002\.png"):
        decode_stimuli(paths, tmp_path / "cache", size=16)
    assert arrays(tmp_path / "cache") == []


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_any_damage_to_an_image_is_a_fault_of_the_file(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(whole, kind)
    # A damaged header can claim any size; Pillow warns about large ones and refuses huge ones.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    rng, n_faults = np.random.default_rng(1), 0
    for _ in range(400):
        content = bytearray(whole.getvalue())
        for position in rng.integers(len(content), size=3):
            content[position] = rng.integers(256)
        cut = rng.integers(1, len(content) + 1)
        with suppress(FaultyFileError):  # some damage only changes a colour
            decode_image(bytes(content[:cut]), UPath("a"))
            continue
        n_faults += 1
    assert n_faults > 100


def test_no_stimulus_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one"):
        decode_stimuli([], tmp_path)
