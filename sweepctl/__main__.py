"""`python -m sweepctl`."""

import os
import sys

if not sys.flags.safe_path and sys.path[0] in ("", os.getcwd()):
    del sys.path[0]  # as for the console script: in a shared folder anybody may have put a module

from sweepctl.cli import main

main()
