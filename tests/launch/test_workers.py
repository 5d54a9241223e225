"""Workers of a launch on this machine train alone, whatever a shell says."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweepctl.launch.workers import Pool

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
    pool = Pool(1, 1, [], tmp_path, group=group)
    try:
        text = Path(f"/proc/{pool.workers[0].process.pid}/environ").read_text()
    finally:
        pool.kill()
        pool.stop()
    environment = dict(entry.split("=", 1) for entry in text.split("\0") if entry)
    assert (set(LEFT_BEHIND) & set(environment)) == (set(LEFT_BEHIND) if group else set())
    assert environment["RANKING"] == "kept"
