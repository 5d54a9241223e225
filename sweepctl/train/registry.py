"""The trainers by the name that a study's science has for them."""

from __future__ import annotations

from sweepctl.errors import unknown_name
from sweepctl.train.builtin import BuiltinTrainer
from sweepctl.train.interface import Trainer

TRAINERS: dict[str, type[Trainer]] = {"builtin": BuiltinTrainer}
"""Which of them a study may name, `spec.study.TRAINERS` says."""


def trainer_named(name: str) -> type[Trainer]:
    """The trainer of this name.

    Raises:
        RequestError: there is none.
    """
    if name not in TRAINERS:
        raise unknown_name("trainer", name, TRAINERS)
    return TRAINERS[name]
