"""What the package says of itself is the same wherever it says it."""

import configparser
import re
import subprocess
import sys
from pathlib import Path

import zerver

ROOT = Path(__file__).resolve().parents[2]

_ALONE = ("zerver", "zerver.lib.queue_stats", "zerver.monitoring.thresholds")


def _setup_cfg() -> configparser.RawConfigParser:
    config = configparser.RawConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def _names(requirements: str) -> set[str]:
    """The distributions that a list of requirements names, as a lock spells them."""
    lines = (line for line in requirements.splitlines() if line and not line.startswith((" ", "#")))
    return {re.split(r"[\s\[<>=;]", line, maxsplit=1)[0].lower() for line in lines}


def test_the_package_and_its_metadata_agree_on_the_version() -> None:
    assert _setup_cfg()["metadata"]["version"] == zerver.__version__


def test_the_lock_holds_every_requirement() -> None:
    config = _setup_cfg()
    wanted = _names(config["options"]["install_requires"])
    for extra in config["options.extras_require"].values():
        wanted |= _names(extra)

    assert wanted - {"zerver"} <= _names((ROOT / "requirements" / "dev.txt").read_text())


def test_the_lock_has_hashes_and_no_address_of_any_index() -> None:
    lock = (ROOT / "requirements" / "dev.txt").read_text()
    pinned = re.findall(r"^[a-z].*$", lock, flags=re.MULTILINE)

    assert all("==" in line and line.endswith("\\") for line in pinned)
    assert "://" not in lock
    assert not re.search(r"^-", lock, flags=re.MULTILINE)


def test_every_exception_to_a_rule_of_security_has_its_reason_beside_it() -> None:
    """Or, of a whole file, above it."""
    exceptions = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in [*(ROOT / "zerver").rglob("*.py"), ROOT / "scripts" / "audit"]
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if re.search(r"noqa: S\d+\b(?! \(\w)", line)
    ]

    assert exceptions == []


def test_no_worker_loads_what_draws_on_terminals() -> None:
    """It would cost each two megabytes."""
    code = (
        "import os, sys, django; os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'tests.settings'); django.setup();"
        " import zerver.management.commands.process_queue; sys.exit('rich.console' in sys.modules)"
    )

    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_what_must_answer_while_everything_else_is_down_imports_no_django() -> None:
    code = f"import sys, {', '.join(_ALONE)}; sys.exit(not {{'django', 'pika'}}.isdisjoint(sys.modules))"

    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
