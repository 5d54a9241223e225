"""The options of a batch script: what a launcher's file says is in it as its user means it, or is refused."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepctl.errors import RequestError
from sweepctl.launch.script_words import shell_word
from sweepctl.launch.slurm.commands import sentence
from sweepctl.launch.slurm.doctor import _advice
from sweepctl.launch.slurm.script import script
from sweepctl.launch.slurm.settings import whole_minutes
from sweepctl.spec.compose import compose_launcher

from .settings import resources, slurm
from .test_slurm import an_array


def text(**changes: Any) -> str:
    settings = slurm(**changes)
    return script(an_array(resources=settings.resources), Path("/f"), settings)


def options(**sbatch: Any) -> dict[str, str]:
    lines = text(sbatch={name.replace("_", "-"): value for name, value in sbatch.items()})
    return dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", lines, re.MULTILINE))


def test_false_and_empty_leave_an_option_out() -> None:
    chosen = options(exclusive=False, reservation="", comment_=None, nice=0, spread_job=True)
    assert {"exclusive", "reservation"}.isdisjoint(chosen)
    assert chosen["nice"] == "0" and chosen["spread-job"] == ""


@pytest.mark.parametrize(
    ("sbatch", "expected"),
    [
        ({}, {"requeue"}),
        ({"requeue": True}, {"requeue"}),
        ({"requeue": False}, {"no-requeue"}),
        ({"no_requeue": True}, {"no-requeue"}),
        ({"no_requeue": False}, {"requeue"}),
    ],
)
def test_to_be_requeued_or_not_is_said_once(sbatch: dict[str, bool], expected: set[str]) -> None:
    assert {"requeue", "no-requeue"} & set(options(**sbatch)) == expected


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sbatch": {"time": "1:00"}}, r"resources\.time_min"),
        ({"sbatch": {"nodes": 2}}, r"resources\.nodes"),
        ({"sbatch": {"ntasks-per-node": 4}}, r"resources\.tasks_per_node"),
        ({"sbatch": {"mem": "4G"}, "resources": {"mem_gb": 4}}, r"resources\.mem_gb"),
        ({"sbatch": {"mem-per-gpu": "80G"}, "resources": {"mem_gb": 64}}, r"resources\.mem_gb"),
        ({"sbatch": {"gpus": 8}, "resources": {"gpus_per_node": 8}}, r"resources\.gpus_per_node"),
        ({"sbatch": {"t": "1:00"}}, "long name"),
        ({"sbatch": {"tim": "1:00"}}, "whole name"),
        ({"sbatch": {"clusters": "a"}}, "SLURM_CLUSTERS"),
        ({"sbatch": {"mail-user": "$USER"}}, r"sbatch\.mail-user.*oc\.env"),
        ({"resources": {"partition": "$WHERE"}}, r"resources\.partition.*oc\.env"),
        ({"environment": {"A B": "c"}}, "the name of a variable"),
        ({"python": "apptainer exec 'x"}, "python"),
        ({"python": " "}, "python"),
        ({"srun_args": ["a\nb"]}, "srun_args"),
        ({"setup": "module load cuda"}, r"setup=\['module load cuda'\]"),
        ({"resources": {"time_min": "soon"}}, r"resources\.time_min.*1-12:00"),
        ({"rungs": {"*x24": {"time_min": "soon"}}}, r"rungs\.\*x24\.time_min"),
        ({"rungs": {"*x24": {"sbatch": {"nodes": 1}}}}, r"rungs\.\*x24\.sbatch\.nodes"),
        ({"rungs": {"*x24": {"execution": {"keep": "none"}}}}, r"rungs\.\*x24\.execution\.keep"),
        ({"rungs": {"*x24": {"retries": {"died": 1}}}}, "retries"),
    ],
)
def test_what_would_not_do_what_it_says_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        slurm(**changes)


@pytest.mark.parametrize(("option", "key"), [("mem-per-gpu", "mem_gb"), ("gpus", "gpus_per_node")])
def test_an_option_may_say_what_no_resource_says(option: str, key: str) -> None:
    assert f"#SBATCH --{option}=8\n" in text(sbatch={option: "8"}, resources={key: None})


def test_an_empty_resource_is_none() -> None:
    wanted = resources(account="", gres="", gpus_per_node="")
    assert wanted.account is wanted.gres is wanted.gpus_per_node is None


@pytest.mark.parametrize(
    ("time", "minutes"),
    [("90", 90), ("90:30", 91), ("04:00:00", 240), ("1-12", 2160), ("1-12:30", 2190), ("2-00:00:01", 2881)],
)
def test_a_time_as_slurm_writes_it(time: str, minutes: int) -> None:
    assert whole_minutes(time) == resources(time_min=time).time_min == minutes
    assert slurm(rungs={"*": {"time_min": time}}, save_ahead_s=30).resources_of("8x1").time_min == minutes
    [override] = [f"resources.time_min={time}"]
    assert slurm(**compose_launcher("slurm", [override])).resources.time_min == minutes


def last_line(python: str | None, **changes: Any) -> str:
    return text(python=python, **changes).splitlines()[-1]


def test_python_may_be_a_command_line(tmp_path: Path) -> None:
    module = "-u -P -m sweepctl.launch.slurm.task"
    container = "apptainer exec --nv --bind '/a b' image.sif python3"
    assert last_line(container).endswith(f" {container} {module}")
    assert last_line("$CONDA_PREFIX/bin/python").endswith(f" $CONDA_PREFIX/bin/python {module}")
    with_blank = tmp_path / "my python"
    with_blank.touch()
    assert last_line(str(with_blank)).endswith(f" '{with_blank}' {module}")


@given(
    words=st.text(st.characters(codec="ascii", exclude_characters="\0\n\r"), max_size=12),
    reference=st.sampled_from(["$PLACE", "${PLACE}", ""]),
)
def test_arguments_of_srun_expand_variables_alone(words: str, reference: str) -> None:
    """On the node, where the script runs. A $ that begins no name of ours is a $ (`$PLACE` apart)."""
    head = words.replace("$", "$ ")
    command = f"printf %s {shell_word(head + reference)}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, env={"PLACE": "it 's"})
    assert done.stdout.decode() == head + ("it 's" if reference else "")


def test_rungs_have_options_of_their_own() -> None:
    settings = slurm(
        sbatch={"nice": 1, "exclusive": True},
        srun_args=["--cpu-bind=cores"],
        environment={"A": "a", "B": "b"},
        rungs={
            "*x24": {
                "nodes": 2,
                "sbatch": {"reservation": "big", "exclusive": False},
                "srun_args": ["--mpi=none"],
                "environment": {"B": "c"},
                "execution": {"compile": True},
            }
        },
    )
    large = settings.of_rung("64x24")
    assert (large.resources.nodes, large.execution.compile) == (2, True)
    assert large.environment == {"A": "a", "B": "c"} and large.srun_args == ("--mpi=none",)
    assert large.options == {"nice": 1, "reservation": "big", "requeue": True}
    lines = script(an_array(resources=large.resources, rung="64x24"), Path("/f"), settings)
    assert "#SBATCH --reservation=big\n" in lines and "--mpi=none" in lines and "exclusive" not in lines
    small = settings.of_rung("8x1")
    assert small.options["exclusive"] is True and small.execution.compile == "auto"
    assert not small.within(large)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("srun_args=[--cpu-bind=cores]", "srun_args=['a b', 'c=d']"),
        ("setup=[source a.sh && b]", "setup=['a b', 'c=d']"),
        ("sbatch.mail-type=FAIL,END", "sbatch.mail-type='...'"),
    ],
)
def test_how_to_quote_is_told(override: str, says: str) -> None:
    with pytest.raises(RequestError, match=re.escape(says)):
        compose_launcher("slurm", [override])


def test_a_refused_option_is_named() -> None:
    said = "sbatch: unrecognized option '--no-such'\nTry \"sbatch --help\" for more information\n"
    assert sentence(said) == "sbatch: unrecognized option '--no-such'"
    assert "sbatch` options" in _advice(sentence(said))


@pytest.mark.parametrize(
    ("refusal", "advice"),
    [
        ("QOSMaxSubmitJobPerUserLimit", "other jobs"),
        ("AssocMaxSubmitJobLimit", "other jobs"),
        ("AssocMaxWallDurationPerJobLimit", "time_min"),
        ("QOSMaxCpuPerUserLimit", "Ask for less"),
        ("", "Ask for less"),
        ("Invalid account or account/partition combination specified", "resources.account"),
        ("Invalid qos specification", "resources.qos"),
    ],
)
def test_a_limit_is_not_told_as_an_account(refusal: str, advice: str) -> None:
    policy = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
    limits = not refusal.startswith("Invalid")
    assert advice in _advice(
        f"sbatch: {refusal}; Batch job submission failed" + (f": {policy}" if limits else "")
    )
