"""The Kubernetes job: its pods against Kubernetes' own schema, its other fields against those of KubeRay's v1 API."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from cluster.profiles import choose_profile

JOB = Path(__file__).parents[2] / "cluster/kuberay/rayjob.yaml"

# By KubeRay 1.7's API reference; the operator's full schema is a megabyte and comes with no package.
RAY_JOB = {
    "activeDeadlineSeconds": int,
    "backoffLimit": int,
    "clusterSelector": dict,
    "entrypoint": str,
    "entrypointNumCpus": float,
    "entrypointNumGpus": float,
    "entrypointResources": str,
    "jobId": str,
    "preRunningDeadlineSeconds": int,
    "rayClusterSpec": dict,
    "runtimeEnvYAML": str,
    "shutdownAfterJobFinishes": bool,
    "submissionMode": str,
    "submitterConfig": dict,
    "submitterPodTemplate": dict,
    "suspend": bool,
    "ttlSecondsAfterFinished": int,
}
RAY_CLUSTER = {
    "authOptions": dict,
    "autoscalerOptions": dict,
    "enableInTreeAutoscaling": bool,
    "gcsFaultToleranceOptions": dict,
    "headGroupSpec": dict,
    "rayVersion": str,
    "suspend": bool,
    "workerGroupSpecs": list,
}
AUTOSCALER = {"idleTimeoutSeconds": int, "resources": dict, "upscalingMode": str, "version": str}
HEAD = {
    "headService": dict,
    "labels": dict,
    "rayStartParams": dict,
    "resources": dict,
    "serviceType": str,
    "template": dict,
}
WORKERS = HEAD | {
    "groupName": str,
    "idleTimeoutSeconds": int,
    "maxReplicas": int,
    "minReplicas": int,
    "numOfHosts": int,
    "replicas": int,
}


def documents() -> tuple[dict[str, Any], dict[str, Any]]:
    settings, job = yaml.safe_load_all(JOB.read_text())
    return settings, job


def faults(content: dict[str, Any], known: Mapping[str, type]) -> list[str]:
    """Fields that the API does not have, or of another type."""
    return [
        name
        for name, value in content.items()
        if name not in known or not isinstance(value, known[name]) or (known[name] is int and isinstance(value, bool))
    ]


def all_faults(job: dict[str, Any]) -> list[str]:
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    texts = [value for group in groups for value in group["rayStartParams"].values()]
    return [
        *faults(job["spec"], RAY_JOB),
        *faults(cluster, RAY_CLUSTER),
        *faults(cluster["autoscalerOptions"], AUTOSCALER),
        *faults(cluster["headGroupSpec"], HEAD),
        *(fault for group in cluster["workerGroupSpecs"] for fault in faults(group, WORKERS)),
        *(f"rayStartParams: {value}" for value in texts if not isinstance(value, str)),
    ]


def pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    templates = [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    return [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}} | template for template in templates]


def validate(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_fields_are_those_of_the_api() -> None:
    _, job = documents()
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert all_faults(job) == []
    wrong = copy.deepcopy(job)
    wrong["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplicas"] = "16"
    wrong["spec"]["ttlSeconds"] = 600
    assert all_faults(wrong) == ["ttlSeconds", "maxReplicas"], "the check can fail"


def test_pods_and_settings_are_good_kubernetes() -> None:
    settings, job = documents()
    validate(settings)
    for pod in pods(job):
        validate(pod)
        wrong = copy.deepcopy(pod)
        wrong["spec"]["containers"][0]["resource"] = {}
        with pytest.raises(kubernetes_validate.ValidationError):
            validate(wrong)


def test_what_the_operator_refuses_is_not_there() -> None:
    """Rules of its webhook that the schema cannot say."""
    _, job = documents()
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert spec["shutdownAfterJobFinishes"], "or ttlSecondsAfterFinished may not be set"
    assert spec["submissionMode"] in {"K8sJobMode", "HTTPMode", "SidecarMode"}, "backoffLimit needs one of these"
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert all(pod["spec"].get("restartPolicy", "Never") == "Never" for pod in pods(job)), "autoscaler v2 asks for it"
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert "resources" not in group, "rayStartParams say them"
        assert len(group["template"]["spec"]["containers"]) == 1
    for group in cluster["workerGroupSpecs"]:
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_autoscaled_slots_are_those_of_all_workers() -> None:
    settings, job = documents()
    (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = workers["template"]["spec"]["containers"]
    requests = container["resources"]["requests"]
    cpus, gpus = int(requests["cpu"]), int(requests["nvidia.com/gpu"])
    profile = choose_profile(settings["data"]["SWEEP_PROFILE"], {"GPU": 1})
    on_one = min(cpus // profile.cpus_per_worker, gpus * profile.slots_per_gpu)
    assert profile.max_slots == on_one * workers["maxReplicas"]


@pytest.mark.parametrize(("code", "ends"), [(0, 0), (1, 1), (3, 0), (130, 130)])
def test_a_sweep_without_a_score_is_not_started_again(tmp_path: Path, code: int, ends: int) -> None:
    """The job starts a new cluster for each failure, which a sweep that is done, but for a score, has no use for."""
    (tmp_path / "cluster/kuberay").mkdir(parents=True)
    shutil.copy(JOB.parents[1] / "kuberay/job.sh", tmp_path / "cluster/kuberay")
    (tmp_path / "sweep.py").write_text("import sys; print(sys.argv[1:]); sys.exit(int(sys.argv[-1]))")
    line = ["sh", str(tmp_path / "cluster/kuberay/job.sh"), "select", str(code)]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(line, env={"PATH": path}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (ends, f"['select', '{code}']\n")
    _, job = documents()
    assert job["spec"]["entrypoint"] == "sh /opt/cortex-sweep/cluster/kuberay/job.sh"
    assert "COPY cluster cluster" in (JOB.parents[1] / "kuberay/Dockerfile").read_text()
