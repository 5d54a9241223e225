"""A study's stages to plans: each as soon as the values it takes from earlier stages are there."""

from __future__ import annotations

from sweepctl.launch.stage_values import MissingResults, stage_values
from sweepctl.plan.expand import expand
from sweepctl.plan.plan import Plan
from sweepctl.spec.corpus import CorpusFacts
from sweepctl.spec.study import Study
from sweepctl.store.workspace import Workspace


def plan_stages(
    workspace: Workspace, study: Study, corpus: CorpusFacts
) -> tuple[dict[str, Plan], dict[str, MissingResults]]:
    """The plans of every stage that can be planned now, and why the others cannot."""
    plans: dict[str, Plan] = {}
    waiting: dict[str, MissingResults] = {}
    for stage in study.all_stages:
        taken = stage_values(workspace, study, stage, plans)
        if isinstance(taken, MissingResults):
            waiting[stage] = taken
        else:
            plans[stage] = expand(study, stage, corpus, tuple(taken))
    return plans, waiting
