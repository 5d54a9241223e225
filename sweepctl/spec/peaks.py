"""What devices could do at their peak, and the memory they have, by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sweepctl.errors import InvalidValue

PEAK_FLOPS_BF16: dict[str, float] = {
    "H100": 989.4e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835.5e12,
    "H200": 989.4e12,
    "H200 NVL": 835.5e12,
    "GH200": 989.4e12,
    "A100": 312e12,
    "B200": 2250e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 4090": 165.2e12,
}
"""Dense bf16 FLOP/s by words of a device's name, from the vendor's data sheets; no entry, no MFU. Where a
data sheet has several makes, the entry without a further word is the one on SXM."""
MEMORY_GB: dict[str, float] = {
    "H100": 80,
    "H100 NVL": 94,
    "H200": 141,
    "GH200": 96,
    "A100": 40,
    "A100 80GB": 80,
    "B200": 180,
    "L40S": 48,
    "L40": 48,
    "L4": 24,
    "RTX 4090": 24,
    "V100": 16,
    "V100 32GB": 32,
}
"""Their memory in 10^9 bytes, from the same sheets (the cards have a little more), where a card comes with
several the smallest without a further word."""
SLOWER = {"mig", "laptop", "max", "d"}
"""Words of names that are a part or a slower make of what they otherwise name: nothing is known of those."""


def peak_flops(name: str) -> float | None:
    """Dense bf16 peak of a GPU by the whole words of its name, by the entry with most of them; None for one
    that is not in the table."""
    return _entry(name, PEAK_FLOPS_BF16)


def gpu_memory_bytes(name: str) -> int | None:
    """The memory of a GPU by the same words; None for one that is not in the table."""
    gb = _entry(name, MEMORY_GB)
    return None if gb is None else int(gb * 10**9)


def check_gpu_memory(gpu_memory: float | str | None) -> int | None:
    """A setting of a GPU's memory, in GB or by its name, in bytes; None where there is none.

    Raises:
        InvalidValue: it is no amount, and no name of a GPU whose memory is known.
    """
    if gpu_memory is None:
        return None
    if isinstance(gpu_memory, str):
        amount = gpu_memory_bytes(gpu_memory)
    else:
        amount = int(gpu_memory * 10**9) if gpu_memory > 0 else None
    if not amount:
        names = ", ".join(MEMORY_GB)
        raise InvalidValue("gpu_memory", gpu_memory, f"GB above 0, a GPU's name ({names}), or null")
    return amount


def _entry(name: str, table: Mapping[str, float]) -> float | None:
    words = _words(name)
    entries = [entry for entry in table if _words(entry) <= words]
    if not entries or words & SLOWER:
        return None
    return table[max(entries, key=lambda entry: len(_words(entry)))]


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.lower()))
