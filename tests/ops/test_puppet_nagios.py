"""What puppet writes for Nagios is what queue_config prints, and Nagios, cron and NRPE can use it."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.ops.nagios import CRITICAL, PLUGINS, Site
from tests.ops.puppet import CHANGED, FAILED_TO_COMPILE, NOTHING_CHANGED, USER, Puppet, queue_config
from tests.servers.missing import or_skip
from tests.servers.nagios4 import Nagios4
from tests.servers.processes import REPOSITORY
from zerver.deployment.normal_queues import render, written_into
from zerver.deployment.plugin_options import broker_parser, database_parser


@pytest.fixture
def nagios(puppet: Puppet) -> Puppet:
    for path in ("etc/cron.d", "etc/nagios/nrpe.d", "etc/nagios4/conf.d", "var/lib"):
        (puppet.root / path).mkdir(parents=True)
    return puppet


def apply(puppet: Puppet, base: str = "", plugins: str = "", server: str = "") -> int:
    """On a host that is the workers' and Nagios's."""
    return puppet.apply_manifest(
        f"class {{ 'zulip::base': root => '{puppet.root}', manage_user => false, user => '{USER}', {base} }}\n"
        f"class {{ 'zulip::nagios': {plugins} }}\n"
        f"class {{ 'zulip_ops': {server} }}\n"
    )


@pytest.mark.parametrize(
    ("base", "plugins", "server", "host_arguments", "server_arguments"),
    [
        ("", "", "", [], []),
        (
            "app_name => 'shop-1', directory => '/srv/shop', python => '/srv/venv/bin/python3'",
            "stats_directory => '/var/lib/shop/queue', state_directory => '/var/lib/shop-state', "
            "hosts => 2, broker_options => ['--hostname=rabbit1,rabbit2', '--tls'], "
            "database_options => ['--database=service=shop']",
            "host_name => 'web1,web2.example.org', email => 'night+shop@example.org'",
            [
                *("--name=shop-1", "--directory=/srv/shop", "--python=/srv/venv/bin/python3", "--hosts=2"),
                *("--stats-directory=/var/lib/shop/queue", "--state-directory=/var/lib/shop-state"),
                *("--broker-option=--hostname=rabbit1,rabbit2", "--broker-option=--tls"),
                "--database-option=--database=service=shop",
            ],
            ["--name=shop-1", "--host=web1,web2.example.org", "--email=night+shop@example.org"],
        ),
    ],
    ids=["defaults", "all parameters"],
)
def test_puppet_writes_for_nagios_what_queue_config_prints_and_a_second_time_nothing(
    nagios: Puppet,
    base: str,
    plugins: str,
    server: str,
    host_arguments: list[str],
    server_arguments: list[str],
) -> None:
    assert apply(nagios, base, plugins, server) == CHANGED, nagios.output

    checked = queue_config("nrpe", f"--user={USER}", *host_arguments, "--check", f"--root={nagios.root}")
    assert checked.count(": as declared") == 2
    [services] = (nagios.root / "etc/nagios4/conf.d").iterdir()
    assert services.read_text() == queue_config("nagios", *server_arguments)
    assert apply(nagios, base, plugins, server) == NOTHING_CHANGED, nagios.output
    with or_skip(Nagios4) as nagios4:
        nagios4.define_hosts("localhost", "web1", "web2.example.org")
        nagios4.configure(services.read_text())
        assert "Total Errors:   0" in nagios4.verify()


@pytest.mark.parametrize(
    ("plugins", "server", "problem"),
    [
        (
            "broker_options => ['--management-url=https://shop:s3cret@rabbit']",
            "",
            "--management-url holds a password",
        ),
        ("database_options => ['--database=password=s3cret']", "", "option --database holds a password"),
        ("broker_options => ['--vhost=s3cret;reboot']", "", "option --vhost: give --name=value"),
        (
            "broker_options => ['--state-file=/s3cret']",
            "",
            "option --state-file: broker_options are of --hostname, ",
        ),
        ("database_options => ['--vhost=s3cret']", "", "option --vhost: database_options are of --warning, "),
        ("", "host_name => 'web1;web2'", "parameter 'host_name'"),
        ("", "email => 'all of us'", "parameter 'email'"),
    ],
)
def test_what_cron_or_nagios_could_not_carry_is_refused(
    nagios: Puppet, plugins: str, server: str, problem: str
) -> None:
    assert apply(nagios, "", plugins, server) == FAILED_TO_COMPILE, nagios.output
    assert problem in nagios.output
    assert "s3cret" not in nagios.output


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nrpe", "--broker-option=--management-url=https://shop:s3cret@rabbit"], "it holds a password"),
        (["nrpe", "--broker-option=--vhost=a;reboot"], "give --name=value"),
        (
            ["nrpe", "--broker-option=--per-queue"],
            "broker option '--per-queue': give of --hostname, --port, ",
        ),
        (["nrpe", "--broker-option=--queue=ledger"], "broker option '--queue': give of"),
        (["nrpe", "--broker-option=--state-file=/s3cret"], "broker option '--state-file': give of"),
        (["nrpe", "--broker-option=--port=abc"], "argument -p/--port: invalid int value: 'abc'"),
        (["nrpe", "--broker-option=--port=0"], "broker options '--port': --port: give 1 to 65535"),
        (["nrpe", "--broker-option=--port"], "argument -p/--port: expected one argument"),
        (["nrpe", "--broker-option=--tls=yes"], "argument --tls: ignored explicit argument"),
        (["nrpe", "--broker-option=--username=shop"], "--username wants --password-file"),
        (["nrpe", "--database-option=--vhost=shop"], "database option '--vhost': give of --warning, "),
        (["nrpe", "--database-option=--since=soon"], "'soon' is no span of time"),
        (["nrpe", "--database-option=--warning=a"], "'a' is no range"),
        (
            ["nrpe", "--database-option=--warning=5", "--database-option=--critical=3"],
            "database options '--warning --critical': --warning would never be told",
        ),
        (
            ["nrpe", "--database-option=--sqlite=/db", "--database-option=--port=1"],
            "--hostname and --port are of PostgreSQL",
        ),
        (["nagios", "--local", "--broker-option=--per-queue"], "broker option '--per-queue': give of"),
        (["nrpe", "--hosts=0"], "give how many hosts run workers"),
        (["nrpe", "--state-directory=var"], "give an absolute path"),
        (["nagios", "--host=web1;web2"], "name it as Nagios does"),
        (["nagios", "--email=all of us"], "write it as operators@example.org"),
    ],
)
def test_queue_config_refuses_the_same(arguments: list[str], problem: str) -> None:
    said = queue_config(*arguments, code=1)

    assert problem in said
    assert "s3cret" not in said


@pytest.mark.parametrize("how", [[], ["--check"]])
@pytest.mark.parametrize(
    ("option", "problem"),
    [("--hosts=2", "options of plugins are of --local"), ("--user=shop", "are of --local")],
)
def test_queue_config_refuses_options_of_local_without_it_as_wrong_usage(
    option: str, problem: str, how: list[str]
) -> None:
    assert problem in queue_config("nagios", option, *how, code=2)


def test_puppet_and_queue_config_pass_on_what_each_of_the_plugins_knows() -> None:
    manifest = (REPOSITORY / "puppet/zulip/manifests/nagios.pp").read_text()
    of_plugins = {
        "broker_options": (broker_parser(), ["check-rabbitmq-queue", "check-rabbitmq-consumers"]),
        "database_options": (database_parser(), ["check-queue-worker-errors"]),
    }
    for parameter, (parser, plugins) in of_plugins.items():
        [listed] = re.findall(rf"^    '{parameter}' +=> (\[[^\]]*\]),$", manifest, re.MULTILINE)
        assert re.findall(r"'([^']*)'", listed) == parser.names
        for plugin in plugins:
            told = subprocess.run(
                [PLUGINS / plugin, "--help"], capture_output=True, text=True, timeout=60, check=False
            )
            assert set(parser.names) <= set(re.findall(r"--[a-z-]+", told.stdout)), plugin


@pytest.mark.parametrize("kind", ["nagios", "nrpe"])
def test_without_a_broker_there_is_nothing_for_them_to_watch(kind: str) -> None:
    assert "QUEUE_URL names no broker" in queue_config(kind, code=1, QUEUE_URL="db://")


def test_a_list_without_queues_is_refused(nagios: Puppet, tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", REPOSITORY / "puppet", tmp_path / "modules"], check=True)
    nagios.modules = tmp_path / "modules"
    manifest = nagios.modules / "zulip/manifests/base.pp"
    manifest.write_text(written_into(manifest.read_text(), render([], has_scheduler=True)))

    assert apply(nagios) == FAILED_TO_COMPILE
    assert "no queue is declared that workers should be at" in nagios.output


def test_a_nagios_server_gets_its_services_and_nothing_of_the_workers(nagios: Puppet) -> None:
    manifest = (
        f"class {{ 'zulip::base': root => '{nagios.root}', manage_user => false, manage_directories => false }}\n"
        "include zulip_ops\n"
    )
    before = set(nagios.root.rglob("*"))

    assert nagios.apply_manifest(manifest) == CHANGED, nagios.output

    assert set(nagios.root.rglob("*")) - before == {nagios.root / "etc/nagios4/conf.d/zulip.cfg"}


def test_what_cron_runs_is_what_nrpe_tells(nagios: Puppet, tmp_path: Path) -> None:
    """Their lines, run by a shell as they stand there; the broker is away."""
    site = Site(tmp_path, "amqp://guest:guest@127.0.0.1:1/x")
    options = site.broker()
    pairs = ", ".join(f"'{name}={value}'" for name, value in zip(options[::2], options[1::2], strict=True))
    plugins = (
        f"plugin_directory => '{PLUGINS}', stats_directory => '{site.stats_dir}', broker_options => [{pairs}]"
    )
    base = f"directory => '{REPOSITORY}'"
    assert apply(nagios, base, plugins) == CHANGED, nagios.output
    queues = queue_config("declarations")
    declarations = tmp_path / "declarations.json"
    declarations.write_text(queues)

    cron = (nagios.root / "etc/cron.d/zulip").read_text()
    [line] = [line for line in cron.splitlines() if "check-rabbitmq-queue" in line]
    matched = re.fullmatch(rf"\* \* \* \* \* {re.escape(USER)} (.*)", line)
    assert matched is not None
    state = "/var/lib/nagios_state"
    command = (
        matched[1]
        .replace("/etc/zulip/queues.json", str(declarations))
        .replace(state, f"{nagios.root}{state}")
    )
    subprocess.run(["sh", "-c", command], check=True, timeout=60, env={"PATH": "/usr/bin:/bin"})

    nrpe = (nagios.root / "etc/nagios/nrpe.d/zulip.cfg").read_text()
    [told] = re.findall(r"^command\[zulip_queue_user_activity\]=(.*)$", nrpe, re.MULTILINE)
    done = subprocess.run(
        shlex.split(told.replace(state, f"{nagios.root}{state}")),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == CRITICAL
    assert done.stdout.startswith("CRITICAL: RabbitMQ at 127.0.0.1:1 cannot be reached")
