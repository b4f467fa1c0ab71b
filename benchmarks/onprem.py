"""A rehearsal of cluster/onprem.yaml: `ray up` over SSH of three machines on one computer, and a sweep on them.

    sudo .venv/bin/python -m benchmarks.onprem [--keep FOLDER]

The machines (see benchmarks/machines.py) have the addresses, the user and the key that the file is shipped with; of the
file only the sweep's settings are others: a demo set and results in S3, which moto's server plays. Their packages come
from this environment instead of the network. Then, as a person would: `ray up`, `doctor`, a sweep whose terminal dies
after its first trial, `resume`, `status`, `select`, `ray down`. Prints a table; exits with 1 if something is not as
docs/cluster.md says.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from mlflow import MlflowClient

from benchmarks.machines import OPERATOR, Machines
from benchmarks.rehearsal import run_rehearsal
from benchmarks.steps import Steps, check_ledger, ended_trials
from trainables.data.demo import make_demo

ROOT = Path(__file__).parents[1]
ADDRESSES = {"head": "192.168.1.10", "worker1": "192.168.1.11", "worker2": "192.168.1.12"}
"""In place of those of cluster/onprem.yaml, which are nobody's."""
BUCKET = "lab-sweeps"
S3 = f"http://{OPERATOR}:9000"
TRIALS = 8
SETTINGS = {
    "ADDRESS": "auto",
    "NAME": "lab",
    "DATA": f"s3://{BUCKET}/demo",
    "STORAGE": f"s3://{BUCKET}/results",
    "LEDGER": "$HOME/ledger.journal",
    "TRACKING_URI": "sqlite:///$HOME/mlflow.db",
    "SPACE": "smoke",
    "PROFILE": "cpu,max_slots=4",
    "WEIGHTS": "random",
    "HEMISPHERES": "lh",
    "ROIS": "V1v",
    "METHODS": "contrastive",
    "CUTOFFS": "features.2",
    "TRIALS": str(TRIALS),
    "EPOCHS": "3",
    "BATCH_SIZE": "16",
}
UPLOAD = """
import fsspec, sys
s3 = fsspec.filesystem("s3")
s3.makedirs(sys.argv[1], exist_ok=True)
s3.put(sys.argv[2], sys.argv[1] + "/demo", recursive=True)
"""
COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LIST = 'import fsspec, sys; print("\\n".join(fsspec.filesystem("s3").find(sys.argv[1])))'


class Operator:
    """Types commands in the operator's terminal."""

    def __init__(self, machines: Machines, folder: Path, steps: Steps) -> None:
        self.machines, self.folder, self.steps = machines, folder, steps
        self.file = folder / "onprem.yaml"
        write_cluster_file(self.file)
        self.environment = machines.operator_environment() | {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": S3,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def start(self, *words: str) -> tuple[subprocess.Popen[str], Path]:
        """Start a command; the file holds what it says (a pipe would fill up)."""
        said = self.folder / f"said-{len(list(self.folder.glob('said-*'))):02d}.log"
        with said.open("w") as file:
            process = subprocess.Popen(
                self.machines.command("operator", *words),
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        return process, said

    def step(self, title: str, *words: str, timeout: float = 400) -> str:
        """Run a command to its end; what it said."""
        started = time.monotonic()
        process, file = self.start(*words)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        said = COLOURS.sub("", file.read_text())
        self.steps.note(title, started, f"exit code {process.returncode}")
        self.steps.check(process.returncode == 0, f"{title}: exit code {process.returncode}, said {said[-3000:]}")
        return said

    def submit(self, *words: str) -> str:
        """`ray submit FILE sweep.py …`."""
        return self.step(" ".join(("ray submit sweep.py", *words)), "ray", "submit", str(self.file), "sweep.py", *words)


def write_cluster_file(target: Path) -> None:
    """cluster/onprem.yaml with the rehearsal's addresses and settings of the sweep; nothing else is changed."""
    lines = (ROOT / "cluster/onprem.yaml").read_text().replace("203.0.113.", "192.168.1.").splitlines()
    first = next(number for number, line in enumerate(lines) if "export SWEEP_" in line)
    indent = lines[first].partition("export")[0]
    settings = [f"{indent}export SWEEP_{name}={value}" for name, value in SETTINGS.items()]
    kept = [line for line in lines[first:] if "export SWEEP_" not in line]
    target.write_text("\n".join([*lines[:first], *settings, *kept]) + "\n")


def give_access(machines: Machines) -> None:
    """Keys of the bucket on every machine, as its administrator would put them there; a /tmp/ray of somebody else's."""
    for name in ADDRESSES:
        home = machines.user_home(name) / ".aws"
        keys = "aws_access_key_id = testing\naws_secret_access_key = testing\n"
        machines.write(home / "credentials", f"[default]\n{keys}")
        machines.write(home / "config", f"[default]\nregion = us-east-1\nendpoint_url = {S3}\n")
        (home / "credentials").chmod(0o600)
        machines.give(home)
        machines.write(machines.own(name) / "tmp/ray/ray_current_cluster", "192.168.1.99:6379")


def sweep(operator: Operator) -> None:
    """A sweep whose terminal dies, and its resume."""
    machines, steps = operator.machines, operator.steps
    ledger = machines.user_home("head") / "ledger.journal"
    busy: Counter[str] = Counter()
    terminal, said = operator.start("ray", "submit", str(operator.file), "sweep.py")

    def look() -> bool:
        for name in ADDRESSES:
            busy[name] += any("RayTrainWorker" in line for line in machines.processes(name).values())
        return len(ended_trials(ledger)) > 0 or terminal.poll() is not None

    steps.until("ray submit sweep.py, until a trial has ended", look, 400)
    steps.check(terminal.poll() is None, f"the sweep ended before its terminal was killed: {said.read_text()[-3000:]}")
    before = ended_trials(ledger)
    os.killpg(terminal.pid, signal.SIGKILL)  # ssh with it, as a terminal that closes
    terminal.wait()
    steps.note("its terminal killed", None, f"trials ran on {', '.join(+busy) or 'no machine'}")
    steps.until(
        "the driver on the head ends too",
        lambda: not any("sweep.py" in line for line in machines.processes("head").values()),
        60,
    )
    steps.check(len(+busy) > 1, f"trials ran on {', '.join(+busy) or 'no machine'} alone")
    operator.submit("resume", "lab")
    check_ledger(steps, before, ended_trials(ledger), TRIALS)


def look_at_results(operator: Operator) -> None:
    """Status, MLflow and S3 after the sweep."""
    steps = operator.steps
    said = operator.submit("--", "status", "lab", "--json")
    found = re.search(r"^\{.*\}", said, re.MULTILINE)
    left = json.loads(found[0])["left"] if found else None
    steps.check(left == 0, f"status says {said[-500:]}")
    operator.submit("select", "lab")
    client = MlflowClient(f"sqlite:///{operator.machines.user_home('head')}/mlflow.db")
    experiment = client.get_experiment_by_name("lab")
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'trial'") if experiment else []
    steps.note("MLflow", None, f"{len(runs)} runs of trials")
    steps.check(
        len({run.data.tags["sweep.trial"] for run in runs}) == len(runs) == TRIALS, "not one run for each trial"
    )
    listed = operator.step("what is in S3", sys.executable, "-c", LIST, BUCKET).split()
    for part in ("results/lab/plan.json", "results/lab/trials/", "results/lab/artifacts/"):
        steps.check(any(part in name for name in listed), f"nothing in S3 is called {part}")


def work_through(operator: Operator) -> None:
    """All steps."""
    machines, steps = operator.machines, operator.steps

    def with_ray(name: str) -> bool:
        return any("/raylet/raylet " in line or "gcs_server" in line for line in machines.processes(name).values())

    data = make_demo(operator.folder / "demo", subjects=1, stimuli=80)
    server, _ = operator.start("moto_server", "-H", OPERATOR, "-p", "9000")
    try:
        time.sleep(8)
        operator.step("demo set to S3", sys.executable, "-c", UPLOAD, BUCKET, str(data))
        operator.step("ray get-auth-token --generate", "ray", "get-auth-token", "--generate")
        operator.step("ray up", "ray", "up", "--yes", str(operator.file))
        if steps.wrong:
            return
        steps.until("workers join", lambda: all(with_ray(name) for name in ADDRESSES), 180)
        if steps.wrong:
            return
        said = operator.submit("doctor")
        steps.check("3 nodes" in said, f"doctor does not see 3 nodes: {said[-2000:]}")
        sweep(operator)
        look_at_results(operator)
        operator.step("ray down", "ray", "down", "--yes", str(operator.file))
        steps.check(not with_ray("head"), "Ray still runs on the head after `ray down`")
        steps.until("Ray ends on the workers", lambda: not any(with_ray(name) for name in ADDRESSES), 150)
    finally:
        server.kill()


def rehearse(machines: Machines, folder: Path, steps: Steps) -> None:
    """All of it, as a person would."""
    give_access(machines)
    work_through(Operator(machines, folder, steps))


if __name__ == "__main__":
    sys.exit(run_rehearsal(__doc__, "cluster/onprem.yaml on three machines of namespaces", ADDRESSES, rehearse))
