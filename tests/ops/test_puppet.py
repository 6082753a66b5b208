"""The puppet module, applied for real: into a directory of the test's own, without a server."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from tests.ops.puppet import CHANGED, FAILED_TO_COMPILE, NOTHING_CHANGED, USER, Puppet, queue_config
from tests.servers.processes import REPOSITORY
from zerver.deployment.normal_queues import render, written_into


def test_the_list_in_the_manifest_is_what_the_code_declares() -> None:
    assert queue_config("normal-queues", "--check").endswith("puppet/zulip/manifests/base.pp: as declared\n")


@pytest.mark.parametrize(
    ("base", "frontend", "arguments", "env"),
    [
        ("", "", [], {}),
        (
            "app_name => 'shop'",
            "queue_workers_multiprocess => false, scheduler => false",
            ["--name=shop", "--multi-threaded", "--no-scheduler"],
            {},
        ),
        (
            "app_name => 'shop', home => '/srv', directory => '/srv/shop', python => '/usr/bin/python3', "
            "log_directory => '/var/log/shop-queues'",
            "queue_workers => { 'user_activity' => 3 }, nice => -5, "
            "environment => { 'TZ' => 'UTC', 'DJANGO_SETTINGS_MODULE' => 'shop.settings', 'A' => 'b c,d' }",
            [
                *(
                    "--name=shop",
                    "--home=/srv",
                    "--directory=/srv/shop",
                    "--python=/usr/bin/python3",
                    "--nice=-5",
                ),
                *("--log-directory=/var/log/shop-queues", "--environment=TZ=UTC", "--environment=A=b c,d"),
                "--environment=DJANGO_SETTINGS_MODULE=shop.settings",
            ],
            {"QUEUE_OVERRIDES": '{"user_activity": {"workers": 3}}'},
        ),
    ],
    ids=["defaults", "one process", "all parameters"],
)
def test_puppet_writes_what_queue_config_prints_and_a_second_time_nothing(
    puppet: Puppet, base: str, frontend: str, arguments: list[str], env: dict[str, str]
) -> None:
    assert puppet.apply(base, frontend) == CHANGED, puppet.output
    [written] = (puppet.root / "etc/supervisor/conf.d").iterdir()
    printed = queue_config("supervisor", f"--user={USER}", *arguments, **env)
    assert written.read_text() == printed
    [told] = puppet.root.glob("etc/*/queues.json")
    assert told.parent.name == written.stem
    assert told.read_text() == queue_config("declarations", **env)
    assert puppet.apply(base, frontend) == NOTHING_CHANGED, puppet.output


@pytest.mark.parametrize(
    ("base", "frontend", "problem"),
    [
        (
            "",
            "queue_workers => { 'usr_activity' => 2 }",
            "queue_workers names queues that nothing declares: usr_activity",
        ),
        (
            "",
            "queue_workers => { 'user_activity' => 2 }, queue_workers_multiprocess => false",
            "queue_workers are processes: with queue_workers_multiprocess => false there is one",
        ),
        ("", "queue_workers => { 'user_activity' => 0 }", "expects an Integer[1] value"),
        (
            "",
            "environment => { 'QUEUE_URL' => 'amqp://shop:s3cret%40x@rabbit/' }",
            "environment: QUEUE_URL holds a secret",
        ),
        (
            "",
            "environment => { 'QUEUE_URL' => 'amqp://shop:p/s3cret@rabbit/' }",
            "environment: QUEUE_URL holds a secret",
        ),
        ("", "environment => { 'PGPASSWORD' => 's3cret' }", "environment: PGPASSWORD holds a secret"),
        ("", "environment => { 'A' => 's3cret%' }", "environment: A: its value has a quote, %"),
        ("", "environment => { 'A' => 's3cret #x' }", "environment: A: its value has a ; or # after a space"),
        ("", "environment => { '2ND' => 's3cret' }", "environment: 2ND: use letters"),
        ("directory => '/srv/my shop'", "", "parameter 'directory'"),
        ("directory => '/srv/shop/'", "", "parameter 'directory'"),
    ],
)
def test_what_no_configuration_could_carry_is_refused_before_anything_is_written(
    puppet: Puppet, base: str, frontend: str, problem: str
) -> None:
    assert puppet.apply(base, frontend) == FAILED_TO_COMPILE, puppet.output
    assert problem in puppet.output
    assert "s3cret" not in puppet.output
    assert not list((puppet.root / "etc/supervisor/conf.d").iterdir())


def test_puppet_takes_a_path_that_queue_config_would_write_as_it_is(puppet: Puppet) -> None:
    """What it would write otherwise, puppet refuses: the two would differ by a slash."""
    paths = ["/srv", "/srv/a.b", "/srv/.a", "/srv/..a", "/srv/...", "/srv/shop-1/_/current"]
    refused = [
        "/",
        "//srv",
        "/srv/",
        "/srv//a",
        "/srv/./a",
        "/srv/.",
        "/srv/a b",
        "srv",
        "",
        "/srv/\na",
        "/srv\n",
    ]
    assert [path for path in paths if str(PurePosixPath(path)) != path] == []
    listed = ", ".join(f'"{path}"' for path in [*paths, *refused])
    puppet.apply_manifest(
        f"[{listed}].filter |$path| {{ $path =~ Zulip::Path }}.each |$path| {{ notice($path) }}"
    )
    assert re.findall(r"Scope\(Class\[main\]\): (.*)", puppet.output) == paths


@pytest.mark.parametrize("frontend", ["", "queue_workers_multiprocess => false"])
def test_a_list_without_queues_is_refused_as_queue_config_refuses_it(
    puppet: Puppet, tmp_path: Path, frontend: str
) -> None:
    puppet.modules = tmp_path / "modules"
    shutil.copytree(REPOSITORY / "puppet", puppet.modules)
    manifest = puppet.modules / "zulip/manifests/base.pp"
    manifest.write_text(written_into(manifest.read_text(), render([], has_scheduler=True)))
    assert puppet.apply(frontend=frontend) == FAILED_TO_COMPILE, puppet.output
    assert "no queue is declared that workers should be at" in puppet.output


def test_puppet_knows_the_module_by_its_metadata(puppet: Puppet, tmp_path: Path) -> None:
    listed = subprocess.run(
        [
            *("puppet", "module", "list", "--color=false", "--modulepath", puppet.modules),
            *("--confdir", tmp_path / "conf", "--vardir", tmp_path / "var"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "zulip-zulip (v0.1.0)" in listed.stdout
    assert not listed.stderr
