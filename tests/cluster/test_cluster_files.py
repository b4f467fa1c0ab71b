"""The clusters' files against Ray's own schema, and AWS's against a simulated account."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

from benchmarks.prepared import runtime_packages
from cluster.profiles import COORDINATOR_CPUS, choose_profile
from cluster.spot_watcher import CLOUDS
from sweep import cli

CLUSTER = Path(__file__).parents[2] / "cluster"
FILES = sorted(path.name for path in CLUSTER.glob("*.yaml") if path.name != "aws-prerequisites.yaml")
REGION = "us-west-2"


def content_of(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((CLUSTER / name).read_text()))


def settings_of(config: dict[str, Any]) -> dict[str, str]:
    """The sweep's settings in a cluster file's environment."""
    found = dict(re.findall(r"export (SWEEP_\w+)=(\S+)", "\n".join(config["head_setup_commands"])))
    assert found.pop("SWEEP_COMMAND") == '"ray', "what messages tell people to type is no option"
    return found


@pytest.mark.parametrize("name", FILES)
def test_is_a_cluster_by_rays_schema(name: str) -> None:
    config = prepare_config(content_of(name))
    validate_config(config)
    assert "EDIT" in (CLUSTER / name).read_text()[:600].upper(), "the first lines say what to edit"


@pytest.mark.parametrize("name", FILES)
def test_settings_are_options_of_run(name: str) -> None:
    """`ray submit` gives no argument: each setting has to be an option's variable, and what is required is there."""
    settings = settings_of(content_of(name))
    run = cli.commands["run"]
    known = {str(option.envvar): option for option in run.params if getattr(option, "envvar", None)}
    assert settings
    assert set(settings) <= set(known)
    assert {variable for variable, option in known.items() if option.required} <= set(settings)
    assert settings["SWEEP_ADDRESS"] == "auto"
    choose_profile(settings["SWEEP_PROFILE"], {"GPU": 1})


@pytest.mark.parametrize("name", FILES)
def test_ray_is_the_pinned_one_on_loopback_and_asks_for_a_token(name: str) -> None:
    config = prepare_config(content_of(name))
    start = " ".join(config["head_start_ray_commands"])
    setup = " ".join(config["setup_commands"])
    assert "--dashboard-host=127.0.0.1" in start
    assert "0.0.0.0" not in start
    assert "RAY_AUTH_MODE=token" in setup
    assert "constraints.txt" in setup
    assert "nightly" not in setup
    assert ".whl" not in setup, "Ray's defaults install a nightly wheel"
    assert "~/.ray/auth_token" in config["file_mounts"]


@pytest.mark.parametrize("name", FILES)
def test_what_the_nodes_import_is_installed(name: str) -> None:
    """The head's autoscaler needs its cloud's client, MLflow's artifacts on S3 and a ledger on a server need theirs."""
    (extras,) = re.findall(r"cortex-sweep\[(.*?)\]", " ".join(content_of(name)["setup_commands"]))
    here, elsewhere = runtime_packages(extras.split(","))
    needed = {"boto3", "psycopg"} | ({"google-api-python-client"} if name == "gcp.yaml" else set())
    assert needed <= {*here, *elsewhere}


@pytest.mark.parametrize(("name", "cloud"), [("gpu.yaml", "aws"), ("gcp.yaml", "gcp")])
def test_spot_machines_are_watched(name: str, cloud: str) -> None:
    (watch,) = [line for line in content_of(name)["worker_start_ray_commands"] if "spot_watcher" in line]
    assert f"python -m cluster.spot_watcher {cloud} --address" in watch
    assert watch.endswith("&"), "the launcher would wait for it"
    assert cloud in CLOUDS


@pytest.mark.parametrize("name", FILES)
def test_no_secret_is_written_down(name: str) -> None:
    text = (CLUSTER / name).read_text()
    assert not re.search(r"(AKIA|aws_secret|password\s*[:=]\s*\S)", text, re.IGNORECASE)
    assert not re.search(r"postgresql://[^/@\s]+:[^/@\s]+@", text)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An account in which the prerequisites are deployed; keys go to a home of their own."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("HOME", str(tmp_path))
    with mock_aws():
        yield


def default_vpc(region: str = REGION) -> str:
    found = boto3.client("ec2", region).describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    return str(found[0]["VpcId"])


def deploy(region: str = REGION, **changes: str) -> dict[str, Any]:
    """What `aws cloudformation deploy` does; gives cluster/gpu.yaml with the group that it made."""
    given = {"Bucket": "my-lab-sweeps", "MakeBucket": "yes", "OperatorAddress": "203.0.113.7/32"}
    given["VpcId"] = default_vpc(region)
    text = (CLUSTER / "aws-prerequisites.yaml").read_text()
    image = "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"
    assert image in text
    text = text.replace(image, "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64")  # what moto has
    cloud = boto3.client("cloudformation", region)
    cloud.create_stack(
        StackName="cortex-sweep",
        TemplateBody=text,
        Capabilities=["CAPABILITY_NAMED_IAM"],
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in (given | changes).items()],
    )
    outputs = {o["OutputKey"]: o["OutputValue"] for o in cloud.describe_stacks()["Stacks"][0]["Outputs"]}
    text = (CLUSTER / "gpu.yaml").read_text().replace("sg-of-aws-prerequisites", outputs["SecurityGroupId"])
    return dict(yaml.safe_load(text))


def open_to_the_world(group: dict[str, Any]) -> bool:
    rules = group["IpPermissions"]
    ranges = [r["CidrIp"] for rule in rules for r in rule["IpRanges"]]
    ranges += [r["CidrIpv6"] for rule in rules for r in rule.get("Ipv6Ranges", [])]
    return any(cidr.endswith("/0") for cidr in ranges)


def test_aws_takes_the_prepared_groups_and_roles(aws: None) -> None:
    config = _bootstrap_config(prepare_config(deploy()), no_config_cache=True)
    ec2 = boto3.client("ec2", REGION)
    groups = {group["GroupId"]: group for group in ec2.describe_security_groups()["SecurityGroups"]}
    for name, node in config["available_node_types"].items():
        (group,) = [groups[identity] for identity in node["node_config"]["SecurityGroupIds"]]
        assert group["GroupName"] == "cortex-sweep"
        assert not open_to_the_world(group)
        ssh = [rule for rule in group["IpPermissions"] if rule.get("FromPort") == 22]
        assert [r["CidrIp"] for rule in ssh for r in rule["IpRanges"]] == ["203.0.113.7/32"]
        inside = [rule for rule in group["IpPermissions"] if rule["IpProtocol"] == "-1"]
        assert [pair["GroupId"] for rule in inside for pair in rule["UserIdGroupPairs"]] == [group["GroupId"]]
        role = "head" if name == "head" else "worker"
        assert node["node_config"]["IamInstanceProfile"] == {"Name": f"cortex-sweep-{role}"}
        assert node["node_config"]["SubnetIds"]
        assert node["node_config"]["KeyName"]
    iam = boto3.client("iam", REGION)
    assert {role["RoleName"] for role in iam.list_roles()["Roles"]} == {"cortex-sweep-head", "cortex-sweep-worker"}


def test_a_group_that_is_open_to_ipv6_is_seen() -> None:
    rule = {"IpRanges": [{"CidrIp": "203.0.113.7/32"}], "Ipv6Ranges": [{"CidrIpv6": "::/0"}]}
    assert open_to_the_world({"IpPermissions": [rule]})
    assert not open_to_the_world({"IpPermissions": [{**rule, "Ipv6Ranges": []}]})


def test_the_head_ends_and_tags_machines_of_its_cluster_alone(aws: None) -> None:
    """A right to tag any machine would be one to end any: the tag is what the right to end asks for."""
    deploy()
    policy = boto3.client("iam", REGION).get_role_policy(RoleName="cortex-sweep-head", PolicyName="autoscaler")
    changes = ("ec2:CreateTags", "ec2:TerminateInstances", "ec2:StopInstances", "ec2:StartInstances")
    document = policy["PolicyDocument"]  # moto leaves it as text
    for statement in yaml.safe_load(str(document))["Statement"]:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        if set(actions) & set(changes):
            ((how, condition),) = statement["Condition"].items()
            (asked,) = condition.items()
            assert (how, *asked) in {
                ("StringLike", "aws:ResourceTag/ray-cluster-name", "cortex-sweep*"),
                ("StringEquals", "ec2:CreateAction", "RunInstances"),
            }
            if asked[0] == "ec2:CreateAction":
                assert actions == ["ec2:CreateTags"]


def test_without_the_prepared_group_ray_would_open_ssh(aws: None) -> None:
    """The check above can fail, and SecurityGroupIds are why it does not."""
    config = deploy()
    for node in config["available_node_types"].values():
        del node["node_config"]["SecurityGroupIds"]
    _bootstrap_config(prepare_config(config), no_config_cache=True)
    assert any(open_to_the_world(group) for group in new_groups())


def new_groups() -> list[dict[str, Any]]:
    groups = boto3.client("ec2", REGION).describe_security_groups()["SecurityGroups"]
    return [dict(group) for group in groups if group["GroupName"] != "default"]


def test_an_account_with_a_second_network_keeps_the_prepared_group(aws: None) -> None:
    """By a name, Ray would look for the group in the network that has a public subnet in the first zone, and make one
    that is open to the world if it is not there.
    """
    ec2 = boto3.client("ec2", REGION)
    other = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=other, CidrBlock="10.9.1.0/24", AvailabilityZone=f"{REGION}a")["Subnet"][
        "SubnetId"
    ]
    ec2.modify_subnet_attribute(SubnetId=subnet, MapPublicIpOnLaunch={"Value": True})
    first = [s for s in ec2.describe_subnets()["Subnets"] if s["AvailabilityZone"] == f"{REGION}a"]
    for unwanted in first:
        if unwanted["VpcId"] != other:
            ec2.delete_subnet(SubnetId=unwanted["SubnetId"])
    config = _bootstrap_config(prepare_config(deploy()), no_config_cache=True)
    (group,) = new_groups()
    assert (group["VpcId"], open_to_the_world(group)) == (default_vpc(), False)
    for node in config["available_node_types"].values():
        assert node["node_config"]["SecurityGroupIds"] == [group["GroupId"]]
        assert subnet not in node["node_config"]["SubnetIds"]


def test_a_second_region_shares_the_roles(aws: None) -> None:
    deploy()
    deploy("us-east-1", Bucket="my-lab-sweeps", MakeBucket="no", MakeRoles="no")
    assert {role["RoleName"] for role in boto3.client("iam", REGION).list_roles()["Roles"]} == {
        "cortex-sweep-head",
        "cortex-sweep-worker",
    }


def test_the_tracking_machine_has_its_name_and_no_other_way_in_than_the_cluster(aws: None) -> None:
    ec2 = boto3.client("ec2", REGION)
    (subnet, *_) = [s["SubnetId"] for s in ec2.describe_subnets()["Subnets"] if s["VpcId"] == default_vpc()]
    deploy(TrackingSubnet=subnet)
    (found,) = [i for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]
    template = (CLUSTER / "aws-prerequisites.yaml").read_text()  # moto gives a stack's machine no group
    assert "SecurityGroupIds: [!GetAtt SecurityGroup.GroupId]" in template.partition("TrackingMachine:")[2]
    names = boto3.client("route53", REGION)
    (zone,) = names.list_hosted_zones()["HostedZones"]
    assert "VPCs: [{VPCId: !Ref VpcId" in template, "a zone of the network alone; moto takes it for a public one"
    records = names.list_resource_record_sets(HostedZoneId=zone["Id"])["ResourceRecordSets"]
    (record,) = [each for each in records if each["Type"] == "A"]
    assert record["Name"].rstrip(".") == "mlflow.internal"
    assert [value["Value"] for value in record["ResourceRecords"]] == [found["PrivateIpAddress"]]


def test_aws_nodes_have_what_the_file_says(aws: None) -> None:
    types = {name: node for name, node in content_of("gpu.yaml")["available_node_types"].items() if name != "head"}
    machines = {node["node_config"]["InstanceType"] for node in types.values()}
    found = boto3.client("ec2", REGION).describe_instance_types(InstanceTypes=sorted(machines))["InstanceTypes"]
    has = {
        each["InstanceType"]: {
            "CPU": each["VCpuInfo"]["DefaultVCpus"],
            "GPU": sum(gpu["Count"] for gpu in each["GpuInfo"]["Gpus"]),
        }
        for each in found
    }
    for node in types.values():
        assert node["resources"] == has[node["node_config"]["InstanceType"]]


@pytest.mark.parametrize("name", ["gpu.yaml", "gcp.yaml"])
def test_spot_machines_come_first_and_one_on_demand_goes_on_without_them(name: str) -> None:
    """By the scheduler of the autoscaler that `ray up` starts: nine slots' worker groups on no node."""
    config = AutoscalingConfig(content_of(name), skip_content_hash=True)
    reply = ResourceDemandScheduler(None).schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_worker_nodes(),
            resource_requests=ResourceRequestUtil.group_by_count(
                [ResourceRequestUtil.make({"CPU": 2.0, "GPU": 0.25}) for _ in range(9)]
            ),
        )
    )
    assert {request.instance_type: request.count for request in reply.to_launch} == {"gpu_on_demand": 1, "gpu_spot": 2}


@pytest.mark.parametrize("address", ["0.0.0.0/0", "1.2.3.4/1"])
def test_the_world_is_no_operator(address: str) -> None:
    pattern = re.search(r"AllowedPattern: (.*)", (CLUSTER / "aws-prerequisites.yaml").read_text())
    assert pattern is not None
    assert not re.fullmatch(pattern.group(1), address)
    assert re.fullmatch(pattern.group(1), "203.0.113.7/32")


def test_prerequisites_are_good_cloudformation() -> None:
    from cfnlint.api import lint_file

    assert lint_file(CLUSTER / "aws-prerequisites.yaml") == []


@pytest.mark.parametrize("name", ["gpu.yaml", "gcp.yaml"])
def test_autoscaled_profile_asks_for_the_whole_cluster(name: str) -> None:
    """Slots that wait are what wakes the autoscaler: as many as the largest cluster holds, no more."""
    config = content_of(name)
    profile = choose_profile(settings_of(config)["SWEEP_PROFILE"], {"GPU": 1})
    node, head = (config["available_node_types"][each]["resources"] for each in ("gpu_spot", "head"))
    on_one = min(node["GPU"] * profile.slots_per_gpu, node["CPU"] // profile.cpus_per_worker)
    assert profile.slots({}) == on_one * config["max_workers"]
    assert profile.slots({}) * COORDINATOR_CPUS <= head["CPU"] < profile.cpus_per_worker, "coordinators fit, no trial"


def test_settings_of_the_kubernetes_job_are_options_of_run() -> None:
    settings, job = yaml.safe_load_all((CLUSTER / "kuberay/rayjob.yaml").read_text())
    known = {str(option.envvar) for option in cli.commands["run"].params if getattr(option, "envvar", None)}
    assert set(settings["data"]) <= known
    assert {"SWEEP_NAME", "SWEEP_DATA"} <= set(settings["data"])
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == version("ray")
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_the_batch_script_has_no_fault_that_shellcheck_knows() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("shellcheck"), str(CLUSTER / "slurm.sbatch"), str(CLUSTER / "kuberay/job.sh")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_an_installed_copy_has_every_file_of_the_cluster() -> None:
    declared = tomllib.loads((CLUSTER.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    files = [path for path in CLUSTER.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    packed = {path for pattern in declared["cluster"] for path in CLUSTER.glob(pattern)}
    assert {path for path in files if path.name != ".env"} <= packed
