"""Ids of whole studies that were given once: results are found by them."""

from __future__ import annotations

import pytest

from sweepctl.plan.expand import expand
from sweepctl.spec.compose import compose_study
from sweepctl.spec.corpus import CorpusFacts
from sweepctl.spec.hashing import digest
from tests.conftest import FIRST

FACTS = CorpusFacts("c0ffee", 256, 10**12, ("validation",))
STUDIES: list[tuple[int, str, list[str]]] = [
    (40, "dbee64154de099c8", ["schedule=wsd"]),
    (
        40,
        "49bc74062c2bbb90",
        ["schedule=wsd", "schedule.decay={shape: 1-sqrt, fraction: 0.2}", "schedule.decay.end_lr_share=0.05"],
    ),
    (40, "e0c34189cf0817b1", ["schedule.warmup_steps=null", "schedule.warmup_tokens=20000"]),
    (30, "13dfbee963afb404", ["schedule.fork=false"]),
    (40, "3425ce0d39e61a4f", ["schedule.decay.fraction=1"]),
    (40, "d7591fcecd4926c5", ["schedule=multistep"]),
    (40, "2c692ab04956736d", ["schedule=multistep", "schedule.drops=[[0.5, 0.5], [0.75, 0.25], [0.9, 0.1]]"]),
    (30, "e8e2a93973342c8e", ["schedule=multistep", "schedule.fork=false"]),
    (30, "5e24454710f660bd", ["schedule=cosine"]),
    (30, "05d3ca8ad6ae2476", ["schedule=cosine", "schedule.decay.end_lr_share=0.05"]),
    (40, "b6b3384d5fc0b575", ["schedule=constant"]),
    (30, "dabd0132a937be72", ["schedule=constant", "schedule.fork=false"]),
    (40, "963249126a82b47b", ["schedule=wsd_s"]),
    (
        40,
        "27feadca1d46666b",
        [
            "schedule=wsd_s",
            "schedule.decay={shape: cosine, fraction: 0.3}",
            "schedule.decay.end_lr_share=0.1",
            "schedule.rewarm_tokens=2560",
        ],
    ),
    (40, "fcbfa99b75a6bd56", ["schedule=wsd_s", "schedule.rewarm_steps=3"]),
    (30, "39eabd4306861833", ["schedule=wsd_s", "schedule.fork=false"]),
    (170, "f379c01f5886f31b", ["schedule.kind=wsd,multistep,cosine,constant,wsd-s"]),
    (130, "72b79211f94644e8", ["schedule.decay.fraction=0.1,0.2", "schedule.decay.end_lr_share=0,0.1"]),
    (30, "89b3ef2ab9b5c01e", ["schedule.kind=cosine"]),
    (15, "d8a39f0ec0e08733", ["study=transfer"]),
    (15, "9422765bba65168f", ["study=transfer", "schedule=cosine"]),
    (49, "1396172675fc5afb", ["budget=chinchilla", "ladder=minicpm", "~stages"]),
]
"""Jobs of all stages, the hash of their ids, overrides. Entries are never changed."""


@pytest.mark.parametrize(("jobs", "ids", "overrides"), STUDIES, ids=str)
def test_ids_of_studies_are_frozen(jobs: int, ids: str, overrides: list[str]) -> None:
    study = compose_study(overrides, FIRST)
    plans = [expand(study, stage, FACTS) for stage in study.all_stages]
    planned = [job.id for plan in plans for job in plan.jobs]
    assert (len(planned), digest(" ".join(planned))) == (jobs, ids)
    assert all(plan.science(job).id == job.id for plan in plans for job in plan.jobs)
