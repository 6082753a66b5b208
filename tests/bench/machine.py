"""What it was measured on."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path

from tests.bench.site import Site


def describe(site: Site) -> dict[str, str]:
    cpu = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    memory = re.search(r"^MemTotal: +(\d+) kB$", Path("/proc/meminfo").read_text(), re.M)
    release = Path("/etc/os-release")
    system = re.search(r'^PRETTY_NAME="(.+)"$', release.read_text(), re.M) if release.exists() else None
    return {
        "processors": f"{len(os.sched_getaffinity(0))} × {cpu[1] if cpu else platform.machine()}",
        "memory": f"{int(memory[1]) * 1024 / 1e9:.0f} GB" if memory else "–",
        "system": f"{system[1] if system else platform.system()}, Linux {platform.release()}",
        "Python": sys.version.split()[0],
        "RabbitMQ": f"{site.rabbit.version}, a single node on the same machine",
        "PostgreSQL": "on the same machine, every commit synced",
    }
