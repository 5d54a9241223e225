"""How fast it goes and how long it takes."""

from __future__ import annotations

import dataclasses
import os

import pytest

from sweepctl.launch.speed import SILENT_S, Running, mean_speed, running, time_left
from sweepctl.store import attempts
from tests.conftest import Planner, only


def test_an_attempt_is_as_fast_as_it_says_else_as_it_was(planned: Planner) -> None:
    [entry, *_] = only(planned(), "trunk")
    attempt = attempts.claim(entry.folder, {})
    assert attempt is not None
    started = attempt.record["started"]
    assert running(entry, attempt, 0, 1.0, started + 3).tokens_per_s is None
    attempt.update(start_tokens=1000)
    attempt.beat(50, 3000)
    os.utime(attempt.path / "heartbeat.json", (started + 20, started + 20))
    now_running = running(entry, attempt, 50, 1.0, started + 25)
    assert now_running.tokens_per_s == pytest.approx(100) and now_running.silent_s == pytest.approx(5)
    attempt.metrics.write_text('{"step": 50, "tokens_per_s": 120}\n{"step": 51, "loss_nats": {}}\n')
    assert running(entry, attempt, 50, 1.0, started + 25).tokens_per_s == 120
    late = running(entry, attempt, 50, 1.0, started + 21 + SILENT_S)
    assert late.silent and late.flops_per_s == 0


def test_what_is_left_takes_the_pace_of_all_or_the_longest_chain(planned: Planner) -> None:
    entry, other = only(planned(), "trunk")
    long = Running(entry, 5, 1e9, 100.0, 0.0, "here")
    ending = dataclasses.replace(long, planned_job=other, flops_left=0.0)
    together = long.flops_per_s + ending.flops_per_s
    assert time_left([long, ending], 1e12, {}) == pytest.approx(1e12 / together)
    assert time_left([long, ending], 1e9, {entry.job.id: 1e9}) == pytest.approx(2e9 / long.flops_per_s)
    assert mean_speed([long, ending]) == pytest.approx(together / 2)
    quiet = dataclasses.replace(long, silent_s=SILENT_S + 1)
    assert time_left([quiet], 1e9, {}) is None and time_left([], 1e9, {}) is None
    assert mean_speed([quiet]) is None
