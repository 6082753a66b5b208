"""A private RabbitMQ: one node, with ports, cookie, epmd and data of its own. Runs as root or as anybody."""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tests.servers import spawn
from tests.servers.ports import HOST, free_port, is_listening, release_port
from tests.servers.rabbitmq_management import PASSWORD, USER, ManagementApi
from tests.servers.rabbitmq_programs import Programs
from tests.servers.spawn import ServerStartError
from tests.wait import WaitTimeoutError, wait_for

START_TIMEOUT_SECONDS = 90.0
NORMAL_MEMORY_WATERMARK = "0.4"
NORMAL_DISK_LIMIT = "1MB"

#: The intervals at which the broker counts and checks, short enough for a test to wait for.
ADVANCED_CONFIG = """[
  {rabbit, [{collect_statistics_interval, 250}, {quorum_tick_interval, 250}, {channel_tick_interval, 1000}]},
  {rabbitmq_management_agent, [{sample_retention_policies,
    [{global, [{600, 1}]}, {basic, [{600, 1}]}, {detailed, [{600, 1}]}]}]}
].
"""

#: What RabbitMQ 4.3 refuses, or will; 4.0 does when told to, and so it is: nothing of ours may ask for it.
REFUSALS = dict.fromkeys(
    ("deprecated_features.permit.transient_nonexcl_queues", "deprecated_features.permit.global_qos"), "false"
)


class Epmd:
    """Erlang's port mapper, by which nodes on this host find each other."""

    def __init__(self) -> None:
        self._programs = Programs.find()
        self.port = free_port()
        self._directory = spawn.make_directory("epmd")
        self._process: subprocess.Popen[bytes] | None = None

    def ensure(self) -> None:
        """Run it, in the foreground and before any node, which else starts a daemon that outlives everything."""
        if self._process is None or self._process.poll() is not None:
            command = self._programs.command("epmd", "-port", str(self.port), "-address", HOST)
            env = {"PATH": os.environ.get("PATH", os.defpath)}
            log_path = self._directory / "epmd.log"
            self._process = spawn.spawn(command, env=env, log_path=log_path, cwd=self._directory)
            wait_for(lambda: is_listening(self.port), 30, "epmd to listen")

    def close(self) -> None:
        if self._process is not None:
            spawn.end(self._process)
        spawn.remove_directory(self._directory)
        release_port(self.port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """What a node must know to be one of a cluster; see ``RabbitCluster``."""

    node: str
    cookie: str
    epmd: Epmd

    @classmethod
    def of_one(cls) -> Membership:
        return cls(node=f"zerver-{secrets.token_hex(4)}@localhost", cookie=secrets.token_hex(16), epmd=Epmd())


class RabbitServer(ManagementApi, spawn.Server):
    """``conf`` adds lines to ``rabbitmq.conf``, or replaces them: ``{"consumer_timeout": "4000"}``.

    Without ``membership`` it is alone, with an epmd of its own. ``host`` is where clients find it.
    """

    def __init__(
        self,
        conf: Mapping[str, str] | None = None,
        *,
        membership: Membership | None = None,
        host: str = HOST,
    ) -> None:
        self._programs = Programs.find()
        self.directory = spawn.make_directory("rabbitmq")
        self.log_path = self.directory / "server.log"
        super().__init__(free_port())
        self.host = host
        self.port, self._dist_port = free_port(), free_port()
        self._is_alone = membership is None
        self._membership = membership or Membership.of_one()
        self._process: subprocess.Popen[bytes] | None = None
        self._env = self._write_configuration(conf or {})

    # -- its life

    def start(self) -> None:
        """Returns when clients are answered, on AMQP and on the management API: after some 8 seconds."""
        self.begin_start()
        self.finish_start()

    def begin_start(self) -> None:
        """For nodes that wait for each other: ``finish_start`` when all have begun."""
        self._membership.epmd.ensure()
        # In its own directory: a node that does not start leaves a crash dump where it stands.
        command = self._programs.command("rabbitmq-server")
        self._process = spawn.spawn(command, env=self._env, log_path=self.log_path, cwd=self.directory)

    def finish_start(self) -> None:
        try:
            wait_for(self._is_up_or_ended, START_TIMEOUT_SECONDS, "RabbitMQ to answer")
        except WaitTimeoutError:
            self.kill()
        if not self.is_running():
            raise ServerStartError("RabbitMQ", self.log_path)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def ready(self) -> bool:
        """Whether the broker answers a client's first bytes; a frozen one accepts the connection and says nothing."""
        try:
            with socket.create_connection((self.host, self.port), timeout=1) as client:
                client.sendall(b"AMQP\x00\x00\x09\x01")
                return client.recv(1) == b"\x01"
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL, as a crash does; the data stay."""
        if self._process is not None:
            spawn.end(self._process)
            self._process = None

    def graceful_stop(self) -> None:
        """SIGTERM, and wait; takes some 6 seconds."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(timeout=60)
        self.kill()

    def restart(self) -> None:
        """Kill it if it runs, and start it on the same data and the same ports."""
        self.kill()
        self.start()

    def stop_signal(self) -> None:
        """SIGSTOP: the kernel still accepts connections, and nobody answers. Returns when all of it stands still."""
        assert self._process is not None
        spawn.signal_group(self._process, signal.SIGSTOP)
        pid = self._process.pid
        wait_for(lambda: spawn.stands_still(pid), 10, "the broker to stand still")

    def cont_signal(self) -> None:
        assert self._process is not None
        spawn.signal_group(self._process, signal.SIGCONT)

    def ensure_healthy(self) -> None:
        """Undo what the test before may have left: dead, frozen, in alarm, or up without storing anything."""
        if not self.is_running():
            self.start()
        self.cont_signal()
        wait_for(self.ready, 30, "RabbitMQ to answer")
        if self.has_alarm():
            self._limit_disk(NORMAL_DISK_LIMIT)
            self.set_memory_alarm(False)
        self.ensure_storing()

    def ensure_storing(self) -> None:
        """RabbitMQ 3.10.8 may fail when a quorum queue is deleted just as its dead-lettering begins: the supervisor of
        all dead-lettering ends, and whoever asks for any quorum queue then loses the connection.
        """
        # Asked before every test: to try whether it stores would cost four times as much.
        if self.evaluate("whereis(rabbit_fifo_dlx_sup) =/= undefined") == "true" or self.can_store():
            return
        print(f"{self.directory}: RabbitMQ is up and stores nothing; its dead-lettering is started anew")
        self.evaluate("supervisor:restart_child(rabbit_sup, rabbit_fifo_dlx_sup)")
        wait_for(self.can_store, 30, "RabbitMQ to store again")

    def close(self) -> None:
        """Kill all of it and remove its data."""
        self.kill()
        if self._is_alone:
            self._membership.epmd.close()
        spawn.remove_directory(self.directory)
        for port in (self.port, self._management_port, self._dist_port):
            release_port(port)

    @property
    def version(self) -> str:
        """``3.10.8``."""
        return self._programs.version

    def url(self, vhost: str = "/") -> str:
        return f"amqp://{USER}:{PASSWORD}@{self.host}:{self.port}/{quote(vhost, safe='')}"

    # -- its faults

    def set_memory_alarm(self, on: bool) -> None:
        """In alarm the broker stops reading from connections that publish, and tells them so."""
        watermark = "0.0001" if on else NORMAL_MEMORY_WATERMARK
        self.evaluate(f"vm_memory_monitor:set_vm_memory_high_watermark({watermark})")
        wait_for(lambda: self.has_alarm() is on, 20, f"memory alarm {'on' if on else 'off'}")

    def set_disk_alarm(self, on: bool) -> None:
        """As a full disk: the same to clients."""
        self._limit_disk("1000000GB" if on else NORMAL_DISK_LIMIT)
        wait_for(lambda: self.has_alarm() is on, 30, f"disk alarm {'on' if on else 'off'}")

    def remember_queues(self) -> None:
        """Until every queue is on disk. RabbitMQ 3.10 writes the names of quorum queues every half second and those of
        others within two; killed before, it forgets the queue, with all that it confirmed for it.
        """
        self.evaluate("catch mnesia:sync_log(), [ok = dets:sync(Table) || Table <- dets:all()]")

    def suspend_queue(self, vhost: str, name: str) -> None:
        """The queue's leader answers nobody, as on a node that hangs; only for a quorum queue. ``vhost`` is a name or
        a URL. A vhost with a suspended queue cannot be deleted: see ``resume_queue``.
        """
        self.evaluate(f"sys:suspend('{vhost.rpartition('/')[2]}_{name}')")

    def resume_queue(self, vhost: str, name: str) -> None:
        self.evaluate(f"sys:resume('{vhost.rpartition('/')[2]}_{name}')")

    def _limit_disk(self, limit: str) -> None:
        self.evaluate(f'rabbit_disk_monitor:set_disk_free_limit("{limit}")')

    # -- its administration

    def evaluate(self, expression: str) -> str:
        """What the node makes of an expression of Erlang, in milliseconds; ``rabbitmqctl eval`` takes a second."""
        membership = self._membership
        done = subprocess.run(
            self._programs.command("erl_call", "-name", membership.node, "-c", membership.cookie, "-e"),
            input=f"{expression}.\n",
            env=self._env,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        # Its exit code is 0 also for what failed within the node.
        if not done.stdout.startswith("{ok, "):
            raise RuntimeError(f"{expression}: {done.stdout}{done.stderr}")
        return done.stdout.removeprefix("{ok, ").removesuffix("}")

    @contextmanager
    def setting(self, name: str, value: int) -> Iterator[None]:
        """Of ``rabbitmq.conf``, and read by channels when they open: what else would take a broker of its own."""
        before = self.evaluate(f"{{ok, Before}} = application:get_env(rabbit, {name}), Before")
        self._set(name, str(value))
        try:
            yield
        finally:
            self._set(name, before)

    def _set(self, name: str, value: str) -> None:
        # RabbitMQ 4 keeps a copy of some of them, for speed.
        self.evaluate(
            f"application:set_env(rabbit, {name}, {value}),"
            f" persistent_term:get({name}, none) =:= none orelse persistent_term:put({name}, {value})"
        )

    def rabbitmqctl_environment(self) -> dict[str, str]:
        """In which a ``rabbitmqctl`` that somebody else runs is this node's."""
        program = self.directory / "bin" / "rabbitmqctl"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\nexec {shlex.join(self._programs.command("rabbitmqctl"))} "$@"\n')
        program.chmod(0o755)
        return {**self._env, "PATH": f"{program.parent}{os.pathsep}{self._env['PATH']}"}

    def rabbitmqctl_program(self) -> Path:
        """A program that is rabbitmqctl of this node, whoever runs it. ``calls``, beside it, has what it was told."""
        path = self.directory / "rabbitmqctl"
        env = shlex.join(f"{name}={value}" for name, value in self._env.items())
        command = shlex.join(self._programs.command("rabbitmqctl"))
        path.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$*" >> {self.directory}/calls\n'
            f'cd {self.directory} && exec env -i {env} {command} "$@"\n'
        )
        path.chmod(0o755)
        return path

    def rabbitmqctl(self, *arguments: str) -> str:
        done = subprocess.run(
            self._programs.command("rabbitmqctl", "--quiet", "--node", self._membership.node, *arguments),
            env=self._env,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"rabbitmqctl {arguments[0]}: {done.stdout}{done.stderr}")
        return done.stdout

    def _is_up_or_ended(self) -> bool:
        if not self.is_running():
            return True
        if not self.ready():
            return False
        with suppress(OSError):
            self.api("GET", "/overview")
            return True
        return False

    def _write_configuration(self, conf: Mapping[str, str]) -> dict[str, str]:
        """Write the node's files; what is returned is the whole environment of its programs."""
        directory = self.directory
        lines = {
            "listeners.tcp.1": f"{self.host}:{self.port}",
            "management.tcp.ip": HOST,
            "management.tcp.port": str(self._management_port),
            "disk_free_limit.absolute": NORMAL_DISK_LIMIT,
            "log.console": "false",
            **(REFUSALS if self._programs.major_version >= 4 else {}),
            **conf,
        }
        text = "".join(f"{key} = {value}\n" for key, value in lines.items())
        (directory / "rabbitmq.conf").write_text(text)
        (directory / "advanced.config").write_text(ADVANCED_CONFIG)
        (directory / "enabled_plugins").write_text("[rabbitmq_management].\n")
        cookie = directory / ".erlang.cookie"
        cookie.write_text(self._membership.cookie)
        cookie.chmod(0o400)
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(directory),  # where server and rabbitmqctl look for the cookie
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_NODENAME": self._membership.node,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_PID_FILE": str(directory / "pid"),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            # Schedulers with nothing to do sleep at once: by default they spin for a while, on cores that others want.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none"
            " -kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_PORT": str(self._membership.epmd.port),
            "ERL_EPMD_ADDRESS": HOST,
            # Undocumented: the start script becomes the Erlang VM, and the child's pid is the broker's.
            "detached": "1",
        }
