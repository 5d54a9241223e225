"""Workers of a launch here train alone, whatever a shell says, and know how many share the cores."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweepctl.launch.workers import Pool
from sweepctl.store.protocol import WORKERS_VARIABLE

LEFT_BEHIND = {
    "WORLD_SIZE": "2",
    "RANK": "1",
    "LOCAL_RANK": "1",
    "GROUP_RANK": "0",
    "LOCAL_WORLD_SIZE": "2",
    "ROLE_RANK": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
    "TORCHELASTIC_RUN_ID": "x",
    "PMI_RANK": "1",
    "PMIX_RANK": "1",
}


@pytest.mark.parametrize("group", [False, True])
def test_what_torchrun_left_in_a_shell_is_not_inherited(
    group: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in LEFT_BEHIND.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RANKING", "kept")
    environment = environment_of(Pool(1, 1, [], tmp_path, group=group))
    assert (set(LEFT_BEHIND) & set(environment)) == (set(LEFT_BEHIND) if group else set())
    assert environment["RANKING"] == "kept"


def test_workers_know_with_how_many_they_share_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only people say how many processes compile: the worker counts them from its part of the cores."""
    monkeypatch.delenv("TORCHINDUCTOR_COMPILE_THREADS", raising=False)
    environment = environment_of(Pool(2, 1, [], tmp_path))
    assert environment[WORKERS_VARIABLE] == "2" and "TORCHINDUCTOR_COMPILE_THREADS" not in environment


def environment_of(pool: Pool) -> dict[str, str]:
    """That of its first worker; the pool is ended."""
    try:
        text = Path(f"/proc/{pool.workers[0].process.pid}/environ").read_text()
    finally:
        pool.kill()
        pool.stop()
    return dict(entry.split("=", 1) for entry in text.split("\0") if entry)
