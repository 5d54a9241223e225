"""A Slurm cluster looked over before a launch: its commands, its partitions against what the launcher's file
asks for, Slurm's own verdict on the script, its limits, and one short job that looks around on a node."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from sweepctl.launch.doctor import Finding, Say, disk_findings, own_folder, team_finding, workspace_finding
from sweepctl.launch.slurm import commands
from sweepctl.launch.slurm.commands import SlurmError
from sweepctl.launch.slurm.node_check import check_node
from sweepctl.launch.slurm.records import Array, new_token
from sweepctl.launch.slurm.script import script
from sweepctl.launch.slurm.settings import Resources, SlurmSettings
from sweepctl.launch.slurm.shell import Shell
from sweepctl.spec import hashing
from sweepctl.spec.build import plain
from sweepctl.store.workspace import Workspace

PROGRAMS = ("sbatch", "squeue", "scontrol", "scancel")
LITTLE_KILL_WAIT_S = 10
"""Less than this between being told to end and the end is little for a checkpoint."""
LITTLE_SAVE_AHEAD_S = 30
LITTLE_MEMORY_MB = 4000
_USELESS = ("DOWN", "DRAIN", "FAIL", "NOT_RESPONDING", "MAINT", "FUTURE", "UNKNOWN")
_PAIR = re.compile(r"(\w+)=(.*?)(?=\s+\w+=|$)")


@dataclass(frozen=True, slots=True)
class ResourceGroup:
    """Resources that some rungs share."""

    name: str
    """The rungs; empty for the launcher's own resources."""
    launcher: SlurmSettings
    """The launcher's settings with theirs in place."""

    @property
    def resources(self) -> Resources:
        """What a task of theirs asks for."""
        return self.launcher.resources


def resource_groups(launcher: SlurmSettings) -> list[ResourceGroup]:
    """The launcher's own resources, then those of rungs that differ."""
    groups: dict[str, tuple[SlurmSettings, list[str]]] = {}
    for rung in ("", *launcher.rungs):
        settings = launcher.of_rung(rung)
        groups.setdefault(hashing.canonical(plain(settings)), (settings, []))[1].append(rung)
    return [ResourceGroup(", ".join(filter(None, rungs)), own) for own, rungs in groups.values()]


def examine_slurm(
    workspace: Workspace, shell: Shell, say: Say, job: bool, wait_min: float
) -> Iterator[Finding]:
    """Every check, the cheap ones first. What needs one that failed is left out, or said to be skipped."""
    launcher = shell.settings
    yield shell_finding(shell)
    with own_folder(workspace) as folder:
        good = True
        for finding in _without_job(workspace, launcher, folder, say):
            good = good and finding.verdict != "failed"
            yield finding
        if not job:
            yield Finding("job", "skipped", "--no-job: nothing is known of the compute nodes")
        elif not good or not isinstance(folder, Path):
            yield Finding("job", "skipped", "sent once the above is right: it shows what a node is like")
        else:
            unknown = any(re.match("gpus|gres", option) for option in launcher.sbatch)
            gpus = None if unknown else gpus_asked(launcher.resources)[1]
            yield from check_node(folder, launcher, gpus, say, wait_min)


def shell_finding(shell: Shell) -> Finding:
    """Which variables of the shell Slurm or a launch goes by."""
    parts = [f"in force: {', '.join(shell.in_force)}"] if shell.in_force else []
    if shell.overruled:
        parts.append(f"the launcher's file says otherwise: {', '.join(shell.overruled)}")
    if shell.unused:
        text = "; ".join([*parts, f"not used: {', '.join(shell.unused)}"])
        return Finding("shell", "warning", text, "Set what they say in the launcher's resources or sbatch.")
    return Finding("shell", "ok", "; ".join(parts) or "no variable of the shell says anything of Slurm")


def _without_job(
    workspace: Workspace, launcher: SlurmSettings, folder: Path | OSError, say: Say
) -> Iterator[Finding]:
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        yield Finding(
            "commands",
            "failed",
            f"{', '.join(missing)} not on the PATH",
            "Run this on a login node of the cluster, or load its Slurm module first.",
        )
    else:
        yield Finding("commands", "ok", f"{', '.join(PROGRAMS)} are on the PATH")
        say("asking the controller")
        yield from _cluster(launcher)
    yield workspace_finding(workspace, folder)
    if isinstance(folder, Path):
        yield team_finding(workspace, folder)
        yield from disk_findings(folder / "login")


def _cluster(launcher: SlurmSettings) -> Iterator[Finding]:
    try:
        config = commands.settings()
        version = config.get("SLURM_VERSION", "version unknown")
        name = config.get("ClusterName", "(unnamed)")
        yield Finding("controller", "ok", f"{name} answers, Slurm {version}")
        yield _accounting()
        partitions = {
            facts["PartitionName"]: facts for facts in _show("partition") if "PartitionName" in facts
        }
        nodes = _show("nodes")
        groups = resource_groups(launcher)
        for group in groups:
            good = True
            for finding in _place(group, partitions, nodes, config):
                good = good and finding.verdict != "failed"
                yield _named(finding, group, groups)
            if good:
                yield _named(_verdict(group.launcher, name), group, groups)
        yield _room(launcher)
        yield _ending(launcher, groups, partitions, config)
        yield _time(launcher, groups)
        yield _requeue(launcher)
    except SlurmError as error:
        yield Finding(
            "controller",
            "failed",
            str(error).rstrip("."),
            "See `scontrol ping`; wait for the controller, or check SLURM_CONF.",
        )


def _named(finding: Finding, group: ResourceGroup, groups: list[ResourceGroup]) -> Finding:
    return (
        replace(finding, text=f"{group.name}: {finding.text}") if group.name and len(groups) > 1 else finding
    )


def _show(what: str) -> list[dict[str, str]]:
    lines = commands.ask("scontrol", "-a", "-o", "show", what).splitlines()
    return [{m[1]: m[2].strip() for m in _PAIR.finditer(line)} for line in lines]


def _accounting() -> Finding:
    try:
        commands.ask("sacct", "-n", "-X", "--starttime=now")
    except SlurmError:
        return Finding("accounting", "ok", "off: states come from files and squeue")
    return Finding("accounting", "ok", "sacct answers")


# A class of resources against the partitions that it names


def _place(
    group: ResourceGroup,
    partitions: dict[str, dict[str, str]],
    nodes: list[dict[str, str]],
    config: dict[str, str],
) -> Iterator[Finding]:
    wanted = group.resources
    names = wanted.partition.split(",") if wanted.partition else _defaults(partitions)
    key = f"rungs.{group.name}.partition" if group.name and "," not in group.name else "resources.partition"
    choices = " or ".join(partitions)
    if not names:
        yield Finding("partition", "failed", "the cluster has no default", f"Set {key} to {choices}.")
        return
    findings: list[Finding] = []
    for name in names:
        if name not in partitions:
            yield Finding("partition", "failed", f"there is no partition {name}", f"Set {key} to {choices}.")
            return
        findings.append(_fits(name, wanted, partitions[name], nodes, config))
    if any(finding.verdict != "failed" for finding in findings):  # one of several that fits is enough
        findings = [replace(f, verdict="warning") if f.verdict == "failed" else f for f in findings]
    yield from findings


def _defaults(partitions: dict[str, dict[str, str]]) -> list[str]:
    return [name for name, facts in partitions.items() if facts.get("Default") == "YES"]


def _fits(
    name: str,
    wanted: Resources,
    partition: dict[str, str],
    nodes: list[dict[str, str]],
    config: dict[str, str],
) -> Finding:
    state = partition.get("State", "UP")
    if state != "UP":
        advice = "Wait until it is up, or name another partition."
        return Finding("partition", "failed", f"{name} is {state}", advice)
    longest = minutes(partition.get("MaxTime", "UNLIMITED"))
    if longest is not None and wanted.time_min > longest:
        return Finding(
            "partition",
            "failed",
            f"time_min is {wanted.time_min}, {name} allows {longest} min",
            f"Set time_min to at most {longest}: a task that needs more saves, is requeued and goes on.",
        )
    members = [node for node in nodes if name in node.get("Partitions", "").split(",")]
    lacks = _lacks(name, wanted, members)
    if lacks:
        return Finding("partition", "failed", *lacks)
    fitting = [node for node in members if not _lacks(name, wanted, [node])]
    usable = [node for node in fitting if not _useless(node.get("State", ""))]
    asked = ", ".join(_asked(wanted))
    text = f"{name}: {len(fitting)} of {len(members)} nodes can give {asked}, for {wanted.time_min} min"
    text += f"; {wanted.nodes} are asked for" if wanted.nodes > 1 else ""
    if len(fitting) < wanted.nodes:
        return Finding("partition", "failed", text, f"Ask for fewer than {wanted.nodes} nodes.")
    if len(usable) < wanted.nodes:
        text += f", {len(usable)} of them in service"
        return Finding("partition", "warning", text, "Jobs will wait: see `sinfo -R` for why nodes are out.")
    memory = _default_memory(wanted, partition, config)
    if memory is not None and memory < LITTLE_MEMORY_MB:
        text += f"; without mem_gb a node gives {memory:,} MB"
        return Finding("partition", "warning", text, "Set resources.mem_gb: torch alone takes 1 to 3 GB.")
    return Finding("partition", "ok", text)


def minutes(text: str) -> int | None:
    """Slurm's `[days-]hours:minutes:seconds` as whole minutes, None for no limit."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if match is None:
        return None
    days, hours, mins = (int(part or 0) for part in match.groups()[:3])
    return (days * 24 + hours) * 60 + mins


def gpus_asked(wanted: Resources) -> tuple[str | None, int]:
    """The type (None: any) and number of GPUs of a node."""
    if wanted.gpus_per_node is not None:
        return None, wanted.gpus_per_node
    return next(((kind, number) for kind, number in _gpus(wanted.gres or "")), (None, 0))


def _gpus(gres: str) -> Iterator[tuple[str | None, int]]:
    """`gpu:h100:8(S:0-1),gpu:4` as types and numbers."""
    for item in re.sub(r"\([^)]*\)", "", gres).removeprefix("gres/").split(","):
        kind, *rest = re.split("[:=]", item)
        if kind == "gpu":
            number = int(rest.pop()) if rest and rest[-1].isdigit() else 1
            yield (rest[0] if rest else None), number


def _gpus_of(node: dict[str, str], kind: str | None) -> int:
    return sum(number for own, number in _gpus(node.get("Gres", "")) if kind in (None, own))


def _asked(wanted: Resources) -> list[str]:
    kind, gpus = gpus_asked(wanted)
    cpus = wanted.tasks_per_node * (wanted.cpus_per_task or 1)
    parts = [f"{gpus} {kind + ' ' if kind else ''}GPU{'s' if gpus > 1 else ''}"] if gpus else ["no GPU"]
    parts.append(f"{cpus} CPU{'s' if cpus > 1 else ''}")
    if wanted.mem_gb is not None:
        parts.append(f"{wanted.mem_gb:g} GB")
    return parts


def _lacks(name: str, wanted: Resources, nodes: list[dict[str, str]]) -> tuple[str, str] | None:
    """What no node of a partition can give, and what to ask for instead; None: one can."""
    if wanted.constraint and re.fullmatch(r"[\w.-]+", wanted.constraint):
        features = {f for node in nodes for f in node.get("AvailableFeatures", "").split(",")} - {"(null)"}
        if wanted.constraint not in features:
            choices = " or ".join(sorted(features - {""})) or "null: they have none"
            return f"no node of {name} has the feature {wanted.constraint}", f"Set constraint to {choices}."
        nodes = [n for n in nodes if wanted.constraint in n.get("AvailableFeatures", "").split(",")]
    if not nodes:
        return f"{name} has no nodes", "Name another partition."
    kind, gpus = gpus_asked(wanted)
    cpus = wanted.tasks_per_node * (wanted.cpus_per_task or 1)
    memory = round((wanted.mem_gb or 0) * 1024)
    capacities = [
        (_gpus_of(n, kind), _number(n, "CPUEfctv", "CPUTot"), _number(n, "RealMemory")) for n in nodes
    ]
    if any(g >= gpus and c >= cpus and m >= memory for g, c, m in capacities):
        return None
    most = [max(capacity[i] for capacity in capacities) for i in range(3)]
    if most[0] < gpus:
        return _too_many_gpus(name, kind, gpus, most[0], nodes)
    if most[1] < cpus:
        text = f"{cpus} CPUs a node, the nodes of {name} have at most {most[1]}"
        return text, f"Set cpus_per_task to at most {max(1, most[1] // wanted.tasks_per_node)}."
    if most[2] < memory:
        text = f"mem_gb is {wanted.mem_gb:g}, the nodes of {name} have at most {most[2] / 1024:.4g}"
        return text, f"Set mem_gb to at most {most[2] // 1024}."
    return f"no single node of {name} has {', '.join(_asked(wanted))}", "Ask for less of one of them."


def _too_many_gpus(
    name: str, kind: str | None, gpus: int, most: int, nodes: list[dict[str, str]]
) -> tuple[str, str]:
    kinds = sorted({own for node in nodes for own, _ in _gpus(node.get("Gres", "")) if own})
    what = f"{kind} GPU" if kind else "GPU"
    if most:
        return (
            f"{gpus} {what}s a node, the nodes of {name} have at most {most}",
            f"Ask for at most {most} a node, and for more nodes.",
        )
    if kind and kinds:
        return f"no node of {name} has a {what}", f"Set gres to a kind that is there: {', '.join(kinds)}."
    return f"no node of {name} has a GPU", "Name a GPU partition, or set gpus_per_node: null."


def _number(facts: dict[str, str], *keys: str) -> int:
    return next((int(facts[key]) for key in keys if facts.get(key, "").isdigit()), sys.maxsize)


def _useless(state: str) -> bool:
    return state.endswith("*") or any(word in state for word in _USELESS)


def _default_memory(wanted: Resources, partition: dict[str, str], config: dict[str, str]) -> int | None:
    """MB that a node gives where nothing is asked for; None: all it has, or not known."""
    if wanted.mem_gb is not None or "DefMemPerGPU" in partition.get("JobDefaults", ""):
        return None
    for facts in (partition, config):
        if facts.get("DefMemPerNode", "").isdigit():
            return int(facts["DefMemPerNode"])
        if facts.get("DefMemPerCPU", "").isdigit():
            return int(facts["DefMemPerCPU"]) * wanted.tasks_per_node * (wanted.cpus_per_task or 1)
    return None


# Slurm's own verdict


def _verdict(launcher: SlurmSettings, cluster: str) -> Finding:
    """What sbatch says to the script that a launch would submit."""
    try:
        text = commands.test_only(launch_script(launcher, cluster, Path("/tmp")))
    except SlurmError as error:
        return Finding("sbatch", "failed", str(error).rstrip("."), _advice(str(error)))
    return Finding("sbatch", "ok", "Slurm would take it: " + re.sub(r"^Job \d+ (?=to start)", "", text))


def launch_script(launcher: SlurmSettings, cluster: str, folder: Path) -> str:
    """The script of a launch, of an array of one task."""
    token = new_token()
    array = Array(token, "", f"doctor.{token}", cluster, ("doctor",), launcher.resources)
    return script(array, folder, launcher)


def _advice(refusal: str) -> str:
    refusal = refusal.replace("(job submit limit, user's size and/or time limits)", "")  # said of every limit
    for words, advice in (
        ("SubmitJob", "Wait for your other jobs: `sacctmgr show assoc,qos` lists limits."),
        ("MaxWall", "Set a shorter time_min: a task that needs more saves, is requeued and goes on."),
        ("(Max|Grp|Min)[A-Z]|accounting/QOS policy", "Ask for less: `sacctmgr show assoc,qos` lists limits."),
        ("(?i)account|qos", "Set resources.account and resources.qos: `sacctmgr show assoc` lists yours."),
        ("(?i)time limit", "Set a shorter time_min: a task that needs more saves, is requeued and goes on."),
        ("(?i)node co(nfiguration|unt)|processors", "Ask for less: `sinfo -o '%P %D %c %m %G'` lists it."),
        ("(?i)feature", "Correct resources.constraint: `sinfo -o '%P %f'` lists features."),
        ("(?i)gres", "Correct resources.gres: `sinfo -o '%P %G'` lists what there is."),
        ("(?i)reservation", "Correct sbatch.reservation: `scontrol show reservation` lists them."),
        ("(?i)unrecognized option|invalid option", "Correct the launcher's `sbatch` options."),
    ):  # fmt: skip
        if re.search(words, refusal):
            return advice
    return "Change the launcher's resources or sbatch options as Slurm says."


# Limits


def _room(launcher: SlurmSettings) -> Finding:
    limits = commands.limits(launcher.max_submitted, 1000)
    text = f"arrays of up to {limits.array:,} tasks"
    if limits.room is None:
        return Finding("limits", "ok", f"{text}; no limit of yours is known")
    text += f"; {limits.room:,} more fit into the queue now ({limits.why})"
    if limits.room == 0:
        return Finding(
            "limits", "warning", text, "Wait for jobs to end: what does not fit now is submitted later."
        )
    return Finding("limits", "ok", text)


def _ending(
    launcher: SlurmSettings,
    groups: Iterable[ResourceGroup],
    partitions: dict[str, dict[str, str]],
    config: dict[str, str],
) -> Finding:
    """How a task that is in the way is ended, and how long it has for a last checkpoint."""
    wait = _seconds(config.get("KillWait", ""))
    shortest, sentences = wait, [f"tasks have {wait} s from SIGTERM to the end (KillWait)"]
    modes: dict[str, str] = {}
    if config.get("PreemptType", "preempt/none") != "preempt/none":
        for group in groups:
            named = group.resources.partition
            for name in named.split(",") if named else _defaults(partitions):
                mode = partitions.get(name, {}).get("PreemptMode", "OFF")
                if mode != "OFF":
                    modes[name] = mode
    for name, mode in modes.items():
        grace = _seconds(partitions[name].get("GraceTime", ""))
        does = next((verb for word, verb in _PREEMPTED.items() if word in mode), mode.lower())
        sentences.append(
            f"in {name} preempted ones are {does}" + (f" after {grace} s (GraceTime)" if grace else "")
        )
        shortest = min(shortest, grace) if grace else shortest
    text = "; ".join(sentences)
    if any("REQUEUE" not in mode for mode in modes.values()):
        return Finding(
            "ending", "warning", text, "After a preemption launch again: it takes up what is missing."
        )
    if shortest < LITTLE_KILL_WAIT_S:
        every = f"{launcher.execution.checkpoint_every_s:g}"
        return Finding(
            "ending",
            "warning",
            text,
            f"A slower save is lost: keep execution.checkpoint_every_s ({every}) as short as you can bear.",
        )
    return Finding("ending", "ok", text)


_PREEMPTED = {"REQUEUE": "requeued", "CANCEL": "cancelled", "SUSPEND": "suspended", "GANG": "suspended"}


def _seconds(text: str) -> int:
    match = re.match(r"\d+", text)
    return int(match[0]) if match else 0


def _time(launcher: SlurmSettings, groups: list[ResourceGroup]) -> Finding:
    ahead, shortest = launcher.save_ahead_s, min(group.resources.time_min for group in groups)
    text = f"tasks save {ahead} s before their {shortest} min are over"
    if ahead < LITTLE_SAVE_AHEAD_S:
        return Finding("time", "warning", text, "Raise save_ahead_s to 60 or more: a save may take longer.")
    if 2 * ahead > 60 * shortest:
        return Finding(
            "time",
            "warning",
            text,
            "More than half of the time is given away: raise time_min or lower save_ahead_s.",
        )
    return Finding("time", "ok", text)


def _requeue(launcher: SlurmSettings) -> Finding:
    if "no-requeue" in launcher.options:
        return Finding(
            "requeue",
            "warning",
            "the launcher's sbatch options forbid it",
            "Remove them, or launch again whenever tasks run out of time.",
        )
    return Finding("requeue", "ok", "tasks ask to be requeued when they run out of time or are preempted")
