"""What each documented command promises; which commands no page's walk types, and why."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Promise:
    """What a page's words say of a command. Its options may change: the pattern says which command is meant."""

    pattern: str
    says: tuple[str, ...] = ()
    """Words of what it shows."""
    makes: tuple[str, ...] = ()
    """Files that are there afterwards."""
    takes: tuple[str, ...] = ()
    """Files that are not there any more."""
    code: int = 0
    answers: str = ""
    """What is typed when it asks."""
    serves: str = ""
    """It serves until Ctrl-C, and this is in the link that it shows."""
    alone: bool = False
    """It knows nothing of the cluster that the others of the walk join, as on a reader's machine."""
    quick: bool = False
    """It needs seconds, and nothing that another command leaves."""


@dataclass(frozen=True)
class Elsewhere:
    """A command that is not typed, with the reason; a file that is named there runs it."""

    pattern: str
    why: str


def matches(text: str, pattern: str) -> bool:
    # No [classes]: pages write them themselves.
    return fnmatchcase(text, pattern.replace("[", "[[]"))


def _view(key: str, options: str = "") -> Promise:
    return Promise(f"python sweep.py ui demo{options}", says=("The MLflow UI has ended.",), serves=key)


_LEFT_TO_EDIT = Promise("python sweep.py doctor --cluster *", says=("still",), code=1)
_TOKEN = Promise("ray get-auth-token --generate*", makes=("home/.ray/auth_token",), quick=True, alone=True)

PROMISED: dict[str, tuple[Promise, ...]] = {
    "README.md": (
        Promise("python sweep.py data check *", says=("subj01: 80 stimuli", "ready for a sweep"), quick=True),
        Promise(
            "python sweep.py run *--name mine*",
            says=("Starting Ray on this machine", "subj01/lh/V1v", "contrastive", "python sweep.py select mine"),
            makes=("results/mine/plan.json", "results/mlflow.db"),
            alone=True,
        ),
        Promise("python sweep.py ui mine", serves="best"),
        Promise("python sweep.py confirm mine", says=("fresh seeds", "python sweep.py select mine-confirm")),
        Promise("python sweep.py select mine", says=("registered algonauts.subj01-lh-V1v", "`champion`")),
        Promise(
            "python sweep.py evaluate mine",
            says=("Encoding on test stimuli", "subj01/lh/V1v"),
            makes=tuple(f"results/mine/evaluation/{name}.json" for name in ("encoding", "transfer", "information")),
        ),
        Promise("python sweep.py report mine", says=("Report in",), makes=("results/mine/report.html",)),
        Promise("python sweep.py export *", says=("DIR: subj01/lh/V1v",), makes=("DIR/predict.py", "DIR/README.md")),
        Promise("source .venv/bin/activate", quick=True),
        Promise("python sweep.py resume mine", says=("subj01/lh/V1v", "python sweep.py select mine")),
        Promise("python sweep.py --help", says=("Usage: sweep.py", "leaderboard"), quick=True),
    ),
    "choosing-models.md": (
        _view("best"),
        _view("V1v", " --view V1v"),
        _view("search", " --view search"),
        _view("classification", " --view classification"),
        _view("curves", " --view curves"),
        _view("pareto", " --view pareto"),
        Promise("python sweep.py leaderboard demo", says=("subj01/lh/V1v", "subj02/lh/V1v", "val r", "temp.")),
        Promise("python sweep.py compare demo other", says=("other less demo", "untuned", "95 %", "sign-flip")),
        Promise("python sweep.py confirm demo", says=("fresh seeds", "±"), makes=("results/demo-confirm/plan.json",)),
        Promise(
            "python sweep.py delete demo-confirm",
            says=("Delete sweep demo-confirm", "freed"),
            takes=("results/demo-confirm/plan.json",),
            answers="y\n",
        ),
        Promise("python sweep.py confirm demo --candidates *", says=("fresh seeds", "±")),
        Promise("python sweep.py select demo-confirm", says=("registered demo.subj01-lh-V1v", "`champion`")),
        Promise("python sweep.py select demo --by *", says=("gain", "subj01/lh/V1v", "pareto = true")),
        # On the way here python.md has registered them, and the confirmed ones have taken their place.
        Promise("python sweep.py select demo", says=("`champion` of demo.subj01-lh-V1v", "it is this sweep's now")),
        Promise(
            "python sweep.py evaluate demo",
            says=("Encoding on test stimuli", "subj01/lh/V1v", "champion by validation"),
        ),
        Promise("python sweep.py report demo", says=("Report in",), makes=("results/demo/report.html",)),
        Promise("python sweep.py export *", makes=("v1-model/predict.py", "v1-model/README.md")),
        Promise("python sweep.py run *--trials *", says=("4/4", "subj01/lh/V1v", "subj02/lh/V1v")),
        Promise("python sweep.py run *--subjects 3", says=("subj01/lh/V1v", "subj03/lh/V1v")),
        # The folder keeps its first name.
        Promise(
            "python sweep.py rename demo pilot",
            says=("demo is called pilot now",),
            makes=("results/pilot/renamed.json",),
        ),
        Promise("python sweep.py archive pilot", says=("pilot is archived", "freed"), makes=("results/pilot",)),
        Promise(
            "python sweep.py delete pilot",
            says=("Delete sweep pilot", "pilot is deleted", "freed", "registered model versions"),
            takes=("results/demo/plan.json", "results/demo/trials", "results/pilot"),
            answers="y\n",
        ),
    ),
    "cluster.md": (
        Promise("python sweep.py run …", says=("subj01/lh/V1v",), makes=("home/results/nsd/plan.json",)),
        Promise("source .venv/bin/activate", quick=True),
        Promise("export *", quick=True),
        _TOKEN,
        _LEFT_TO_EDIT,
        Promise("python sweep.py run --dry-run *", says=("g6.2xlarge", "US dollars", "Nothing was started")),
        Promise("python sweep.py resume nsd --storage s3://*", says=("subj01/lh/V1v",)),
        Promise(".venv/bin/python sweep.py doctor *", says=("data", "storage")),
        Promise(".venv/bin/python sweep.py status nsd *", says=("sweep nsd is finished", "subj01/lh/V1v")),
    ),
    "data.md": (
        Promise("python sweep.py data check ROOT", says=("anna: 60 stimuli", "ready for a sweep"), quick=True),
        Promise("python sweep.py run *--rois all", says=("anna/lh/whole", "anna/rh/whole")),
    ),
    "extending.md": (
        Promise(
            "python sweep.py run *--dry-run",
            says=("cold would run 3 trials", "Nothing was started"),
            takes=("results/cold/plan.json",),
        ),
        Promise("python sweep.py run *--space cold.py", says=("subj01/lh/V1v", "contrastive", "regression")),
    ),
    "faults.md": (Promise("python sweep.py resume NAME *", says=("subj01/lh/V1v", "python sweep.py select mine")),),
    "macaque.md": (
        Promise("python sweep.py run *--trials *", says=("subj01/lh/hV4", "subj03/lh/hV4", "regression")),
        Promise(
            "python sweep.py select v4 && python sweep.py evaluate v4",
            says=("registered", "Encoding on test stimuli", "subj03/lh/hV4"),
        ),
        Promise("python sweep.py run *--leave-one-out", says=("subj01/lh/hV4", "pooled-avg")),
        Promise("python sweep.py select *", says=("registered",)),
        Promise("python sweep.py evaluate *--evaluations all *", says=("Encoding on test stimuli", "pooled-avg")),
        Promise("python sweep.py report *", says=("Report in",)),
    ),
    "python.md": (
        Promise("python sweep.py select demo", says=("registered demo.subj01-lh-V1v",)),
        Promise("python sweep.py export *", makes=("v1v-model/predict.py", "v1v-model/model.json")),
        Promise("python v1v-model/predict.py picture.png", says=("picture.png",)),
    ),
    "reproduce.md": (
        Promise(
            "python sweep.py run *--protocol published-a *",
            says=("protocol published-a", "Report in"),
            makes=("results/published-a/report.html",),
        ),
        Promise(
            "python sweep.py run *--protocol published-b *",
            says=("protocol published-b", "optimistic", "pooled-const"),
            makes=("results/published-b/report.html",),
        ),
        Promise(
            "python sweep.py evaluate published-a --evaluations all *",
            makes=(
                "results/published-a/evaluation/classification.json",
                "results/published-a/evaluation/landscape.json",
            ),
        ),
        Promise("python sweep.py evaluate published-a *--external NOD", makes=("results/published-a/report.html",)),
        Promise("python sweep.py report published-a", says=("Report in",)),
    ),
    "s3.md": (
        Promise(
            "python sweep.py doctor *", says=("data: algonauts", "s3://my-lab-sweeps/results was written"), alone=True
        ),
    ),
    "tracking-server.md": (
        Promise("cp cluster/mlflow/.env.example *", makes=("home/tracking.env",), quick=True),
        Promise("set -a; . ~/tracking.env*", quick=True),
        Promise("openssl rand -hex 24", quick=True),
        Promise("(umask 077; openssl rand *", makes=("home/sweep-password",), quick=True),
        Promise("python sweep.py doctor --ledger *", says=("ledger", "MLflow")),
        Promise("python sweep.py run --ledger *", says=("subj01/lh/V1v",)),
    ),
}
"""By page; where two fit, the longer pattern is meant."""

_CLOUD = "needs machines or an account; benchmarks/onprem.py rehearses it on three machines made of namespaces"
_AWS = "needs an account at Amazon; tests/cluster/test_cluster_files.py uses a simulated one"
_GOOGLE = "needs an account at Google; tests/cluster/test_gcp.py compares with the description of its interface"
_KUBERNETES = "needs Kubernetes; tests/cluster/test_kuberay.py compares with its schema"
_SLURM = "needs Slurm; benchmarks/slurm.py rehearses it"
_SERVER = "needs root; tests/servers.py does the same with cluster/mlflow/postgres.sh, as the user postgres"
_NETWORK = "installs packages from the network"
_MEASURES = "measures for minutes or hours; its page shows what came out"

NOT_TYPED = (
    Elsewhere("make sweep", ".ci/run runs it"),
    Elsewhere("make test", ".ci/run runs it"),
    Elsewhere("make check", ".ci/run runs it"),
    Elsewhere("make test-all", "it is what runs this"),
    Elsewhere("make format", "changes the files of this program"),
    Elsewhere("make ui", "`sweep.py ui` in an environment that Makefile makes anew: tests/promises.py has its views"),
    Elsewhere("make audit", "asks a database on the network"),
    Elsewhere("make environment", "the first step of `make sweep`, which .ci/run runs"),
    Elsewhere("pip check", "part of `make check`, which .ci/run runs"),
    Elsewhere("pip install *", _NETWORK),
    Elsewhere("python3 -m venv *", _NETWORK),
    Elsewhere("apt install *", _NETWORK),
    Elsewhere("sudo apt install *", _NETWORK),
    Elsewhere("python -m benchmarks.*", _MEASURES),
    *(
        Elsewhere(f"ray {verb}*", _CLOUD)
        for verb in ("up", "down", "submit", "exec", "attach", "monitor", "dashboard", "job ", "stop")
    ),
    Elsewhere("for step in select evaluate report; do ray submit *", _CLOUD),
    Elsewhere("aws *", _AWS),
    Elsewhere("vpc=*", _AWS),
    Elsewhere("subnet=*", _AWS),
    Elsewhere("gcloud *", _GOOGLE),
    Elsewhere("*; gcloud config set project *", _GOOGLE),
    Elsewhere("for * in *; do gcloud *", _GOOGLE),
    Elsewhere("head=serviceAccount:*", _GOOGLE),
    Elsewhere("worker=serviceAccount:*", _GOOGLE),
    Elsewhere("kubectl *", _KUBERNETES),
    Elsewhere("docker build *", _KUBERNETES),
    Elsewhere("sbatch *", _SLURM),
    Elsewhere("tail -f cortex-sweep-*.log", _SLURM),
    Elsewhere("docker compose *", "needs Docker; tests/cluster/test_tracking_files.py reads what it would start"),
    Elsewhere("sudo *", _SERVER),
    Elsewhere("echo * | sudo tee *", _SERVER),
    Elsewhere("for name in *; do sudo -u postgres pg_dump *", _SERVER),
    Elsewhere("cluster/mlflow/postgres.sh *", "tests/servers.py runs it"),
    Elsewhere("cluster/mlflow/server.sh", "tests/servers.py runs it"),
    Elsewhere("printf *curl *", "asks for a password; tests/servers.py sends the same request"),
    Elsewhere("mlflow db upgrade *", "needs the database of an older MLflow"),
    Elsewhere("openssl rand -hex", "names the command that is written out above it"),
)
"""On every page."""

PYTHON = {
    "README.md": "typed at its place in the page",
    "choosing-models.md": "typed at its place in the page",
    "python.md": "tests/orchestrator/test_python_docs.py runs it",
    "extending.md": "saved as the file that the next command reads",
    "macaque.md": "saved as the file that the next command reads",
}
"""What happens with the Python blocks of each page that has some."""
