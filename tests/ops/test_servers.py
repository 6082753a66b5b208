"""The private servers do what the tests of everything else ask of them, and leave nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pika
import psycopg
import pytest
from django.contrib.auth.models import Group
from django.db import connection, transaction
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPConnectionError, ChannelClosedByBroker, ConnectionBlockedTimeout

from tests.servers.databases import TestDatabase, sqlite_url, use_database
from tests.servers.postgres import PostgresServer
from tests.servers.processes import REPOSITORY, ProjectProcess, project_processes
from tests.servers.rabbitmq import RabbitServer
from tests.servers.spawn import children_of, is_alive, wait_until_dead
from tests.wait import wait_for


@contextmanager
def client(url: str, *, blocked_seconds: float | None = None) -> Iterator[BlockingChannel]:
    """A channel with confirms and a queue named ``line``, of an ordinary client."""
    parameters = pika.URLParameters(url)
    parameters.blocked_connection_timeout = blocked_seconds
    connection = pika.BlockingConnection(parameters)
    try:
        channel = connection.channel()
        channel.queue_declare("line", durable=True)
        channel.confirm_delivery()
        yield channel
    finally:
        if connection.is_open:
            connection.close()


def publish(channel: BlockingChannel, body: bytes = b"{}") -> None:
    channel.basic_publish("", "line", body, pika.BasicProperties(delivery_mode=2), mandatory=True)


class TestRabbitServer:
    def test_each_vhost_is_a_world_of_its_own(self, rabbit_server: RabbitServer, rabbit_vhost: str) -> None:
        with rabbit_server.vhost() as other, client(rabbit_vhost) as channel:
            publish(channel)
            assert rabbit_server.queues(other) == {}
            assert list(rabbit_server.queues(rabbit_vhost)) == ["line"]
        with pytest.raises(AMQPConnectionError), client(rabbit_server.url(other)):
            pass

    def test_counts_are_told_by_the_management_api(
        self, rabbit_server: RabbitServer, rabbit_vhost: str
    ) -> None:
        with client(rabbit_vhost) as channel:
            publish(channel)
        wait_for(lambda: rabbit_server.queue(rabbit_vhost, "line").get("messages_ready") == 1)
        assert rabbit_server.queue(rabbit_vhost, "no such queue") == {}

    def test_connections_can_be_closed_from_the_server(
        self, rabbit_server: RabbitServer, rabbit_vhost: str
    ) -> None:
        with client(rabbit_vhost) as channel:
            rabbit_server.close_all_connections()
            with pytest.raises(AMQPConnectionError, match="320"):
                channel.connection.process_data_events(5)

    def test_in_a_memory_alarm_publishers_are_blocked(
        self, rabbit_server: RabbitServer, rabbit_vhost: str
    ) -> None:
        with client(rabbit_vhost, blocked_seconds=0.3) as channel:
            rabbit_server.set_memory_alarm(True)
            with pytest.raises(ConnectionBlockedTimeout):
                publish(channel)
        rabbit_server.set_memory_alarm(False)
        with client(rabbit_vhost, blocked_seconds=0.3) as channel:
            publish(channel)

    def test_a_frozen_broker_goes_on_where_it_was(
        self, rabbit_server: RabbitServer, rabbit_vhost: str
    ) -> None:
        with client(rabbit_vhost) as channel:
            rabbit_server.stop_signal()
            assert not rabbit_server.ready()
            rabbit_server.cont_signal()
            publish(channel)

    def test_a_killed_broker_comes_back_on_its_port_with_what_it_confirmed(
        self, rabbit_server: RabbitServer, rabbit_vhost: str
    ) -> None:
        with client(rabbit_vhost) as channel:
            publish(channel, b"[1]")
            rabbit_server.remember_queues()
            rabbit_server.kill()
            with pytest.raises(AMQPConnectionError):
                channel.connection.process_data_events(5)
        rabbit_server.ensure_healthy()
        with client(rabbit_vhost) as channel:
            assert channel.basic_get("line")[2] == b"[1]"

    def test_a_broker_that_stores_nothing_is_mended_for_the_next_test(
        self, rabbit_server: RabbitServer, rabbit_vhost: str
    ) -> None:
        rabbit_server.evaluate("supervisor:terminate_child(rabbit_sup, rabbit_fifo_dlx_sup)")
        assert not rabbit_server.can_store()
        rabbit_server.ensure_healthy()
        assert rabbit_server.can_store()

    def test_a_second_broker_has_a_configuration_of_its_own(
        self, start_rabbit_server: Callable[..., RabbitServer]
    ) -> None:
        server = start_rabbit_server(conf={"max_message_size": "1000"})
        with client(server.url()) as channel:
            publish(channel, b"x" * 1000)
            with pytest.raises(ChannelClosedByBroker, match="larger than"):
                publish(channel, b"x" * 1001)
        server.graceful_stop()
        assert not server.is_running()


class TestPostgresServer:
    def test_each_database_is_fresh_and_gone_afterwards(self, postgres_server: PostgresServer) -> None:
        with postgres_server.database() as name:
            with psycopg.connect(postgres_server.url(name), autocommit=True) as client:
                client.execute("CREATE TABLE it (id int)")
                with pytest.raises(psycopg.errors.DuplicateTable):
                    client.execute("CREATE TABLE it (id int)")
            with postgres_server.database() as other, psycopg.connect(postgres_server.url(other)) as client:
                client.execute("CREATE TABLE it (id int)")
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            psycopg.connect(postgres_server.url(name))

    def test_a_killed_server_leaves_no_process_and_comes_back_with_what_was_committed(
        self, postgres_server: PostgresServer, postgres_database: str
    ) -> None:
        with psycopg.connect(postgres_database) as client:
            client.execute("CREATE TABLE it AS SELECT 1 AS id")
            client.commit()
            backend = client.info.backend_pid
            postgres_server.kill()
            assert not is_alive(backend)
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(postgres_database)
        postgres_server.start()
        with psycopg.connect(postgres_database) as client:
            assert client.execute("SELECT id FROM it").fetchone() == (1,)

    def test_it_restarts_on_its_port(self, postgres_server: PostgresServer, postgres_database: str) -> None:
        port = postgres_server.port
        postgres_server.stop()
        assert not postgres_server.ready()
        postgres_server.restart()
        assert postgres_server.port == port
        psycopg.connect(postgres_database).close()

    def test_connections_can_be_terminated(
        self, postgres_server: PostgresServer, postgres_database: str
    ) -> None:
        name = postgres_database.rpartition("/")[2]
        with psycopg.connect(postgres_database) as client:
            assert postgres_server.terminate_connections(name) == 1
            with pytest.raises(psycopg.OperationalError):
                client.execute("SELECT 1")

    def test_settings_are_taken(self, start_postgres_server: Callable[..., PostgresServer]) -> None:
        server = start_postgres_server(durable=True, settings={"max_connections": "17"})
        with psycopg.connect(server.url("postgres")) as client:
            assert client.execute("SHOW max_connections").fetchone() == ("17",)
            assert client.execute("SHOW fsync").fetchone() == ("on",)


class TestQueueDatabase:
    def test_on_commit_fires_and_other_threads_see_what_was_committed(
        self, queue_database: TestDatabase
    ) -> None:
        assert connection.vendor == queue_database.vendor
        assert not connection.in_atomic_block
        seen: list[object] = []

        def look() -> None:
            seen.append(list(Group.objects.values_list("name", flat=True)))

        with transaction.atomic():
            Group.objects.create(name="committed")
            transaction.on_commit(lambda: seen.append("fired"))
            assert seen == []
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert seen == ["fired", ["committed"]]

    def test_it_starts_empty(self, queue_database: TestDatabase) -> None:
        assert not Group.objects.exists()

    def test_other_processes_find_the_same_data(
        self, queue_database: TestDatabase, project_process: Callable[..., ProjectProcess]
    ) -> None:
        program = "from django.contrib.auth.models import Group; Group.objects.create(name='from afar')"
        process = project_process("shell", "--command", program, env={"DATABASE_URL": queue_database.url})
        assert process.wait() == 0, process.output
        assert Group.objects.get().name == "from afar"

    def test_sqlite_runs_as_the_projects_settings_have_it(self, queue_database: TestDatabase) -> None:
        if queue_database.vendor == "sqlite":
            with connection.cursor() as cursor:
                assert cursor.execute("PRAGMA journal_mode").fetchone() == ("wal",)
                assert cursor.execute("PRAGMA synchronous").fetchone() == (2,)

    def test_a_thread_that_was_connected_elsewhere_before_is_here_now(
        self, queue_database: TestDatabase, tmp_path: Path
    ) -> None:
        seen: list[str] = []
        elsewhere, back = threading.Event(), threading.Event()

        def look() -> None:
            for told in (None, elsewhere, back):
                if told is not None:
                    assert told.wait(10)
                connection.ensure_connection()
                seen.append(connection.settings_dict["NAME"])

        here = connection.settings_dict["NAME"]
        thread = threading.Thread(target=look)
        thread.start()
        wait_for(lambda: seen == [here])
        with use_database(sqlite_url(tmp_path / "other.sqlite3")):
            elsewhere.set()
            wait_for(lambda: seen == [here, str(tmp_path / "other.sqlite3")])
        back.set()
        thread.join()
        assert seen[2] == here

    def test_the_connection_from_before_is_there_again_afterwards(
        self, queue_database: TestDatabase, tmp_path: Path
    ) -> None:
        before, name = connection.connection, connection.settings_dict["NAME"]
        with use_database(sqlite_url(tmp_path / "other.sqlite3")):
            connection.ensure_connection()
            assert connection.settings_dict["NAME"] != name
        assert connection.connection is before
        assert connection.settings_dict["NAME"] == name
        assert not Group.objects.exists()


class TestProjectProcess:
    @pytest.fixture(params=[False, True], ids=["cold", "warm"])
    def project_process(
        self, request: pytest.FixtureRequest, tmp_path: Path
    ) -> Iterator[Callable[..., ProjectProcess]]:
        with project_processes(tmp_path, is_warm=request.param) as start:
            yield start

    def test_it_can_be_watched_and_signalled(self, project_process: Callable[..., ProjectProcess]) -> None:
        program = "import time; print('awake'); time.sleep(60)"
        process = project_process("shell", "--command", program, env={})
        process.wait_for_output("awake")
        process.signal(signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM

    def test_what_it_started_is_killed_with_it(self, project_process: Callable[..., ProjectProcess]) -> None:
        program = "import subprocess; print('awake'); subprocess.run(['sleep', '60'])"
        process = project_process("shell", "--command", program, env={})
        process.wait_for_output("awake")
        children = wait_for(lambda: children_of(process.pid))
        process.kill()
        assert wait_until_dead([process.pid, *children])

    def test_it_may_be_killed_before_it_has_begun(
        self, project_process: Callable[..., ProjectProcess]
    ) -> None:
        for _ in range(10):
            process = project_process("shell", "--command", "pass", env={})
            process.kill()
            assert process.returncode == -signal.SIGKILL

    def test_some_may_begin_while_others_end(self, tmp_path: Path) -> None:
        with project_processes(tmp_path, is_warm=True) as start:
            for _ in range(50):
                some = [start("shell", "--command", "pass", env={}) for _ in range(4)]
                for process in some[:2]:
                    process.signal(signal.SIGKILL)
                some.append(start("shell", "--command", "pass", env={}))
                for process in some:
                    process.kill()
                assert all(process.returncode is not None for process in some)

    def test_it_ends_as_its_command_does(self, project_process: Callable[..., ProjectProcess]) -> None:
        process = project_process("nonsense", env={})
        assert process.wait() == 1
        assert "Unknown command: 'nonsense'" in process.output
        assert process.returncode == 1

    def test_it_has_all_of_its_own(self, tmp_path: Path) -> None:
        """A warm one has nothing of the interpreter that it began in, nor of processes beside it."""
        program = (
            "import os, sys; print(sys.argv, sys.path[0], os.getcwd(), os.getsid(0) == os.getpid(),"
            " sorted(os.environ.items()), [os.path.basename(os.readlink(f'/proc/self/fd/{n}')) for n in range(3)],"
            " [n for n in range(3, 64) if os.path.exists(f'/proc/self/fd/{n}')])"
        )
        said = []
        for name, is_warm in (("cold", False), ("warm", True)):
            (tmp_path / name).mkdir()
            with project_processes(tmp_path / name, is_warm=is_warm) as start:
                beside = start("shell", "--command", "import time; time.sleep(60)", env={})
                process = start("shell", "--command", program, env={"SHOP": "open"})
                assert process.wait() == 0, process.output
                assert beside.is_running()
            said.append(process.output)
        assert said[0] == said[1]
        assert "('SHOP', 'open')" in said[1]

    def test_of_the_project_nothing_is_loaded_before_it_begins(self) -> None:
        """Each process loads what is ours anew: else a warm one could not find a mistake in that."""
        program = (
            "import sys, runpy; list(map(__import__, runpy.run_path(sys.argv[1])['LOADED']));"
            " print(sorted({name.split('.')[0] for name in sys.modules} & {'zerver', 'tests'}))"
        )
        path = REPOSITORY / "tests" / "servers" / "warm_python.py"
        done = subprocess.run(
            [sys.executable, "-c", program, path], capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stdout == "[]\n"

    def test_what_an_interpreter_hears_at_its_start_alone_is_heard_by_a_warm_one(
        self, tmp_path: Path
    ) -> None:
        program = "import sys; print('optimized', sys.flags.optimize)"
        with project_processes(tmp_path, is_warm=True) as start:
            process = start("shell", "--command", program, env={"PYTHONOPTIMIZE": "1"})
            assert process.wait() == 0, process.output
        assert "optimized 1" in process.output

    def test_servers_start_in_the_main_thread_only(self, tmp_path: Path) -> None:
        errors: list[Exception] = []

        def start() -> None:
            try:
                ProjectProcess("check", env={}, log_path=tmp_path / "never.log")
            except RuntimeError as error:
                errors.append(error)

        thread = threading.Thread(target=start)
        thread.start()
        thread.join()
        assert "main thread" in str(errors[0])
