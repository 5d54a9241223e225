"""Why an attempt ended, and what follows from it. Nobody else spells these words."""

from __future__ import annotations

from enum import Enum, StrEnum, auto


class Consequence(Enum):
    """What an end means for the job."""

    NONE = auto()
    """It has not failed, and is free to be taken up where anything is left to do."""
    ELSEWHERE = auto()
    """Another process has it."""
    FAILURE = auto()
    """It has failed, until it is taken up again as often as the class of the failure allows."""
    RESUMED = auto()
    """It goes on from its last checkpoint as often as its class allows; only then has it failed."""


class End(StrEnum):
    """The word on an attempt's record, and its consequence for the job."""

    consequence: Consequence

    def __new__(cls, word: str, consequence: Consequence = Consequence.NONE) -> End:
        member = str.__new__(cls, word)
        member._value_, member.consequence = word, consequence
        return member

    DONE = "done"
    """It did all that was asked of it: a branch or a run has its result, a trunk reached its last wish."""
    DIVERGED = "diverged"
    """The loss left the bounds of the science: a result like another."""
    STOPPED = "stopped"
    """It was told to stop, and has saved its state."""
    SUPERSEDED = "superseded", Consequence.ELSEWHERE
    """It found that a newer attempt owns the job."""
    BUSY = "busy", Consequence.ELSEWHERE
    """It did not begin, as another process owns the job. On no record, having none."""
    FAILED = "failed", Consequence.FAILURE
    """A Python error."""
    REQUEST = "request", Consequence.FAILURE
    """A request that cannot be met: settings, data or a checkpoint are not what they should be."""
    STORAGE = "storage", Consequence.FAILURE
    """A file system that refused."""
    OUT_OF_MEMORY = "out_of_memory", Consequence.FAILURE
    """Memory that was not there; the next attempt takes half the micro-batch."""
    INFRASTRUCTURE = "infrastructure", Consequence.FAILURE
    """A machine or a network that did not do its part."""
    DIED = "died", Consequence.RESUMED
    """Its process is gone without a word."""

    @property
    def is_failure(self) -> bool:
        return self.consequence is Consequence.FAILURE

    @property
    def has_retries(self) -> bool:
        """Whether it is a class of retries: the field of its name in `Retries` says how many."""
        return self.consequence in (Consequence.FAILURE, Consequence.RESUMED)

    @property
    def frees_job(self) -> bool:
        """Whether the job is nobody's after it."""
        return self.consequence is not Consequence.ELSEWHERE

    @property
    def words(self) -> str:
        """How people are told."""
        return self.value.replace("_", " ")

    @classmethod
    def read(cls, word: str) -> End:
        """The end that a record names. A word that this version does not know says only that it ended."""
        if word == OLD_OUT_OF_RETRIES:
            return cls.DIED
        return next((end for end in cls if end == word), cls.STOPPED)


OLD_OUT_OF_RETRIES = "crashed"
"""What older versions wrote for a process that died once more than its retries allow."""
