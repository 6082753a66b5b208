"""Fixtures of the operators' programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ops.puppet import Puppet
from tests.servers.missing import or_skip


@pytest.fixture
def puppet(tmp_path: Path) -> Puppet:
    return or_skip(Puppet, tmp_path)
