"""queue_check, on what a real broker has, and on one that is not as it should be."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pytest_django import Settings

from tests.integration.checkup import at_work, check, codes, of, only, settle
from tests.integration.commands import run
from tests.integration.conftest import Spine, on_rabbitmq
from tests.integration.rabbit import declaration, skip_from_4_3, user
from tests.servers.rabbitmq import RabbitServer
from tests.servers.renamed import Renamed
from tests.wait import wait_for
from zerver.lib.registry import queues
from zerver.lib.transport import current
from zerver.lib.transport.rabbitmq.topology import arguments
from zerver.lib.transport.survey import version_numbers
from zerver.models import WorkerProcess

pytestmark = on_rabbitmq

QUEUE = "user_activity"
BROKER = ("--only", "broker")


@contextmanager
def channel(url: str) -> Iterator[BlockingChannel]:
    """Another client, which has its own ideas of queues."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        yield connection.channel()
    finally:
        if connection.is_open:
            connection.close()


def declare_all() -> None:
    fast = current.fast_lane()
    assert fast is not None
    for queue in queues.all():
        fast.check_queue(queue)


def test_queues_that_are_not_there_yet_are_a_warning_and_stay_away(
    spine: Spine, rabbit_server: RabbitServer
) -> None:
    found = only(check(*BROKER), "broker.queue-missing", QUEUE)

    assert found["severity"] == "warning"
    assert found["mend"] == f"./manage.py process_queue --queue={QUEUE}"
    assert rabbit_server.queues(spine.env["QUEUE_URL"]) == {}


def test_queues_that_are_as_declared_are_left_as_they_are(spine: Spine, rabbit_server: RabbitServer) -> None:
    declare_all()
    url = spine.env["QUEUE_URL"]
    with channel(url) as foreign:
        foreign.basic_publish("", QUEUE, b"{}")
        before = set(rabbit_server.queues(url))
        ran = check(*BROKER)

        assert codes(ran, QUEUE) == {"broker.no-consumers"}
        assert set(rabbit_server.queues(url)) == before
        method, _, _ = wait_for(lambda: _got(foreign), message="the event to be there still")
        assert not method.redelivered


def test_what_is_ready_on_the_broker_and_has_no_worker_is_a_problem_of_the_whole_checkup_too(
    spine: Spine,
) -> None:
    declare_all()
    with channel(spine.env["QUEUE_URL"]) as foreign:
        idle = check()
        assert (idle.code, only(idle, "workers.none", QUEUE)["severity"]) == (1, "warning"), idle.out
        foreign.basic_publish("", QUEUE, b"{}")
        wait_for(lambda: _is_ready(foreign), message="the event to be counted")
        assert only(check(*BROKER), "broker.no-consumers", QUEUE)["severity"] == "problem"
        ran = check()
        found = only(ran, "workers.none", QUEUE)

        assert (ran.code, found["severity"]) == (2, "problem")
        assert found["what"] == "no worker process is there; ready on the broker: 1"
        assert of(ran, "broker.no-consumers", QUEUE) == [], "it would say the same again"


def _got(foreign: BlockingChannel) -> tuple[pika.spec.Basic.GetOk, object, object] | None:
    got = foreign.basic_get(QUEUE, auto_ack=True)
    return got if got[0] is not None else None


@pytest.mark.parametrize("has_management", [False, True])
def test_a_queue_of_other_arguments_is_a_problem_and_its_mend_mends_it(
    spine: Spine, rabbit_server: RabbitServer, settings: Settings, has_management: bool
) -> None:
    if has_management:
        settings.QUEUE_MANAGEMENT_URL = rabbit_server.management_url
    declare_all()
    with channel(spine.env["QUEUE_URL"]) as foreign:
        foreign.queue_delete(QUEUE)
        foreign.queue_declare(
            QUEUE, durable=True, arguments=arguments(declaration(QUEUE, queue_type="classic"))
        )
    if has_management:
        wait_for(lambda: of(check(*BROKER), "broker.queue-arguments", QUEUE), 20, "the API to list it")
    ran = check(*BROKER)
    found = only(ran, "broker.queue-arguments", QUEUE)

    assert ran.code == 2
    assert found["severity"] == "problem"
    assert "broker has" in found["what"]
    told = "type" if has_management else "x-queue-type"
    assert (
        f"it differs from its declaration: {told}: broker has classic, code declares quorum" in found["what"]
    )
    manage, *mend = found["mend"].split()
    assert manage == "./manage.py"
    assert run(*mend).code == 0
    assert of(check(*BROKER), "broker.queue-arguments") == []


def test_only_the_management_api_shows_what_nobody_declares_and_what_policies_say(
    spine: Spine, rabbit_server: RabbitServer, settings: Settings
) -> None:
    url = spine.env["QUEUE_URL"]
    vhost = urlsplit(url).path.removeprefix("/")
    declare_all()
    with channel(url) as foreign:
        for name in ("bygone", f"zerver_migrate_{QUEUE}"):
            foreign.queue_declare(name, durable=True, arguments=arguments(declaration(name)))
            foreign.basic_publish("", name, b"{}")
        foreign.queue_declare("somebody_elses", durable=True)
    definition = {"pattern": f"^{QUEUE}$", "definition": {"expires": 3_600_000}, "apply-to": "queues"}
    rabbit_server.api("PUT", f"/policies/{vhost}/short", definition)
    assert any("QUEUE_MANAGEMENT_URL" in gap["what"] for gap in check(*BROKER).json["not_looked_at"])
    settings.QUEUE_MANAGEMENT_URL = rabbit_server.management_url
    current.close_all()
    ran = check(*BROKER)

    def all_is_counted() -> bool:
        nonlocal ran
        ran = check(*BROKER)
        unknown = of(ran, "broker.queue-unknown", "bygone")
        return bool(unknown and " 1 event," in unknown[0]["what"] and of(ran, "broker.policy"))

    wait_for(all_is_counted, 20, lambda: ran.out)
    assert only(ran, "broker.queue-unknown")["mend"].endswith("queue_admin delete bygone")
    assert only(ran, "broker.migration-unfinished")["mend"] == f"./manage.py queue_admin migrate {QUEUE}"
    policy = only(ran, "broker.policy", QUEUE)
    assert policy["severity"] == "problem"
    assert "expires=3600000" in policy["what"]
    assert "somebody_elses" not in ran.out


def test_a_management_api_that_is_set_and_does_not_answer_is_a_problem(
    spine: Spine, settings: Settings
) -> None:
    settings.QUEUE_MANAGEMENT_URL = "http://guest:s3cret-of-mine@127.0.0.1:1"
    ran = check(*BROKER)

    assert "refused" in only(ran, "broker.management-unreachable")["what"]
    assert "s3cret" not in ran.out + ran.err


def test_without_the_rights_it_is_told_which(
    spine: Spine, rabbit_server: RabbitServer, settings: Settings
) -> None:
    declare_all()
    url = spine.env["QUEUE_URL"]
    with channel(url) as foreign:
        foreign.queue_delete("zerver_dead")
    with user(rabbit_server, url) as settings.QUEUE_URL:
        current.close_all()
        ran = check(*BROKER)

    assert only(ran, "broker.may-not-publish")["severity"] == "problem"
    assert only(ran, "broker.may-not-consume", QUEUE)["severity"] == "problem"
    if version_numbers(rabbit_server.version) < (
        4,
        3,
    ):  # from there on, those without any right are told nothing
        missing = only(ran, "broker.queue-missing", "zerver_dead")
        assert missing["severity"] == "problem"
        assert "may not declare it" in missing["what"]
        assert any(QUEUE in gap["what"] for gap in _gaps(ran.json))
    assert "s3cret" not in ran.out
    assert "zerver_dead" not in rabbit_server.queues(url)


def _gaps(document: dict[str, list[dict[str, str]]]) -> list[dict[str, str]]:
    return [gap for gap in document["not_looked_at"] if gap["what"].startswith("arguments of")]


def test_workers_that_do_not_consume_and_consumers_that_are_no_workers_are_told(spine: Spine) -> None:
    declare_all()
    at_work(QUEUE)
    with channel(spine.env["QUEUE_URL"]) as foreign:
        foreign.basic_publish("", QUEUE, b"{}")
        wait_for(lambda: _is_ready(foreign), message="the event to be counted")
        idle = only(check(*BROKER), "broker.no-consumers", QUEUE)
        assert idle["severity"] == "problem"
        assert "run and do not consume" in idle["mend"]
        for _ in range(2):
            foreign.basic_consume(QUEUE, lambda *_: None)
        crowd = only(check(*BROKER), "broker.foreign-consumers", QUEUE)
        assert "2 consumers on the broker, and 1 worker process" in crowd["what"]
        WorkerProcess.objects.update(in_flight=1)
        assert not of(check(*BROKER), "broker.foreign-consumers", QUEUE), "it may be both of them for a while"


def _is_ready(foreign: BlockingChannel) -> bool:
    return bool(foreign.queue_declare(QUEUE, passive=True).method.message_count)


def test_a_queue_that_has_gone_under_its_workers_is_a_problem(spine: Spine) -> None:
    at_work(QUEUE)
    found = only(check(*BROKER), "broker.queue-missing", QUEUE)
    assert found["severity"] == "problem"
    assert "although 1 worker process is there" in found["what"]


def test_a_queue_that_somebody_holds_for_himself_does_not_tell(spine: Spine) -> None:
    with channel(spine.env["QUEUE_URL"]) as foreign:
        foreign.queue_declare(QUEUE, exclusive=True)
        assert "RESOURCE_LOCKED" in only(check(*BROKER), "broker.queue-silent", QUEUE)["what"]


def test_a_login_that_is_refused_and_a_broker_that_is_away_are_problems(
    spine: Spine, settings: Settings
) -> None:
    settings.QUEUE_URL = spine.env["QUEUE_URL"].replace("guest:guest@", "guest:s3cret-of-mine@")
    ran = check(*BROKER)
    assert ran.code == 2
    assert only(ran, "broker.login-refused")["severity"] == "problem"
    assert "s3cret" not in ran.out + ran.err
    settings.QUEUE_URL = "amqp://guest:s3cret-of-mine@127.0.0.1:1/"
    current.close_all()
    ran = check()
    assert "127.0.0.1:1" in only(ran, "broker.unreachable")["where"]
    assert only(ran, "broker.unreachable")["mend"].startswith(
        "see that QUEUE_URL names its host, and its port for AMQP; on its host: rabbitmqctl status"
    )
    assert "s3cret" not in ran.out + ran.err


def test_a_host_that_is_unknown_a_port_without_tls_and_a_password_that_is_not_there_are_called_so(
    spine: Spine, settings: Settings, tmp_path: Path
) -> None:
    url = spine.env["QUEUE_URL"]
    settings.QUEUE_URL = "amqp://guest:s3cret-of-mine@nonesuch.invalid:5672/"
    found = only(check(*BROKER), "broker.unreachable")
    assert found["mend"].startswith("see that QUEUE_URL names the right host")

    settings.QUEUE_URL = url.replace("amqp://", "amqps://")
    current.close_all()
    found = only(check(*BROKER), "broker.unreachable")
    assert found["what"].startswith("that port speaks no TLS")
    assert found["mend"].startswith("write amqp:// in QUEUE_URL, or the broker's port for TLS, 5671")

    settings.QUEUE_URL = url
    settings.QUEUE_PASSWORD_FILE = str(tmp_path / "nonesuch")
    current.close_all()
    found = only(check(*BROKER), "broker.login-refused")
    assert found["what"].startswith("nobody can log in: the password file cannot be read")
    assert found["mend"].startswith("let QUEUE_PASSWORD_FILE name a file that is there")


def test_alarms_and_a_broker_that_says_nothing(
    spine: Spine, settings: Settings, rabbit_server: RabbitServer
) -> None:
    server = rabbit_server
    server.set_memory_alarm(True)
    # AMQP tells it those alone who have published.
    assert "low on memory" in only(check(*BROKER), "broker.alarm")["what"]
    settings.QUEUE_MANAGEMENT_URL = server.management_url
    current.close_all()
    assert "memory on zerver-" in only(check(*BROKER), "broker.alarm")["what"]
    server.set_memory_alarm(False)
    assert of(check(*BROKER), "broker.alarm") == []

    server.stop_signal()
    began = time.monotonic()
    ran = check("--timeout", "1")
    assert time.monotonic() - began < 5
    server.cont_signal()
    settle()
    assert only(ran, "broker.unreachable")["severity"] == "problem"
    assert ran.code == 2


def test_a_quorum_queue_whose_leader_hangs_does_not_hold_the_doctor(
    spine: Spine, rabbit_server: RabbitServer, settings: Settings
) -> None:
    url = spine.env["QUEUE_URL"]
    declare_all()
    rabbit_server.suspend_queue(url, QUEUE)
    try:
        began = time.monotonic()
        check(*BROKER, "--timeout", "3")
        assert time.monotonic() - began < 10
    finally:
        rabbit_server.resume_queue(url, QUEUE)
    settle()


# -- other versions: the broker's own words, one of which is changed on the wire


@pytest.fixture
def renamed(rabbit_server: RabbitServer, spine: Spine, settings: Settings) -> Iterator[Callable[[str], None]]:
    """Points QUEUE_URL at the broker under another version."""
    with ExitStack() as stack:

        def rename(version: str) -> None:
            proxy = stack.enter_context(Renamed(rabbit_server.port, rabbit_server.version, version))
            settings.QUEUE_URL = proxy.through(spine.env["QUEUE_URL"])
            current.close_all()

        yield rename


def test_versions_outside_the_supported_ones_are_told(renamed: Callable[[str], None]) -> None:
    assert of(check(*BROKER), "broker.version") == []
    renamed("3.9.29")
    assert only(check(*BROKER), "broker.version")["severity"] == "problem"
    renamed("5.0.10")
    assert only(check(*BROKER), "broker.version")["severity"] == "warning"


def test_a_queues_own_consumer_timeout_is_held_against_what_a_handler_may_take(
    spine: Spine, rabbit_server: RabbitServer, settings: Settings, renamed: Callable[[str], None]
) -> None:
    skip_from_4_3(rabbit_server, "the argument is one to be compared with the declaration's")
    settings.QUEUE_MANAGEMENT_URL = rabbit_server.management_url
    told = arguments(declaration(QUEUE)) | {"x-consumer-timeout": 40_000}
    with channel(spine.env["QUEUE_URL"]) as foreign:
        foreign.queue_declare(QUEUE, durable=True, arguments=told)
    # 3.10 has the argument, and does not heed it.
    renamed("3.10.8")
    assert codes(check(*BROKER), QUEUE) == {"broker.no-consumers"}
    renamed("3.12.8")
    found = only(check(*BROKER), "broker.consumer-timeout", QUEUE)
    assert found["severity"] == "problem"
    assert "after 40 s" in found["what"]
    assert of(check(*BROKER), "broker.queue-arguments", QUEUE) == []


def test_a_consumer_timeout_that_nobody_tells_is_a_gap(spine: Spine, renamed: Callable[[str], None]) -> None:
    declare_all()
    renamed("3.10.8")
    (gap,) = [gap for gap in check(*BROKER).json["not_looked_at"] if "consumer_timeout" in gap["what"]]
    assert QUEUE in gap["what"]
    # There it is the consumer that says it.
    renamed("4.3.60")
    assert not any("consumer_timeout" in gap["what"] for gap in check(*BROKER).json["not_looked_at"])
