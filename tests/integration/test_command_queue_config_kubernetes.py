"""queue_config kubernetes: manifests that Kubernetes takes, derived from what is declared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.integration.commands import Ran, run
from zerver.deployment.kubernetes import GRACE_SECONDS, LONGEST_NAME, Pods, dns_name, render
from zerver.deployment.programs import programs_of
from zerver.lib.registry import queues

#: The oldest that is still kept, and the newest, of those whose schemas are known.
VERSIONS = ("1.33", "1.37")


def config(*arguments: str) -> Ran:
    return run("queue_config", "kubernetes", "--image=registry.example/shop:1.2", *arguments)


def deployments(*arguments: str) -> dict[str, Mapping[str, Any]]:
    """By queue; and ``queue_scheduler``'s."""
    return {_duty(_command(each)): each for each in yaml.safe_load_all(config(*arguments).out)}


def _duty(command: Sequence[str]) -> str:
    return next((word.removeprefix("--queue=") for word in command if "--queue=" in word), command[-1])


def _container(deployment: Mapping[str, Any]) -> Mapping[str, Any]:
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    return dict(container)


def _command(deployment: Mapping[str, Any]) -> list[str]:
    return list(_container(deployment)["command"])


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_every_deployment(version: str) -> None:
    found = deployments("--name=shop", "--directory=/srv/shop")
    assert {"ledger", "zerver_dead", "queue_scheduler"} <= set(found)
    for deployment in found.values():
        kubernetes_validate.validate(deployment, version, strict=True)


def test_a_worker_has_the_time_that_its_queue_declares_and_no_more_rights_than_it_needs() -> None:
    deployment = deployments("--name=shop")["ledger"]
    pod = deployment["spec"]["template"]["spec"]
    container = _container(deployment)
    assert deployment["metadata"]["name"] == "shop-ledger"
    assert deployment["spec"]["replicas"] == 1
    assert pod["terminationGracePeriodSeconds"] == 45 + GRACE_SECONDS
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["envFrom"] == [{"configMapRef": {"name": "shop"}}, {"secretRef": {"name": "shop"}}]
    written = [*container["command"], *(each["value"] for each in container["env"])]
    mounts = [each["mountPath"] for each in container["volumeMounts"]]
    assert [each for each in written if "/" in each and not any(mount in each for mount in mounts)] == []
    assert all("emptyDir" in volume for volume in pod["volumes"])


def test_the_scheduler_is_one_pod_that_a_rollout_waits_for_unless_it_runs_elsewhere() -> None:
    deployment = deployments("--name=shop")["queue_scheduler"]
    assert deployment["metadata"]["name"] == "shop-scheduler"
    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["minReadySeconds"] == 10
    assert _command(deployment) == ["python", "manage.py", "queue_scheduler"]
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 60 + GRACE_SECONDS
    assert "queue_scheduler" not in deployments("--name=shop", "--no-scheduler")


def test_a_queue_may_be_called_scheduler(three_workers: None) -> None:
    pods = Pods(
        name="shop", image="shop", directory=None, config_map="shop", secret="shop", cpu="1", memory="1Gi"
    )
    programs = [replace(program, queue="scheduler") for program in programs_of([queues.lookup("ledger")])]
    found = list(yaml.safe_load_all(render(pods, programs, has_scheduler=True)))
    of_queue, of_scheduler = (each["metadata"]["name"] for each in found)
    assert of_queue == "shop-scheduler"
    assert of_scheduler.startswith("shop-scheduler-")
    labels = [each["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"] for each in found]
    assert labels == ["queue-scheduler", "scheduler"]


def test_selectors_find_their_own_pods_and_no_others() -> None:
    found = deployments("--name=shop")
    selectors = [each["spec"]["selector"]["matchLabels"] for each in found.values()]
    assert len({tuple(sorted(each.items())) for each in selectors}) == len(found)
    for deployment, selector in zip(found.values(), selectors, strict=True):
        assert selector.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()


def test_the_manifest_is_the_same_whatever_the_environment_of_its_writer_overrides(
    three_workers: None,
) -> None:
    changed = config().out
    queues.apply_overrides({})
    assert config().out == changed


def test_the_file_is_written_and_a_difference_is_told(tmp_path: Path) -> None:
    path = tmp_path / "kubernetes.yaml"
    assert config(f"--file={path}", "--write").code == 0
    assert config(f"--file={path}", "--check").code == 0
    path.write_text(path.read_text().replace("replicas: 1", "replicas: 2", 1))
    ran = config(f"--file={path}", "--check")
    assert ran.code == 1
    assert "-  replicas: 2\n+  replicas: 1\n" in ran.out


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("shop-user_activity", "shop-user-activity"),
        ("shop-a_", "shop-a-d0a72260"),
        ("shop-" + "a" * 63, "shop-" + "a" * 49 + "-1753ef3b"),
    ],
)
def test_a_queues_name_becomes_one_that_kubernetes_takes(text: str, name: str) -> None:
    assert dns_name(text) == name
    assert len(name) <= LONGEST_NAME


def test_queues_that_differ_have_names_that_differ() -> None:
    texts = ["shop-a_b", "shop-a__b", "shop-a_b_", *(f"shop-{'a' * 62}{last}" for last in "bcd")]
    assert len(set(map(dns_name, texts))) == len(texts)


@pytest.mark.parametrize(
    ("argument", "problem"),
    [
        ("--name=Shop", "name 'Shop': use lower-case letters, digits and -"),
        ("--name=shop_eu", "name 'shop_eu': use lower-case letters"),
        (f"--name={'a' * 64}", "at most 63"),
        ("--image=shop image", "image 'shop image': name one as registry/name:tag"),
        ("--image=", "image '': name one"),
        ("--secret=a\n  b: c", "use lower-case letters"),
        ("--config-map=a/b", "config map 'a/b'"),
        ("--cpu=lots", "cpu 'lots': give a quantity"),
        ("--memory=256MB", "memory '256MB': give a quantity"),
        ("--directory=srv", "directory 'srv': give an absolute path"),
    ],
)
def test_what_no_manifest_could_carry_is_refused(argument: str, problem: str) -> None:
    ran = config(argument)
    assert (ran.code, ran.out) == (1, "")
    assert problem in ran.err


def test_an_image_must_be_named() -> None:
    assert "the following arguments are required: --image" in run("queue_config", "kubernetes").err
