"""gcp.yaml by Ray's own bootstrap and node provider, with a project that answers by Google's published API description.

The discovery documents come with google-api-python-client; no request leaves this machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.auth.credentials import AnonymousCredentials
from googleapiclient.discovery import build
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.gcp import config as ray_gcp
from ray.autoscaler._private.gcp.node import GCPCompute
from ray.autoscaler._private.util import prepare_config

FILE = Path(__file__).parents[2] / "cluster/gcp.yaml"
PROJECT, ZONE = "my-lab", "us-central1-a"
SUBNET = f"projects/{PROJECT}/regions/us-central1/subnetworks/default"
DONE = {"name": "operation", "status": "DONE", "done": True}


class Project:
    """Answers requests, and keeps them. Methods that it does not know are refused: they would be made for real."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, dict[str, Any]] = {
            "cloudresourcemanager.projects.get": {"projectId": PROJECT, "lifecycleState": "ACTIVE"},
            "cloudresourcemanager.projects.getIamPolicy": {"bindings": []},
            "cloudresourcemanager.projects.setIamPolicy": {},
            "iam.projects.serviceAccounts.get": {
                "projectId": PROJECT,
                "email": f"ray@{PROJECT}.iam.gserviceaccount.com",
            },
            "compute.projects.get": {"name": PROJECT, "commonInstanceMetadata": {"items": []}},
            "compute.projects.setCommonInstanceMetadata": DONE,
            "compute.globalOperations.get": DONE,
            "compute.subnetworks.list": {"items": [{"selfLink": SUBNET}]},
            "compute.instances.insert": DONE,
        }

    def request(self, http: Any, postproc: Any, uri: str, **details: Any) -> Any:
        """What googleapiclient makes of a method's call."""
        name = details["methodId"]
        self.asked.append((name, json.loads(details.get("body") or "{}")))
        answer = self.answers[name]

        class Request:
            def execute(self, **_: Any) -> dict[str, Any]:
                return answer

        return Request()

    def client(self, service: str) -> Any:
        return build(
            service,
            "v1",
            credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
            requestBuilder=self.request,
            static_discovery=True,
            cache_discovery=False,
        )

    def bodies(self, name: str) -> list[dict[str, Any]]:
        return [body for asked, body in self.asked if asked == name]


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Project:
    """A project; keys go to a home of their own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    made = Project()
    clients = (*(made.client(name) for name in ("cloudresourcemanager", "iam", "compute")), None)
    monkeypatch.setattr(ray_gcp, "construct_clients_from_provider_config", lambda _: clients)
    return made


TYPES: dict[str, tuple[type, ...]] = {
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "object": (dict,),
    "array": (list,),
    "string": (str,),
}


def faults(value: Any, schema: dict[str, Any], schemas: dict[str, Any], where: str) -> Iterator[str]:
    """Where ``value`` is not what the API's description says: unknown fields, other types, other words."""
    schema = schemas[schema["$ref"]] if "$ref" in schema else schema
    kind = schema.get("type", "any")
    types: tuple[type, ...] = (str, int) if schema.get("format") in {"int64", "uint64"} else TYPES.get(kind, (object,))
    content: Any = value  # isinstance narrows the other name to what it cannot say
    if not isinstance(value, types) or (isinstance(value, bool) and kind not in {"boolean", "any"}):
        yield f"{where} is {value!r}, no {kind}"
    elif kind == "object":
        fields, others = schema.get("properties", {}), schema.get("additionalProperties")
        for name, inner in content.items():
            found = fields.get(name, others)
            if found is None:
                yield f"{where}.{name} is not in the API"
            else:
                yield from faults(inner, found, schemas, f"{where}.{name}")
    elif kind == "array":
        for number, inner in enumerate(content):
            yield from faults(inner, schema["items"], schemas, f"{where}[{number}]")
    elif value not in schema.get("enum", [value]):
        yield f"{where} is {value!r}, none of {', '.join(schema['enum'])}"


def launched(project: Project, config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The request for a machine of every type, as Ray's node provider makes it."""
    compute = GCPCompute(project.client("compute"), PROJECT, ZONE, "cortex-sweep")
    compute.get_new_authorized_http = lambda http: http  # type: ignore[method-assign]
    found = {}
    for name, node in config["available_node_types"].items():
        labels = {"ray-node-name": "ray-cortex-sweep", "ray-node-type": "head" if name == "head" else "worker"}
        compute.create_instance(node["node_config"], labels, wait_for_operation=False)
        found[name] = project.bodies("compute.instances.insert")[-1]
    return found


def instance_faults(project: Project, body: dict[str, Any]) -> list[str]:
    schemas = project.client("compute")._rootDesc["schemas"]
    return list(faults(body, schemas["Instance"], schemas, "instance"))


def test_machines_are_what_the_api_describes(project: Project) -> None:
    config = _bootstrap_config(prepare_config(yaml.safe_load(FILE.read_text())), no_config_cache=True)
    bodies = launched(project, config)
    for name, body in bodies.items():
        assert instance_faults(project, body) == [], name
        assert body["networkInterfaces"][0]["subnetwork"] == SUBNET
        assert body["machineType"].startswith(f"zones/{ZONE}/machineTypes/")
    spot, on_demand = bodies["gpu_spot"], bodies["gpu_on_demand"]
    assert spot["scheduling"]["provisioningModel"] == "SPOT"
    assert "provisioningModel" not in on_demand["scheduling"]
    for body in (spot, on_demand):
        assert body["guestAccelerators"][0]["acceleratorType"].endswith("acceleratorTypes/nvidia-l4")
        assert body["scheduling"]["onHostMaintenance"] == "TERMINATE", (
            "machines with GPUs cannot be moved while they run"
        )
    assert [
        key["key"] for body in project.bodies("compute.projects.setCommonInstanceMetadata") for key in body["items"]
    ]


def test_the_check_can_fail(project: Project) -> None:
    good = {"machineType": "zones/z/machineTypes/m", "disks": [{"boot": True}]}
    assert instance_faults(project, good) == []
    assert instance_faults(project, good | {"machinetype": "m"}) == ["instance.machinetype is not in the API"]
    assert instance_faults(project, {"disks": [{"boot": "yes"}]}) == ["instance.disks[0].boot is 'yes', no boolean"]
    assert instance_faults(project, {"scheduling": {"provisioningModel": "CHEAP"}}) != []


def test_every_machine_may_read_the_secrets(project: Project) -> None:
    """A machine that is made without an account has none; its setup asks Secret Manager for the bucket's keys."""
    config = yaml.safe_load(FILE.read_text())
    assert "gcloud secrets" in " ".join(config["setup_commands"])
    for name, body in launched(project, _bootstrap_config(prepare_config(config), no_config_cache=True)).items():
        (account,) = body["serviceAccounts"]
        role = "head" if name == "head" else "worker"
        assert account["email"] == f"cortex-sweep-{role}@{PROJECT}.iam.gserviceaccount.com"
        assert account["scopes"] == ["https://www.googleapis.com/auth/cloud-platform"]
