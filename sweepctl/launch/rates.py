"""By which speed a plan counts device time: stated by the user, else measured in the workspace."""

from __future__ import annotations

from dataclasses import dataclass

from sweepctl.errors import InvalidValue, RequestError
from sweepctl.plan.plan import Plan
from sweepctl.spec.execution import Execution
from sweepctl.spec.peaks import PEAK_FLOPS_BF16, peak_flops
from sweepctl.store.speeds import is_compiled
from sweepctl.store.throughput import Rate, Speeds, speeds_of
from sweepctl.store.workspace import Workspace


@dataclass(frozen=True, slots=True)
class StatedSpeed:
    """What the user says of a device, one of the first three at most."""

    flops_per_s: float | None = None
    """Its training FLOP/s."""
    tokens_per_s: float | None = None
    """Its tokens a second, whatever the rung."""
    mfu: float | None = None
    """The share of its peak that it reaches."""
    device: str | None = None
    """Words of its name."""

    def __post_init__(self) -> None:
        stated = [key for key in ("flops_per_s", "tokens_per_s", "mfu") if getattr(self, key) is not None]
        for key in stated:
            value, option = getattr(self, key), f"--{key.replace('_', '-')}"
            if not 0 < value < float("inf"):
                raise RequestError(f"{option} {value:g} is not valid: it must be a finite number above 0.")
        if len(stated) > 1:
            options = " and ".join(f"--{key.replace('_', '-')}" for key in stated)
            raise RequestError(f"{options} state the same: say one of them.")
        if self.mfu is not None and self.mfu > 1:
            raise InvalidValue("--mfu", self.mfu, "at most 1: a share of the device's peak")


@dataclass(frozen=True, slots=True)
class PlanRates:
    """Rung -> rate, and where they come from."""

    by_rung: dict[str, Rate]
    """Rungs of which nothing can be said are left out."""
    provenance: str
    """Goes on from "Device time"."""
    device: str | None = None
    """The device that was measured; None for a stated speed."""


def plan_rates(
    workspace: Workspace, plans: dict[str, Plan], stated: StatedSpeed, execution: Execution | None = None
) -> PlanRates:
    """The rates of every rung of the plans. `execution`: how jobs will be run, where that is known.

    Raises:
        RequestError: no device of that name was measured, or its peak is not known.
    """
    rungs = {rung.name: rung for plan in plans.values() for rung in plan.rungs}
    if stated.flops_per_s is not None:
        rate = Rate(stated.flops_per_s, source="stated")
        return PlanRates(dict.fromkeys(rungs, rate), f"at the stated {stated.flops_per_s:.3g} FLOP/s")
    if stated.tokens_per_s is not None:
        rates = {
            name: Rate(stated.tokens_per_s * rung.counts.exact_flops_per_token, source="stated")
            for name, rung in rungs.items()
        }
        return PlanRates(rates, f"at the stated {stated.tokens_per_s:.4g} tokens/s")
    speeds = speeds_of(workspace, plans)
    if stated.mfu is not None:
        return _by_peak(list(rungs), stated.mfu, stated.device or next(iter(speeds.devices()), None))
    device = _device(speeds, stated.device, execution)
    if device is None:
        return PlanRates({}, "")
    compiled = is_compiled(execution.compile, speeds.kind_of(device)) if execution else None
    return PlanRates(speeds.rates(device, compiled), f"on {device}, as attempts measured it", device)


def _by_peak(rungs: list[str], mfu: float, device: str | None) -> PlanRates:
    peak = peak_flops(device or "")
    if peak is None:
        raise InvalidValue("--device", device, f"a device whose peak is known: {', '.join(PEAK_FLOPS_BF16)}")
    rates = dict.fromkeys(rungs, Rate(peak * mfu, source="stated"))
    return PlanRates(rates, f"at an MFU of {mfu:.0%} of the {peak:.3g} FLOP/s (bf16) of {device}")


def _device(speeds: Speeds, name: str | None, execution: Execution | None) -> str | None:
    """The device to go by, of those that were measured: the one that is asked for, else the newest of the
    kind that will be used."""
    devices = speeds.devices()
    if name is not None:
        matching = [device for device in devices if name.lower() in device.lower()]
        if not matching:
            measured = f"words of a device that was measured ({', '.join(devices) or 'none yet'})"
            raise InvalidValue("--device", name, measured)
        return matching[0]
    if execution is not None and execution.device != "auto":
        on_cpu = execution.device == "cpu"
        devices = [d for d in devices if (speeds.kind_of(d) == "cpu") == on_cpu]
    return next(iter(devices), None)
