"""Loss curves under a changing learning rate: a branch's final loss, or another schedule's curve, from the
trunk and a few branches.

Tissue et al. 2024 (arXiv 2408.11029, equation 2): L = L0 + A S1^-alpha - C S2, S1 the sum of learning rates
and S2 the annealing area, the sum of a momentum (0.999) of the learning rate's falls. Luo et al. 2025 (arXiv
2503.12811, equation 3), the multi-power law: every fall of the learning rate lowers the loss by a power law
of what was trained since. Both are fitted by the sum of Huber losses (delta 1e-3) of log residuals over all
points of all fitted runs. The optimum of the multi-power law is sloppy: judge it by the objective and by
predicted losses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sweepctl.laws.curve.forms import LEAST, Design, Form, MultiPower, Tissue, refine
from sweepctl.laws.curve.runs import Run, Sums, runs
from sweepctl.laws.fit import (
    NO_INTERVAL,
    Answer,
    Estimate,
    Fit,
    Interval,
    Parts,
    Prediction,
    Target,
    claim,
    misfit,
    percentile_interval,
)
from sweepctl.laws.law import Law, Resampling, option
from sweepctl.laws.numerics import linear
from sweepctl.laws.observations import CannotFit, Floats, Observations

NAME = "curve"
MOMENTA = (0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9998, 0.9999)
"""What fit_lambda chooses from."""
COARSE = 24
"""Bins of falls a run behind starts and replicates."""
AGREES = 0.01
"""Starts agree where their objectives differ by less than this share: the valley is flat."""
NEARLY = 0.99
"""Share of a run's updates from which on its last measured loss is its final one."""
DRAWN = 300
"""Points of a curve that the picture gets."""


@dataclass(frozen=True, slots=True)
class Options(Resampling):
    """Every choice of the protocol."""

    form: Literal["tissue", "multipower"] = option("tissue", "which law")
    lambda_: float = option(0.999, "momentum of the annealing area S2 (tissue)")
    fit_lambda: bool = option(False, "choose lambda from .9 to .9999 by the objective (tissue)")
    delta: float = option(1e-3, "where the Huber loss turns from square to absolute")
    warmup: int | None = option(None, "updates of warmup; none: until the learning rate stops rising")
    warmup_counts: Literal["published", "peak", "own", "none"] = option(
        "published", "warmup in S1: as at its end (tissue), as it was (multipower), or not at all"
    )
    warmup_rise: bool = option(False, "the rise of warmup counts as a negative fall")
    skip: int | None = option(None, "leave out losses up to this update; none: those during warmup")
    every: int = option(1, "fit every k-th point of a run")
    hold_out: int = option(0, "predict the runs that end last, this many, instead of fitting them")
    bins: int = option(128, "bins that the falls of a run are gathered in (multipower)")
    resample: Literal["auto", "runs", "blocks"] = option(
        "auto", "behind the intervals: whole runs (auto: from 10 on) or blocks of residuals along runs"
    )
    block: int | None = option(None, "points in a block; none: from the autocorrelation of the residuals")

    def __post_init__(self) -> None:
        Resampling.__post_init__(self)
        if not 0 <= self.lambda_ < 1:
            raise CannotFit(f"curve needs a lambda_ of at least 0 and below 1; it is {self.lambda_:g}.")
        if not self.delta > 0:
            raise CannotFit(f"curve needs a delta above 0; it is {self.delta:g}.")
        for name, least in (
            ("warmup", 0),
            ("skip", 0),
            ("every", 1),
            ("hold_out", 0),
            ("bins", 1),
            ("block", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise CannotFit(f"curve needs {name} to be at least {least}; it is {value}.")


@dataclass
class _Solution:
    """A form fitted to points: x [1, k] in its variables, on the fine and on the coarse design."""

    form: Form
    sums: Sums
    x: Floats
    objective: float
    starts: tuple[int, int]
    design: Design
    coarse: Design
    x_coarse: Floats


def fit(data: Observations, options: Options) -> Fit:
    """The law with 95 % intervals, and the curves of every run; runs of role target are predicted, and
    scored where they were measured.

    Raises:
        CannotFit: too few points, no path of the learning rate, or several sizes N.
    """
    all_runs, used, flags = runs(data, options)
    fitted = [run for run in all_runs if not run.target]
    loss = np.concatenate([run.loss for run in fitted])
    if np.ptp(loss) < 1e-9 * loss.mean():
        raise CannotFit(f"The {len(loss)} losses are all {loss[0]:g}: there is no curve to fit.")
    momenta = MOMENTA if options.fit_lambda and options.form == "tissue" else (options.lambda_,)
    every = [_solve(fitted, loss, options, momentum) for momentum in momenta]
    best = min(every, key=lambda solved: solved.objective)
    drawn, how = _replicates(best, fitted, loss, options)
    natural = {name: float(value[0]) for name, value in best.form.natural(best.x).items()}
    samples = best.form.natural(drawn) if len(drawn) else {}
    residuals = np.log(best.form.values(best.x, best.design)[0][0]) - np.log(loss)
    fit = claim(
        NAME, used, options, natural | ({"lambda": best.sums.momentum} if len(momenta) > 1 else {}),
        best.objective * options.delta**2, samples, how, best.starts, residuals=residuals.tolist(),
        flags=flags,
    )  # fmt: skip
    fit.protocol["objective"] = "sum of Huber losses of log residuals"
    fit.protocol["warmup_counts"] = best.sums.warmup
    fit.derived = _scores(best, loss, residuals)
    fit.flags += _flags(fit, best, float(loss.min()), options)
    fit.intervals = {name: ends for name, ends in fit.intervals.items() if np.isfinite(ends).all()}
    _curves(fit, best, all_runs, drawn, residuals, options)
    return fit


def _sums(options: Options, momentum: float) -> Sums:
    how: str = options.warmup_counts
    if how == "published":
        how = "peak" if options.form == "tissue" else "own"
    return Sums(how, options.warmup_rise, momentum, options.form == "multipower")


def _solve(fitted: list[Run], loss: Floats, options: Options, momentum: float) -> _Solution:
    """The best of all starts; the multi-power law from coarse bins to fine ones."""
    sums = _sums(options, momentum)
    parts = [(run.path, run.steps) for run in fitted]
    coarse = sums.design(parts, min(COARSE, options.bins))
    if not (coarse.s1 > 0).all():
        raise CannotFit("A point was measured before any learning rate counts in S1; raise skip.")
    form = _form(fitted, coarse, sums)
    if len(loss) < len(form.names) + 2:
        raise CannotFit(
            f"The {options.form} law has {len(form.names)} parameters here and needs at least "
            f"{len(form.names) + 2} points; there are {len(loss)}."
        )
    starts = form.starts(coarse, loss)
    x, f = refine(form, coarse, np.log(loss), starts, options.delta, None, 150, 1e-8)
    if not np.isfinite(f).any():
        raise CannotFit(f"No start of the {options.form} law reaches these {len(loss)} losses.")
    best = int(np.argmin(f))
    agreeing = int(np.sum(f <= f[best] * (1 + AGREES) + 1e-9))
    design, fine, objective = coarse, x[best : best + 1], float(f[best])
    if options.form == "multipower" and options.bins > COARSE:
        design = sums.design(parts, options.bins)
        fine, last = refine(form, design, np.log(loss), fine, options.delta, None, 300)
        objective = float(last[0])
    return _Solution(form, sums, fine, objective, (len(f), agreeing), design, coarse, x[best : best + 1])


def _form(fitted: list[Run], design: Design, sums: Sums) -> Form:
    scale = float(np.exp(np.log(design.s1).mean()))
    if not sums.multipower:
        return Tissue(scale, float(np.abs(design.s2).max()))
    fallen = max(float(np.abs(sums.fallen(run.path)).sum()) for run in fitted)
    falls_seen = design.falls is not None and len(design.falls.fall) > 0
    return MultiPower(
        scale, fallen if falls_seen else 0.0, max(float(run.path.rates.max()) for run in fitted)
    )


def _replicates(best: _Solution, fitted: list[Run], loss: Floats, options: Options) -> tuple[Floats, str]:
    """The search variables of every replicate [replicates, k], on the coarse bins, and what was resampled."""
    numbers = np.concatenate([np.full(len(run.loss), i) for i, run in enumerate(fitted)])
    whole = options.resample == "runs" or (options.resample == "auto" and len(fitted) >= 10)
    if not options.replicates:
        return np.empty((0, best.x.shape[1])), "nothing"
    start = np.repeat(best.x_coarse, options.replicates, axis=0)
    effort = (60, 1e-6) if options.form == "tissue" else (40, 1e-4)
    if whole:
        weights = linear.resample_groups(numbers, options.replicates, options.seed)
        x, _ = refine(best.form, best.coarse, np.log(loss), start, options.delta, weights, *effort)
        return _shift(best, x), f"{len(fitted)} runs"
    predicted = np.log(best.form.values(best.x_coarse, best.coarse)[0][0])
    residuals = predicted - np.log(loss)
    length = options.block or _length(residuals, numbers)
    noise = _blocks(residuals, numbers, length, best.x.shape[1], options)
    x, _ = refine(best.form, best.coarse, predicted - noise, start, options.delta, None, *effort)
    return _shift(best, x), f"blocks of {length} residuals along runs"


def _shift(best: _Solution, x: Floats) -> Floats:
    """Replicates around the optimum of the fine bins."""
    return np.asarray(x + (best.x - best.x_coarse))


def _length(residuals: Floats, numbers: NDArray[np.int64]) -> int:
    """Points in a block: the rule of an autoregression of order 1, (2 r / (1 - r^2))^(2/3) n^(1/3) (Politis
    and White 2004), with r the lag-1 autocorrelation along runs and n the points of an average run."""
    inner = numbers[1:] == numbers[:-1]
    centred = residuals - residuals.mean()
    power = float(np.mean(centred**2))
    if not inner.any() or power <= 0:
        return 1
    r = min(0.97, max(0.0, float(np.mean(centred[1:][inner] * centred[:-1][inner])) / power))
    points = len(residuals) / int(numbers.max() + 1)
    length = round(float((2 * r / (1 - r**2)) ** (2 / 3) * points ** (1 / 3)))
    return max(1, min(length, int(points // 2)))


def _blocks(
    residuals: Floats, numbers: NDArray[np.int64], length: int, parameters: int, options: Options
) -> Floats:
    """Residuals in blocks from any place of any run, wrapped at its end: [replicates, points]."""
    draw = np.random.Generator(np.random.PCG64(options.seed))
    points = len(residuals)
    first = np.searchsorted(numbers, numbers)
    count = np.bincount(numbers)[numbers]
    blocks = -(-points // length)
    at = draw.integers(0, points, size=(options.replicates, blocks))
    along = (at - first[at])[:, :, None] + np.arange(length)
    picked = first[at][:, :, None] + along % count[at][:, :, None]
    spread = np.sqrt(points / max(1, points - parameters))
    return np.asarray((residuals - residuals.mean())[picked.reshape(len(at), -1)[:, :points]] * spread)


def _scores(best: _Solution, loss: Floats, residuals: Floats) -> dict[str, float]:
    predicted = best.form.values(best.x, best.design)[0][0]
    return {
        "r2": linear.r_squared(predicted, loss),
        **misfit(residuals),
    }


def _r_squared(predicted: Floats, loss: Floats) -> float | None:
    """None where there is no variance to explain."""
    share = linear.r_squared(predicted, loss)
    return share if np.isfinite(share) else None


def _flags(fit: Fit, best: _Solution, lowest: float, options: Options) -> list[str]:
    every = ("L0", "A", "alpha", "C") if options.form == "tissue" else MultiPower(1, 1, 1).names
    least = 2 * float(np.exp(LEAST))
    flags = [f"not_identified:{name}" for name in every if name not in fit.params]
    factor = "C" if options.form == "tissue" else "B"
    for name in best.form.names:
        low, high = fit.intervals.get(name, (1.0, 1.0))
        wide = high - low > 1.5 if name in ("alpha", "gamma") else high > 10 * max(low, 1e-300)
        taken = fit.params[name] * best.form.fallen if name == factor else fit.params["L0"]
        if (name == factor and taken < least) or (name == "L0" and taken < 0.02 * lowest):
            flags.append(f"at_bound:{name}")
        elif wide and name != "L0":
            flags.append(f"not_identified:{name}")
    if options.fit_lambda and best.sums.momentum in (MOMENTA[0], MOMENTA[-1]):
        flags.append("at_bound:lambda")
    if best.starts[1] < 2:
        flags.append("lonely_optimum")
    return flags


def _curves(
    fit: Fit, best: _Solution, all_runs: list[Run], drawn: Floats, residuals: Floats, options: Options
) -> None:
    """Put every run's curve on the fit, and a prediction of the last loss of each target."""
    scatter, how = _scatter(best, [run for run in all_runs if not run.target], residuals, drawn, options)
    if scatter.size:
        fit.protocol["interval_of_a_run"] = how
    errors = []
    details: dict[str, Any] = {}
    for run in all_runs:
        shown = _curve(best, run, options)
        details[run.name] = shown
        if not run.target:
            continue
        last = best.sums.design([(run.path, np.array([float(shown["last"]["step"])]))], COARSE)
        samples = best.form.values(drawn, last)[0][:, 0] if len(drawn) else np.empty(0)
        value = float(shown["last"]["predicted"])
        at = {"run": run.name, "step": shown["last"]["step"]}
        loss = Estimate(value, NO_INTERVAL)
        if len(samples):
            of_a_run = percentile_interval((samples * np.exp(scatter)).ravel())
            loss = Prediction(value, percentile_interval(samples), of_a_run, _parts(samples, of_a_run))
        answer = Answer(at, {"loss": loss}, shown["last"]["measured"])
        fit.predictions.append(answer)
        errors += [] if answer.error is None else [answer.error]
    fit.details["runs"] = details
    if errors:
        fit.derived["target_rms_error"] = float(np.sqrt(np.mean(np.square(errors))))
        fit.derived["target_max_error"] = float(np.abs(errors).max())


def _parts(samples: Floats, of_a_run: Interval) -> Parts | None:
    """What the interval of a run is made of: the law's own, and what the errors of runs add."""
    with np.errstate(all="ignore"):
        law, run = (float(np.log(high / low)) / 2 for low, high in (percentile_interval(samples), of_a_run))
    if not np.isfinite([law, run]).all():
        return None
    return Parts(min(law, run), float(np.sqrt(max(0.0, run**2 - law**2))), 0.0, 0.0)


def _scatter(
    best: _Solution, fitted: list[Run], residuals: Floats, drawn: Floats, options: Options
) -> tuple[Floats, str]:
    """What a run's last log loss adds to the law's, drawn [20, replicates], and where it is from.

    Points along a run are off together and other schedules are off by more than any point that was fitted.
    With three fitted runs or more each is predicted from the others, and the scatter is Student's t with the
    root mean square of these errors at the last points; with fewer it is a residual.
    """
    draw = np.random.Generator(np.random.PCG64(options.seed + 1))
    if len(fitted) < 3 or not len(drawn):
        spread = np.sqrt(len(residuals) / max(1, len(residuals) - best.x.shape[1]))
        picked = draw.integers(0, len(residuals), (20, len(drawn)))
        return -residuals[picked] * spread, "adds a residual of a point"
    numbers = np.concatenate([np.full(len(run.loss), i) for i, run in enumerate(fitted)])
    log_loss = np.log(np.concatenate([run.loss for run in fitted]))
    weights = (numbers != np.arange(len(fitted))[:, None]).astype(np.float64)
    start = np.repeat(best.x_coarse, len(fitted), axis=0)
    x, _ = refine(best.form, best.coarse, log_loss, start, options.delta, weights, 60, 1e-6)
    last = np.searchsorted(numbers, np.arange(len(fitted)), side="right") - 1
    errors = np.log(best.form.values(x, best.coarse)[0])[np.arange(len(fitted)), last] - log_loss[last]
    size = float(np.sqrt(np.mean(errors**2)))
    drawn_errors = size * draw.standard_t(len(fitted), (20, len(drawn)))
    return drawn_errors, f"adds the errors of {len(fitted)} runs, each predicted from the others"


def _curve(best: _Solution, run: Run, options: Options) -> dict[str, Any]:
    """A run's measured points with their predictions, its path, and how far the law is off them."""
    last = run.path.last
    path = np.unique(np.linspace(run.path.first + run.path.warm, last, DRAWN).round())
    bins = options.bins
    law = best.form.values(best.x, best.sums.design([(run.path, path)], bins))[0][0]
    record: dict[str, Any] = {
        "role": "target" if run.target else "fit",
        "path": {"step": path.tolist(), "lr": run.path.rates[run.path.places(path)].tolist()},
        "law": law.tolist(),
        "last": {"step": last, "predicted": float(law[-1]), "measured": None},
    }
    if len(run.loss):
        predicted = best.form.values(best.x, best.sums.design([(run.path, run.steps)], bins))[0][0]
        error = predicted / run.loss - 1
        some = np.unique(np.linspace(0, len(run.loss) - 1, DRAWN).round().astype(int))
        record["points"] = {
            "step": run.steps[some].tolist(), "loss": run.loss[some].tolist(), "error": error[some].tolist()
        }  # fmt: skip
        record |= {
            "r2": _r_squared(predicted, run.loss), "mean_error": float(np.abs(error).mean()),
            "max_error": float(np.abs(error).max()), "count": len(run.loss),
        }  # fmt: skip
        if run.steps[-1] >= NEARLY * last:
            record["last"] = {
                "step": int(run.steps[-1]), "predicted": float(predicted[-1]), "measured": float(run.loss[-1])
            }  # fmt: skip
    return record


def predict(fit: Fit, target: Target) -> dict[str, Estimate]:
    """Nothing: another schedule is predicted by its rows in the table, of role target."""
    raise CannotFit("curve predicts the runs of role target in its table.")


LAW = Law(
    name=NAME,
    formula="L = L0 + A S1^-alpha - C S2, or the multi-power law",
    source="Tissue et al. 2024, equation 2; Luo et al. 2025, equation 3",
    options=Options,
    needs=("run", "step", "lr", "loss"),
    takes=("role", "parent", "n", "d"),
    fit=fit,
    predict=predict,
    targets=(),
    annealed=False,
    reduced=False,
    table="curves",
    held_out="none",
    partial=("lr", "loss"),
)
