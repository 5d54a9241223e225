"""Fits of sweeps, kept as JSON beside their tables."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pandas as pd

from sweepctl.errors import DamagedFile, RequestError
from sweepctl.fitting.fit import OF_LOSS, fit_and_test
from sweepctl.fitting.sweeps import sweep_observations
from sweepctl.laws.fit import Fit
from sweepctl.laws.registry import LAWS
from sweepctl.plan.plan import Plan
from sweepctl.store.files import exists, finite, read_json, storage, write_json
from sweepctl.store.workspace import Sweep


def save(sweep: Sweep, fit: Fit) -> Path:
    """Keep a fit beside the sweep's tables."""
    path = _file(sweep, fit.law)
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, finite(fit.record()))
    return path


def kept(sweep: Sweep) -> dict[str, Fit]:
    """The fits of a sweep that were kept, by law."""
    return {name: load(sweep, name) for name in LAWS if exists(_kept_file(sweep, name))}


def kept_or_fitted(sweep: Sweep, plans: dict[str, Plan], frames: dict[str, pd.DataFrame]) -> dict[str, Fit]:
    """The fits of a sweep that were kept; where there are none, those of the loss laws that its runs carry,
    which are kept from then on."""
    fits = kept(sweep)
    if not fits:
        for name in OF_LOSS:
            with contextlib.suppress(RequestError):
                data = sweep_observations(plans, frames, LAWS[name])
                fits[name] = fit_and_test(LAWS[name], data, LAWS[name].options())
                save(sweep, fits[name])
    return fits


def load(sweep: Sweep, name: str) -> Fit:
    """A fit that was kept.

    Raises:
        RequestError: there is none yet.
    """
    path = _kept_file(sweep, name)
    try:
        return Fit.read(read_json(path))
    except FileNotFoundError:
        raise RequestError(
            f"There is no {name} fit of {sweep.name}; run `sweepctl fit {sweep.name}`."
        ) from None
    except (LookupError, TypeError, ValueError, AttributeError, DamagedFile, RequestError) as error:
        raise DamagedFile(f"{path} is not a fit ({error}); run `sweepctl fit {sweep.name}` again.") from None


def _file(sweep: Sweep, law: str) -> Path:
    return sweep.results / "fits" / f"{law}.json"


def _kept_file(sweep: Sweep, law: str) -> Path:
    """Who may only read a sweep has its fits until they make their own."""
    own = _file(sweep, law)
    return own if exists(own) else sweep.folder / "fits" / own.name
