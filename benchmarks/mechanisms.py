"""Ways to start a branch at its checkpoint, each as bash jobs with the same trunk."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.slurm_site import Site, site, spread, until

CHECKPOINTS, EVERY_S, TAIL_S = 8, 3.37, 3.0
NOTE = "date +%s.%N >"


@dataclass(frozen=True)
class Mechanism:
    """How branches begin."""

    name: str
    """As the table shows it."""
    on_nodes: str
    """Whether it works where nodes may not call Slurm."""
    slots: str
    """Whether branches take places of the queue before they can start."""
    submit: Callable[[Site, Path, str], None]
    """Sends everything that is sent in advance."""
    reached: str = ":"
    """What the trunk's script does after checkpoint $i."""


def _sbatch(here: Site, folder: Path, script: str, *options: str) -> str:
    return here.ask(
        *("sbatch", "--parsable", f"--output={folder}/%A_%a.out", "--cpus-per-task=1", "--mem=100"),
        *options, "--wrap", script,
    ).split(";")[0]  # fmt: skip


BRANCH = "; ".join(
    [
        "i=${B:-$SLURM_ARRAY_TASK_ID}",
        f"{NOTE} FOLDER/start.$i",
        "until [ -e FOLDER/ck.$i ]; do sleep 1; done",
        f"{NOTE} FOLDER/work.$i",
        "sleep 1",
    ]
)
ALL = f"--array=1-{CHECKPOINTS}"


def _trunk(folder: Path, reached: str) -> str:
    """A trunk that takes EVERY_S from checkpoint to checkpoint, and goes on after the last."""
    return (
        f"{NOTE} {folder}/trunk.start; for i in $(seq {CHECKPOINTS}); do sleep {EVERY_S}; "
        f"{NOTE} {folder}/ck.$i.tmp; mv {folder}/ck.$i.tmp {folder}/ck.$i; {reached}; done; sleep {TAIL_S}; "
        f"{NOTE} {folder}/trunk.end"
    )


def _held(here: Site, folder: Path, branch: str) -> None:
    array = _sbatch(here, folder, branch, "--hold", ALL)
    _sbatch(here, folder, _trunk(folder, f"scontrol release {array}_$i"))


def _from_inside(here: Site, folder: Path, branch: str) -> None:
    (folder / "branch.sh").write_text(f"#!/bin/sh\n{branch}\n")
    call = f"B=$i sbatch --parsable --output={folder}/b%A.out --cpus-per-task=1 --mem=100 {folder}/branch.sh"
    _sbatch(here, folder, _trunk(folder, call))


def _after(word: str) -> Callable[[Site, Path, str], None]:
    def submit(here: Site, folder: Path, branch: str) -> None:
        trunk = _sbatch(here, folder, _trunk(folder, ":"))
        _sbatch(here, folder, branch, ALL, f"--dependency={word}:{trunk}")

    return submit


def _in_pieces(here: Site, folder: Path, branch: str) -> None:
    """The trunk ends at every checkpoint: task i of its array is the piece that leads to checkpoint i."""
    piece = (
        f"i=$SLURM_ARRAY_TASK_ID; {NOTE} {folder}/piece.$i; sleep {EVERY_S}; "
        f"{NOTE} {folder}/ck.$i.tmp; mv {folder}/ck.$i.tmp {folder}/ck.$i"
    )
    trunk = _sbatch(here, folder, piece, f"{ALL}%1")
    _sbatch(here, folder, branch, ALL, f"--dependency=aftercorr:{trunk}")


MECHANISMS = (
    Mechanism("held, released by the trunk's task (the default)", "no", "yes", _held),
    Mechanism("sbatch from inside the trunk's task", "no", "no", _from_inside),
    Mechanism("afterok on the trunk", "yes", "yes", _after("afterok")),
    Mechanism("afterany on the trunk (commands_on_nodes: false)", "yes", "yes", _after("afterany")),
    Mechanism("aftercorr, the trunk cut into an array of pieces", "yes", "yes", _in_pieces),
    Mechanism("after, tasks wait (commands_on_nodes: false, wait_min)", "yes", "yes", _after("after")),
)


def mechanisms() -> list[dict[str, Any]]:
    """Every mechanism with the same trunk: a script that sleeps, with a branch a checkpoint."""
    rows = []
    with site() as here:
        for number, mechanism in enumerate(MECHANISMS):
            folder = here.folder / f"mechanism{number}"
            folder.mkdir()
            here.forget()
            mechanism.submit(here, folder, BRANCH.replace("FOLDER", str(folder)))
            paths = [folder / f"work.{i + 1}" for i in range(CHECKPOINTS)]
            until(lambda paths=paths: all(path.exists() and path.read_text().strip() for path in paths), 120)
            calls = [name for _, name, _ in here.calls()]
            here.drain()

            def at(kind: str, i: int, folder: Path = folder) -> float:
                return float((folder / f"{kind}.{i}").read_text())

            each = range(1, CHECKPOINTS + 1)
            pieces = [at("piece", i + 1) - at("ck", i) for i in each if (folder / f"piece.{i + 1}").exists()]
            rows.append(
                {
                    "mechanism": mechanism.name,
                    "latency": spread([at("work", i) - at("ck", i) for i in each]),
                    "calls_a_branch": len(calls) / CHECKPOINTS,
                    "idle_s_a_branch": statistics.mean(at("work", i) - at("start", i) for i in each),
                    "trunk_stands_s": statistics.median(pieces) if pieces else 0.0,
                    "without_commands_on_nodes": mechanism.on_nodes,
                    "slots_in_advance": mechanism.slots,
                }
            )
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    print(f"  a checkpoint every {EVERY_S:g} s, {CHECKPOINTS} of them, {TAIL_S:g} s more after the last")
    print(
        "  | | latency, s (worst) | calls a branch | idle, s a branch | trunk stands, s | "
        "no commands on nodes | slots in advance |"
    )
    for r in rows:
        print(
            f"  | {r['mechanism']} | {r['latency']['median']:.2f} ({r['latency']['worst']:.2f}) | "
            f"{r['calls_a_branch']:.2f} | {r['idle_s_a_branch']:.1f} | {r['trunk_stands_s']:.2f} | "
            f"{r['without_commands_on_nodes']} | {r['slots_in_advance']} |"
        )
