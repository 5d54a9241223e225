"""Canonical text and the hashes made of it: job ids, plan hashes, keys of random streams."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

_DIGEST = re.compile(r"[0-9a-f]{16}")


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(text: str, length: int = 16) -> str:
    """The first `length` hex digits of the text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def is_digest(text: object) -> bool:
    """Whether this is a name that `digest` gives: nothing else becomes part of a path."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def key(*parts: int | str) -> int:
    """A 64-bit key of a random stream, from a seed and what the stream is for."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
