"""Who owns a tensor, and what there is to share out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepctl.spec.sharding import StatefulTensor, owners, resolve, state_bytes

GB = 10**9
BLOCKS = [StatefulTensor(elements, 2) for elements in [25_000_000] * 120]
"""3e9 parameters under AdamW."""


@given(st.lists(st.integers(0, 10**9), max_size=40), st.integers(1, 9))
def test_no_process_has_more_than_a_tensor_too_much(sizes: list[int], processes: int) -> None:
    owner = owners(sizes, processes)
    assert len(owner) == len(sizes) and set(owner) <= set(range(processes))
    loads = [sum(s for s, o in zip(sizes, owner, strict=True) if o == rank) for rank in range(processes)]
    assert max(loads) - min(loads) <= max(sizes, default=0)


def test_three_billion_parameters_leave_room_on_eight_gpus_of_80_gb() -> None:
    assert state_bytes("none", BLOCKS, 8) == 48 * GB
    assert state_bytes("optimizer", BLOCKS, 8) == 27 * GB
    assert state_bytes("gradients", BLOCKS, 8) == 16.5 * GB


@pytest.mark.parametrize(
    ("choice", "memory_gb", "processes", "pieces", "comes_to"),
    [
        ("auto", 80, 8, 4, "optimizer"),
        ("auto", 40, 8, 4, "gradients"),
        ("auto", 40, 8, 1, "optimizer"),
        ("auto", 192, 8, 4, "none"),
        ("auto", None, 8, 4, "none"),
        ("auto", 80, 1, 4, "none"),
        ("gradients", 192, 8, 1, "gradients"),
        ("none", 80, 8, 4, "none"),
        ("gradients", 80, 1, 4, "none"),
    ],
)
def test_what_a_choice_comes_to(
    choice: str, memory_gb: int | None, processes: int, pieces: int, comes_to: str
) -> None:
    memory_bytes = None if memory_gb is None else memory_gb * GB
    assert resolve(choice, memory_bytes, BLOCKS, processes, pieces) == comes_to
