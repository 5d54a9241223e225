"""What torch sees on a machine, asked in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from sweepctl.launch.workers import SAFE_PATH, safe_path

PATIENCE_S = 100.0


def ask_torch() -> dict[str, Any]:
    """torch's version and GPUs, or as `error` why they are not known. Whoever asks must not hold a GPU, nor
    crash with torch."""
    command = [sys.executable, *SAFE_PATH, "-m", "sweepctl.train.torch_report"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, env=safe_path(os.environ)
        )
    except subprocess.TimeoutExpired:
        return {"error": f"torch was not imported within {PATIENCE_S:.0f} s"}
    try:
        facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"error": lines[-1]}
    return facts
