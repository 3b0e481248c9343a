"""A verifier worker whose answers name the way in which it ends: `python stub_worker.py TIMEOUT_S`.

A file of its own, because the workers of a pool start in a moment, and the tests' imports take seconds.
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import verify


def kill_busy_or_hang(given: str, truth: str) -> bool:
    """Stands in for `answers_match`."""
    if given == "hang":
        time.sleep(60)
    if given == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if given == "overflow":
        ctypes.string_at(0)
    return given == truth


if __name__ == "__main__":
    verify.answers_match = kill_busy_or_hang
    verify.work(float(sys.argv[1]))
