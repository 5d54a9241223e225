"""Predictions of a planned stage, made before it starts, and their score."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import sweepctl
from sweepctl.errors import RequestError, unknown_name
from sweepctl.laws import parametric
from sweepctl.laws.fit import Fit
from sweepctl.plan.plan import Job, Plan
from sweepctl.predict.carried import CarriedSetting, carried_share, probed
from sweepctl.store import predictions
from sweepctl.store.predictions import PredictedLoss, StagePrediction
from sweepctl.store.workspace import Sweep


@dataclass(frozen=True, slots=True)
class Scored:
    """One observation: predicted and, once it is there, measured. Losses in nats."""

    rung: str
    """Its name."""
    budget: str
    """As it was asked for."""
    n: float
    """Parameters under the study's convention."""
    d: float
    """Tokens."""
    predicted: float
    """The loss."""
    low: float
    """Lower end of the interval of a new run."""
    high: float
    """Its upper end."""
    measured: float | None
    """The loss; None while there is none."""
    parts: Mapping[str, float] | None = None
    """What the interval is made of; None of an early version."""

    @property
    def error(self) -> float | None:
        """Predicted over measured, minus one."""
        return self.predicted / self.measured - 1 if self.measured else None

    @property
    def inside(self) -> bool | None:
        """Whether the measured loss lies in the interval of a new run."""
        return self.low <= self.measured <= self.high if self.measured else None


def predict_stage(sweep: Sweep, stage: str, fit: Fit, post_hoc: bool) -> tuple[StagePrediction, bool]:
    """Write down the loss of every observation of a stage that was not predicted yet; the prediction of the
    whole stage, and whether any of it is new.

    An observation keeps the first prediction that was made before it began. With `post_hoc` one that has
    begun is predicted too, as what it is: not beforehand.

    Raises:
        RequestError: the stage is not planned, or a run that is left to predict has begun.
    """
    plan = _plan(sweep, stage)
    fresh, late = predictions.unpredicted(sweep, plan)
    if late and not post_hoc:
        raise RequestError(
            f"Stage {stage} has begun ({len(late)} of its runs, {late[0].id} first), so this would not be a "
            "prediction beforehand; --post-hoc writes it down as what it is."
        )
    plans = sweep.plans()
    probes = probed(sweep, plans)
    after_the_fact = [_predicted(plans, plan, job, fit, probes) for job in late]
    beforehand = [_predicted(plans, plan, job, fit, probes) for job in fresh]
    for losses, prior in ((beforehand, True), (after_the_fact, False)):
        if losses:
            _write(sweep, plan, StagePrediction(stage, prior, losses), fit)
    rows = predictions.prior(sweep) | {row.job: row for row in after_the_fact}
    whole = [rows[job.id] for job in plan.observations() if job.id in rows]
    return StagePrediction(stage, not late, whole), bool(fresh or late)


def _write(sweep: Sweep, plan: Plan, prediction: StagePrediction, fit: Fit) -> None:
    predictions.write(
        sweep,
        {
            "kind": "stage",
            "sweep": sweep.name,
            "plan": plan.hash,
            "sweepctl": sweepctl.__version__,
            "fit": fit.record() | {"samples": {}},
            **prediction.record(),
        },
    )


def _predicted(
    plans: Mapping[str, Plan], plan: Plan, job: Job, fit: Fit, probes: list[CarriedSetting]
) -> PredictedLoss:
    n, d = float(plan.counts(job).parameters(plan.accounting.parameters)), float(plan.tokens(job))
    share = carried_share(plans, probes, plan, n, job.point)
    loss = parametric.predict(fit, n, d).carrying(share)
    rung = plan.rung_of(job).name
    parts = None if loss.parts is None else dataclasses.asdict(loss.parts)
    return PredictedLoss(job.id, rung, job.label, n, d, loss.value, loss.interval, loss.run_interval, parts)


def score(sweep: Sweep, stage: str | None = None) -> dict[str, list[Scored]]:
    """Stage -> the first prior prediction of each observation against what was measured.

    Raises:
        RequestError: nothing was predicted.
    """
    scores: dict[str, list[Scored]] = {}
    prior = predictions.prior(sweep)
    for name, plan in sweep.plans().items():
        rows = [prior[job.id] for job in plan.observations() if job.id in prior]
        if rows and stage in (None, name):
            scores[name] = [_scored(sweep, plan, row) for row in rows]
    if not scores:
        raise RequestError(
            f"No stage of {sweep.name} was predicted before it started; "
            f"`sweepctl predict {sweep.name} --stage STAGE` does that."
        )
    return scores


def _scored(sweep: Sweep, plan: Plan, row: PredictedLoss) -> Scored:
    result = sweep.workspace.job(row.job).result()
    return Scored(
        rung=row.rung,
        budget=row.budget,
        n=row.n,
        d=row.d,
        predicted=row.loss_nats,
        low=row.run_interval[0],
        high=row.run_interval[1],
        measured=plan.validation.loss(result.loss_nats) if result else None,
        parts=row.parts,
    )


def _plan(sweep: Sweep, stage: str) -> Plan:
    plans = sweep.plans()
    if stage not in plans:
        raise unknown_name("planned stage", stage, plans)
    return plans[stage]
