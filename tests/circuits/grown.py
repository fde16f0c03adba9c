"""How much memory a script takes at most, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_STATUS = Path("/proc/self/status")
# Not `ru_maxrss`: a process inherits that from the one that started it, however large that has become.
_BEGIN = """
import torch
torch.set_num_threads(1)
def peak():
    "The most memory that this process ever had, in MB."
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024
"""


def printed(script: str) -> list[int]:
    """The numbers that a script prints; it can call `peak()`. Skips the test where nobody says what a process took."""
    if not _STATUS.exists():
        pytest.skip("the most memory of a process can be read on Linux only")
    command = [sys.executable, "-c", _BEGIN + script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    return [int(line) for line in done.stdout.split()]
