"""What torch sees here, as one JSON object: `python -m sweepctl.train.torch_report`."""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def torch_report() -> dict[str, Any]:
    """torch's version and GPUs, each of them used once; `error` where something cannot be imported."""
    began = time.monotonic()
    try:
        import torch

        import sweepctl.train.job  # noqa: F401  what a worker imports
    except Exception as error:  # whatever a broken installation raises
        return {"error": f"{type(error).__name__}: {error}"}
    report: dict[str, Any] = {
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "import_s": time.monotonic() - began,
        "gpus": [],
        "gpu_error": None,
    }
    try:
        for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            float(
                (torch.ones(8, 8, device=f"cuda:{number}") @ torch.ones(8, 8, device=f"cuda:{number}")).sum()
            )
            report["gpus"].append(torch.cuda.get_device_name(number))
    except Exception as error:
        report["gpu_error"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return report


if __name__ == "__main__":
    json.dump(torch_report(), sys.stdout)
    print()
