"""Commands while jobs run: launch them, look at them, stop them, clear up."""

from __future__ import annotations

import itertools
import sys
from typing import Annotated

import typer

from sweepctl.cli.app import AsJson, ConfigDir, Overrides, SweepName, app, positive
from sweepctl.errors import RequestError


@app.command()
def launch(
    sweep: SweepName,
    overrides: Overrides = None,
    on: Annotated[str, typer.Option(help="Which machine: a file of launchers/.")] = "local",
    stage: Annotated[str | None, typer.Option(help="Only this stage.")] = None,
    retry: Annotated[
        list[str] | None, typer.Option(help="failed (the default), diverged, none, or a job (repeatable).")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be trained or submitted; do nothing.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="On a cluster: come back when everything has ended.")
    ] = False,
    require_check: Annotated[
        bool, typer.Option("--require-check", help="Only with a coordinate check that holds on record.")
    ] = False,
    config_dir: ConfigDir = None,
    as_json: AsJson = False,
) -> None:
    """Train what the sweep's plans want and the store lacks. Asking twice trains nothing twice."""
    from sweepctl.launch.launcher import LaunchRequest, read_launcher
    from sweepctl.launch.prepare import launchable
    from sweepctl.launch.retry import choose
    from sweepctl.report.console import console, many, show_json
    from sweepctl.report.launch_view import LaunchView
    from sweepctl.report.launched import launched_json, rehearsal_json, show_launched, show_rehearsal
    from sweepctl.report.submitted import Waiting
    from sweepctl.spec.compose import compose_launcher
    from sweepctl.store.workspace import Workspace

    planned = Workspace.default().known_sweep(sweep)
    launcher = read_launcher(on, compose_launcher(on, overrides or [], config_dir))
    sweep_jobs, held_stages = launchable(planned, stage)
    if require_check:
        from sweepctl.check.verdicts import require

        require(planned.workspace, sweep_jobs.plans.values())
    request = LaunchRequest(sweep_jobs, held_stages, choose(sweep_jobs, retry or ["failed"]))
    out = console()
    if dry_run:
        rehearsal = launcher.rehearse(request)
        show_json(rehearsal_json(request, rehearsal)) if as_json else show_rehearsal(out, request, rehearsal)
        return
    with LaunchView(sweep_jobs, None if as_json else out) as view:
        outcome = launcher.launch(request, view)
    if not as_json:
        show_launched(out, request, outcome, stays=wait)
    left = launcher.wait(sweep_jobs, Waiting(out, quiet=as_json)) if wait and outcome.goes_on else None
    if as_json:
        show_json(launched_json(request, outcome) | ({} if left is None else {"left": left}))
    elif left:
        out.print(f"{many(len(left), 'job')} left; `sweepctl status {sweep}` says why.")
    if left or outcome.exit_code:
        raise SystemExit(outcome.exit_code or 1)


@app.command()
def status(
    sweep: SweepName,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again until all is there.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between looks.")] = 5.0,
    as_json: AsJson = False,
) -> None:
    """Where every job stands, how far the sweep is, what is wrong. Changes nothing."""
    from sweepctl.launch.queue_memory import QUEUE_S, QueueMemory
    from sweepctl.launch.status import full_status
    from sweepctl.report.console import console, show_json
    from sweepctl.report.status import show_status, status_json, watch_status
    from sweepctl.store.sweep_jobs import SweepJobs
    from sweepctl.store.workspace import Workspace

    positive("--every", every)
    if watch and as_json:
        raise RequestError("--watch shows screen after screen and --json one document; ask for one of them.")
    planned = Workspace.default().known_sweep(sweep)
    if watch:
        memory = QueueMemory(QUEUE_S)
        watch_status(console(), lambda: full_status(SweepJobs(planned, planned.plans()), memory), every)
        return
    now = full_status(SweepJobs(planned, planned.plans()))
    show_json(status_json(now)) if as_json else show_status(console(), now)


@app.command()
def logs(
    sweep: SweepName,
    job: Annotated[str, typer.Argument(help="A job's id, or the beginning of one.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it goes on.")] = False,
    attempt: Annotated[int | None, typer.Option(help="This attempt, instead of the newest.")] = None,
    process: Annotated[bool, typer.Option("--process", help="What its process wrote to its log.")] = False,
    as_json: AsJson = False,
) -> None:
    """One job: who tried it when, how its losses went, why it ended. Changes nothing."""
    from sweepctl.launch.logs import find_job, read_job_log
    from sweepctl.launch.status import stillborn_log
    from sweepctl.report.console import console, show_json
    from sweepctl.report.logs import follow_job, job_log_json, show_job_log, show_process
    from sweepctl.store.sweep_jobs import SweepJobs
    from sweepctl.store.workspace import Workspace

    planned = Workspace.default().known_sweep(sweep)
    sweep_jobs = SweepJobs(planned, planned.plans())
    planned_job = find_job(sweep_jobs, job)
    if as_json:
        if follow or process:
            raise RequestError("--json prints attempts as they are now; -f and --process print text.")
        show_json(job_log_json(read_job_log(sweep_jobs, planned_job, attempt)))
    elif follow:
        follow_job(console(), sweep_jobs, planned_job, attempt, process)
    elif process:
        stillborn = stillborn_log(planned, planned_job.job.id) if attempt is None else None
        show_process(console(), read_job_log(sweep_jobs, planned_job, attempt), stillborn)
    else:
        show_job_log(console(), read_job_log(sweep_jobs, planned_job, attempt))


@app.command()
def cancel(
    sweep: SweepName,
    job: Annotated[list[str] | None, typer.Option(help="Only this job (repeatable).")] = None,
    state: Annotated[list[str] | None, typer.Option(help="Only jobs in this state (repeatable).")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Cancel without asking.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stop the sweep's unfinished jobs, sparing what another sweep wants. `launch` takes them up again."""
    from sweepctl.launch.cancel import cancel as cancel_jobs
    from sweepctl.launch.cancel import choose
    from sweepctl.report.console import console, many, show_json
    from sweepctl.report.submitted import show_left_alone
    from sweepctl.store.sweep_jobs import SweepJobs
    from sweepctl.store.workspace import Workspace

    planned = Workspace.default().known_sweep(sweep)
    sweep_jobs = SweepJobs(planned, planned.plans())
    choice = choose(sweep_jobs, job, state)
    jobs = many(len(choice.cancelled), "job")
    spared = f"; {len(choice.spared)} spared, another sweep wants them" if choice.spared else ""
    if not yes and not as_json and choice.cancelled:
        console().print(f"{jobs} to cancel{spared}.")
        yes = sys.stdin.isatty() and typer.confirm("Cancel them?")
        if not yes:
            console().print("Nothing cancelled; --yes cancels.")
            return
    if yes:
        choice = cancel_jobs(sweep_jobs, choice)
    if as_json:
        shown = {"cancelled": choice.cancelled, "spared": choice.spared, "left_alone": choice.left_alone}
        show_json(shown | {"done": yes})
    else:
        console().print(f"{jobs} cancelled{spared}. Their checkpoints stay.")
        show_left_alone(console(), choice.left_alone)


@app.command()
def clean(
    sweep: SweepName,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
    keep: Annotated[str, typer.Option(help="Checkpoints of finished jobs: none, last or all.")] = "all",
    as_json: AsJson = False,
) -> None:
    """Delete what this sweep once wanted and no plan wants any more. Shows it first."""
    from sweepctl.launch.clean import delete, find
    from sweepctl.report.clean import clean_json, show_clean
    from sweepctl.report.console import console, show_json
    from sweepctl.store.workspace import Workspace

    planned = Workspace.default().known_sweep(sweep)
    unwanted = find(planned, keep)
    if as_json:
        show_json(clean_json(unwanted, deleted=yes))
    else:
        show_clean(console(), unwanted, sweep)
        if unwanted.empty:
            return
        if not yes and not (sys.stdin.isatty() and typer.confirm("Delete these?")):
            console().print("Nothing deleted; --yes deletes.")
            return
        yes = True
    if yes:
        delete(planned, unwanted)


@app.command()
def doctor(
    overrides: Overrides = None,
    on: Annotated[str, typer.Option(help="Which machine: a file of launchers/.")] = "slurm",
    job: Annotated[
        bool, typer.Option("--job/--no-job", help="Send a short job that looks around on a node.")
    ] = True,
    wait_min: Annotated[float, typer.Option(help="How long that job may wait in the queue.")] = 5.0,
    config_dir: ConfigDir = None,
    as_json: AsJson = False,
) -> None:
    """Check what usually goes wrong before a launch: commands, limits, disk, and a node from inside."""
    from sweepctl.launch.gpu_memory import memory_findings
    from sweepctl.launch.launcher import read_launcher
    from sweepctl.report.console import console, show_json
    from sweepctl.report.doctor import DoctorView, findings_json
    from sweepctl.spec.compose import compose_launcher
    from sweepctl.store.workspace import Workspace

    positive("--wait-min", wait_min)
    launcher = read_launcher(on, compose_launcher(on, overrides or [], config_dir))
    view = DoctorView(None if as_json else console())
    findings = []
    try:
        workspace = Workspace.default()
        own = launcher.examine(workspace, view.say, job, wait_min)
        for finding in itertools.chain(memory_findings(launcher, workspace), own):
            findings.append(finding)
            view.show(finding)
    finally:
        view.close()
    show_json(findings_json(findings)) if as_json else view.end(findings)
    if any(finding.verdict == "failed" for finding in findings):
        raise SystemExit(1)
