"""A rehearsal of cluster/slurm.sbatch: the script as it is, on two machines on one computer, with a stand-in for Slurm.

    sudo .venv/bin/python -m benchmarks.slurm [--keep FOLDER]

The machines (see benchmarks/machines.py) share a home and a folder, as a Slurm cluster's do. `srun` and `scontrol` are
played by few lines of shell that reach the nodes by SSH. The job gets the signal of its time limit after its first
trial, is put in the queue again and ends. Prints a table; exits with 1 if something is not as the script promises.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.machines import SHARED, USER, Machines
from benchmarks.rehearsal import run_rehearsal
from benchmarks.steps import Steps, check_ledger, ended_trials
from trainables.data.demo import make_demo

ROOT = Path(__file__).parents[1]
NODES = {"node1": "192.168.1.21", "node2": "192.168.1.22"}
TRIALS = 6
PARTS = "pyproject.toml constraints.txt README.md LICENSE sweep.py cluster orchestrator search_spaces trainables"
SCONTROL = '#!/bin/sh\nprintf "%s" "$3" | tr , "\\n"\n'
SRUN = r"""#!/usr/bin/env bash
hosts=${SLURM_JOB_NODELIST//,/ }
while [[ $1 == --* ]]; do
  case $1 in
    --nodelist=*) hosts=${1#*=} ;;
    --exclude=*) hosts=${hosts//${1#*=}/} ;;
  esac
  shift
done
started=()
for host in $hosts; do
  ssh -tt -o StrictHostKeyChecking=no -o LogLevel=ERROR "$host" "$(export -p); cd '$PWD'; exec $(printf '%q ' "$@")" \
    < /dev/null &
  started+=($!)
done
trap 'kill "${started[@]}"' TERM
wait
"""
SETTINGS = {
    "PATH": "/opt/shims:/usr/bin:/bin",
    "VENV": f"/home/{USER}/venv",
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NUM_NODES": str(len(NODES)),
    "SLURM_JOB_NODELIST": ",".join(NODES),
    "SLURM_CPUS_PER_TASK": "2",
    "SWEEP_NAME": "queue",
    "SWEEP_DATA": f"{SHARED}/demo",
    "SWEEP_STORAGE": f"{SHARED}/results",
    "SWEEP_SPACE": "smoke",
    "SWEEP_PROFILE": "cpu,cpus_per_worker=2",
    "SWEEP_WEIGHTS": "random",
    "SWEEP_SUBJECTS": "1",
    "SWEEP_HEMISPHERES": "lh",
    "SWEEP_ROIS": "V1v",
    "SWEEP_METHODS": "contrastive",
    "SWEEP_CUTOFFS": "features.2",
    "SWEEP_TRIALS": str(TRIALS),
    "SWEEP_EPOCHS": "3",
    "SWEEP_BATCH_SIZE": "16",
}


def prepare(machines: Machines) -> None:
    """What the script expects: the project installed in a home that all nodes see, data, ways from node to node."""
    home = machines.user_home("node1")
    (home / "cortex-sweep").mkdir()
    parts = [str(ROOT / part) for part in PARTS.split()]
    subprocess.run(["rsync", "-a", "--exclude=__pycache__", *parts, str(home / "cortex-sweep")], check=True)
    subprocess.run(["cp", str(machines.home / ".ssh/id_ed25519"), str(home / ".ssh")], check=True)
    for name, content in {"srun": SRUN, "scontrol": SCONTROL}.items():
        machines.write(machines.folder / "opt/shims" / name, content)
        (machines.folder / "opt/shims" / name).chmod(0o755)
    machines.give(home / "cortex-sweep")
    machines.give(home / ".ssh")
    make_demo(machines.folder / "shared/demo", subjects=1, stimuli=80)
    install = "~/venv/bin/pip install --quiet --constraint constraints.txt --editable '.[nod,postgres]'"
    done = machines.as_user("node1", f"cd ~/cortex-sweep && {install}")
    if done.returncode != 0:
        raise RuntimeError(f"the project could not be installed: {done.stderr}")


class Job:
    """The batch script on the first node."""

    def __init__(self, machines: Machines, log: Path) -> None:
        self.machines, self.log = machines, log
        settings = shlex.join(["env", *(f"{name}={value}" for name, value in SETTINGS.items())])
        line = f"cd ~/cortex-sweep && exec {settings} bash cluster/slurm.sbatch"
        words = machines.command("node1", "runuser", "--login", USER, "--command", line)
        with log.open("w") as file:
            self.process = subprocess.Popen(words, cwd="/", stdin=subprocess.DEVNULL, stdout=file, stderr=file)

    def signal(self) -> None:
        """SIGTERM to the batch shell alone, as `--signal=B:TERM@300` has it."""
        shells = [p for p, line in self.machines.processes("node1").items() if line == "bash cluster/slurm.sbatch"]
        os.kill(min(shells), signal.SIGTERM)

    def clean_up(self) -> None:
        """End what the job left on its nodes, as Slurm does when a job has ended."""
        for name in NODES:
            self.machines.end_processes_of_user(name)


def rehearse(machines: Machines, folder: Path, steps: Steps) -> None:
    """The job, its time limit, the job again."""
    prepare(machines)
    ledger = machines.folder / "shared/results/queue/ledger.journal"
    busy: set[str] = set()
    job = Job(machines, folder / "job-1.log")

    def look() -> bool:
        for name in NODES:
            if any("RayTrainWorker" in line for line in machines.processes(name).values()):
                busy.add(name)
        return len(ended_trials(ledger)) > 0 or job.process.poll() is not None

    steps.until("sbatch, until a trial has ended", look, 400)
    before = ended_trials(ledger)
    if job.process.poll() is None:
        job.signal()
    steps.until("SIGTERM of the time limit", lambda: job.process.poll() is not None, 120)
    code = job.process.poll()
    steps.check(code == 130, f"an interrupted job ended with {code}, not 130: {job.log.read_text()[-3000:]}")
    steps.check(busy == set(NODES), f"trials ran on {busy or 'no node'}")
    job.clean_up()
    started = time.monotonic()
    again = Job(machines, folder / "job-2.log")
    try:
        code = again.process.wait(400)
    except subprocess.TimeoutExpired:
        code = None
    steps.note("the job again", started, f"exit code {code}; the first one's trials ran on {', '.join(sorted(busy))}")
    steps.check(code == 0, f"the second job ended with {code}: {again.log.read_text()[-3000:]}")
    check_ledger(steps, before, ended_trials(ledger), TRIALS)


if __name__ == "__main__":
    title = "cluster/slurm.sbatch on two machines of namespaces"
    sys.exit(run_rehearsal(__doc__, title, NODES, rehearse, shared_home=True))
