"""The Slurm launcher's parts that need no Slurm: settings, scripts, records, who is taken up again."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepctl.errors import RequestError
from sweepctl.launch.launcher import read_launcher
from sweepctl.launch.retries import exhausted
from sweepctl.launch.retry import choose
from sweepctl.launch.rungs import idle_patterns
from sweepctl.launch.slurm import commands
from sweepctl.launch.slurm.commands import as_task
from sweepctl.launch.slurm.dispatch import tasks_needed
from sweepctl.launch.slurm.records import Array, Records, SlurmOrder, begin_task, outrun
from sweepctl.launch.slurm.script import script
from sweepctl.launch.slurm.settings import SlurmSettings
from sweepctl.launch.variables import VALUE
from sweepctl.spec.build import build, plain
from sweepctl.spec.compose import compose_launcher
from sweepctl.spec.execution import Execution
from sweepctl.store import attempts
from sweepctl.store.facts import Dispatch
from sweepctl.store.sweep_jobs import SweepJobs
from tests.conftest import Planner, only, run_job
from tests.launch.settings import resources, retries, slurm


@pytest.mark.parametrize("name", ["slurm", "slurm_multinode", "slurmbox"])
def test_the_files_of_launchers_are_valid(name: str) -> None:
    assert isinstance(read_launcher(name, compose_launcher(name, [])).settings, SlurmSettings)


def test_rungs_by_name_and_pattern_change_resources() -> None:
    launcher = build(
        SlurmSettings,
        compose_launcher("slurm", ["rungs.32x2.time_min=30", "rungs.*x24.nodes=2", "rungs.*x2.mem_gb=8"]),
    )
    assert launcher.resources_of("32x2") == replace(launcher.resources, time_min=30, mem_gb=8.0)
    assert launcher.resources_of("512x24").nodes == 2
    assert idle_patterns(launcher.rungs, ["32x2", "64x4"]) == ["*x24"]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"resources": {"nodes": 0}}, "resources.nodes"),
        ({"resources": {"partition": "a\n#SBATCH --wrap=x"}}, "resources.partition"),
        ({"resources": {"gres": "gpu:1", "gpus_per_node": 1}}, "resources.gres"),
        ({"rungs": {"32x2": {"nodse": 1}}}, "nodse"),
        ({"sbatch": {"array": "0-9"}}, "array"),
        ({"sbatch": {"Nice; rm": 1}}, "sbatch"),
        ({"environment": {"A B": "x"}}, "A B"),
        ({"retries": {"died": -1}}, "retries.died"),
        ({"save_ahead_s": 14400}, "save_ahead_s"),
        ({"parallel": 0}, "parallel"),
        ({"workers": 0}, "workers"),
        ({"workers": 2, "resources": {"nodes": 2}}, "workers=2 is not valid: it must be 1 where"),
        ({"kind": "slurm", "max_submitted": 0}, "max_submitted"),
    ],
)
def test_a_wrong_setting_is_named(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(RequestError, match=key.replace(".", r"\.")):
        slurm(**changes)


@pytest.mark.parametrize(
    ("word", "state", "held"),
    [
        ("PENDING", "pending", False),
        ("REQUEUE_HOLD", "pending", False),
        ("CONFIGURING", "running", False),
        ("PREEMPTED", "running", False),
        ("COMPLETING", "running", False),
        ("NODE_FAIL", "ended", False),
        ("TIMEOUT", "ended", False),
        ("SOME_NEW_WORD", "unknown", False),
    ],
)
def test_slurms_words_are_states(word: str, state: str, held: bool) -> None:
    task = as_task("7_1", word, "Priority")
    assert (task.name, task.state, task.word, task.held) == ("7_1", state, word, held)


def test_a_task_that_waits_to_be_released_is_held() -> None:
    assert as_task("7_1", "PENDING", "JobHeldUser").held
    assert not as_task("7_1", "RUNNING", "JobHeldUser").held


def an_array(**changes: Any) -> Array:
    return Array(**{"token": "t", "order": "o", "name": "n.t", "cluster": "c", "jobs": ("a", "b"),
                    "resources": resources(), **changes})  # fmt: skip


TEXT = st.text(
    st.characters(codec="utf-8", exclude_characters="\0\r\n", exclude_categories=("Cs",)), min_size=1
)


@given(value=TEXT, folder=TEXT.map(lambda t: t.replace("/", "_").replace("%", "_")))
def test_no_text_of_the_users_is_shell(value: str, folder: str) -> None:
    """What bash makes of the script's lines is the text itself."""
    launcher = slurm(environment={"WORD": None}, commands_on_nodes=False)
    text = script(an_array(), Path("/x") / folder, launcher)
    exports = "\n".join(line for line in text.split("\n# command")[0].split("# setup\n")[1:])
    done = subprocess.run(
        ["bash", "-c", exports + '\nprintf "%s\\0%s" "$WORD" "$SWEEPCTL_ARRAY"'],
        capture_output=True,
        env={**os.environ, VALUE + "WORD": value},
    )
    assert done.stdout.decode().split("\0") == [value, str(Path("/x") / folder)]


def test_a_script_asks_for_what_it_was_given() -> None:
    wanted = resources(partition="h100", gpus_per_node=8, nodes=2, tasks_per_node=8, mem_gb=1.5, time_min=90)
    text = script(an_array(resources=wanted, held=True), Path("/f"), slurm(sbatch={"nice": 5}))
    for line in ("--partition=h100", "--gpus-per-node=8", "--nodes=2", "--ntasks-per-node=8", "--mem=1536M",
                 "--time=90", "--hold", "--requeue", "--nice=5", "--array=0-1%2"):  # fmt: skip
        assert f"#SBATCH {line}\n" in text
    assert "--kill-on-bad-exit=1" in text and "scontrol requeue" in text
    assert "scontrol" not in script(an_array(), Path("/f"), slurm(commands_on_nodes=False))


def test_a_surrounding_job_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_CONF", "MASTER_PORT", "LOCAL_RANK", "TORCHELASTIC_RUN_ID", "HOMELY"):
        monkeypatch.setenv(name, "x")
    variables = set(commands.clean_environment())
    assert {"SLURM_CONF", "HOMELY"} <= variables
    assert not {"SLURM_JOB_ID", "MASTER_PORT", "LOCAL_RANK", "TORCHELASTIC_RUN_ID"} & variables
    assert os.environ["SLURM_JOB_ID"] == "x"


def failing(sweep_jobs: SweepJobs, *whys: tuple[str, int]) -> Any:
    """Attempts of the first trunk that ended so, each started at a step."""
    folder = only(sweep_jobs, "trunk")[0].folder
    for why, step in whys:
        attempt = attempts.claim(folder, {"start_step": step})
        assert attempt is not None
        attempt.end(why, error="x")
    return folder


@pytest.mark.parametrize(
    ("whys", "over"),
    [
        ([("failed", 0)], True),
        ([("out_of_memory", 0)], False),
        ([("out_of_memory", 0), ("out_of_memory", 0)], True),
        ([("out_of_memory", 0), ("out_of_memory", 7)], False),
        ([("died", 3)] * 3, False),
        ([("died", 3)] * 4, True),
        ([("died", 0), ("died", 3), ("died", 3), ("died", 3)], False),
        ([("failed", 0), ("stopped", 0)], False),
        ([("crashed", 0)], True),
        ([("done", 0)], False),
    ],
)
def test_each_class_has_its_budget(planned: Planner, whys: list[tuple[str, int]], over: bool) -> None:
    folder = failing(planned(), *whys)
    last = attempts.newest(folder)
    assert exhausted(folder, last, retries()) == over
    assert not exhausted(folder, last, retries(), forgiven=len(whys))


def test_a_launch_forgives_what_it_is_told_to(planned: Planner) -> None:
    sweep_jobs = planned()
    folder = failing(sweep_jobs, ("failed", 0))
    trunk = only(sweep_jobs, "trunk")[0].job.id
    assert choose(sweep_jobs, ["failed"]).forgiven == {trunk: 1}
    assert choose(sweep_jobs, [trunk[:6]]).forgiven == {trunk: 1}
    assert choose(sweep_jobs, ["none"]).left == {trunk: "x"} and not choose(sweep_jobs, ["diverged"]).forgiven
    with pytest.raises(RequestError, match="nosuch"):
        choose(sweep_jobs, ["nosuch"])
    cut_short = folder.attempts / "0002" / "attempt.json"
    cut_short.parent.mkdir()
    cut_short.write_text('{"attempt": 2, "host": "elsewhere", "pid": 1}')
    os.utime(cut_short, (0, 0))
    assert choose(sweep_jobs, ["failed"]).forgiven == {trunk: 2}


def an_order(sweep_jobs: SweepJobs, **settings: Any) -> SlurmOrder:
    hashes = {stage: plan.hash for stage, plan in sweep_jobs.plans.items()}
    return SlurmOrder(hashes, (), plain(slurm(**settings)), "code")


def test_what_has_a_task_needs_none(planned: Planner) -> None:
    sweep_jobs = planned()
    trunks, branches = only(sweep_jobs, "trunk"), only(sweep_jobs, "branch")
    needed = tasks_needed(sweep_jobs, an_order(sweep_jobs), {})
    assert {e.job.id for e in needed.now} == {e.job.id for e in trunks}
    assert {e.job.id for e in needed.later} == {e.job.id for e in branches}
    queue = {e.job.id: [as_task(f"1_{i}", "PENDING", "Priority")] for i, e in enumerate(trunks + branches)}
    assert tasks_needed(sweep_jobs, an_order(sweep_jobs), queue).queued == len(sweep_jobs.by_id)
    ending = {trunks[0].job.id: [as_task("1_0", "COMPLETING")]}  # perhaps it is being requeued
    assert trunks[0] not in tasks_needed(sweep_jobs, an_order(sweep_jobs), ending).now
    blind = {e.job.id: [as_task("1_0", "PENDING", "JobHeldUser")] for e in branches}
    needed = tasks_needed(sweep_jobs, an_order(sweep_jobs, commands_on_nodes=False), blind)
    assert len(needed.surplus) == len(needed.later) == len(branches)


def test_a_held_task_whose_checkpoint_is_there_is_released(planned: Planner) -> None:
    sweep_jobs = planned(ladder__depths=[1])
    sweep_jobs.make_wishes()
    [trunk] = only(sweep_jobs, "trunk")
    branch = only(sweep_jobs, "branch")[0]
    held = {branch.job.id: [as_task("7_3", "PENDING", "JobHeldUser")]}
    assert tasks_needed(sweep_jobs, an_order(sweep_jobs), held).release == []
    run_job(sweep_jobs, trunk)
    assert tasks_needed(sweep_jobs, an_order(sweep_jobs), held).release == ["7_3"]
    run_job(sweep_jobs, branch)
    assert tasks_needed(sweep_jobs, an_order(sweep_jobs), held).surplus == ["7_3"]


def test_a_task_that_runs_and_has_given_its_job_up_does_not_count(planned: Planner) -> None:
    sweep_jobs = planned()
    folder = failing(sweep_jobs)
    attempt = attempts.claim(folder, {"scheduler_id": "7_3"})
    assert attempt is not None
    attempt.end("failed", error="x")
    [trunk, *_] = only(sweep_jobs, "trunk")
    queue = {trunk.job.id: [as_task("7_3", "RUNNING")]}
    order, forgiven = an_order(sweep_jobs), {trunk.job.id: 1}
    assert trunk in tasks_needed(sweep_jobs, order, queue, forgiven).now
    assert (
        trunk
        not in tasks_needed(sweep_jobs, order, {trunk.job.id: [as_task("8_3", "RUNNING")]}, forgiven).now
    )
    assert trunk.job.id in tasks_needed(sweep_jobs, an_order(sweep_jobs), queue).exhausted


def test_records_are_found_again(planned: Planner) -> None:
    sweep_jobs = planned()
    records = Records(sweep_jobs.sweep)
    order = an_order(sweep_jobs)
    records.write_order(order)
    assert records.order(order.hash) == order == records.newest_order()
    jobs = tuple(sweep_jobs.by_id)
    for token, held in (("a1", False), ("b2", True)):
        records.intend(an_array(token=token, jobs=jobs, held=held))
    assert records.held_tasks(set(jobs), "c") == []
    records.forgive({"x": 2})
    records.forgive({"y": 1})
    assert records.forgiven() == {"x": 2, "y": 1}
    records.write_id("b2", "77")
    records.write_id("b2", "78")  # who learned it first was right
    assert records.held_tasks({jobs[1]}, "c") == ["77_1"]
    assert records.held_tasks({jobs[1]}, "another cluster") == [] and records.names() == {"77": "n.t"}
    records.close("b2", "over")
    assert [array.token for array in records.arrays()] == ["a1"]
    folder = records.array_folder("a1")
    begin_task(folder, 3, 0)
    assert not outrun(folder, 3, 0)
    begin_task(folder, 3, 1)
    assert outrun(folder, 3, 0) and not outrun(folder, 3, 1)


def test_an_order_is_the_plans_it_was_given(planned: Planner) -> None:
    sweep_jobs = planned(name="frozen")
    order = an_order(sweep_jobs)
    later = planned(name="frozen", optimizer__lr=0.01)
    assert set(order.sweep_jobs(sweep_jobs.sweep).by_id) == set(sweep_jobs.by_id) != set(later.by_id)


def test_only_ones_own_earlier_restart_is_taken_over(planned: Planner) -> None:
    sweep_jobs = planned()
    planned_job = only(sweep_jobs, "trunk")[0]
    here = Dispatch(scheduler_id="7_3", cluster="c", array="t", restart=1)
    manifest = sweep_jobs.manifest(planned_job, Execution(), here, gone=("9_9",))
    before = replace(here, restart=0)
    assert manifest.was_given_up(before)
    assert not manifest.was_given_up(here) and not manifest.was_given_up(replace(before, restart=2))
    assert not manifest.was_given_up(replace(before, array="other"))
    assert not manifest.was_given_up(replace(before, scheduler_id="7_4"))
    assert manifest.was_given_up(replace(before, scheduler_id="9_9"))
    assert not manifest.was_given_up(replace(before, scheduler_id="9_9", cluster="d"))
    assert not manifest.was_given_up(Dispatch())
    mine = attempts.claim(planned_job.folder, before.record())
    assert mine is not None and attempts.claim(planned_job.folder, here.record()) is None
    after = attempts.claim(planned_job.folder, here.record(), manifest.was_given_up)
    assert after is not None and attempts.superseded(planned_job.folder, mine)
