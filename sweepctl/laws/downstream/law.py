"""Accuracy on a task in two steps: from N and D, or from compute, to the task's loss (bits a byte or nats of
the right answers), and from there to accuracy by a sigmoid.

As the OLMo ladder does it (Bhagia et al. 2024, arXiv 2412.04403, section 3): loss = E + A / N^alpha +
B / D^beta through every run's mean of its last checkpoints, by Huber losses of log residuals, all parameters
(log A, log B) at least 0; accuracy = a / (1 + exp(-k (loss - x0))) + b by least squares through the
checkpoints of all runs, without the first of each, under a trailing mean, with the point (0, 1) added. As
Llama 3 does it (arXiv 2407.21783, section 3.2.1): loss against training FLOPs of compute-optimal runs, then
the sigmoid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sweepctl.laws.downstream import first_step, sigmoid
from sweepctl.laws.fit import Estimate, Fit, Target, claim, misfit, scattered
from sweepctl.laws.law import Law, Resampling, option
from sweepctl.laws.numerics import linear, profile
from sweepctl.laws.observations import CannotFit, Floats, Mask, Observations
from sweepctl.laws.parametric.search import NEARLY_ABSOLUTE, Objective
from sweepctl.laws.shared import two_steps
from sweepctl.laws.shared.new_run import WIDE, Measured

NAME = "downstream"
MIN_POINTS = 5
STEP_ROLES = {"nd": ("n", "d"), "flops": ("flops",), "log_flops": ("flops",)}
"""What step 1 goes by."""
BOUNDS = {"ladder": sigmoid.LADDER, "free": sigmoid.FREE}


@dataclass(frozen=True, slots=True)
class Options(Resampling):
    """Every choice of the protocol."""

    step1: first_step.Form = option(
        "nd", "task loss by E + A / N^alpha + B / D^beta, E + A C^-alpha, or intercept + slope log10 C"
    )
    objective: Objective = option("huber_log", "of step 1 where it is nd; the others are least squares")
    delta: float = option(1e-3, "where the Huber loss turns from square to absolute")
    bounds: Literal["nonnegative", "none"] = option(
        "nonnegative", "step 1: log A, log B, alpha, beta, E >= 0 (nd); E, A >= 0 (flops)"
    )
    average_last: int = option(5, "checkpoints of a run whose mean is its end")
    smooth: int = option(5, "checkpoints in the trailing mean of step 2; 1 takes them as they are")
    drop: float = option(0.1, "share of each run's first checkpoints that step 2 leaves out, rounded up")
    anchor: bool = option(True, "step 2 also goes by the point (loss 0, accuracy 1)")
    sigmoid: Literal["ladder", "free"] = option(
        "ladder", "-1 <= a <= 0, x0 and k >= 0, 0 <= b <= 1; free: accuracy falls with the loss"
    )

    def __post_init__(self) -> None:
        Resampling.__post_init__(self)
        for name in ("average_last", "smooth"):
            if getattr(self, name) < 1:
                raise CannotFit(f"downstream needs {name} of at least 1; it is {getattr(self, name)}.")
        if not 0 <= self.drop < 1:
            raise CannotFit(f"downstream needs a share to drop of 0 to 1; it is {self.drop:g}.")
        if not 0 < self.delta < np.inf:
            raise CannotFit(f"downstream needs delta above 0; it is {self.delta:g}.")


@dataclass(frozen=True)
class LadderRuns:
    """The runs of a table: their ends [runs], and the points of step 2 [points] with the run of each."""

    names: tuple[str, ...]
    """Of the runs."""
    ends: dict[str, Floats]
    """n, d, flops (those that the table has), task_loss and accuracy -> values."""
    task: Mask
    """Whether a run is of the task only, and not of step 1 [runs]."""
    loss: Floats
    """The task's, of every point."""
    accuracy: Floats
    """On the task, of every point."""
    run: Any
    """The number of the run of every point."""
    last: Any
    """The points that end a run."""


def fit(data: Observations, options: Options) -> Fit:
    """Both steps with 95 % intervals over resampled runs, which both are refitted to.

    Raises:
        CannotFit: too few runs for step 1 or points for step 2, losses or accuracies all equal, an accuracy
            above 1, or no column that step 1 goes by.
    """
    _refuse(data)
    if "d" in data and "run" in data:
        points = len(set(zip(data.label("run"), data.d, strict=True)))
        if points < len(data):
            raise CannotFit(
                f"{len(data) - points} of {len(data)} rows repeat another's run and tokens: choose one task "
                "with --where."
            )
    roles = two_steps.roles(data)
    used = data.keep(~roles[two_steps.TARGET], "its role is target: it is only predicted")
    runs = gather(used, options)
    weights = linear.resample_groups(np.arange(len(runs.names)), options.replicates, options.seed)
    ladder = ~runs.task
    ends = {role: values[ladder] for role, values in runs.ends.items()}
    first = first_step.solve(ends, _first(options), weights[:, ladder])
    second, starts, drawn = _second(runs, options, weights)
    fit = _assemble(used, options, runs, first, second, starts, drawn)
    checked = _check(fit, data.take(np.flatnonzero(roles[two_steps.TARGET])), options)
    fit.details["targets"] = [row.record() for row in checked]
    fit.derived |= two_steps.mean_errors(checked)
    return fit


def gather(data: Observations, options: Options) -> LadderRuns:
    """The runs of a table, checkpoints in the order of their tokens where it has them."""
    if "run" in data:
        members = list(data.groups("run").items())
    else:
        members = [(row, np.array([i])) for i, row in enumerate(data.rows)]
    roles = data.labels.get("role", (two_steps.FIT,) * len(data))
    ends: dict[str, list[float]] = {}
    loss, accuracy, run = [], [], []
    for number, (_, rows) in enumerate(members):
        order = rows[np.argsort(data.d[rows], kind="stable")] if "d" in data else rows
        for role in ("n", "d", "flops"):
            if role in data:
                ends.setdefault(role, []).append(float(data[role][order[-1]]))
        for role in ("task_loss", "accuracy"):
            ends.setdefault(role, []).append(float(data[role][order[-options.average_last :]].mean()))
        first = int(np.ceil(options.drop * len(order) - 1e-9)) if len(order) > 1 else 0
        kept = order[min(first, len(order) - 1) :]
        loss.append(trailing(data["task_loss"][kept], options.smooth))
        accuracy.append(trailing(data["accuracy"][kept], options.smooth))
        run.append(np.full(len(kept), number))
    lengths = np.array([len(part) for part in run])
    return LadderRuns(
        tuple(name for name, _ in members), {role: np.array(values) for role, values in ends.items()},
        np.array([roles[rows[0]] == two_steps.TASK for _, rows in members]),
        np.concatenate(loss), np.concatenate(accuracy), np.concatenate(run), np.cumsum(lengths) - 1,
    )  # fmt: skip


def trailing(values: Floats, window: int) -> Floats:
    """The mean of each value and the window - 1 before it, of fewer at the start: [values]."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(ends - window, 0)
    return np.asarray((total[ends] - total[begins]) / (ends - begins))


def predict(fit: Fit, target: Target) -> dict[str, Estimate]:
    """Task loss and accuracy at (N, D), or at C FLOPs where step 1 goes by compute.

    The interval of the accuracy is the chain's: the parameters of both steps, and the scatter of runs around
    the second. The interval of a new run adds the scatter around the first.

    Raises:
        CannotFit: only C is given, and step 1 goes by N and D.
    """
    at = dict(target)
    if "flops" not in at:
        at["flops"] = 6 * at["n"] * at["d"]
    form = fit.protocol["step1"]
    if form == "nd" and "n" not in at:
        raise CannotFit(
            "Step 1 was fitted to N and D and predicts at n=...,d=...; with step1=flops at flops=...."
        )
    params, drawn = fit.params, fit.arrays()
    draw = np.random.Generator(np.random.PCG64(fit.protocol["seed"] + 2))
    with np.errstate(all="ignore"):
        value, draws = first_step.value(form, params, at), first_step.value(form, drawn, at)
        runs = draws * np.exp(drawn.get("noise", 0.0) * draw.standard_normal(draws.shape))
        task_loss = scattered(value, draws, runs)
        run = _measured(fit).prediction([at[role] for role in STEP_ROLES[form]], task_loss.interval)
        if run is not None and run.parts is not None:
            task_loss, runs = run, value * np.exp(run.parts.half / WIDE * draw.standard_normal(draws.shape))
        scatter = drawn.get("noise_accuracy", 0.0) * draw.standard_normal(draws.shape)
        chained = np.clip(sigmoid.value(drawn, draws) + scatter, 0, 1)
        of_a_run = np.clip(sigmoid.value(drawn, runs) + scatter, 0, 1)
        return {
            "task_loss": task_loss,
            "accuracy": scattered(sigmoid.value(params, value), chained, of_a_run),
        }


def _measured(fit: Fit) -> Measured:
    """Step 1 and the ends of the runs that it was fitted to."""
    form = fit.protocol["step1"]
    roles = STEP_ROLES[form]
    runs = [run for run in fit.details["runs"] if run.get("fitted", True)]
    places = [np.array([run[role] for run in runs]) for role in roles]
    params = {name: fit.params[name] for name in first_step.NAMES[form]}
    deltas = {"huber_log": fit.protocol["delta"], "lad_log": NEARLY_ABSOLUTE} if form == "nd" else {}

    def law(values: Mapping[str, float], *at: Any) -> Any:
        return first_step.value(form, values, dict(zip(roles, at, strict=True)))

    measured = np.array([run["task_loss"] for run in runs])
    delta = deltas.get(fit.protocol["objective"], np.inf)
    return Measured(law, params, places, measured, delta=delta)


def _first(options: Options) -> first_step.Choice:
    return first_step.Choice(options.step1, options.objective, options.delta, options.bounds)


def _refuse(data: Observations) -> None:
    above = data["accuracy"] > 1
    if above.any():
        row = int(np.argmax(above))
        raise CannotFit(
            f"accuracy must be 0 to 1 in every row; in row {data.rows[row]} it is {data['accuracy'][row]:g}."
        )
    for role, what in (("task_loss", "task losses"), ("accuracy", "accuracies")):
        if np.ptp(data[role]) < 1e-9:
            raise CannotFit(f"The {len(data)} {what} are all {data[role][0]:g}: there is no law to fit.")


def _second(
    runs: LadderRuns, options: Options, weights: Floats
) -> tuple[dict[str, float], tuple[int, int], Floats]:
    """The sigmoid: its parameters with the sum of squares, starts tried and agreeing, replicates [m, 4]."""
    x, y = runs.loss, runs.accuracy
    if len(x) < MIN_POINTS:
        raise CannotFit(f"The sigmoid has four parameters and needs {MIN_POINTS} points; there are {len(x)}.")
    if options.anchor:
        x, y = np.append(x, 0.0), np.append(y, 1.0)
    bounds = BOUNDS[options.sigmoid]
    solved = sigmoid.solve(x, y, sigmoid.starts(x, y, bounds), bounds)
    best = int(solved.squares.argmin())
    agreeing = int(np.sum(solved.squares <= solved.squares[best] * (1 + 1e-6) + 1e-15))
    params = dict(zip(sigmoid.NAMES, solved.parameters[best].tolist(), strict=True))
    params["squares"] = float(solved.squares[best])
    counts = weights[:, runs.run]
    if options.anchor:
        counts = np.concatenate([counts, np.ones((len(counts), 1))], axis=1)
    begin = np.tile(solved.parameters[best], (len(counts), 1))
    drawn = sigmoid.solve(x, y, begin, bounds, counts, 60).parameters if len(counts) else begin
    return params, (len(solved.squares), agreeing), drawn


def _assemble(
    used: Observations, options: Options, runs: LadderRuns, first: first_step.FirstStep,
    second: dict[str, float], starts: tuple[int, int], drawn: Floats,
) -> Fit:  # fmt: skip
    params = first.params | {name: second[name] for name in sigmoid.NAMES}
    ladder = ~runs.task
    ends = {role: values[ladder] for role, values in runs.ends.items()}
    residuals = np.log(first_step.value(options.step1, params, ends) / ends["task_loss"])
    off = sigmoid.value(params, runs.loss[runs.last]) - runs.accuracy[runs.last]
    noise, noises = two_steps.spread(
        float(residuals @ residuals), len(residuals) - len(first.params), options.replicates, options.seed + 3
    )
    rough, roughs = two_steps.spread(float(off @ off), len(off) - 4, options.replicates, options.seed + 4)
    samples: dict[str, Floats] = {}
    if options.replicates:
        samples = first.samples | dict(zip(sigmoid.NAMES, drawn.T, strict=True))
        samples |= {"noise": noises, "noise_accuracy": roughs}
    derived = {
        "runs": float(ladder.sum()), "points": float(len(runs.loss)), "squares_accuracy": second["squares"],
        "noise": noise, "noise_accuracy": rough,
        **misfit(residuals),
    }  # fmt: skip
    details = {
        "runs": [
            {
                "run": name, "fitted": bool(ladder[i]),
                **{role: float(values[i]) for role, values in runs.ends.items()},
            }
            for i, name in enumerate(runs.names)
        ],
        "points": {
            "task_loss": runs.loss.tolist(), "accuracy": runs.accuracy.tolist(), "run": runs.run.tolist()
        },
        "starts_of_step1": {"tried": first.starts[0], "agreeing": first.starts[1]},
    }  # fmt: skip
    fit = claim(
        NAME, used, options, params, first.objective, samples, "resampled runs", starts, derived,
        details=details, residuals=residuals.tolist(),
    )  # fmt: skip
    fit.flags = first.flags + _flags(runs, options, params, fit)
    return fit


def _flags(runs: LadderRuns, options: Options, params: dict[str, float], fit: Fit) -> list[str]:
    low, high = BOUNDS[options.sigmoid]
    flags = []
    for place, name in enumerate(sigmoid.NAMES):
        if params[name] <= low[place] or params[name] >= high[place]:
            flags.append(f"at_bound:{name}")
    x = np.append(runs.loss, 0.0) if options.anchor else runs.loss
    _, slopes = sigmoid.jacobian(np.array([[params[name] for name in sigmoid.NAMES]]), x)
    free = [i for i, name in enumerate(sigmoid.NAMES) if f"at_bound:{name}" not in flags]
    lost = profile.null_columns(slopes[0][free].T, 1e-4)
    flags += [f"not_identified:{sigmoid.NAMES[i]}" for i, gone in zip(free, lost, strict=True) if gone]
    if fit.starts.agreeing < 2:
        flags.append("lonely_optimum")
    return flags


def _check(fit: Fit, targets: Observations, options: Options) -> list[two_steps.Checked]:
    """Task loss, accuracy at the measured one, and accuracy by the chain, of every run that is a target."""
    if not len(targets):
        return []
    runs, form, rows = gather(targets, options), options.step1, []
    for i, name in enumerate(runs.names):
        at = {role: float(values[i]) for role, values in runs.ends.items()}
        n, d = at.get("n", float("nan")), at.get("d", float("nan"))
        value = float(first_step.value(form, fit.params, at))
        for quantity, predicted, actual in (
            ("task loss", value, at["task_loss"]),
            ("accuracy at the true task loss", sigmoid.value(fit.params, at["task_loss"]), at["accuracy"]),
            ("chained accuracy", sigmoid.value(fit.params, value), at["accuracy"]),
        ):
            rows.append(two_steps.Checked(name, n, d, quantity, float(predicted), actual))
    return rows


LAW = Law(
    name=NAME,
    formula="loss = E + A / N^alpha + B / D^beta (or of C), accuracy = a / (1 + exp(-k (loss - x0))) + b",
    source="Bhagia et al. 2024, section 3; Llama 3, section 3.2.1",
    options=Options,
    needs=("task_loss", "accuracy"),
    takes=("n", "d", "flops", "run", "role"),
    fit=fit,
    predict=predict,
    targets=(("n", "d"), ("flops",)),
    annealed=False,
    reduced=False,
)
