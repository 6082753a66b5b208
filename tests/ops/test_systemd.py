"""queue_config systemd: systemd itself accepts the units, and a directory of them follows what is declared."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.commands import Ran, run
from tests.servers.missing import or_skip
from tests.servers.spawn import ServerMissingError
from zerver.deployment.systemd import WATCHDOG_GRACE_SECONDS
from zerver.lib.registry import queues

TARGET = "shop-queues.target"
LEDGER = "shop-queue-ledger@.service"
SCHEDULER = "shop-scheduler.service"


@pytest.fixture
def units(tmp_path: Path) -> Path:
    directory = tmp_path / "units"
    directory.mkdir()
    return directory


def configured(*arguments: str) -> Ran:
    return run("queue_config", "systemd", "--name=shop", *arguments)


def write(units: Path, *arguments: str) -> Ran:
    ran = configured("--write", f"--unit-directory={units}", *arguments)
    assert ran.code == 0, ran.err
    return ran


class Analyzer:
    """``systemd-analyze verify``, which asks no running systemd."""

    def __init__(self) -> None:
        if shutil.which("systemd-analyze") is None:
            raise ServerMissingError("systemd-analyze", "systemd")

    def says_of(self, units: Path, *names: str) -> str:
        """Unknown words and values that cannot be are told, and change no exit code."""
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", *names],
            # The directory first, then the usual ones, for the targets that every unit has to do with.
            env={**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout


@pytest.fixture
def analyzer() -> Analyzer:
    return or_skip(Analyzer)


@pytest.mark.parametrize("mode", [[], ["--multi-threaded"]], ids=["processes", "threads"])
def test_systemd_has_nothing_to_say_of_the_units(
    analyzer: Analyzer, units: Path, three_workers: None, mode: list[str]
) -> None:
    write(
        units,
        *(f"--python={sys.executable}", "--user=root", f"--directory={units}", "--nice=-5"),
        *("--environment=LIST=b c,d=e;f#g", "--environment=UMLAUT=ä–☃", "--environment=EMPTY="),
        *mode,
    )
    wanted = [
        name
        for line in (units / TARGET).read_text().splitlines()
        if line.startswith("Wants=")
        for name in line.removeprefix("Wants=").split()
    ]
    assert SCHEDULER in wanted
    assert len(wanted) == 2 if mode else "shop-queue-ledger@3.service" in wanted
    assert analyzer.says_of(units, TARGET, *wanted) == ""


def test_a_drop_in_for_the_units_of_all_queues_is_read(analyzer: Analyzer, units: Path) -> None:
    write(units, f"--python={sys.executable}", "--user=root", f"--directory={units}")
    drop_in = units / "shop-queue-.service.d/project.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\nNoNewPrivileges=yes\nPrivateTmpp=yes\n")
    said = analyzer.says_of(units, "shop-queue-ledger@1.service")
    assert f"{drop_in}:3: Unknown key" in said
    assert ":2:" not in said


def test_each_queue_has_a_stop_timeout_and_a_watchdog_of_its_own(three_workers: None, units: Path) -> None:
    write(units)
    ledger = (units / LEDGER).read_text()
    assert "\nTimeoutStopSec=115\n" in ledger
    assert f"\nWatchdogSec={115 + WATCHDOG_GRACE_SECONDS}\n" in ledger
    assert " process_queue --queue=ledger --worker_num=%i\n" in ledger
    assert "\nTimeoutStopSec=45\n" in (units / "shop-queue-ledger_batch@.service").read_text()
    instances = " ".join(f"shop-queue-ledger@{number}.service" for number in (1, 2, 3))
    assert f"\nWants={instances}\n" in (units / TARGET).read_text()


def test_one_process_for_all_waits_as_long_as_the_slowest(three_workers: None, units: Path) -> None:
    write(units, "--multi-threaded")
    assert sorted(path.name for path in units.iterdir()) == ["shop-queue-all.service", TARGET, SCHEDULER]
    service = (units / "shop-queue-all.service").read_text()
    assert "\nTimeoutStopSec=115\n" in service
    assert " process_queue --multi_threaded " in service
    assert " ledger " in service


def test_the_scheduler_is_a_unit_of_its_own_unless_it_runs_elsewhere(units: Path) -> None:
    write(units)
    scheduler = (units / SCHEDULER).read_text()
    assert "/manage.py queue_scheduler\n" in scheduler
    assert f"\nWants={SCHEDULER}\n" in (units / TARGET).read_text()
    assert write(units, "--no-scheduler").out.endswith(f"{units / SCHEDULER}: removed\n")
    assert not (units / SCHEDULER).exists()
    assert SCHEDULER not in (units / TARGET).read_text()


def test_what_is_printed_is_every_file_with_its_place(units: Path) -> None:
    out = configured().out
    write(units)
    for path in units.iterdir():
        assert f"# /etc/systemd/system/{path.name}\n{path.read_text()}" in out


def test_more_workers_change_the_target_alone(units: Path) -> None:
    write(units)
    queues.apply_overrides({"ledger": {"workers": 2}})
    try:
        ran = write(units)
    finally:
        queues.apply_overrides({})
    changed = [line for line in ran.out.splitlines() if not line.endswith(": as declared")]
    assert changed == [f"{units / TARGET}: written"]


def test_units_that_nothing_wants_any_more_are_told_of_and_removed_and_only_ours(units: Path) -> None:
    write(units)
    stale, theirs = units / "shop-queue-letters@.service", units / "shop-queue-mail.service"
    shutil.copy(units / LEDGER, stale)
    theirs.write_text("# By hand.\n[Service]\nExecStart=/bin/true\n")
    neighbour = units / "shop-queue-queues.target"
    run("queue_config", "systemd", "--name=shop-queue", "--write", f"--unit-directory={units}")
    neighbours = [path for path in units.iterdir() if "Of shop-queue," in path.read_text()]
    assert neighbour in neighbours
    checked = configured("--check", f"--unit-directory={units}")
    assert checked.code == 1
    assert checked.err.startswith(f"{stale} does not say what is declared")
    assert write(units).out.endswith(f"{stale}: removed\n")
    assert not stale.exists()
    assert theirs.exists()
    assert all(path.exists() for path in neighbours)
    assert configured("--check", f"--unit-directory={units}").code == 0


def test_a_change_of_mode_takes_the_other_modes_units_away(units: Path) -> None:
    write(units)
    write(units, "--multi-threaded")
    assert sorted(path.name for path in units.iterdir()) == ["shop-queue-all.service", TARGET, SCHEDULER]
    write(units)
    assert not (units / "shop-queue-all.service").exists()


def test_a_directory_that_is_not_there_is_a_difference_and_nothing_is_made(tmp_path: Path) -> None:
    place = f"--unit-directory={tmp_path / 'nowhere'}"
    assert configured("--check", place).code == 1
    ran = configured("--write", place)
    assert ran.code == 1
    assert f"{tmp_path / 'nowhere' / TARGET} cannot be written: " in ran.err
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("argument", "problem"),
    [
        ("--unit-directory=/srv", "--unit-directory is of --check and --write: give one of them"),
        ("--file=/srv/x", "unrecognized arguments: --file=/srv/x"),
        ("--log-directory=/srv", "unrecognized arguments: --log-directory=/srv"),
        ("--python=/srv/100%/python", "give an absolute path of letters, digits"),
        ("--environment=A=$HOME", "its value has a quote, %, $"),
        ("--environment=PGPASSWORD=s3cret", "it holds a secret"),
    ],
)
def test_what_no_unit_could_carry_is_refused(argument: str, problem: str) -> None:
    ran = configured(argument)
    assert ran.code
    assert not ran.out
    assert problem in ran.err
    assert "s3cret" not in ran.err
