"""What devices could do at their peak, by their names."""

from __future__ import annotations

import re

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
SLOWER = {"mig", "laptop", "max", "d"}
"""Words of names that are a part or a slower make of what they otherwise name: nothing is known of those."""


def peak_flops(name: str) -> float | None:
    """Dense bf16 peak of a GPU by the whole words of its name, by the entry with most of them; None for one
    that is not in the table."""
    words = _words(name)
    entries = [entry for entry in PEAK_FLOPS_BF16 if _words(entry) <= words]
    if not entries or words & SLOWER:
        return None
    return PEAK_FLOPS_BF16[max(entries, key=lambda entry: len(_words(entry)))]


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.lower()))
