"""How a job came out, as result.json says: written once, by the attempt that got there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sweepctl.errors import RequestError
from sweepctl.spec.build import convert
from sweepctl.store.ends import End


@dataclass(frozen=True, slots=True)
class Result:
    """A job's end for good. What was not measured is not there."""

    end: End
    """Done or diverged."""
    step: int = 0
    """The last step; where it is a trunk's that diverged, the step at which it did."""
    tokens: int | None = None
    """The tokens of that step."""
    loss_nats: Mapping[str, float] = field(default_factory=dict)
    """The final loss by held-out set."""
    bits_per_byte: Mapping[str, float] = field(default_factory=dict)
    """The same in bits a byte, for sets whose bytes are known."""
    attempt: int | None = None
    """The attempt that wrote it."""
    reason: str = ""
    """Why it is said to have diverged."""
    job: str | None = None
    """Whose it is, by id; older versions did not say."""

    @property
    def is_done(self) -> bool:
        return self.end is End.DONE

    def is_of(self, job: str, end: int | None) -> bool:
        """Whether it can be this job's, which ends at step `end` where that is known."""
        if self.job not in (None, job):
            return False
        return end is None or (self.step == end if self.is_done else self.step <= end)

    def record(self) -> dict[str, Any]:
        """What result.json says."""
        measured = {"loss_nats": dict(self.loss_nats), "bits_per_byte": dict(self.bits_per_byte)}
        return {
            "job": self.job,
            "state": self.end.value,
            "step": self.step,
            "tokens": self.tokens,
            **(measured if self.is_done else {"reason": self.reason}),
            "attempt": self.attempt,
        }

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Result | None:
        """The result that a file holds; None where it is not one."""
        if record.get("state") not in (End.DONE, End.DIVERGED) or "step" not in record:
            return None
        try:
            values = {
                name: convert(kind, record[name], name) for name, kind in _KINDS.items() if name in record
            }
        except RequestError:
            return None
        return cls(end=End(record["state"]), **values)


_KINDS: dict[str, Any] = {
    "step": int,
    "tokens": int | None,
    "loss_nats": dict[str, float],
    "bits_per_byte": dict[str, float],
    "attempt": int | None,
    "reason": str,
    "job": str | None,
}
"""The keys of result.json, beside its state."""
