"""The documents say what the code says, and what they show works."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from argparse import Action, ArgumentParser, _SubParsersAction
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand
from django.test import override_settings

from tests.ops.documents import (
    blocks,
    documents,
    rows,
    section,
    titles,
    without_blocks,
    write_files,
)
from tests.servers.processes import REPOSITORY, clean_environment
from zerver.lib.backoff import RetryPolicy
from zerver.lib.conf import QueueSettings, get_settings
from zerver.lib.registry import OPTIONS, QueueDeclaration

DOCS = REPOSITORY / "docs"
COMMANDS = sorted(name for name, app in get_commands().items() if app == "zerver")

_LINK = re.compile(r"\[[^\]]+\]\((?P<target>[^)\s]+)\)")
#: Alone, or in the command that runs it.
_TEST = re.compile(
    r"`(CHAOS_SEED=\w+ \./scripts/test (--chaos )?'?)?"
    r"(?P<file>tests/[\w/]+\.py)::(?P<name>\w+)(\[[^\]]*\])?'?`"
)
_FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")
#: After ``manage.py`` or between backticks, up to the end of the line, a comment or a sign of the shell.
_COMMAND = re.compile(r"(?:manage\.py |`)((?:process_queue|purge_queue|queue_[a-z]+)(?: [^`\n#|&;]*)?)")
_SETTING = re.compile(r"`(QUEUE_[A-Z_]+)`")


# -- the documents themselves


def test_the_readme_can_be_read_in_one_sitting() -> None:
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 250


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for match in _LINK.finditer(without_blocks(document.read_text())):
        path, _, anchor = match["target"].partition("#")
        if "://" in path:
            continue
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{document.name}: {match['target']}"
        if anchor:
            assert anchor in map(_slug, titles(target.read_text())), f"{document.name}: {match['target']}"


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name)
def test_python_compiles(document: Path) -> None:
    for block in blocks(document.read_text(), "python"):
        compile(block.text, f"{document.name}:{block.path or '?'}", "exec")


def test_every_document_is_named_by_the_readme() -> None:
    readme = (REPOSITORY / "README.md").read_text()

    assert [path.name for path in DOCS.glob("*.md") if f"docs/{path.name}" not in readme] == []


# -- what they name


def test_every_option_stands_with_its_default() -> None:
    told = dict(_names_and_defaults(section((DOCS / "options.md").read_text(), "All of them")))

    assert set(told) == set(OPTIONS)
    assert told == {name: _default_of(QueueDeclaration, name) for name in OPTIONS}


def test_every_part_of_a_retry_policy_stands_with_its_default() -> None:
    told = dict(_names_and_defaults(section((DOCS / "options.md").read_text(), "RetryPolicy")))

    assert told == {item.name: item.default for item in fields(RetryPolicy)}


def test_every_setting_stands_with_its_default() -> None:
    text = section((DOCS / "settings.md").read_text(), "All of them")
    told = {_bare(row[0]): _bare(row[1]) for row in rows(text) if _SETTING.fullmatch(row[0])}
    names = {item.name: f"QUEUE_{item.name.upper()}" for item in fields(QueueSettings)}

    assert set(told) == set(names.values())
    with pytest.MonkeyPatch.context() as patch, override_settings():
        for setting in names.values():
            patch.delenv(setting, raising=False)
        get_settings.cache_clear()
        defaults = get_settings()
    get_settings.cache_clear()
    for name, setting in names.items():
        assert told[setting] == _shown(getattr(defaults, name)), setting


def test_no_setting_is_named_that_there_is_not() -> None:
    known = {f"QUEUE_{item.name.upper()}" for item in fields(QueueSettings)} | {"QUEUE_TEST_BROKER_URL"}
    named = {name for path in documents() for name in _SETTING.findall(path.read_text())}

    assert named <= known


def test_commands_are_described_all_and_no_others() -> None:
    described = [title for title in titles((DOCS / "commands.md").read_text()) if "_" in title]

    assert sorted(described) == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_of_a_command_is_described_and_no_other(name: str) -> None:
    text = without_blocks(section((DOCS / "commands.md").read_text(), name))
    flags = {flag for action in _actions(_parser(name)) for flag in action.option_strings}
    verbs = {
        verb for action in _actions(_parser(name)) for verb in action.choices or () if _has_verbs(action)
    }
    told = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))

    assert told == {flag for flag in flags if flag.startswith("--")}
    assert {verb for verb in verbs if f"`{verb}" not in text} == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_key_of_a_commands_json_is_described(name: str) -> None:
    text = section((DOCS / "commands.md").read_text(), name)
    promised = re.findall(r'"(\w+)"', type(load_command_class("zerver", name)).__doc__ or "")

    assert [key for key in promised if f'"{key}"' not in text] == []


@pytest.mark.parametrize("name", ["queue_admin", "queue_failed", "queue_workers"])
def test_a_flag_is_described_under_the_verbs_that_take_it(name: str) -> None:
    """By the table's column of verbs: `all`, `all but` some, or a list."""
    table = [row for row in rows(section((DOCS / "commands.md").read_text(), name)) if "--" in row[0]]
    verbs = {
        verb: parser
        for action in _parser(name)._actions
        if _has_verbs(action)
        for verb, parser in _verbs(action)
    }

    assert table
    assert verbs
    for verb, parser in verbs.items():
        told = {flag for row in table if _is_about(row[1], verb) for flag in _FLAG.findall(row[0])}
        assert told == {flag for action in _actions(parser) for flag in action.option_strings}, verb


def test_commands_that_documents_show_have_the_flags_that_they_show() -> None:
    shown = 0
    for document in documents():
        for line in _COMMAND.findall(document.read_text()):
            name, *words = line.split()
            if name not in COMMANDS:
                continue
            shown += 1
            known = {flag for action in _parser(name)._actions for flag in action.option_strings}
            known |= {flag for action in _actions(_parser(name)) for flag in action.option_strings}
            flags = {match[0] for word in words if (match := _FLAG.match(word))}
            assert flags <= known, f"{document.name}: {line}"
    assert shown > 20


@pytest.mark.parametrize(
    "document",
    [path for path in documents() if blocks(path.read_text(), "python")],
    ids=lambda path: path.name,
)
def test_what_a_document_imports_from_zerver_is_there(document: Path) -> None:
    for block in blocks(document.read_text(), "python"):
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("zerver"):
                module = importlib.import_module(node.module or "")
                assert [item.name for item in node.names if not hasattr(module, item.name)] == []


def test_modules_that_the_picture_names_exist() -> None:
    named = re.findall(
        r"\b((?:lib|worker|monitoring|management)/[\w/]+(?:\.py|/))", (DOCS / "architecture.md").read_text()
    )

    assert len(named) > 10
    assert [name for name in named if not (REPOSITORY / "zerver" / name).exists()] == []


def test_every_test_that_shows_a_promise_exists() -> None:
    named = list(_TEST.finditer((DOCS / "promises.md").read_text()))

    assert len(named) > 20
    for match in named:
        assert match["name"] in _tests_in(REPOSITORY / match["file"]), match[0]


def test_every_promise_names_a_test() -> None:
    headers = ("what happens", "what was broken")
    before, _, rest = (DOCS / "promises.md").read_text().partition("<!-- soak: begin -->")
    text = before + rest.partition("<!-- soak: end -->")[2]  # that table is of processes
    promises = [row for row in rows(text) if row[0] not in headers]

    assert len(promises) > 10
    assert [row[0] for row in promises if not _TEST.search(row[-1])] == []


def test_the_picture_names_every_room() -> None:
    text = (DOCS / "architecture.md").read_text()
    modules = [path for path in (REPOSITORY / "zerver").iterdir() if path.suffix == ".py" or path.is_dir()]
    rooms = {path.stem for path in modules} - {"__init__", "__pycache__", "py", "migrations"}

    assert {room for room in rooms if not re.search(rf"\b{room}(\.py|/)", text)} == set()


# -- what they show


def test_the_worker_of_the_first_quarter_of_an_hour_works(tmp_path: Path) -> None:
    _run(tmp_path, "-m", "django", "startproject", "mysite", ".")
    _run(tmp_path, "manage.py", "startapp", "shop")
    (tmp_path / "shop" / "models.py").unlink()
    with (tmp_path / "mysite" / "settings.py").open("a") as settings:
        settings.write('\nINSTALLED_APPS += ["zerver", "shop"]\n')
    write_files((DOCS / "add-a-worker.md").read_text(), tmp_path)
    _run(tmp_path, "manage.py", "makemigrations", "shop")
    (tmp_path / "pytest.ini").write_text("[pytest]\nDJANGO_SETTINGS_MODULE = test_settings\npythonpath = .\n")

    tested = _run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "shop")

    assert "6 passed" in tested


# -- reading


def _slug(title: str) -> str:
    """As GitHub makes anchors of titles."""
    return re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()).replace(" ", "-")


def _bare(cell: str) -> str:
    return cell.strip("`")


def _names_and_defaults(text: str) -> Iterator[tuple[str, Any]]:
    for row in rows(text):
        if re.fullmatch(r"`\w+`", row[0]):
            default = _bare(row[1])
            yield _bare(row[0]), RetryPolicy() if default == "RetryPolicy()" else ast.literal_eval(default)


def _default_of(declaration: type[QueueDeclaration], name: str) -> object:
    item = {item.name: item for item in fields(declaration)}[name]
    return item.default if item.default_factory is MISSING else item.default_factory()


def _shown(value: object) -> str:
    """A setting's default as the table has it."""
    if value in (None, "", ()):
        return "–"
    if isinstance(value, Path):
        return str(value.relative_to(REPOSITORY))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _parser(name: str) -> ArgumentParser:
    return load_command_class("zerver", name).create_parser("manage.py", name)


def _actions(parser: ArgumentParser) -> Iterator[Action]:
    """A command's own, its verbs' included; not those that Django gives to all."""
    usual = {
        flag
        for action in BaseCommand().create_parser("manage.py", "x")._actions
        for flag in action.option_strings
    }
    for action in parser._actions:
        if isinstance(action, _SubParsersAction):
            yield action
            for sub in action.choices.values():
                yield from _actions(sub)
        elif not usual.intersection(action.option_strings):
            yield action


def _verbs(action: Action) -> Iterator[tuple[str, ArgumentParser]]:
    assert isinstance(action, _SubParsersAction)
    yield from action.choices.items()


def _is_about(cell: str, verb: str) -> bool:
    named = f"`{verb}`" in cell
    return not named if cell.startswith("all") else named


def _has_verbs(action: Action) -> bool:
    return isinstance(action, _SubParsersAction)


def _tests_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def _run(project: Path, *arguments: str) -> str:
    """In a process of its own, which finds zerver in this repository."""
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=project,
        env=clean_environment("DJANGO_") | {"PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
