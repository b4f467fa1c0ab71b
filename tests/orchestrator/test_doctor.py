"""Every line of the doctor: well where all is well, and wrong for the fault that was caused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import doctor, doctor_cluster
from orchestrator.doctor import Line, Needs, examine, examine_and_print
from orchestrator.doctor_cluster_file import look_at_cluster_file
from trainables.errors import ConfigError

CLUSTER = Path(__file__).parents[2] / "cluster"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without secrets, on a disk with room."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setattr(doctor_cluster, "FREE_GB", 0.0)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def token(home: Path) -> Path:
    """Of the kind that the clusters' files copy to every node."""
    path = home / ".ray/auth_token"
    path.parent.mkdir()
    path.write_text("secret")
    path.chmod(0o600)
    return path


def needs(demo_root: Path, tmp_path: Path, **changes: str | None) -> Needs:
    given: dict[str, str | None] = {"data": str(demo_root), "weights": "random", "storage": str(tmp_path / "results")}
    return Needs(**{**given, **changes})  # type: ignore[arg-type]


def states(lines: Iterator[Line]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in lines:
        found.setdefault(line.what, set()).add(line.state)
    return found


def wrong(lines: Iterator[Line]) -> str:
    (line,) = [line for line in lines if line.state == "wrong"]
    return f"{line.what}: {line.said}"


def test_where_all_is_well_nothing_is_wrong_and_nothing_stays(demo_root: Path, tmp_path: Path) -> None:
    found = states(examine(needs(demo_root, tmp_path)))
    assert set(found) == {"data", "weights", "storage", "ledger", "tracking", "this machine"}
    assert all(state == {"ok"} for state in found.values()), found
    assert not (tmp_path / "results").exists()


def test_exit_code_and_json(demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert examine_and_print(needs(demo_root, tmp_path), as_json=True) == 0
    assert {line["state"] for line in json.loads(capsys.readouterr().out)} == {"ok"}
    assert examine_and_print(needs(demo_root, tmp_path, data=str(tmp_path / "none")), as_json=False) == 1
    out = capsys.readouterr().out
    assert "WRONG data" in out
    assert "1 of 6 lines are wrong" in out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": "/nowhere"}, "data: data set /nowhere does not exist"),
        ({"weights": "/nowhere/w.pth"}, "weights: .*/nowhere/w.pth"),
        ({"storage": "/proc/results"}, "storage: could not write /proc/results"),
        ({"ledger": "/proc/ledger.journal"}, "ledger: .*cannot be made in /proc"),
        ({"ledger": "postgresql://sweep@127.0.0.1:1/none"}, "ledger: .*127.0.0.1:1/none cannot be opened"),
        ({"tracking_uri": "http://127.0.0.1:1"}, "tracking: MLflow at http://127.0.0.1:1 does not answer"),
        ({"cluster": "/nowhere.yaml"}, "cluster file: --cluster /nowhere.yaml cannot be read"),
    ],
)
def test_each_fault_is_one_line(changes: dict[str, str], said: str, demo_root: Path, tmp_path: Path) -> None:
    found = wrong(examine(needs(demo_root, tmp_path, **changes)))
    assert re.match(said, found), found


def test_files_that_others_can_read_are_told(home: Path) -> None:
    for name in (".pgpass", ".ray/auth_token"):
        path = home / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("secret")
        path.chmod(0o644)
        said = wrong(doctor._secrets())
        assert f"chmod 600 {path}" in said
        assert "0644" in said
        assert "secret" not in said.removeprefix("secrets")
        path.chmod(0o600)
        assert states(doctor._secrets()) == {"secrets": {"ok"}}


def test_a_token_that_is_asked_for_and_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert "ray get-auth-token --generate" in wrong(doctor._secrets())


def test_a_store_with_another_clock_is_told(demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor._modified
    monkeypatch.setattr(doctor, "_modified", lambda path: real(path) + 3600)
    assert "+3600 s from this machine's clock" in wrong(examine(needs(demo_root, tmp_path)))


def test_nodes_that_differ_are_told() -> None:
    mine = doctor_cluster.examine_node()
    other = {**mine, "versions": {**mine["versions"], "torch": "0.1"}, "free_gb": -1.0, "gpus": 1}
    lines = [line.said for line in doctor_cluster._node_lines("node", other, mine, -99.0, promised=2)]
    assert len(lines) == 4
    assert lines[0].startswith(f"torch is 0.1 and {mine['versions']['torch']} here")
    assert "Ray has 2 GPUs and torch sees 1" in lines[1]
    assert "-99 s off" in lines[2]
    assert "GB free" in lines[3]


def test_a_node_that_cannot_use_the_storage_is_told(demo_root: Path, tmp_path: Path) -> None:
    mine = doctor_cluster.examine_node()
    found = doctor_cluster.examine_node(needs(demo_root, tmp_path, storage="/proc/results"))
    (line,) = doctor_cluster._node_lines("node", found, mine, 0.0)
    assert line.state == "wrong"
    assert "could not write /proc/results" in line.said
    assert doctor_cluster.examine_node(needs(demo_root, tmp_path))["lacks"] == []


def test_one_address_of_the_example_is_enough(tmp_path: Path, token: Path) -> None:
    text = (CLUSTER / "onprem.yaml").read_text()
    (tmp_path / "c.yaml").write_text(text.replace("203.0.113.10", "10.0.0.1").replace("203.0.113.11", "10.0.0.2"))
    assert "still holds the example's 203.0.113.12" in wrong(look_at_cluster_file(str(tmp_path / "c.yaml")))


def test_the_example_says_what_is_left_to_edit(token: Path) -> None:
    said = wrong(look_at_cluster_file(str(CLUSTER / "gpu.yaml")))
    assert "still holds the example's my-lab-sweeps, sg-of-aws-prerequisites;" in said
    assert "still holds the example's mlflow.internal, my-lab" in wrong(look_at_cluster_file(str(CLUSTER / "gcp.yaml")))


@pytest.mark.parametrize(
    ("name", "left", "asks"),
    [
        (
            "kuberay/rayjob.yaml",
            "mlflow.internal, my-lab-sweeps, registry.example.org",
            "kubectl apply --dry-run=server",
        ),
        ("slurm.sbatch", "", "sbatch --test-only"),
    ],
)
def test_files_that_are_not_rays_are_looked_at_too(name: str, left: str, asks: str, tmp_path: Path) -> None:
    if left:
        assert f"still holds the example's {left};" in wrong(look_at_cluster_file(str(CLUSTER / name)))
    text = (CLUSTER / name).read_text()
    for word in left.split(", "):
        text = text.replace(word, "mine") if word else text
    path = tmp_path / Path(name).name
    path.write_text(text)
    (line,) = look_at_cluster_file(str(path))
    assert (line.state, asks in line.said) == ("ok", True)


def _edited(tmp_path: Path, name: str, *changes: tuple[str, str]) -> str:
    text = (CLUSTER / name).read_text()
    for before, after in (*changes, ("my-lab-sweeps", "bucket"), ("sg-of-aws-prerequisites", "sg-0123456789abcdef0")):
        assert before in text, before
        text = text.replace(before, after)
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def test_an_edited_file_is_fine(tmp_path: Path, token: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert states(look_at_cluster_file(_edited(tmp_path, "gpu.yaml"))) == {"cluster file": {"ok"}}
    assert capsys.readouterr().out == "", "nothing of Ray's own between the lines"


def test_a_token_that_is_missing_or_read_by_others_is_told(tmp_path: Path, token: Path) -> None:
    file = _edited(tmp_path, "gpu.yaml")
    token.chmod(0o644)
    assert "mode 0644 and others can read: chmod 600" in wrong(look_at_cluster_file(file))
    token.unlink()
    assert "copies ~/.ray/auth_token, which is not here; `ray get-auth-token --generate" in wrong(
        look_at_cluster_file(file)
    )


def test_a_cluster_that_has_not_grown_yet_is_not_all_that_was_looked_at() -> None:
    small, large = {"CPU": 1.0}, {"CPU": 17.0, "GPU": 2.0}
    note = [
        line.said for line in doctor_cluster._slot_lines(1, small, "gpu-shared,max_slots=8") if line.state == "note"
    ]
    assert len(note) == 1
    assert "machines that have not joined were not looked at" in note[0]
    assert states(doctor_cluster._slot_lines(3, large, "gpu-shared,max_slots=8")) == {"cluster": {"ok"}}
    assert states(doctor_cluster._slot_lines(3, large, "gpu-shared,slots_per_gpu=auto")) == {"cluster": {"ok", "note"}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"), "dashboard for everybody"),
        (("--dashboard-host=127.0.0.1", "--dashboard-host '0.0.0.0'"), "dashboard for everybody"),
        (("--dashboard-host=127.0.0.1", "--dashboard-host='::'"), "dashboard for everybody"),
        (("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled"), "without a token"),
        (("export RAY_AUTH_MODE=token", "true # export RAY_AUTH_MODE=token"), "without a token"),
        (("      SecurityGroupIds: [sg-of-aws-prerequisites]", "      # sg-of-aws-prerequisites"), "open to the world"),
        (("postgresql://sweep@mlflow", "postgresql://sweep:hunter2@mlflow"), "holds a password in an address"),
        (("SWEEP_SPACE=full", "SWEEP_SPACE=full AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE"), "holds an AWS access key"),
        (("sweep.py: sweep.py", "sweep.py: swoop.py"), "copies swoop.py, which is not here"),
    ],
)
def test_what_a_file_opens_is_told(tmp_path: Path, token: Path, change: tuple[str, str], said: str) -> None:
    assert said in wrong(look_at_cluster_file(_edited(tmp_path, "gpu.yaml", change)))


@pytest.mark.parametrize("text", ["- a list", "cluster_name: [", "cluster_name: x\nprovider: {type: aws}\nnonsense: 1"])
def test_what_is_no_cluster_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="no cluster that Ray would start"):
        list(look_at_cluster_file(str(path)))


def test_files_are_yaml_that_is_read_safely(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{tmp_path}/ran]]")
    with pytest.raises(ConfigError, match="no cluster"):
        list(look_at_cluster_file(str(path)))
    assert not (tmp_path / "ran").exists()
