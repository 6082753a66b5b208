"""The project's documents, taken apart: what they show can be run, and what they name can be looked up."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.servers.processes import REPOSITORY

_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"(#!.*\n)?# (?P<path>[\w/]+\.\w+|\w+/\w+)([,:] .*)?\n")
_TITLE = re.compile(r"^(#+) (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block of code."""

    language: str
    text: str

    @property
    def path(self) -> str | None:
        """The file that it belongs to, where its first comment names one: ``# shop/models.py``."""
        named = _FILE.match(self.text)
        return named["path"] if named else None


def documents() -> list[Path]:
    return [
        REPOSITORY / "README.md",
        REPOSITORY / "CHANGELOG.md",
        *sorted((REPOSITORY / "docs").glob("*.md")),
    ]


def blocks(text: str, language: str) -> list[Block]:
    """Those of one language, in order."""
    found = (Block(language=match["language"], text=match["text"]) for match in _FENCE.finditer(text))
    return [block for block in found if block.language == language]


def without_blocks(text: str) -> str:
    return _FENCE.sub("", text)


def section(text: str, title: str) -> str:
    """What stands under a title, smaller titles and all. Raises: ValueError where there is none."""
    prose = _FENCE.sub(lambda match: re.sub("[^\n]", "x", match[0]), text)  # comments are no titles
    titles = list(_TITLE.finditer(prose))
    for index, match in enumerate(titles):
        if match[2] == title:
            later = (other.start() for other in titles[index + 1 :] if len(other[1]) <= len(match[1]))
            return text[match.end() : next(later, len(text))]
    raise ValueError(f"there is no title {title!r}")


def titles(text: str) -> list[str]:
    return [match[2] for match in _TITLE.finditer(without_blocks(text))]


def rows(text: str) -> Iterator[list[str]]:
    """The cells of every table row; a bar inside code is written ``\\|``."""
    for line in without_blocks(text).splitlines():
        if line.startswith("|") and not re.fullmatch(r"[|\s:-]+", line):
            yield [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def write_files(text: str, project: Path) -> None:
    """Every block that names a file goes into it, one after the other, as a reader would type them in."""
    for block in blocks(text, "python"):
        if block.path is None:
            continue
        target = project / block.path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("a") as file:
            file.write("\n" + block.text)
