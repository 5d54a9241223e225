"""The commands as a user types them: what they print, what they refuse, what they leave."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from omegaconf import OmegaConf
from PIL import Image

from sweepctl.cli import main
from sweepctl.spec.build import build
from sweepctl.spec.study import Study
from sweepctl.store.workspace import Workspace
from tests.conftest import Planner, only, run_all, tree

SMALL = [
    *("data=synthetic", "data.options.train_tokens=200000", "data.options.validation_tokens=66000"),
    *("ladder.aspect=8", "ladder.head_size=8", "ladder.depths=[1,2]", "stages={}", "budget.flops=[]"),
    *(
        "budget.min_steps=0",
        "budget.min_tokens_per_parameter=0",
        "budget.max_tokens=null",
        "schedule.warmup_steps=4",
        "name=small",
    ),
    *("batch.tokens=64", "batch.context=16", "validation.tokens=2048", "validation.curve_tokens=512"),
]
"""Overrides that make the demo a study of a second."""


def call(*arguments: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"SWEEPCTL_HOME": str(home)} if home else {}), "COLUMNS": "110"}
    return subprocess.run(
        [sys.executable, "-m", "sweepctl", *arguments], capture_output=True, text=True, env=environment
    )


def refused(*arguments: str, says: str) -> None:
    """Exit code 2, one sentence on standard error, nothing on standard output."""
    done = call(*arguments)
    assert done.returncode == 2, done
    assert done.stdout == "" and "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("sweepctl: ") and says in lines[0], done.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which the small study was planned, trained, and fitted as far as it goes."""
    folder = tmp_path_factory.mktemp("cli") / "sweeps"
    plan = call("plan", *SMALL, "budget.tokens=[1280,2560,5120,10240]", home=folder)
    assert plan.returncode == 0, plan.stderr
    launch = call("launch", "small", home=folder)
    assert launch.returncode == 0, launch.stdout + launch.stderr
    return folder


def test_every_table_also_comes_as_json(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The words, and once more as JSON: in this process, so that ten commands import what they need once."""
    monkeypatch.setenv("SWEEPCTL_HOME", str(home))
    monkeypatch.setenv("COLUMNS", "110")

    def printed(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["sweepctl", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        assert not end.value.code, (arguments, err)
        return out

    again = ["plan", *SMALL, "budget.tokens=[1280,2560,5120,10240]"]
    commands = {
        "plan": again,
        "launch": ["launch", "small"],
        "dry": ["launch", "small", "--dry-run"],
        "status": ["status", "small"],
        "collect": ["collect", "small"],
        "fit": ["fit", "small", "--law", "parametric", "--option", "replicates=20"],
        "predict": ["predict", "small", "--n", "1e5", "--d", "1e6"],
        "report": ["report", "small"],
        "cancel": ["cancel", "small"],
        "clean": ["clean", "small"],
    }
    shown: dict[str, Any] = {}
    for name, command in commands.items():
        shown[name] = json.loads(printed(*command, "--json"))
        assert printed(*command).strip(), name
    stage = next(iter(shown["plan"]["stages"].values()))
    assert stage["exists"] == len(stage["jobs"]) == 10 and stage["new"] == 0
    for rung in stage["rungs"]:
        assert rung["exact_flops_per_token"] == 3 * rung["forward_flops_per_token"]
        assert rung["decode_flops_per_token"] == rung["forward_flops_per_token"]
        assert rung["parameters"]["active_non_embedding"] == rung["parameters"]["non_embedding"]
    schedules = {row["kind"]: row for row in shown["plan"]["schedules"]}
    assert list(schedules) == ["wsd", "multistep", "cosine", "constant", "wsd-s"]
    assert [kind for kind, row in schedules.items() if row["own"]] == ["wsd"]
    assert schedules["wsd"]["tokens"] == stage["cost"]["tokens"]
    assert schedules["cosine"]["tokens"] == stage["cost"]["tokens_from_scratch"]
    assert shown["launch"]["finished"] == [] and shown["dry"]["to_train"] == []
    assert shown["status"]["complete"] and len(shown["status"]["jobs"]) == 10
    assert shown["collect"]["rows"]["runs"] == 8 and shown["collect"]["runs"] == {"done": 8}
    assert set(shown["fit"]) >= {"law", "protocol", "accounting", "params", "intervals", "objective", "flags"}
    assert shown["predict"]["loss_nats"]["value"] > 0
    assert (
        shown["cancel"] == {"cancelled": [], "spared": [], "left_alone": {}, "done": False}
        and shown["clean"]["jobs"] == {}
    )
    assert len(shown["report"]["runs"]) == 8


def test_the_composed_study_can_be_read_and_is_what_is_planned(tmp_path: Path) -> None:
    done = call("plan", "--cfg", *SMALL, "budget.tokens=[1280]", "optimizer.lr=0.5", home=tmp_path)
    assert build(Study, OmegaConf.to_container(OmegaConf.create(done.stdout))).optimizer.lr == 0.5  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_the_picture_is_drawn(home: Path) -> None:
    call("report", "small", home=home)
    with Image.open(home / "small" / "fit.png") as picture:
        assert min(picture.size) > 500 and len(picture.convert("RGB").getcolors(1 << 24) or ()) > 20


def test_a_table_of_ones_own_can_be_fitted(tmp_path: Path, home: Path) -> None:
    runs = pd.read_parquet(home / "small" / "runs.parquet")
    for name in ("runs.csv", "runs.parquet"):
        path = tmp_path / name
        runs.to_csv(path) if path.suffix == ".csv" else runs.to_parquet(path)
        columns = ["--n", "n_total", "--d", "tokens", "--loss", "loss_nats", "--flops", "flops_exact"]
        done = call("fit", str(path), "--law", "parametric", "--option", "replicates=10", *columns, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["rows_used"] == [str(i) for i in range(8)]


def test_plan_writes_where_it_is_told_and_names_the_sweep(workspace: Workspace) -> None:
    done = call("plan", *SMALL[3:], "data=synthetic", "budget.tokens=[1280]", "name=mine")
    assert done.returncode == 0, done.stderr
    assert workspace.sweep_names() == ["mine"] and "sweepctl launch mine" in done.stdout


def test_a_plan_labels_wsd_s_and_shows_what_a_rule_sets(workspace: Workspace) -> None:
    rule = ("scaling.tokens_per_parameter=10", "scaling.fields.optimizer.lr='base / L'")
    small = (*SMALL[3:], "data=synthetic", "budget.tokens=[2560,5120]", "optimizer.lr=0.02")
    done = call("plan", *small, "schedule=wsd_s", *rule, "name=mine")
    assert done.returncode == 0, done.stderr
    assert re.search(r"\* WSD-S, decay 0.2 +everything, decays too: another law", done.stdout)
    assert "optimizer.lr by rung, as the scaling rule has it: 0.02, 0.01" in done.stdout


def test_the_plan_shows_all_and_active_parameters(workspace: Workspace) -> None:
    arguments = ["plan", *SMALL, "budget.tokens=[1280]", "accounting.parameters=non_embedding"]
    head = [line for line in call(*arguments).stdout.splitlines() if "rung" in line]
    assert "N active" not in head[0]
    head = [line for line in call(*arguments, "model=moe").stdout.splitlines() if "rung" in line]
    assert "N total   N active" in head[0]
    document = json.loads(call(*arguments, "model=moe", "--json").stdout)
    counts = document["stages"]["all"]["rungs"][0]["parameters"]
    assert counts["idle"] == 6 * 2 * 8 * (32 // 2) and counts["active"] == counts["total"] - counts["idle"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["plan", "optimizer.lr=fast"], "optimizer.lr"),
        (["plan", "optimizer.lr=-1"], "optimizer.lr"),
        (["plan", "optimizer.nosuch=1"], "nosuch"),
        (["plan", "nosuch=1"], "nosuch"),
        (["plan", "study=nosuch"], "nosuch"),
        (["plan", "ladder=nosuch"], "nosuch"),
        (["plan", "optimizer.lr"], "optimizer.lr"),
        (["plan", "optimizer.lr=[1"], "optimizer.lr"),
        (["plan", "name=../outside"], "name"),
        (["plan", "name=store"], "store"),
        (["plan", "batch.tokens=100"], "batch"),
        (["plan", "schedule.decay.shape=wavy"], "wavy"),
        (["plan", "schedule.warmup_steps=1000000"], "warmup"),
        (["plan", "data.name=nosuch", "data.source=prepared"], "nosuch"),
        (["plan", "--config-dir", "nosuch"], "nosuch"),
        (["plan", "--flops-per-s", "0"], "--flops-per-s"),
        (["plan", "--flops-per-s", "nan"], "--flops-per-s"),
        (["plan", "--tokens-per-s", "0"], "--tokens-per-s"),
        (["plan", "--mfu", "2"], "--mfu"),
        (["plan", "--mfu", "0.4", "--flops-per-s", "1"], "state the same"),
        (["plan", "--on", "nosuch"], "nosuch"),
        (["plan", "--devices", "0"], "--devices"),
        (["plan", "budget.tokens=1,2"], "budget.tokens=[1,2]"),
        (["plan", "ladder=demo,minicpm"], "not a group"),
        (["plan", "data=prepared", "name=q"], "data.name"),
        (["plan", "budget.min_steps=100000000", "stages={}"], "no budget left"),
        (["plan", "stages.lr.grid.axes={optimizer.lr: [1e-3]}"], "another form"),
        (["plan", "warmup_steps=4,8", "stages={}"], "warmup_steps"),
        (["launch", "nosuch"], "nosuch"),
        (["launch", "ready", "--on", "nosuch"], "there is batch, local, slurm"),
        (["launch", "ready", "--on", "nosuch"], "nosuch"),
        (["launch", "ready", "workers=many"], "workers"),
        (["launch", "ready", "nosuch=1"], "nosuch"),
        (["launch", "ready", "--stage", "nosuch"], "nosuch"),
        (["status", "nosuch"], "nosuch"),
        (["status", "../ready"], "../ready"),
        (["status", "ready", "--watch", "--every", "0"], "--every"),
        (["status", "ready", "--watch", "--json"], "--watch"),
        (["logs", "nosuch", "a"], "nosuch"),
        (["logs", "ready", "nosuch"], "nosuch"),
        (["logs", "ready", ""], "no job"),
        (["collect", "nosuch"], "nosuch"),
        (["cancel", "ready", "--job", "nosuch"], "nosuch"),
        (["clean", "ready", "--keep", "some"], "keep"),
        (["fit", "ready"], "loss"),
        (["fit", "nosuch.csv"], "nosuch.csv"),
        (["fit", "ready", "--law", "nosuch"], "nosuch"),
        (["fit", "ready", "--reduce", "x"], "best, mean or none"),
        (["fit"], "a sweep, or a"),
        (["fit", "law.tsv"], ".csv or .parquet"),
        (["predict", "ready", "--stage", "all", "--flops", "1e10"], "one by one"),
        (["predict", "ready", "--flops", "1e20"], "fit"),
        (["predict", "ready", "--stage", "nosuch"], "fit"),
        (["predict", "ready", "--score"], "predict"),
        (["data", "prepare", "store/x", "--train", "nosuch"], "store/x"),
        (["data", "prepare", "x", "--train", "nosuch.txt"], "nosuch.txt"),
        (["data", "prepare", "x"], "--train"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_writes_nothing(
    planned: Planner, workspace: Workspace, arguments: list[str], says: str, monkeypatch, capsys
) -> None:
    planned(name="ready")
    shutil.copytree(workspace.corpus("synthetic"), workspace.corpus("pysrc"))
    before = tree(workspace.root)
    monkeypatch.setattr("sys.argv", ["sweepctl", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == "" and says in err
    assert err.startswith("sweepctl: ") and len(err.strip().splitlines()) == 1
    after = tree(workspace.root)
    assert {k: v for k, v in after.items() if not k.startswith("ready/") or "parquet" not in k} == before


def test_what_the_parser_refuses_is_no_traceback_either(workspace: Workspace) -> None:
    for arguments in (["nosuch"], ["launch"], ["predict", "x", "--flops", "many"], ["plan", "--nosuch"]):
        done = call(*arguments)
        assert done.returncode == 2 and "Traceback" not in done.stderr and done.stderr


def test_other_data_than_the_plans_is_refused_before_anything_trains(
    planned: Planner, workspace: Workspace
) -> None:
    sweep_jobs = planned(name="ready")
    shutil.rmtree(workspace.corpus("synthetic"))
    refused("launch", "ready", says="synthetic")
    prepared = call("data", "prepare", "synthetic", "--source", "synthetic")
    assert prepared.returncode == 0, prepared.stderr
    refused("launch", "ready", says="was made on")
    assert not (workspace.root / "store").exists() and len(sweep_jobs.by_id) == 6


def test_an_unreadable_shard_is_refused_before_anything_trains(
    planned: Planner, workspace: Workspace
) -> None:
    planned(name="ready")
    [shard, *_] = sorted(workspace.corpus("synthetic").glob("train-*.bin"))
    shard.write_bytes(shard.read_bytes()[:1000])
    refused("launch", "ready", says=shard.name)
    shard.unlink()
    refused("launch", "ready", says=shard.name)
    assert not (workspace.root / "store").exists()


def test_a_foreign_checkpoint_is_refused(planned: Planner) -> None:
    sweep_jobs = planned(name="ready")
    run_all(sweep_jobs)
    trunk, other = only(sweep_jobs, "trunk")
    shutil.rmtree(trunk.folder.checkpoints)
    for branch in only(sweep_jobs, "branch"):
        (branch.folder.path / "result.json").unlink()
    shutil.copytree(other.folder.checkpoints, trunk.folder.checkpoints)
    before = tree(sweep_jobs.sweep.workspace.root / "store")
    refused("launch", "ready", says=f"of job {other.job.id}")
    assert tree(sweep_jobs.sweep.workspace.root / "store") == before


def test_the_story_of_a_job_is_told(home: Path) -> None:
    jobs = json.loads(call("status", "small", "--json", home=home).stdout)["jobs"]
    job = next(job["id"] for job in jobs if job["kind"] == "branch")
    story = call("logs", "small", job[:12], home=home)
    assert story.returncode == 0 and story.stdout.startswith(job) and "done after" in story.stdout
    assert json.loads(call("logs", "small", job, "--json", home=home).stdout)["attempts"][0]["metrics"]
    assert call("logs", "small", job, "-f", home=home).stdout == story.stdout
    assert call("logs", "small", job, "--process", home=home).returncode == 0
    wrong = call("logs", "small", job, "--json", "-f", home=home)
    assert wrong.returncode == 2 and "--json" in wrong.stderr


def test_a_followed_job_that_is_not_over_ends_with_ctrl_c(planned: Planner) -> None:
    sweep_jobs = planned(name="ready", ladder__depths=[1])
    command = [
        sys.executable,
        "-u",
        "-m",
        "sweepctl",
        "logs",
        "ready",
        only(sweep_jobs, "branch")[0].job.id,
        "-f",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() and process.stdout.readline().startswith("Not started: it waits for")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130 and errors == ""


def test_status_is_watched_until_all_is_done_with_or_without_seconds(home: Path) -> None:
    for option in (["--watch"], ["--watch", "--every", "1"]):
        done = call("status", "small", *option, home=home)
        assert done.returncode == 0 and "Everything the plans want is there." in done.stdout
    assert call("status", "--watch", "small", home=home).returncode == 0


def test_a_damaged_record_is_one_sentence(planned: Planner) -> None:
    sweep_jobs = planned(name="ready")
    sweep_jobs.sweep.pointer.write_text('{"stages": ')
    done = call("status", "ready")
    assert done.returncode == 1 and "damaged" in done.stderr and "Traceback" not in done.stderr


def test_a_damaged_result_is_trained_again(planned: Planner) -> None:
    sweep_jobs = planned(name="ready", ladder__depths=[1])
    run_all(sweep_jobs)
    branch = only(sweep_jobs, "branch")[0]
    good = (branch.folder.path / "result.json").read_text()
    (branch.folder.path / "result.json").write_text(good[:20])
    done = call("launch", "ready", "workers=1")
    assert done.returncode == 0, done.stderr
    again = json.loads((branch.folder.path / "result.json").read_text())
    assert again["loss_nats"] == json.loads(good)["loss_nats"]


def test_a_workspace_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    done = call("plan", *SMALL, "budget.tokens=[1280]", home=tmp_path / "file" / "sweeps")
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr and str(tmp_path) in done.stderr
