"""cluster.yaml and the Kubernetes objects of docs/, checked by the schemas of Ray and AWS without network."""

import copy
import json
import re
import shlex
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any, ClassVar

import botocore.session
import jsonschema
import pytest
import yaml
from botocore.validate import ParamValidator
from packaging.requirements import Requirement
from ray._private.runtime_env.packaging import create_package
from ray.autoscaler._private.aws import config as aws
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.scripts.scripts import drain_node, start
from ray.serve.schema import ServeDeploySchema

from physiq_ray.config import Settings
from physiq_ray.config.serving import LiveSettings, ServingSettings
from physiq_ray.training.workers import wanted_bundles

ROOT = Path(__file__).parents[2]
SHIPPED = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
DOCS = ROOT / "docs"

WORKERS = ["gpu_spot", "gpu_on_demand", "cpu"]
TRAINING, DECODING = wanted_bundles(Settings(decode_resource="decode"))
REPLICA: dict[str, float] = {"CPU": 2}  # cpus_per_replica of serve_config.yaml

Config = dict[str, Any]


@pytest.fixture
def config() -> Config:
    """Give the shipped file as `ray up` reads it."""
    loaded: Config = yaml.safe_load(SHIPPED)
    return loaded


@pytest.fixture
def no_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every request to AWS fail."""

    def refuse(name: str, config: Config) -> None:
        raise ConnectionRefusedError(name)

    monkeypatch.setattr(aws, "_resource", refuse)


def check(config: Config) -> None:
    """Validate as `ray up` does."""
    validate_config(prepare_config(copy.deepcopy(config)))


def test_ray_accepts_the_file(config: Config) -> None:
    check(config)


def misspell(path: str) -> Callable[[Config], None]:
    """Give a function that removes the last letter of the last key of a path."""
    *way, last = path.split("/")

    def change(config: Config) -> None:
        for key in way:
            config = config[key]
        config[last[:-1]] = config.pop(last)

    return change


@pytest.mark.parametrize(
    "path",
    [
        "idle_timeout_minutes",
        "worker_start_ray_commands",
        "auth/ssh_user",
        "available_node_types/cpu/max_workers",
        "available_node_types/gpu_spot/priority",
    ],
)
def test_a_misspelt_key_is_refused(config: Config, path: str) -> None:
    misspell(path)(config)
    with pytest.raises(jsonschema.ValidationError, match=path.rpartition("/")[2][:-1]):
        check(config)


def test_the_provider_has_only_keys_that_ray_reads(config: Config) -> None:
    # Ray accepts any key of the provider. Its source reads these.
    assert set(config["provider"]) <= {
        *("type", "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips", "key_pair")
    }


def launch_errors(node_config: Config) -> str:
    """Give the errors that EC2's description of RunInstances finds in the machines of a group."""
    call = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances")
    report = ParamValidator().validate({**node_config, "MinCount": 1, "MaxCount": 1}, call.input_shape)
    return str(report.generate_report())


@pytest.mark.slow
@pytest.mark.parametrize("group", ["head", *WORKERS])
def test_ec2_accepts_every_key_of_the_machines(config: Config, group: str) -> None:
    machine = config["available_node_types"][group]["node_config"]
    assert launch_errors(machine) == ""

    misspell("MetadataOptions/HttpTokens")(machine)
    assert 'Unknown parameter in MetadataOptions: "HttpToken"' in launch_errors(machine)


def test_no_rule_allows_all_addresses() -> None:
    assert not re.search(r"0\.0\.0\.0|::/0|\[::\]", SHIPPED)


def test_ray_neither_creates_nor_opens_a_security_group(config: Config, no_aws: None) -> None:
    # A group that Ray creates opens port 22 to all addresses; rules in `provider` are only added to that one.
    assert "security_group" not in config["provider"]
    assert aws._configure_security_group(copy.deepcopy(config)) == config
    assert aws._create_default_ssh_inbound_rules()[0]["IpRanges"] == [{"CidrIp": "0.0.0.0/0"}]


@pytest.mark.parametrize("group", ["head", *WORKERS])
def test_ray_would_create_a_security_group_for_machines_without_one(
    config: Config, no_aws: None, group: str
) -> None:
    node_type = config["available_node_types"][group]["node_config"]
    del node_type["SecurityGroupIds"]
    node_type["SubnetIds"] = ["subnet-1"]
    with pytest.raises(ConnectionRefusedError, match="ec2"):
        aws._configure_security_group(config)


def test_every_node_has_an_instance_profile_and_ray_creates_none(config: Config, no_aws: None) -> None:
    machines = {name: group["node_config"] for name, group in config["available_node_types"].items()}
    profiles = {name: machine["IamInstanceProfile"]["Name"] for name, machine in machines.items()}
    assert profiles == {"head": "physiq-ray-head", **dict.fromkeys(WORKERS, "physiq-ray-worker")}
    aws._configure_iam_role(copy.deepcopy(config))

    del machines["head"]["IamInstanceProfile"]
    with pytest.raises(ConnectionRefusedError, match="iam"):
        aws._configure_iam_role(config)


@pytest.mark.parametrize("group", ["head", *WORKERS])
def test_containers_and_other_machines_cannot_get_the_credentials_of_a_node(
    config: Config, group: str
) -> None:
    machine = config["available_node_types"][group]["node_config"]
    assert machine["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}
    assert machine["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] is True


@pytest.mark.parametrize("who", ["head", "worker"])
def test_ray_starts_only_with_the_token(config: Config, who: str) -> None:
    (command,) = (line for line in config[f"{who}_start_ray_commands"] if "ray start" in line)
    before, options = command.split("ray start")
    assert before == "export RAY_AUTH_MODE=token; ulimit -n 65536; "
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"

    params = start.make_context("ray start", shlex.split(options.replace("$RAY_HEAD_IP", "10.0.0.1"))).params
    assert params["head"] == (who == "head")
    assert params["dashboard_host"] in ("127.0.0.1", "localhost")
    assert bool(params["autoscaling_config"]) == (who == "head")


class Metadata(BaseHTTPRequestHandler):
    """The metadata of a spot node that AWS takes back after two requests."""

    protocol_version = "HTTP/1.1"
    requests: ClassVar[list[str]] = []

    def do_PUT(self) -> None:
        """Give the token of IMDSv2."""
        is_asked_rightly = self.headers["X-aws-ec2-metadata-token-ttl-seconds"] == "60"
        self.answer(200 if is_asked_rightly else 400, "a token")

    def do_GET(self) -> None:
        """Answer as AWS does."""
        self.requests.append(self.path)
        if self.headers["X-aws-ec2-metadata-token"] != "a token":
            self.answer(401, "")
        else:
            self.answer(404 if len(self.requests) < 3 else 200, '{"action": "terminate"}')

    def answer(self, status: int, text: str) -> None:
        """Send a whole answer."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.mark.slow
def test_a_worker_gives_the_notice_of_aws_to_ray(config: Config, tmp_path: Path) -> None:
    (command,) = (line for line in config["worker_start_ray_commands"] if "spot" in line)
    (tmp_path / "ray").write_text(f'#!/bin/sh\necho "$RAY_AUTH_MODE $@" > {tmp_path}/called\n')
    (tmp_path / "ray").chmod(0o755)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    with server:
        threading.Thread(target=server.serve_forever).start()
        here = command.replace("http://169.254.169.254/", f"http://127.0.0.1:{server.server_port}/")
        quick = here.replace("sleep 5", "sleep 0.1")
        assert here != command
        assert quick != here
        environment = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:/usr/bin:/bin"}
        subprocess.run(["bash", "-c", quick], env=environment, check=True, timeout=5)
        deadline_s = time.monotonic() + 30
        while not (tmp_path / "called").is_file() and time.monotonic() < deadline_s:
            time.sleep(0.05)
        time.sleep(0.2)
        server.shutdown()
    assert Metadata.requests == ["/latest/meta-data/spot/instance-action"] * 3
    mode, name, *options = (tmp_path / "called").read_text().split()
    assert (mode, name) == ("token", "drain-node")
    params = drain_node.make_context("ray drain-node", options).params
    assert params["reason"] == "DRAIN_NODE_REASON_PREEMPTION"
    assert params["deadline_remaining_seconds"] < 120  # the notice of AWS
    assert params["node_id"] is None  # the node on which it runs


def nodes_for(config: Config, *demands: dict[str, float], gone: str = "") -> dict[str, int]:
    """Ask Ray's autoscaler which nodes it would start for these demands.

    gone: the group of which AWS had no machines recently.
    """
    types = AutoscalingConfig(copy.deepcopy(config), skip_content_hash=True)
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=types.get_node_type_configs(),
        max_num_nodes=types.get_max_num_worker_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count(list(map(ResourceRequestUtil.make, demands))),
        recoverable_resource_availabilities={gone: 0.0} if gone else {},
    )
    reply = ResourceDemandScheduler(None).schedule(request)
    return {launched.instance_type: launched.count for launched in reply.to_launch}


def test_training_uses_spot_machines_first_and_others_if_there_are_none(config: Config) -> None:
    assert nodes_for(config, TRAINING) == {"gpu_spot": 1}
    assert nodes_for(config, *[TRAINING] * 5) == {"gpu_spot": 4, "gpu_on_demand": 1}
    assert nodes_for(config, TRAINING, gone="gpu_spot") == {"gpu_on_demand": 1}


def test_decoding_and_replicas_on_cpus_start_no_gpu_machines(config: Config) -> None:
    assert nodes_for(config, *[DECODING] * 20) == {"cpu": 2}
    assert nodes_for(config, *[REPLICA] * 8) == {"cpu": 1}
    assert nodes_for(config, TRAINING, *[DECODING] * 16) == {"gpu_spot": 1, "cpu": 1}
    assert nodes_for(config, *[{"CPU": 1, "GPU": 0.5}] * 2) == {"gpu_spot": 1}


def test_the_head_has_no_cpus_or_gpus_for_work(config: Config) -> None:
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0, "GPU": 0}
    assert "max_workers" not in config["available_node_types"]["head"]  # Ray starts no other head


def test_the_groups_together_have_as_many_nodes_as_the_limit(config: Config) -> None:
    groups = config["available_node_types"]
    assert sum(groups[name]["max_workers"] for name in WORKERS) == config["max_workers"]


@pytest.mark.slow
def test_the_nodes_install_the_versions_of_the_submitter(config: Config, tmp_path: Path) -> None:
    (line,) = re.findall(r"^#   (pip list .*)$", SHIPPED, re.MULTILINE)
    (tmp_path / "dist").mkdir()
    command = line.replace("pip", f"{sys.executable} -m pip", 1)
    subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=tmp_path, check=True, timeout=60)

    pinned = dict(row.split("==") for row in (tmp_path / "dist/constraints.txt").read_text().splitlines())
    assert pinned["ray"] == version("ray")
    assert pinned["torch"] == version("torch").partition("+")[0]  # a CPU build's name is not on PyPI
    assert "physiq-ray" not in pinned or pinned["physiq-ray"] == version("physiq-ray")

    (install,) = (command for command in config["setup_commands"] if "uv pip install" in command)
    assert "--constraint ~/physiq/constraints.txt" in install
    assert config["file_mounts"]["/home/ubuntu/physiq"] == "dist"
    assert not re.search(r"nightly|latest/|ray-wheels|\bray\[", SHIPPED)


def test_the_environment_of_the_nodes(config: Config, tmp_path: Path) -> None:
    (write,) = (command for command in config["setup_commands"] if "physiq.env" in command[-20:])
    subprocess.run(["bash", "-c", write], env={"HOME": str(tmp_path)}, check=True)
    printed = subprocess.check_output(
        ["/bin/bash", "-c", ". ~/physiq.env; /usr/bin/env"],
        env={"HOME": str(tmp_path), "PATH": "/bin"},
        text=True,
    )
    found = dict(row.split("=", 1) for row in printed.splitlines())

    assert found["PATH"] == f"{tmp_path}/venv/bin:/bin"
    assert {name: value for name, value in found.items() if name.startswith("RAY_")} == {
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_JOB_STOP_SIGNAL": "SIGINT",
        "RAY_JOB_STOP_WAIT_TIME_S": "120",
    }
    settings = {name.removeprefix("PHYSIQ_").lower() for name in found if name.startswith("PHYSIQ_")}
    assert settings == {"storage", "output", "decode_resource", "use_gpu", "wait_for_nodes_s"}
    assert settings <= set(Settings.model_fields)


def read(path: str) -> str:
    """Read a file of docs/."""
    return (DOCS / path).read_text(encoding="utf-8")


def test_the_policies_contain_no_wildcards() -> None:
    assert {path.name for path in (DOCS / "aws").iterdir()} == {"buckets.json", "trust.json", "workers.json"}
    policies = [json.loads(read(f"aws/{name}.json")) for name in ("buckets", "workers")]
    for statement in (statement for policy in policies for statement in policy["Statement"]):
        actions = statement["Action"]
        assert not any("*" in action for action in actions), actions
        if statement["Resource"] == "*":  # EC2 cannot restrict these to resources
            assert all(action.startswith("ec2:Describe") for action in actions)
        if "iam:PassRole" in actions:
            assert statement["Resource"].endswith(":role/physiq-ray-worker")


def test_only_ec2_instances_can_assume_the_roles() -> None:
    (statement,) = json.loads(read("aws/trust.json"))["Statement"]
    assert statement == {
        "Effect": "Allow",
        "Action": "sts:AssumeRole",
        "Principal": {"Service": "ec2.amazonaws.com"},
    }


def test_the_page_on_aws_names_each_policy_file() -> None:
    files = set(re.findall(r"file://(\S+\.json)", read("aws.md")))
    assert files == {f"docs/aws/{name}.json" for name in ("buckets", "trust", "workers")}


def test_kuberay_and_serve_accept_the_kubernetes_objects() -> None:
    objects = [yaml.safe_load(read(f"kubernetes/{name}.yaml")) for name in ("rayjob", "rayservice")]
    assert [(each["apiVersion"], each["kind"]) for each in objects] == [
        ("ray.io/v1", "RayJob"),
        ("ray.io/v1", "RayService"),
    ]
    job, service = (each["spec"] for each in objects)
    (ray,) = (each for each in map(Requirement, requires("physiq-ray") or []) if each.name == "ray")
    for cluster in (job["rayClusterSpec"], service["rayClusterConfig"]):
        assert cluster["rayVersion"] in ray.specifier
        assert cluster["authOptions"] == {"mode": "token"}
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"

    (application,) = ServeDeploySchema.model_validate(yaml.safe_load(service["serveConfigV2"])).applications
    ServingSettings.model_validate(application.args)
    LiveSettings.model_validate(application.deployments[0].user_config)


def test_the_working_directory_of_a_job_contains_only_what_it_needs(tmp_path: Path) -> None:
    package = tmp_path / "package.zip"
    create_package(str(ROOT), package, include_gitignore=True, include_parent_dir=False, excludes=[])
    with zipfile.ZipFile(package) as names:
        tops = {name.split("/")[0] for name in names.namelist()}
    assert {"physiq_ray", "mappings"} <= tops
    assert not tops & {".git", ".venv", "docs", "tests", "benchmarks", "dist", "demo", "runs", "output"}
    # Ray does not compress the package. The code has 1.6 MiB; tests or pictures would double that.
    assert package.stat().st_size < 2.4 * 2**20
