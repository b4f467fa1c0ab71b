"""What a laboratory can write into ``dataset.toml`` and its list of stimuli, and what it cannot."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.data.builders_generic import MINIMAL, write_minimal
from tests.data.builders_pictures import write_picture
from trainables.data.check import check_dataset
from trainables.data.files import FaultyFileError
from trainables.data.generic import open_generic
from trainables.data.open import open_dataset


@pytest.mark.parametrize(
    "text, names, ids",
    [
        ("2.png\n0.png\n\n# a comment\n2.png\n", ["2.png", "0.png", "2.png"], None),
        ("file,id\n1.png,7\n 0.png , 12\n", ["1.png", "0.png"], [7, 12]),
        ('\ufefffile\r\n"a, b.png"\r\n', ["a, b.png"], None),
    ],
)
def test_lists_of_stimuli(tmp_path: Path, text: str, names: list[str], ids: list[int] | None) -> None:
    write_minimal(tmp_path, MINIMAL + 'stimuli = "list.csv"\n', n_stimuli=3)
    write_picture(tmp_path / "photos/a, b.png", 5)
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    subject = open_generic(tmp_path).subject("anna")
    assert [path.name for path in subject.image_paths] == names
    if ids is not None:
        assert subject.stimulus_ids.tolist() == ids
    else:
        assert len(set(subject.stimulus_ids.tolist())) == len(set(names))


@pytest.mark.parametrize(
    "text, problem",
    [
        ("", "lists no stimulus"),
        ("file,id\n", "lists no stimulus"),
        ("0.png,1\n1.png\n", "some lines have an id and some do not"),
        ("0.png,1,2\n", "more than two columns"),
        ("file;id\n0.png;1\n1.png;2\n2.png;3\n", "columns stand apart by ';'"),
        ("0.png,-1\n", "the id of 0.png is '-1'"),
        ("0.png,9223372036854775808\n", "expected a whole number from 0"),
        ("../secret.png\n", "is not one below this folder"),
        ("/etc/passwd\n", "is not one below this folder"),
        ("s3://bucket/a.png\n", "is not one below this folder"),
        ('"0.png\n', "not a readable list"),
        ("\xff", "not a readable list"),
    ],
)
def test_lists_that_cannot_be_meant(tmp_path: Path, text: str, problem: str) -> None:
    write_minimal(tmp_path, MINIMAL + 'stimuli = "list.csv"\n', n_stimuli=3)
    (tmp_path / "list.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(FaultyFileError, match=problem):
        _ = open_generic(tmp_path).subject("anna").image_paths
    assert any(problem in fault.problem for fault in check_dataset(tmp_path).faults)


FAULTY = {
    "name = ": "not valid TOML",
    'name = "a/b"\n[subjects.x]': "the name of the data set is 'a/b'",
    'name = "a"': "it names no subject",
    'name = "a"\nsubject = 1': "the key 'subject'; expected some of name, rois",
    'name = "a"\nrois = 3\n[subjects.x]': "rois is 3",
    'name = "a"\nrois = { all = 1 }\n[subjects.x]': "an ROI is called 'all'",
    'name = "a"\nrois = { V1 = 0 }\n[subjects.x]': "the label of the ROI V1 is 0",
    'name = "a"\nrois = { V1 = true }\n[subjects.x]': "the label of the ROI V1 is True",
    'name = "a"\nrois = { V1 = 1, V2 = 1 }\n[subjects.x]': "two ROIs have the same label",
    MINIMAL + '[groups]\nearly = ["V9"]': "the group early lists 'V9'; expected one of whole",
    MINIMAL + '[groups]\nwhole = ["whole"]': "a group is called 'whole'",
    MINIMAL + '[groups]\nearly = "V1"': "expected lists of ROIs",
    'name = "a"\nsubjects.x = 1': "subject x is 1",
    'name = "a"\n[subjects.x]\nimages = "photos"': "lacks images or responses",
    'name = "a"\n[subjects.x]\nimages = "photos"\nresponses = "anna.npy"': "expected a file for lh, rh",
    MINIMAL + 'lables.lh = "a.npy"': "the key 'lables'",
    MINIMAL + 'labels.lh = "a.npy"': "has labels without names",
    MINIMAL.replace('"mylab"', '"mylab"\nrois = { V1 = 1 }'): "has responses of lh and labels of none",
    'name = "a"\n[subjects."x,y"]': "the name of a subject is 'x,y'",
}


@pytest.mark.parametrize("text", FAULTY)
def test_descriptions_that_cannot_be_meant(tmp_path: Path, text: str) -> None:
    write_minimal(tmp_path, text, n_stimuli=1)
    with pytest.raises(FaultyFileError, match=FAULTY[text]) as caught:
        open_dataset(tmp_path)
    assert caught.value.file == str(tmp_path / "dataset.toml")
    assert [fault.file for fault in check_dataset(tmp_path).faults] == [str(tmp_path / "dataset.toml")]


@pytest.mark.parametrize(
    "path",
    ["/etc", "../photos", "photos/../../x", "~/photos", "s3://b/x", "file:/etc", "C:\\\\x", "", ".", "a\\u0000b"],
)
@pytest.mark.parametrize("key", ['images = "photos"', 'responses.lh = "anna.npy"'])
def test_paths_outside_are_refused(tmp_path: Path, path: str, key: str) -> None:
    replaced = f'{key.split(" = ")[0]} = "{path}"'
    write_minimal(tmp_path, MINIMAL.replace(key, replaced), n_stimuli=1)
    with pytest.raises(FaultyFileError, match="is not one below this folder"):
        open_generic(tmp_path)


def test_links_that_leave_the_data_set_are_refused(tmp_path: Path) -> None:
    root = write_minimal(tmp_path / "lab", MINIMAL, n_stimuli=3)
    write_picture(tmp_path / "secret.png", 5)
    (root / "photos/1.png").unlink()
    (root / "photos/1.png").symlink_to(root / "photos/0.png")
    assert len(open_generic(root).subject("anna").image_paths) == 3
    (root / "photos/1.png").unlink()
    (root / "photos/1.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(FaultyFileError, match=r"1\.png: it is a link to .*secret\.png, outside"):
        _ = open_generic(root).subject("anna").image_paths
    (root / "anna.npy").rename(tmp_path / "anna.npy")
    (root / "anna.npy").symlink_to(tmp_path / "anna.npy")
    with pytest.raises(FaultyFileError, match=r"anna\.npy: it is a link"):
        open_generic(root)


def test_the_examples_of_the_documentation(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    examples = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (listed,) = re.findall(r"```\n(file,id\n.*?)```", text, re.DOTALL)
    assert len(examples) == 2
    for folder in ("anna/images", "shared/images"):
        for name in ("dog_03.png", "house_12.png", "1.png"):
            write_picture(tmp_path / folder / name, len(name))
    (tmp_path / "monkey-2").mkdir()
    (tmp_path / "monkey-2/stimuli.csv").write_text(listed)
    responses, labels = np.random.default_rng(0).normal(size=(3, 4)), np.array([1, 2, 3, 0])
    for name in ("anna/lh", "anna/rh", "monkey-2/v4_array"):
        np.save(tmp_path / f"{name}.npy", responses)
    for name in ("anna/lh_rois", "anna/rh_rois", "monkey-2/v4_labels"):
        np.save(tmp_path / f"{name}.npy", labels)
    for hemisphere in ("lh", "rh"):
        np.save(tmp_path / f"anna/{hemisphere}_ncsnr.npy", np.ones(4))
    np.save(tmp_path / "anna/repeats.npy", np.array([1, 2, 3]))
    for example in examples:
        (tmp_path / "dataset.toml").write_text(example)
        report = check_dataset(tmp_path)
        assert report.ok
        assert report.subjects["anna"]["stimuli"] == 3
    assert open_generic(tmp_path).subject("monkey-2").stimulus_ids.tolist() == [17, 4, 17]
    assert open_generic(tmp_path).rois_of("early") == ["V1", "V4"]
