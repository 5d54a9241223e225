"""How jobs are run: none of it is science, all of it is recorded on every attempt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sweepctl.errors import InvalidValue


@dataclass(frozen=True, slots=True)
class Execution:
    """What a trainer may choose without changing what is trained."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 1
    compile: bool = False
    gemm: Literal["auto", "torch", "onednn"] = "auto"
    micro_batch_rows: int | None = None
    checkpoint_every_s: float = 60.0
    log_every_steps: int = 10
    keep: Literal["none", "last", "all"] = "all"
    curve_tokens: int = 16384
    curve_per_octave: int = 4

    def __post_init__(self) -> None:
        for key in ("threads", "log_every_steps"):
            if getattr(self, key) < 1:
                raise InvalidValue(key, getattr(self, key), "at least 1")
        if self.micro_batch_rows is not None and self.micro_batch_rows < 1:
            raise InvalidValue("micro_batch_rows", self.micro_batch_rows, "at least 1, or null")
        if self.checkpoint_every_s <= 0:
            raise InvalidValue("checkpoint_every_s", self.checkpoint_every_s, "above 0")
