"""One process of one line: python -m benchmarks.gpu.child MODULE SETTING. Rows go out as lines of JSON, and
whatever else is printed to the log."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import sys
import traceback

from benchmarks.gpu.setting import Row, Setting, sentence


def main() -> None:
    """Look, and say what was seen as soon as it is."""
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    name, setting = sys.argv[1], Setting.read(sys.argv[2])
    try:
        for row in importlib.import_module(f"benchmarks.gpu.{name}").rows(setting):
            output.write(json.dumps(dataclasses.asdict(row), default=str) + "\n")
    except BaseException as error:
        traceback.print_exc()
        output.write(json.dumps(dataclasses.asdict(Row(name, "crashed", sentence(error)))) + "\n")
    sys.stderr.flush()
    os._exit(0)  # not by way of what a failed device cannot do any more


if __name__ == "__main__":
    main()
