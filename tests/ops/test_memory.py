"""The mode of the workers by the host's memory: puppet decides as queue_config does, and sees what it sees."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.ops.puppet import CHANGED, NOTHING_CHANGED, USER, Puppet
from tests.ops.test_puppet import queue_config
from tests.servers.missing import or_skip
from tests.servers.processes import REPOSITORY
from tests.servers.spawn import ServerMissingError
from zerver.deployment.memory import WORKER_MB, host_memory_mb, is_multiprocess

MEMINFO = "MemTotal:        4026532 kB\nMemFree:          123456 kB\n"
GROUPS = "sys/fs/cgroup"


def fact(name: str, root: Path | str = "") -> object:
    """What ruby makes of one of the module's facts."""
    script = "require 'facter'; require 'json'; load ARGV[0]; puts JSON.generate(Facter.value(ARGV[1]))"
    done = subprocess.run(
        ["ruby", "-W0", "-e", script, REPOSITORY / f"puppet/zulip/lib/facter/{name}.rb", name],
        env={"PATH": "/usr/bin:/bin", "LANG": "C", "ZULIP_ROOT": str(root)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(done.stdout)


def require_ruby() -> None:
    if shutil.which("ruby") is None or shutil.which("puppet") is None:
        raise ServerMissingError("puppet", "puppet")


@pytest.fixture
def ruby() -> None:
    or_skip(require_ruby)


def laid_out(root: Path, files: dict[str, str]) -> Path:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "memory_mb"),
    [
        ({}, None),
        ({"proc/meminfo": MEMINFO}, 3932),
        ({"proc/meminfo": MEMINFO, f"{GROUPS}/memory.max": "max\n"}, 3932),
        ({"proc/meminfo": MEMINFO, f"{GROUPS}/memory.max": "536870912\n"}, 512),
        ({"proc/meminfo": MEMINFO, f"{GROUPS}/memory.max": "53687091200\n"}, 3932),
        ({"proc/meminfo": MEMINFO, f"{GROUPS}/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 3932),
        ({"proc/meminfo": MEMINFO, f"{GROUPS}/memory/memory.limit_in_bytes": "268435456\n"}, 256),
        (
            {
                "proc/meminfo": MEMINFO,
                f"{GROUPS}/memory.max": "1073741824\n",
                f"{GROUPS}/system.slice/memory.max": "max\n",
                f"{GROUPS}/system.slice/supervisor.service/memory.max": "805306368\n",
            },
            768,
        ),
        ({"proc/meminfo": MEMINFO, f"{GROUPS}/memory.max": "½\n"}, 3932),
        ({"proc/meminfo": "MemFree: 1 kB\n", f"{GROUPS}/memory.max": "536870912\n"}, None),
    ],
)
def test_puppet_and_queue_config_see_the_same_memory(
    ruby: None, tmp_path: Path, files: dict[str, str], memory_mb: int | None
) -> None:
    root = laid_out(tmp_path, files)
    assert (host_memory_mb(root), fact("zulip_memory_mb", root)) == (memory_mb, memory_mb)


def test_they_see_the_memory_of_this_host(ruby: None) -> None:
    assert fact("zulip_memory_mb") == host_memory_mb()


def test_puppet_decides_as_queue_config_does(puppet: Puppet) -> None:
    memories = [None, 0, 1, 599, 600, 601, 749, 750, 751, 100_000]
    cases = list(itertools.product([1, 3], memories, [None, True, False]))

    def literal(value: object) -> str:
        return "undef" if value is None else str(value).lower()

    table = ", ".join(f"[{', '.join(map(literal, case))}]" for case in cases)
    puppet.apply_manifest(
        f"[{table}].each |$case| {{ notice(zulip::multiprocess($case[0], 100, $case[1], $case[2])) }}"
    )
    decided = re.findall(r"Scope\(Class\[main\]\): (true|false)", puppet.output)
    assert decided == [
        str(is_multiprocess(workers=workers, worker_mb=100, memory_mb=memory_mb, is_now=is_now)).lower()
        for workers, memory_mb, is_now in cases
    ]
    assert set(decided) == {"true", "false"}


def test_puppet_assumes_the_same_of_a_worker() -> None:
    manifest = (REPOSITORY / "puppet/zulip/manifests/app_frontend.pp").read_text()
    assert f"  Integer[1] $queue_worker_mb = {WORKER_MB},\n" in manifest


def test_memory_chooses_the_mode_a_change_is_told_once_and_the_edge_changes_nothing(puppet: Puppet) -> None:
    workers = queue_config("normal-queues").count("'stop_seconds'")
    written = puppet.root / "etc/supervisor/conf.d/zulip.conf"
    one_process = f"{written}: one process for all queues, a thread for each worker"

    def apply(memory_mb: int) -> int:
        laid_out(puppet.root, {"proc/meminfo": f"MemTotal: {memory_mb * 1024} kB\n"})
        return puppet.apply()

    def as_queue_config_has_it(memory_mb: int) -> bool:
        arguments = (f"--memory-mb={memory_mb}", f"--user={USER}")
        return queue_config("supervisor", "--check", f"--file={written}", *arguments).endswith(
            ": as declared\n"
        )

    little, edge, plenty = workers * WORKER_MB, workers * WORKER_MB * 2 + 1, workers * WORKER_MB * 4
    assert apply(little) == CHANGED, puppet.output
    assert "process_queue --multi_threaded " in written.read_text()
    assert "one process for all queues, a thread for each worker (" in puppet.output, one_process
    assert as_queue_config_has_it(little)
    assert apply(edge) == NOTHING_CHANGED, puppet.output
    assert as_queue_config_has_it(edge)
    assert apply(plenty) == CHANGED, puppet.output
    assert "a process for each worker; until now it was not so (" in puppet.output
    assert f"the host has {plenty} MB)" in puppet.output
    assert as_queue_config_has_it(plenty)
    assert apply(edge) == NOTHING_CHANGED, puppet.output
    assert as_queue_config_has_it(edge)


def test_other_programs_of_supervisord_are_none_of_ours(ruby: None, tmp_path: Path) -> None:
    ours = "; Written by puppet, or by ./manage.py queue_config supervisor: what is changed here is lost.\n"
    where = "etc/supervisor/conf.d"
    root = laid_out(
        tmp_path,
        {
            f"{where}/web.conf": "[program:web]\ncommand=gunicorn shop.wsgi\n",
            f"{where}/shop.conf": ours + "command=… manage.py process_queue --queue=a\n",
            f"{where}/small.conf": ours + "command=… manage.py process_queue --multi_threaded a b\n",
        },
    )
    (root / where / "gone.conf").symlink_to("nowhere")
    assert fact("zulip_queue_modes", root) == {
        f"{root}/{where}/shop.conf": True,
        f"{root}/{where}/small.conf": False,
    }
