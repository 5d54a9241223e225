"""Fitting a law to observations, and asking the fit for predictions."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

import numpy as np

from sweepctl.errors import RequestError, unknown_name
from sweepctl.laws.fit import Answer, Fit, Target
from sweepctl.laws.holdout import backtest
from sweepctl.laws.law import Law, Resampling
from sweepctl.laws.observations import CannotFit, Observations
from sweepctl.laws.registry import LAWS

BAD_RECORD = "bad_record"
"""The flag of a law that did badly where it was not fitted."""
JUDGED, ENOUGH = 3, 0.8
"""A record of fewer rows says nothing; one is bad where fewer than this share lay inside."""
OF_LOSS = ("parametric", "isoflop")
"""The laws that `fit` without --law makes."""


def law_of(name: str) -> Law:
    """A law by name.

    Raises:
        RequestError: there is none.
    """
    if name not in LAWS:
        raise unknown_name("law", name, LAWS)
    return LAWS[name]


def fit_law(law: Law, data: Observations, options: Resampling) -> Fit:
    """Fit a law.

    Raises:
        RequestError: the data do not carry the law.
    """
    try:
        data.require(*law.needs)
        if not len(data):
            raise CannotFit(f"There is no row for {law.name} to fit.")
        with computing(law):
            fit = law.fit(data, options)
    except CannotFit as error:
        reasons = Counter(reason for _, reason in data.excluded)
        left_out = "; ".join(f"{number} left out: {reason}" for reason, number in reasons.items())
        raise RequestError(f"{error}{f' ({left_out})' if left_out else ''}") from None
    if law.reduced and data.accounting.get("reduction", "none") == "none" and _repeats(data):
        fit.flags.append("repeated:n_d")
    if "schedule" in data.accounting:  # another law than that of most runs
        fit.flags.append(f"schedule:{data.accounting['schedule']}")
    return fit


@contextlib.contextmanager
def computing(law: Law) -> Iterator[None]:
    """What numbers many orders of magnitude apart lead to is a refusal, not a traceback or a warning.

    Raises:
        CannotFit: the arithmetic failed.
    """
    try:
        with np.errstate(all="ignore"):
            yield
    except (ArithmeticError, np.linalg.LinAlgError, MemoryError) as error:
        cause = str(error).partition("\n")[0] or type(error).__name__
        raise CannotFit(
            f"{law.name} cannot be computed from these numbers and options ({cause}): is a row, a target "
            "or an option orders of magnitude from the rest?"
        ) from None


def fit_and_test(law: Law, data: Observations, options: Resampling) -> Fit:
    """Fit a law, and predict each of the larger sizes from those below it: the law's own record, which scales
    the intervals of its predictions.

    Raises:
        RequestError: the data do not carry the law.
    """
    fit = fit_law(law, data, options)
    with contextlib.suppress(CannotFit), computing(law):
        fit.backtests = backtest(law, data, options, fit)
    inside, judged = fit.record_of_backtests()
    if judged >= JUDGED and inside < ENOUGH * judged:
        fit.flags.append(f"{BAD_RECORD}:{inside}_of_{judged}")
    return fit


def predict_at(law: Law, fit: Fit, targets: list[Target]) -> None:
    """Put predictions at the targets on the fit.

    Raises:
        RequestError: this fit has no prediction for a target.
    """
    for target in targets:
        try:
            with computing(law):
                estimates = law.predict(fit, target)
        except CannotFit as error:
            raise RequestError(str(error)) from None
        fit.predictions.append(Answer(target, estimates))


def _repeats(data: Observations) -> bool:
    if not {"n", "d"} <= set(data.columns):
        return False
    groups = data.labels.get("group", ("",) * len(data))
    return len(set(zip(data.n, data.d, groups, strict=True))) < len(data)
