"""Memory of a GPU that several processes share."""

from __future__ import annotations

import torch


def give_back_memory() -> None:
    """Leave a GPU's memory that no tensor is in to the processes that share it."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
