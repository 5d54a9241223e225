"""The data check: whole shards, text that is held out, tokens enough."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweepctl.check.data import DataLimits, examine, window_of
from sweepctl.cli import main
from sweepctl.data import leaks as leaking
from sweepctl.data.leaks import leaks
from sweepctl.data.prepare import accept_flat
from sweepctl.data.shards import CorpusIndex, read_index
from sweepctl.errors import RequestError
from sweepctl.launch.doctor import Finding
from sweepctl.plan.expand import expand
from sweepctl.spec.corpus import CorpusFacts
from sweepctl.store.workspace import Workspace
from tests.conftest import tiny

Verdicts = dict[str, list[str]]


def verdicts(findings: list[Finding]) -> Verdicts:
    by_check: Verdicts = {}
    for finding in findings:
        by_check.setdefault(finding.check, []).append(finding.verdict)
    return by_check


@pytest.fixture
def examined(workspace: Workspace, facts: CorpusFacts) -> Callable[..., list[Finding]]:
    def run(passes: float = 1.0, window: int = 64, **changes: object) -> list[Finding]:
        folder = workspace.corpus("synthetic")
        plan = expand(tiny(**changes), "all", facts)
        limits = DataLimits(window, passes=passes)
        return list(examine(folder, read_index(folder), 16, [plan], [], limits, lambda text: None))

    return run


def test_good_data_holds(examined: Callable[..., list[Finding]]) -> None:
    by_check = verdicts(examined())
    assert by_check["shards"] == by_check["vocabulary"] == ["ok", "ok"]
    assert by_check["leaks"] == by_check["tokens"] == by_check["context"] == ["ok"]


def test_a_flipped_byte_is_found(examined: Callable[..., list[Finding]], workspace: Workspace) -> None:
    """Although the shard's size and time are as before."""
    shard = workspace.corpus("synthetic") / "train-00000.bin"
    content, facts = bytearray(shard.read_bytes()), shard.stat()
    content[12345] ^= 1
    shard.write_bytes(content)
    os.utime(shard, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    [failed] = [finding for finding in examined() if finding.verdict == "failed"]
    assert failed.check == "shards" and "train-00000.bin" in failed.text


@pytest.mark.parametrize("change", ["missing", "cut"])
def test_a_shard_that_is_not_whole_is_found(
    examined: Callable[..., list[Finding]], workspace: Workspace, change: str
) -> None:
    shard = workspace.corpus("synthetic") / "validation-00000.bin"
    shard.unlink() if change == "missing" else shard.write_bytes(shard.read_bytes()[:-7])
    by_check = verdicts(examined())
    assert by_check["shards"] == ["ok", "failed"] and by_check["leaks"] == ["skipped"]


def test_a_plan_that_repeats_data_says_how_often(examined: Callable[..., list[Finding]]) -> None:
    budget = {"budget__tokens": [500_000]}
    [failed] = [finding for finding in examined(**budget) if finding.verdict == "failed"]
    assert failed.check == "tokens" and "reads them 1.91" in failed.text
    assert verdicts(examined(passes=3.0, **budget))["tokens"] == ["warning"]


def corpus(folder: Path, train: np.ndarray, held_out: np.ndarray, vocab_size: int = 1000) -> CorpusIndex:
    """A corpus of flat files whose training split is two shards."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.bin" for name in ("a", "b", "v")]
    middle = len(train) // 2
    for file, tokens in zip(files, (train[:middle], train[middle:], held_out), strict=True):
        tokens.astype("<u2").tofile(file)
    return accept_flat(folder / "corpus", files[:2], files[2:], "uint16", vocab_size)


def test_a_token_outside_the_vocabulary_is_found(tmp_path: Path) -> None:
    index = corpus(tmp_path, np.arange(600), np.arange(200))
    index = replace(index, vocab_size=300)
    findings = list(examine(tmp_path / "corpus", index, 16, [], [], DataLimits(64), lambda text: None))
    assert verdicts(findings)["vocabulary"] == ["failed", "ok"]


def test_a_leak_is_found_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any offset, across the pieces that shards are read in; not across two shards."""
    monkeypatch.setattr(leaking, "CHUNK", 100)
    random = np.random.default_rng(0)
    train, held_out = random.integers(0, 1000, 2000), random.integers(0, 1000, 640)
    train[77 : 77 + 64] = held_out[128:192]  # in one piece and over the border to the next
    train[1500 : 1500 + 64] = held_out[320:384]
    train[968 : 968 + 64] = held_out[:64]  # across the two shards: no run ever sees it
    train[300 : 300 + 63] = held_out[576:639]  # one token short
    index = corpus(tmp_path, train, held_out)
    [leak] = leaks(tmp_path / "corpus", index, 64)
    assert (leak.windows, leak.leaked) == (10, 2)
    findings = examine(tmp_path / "corpus", index, 16, [], [], DataLimits(64), lambda text: None)
    [failed] = [finding for finding in findings if finding.verdict == "failed"]
    assert failed.check == "leaks" and "20.00%" in failed.text


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 9), st.integers(2, 4))
def test_leaks_are_what_a_plain_search_finds(
    tmp_path_factory: pytest.TempPathFactory, seed: int, window: int, vocabulary: int
) -> None:
    random = np.random.default_rng(seed)
    train, held_out = random.integers(0, vocabulary, 120), random.integers(0, vocabulary, 50)
    folder = tmp_path_factory.mktemp("leaks")
    index = corpus(folder, train, held_out, vocabulary)
    [leak] = leaks(folder / "corpus", index, window)
    texts = ["".join(map(str, half)) for half in (train[:60], train[60:])]
    wanted = ["".join(map(str, held_out[i : i + window])) for i in range(0, 50 - window + 1, window)]
    assert leak.windows == len(wanted)
    assert leak.leaked == sum(any(text in half for half in texts) for text in wanted)


def test_the_command(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweepctl", "check", "data", "data=synthetic", "stages={}", "--window", "64"]
    for more, code, said in (
        (["ladder.depths=[2]", "budget.flops=[1e10]", "budget.min_steps=0"], 0, "data holds"),
        ([], 1, "tokens failed"),
        (["--leak", "2"], 2, ""),
    ):
        monkeypatch.setattr("sys.argv", [*command, *more])
        with pytest.raises(SystemExit) as ended:
            main()
        assert (ended.value.code or 0) == code
        assert said in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*command, "--json"])
    with pytest.raises(SystemExit):
        main()
    assert json.loads(capsys.readouterr().out)["holds"] is False


def test_a_window_that_no_split_has_is_refused(index: CorpusIndex) -> None:
    smallest = min(facts.tokens for facts in index.splits.values())
    assert window_of(index, 16, None) == 256 and window_of(index, 16, smallest) == smallest
    for asked in (0, smallest + 1):
        with pytest.raises(RequestError, match="window"):
            window_of(index, 16, asked)
