"""What is pure is tested without what is heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
COLLECT = """
import sys, pytest
status = pytest.main(["--collect-only", "-qqq", "-p", "no:cacheprovider", sys.argv[1]])
print(int(status), [name for name in ("torch", "pandas", "submitit", "matplotlib") if name in sys.modules])
"""


@pytest.mark.parametrize("folder", ["spec", "plan"])
def test_collecting_pure_tests_imports_neither_torch_nor_pandas(folder: str) -> None:
    collecting = [sys.executable, "-c", COLLECT, str(TESTS / folder)]
    output = subprocess.run(collecting, cwd=TESTS.parent, capture_output=True, text=True)
    assert output.stdout.splitlines()[-1:] == ["0 []"], output.stdout + output.stderr
