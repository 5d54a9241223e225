"""What a batch script does where its task did not end by its own decision: it leaves a trace, and goes back
into the queue, elsewhere, as long as that gets anywhere.

It is shell, because Python may be what is missing. In the array's folder:

    tasks/I.R.over      task I ended its R-th restart by its own decision; holds the node
    tasks/I.ends        its other ends, a line each: restart, seconds since the epoch, node or -, exit code
    tasks/I.progress    how many of those had happened when it last got further: they count no more
"""

from __future__ import annotations

import shlex

RESTARTS = 3
"""How often in a row a task is started again that got no further."""
REFUSED = 3
"""The exit code of a task that the file system has refused too long: no node's fault."""

_TRACE = f"""\
sweepctl_end() {{
  code=$?
  trap "" TERM
  tasks="$SWEEPCTL_ARRAY/tasks/$SLURM_ARRAY_TASK_ID"
  restart="${{SLURM_RESTART_COUNT:-0}}"
  excluded=@excluded@
  task="${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
  if [ "$code" -eq 0 ] || [ -e "$tasks.$restart.over" ]; then exit "$code"; fi
@still_ours@
  node="$SLURMD_NODENAME"
  if [ "${{SLURM_JOB_NUM_NODES:-1}}" -gt 1 ] || [ "$code" -eq {REFUSED} ]; then node=-; fi
  echo "$restart $(date +%s) $node $code" >> "$tasks.ends"
@again@
  exit "$code"
}}
trap sweepctl_end EXIT"""

_STILL_OURS = """\
  state=
  for pause in 1 5 15 30 60 0; do
    state="$(squeue -h -r -j "$task" -o %T)" && break
    sleep "$pause"
  done
  if [ "$state" != RUNNING ]; then exit "$code"; fi"""
"""Slurm has cancelled it, requeued it or ended it: then that is that."""

_NOT_TOLD = """\
  if [ "$code" -ge 128 ]; then exit "$code"; fi"""
"""Where nobody may ask Slurm: a signal may have been its own."""

_AGAIN = f"""\
  ends="$(wc -l < "$tasks.ends" || echo $((restart + 1)))"
  since="$(cat "$tasks.progress" 2>/dev/null || echo 0)"
  if [ $((ends - since)) -gt {RESTARTS} ]; then
    echo "sweepctl: it ended $((ends - since)) times without getting further, and is not started again"
    exit "$code"
  fi
  avoid=
  failed="$(tail -n +$((since + 1)) "$tasks.ends" | cut -d" " -f3 | grep -vx -e - | sort -u | paste -sd, -)"
  for nodes in "$failed" "$node"; do
    if [ -n "$nodes" ] && [ "$nodes" != - ] && [ -z "$avoid" ] \\
        && sbatch --test-only --exclude="$excluded$nodes" "$0" > /dev/null 2>&1; then
      avoid="$excluded$nodes"
    fi
  done
  for pause in 1 5 15 30 60 0; do
    scontrol requeue "$task" && break
    sleep "$pause"
  done
  if [ -n "$avoid" ]; then scontrol update JobId="$task" ExcNodeList="$avoid"; fi
@whole_array@
  sleep 60"""
"""Elsewhere where Slurm says that there is an elsewhere."""

_WHOLE_ARRAY = """\
  if [ -n "$avoid" ] && [ "$(cat "$SWEEPCTL_ARRAY"/tasks/*.ends | grep -c " $node ")" -ge @most@ ]; then
    scontrol update JobId="$SLURM_ARRAY_JOB_ID" ExcNodeList="$avoid"
  fi"""
"""What waits of the array does not have to meet the same node one task after another."""

_STRICT = """\
trap 'code=$?; if [ ${#BASH_SOURCE[@]} -le 1 ]; then
  echo "sweepctl: a line of setup failed with exit code $code: $BASH_COMMAND"; exit "$code"; fi' ERR"""


def trace(
    commands_on_nodes: bool, requeues: bool, excluded: str | None, exclude_node_after: int | None
) -> str:
    """The lines that see a task's end. `requeues`: whether Slurm may start it again. `excluded`: the nodes
    that its script excludes already."""
    text = _TRACE.replace("@still_ours@", _STILL_OURS if commands_on_nodes else _NOT_TOLD)
    text = text.replace("@again@", _AGAIN if commands_on_nodes and requeues else "")
    whole = "" if exclude_node_after is None else _WHOLE_ARRAY.replace("@most@", str(exclude_node_after))
    text = text.replace("@whole_array@", whole).replace(
        "@excluded@", shlex.quote(f"{excluded}," if excluded else "")
    )
    return "\n".join(line for line in text.splitlines() if line)


def strict(setup: tuple[str, ...]) -> list[str]:
    """Lines of setup that end the task where one of them fails, whatever fails inside a file it sources."""
    return [_STRICT, *setup, "trap - ERR"] if setup else []
