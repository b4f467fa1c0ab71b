from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from safetensors.torch import save_file

import sweep
from tests.orchestrator.report_results import Maker, Size
from tests.sweeps import command_line, environment
from trainables.models.weights import load_weights

ROOT = Path(__file__).parents[1]
COMMANDS = ("run", "resume", "leaderboard", "status", "list", "select", "evaluate", "report", "export", "doctor", "ui")

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the convolutional layers: quicker to read than a whole AlexNet."""
    path = tmp_path_factory.mktemp("weights") / "conv.safetensors"
    state = load_weights("random").state
    save_file({name: tensor for name, tensor in state.items() if name.startswith("features.")}, path)
    return path


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """Run a command line in this process: exit code, stdout, stderr."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sweep.py", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            sweep.main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture(autouse=True)
def no_options_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("SWEEP_") and name != "SWEEP_CACHE_DIR":
            monkeypatch.delenv(name)


def told(code: int, err: str) -> str:
    """The one sentence of an expected error."""
    assert code in (1, 2)
    assert "Traceback" not in err
    (sentence,) = [line for line in err.splitlines() if line.startswith("Error")]
    return sentence


def all_commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from all_commands(command, (*path, name))
        else:
            yield (*path, name), command


def test_help_names_the_commands(call: Call) -> None:
    code, out, err = call("--help")
    assert (code, err) == (0, "")
    for name in (*COMMANDS, "data"):
        assert f"\n  {name} " in out
    assert "..." not in out.partition("Commands:")[2], "every command's first sentence fits"


@pytest.mark.parametrize("path", [path for path, _ in all_commands(sweep.cli)], ids=" ".join)
def test_every_command_explains_itself(call: Call, path: tuple[str, ...]) -> None:
    code, out, err = call(*path, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: sweep.py {' '.join(path)}")
    assert out.count(f"sweep.py {' '.join(path)} ") > 1, "an example beside the usage"


def without(libraries: set[str], *words: str | Path) -> tuple[str, str]:
    """Output and errors of a command in a process of its own, which is to load none of ``libraries``."""
    code = (
        f"import sys; sys.argv = {['sweep.py', *map(str, words)]}\n"
        "import sweep\n"
        "try:\n    sweep.main()\n"
        "except SystemExit: pass\n"
        f"heavy = {libraries} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_help_is_quick_and_needs_no_library() -> None:
    assert "Usage: sweep.py" in without({"torch", "ray", "mlflow", "optuna"}, "--help")[0]


@pytest.mark.parametrize(
    ("words", "shown"),
    [(["status"], "9/9"), (["leaderboard"], "val r"), (["compare", "small"], "validation r")],
    ids=["status", "leaderboard", "compare"],
)
def test_who_only_looks_at_a_sweep_waits_for_no_large_library(tmp_path: Path, words: list[str], shown: str) -> None:
    maker = Maker(tmp_path, Size())
    maker.run_trials()
    assert shown in without({"torch", "ray", "mlflow"}, *words, maker.plan.name, "--storage", tmp_path)[0]


@pytest.mark.parametrize(
    "words",
    [
        ["resume", "x"],
        ["confirm", "x"],
        ["select", "x"],
        ["evaluate", "x"],
        ["report", "x"],
        ["export", "subj01/lh/V1v", "model", "--name", "x"],
    ],
    ids=lambda words: words[0],
)
def test_name_that_no_sweep_has_is_told_before_large_libraries_are_loaded(tmp_path: Path, words: list[str]) -> None:
    _, told = without({"torch", "ray", "mlflow"}, *words, "--storage", tmp_path)
    assert told.startswith("Error: no sweep 'x' in ")


def test_version(call: Call) -> None:
    code, out, _ = call("--version")
    assert code == 0
    assert "0.1.0" in out


def test_every_option_of_run_has_its_variable() -> None:
    options = [p for p in sweep.cli.commands["run"].params if isinstance(p, click.Option) and p.name != "as_json"]
    assert len(options) >= 19
    for option in options:
        long = next(name for name in option.opts if name.startswith("--"))
        assert option.envvar == "SWEEP_" + long[2:].replace("-", "_").upper()


@pytest.mark.parametrize("words", [(), ("--space", "smoke")], ids=["no word", "an option"])
def test_no_command_means_run(call: Call, words: tuple[str, ...]) -> None:
    code, _, err = call(*words)
    assert told(code, err) == "Error: Missing option '--data'."
    assert err.startswith("Usage: sweep.py run")


def test_variables_are_options(
    call: Call, monkeypatch: pytest.MonkeyPatch, demo_root: Path, weights_file: Path, tmp_path: Path
) -> None:
    variables = {
        "SWEEP_DATA": demo_root,
        "SWEEP_NAME": "from-variables",
        "SWEEP_STORAGE": tmp_path / "results",
        "SWEEP_WEIGHTS": weights_file,
        "SWEEP_SPACE": "smoke",
        "SWEEP_MIN_VOXELS": "5000",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    code, _, err = call()
    assert "the 5000 voxels it takes" in told(code, err)
    code, _, err = call("run", "--min-voxels", "20", "--trials", "0")
    assert "--trials is 0" in told(code, err)
    monkeypatch.setenv("SWEEP_METHODS", "guess")
    code, _, err = call()
    assert "5000 voxels" in told(code, err)
    monkeypatch.setenv("SWEEP_MIN_VOXELS", "20")
    code, _, err = call()
    assert "'guess'" in told(code, err)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--space", "huge"], "--space is 'huge'; expected one of smoke, early_visual, full"),
        (["--methods", "contrastive,guess"], "'guess'; expected some of untuned, contrastive, regression"),
        (["--methods", ","], "'nothing'"),
        (["--hemispheres", "left"], "--hemispheres is 'left'; expected lh, rh or lh,rh"),
        (["--hemispheres", ""], "--hemispheres is ''"),
        (["--rois", "V9"], "V9"),
        (["--rois", "mTL-words"], "no ROI of --rois 'mTL-words' has the 20 voxels it takes"),
        (["--subjects", "7"], "subj07"),
        (["--subjects", "everyone"], "'everyone'"),
        (["--trials", "0"], "--trials is 0; expected at least 1"),
        (["--trials", "many"], "'many' is not a valid integer"),
        (["--epochs", "-1"], "--epochs is -1; expected at least 1"),
        (["--batch-size", "1"], "--batch-size is 1; expected at least 2"),
        (["--keep-weights", "0"], "--keep-weights is 0; expected at least 1"),
        (["--cutoffs", "features.99"], "--cutoffs holds 'features.99'"),
        (["--cutoffs", "output"], "--cutoffs holds 'output'"),  # the weights end before it
        (["--name", "../outside"], "sweep name is '../outside'"),
        (["--name", ""], "sweep name is ''"),
        (["--profile", "tpu"], "--profile is 'tpu'; expected auto or one of cpu, gpu, gpu-shared"),
        (["--weights", "/nowhere/alexnet.pth"], "/nowhere/alexnet.pth"),
        (["--data", "/nowhere/data"], "/nowhere/data"),
        (["--data", __file__], "is a file; expected the folder that holds a data set"),
        (["--data", "gopher://lab/data"], "data set 'gopher://lab/data'"),
        (["--weights", "gopher://lab/alexnet.pth"], "weights 'gopher://lab/alexnet.pth' cannot be read"),
        (["--min-voxels", "0"], "--min-voxels is 0; expected at least 1"),
        (["--rois", ""], "no ROI of --rois '' has"),
        (["--dry-run", "--throughput", "nan"], "--throughput is nan; expected pictures per second"),
        (["--dry-run", "--throughput", "0"], "0.0 is not in the range x>0"),
        (["--unknown", "1"], "No such option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_option_is_told_and_nothing_is_made(
    call: Call, demo_root: Path, weights_file: Path, tmp_path: Path, words: list[str], sentence: str
) -> None:
    storage = tmp_path / "results"
    given = ["--data", demo_root, "--name", "x", "--weights", weights_file, "--space", "smoke", "--storage", storage]
    code, out, err = call("run", *given, *words)
    assert sentence in told(code, err)
    assert out == "" or "Weights" in out
    assert not storage.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"", b"no weights" * 1000, b"\x80\x04cos\nsystem\n"], ids=["empty", "text", "code"]
)
@pytest.mark.parametrize("ending", ["pth", "safetensors", "npz"])
def test_damaged_weight_file_is_told(call: Call, demo_root: Path, tmp_path: Path, content: bytes, ending: str) -> None:
    weights = tmp_path / f"weights.{ending}"
    weights.write_bytes(content)
    storage = tmp_path / "results"
    code, _, err = call(
        "run", "--data", demo_root, "--name", "x", "--weights", weights, "--space", "smoke", "--storage", storage
    )
    assert str(weights) in told(code, err)
    assert not storage.exists()


@pytest.mark.parametrize("command", ["resume", "leaderboard", "status", "select", "evaluate", "ui"])
def test_unknown_sweep_is_told_with_the_known_ones(call: Call, tmp_path: Path, command: str) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "plan.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = call(command, "nobody", "--storage", tmp_path)
    assert "no sweep 'nobody'" in told(code, err)
    assert "there are: other" in err
    assert out == ""
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", ["leaderboard", "status", "select", "evaluate"])
@pytest.mark.parametrize("content", ["", "{", "null", "[]", '{"plan_version": 1}', '{"plan_version": 99}'])
def test_damaged_plan_is_told(call: Call, tmp_path: Path, command: str, content: str) -> None:
    (tmp_path / "hurt").mkdir()
    (tmp_path / "hurt" / "plan.json").write_text(content)
    code, _, err = call(command, "hurt", "--storage", tmp_path)
    assert "plan" in told(code, err)


def test_list(call: Call, tmp_path: Path) -> None:
    code, out, _ = call("list", "--storage", tmp_path / "nowhere")
    assert code == 0
    assert out.startswith("no sweep in")
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "plan.json").write_text("{}")
    assert call("list", "--storage", tmp_path)[1] == "a\nb\n"
    assert json.loads(call("list", "--storage", tmp_path, "--json")[1]) == ["a", "b"]


def test_full_disk_at_the_start_leaves_no_sweep_behind(demo_root: Path, weights_file: Path, tmp_path: Path) -> None:
    given: list[str | Path] = ["--name", "x", "--weights", weights_file, "--storage", tmp_path / "results"]
    line = shlex.join(command_line("run", "--data", demo_root, "--space", "smoke", *given))
    # A limit on the size of files, in kilobytes, far below that of the weights: writes fail as on a full disk.
    limited = ["bash", "-c", f"trap '' XFSZ; ulimit -f 100; exec {line}"]
    done = subprocess.run(limited, env=environment(), capture_output=True, text=True, timeout=120)
    assert "weights.safetensors cannot be written" in told(done.returncode, done.stderr)
    assert not (tmp_path / "results/x").exists()


def test_storage_that_is_a_file_is_told(call: Call, demo_root: Path, weights_file: Path, tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    given = ["--data", demo_root, "--name", "x", "--weights", weights_file, "--space", "smoke"]
    code, _, err = call("run", *given, "--storage", tmp_path / "results")
    assert "choose another --storage" in told(code, err)


@pytest.mark.parametrize("option", ["--tracking-uri", "--ledger"])
def test_server_that_is_away_is_told(
    call: Call, demo_root: Path, weights_file: Path, tmp_path: Path, option: str
) -> None:
    address = {"--tracking-uri": "http://127.0.0.1:9", "--ledger": "sqlite:////nowhere/at/all/ledger.db"}[option]
    given = ["--data", demo_root, "--name", "x", "--weights", weights_file, "--space", "smoke"]
    code, _, err = call("run", *given, "--storage", tmp_path / "results", option, address)
    assert address in told(code, err)


def test_program_runs_as_a_script_and_ends_with_the_code(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "sweep.py"), "leaderboard", "nobody", "--storage", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "no sweep 'nobody'" in told(done.returncode, done.stderr)
    assert done.returncode == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "code", "told"), [("n\n", 1, "Aborted"), ("", 1, "Aborted"), (KeyboardInterrupt(), 130, "Interrupted")]
)
def test_question_that_is_not_answered_by_yes_deletes_nothing(
    call: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: str | KeyboardInterrupt,
    code: int,
    told: str,
) -> None:
    maker = Maker(tmp_path, Size())

    def asked(_: str) -> str:
        if isinstance(answer, KeyboardInterrupt):
            raise answer
        if not answer:
            raise EOFError
        return answer

    monkeypatch.setattr("click.termui.visible_prompt_func", asked)
    found, _, err = call("delete", "small", "--storage", tmp_path)
    assert (found, told in err) == (code, True), err
    assert maker.places.plan_file.exists()
