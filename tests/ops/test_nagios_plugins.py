"""Each plugin against a broker that is up, down, stalled, empty, backlogged: exit code and line, as Nagios reads it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class

from tests.integration.test_rabbit_queue_stuck import gone, standing_still
from tests.ops.nagios import CRITICAL, OK, PLUGINS, UNKNOWN, WARNING, Queues, Site, ask
from tests.servers.ports import free_port
from tests.servers.processes import REPOSITORY
from tests.servers.rabbitmq import RabbitServer
from tests.wait import wait_for

CONSUMERS, QUEUE, ERRORS, READER = (
    "check-rabbitmq-consumers",
    "check-rabbitmq-queue",
    "check-queue-worker-errors",
    "check_cron_file",
)
#: On this host there is one broker, and whoever watches it must tell of it within its time, and a little.
LITTLE_SECONDS = 3.0
#: A command in a plugin's text, without what is told of it.
_NAMED = re.compile(r"\./manage\.py (\w+(?: (?!tells|makes)[\w{}=./-]+)*)")
#: A plugin whose disk answers nobody.
_DISK_HANGS = "import pathlib, time; pathlib.Path.iterdir = lambda self: time.sleep(60); main()"
#: A plugin that does something before it has asked anybody.
_BREAKS = """
import sys, time
from zerver.nagios.check_rabbitmq_queue import CheckQueue
from zerver.nagios.plugin import run

class Breaks(CheckQueue):
    def prepare(self, options, usage):
        {doing}

sys.exit(run(Breaks(), ["-t", "1"]))
"""


@pytest.fixture
def site(tmp_path: Path, rabbit_vhost: str) -> Site:
    made = Site(tmp_path, rabbit_vhost)
    made.declare("mail")
    return made


@pytest.fixture
def queues(rabbit_vhost: str) -> Iterator[Queues]:
    made = Queues(rabbit_vhost)
    yield made
    made.close()


# -- all of them


@pytest.mark.parametrize("plugin", [CONSUMERS, QUEUE, ERRORS, READER])
def test_help_version_and_wrong_usage_are_unknown_and_on_standard_output(plugin: str) -> None:
    for arguments in (["--help"], ["-V"], ["--nonsense"]):
        answer = ask(plugin, *arguments)

        assert answer.code == UNKNOWN, arguments
        assert plugin in answer.out
        assert not answer.err
    assert answer.line.startswith(f"{plugin} UNKNOWN - wrong usage: ")
    assert len(answer.out.splitlines()) == 1


@pytest.mark.parametrize(
    ("plugin", "arguments", "problem"),
    [
        (CONSUMERS, ["-w", "ten"], "'ten' is no range"),
        (CONSUMERS, ["-w", "5", "-c", "4"], "-w 5 would never be told, for -c 4 comes first"),
        (CONSUMERS, ["-t", "0"], "'0' is no number of seconds above 0"),
        (CONSUMERS, ["-t", "nan"], "'nan' is no number of seconds above 0"),
        (CONSUMERS, ["--hosts", "0"], "--hosts: give how many hosts"),
        (CONSUMERS, ["-p", "70000"], "--port: give 1 to 65535"),
        (CONSUMERS, ["-H", "a,,b"], "--hostname: give a host"),
        (QUEUE, ["-u", "shop"], "--username wants --password-file"),
        (QUEUE, ["--cafile", "/x"], "--cafile is of --tls and of https"),
        (
            QUEUE,
            ["--management-url", "https://shop:s3cret@rabbit:15671"],
            "--management-url: give https://host:15671",
        ),
        (QUEUE, ["--management-url", "rabbit:15671"], "--management-url: give https://host:15671"),
        (QUEUE, ["--rabbitmqctl", "--management-url", "http://rabbit"], "not allowed with argument"),
        (
            QUEUE,
            ["--rabbitmqctl", "-H", "rabbit", "-p", "7"],
            "--rabbitmqctl asks this host's broker, without a login",
        ),
        (QUEUE, ["--rabbitmqctl", "--tls"], "--rabbitmqctl asks this host's broker, without a login"),
        (CONSUMERS, ["--management-url", "http://rabbit", "-H", "rabbit"], "--management-url says where"),
        (CONSUMERS, ["--management-url", "http://rabbit", "-p", "15672"], "--management-url says where"),
        (CONSUMERS, ["--management-url", "https://rabbit", "--tls"], "--management-url says where"),
        (
            CONSUMERS,
            ["--management-url", "http://rabbit", "--cafile", "/x"],
            "--cafile is of --tls and of https",
        ),
        (ERRORS, ["--since", "yesterday"], "'yesterday' is no span of time"),
        (ERRORS, ["--database", "host=db password=s3cret"], "--database holds a password"),
        (ERRORS, ["--database", "postgres://shop:s3cret@db/shop"], "--database holds a password"),
        (ERRORS, ["--sqlite", "/x", "-H", "db"], "--hostname and --port are of PostgreSQL"),
        (QUEUE, ["--per-queue"], "--per-queue is of --state-file"),
        (READER, ["/x", "soon"], "'soon' is no whole number of seconds"),
        (READER, [], "required: FILE"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_would(
    plugin: str, arguments: list[str], problem: str
) -> None:
    answer = ask(plugin, *arguments)

    assert answer.code == UNKNOWN
    assert problem in answer.line
    assert "s3cret" not in answer.out + answer.err


def test_the_plugins_start_at_once_and_know_no_django() -> None:
    modules = (
        "check_rabbitmq_consumers",
        "check_rabbitmq_queue",
        "check_queue_worker_errors",
        "check_cron_file",
    )
    imports = ", ".join(f"zerver.nagios.{module}" for module in modules)
    program = (
        f"import sys, {imports}; print(sorted({{'django', 'pika', 'psycopg', 'sqlite3'}} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout == "[]\n"
    # Of processors, and the least of some: a busy machine makes all of it slower.
    assert min(ask(CONSUMERS, "-V").cpu_seconds for _ in range(4)) < 0.3


def test_commands_that_plugins_name_are_as_their_parsers_have_them() -> None:
    sources = (REPOSITORY / "zerver" / "nagios").glob("*.py")
    named = {told for source in sources for told in _NAMED.findall(source.read_text())}

    assert len(named) >= 4
    for told in named:
        name, *arguments = re.sub(r"\{[^}]*\}", "mail", told).split()
        load_command_class(str(get_commands()[name]), name).create_parser("manage.py", name).parse_args(
            arguments
        )


def test_a_locale_that_lacks_characters_and_a_reader_that_is_gone_change_no_exit_code(tmp_path: Path) -> None:
    narrow = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    answer = ask(ERRORS, "--help", env=narrow)
    assert (answer.code, answer.err) == (UNKNOWN, "")
    answer = ask(QUEUE, "-d", tmp_path / "dé", env=narrow)
    assert (answer.code, "is not there" in answer.line, answer.err) == (UNKNOWN, True, "")
    for closing in (">&-", "| true", ">/dev/full"):
        command = f"{PLUGINS / READER} /nonexistent {closing}; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60, check=False)
        assert done.returncode == UNKNOWN, (closing, done)


def test_a_file_that_never_ends_is_unknown_in_time(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "queues.json")

    answer = ask(QUEUE, "-d", tmp_path / "queues.json", "-t", "1")

    assert (answer.code, "queues.json did not answer within 1 s" in answer.line) == (UNKNOWN, True)


def test_a_plugin_that_is_out_of_time_ends_although_nobody_reads_what_it_says(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "queues.json")
    reader, writer = os.pipe()
    with ExitStack() as closing:
        for descriptor in (reader, writer):
            closing.callback(os.close, descriptor)
        os.set_blocking(writer, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * 4096)
        os.set_blocking(writer, True)
        command = [str(PLUGINS / QUEUE), "-d", str(tmp_path / "queues.json"), "-t", "1"]
        child = subprocess.Popen(command, stdout=writer, stdin=subprocess.DEVNULL)
        closing.callback(child.kill)

        assert child.wait(timeout=30) == UNKNOWN


def test_what_breaks_while_a_plugin_gets_ready_is_unknown_and_takes_no_longer_than_its_time() -> None:
    for doing, told in (
        ("raise ImportError('no pika')", "ImportError: no pika"),
        ("time.sleep(60)", "did not answer within 1 s"),
    ):
        program = _BREAKS.format(doing=doing)
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
        )

        assert done.returncode == UNKNOWN, done
        assert told in done.stdout


def test_a_checkout_without_its_packages_is_unknown(tmp_path: Path) -> None:
    for name in ("nagios", "lib"):
        (tmp_path / "scripts" / name).mkdir(parents=True)
    for path in (PLUGINS / QUEUE, PLUGINS.parent / "lib" / "nagios"):
        copy = tmp_path / "scripts" / path.parent.name / path.name
        copy.write_bytes(path.read_bytes())
        copy.chmod(0o755)

    done = subprocess.run(
        [tmp_path / "scripts" / "nagios" / QUEUE], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == UNKNOWN
    assert done.stdout.startswith(f"UNKNOWN - {tmp_path}/.venv/bin/python is not there")


# -- a broker that is up


def test_consumers_are_counted_against_what_is_declared(site: Site, queues: Queues) -> None:
    site.declare("mail", "push", "none", "many", "absent", workers=2)
    queues.make("mail", consumers=2)
    queues.make("push", consumers=1)
    queues.make("none")
    queues.make("many", consumers=3)

    answer = site.ask(CONSUMERS, *site.broker())

    assert answer.code == CRITICAL
    assert answer.line == (
        "CONSUMERS CRITICAL - queue none has no consumer, 2 declared: start its workers; why they ended is in their "
        "logs; "
        f"queue absent does not exist in vhost {site.vhost[1]}: start its workers, which declare it; "
        "queue push has 1 consumer, 2 declared: start its workers; why they ended is in their logs; and 1 more"
        " | mail=2;2:2;1:;0 push=1;2:2;1:;0 none=0;2:2;1:;0 many=3;2:2;1:;0 absent=U;2:2;1:;0"
    )
    assert "WARNING: queue many has 3 consumers, 2 declared: another worker shares it" in answer.out
    answer = site.ask(CONSUMERS, *site.broker(), "-q", "mail", "-v")
    assert (answer.code, answer.out) == (
        OK,
        "CONSUMERS OK - 1 queue with consumers as declared | mail=2;2:2;1:;0\nOK: queue mail has 2 consumers\n",
    )
    assert site.ask(CONSUMERS, *site.broker(), "-q", "mail", "--hosts", "2").code == WARNING
    assert site.ask(CONSUMERS, *site.broker(), "-q", "mail", "-w", "3:", "-c", "3:").code == CRITICAL
    assert site.ask(CONSUMERS, *site.broker(), "-q", "many", "-w", "1:").code == OK


def test_a_backlog_is_told_in_seconds_by_each_queues_own_thresholds(site: Site, queues: Queues) -> None:
    site.declare("mail", "slow", "empty")
    queues.make("mail", events=21, consumers=1)
    queues.make("slow", events=21, consumers=1)
    queues.make("empty", consumers=1)
    site.tell("mail")
    site.tell("slow", recent_average_consume_time=2.0)

    answer = site.ask(QUEUE, *site.broker())

    assert (answer.code, answer.line) == (
        WARNING,
        "QUEUES WARNING - queue slow is 40 s behind, 20 ready | mail_backlog=2s;30;60;0 mail_ready=20;;;0 "
        "mail_lag=0.02s;30;;0 slow_backlog=40s;30;60;0 slow_ready=20;;;0 slow_lag=0.02s;30;;0 "
        "empty_backlog=0s;30;60;0 empty_ready=0;;;0 empty_lag=U;30;;0",
    )
    for queue, code in (("mail", UNKNOWN), ("slow", CRITICAL)):
        too_low = site.ask(QUEUE, *site.broker(), "-q", queue, "-c", "20")
        assert too_low.code == code
        assert f"queue {queue}: a warning at 30 would never be told, for critical is 20" in too_low.line
    assert site.ask(QUEUE, *site.broker(), "-q", "slow", "-w", "10", "-c", "39").code == CRITICAL
    answer = site.ask(QUEUE, *site.broker(), "-q", "empty")
    assert (answer.code, answer.line.partition(" | ")[0]) == (
        OK,
        "QUEUES OK - queue empty is 0 s behind, 0 ready",
    )


def test_workers_that_are_stuck_and_queues_without_consumers_are_critical(site: Site, queues: Queues) -> None:
    site.declare("stuck", "alone", "absent")
    queues.make("stuck", events=2, consumers=1)
    queues.make("alone", events=1)
    site.tell("stuck", update_time=time.time() - 300, in_flight=1)

    answer = site.ask(QUEUE, *site.broker())

    assert answer.code == CRITICAL
    assert re.search(r"queue stuck: 1 event waits, and its workers have said nothing for \d+ s", answer.out)
    assert "queue alone: 1 event waits, and nobody takes from it: start its workers" in answer.out
    assert f"queue absent does not exist in vhost {site.vhost[1]}" in answer.out


def test_a_queue_whose_leader_does_not_answer_is_critical_however_it_is_asked_and_no_other_is(
    site: Site, queues: Queues, rabbit_server: RabbitServer, rabbit_vhost: str
) -> None:
    """Over AMQP the broker says that it holds nothing, by the other ways what it last held."""
    site.declare("absconded", "halted", "quiet", "waiting")
    for name in ("absconded", "halted", "quiet", "waiting"):
        queues.channel.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum"})
    for name in ("absconded", "halted", "waiting"):
        queues.channel.basic_publish("", name, b"{}")
    api = rabbit_server.management_url.rpartition("@")[2]
    wait_for(lambda: rabbit_server.queue(rabbit_vhost, "quiet").get("messages_ready") == 0, 20, "figures")
    with gone(rabbit_server, rabbit_vhost, "absconded"):
        by_api = site.ask(QUEUE, *site.login(), "--management-url", f"http://{api}")
        here = rabbit_server.rabbitmqctl_environment()
        by_rabbitmqctl = site.ask(QUEUE, *site.vhost, "--rabbitmqctl", "-t", "60", **here)
        with standing_still(rabbit_server, rabbit_vhost, "halted"):
            over_amqp = site.ask(QUEUE, *site.broker())

    for answer in (by_api, by_rabbitmqctl, over_amqp):
        assert answer.code == CRITICAL, answer
        assert "CRITICAL: queue absconded: its leader does not answer" in answer.out
        assert "queue quiet" not in answer.out
        assert "queue waiting: 1 event waits, and nobody takes from it" in answer.out
    assert "CRITICAL: queue halted: its leader does not answer" in over_amqp.out
    assert queues.channel.queue_declare("waiting", passive=True).method.message_count == 1


def test_a_login_that_may_not_read_a_queue_cannot_know_whether_it_is_empty(
    site: Site, queues: Queues, rabbit_server: RabbitServer
) -> None:
    queues.make("mail")
    name = f"watch-{os.getpid()}"
    rabbit_server.rabbitmqctl("add_user", name, site.password_file.read_text().strip())
    try:
        rabbit_server.rabbitmqctl("set_permissions", "--vhost", site.vhost[1], name, "", "", "")
        answer = site.ask(QUEUE, *site.broker(username=name))
        consumers = site.ask(CONSUMERS, *site.broker(username=name))
    finally:
        rabbit_server.rabbitmqctl("delete_user", name)

    assert answer.code == UNKNOWN
    assert (
        "the login may not ask whether its leader answers: give its user the right to read it" in answer.line
    )
    assert (consumers.code, "queue mail has no consumer" in consumers.line) == (CRITICAL, True)


def test_where_no_declared_queue_is_there_the_vhost_is_doubted(site: Site) -> None:
    site.declare("mail", "push")

    answer = site.ask(QUEUE, *site.broker(vhost="/"))

    assert answer.code == CRITICAL
    assert answer.line.startswith("QUEUES CRITICAL - none of the 2 queues is in vhost /: see --vhost")


def test_what_cannot_be_known_hides_nothing_that_is_critical(site: Site, queues: Queues) -> None:
    site.declare("mail", "push")
    queues.make("mail", events=1)
    queues.make("push")
    (site.stats_dir / "push.1.stats").write_text("{")
    site.tell("newcomer")

    answer = site.ask(QUEUE, *site.broker())

    assert answer.code == CRITICAL
    assert "push.1.stats is no stats file" in answer.out
    assert (
        f"{site.declarations} is out of date: workers run at newcomer, which it does not know" in answer.out
    )
    one = site.ask(QUEUE, *site.broker(), "-q", "push")
    assert (one.code, "out of date" in one.out) == (UNKNOWN, False)
    blind = site.ask(QUEUE, *site.broker(), "--stats-dir", site.directory / "none")
    assert (blind.code, "let --stats-dir name the workers' QUEUE_STATE_DIR" in blind.out) == (CRITICAL, True)
    assert site.ask(CONSUMERS, *site.broker(), "-c", "0:", "-w", "0:").code == UNKNOWN
    assert site.ask(CONSUMERS, *site.broker(), "-q", "push", "-c", "0:", "-w", "0:").code == OK


def test_all_three_ways_to_the_broker_see_the_same(
    site: Site, queues: Queues, rabbit_server: RabbitServer, rabbit_vhost: str
) -> None:
    site.declare("mail", "absent")
    queues.make("mail", events=3, consumers=1)
    site.tell("mail")
    over_amqp = site.ask(QUEUE, *site.broker())
    api = rabbit_server.management_url.rpartition("@")[2]
    management = ("--management-url", f"http://{api}", *site.login())

    # What the management API tells of a queue is sampled, and not all of it at one moment.
    wait_for(
        lambda: (
            {"messages_ready": 2, "consumers": 1}.items() <= rabbit_server.queue(rabbit_vhost, "mail").items()
        ),
        20,
        "figures",
    )
    over_http = site.ask(QUEUE, *management)
    by_rabbitmqctl = site.ask(
        QUEUE, "--rabbitmqctl", "-t", "60", *site.vhost, **rabbit_server.rabbitmqctl_environment()
    )

    assert over_amqp.code == CRITICAL
    assert (over_http.code, over_http.out) == (over_amqp.code, over_amqp.out)
    assert (by_rabbitmqctl.code, by_rabbitmqctl.out) == (over_amqp.code, over_amqp.out)


# -- a broker that lets nobody in


@pytest.mark.parametrize("plugin", [CONSUMERS, QUEUE])
def test_a_login_that_is_refused_is_unknown_and_names_the_mend(
    site: Site, rabbit_server: RabbitServer, plugin: str
) -> None:
    site.password_file.write_text("s3cret\n")
    answer = site.ask(plugin, *site.broker())
    assert answer.code == UNKNOWN
    assert "refuses the login; see --username, --password-file and --vhost" in answer.line

    api = rabbit_server.management_url.rpartition("@")[2]
    answer = site.ask(plugin, *site.login(), "--management-url", f"http://{api}")
    assert answer.code == UNKNOWN
    assert (
        "refuses the login (401); see --username and --password-file, and give the user the tag"
        in answer.line
    )
    assert "s3cret" not in answer.out + answer.err

    answer = site.ask(plugin, *site.broker(password_file=site.directory / "none"))
    assert (answer.code, "none cannot be read (No such file or directory)" in answer.line) == (UNKNOWN, True)


def test_a_vhost_that_is_not_there_and_a_port_of_somebody_else_are_told(
    site: Site, rabbit_server: RabbitServer
) -> None:
    answer = site.ask(CONSUMERS, *site.broker(vhost="nowhere"))
    assert (answer.code, "refuses the login" in answer.line) == (UNKNOWN, True)

    api_port = rabbit_server.management_url.rpartition(":")[2]
    answer = site.ask(CONSUMERS, *site.broker(port=api_port))
    assert answer.code == CRITICAL
    elsewhere = ("--management-url", f"http://localhost:{rabbit_server.port}")
    answer = site.ask(CONSUMERS, *site.login(), *elsewhere)
    # The broker closes what is no AMQP: with an answer in AMQP, or, where it is hasty, without any.
    assert (answer.code, "speaks no HTTP" in answer.line) == (UNKNOWN, True) or (
        answer.code,
        "cannot be reached" in answer.line,
    ) == (CRITICAL, True)
    answer = site.ask(CONSUMERS, *site.broker(), "--tls")
    assert (answer.code, "gets no further than TLS" in answer.line) == (UNKNOWN, True)


# -- a broker that is down, or stalled


@pytest.mark.parametrize("plugin", [CONSUMERS, QUEUE])
def test_a_broker_that_is_down_is_critical(site: Site, plugin: str) -> None:
    port = free_port()
    answer = site.ask(plugin, *site.broker(port=port))
    assert answer.code == CRITICAL
    assert f"RabbitMQ at 127.0.0.1:{port} cannot be reached" in answer.line
    assert "Connection refused" in answer.line

    answer = site.ask(plugin, *site.login(), "--management-url", f"http://127.0.0.1:{port}")
    assert answer.code == CRITICAL
    assert "rabbitmq-plugins enable rabbitmq_management" in answer.line


def test_of_several_hosts_one_that_is_up_is_enough(site: Site, queues: Queues) -> None:
    queues.make("mail", consumers=1)

    assert site.ask(CONSUMERS, *site.broker(hostname="127.0.0.2,127.0.0.1")).code == OK


@pytest.mark.parametrize("plugin", [CONSUMERS, QUEUE])
def test_a_broker_that_stalls_is_critical_in_time(
    site: Site, queues: Queues, rabbit_server: RabbitServer, plugin: str
) -> None:
    queues.make("mail", consumers=1)
    api = rabbit_server.management_url.rpartition("@")[2]
    rabbit_server.stop_signal()
    try:
        for way in (site.broker(), (*site.login(), "--management-url", f"http://{api}")):
            answer = site.ask(plugin, *way, "-t", "2")
            assert answer.code == CRITICAL
            assert "did not answer within 2 s" in answer.line or "cannot be reached" in answer.line
            assert answer.seconds < 2 + LITTLE_SECONDS * 3
        here = rabbit_server.rabbitmqctl_environment()
        answer = site.ask(plugin, *site.vhost, "--rabbitmqctl", "-t", "2", **here)
        assert (answer.code, "rabbitmqctl did not answer within 2 s" in answer.line) == (CRITICAL, True)
        wait_for(lambda: not _rabbitmqctls(rabbit_server), 30, "rabbitmqctl to end with its plugin")
    finally:
        rabbit_server.cont_signal()


# -- for cron


def test_what_cron_leaves_is_told_by_the_reader(site: Site, queues: Queues) -> None:
    queues.make("mail", consumers=1)
    path = site.directory / "state"
    before = os.umask(0o077)
    try:
        left = site.ask(CONSUMERS, *site.broker(), "--state-file", path)
    finally:
        os.umask(before)

    assert (left.code, left.out, left.err) == (0, "", "")
    assert path.stat().st_mode & 0o777 == 0o644
    read = ask(READER, path)
    assert (read.code, read.out) == (OK, "OK: 1 queue with consumers as declared\n")
    os.utime(path, (0, 0))  # by what stands in it, and not by the file's own time
    assert ask(READER, path, "3600").code == OK
    path.write_text(f"{int(time.time()) - 5}|0|OK|fine\n")
    assert ask(READER, path, "3").code == UNKNOWN

    site.declare("mail", "absent")
    assert site.ask(CONSUMERS, *site.broker(), "--state-file", path).code == 0
    read = ask(READER, path)
    assert (read.code, read.line) == (
        CRITICAL,
        f"CRITICAL: queue absent does not exist in vhost {site.vhost[1]}: start its workers, which declare it",
    )
    left = site.ask(CONSUMERS, *site.broker(), "--state-file", site.directory / "none" / "state")
    assert (left.code, left.out) == (UNKNOWN, "")
    assert "cannot be written" in left.err


def test_one_run_leaves_a_file_for_each_queue(
    site: Site, queues: Queues, rabbit_server: RabbitServer
) -> None:
    site.declare("mail", "alone")
    queues.make("mail", consumers=1)
    queues.make("alone", events=1)
    site.tell("mail", crit_seconds=60.0)
    left = (*site.broker(), "--state-file", site.directory / "state", "--per-queue")

    assert (site.ask(QUEUE, *left).code, site.ask(QUEUE, *left).out) == (0, "")
    assert ask(READER, site.directory / "state_mail").out == "OK: queue mail is 0 s behind, 0 ready\n"
    alone = ask(READER, site.directory / "state_alone")
    assert alone.line == "CRITICAL: queue alone: 1 event waits, and nobody takes from it: start its workers"

    site.tell("stranger")
    (site.stats_dir / "mail.2.stats").write_text("nothing")
    assert site.ask(QUEUE, *left).code == 0
    odd = ask(READER, site.directory / "state_mail")
    assert odd.code == UNKNOWN
    assert "mail.2.stats is no stats file" in odd.out
    assert ask(READER, site.directory / "state_alone").line == alone.line, "of its own queue alone"

    rabbit_server.stop_signal()
    try:
        site.ask(QUEUE, *left, "-t", "1")
    finally:
        rabbit_server.cont_signal()
    for queue in ("mail", "alone"):
        assert "did not answer within 1 s" in ask(READER, site.directory / f"state_{queue}").out

    site.declarations.unlink()
    assert (site.ask(QUEUE, *left).code, site.ask(QUEUE, *left).err) == (0, "")
    for queue in ("mail", "alone"):
        lost = ask(READER, site.directory / f"state_{queue}")
        assert lost.code == UNKNOWN
        assert "queues.json is not there, which tells what is declared; write it anew" in lost.out
        (site.directory / f"state_{queue}").unlink()
    nobody = site.ask(QUEUE, *left)
    assert (nobody.code, nobody.out) == (UNKNOWN, "")
    assert "run it without --per-queue" in nobody.err


@pytest.mark.parametrize(
    ("module", "problem"),
    [
        ("check_rabbitmq_queue", "queue alone: 1 event waits, and nobody takes from it"),
        ("check_rabbitmq_consumers", "queue alone has no consumer, 1 declared"),
    ],
)
def test_a_disk_that_hangs_hides_nothing_that_is_critical(
    site: Site, queues: Queues, module: str, problem: str
) -> None:
    site.declare("mail", "alone")
    queues.make("mail", consumers=1)
    queues.make("alone", events=1)
    options = ["-d", site.declarations, "--stats-dir", site.stats_dir, *site.broker(), "-t", "4"]

    done = subprocess.run(
        [sys.executable, "-c", f"from zerver.nagios.{module} import main\n{_DISK_HANGS}", *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == CRITICAL, done
    assert problem in done.stdout
    assert f"{site.stats_dir} did not answer within 4 s" in done.stdout


def test_of_many_empty_queues_none_is_taken_for_one_whose_leader_is_gone(site: Site, queues: Queues) -> None:
    names = [f"many{n}" for n in range(60)]
    site.declare(*names)
    for name in names:
        queues.make(name)
        site.tell(name)

    answer = site.ask(QUEUE, *site.broker(), "-t", "60")

    assert (answer.code, answer.line.partition(" | ")[0]) == (
        OK,
        "QUEUES OK - 60 queues within their thresholds",
    )


def test_a_plugin_that_runs_out_of_time_leaves_that_in_its_file(
    site: Site, queues: Queues, rabbit_server: RabbitServer
) -> None:
    queues.make("mail")
    path = site.directory / "state"
    rabbit_server.stop_signal()
    try:
        site.ask(CONSUMERS, *site.broker(), "-t", "1", "--state-file", path)
    finally:
        rabbit_server.cont_signal()

    assert ask(READER, path).code == CRITICAL


def _rabbitmqctls(server: RabbitServer) -> list[Path]:
    """Those that still run, of this node."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            of_node = str(server.directory).encode() in (process / "environ").read_bytes()
            if of_node and b"rabbitmqctl" in (process / "cmdline").read_bytes():
                found.append(process)
    return found
