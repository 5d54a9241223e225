"""Teams of processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.train.team import Team


@pytest.fixture(scope="module")
def teams(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Team]]:
    """Teams of 2 and of 4 that take one job after another, whatever those come to."""
    logs = tmp_path_factory.mktemp("teams")
    by_size = {size: Team(size, logs) for size in (2, 4)}
    yield by_size
    assert [team.close() for team in by_size.values()] == [[0] * 2, [0] * 4]
    assert not [log.read_text() for team in by_size.values() for log in team.logs if log.read_text()]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Team]:
    """A team of 2 that is to be broken."""
    team = Team(2, tmp_path)
    yield team
    team.kill()
