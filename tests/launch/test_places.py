"""Who takes a job where several share a GPU."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sweepctl.launch.places import Places

PER_GPU = {"small": 4, "middle": 3, "half": 2, "large": 1}


def workers(*jobs: str | None) -> list[Any]:
    return [SimpleNamespace(number=number, job=job) for number, job in enumerate(jobs)]


def places(pool: list[Any], gpus: int) -> Places:
    return Places(pool, gpus, PER_GPU.__getitem__, 4)


def free(pool: list[Any]) -> list[Any]:
    return [worker for worker in pool if worker.job is None]


def test_jobs_go_to_the_emptiest_gpu_and_a_large_one_has_its_own() -> None:
    pool = workers("small", *[None] * 7)
    dealt = places(pool, 2)
    large = dealt.take("large", free(pool))
    assert large is not None and large.number == 1
    assert dealt.take("large", free(pool)) is None


def test_a_gpu_is_kept_for_a_job_that_finds_too_few_places() -> None:
    pool = workers(*["small"] * 4, *[None] * 4)
    dealt = places(pool, 2)
    assert dealt.take("large", free(pool)) is None  # GPU 0 is kept for it
    small = dealt.take("small", free(pool))
    assert small is not None and small.number % 2 == 1 and dealt.left
    assert dealt.take("large", free(pool)) is None and not dealt.left


def test_workers_that_were_asked_for_beyond_the_gpus_are_all_used() -> None:
    pool = workers(*[None] * 4)
    dealt = Places(pool, 2, lambda job: 1, 1)
    taken = []
    for _ in range(4):
        worker = dealt.take("large", [w for w in pool if w.number not in taken])
        assert worker is not None
        taken.append(worker.number)
    assert sorted(taken) == [0, 1, 2, 3]
    assert Places(pool, 0, lambda job: 1, 1).take("large", pool) is pool[0]


@given(gpus=st.integers(1, 3), jobs=st.lists(st.sampled_from(sorted(PER_GPU)), max_size=30))
@settings(max_examples=60, deadline=None)
def test_the_shares_of_a_gpus_jobs_are_never_more_than_the_gpu(gpus: int, jobs: list[str]) -> None:
    pool = workers(*[None] * (4 * gpus))
    dealt = places(pool, gpus)
    for job in jobs:
        if not (idle := free(pool)):
            break
        if (worker := dealt.take(job, idle)) is not None:
            worker.job = job
    for gpu in range(gpus):
        here = [worker.job for worker in pool if worker.number % gpus == gpu and worker.job]
        assert sum(Fraction(1, PER_GPU[job]) for job in here) <= 1
