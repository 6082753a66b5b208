"""The small parts of queue_dev: addresses, watched directories, words."""

from pathlib import Path

import pytest

import zerver
from zerver.management.dev.address import Address
from zerver.management.dev.watcher import describe, project_directories


@pytest.mark.parametrize(
    ("text", "host", "port", "shown"),
    [
        ("127.0.0.1:8000", "127.0.0.1", 8000, "127.0.0.1:8000"),
        ("8001", "127.0.0.1", 8001, "127.0.0.1:8001"),
        ("localhost:80", "localhost", 80, "localhost:80"),
        ("[::1]:8000", "::1", 8000, "[::1]:8000"),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, host: str, port: int, shown: str) -> None:
    address = Address.parse(text)
    assert address == Address(host=host, port=port)
    assert str(address) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        "localhost:",
        ":8000",
        "::1:8000",
        "host:0",
        "host:65536",
        "host:8OOO",
        "a b:80",
        "h:٣",
    ],
)
def test_what_is_no_address_says_what_one_is(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        Address.parse(text)


def test_the_projects_own_code_is_watched_and_what_is_installed_is_not() -> None:
    directories = project_directories()
    assert Path(zerver.__file__).parent in directories
    assert not any("site-packages" in str(path) for path in directories)


def test_no_watched_directory_lies_within_another() -> None:
    directories = project_directories()
    assert not any(one != other and one.is_relative_to(other) for one in directories for other in directories)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["views.py"], "views.py"),
        (["a.py", "b.py"], "a.py and 1 more file"),
        (["a.py", "b.py", "c.py"], "a.py and 2 more files"),
    ],
)
def test_a_change_is_told_in_a_few_words(names: list[str], text: str) -> None:
    assert describe([Path("/project") / name for name in names]) == text
