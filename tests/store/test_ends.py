"""The ends of attempts: each has one consequence, a word that records keep, a budget where it is retried."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from sweepctl.launch.retries import Retries
from sweepctl.store.ends import End


@pytest.mark.parametrize("end", End)
def test_a_record_keeps_the_word(end: End) -> None:
    assert End.read(json.loads(json.dumps({"why": end}))["why"]) is end


def test_classes_of_retries_are_the_settings() -> None:
    assert {end.value for end in End if end.has_retries} == {field.name for field in fields(Retries)}


def test_every_failure_is_retried_and_leaves_the_job_to_others() -> None:
    assert all(end.has_retries and end.frees_job for end in End if end.is_failure)
    assert [end for end in End if not end.frees_job] == [End.SUPERSEDED, End.BUSY]


def test_words_of_other_versions_are_read() -> None:
    assert End.read("crashed") is End.DIED
    assert End.read("a word of next year") is End.STOPPED
