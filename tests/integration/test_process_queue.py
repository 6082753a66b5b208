"""``process_queue`` as a clumsy user starts it."""

import signal
from pathlib import Path

import pytest

from tests.integration.conftest import Spine, on_rabbitmq, on_sqlite
from tests.servers.rabbitmq import RabbitServer
from tests.wait import wait_for
from zerver.lib.registry import queues, with_options
from zerver.lib.transport import current
from zerver.lib.transport.base import Transport


def _fails(spine: Spine, *arguments: str, code: int = 1, **env: str) -> str:
    process = spine.start("process_queue", *arguments, env={**spine.env, **env})
    assert process.wait() == code, process.output
    assert "Traceback" not in process.output
    return process.output


@on_sqlite
def test_an_unknown_queue_is_named_with_the_one_that_may_be_meant(spine: Spine) -> None:
    output = _fails(spine, "--queue=ledgr")
    assert "no worker declares queue 'ledgr'" in output
    assert "did you mean 'ledger'?" in output


@on_sqlite
@pytest.mark.parametrize("arguments", [[], ["--queue=ledger", "--all"], ["--worker_num=x", "--all"]])
def test_usage_errors_exit_with_2(spine: Spine, arguments: list[str]) -> None:
    assert "usage:" in _fails(spine, *arguments, code=2)


@on_sqlite
@pytest.mark.parametrize(
    ("path", "problem"), [("nonesuch/health", "No such file or directory"), ("", "Is a directory")]
)
def test_a_health_file_that_cannot_be_written_is_refused_at_the_start(
    spine: Spine, path: str, problem: str
) -> None:
    health_file = f"{spine.directory}/{path}"
    output = _fails(spine, "--queue=ledger", "--health-file", health_file)
    assert f"--health-file '{health_file.rstrip('/')}' cannot be written: {problem}; name a file" in output
    assert "worker started" not in output


@on_sqlite
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("rabbit://localhost", "QUEUE_URL"),
        ("amqp://user:secret@localhost:port/", "QUEUE_URL"),
        ("amqp://user:secret@localhost:5672/vhost/more", "QUEUE_URL"),
        ("immediate://", "nothing to run"),
    ],
)
def test_a_queue_url_that_cannot_be_used_is_told_without_its_password(
    spine: Spine, url: str, said: str
) -> None:
    output = _fails(spine, "--queue=ledger", QUEUE_URL=url)
    assert said in output
    assert "secret" not in output


@on_sqlite
def test_overrides_that_make_no_sense_are_refused(spine: Spine) -> None:
    output = _fails(spine, "--queue=ledger", QUEUE_OVERRIDES='{"ledger": {"prefetch": 0}}')
    assert "prefetch=0" in output
    output = _fails(spine, "--queue=ledger", QUEUE_OVERRIDES='{"ledger": {"speed": 9}}')
    assert "has no option 'speed'" in output


@on_rabbitmq
def test_a_wrong_password_is_said_and_work_goes_on_over_the_table(spine: Spine) -> None:
    current.table_lane().publish([], 1)
    wrong = spine.env["QUEUE_URL"].replace("guest:guest", "guest:wr0ng")
    assert wrong != spine.env["QUEUE_URL"]
    process = spine.start("process_queue", "--queue=ledger", env={**spine.env, "QUEUE_URL": wrong})
    output = process.wait_for_output("refuses the login")
    assert "QUEUE_PASSWORD_FILE" in output
    assert "wr0ng" not in output
    from zerver.lib.queue import queue_json_publish

    queue_json_publish("ledger", {"n": 1}, delay_seconds=0.01)  # a row of the table
    spine.wait_for_numbers([1])
    process.signal(signal.SIGTERM)
    assert process.wait() == 0


@on_rabbitmq
def test_a_password_from_a_file_is_used(spine: Spine, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("guest\n")
    url = spine.env["QUEUE_URL"].replace("guest:guest@", "guest@")
    spine.publish("ledger", n=1)
    env = {**spine.env, "QUEUE_URL": url, "QUEUE_PASSWORD_FILE": str(secret)}
    spine.start("process_queue", "--queue=ledger", env=env)
    spine.wait_for_numbers([1])


@on_rabbitmq
def test_a_queue_that_exists_with_other_arguments_is_an_error_that_says_what_differs(spine: Spine) -> None:
    classic = with_options(queues.lookup("ledger"), {"queue_type": "classic"})
    _fast().check_queue(classic)
    output = _fails(spine, "--queue=ledger")
    assert "x-overflow: broker has none, code declares reject-publish" in output  # it names the first only
    assert "queue_admin migrate ledger" in output


@on_rabbitmq
def test_garbage_on_a_queue_becomes_a_failed_event_with_its_bytes_and_the_queue_goes_on(
    spine: Spine, rabbit_server: RabbitServer
) -> None:
    spine.publish("ledger", n=1)
    vhost = spine.env["QUEUE_URL"].rpartition("/")[2]
    for payload in ("\x00\x01 not json", '["a", "list"]', "", '{"n": 1'):
        rabbit_server.api(
            "POST",
            f"/exchanges/{vhost}/amq.default/publish",
            {"properties": {}, "routing_key": "ledger", "payload": payload, "payload_encoding": "string"},
        )
    spine.publish("ledger", n=2)
    spine.work("--queue=ledger")
    failed = spine.failed(4)
    assert {bytes(row.body).decode() for row in failed} == {
        "\x00\x01 not json",
        '["a", "list"]',
        "",
        '{"n": 1',
    }
    assert {row.attempt for row in failed} == {1}
    assert all(row.error.startswith("event is not JSON") for row in failed)
    spine.wait_for_numbers([1, 2])
    # The log names the id that each is found under.
    for row in failed:
        spine.processes[0].wait_for_output(f"event {row.message_id}, attempt 1: dead")


@on_rabbitmq
def test_what_the_broker_dead_letters_is_filed_as_a_failed_event(
    spine: Spine, rabbit_server: RabbitServer
) -> None:
    _fast().check_queue(queues.lookup("ledger"))
    vhost = spine.env["QUEUE_URL"].rpartition("/")[2]
    message = {
        "properties": {"expiration": "1", "message_id": "expired-1"},
        "routing_key": "ledger",
        "payload": '{"n": 5}',
        "payload_encoding": "string",
    }
    rabbit_server.api("POST", f"/exchanges/{vhost}/amq.default/publish", message)
    spine.work("--queue=zerver_dead")
    [failed] = spine.failed()
    assert (failed.queue, failed.message_id, bytes(failed.body)) == ("ledger", "expired-1", b'{"n": 5}')
    assert "expired" in failed.error


@on_sqlite
def test_a_worker_module_that_fails_to_import_is_named_and_the_others_run(
    spine: Spine, tmp_path: Path
) -> None:
    app = tmp_path / "broken_app"
    app.mkdir()
    (app / "__init__.py").touch()
    (app / "queue_processors.py").write_text("import no_such_module\n")
    (tmp_path / "broken_settings.py").write_text(
        "from tests.settings import *\nINSTALLED_APPS = [*INSTALLED_APPS, 'broken_app']\n"
    )
    env = {**spine.env, "PYTHONPATH": str(tmp_path), "DJANGO_SETTINGS_MODULE": "broken_settings"}
    process = spine.start("process_queue", "--queue=ledger", env=env)
    output = process.wait_for_output("broken_app.queue_processors failed to import")
    assert "no_such_module" in output
    spine.publish("ledger", n=1)
    spine.wait_for_numbers([1])
    process.signal(signal.SIGTERM)
    process.wait()
    process = spine.start("process_queue", "--queue=of_broken_app", env=env)
    assert process.wait() == 1
    assert "broken_app.queue_processors failed to import" in process.output


@on_sqlite
def test_a_setup_that_raises_ends_the_process_with_the_reason(spine: Spine) -> None:
    env = {"LEDGER_FILE": "/no/such/directory/ledger"}
    process = spine.start("process_queue", "--queue=ledger", env={**spine.env, **env})
    assert process.wait() == 1
    assert "No such file or directory" in process.output


@on_sqlite
def test_all_runs_every_queue_in_one_process_and_drains_them_all(spine: Spine) -> None:
    spine.publish("ledger", n=1)
    spine.publish("ledger_other", n=2)
    process = spine.work("--all")
    spine.wait_for_numbers([1, 2])
    assert {line["pid"] for line in spine.notes()} == {process.pid}
    process.signal(signal.SIGINT)
    assert process.wait() == 0
    assert {row.state for row in spine.process_rows()} == {"stopped"}
    wait_for(lambda: len(spine.notes("stop")) >= 2, 5, "workers to be stopped")


def _fast() -> Transport:
    fast = current.fast_lane()
    assert fast is not None
    return fast


@on_rabbitmq
def test_equal_events_without_an_id_of_their_own_are_each_retried_and_each_kept(
    spine: Spine, rabbit_server: RabbitServer
) -> None:
    _fast().check_queue(queues.lookup("ledger"))
    vhost = spine.env["QUEUE_URL"].rpartition("/")[2]
    payload = '{"n": 1, "do": [["raise", "tick"]]}'
    message = {"properties": {}, "routing_key": "ledger", "payload": payload, "payload_encoding": "string"}
    for _ in range(3):
        rabbit_server.api("POST", f"/exchanges/{vhost}/amq.default/publish", message)
    spine.work("--queue=ledger")
    failed = spine.failed(3)
    assert len(failed) == 3
    for row in failed:
        for attempt in (1, 2, 3):
            spine.processes[0].wait_for_output(f"event {row.message_id}, attempt {attempt}: ")
    assert sorted(line["attempt"] for line in spine.notes("started")) == [1, 1, 1, 2, 2, 2, 3, 3, 3]


@on_sqlite
def test_a_worker_on_a_database_that_is_not_migrated_says_so_and_how_to_mend_it(
    spine: Spine, tmp_path: Path
) -> None:
    env = {**spine.env, "DATABASE_URL": f"sqlite:///{tmp_path}/fresh.sqlite3"}
    process = spine.start("process_queue", "--queue=ledger", env=env)
    output = process.wait_for_output("cannot take events")
    assert "run ./manage.py migrate" in output
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
