from __future__ import annotations

import io
import os
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from upath import UPath

from trainables.data.files import FaultyFileError
from trainables.data.mapping import read_mapping

NAMES = {0: "Unknown", 1: "V1v", 2: "V1d ", 7: "hV4"}
HEADER = io.BytesIO()
np.lib.format.write_array_header_1_0(HEADER, {"descr": "|O", "fortran_order": False, "shape": ()})


def write(path: Path, pickled: bytes) -> UPath:
    path.write_bytes(HEADER.getvalue() + pickled)
    return UPath(path)


def as_array(value: object) -> Any:
    return np.array(value, dtype=object)


class Calls:
    """Pickles as a call of any function: what an attacker would write."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return (self.function, self.arguments)


def test_reads_what_numpy_saves(tmp_path: Path) -> None:
    path = tmp_path / "mapping.npy"
    np.save(path, as_array(NAMES), allow_pickle=True)
    assert read_mapping(UPath(path)) == {1: "V1v", 2: "V1d", 7: "hV4"}


def test_reads_files_of_numpy_1(tmp_path: Path) -> None:
    pickled = pickle.dumps(as_array(NAMES), protocol=3)
    assert b"numpy._core" in pickled
    path = write(tmp_path / "mapping.npy", pickled.replace(b"numpy._core", b"numpy.core"))
    assert read_mapping(path) == {1: "V1v", 2: "V1d", 7: "hV4"}


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, np.dtype(">i8").type])
def test_reads_numpy_scalars(tmp_path: Path, kind: Any) -> None:
    names = {kind(label): np.str_(name) for label, name in NAMES.items()}
    path = write(tmp_path / "mapping.npy", pickle.dumps(as_array(names), protocol=4))
    assert read_mapping(path) == {1: "V1v", 2: "V1d", 7: "hV4"}


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("place", ["whole", "array", "name"])
def test_a_hostile_pickle_runs_nothing(tmp_path: Path, place: str, protocol: int) -> None:
    marker = tmp_path / "ran"
    attack = Calls(os.mkdir, str(marker))
    content = {"whole": attack, "array": as_array(attack), "name": as_array({1: attack})}[place]
    path = write(tmp_path / "mapping.npy", pickle.dumps(content, protocol=protocol))
    with pytest.raises(FaultyFileError, match="which was not run"):
        read_mapping(path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(attack))
    assert marker.exists(), "the attack would have worked on an ordinary unpickler"


@pytest.mark.parametrize("function", [eval, getattr, np.load, np.fromfile, bytearray, type])
def test_admits_no_other_function(tmp_path: Path, function: Any) -> None:
    path = write(tmp_path / "mapping.npy", pickle.dumps(Calls(function, "1")))
    with pytest.raises(FaultyFileError, match="it asks for"):
        read_mapping(path)


def test_attributes_set_by_one_pickle_do_not_reach_the_next(tmp_path: Path) -> None:
    # GLOBAL numpy.ndarray, then BUILD with slot state {"__setstate__": None}: spoils the class for later files.
    spoil = b"\x80\x02cnumpy\nndarray\nN}X\x0c\x00\x00\x00__setstate__Ns\x86b."
    with pytest.raises(FaultyFileError):
        read_mapping(write(tmp_path / "hostile.npy", spoil))
    path = tmp_path / "mapping.npy"
    np.save(path, as_array(NAMES), allow_pickle=True)
    assert read_mapping(UPath(path))[1] == "V1v"


def test_any_damage_is_a_fault_of_the_file(tmp_path: Path) -> None:
    whole = HEADER.getvalue() + pickle.dumps(as_array(NAMES), protocol=4)
    path = tmp_path / "mapping.npy"
    rng = np.random.default_rng(0)
    damaged = [whole[:length] for length in range(len(whole))]
    for _ in range(500):
        flipped = bytearray(whole)
        flipped[rng.integers(len(whole))] = rng.integers(256)
        damaged.append(bytes(flipped))
    files = []
    for content in damaged:
        path.write_bytes(content)
        with suppress(FaultyFileError):  # some damage only changes a name
            read_mapping(UPath(path))
            continue
        files.append(content)
    assert len(files) > len(whole)


@pytest.mark.parametrize(
    "value, problem",
    [
        (["V1v"], "does not hold a dict"),
        ({"V1v": 1}, "does not hold a dict"),
        ({-1: "V1v"}, "does not hold a dict"),
        ({True: "V1v"}, "does not hold a dict"),
        ({1: "V1v", 2: "V1v "}, "share a name"),
    ],
)
def test_refuses_other_contents(tmp_path: Path, value: object, problem: str) -> None:
    content = np.empty((), dtype=object)
    content[()] = value
    path = write(tmp_path / "mapping.npy", pickle.dumps(content))
    with pytest.raises(FaultyFileError, match=problem):
        read_mapping(path)


def test_refuses_a_plain_array_and_a_huge_file(tmp_path: Path) -> None:
    path = tmp_path / "mapping.npy"
    np.save(path, np.zeros(3))
    with pytest.raises(FaultyFileError, match="not one pickled dict"):
        read_mapping(UPath(path))
    path.write_bytes(bytes(2 << 20))
    with pytest.raises(FaultyFileError, match="far more"):
        read_mapping(UPath(path))
