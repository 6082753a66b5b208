"""What it was measured on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from tests.servers.postgres import LIBRARY
from tests.servers.rabbitmq_programs import Programs
from tests.servers.spawn import ServerMissingError


def describe() -> dict[str, str]:
    """As far as this machine tells."""
    cpu = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    memory = re.search(r"^MemTotal: +(\d+) kB$", Path("/proc/meminfo").read_text(), re.M)
    release = Path("/etc/os-release")
    system = re.search(r'^PRETTY_NAME="(.+)"$', release.read_text(), re.M) if release.exists() else None
    return {
        "processors": f"{len(os.sched_getaffinity(0))} × {cpu[1] if cpu else platform.machine()}",
        "memory": f"{int(memory[1]) * 1024 / 1e9:.0f} GB" if memory else "–",
        "system": f"{system[1] if system else platform.system()}, Linux {platform.release()}",
        "Python": sys.version.split()[0],
        "RabbitMQ": f"{_rabbitmq()}, a single node on the same machine",
        "PostgreSQL": f"{_postgresql()}, on the same machine, every commit synced",
    }


def _rabbitmq() -> str:
    try:
        return Programs.find().version
    except ServerMissingError as error:
        return str(error)


def _postgresql() -> str:
    for program in sorted(LIBRARY.glob("*/bin/postgres"), reverse=True):
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
        return told.split()[2]
    return "not installed"
