"""Settings of the process that torch and vLLM read as they load: imported before them.

What is set already, by you or by a launcher, stays as it is.
"""

import contextlib
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")  # the limits of a container


def cores() -> int:
    """The cores that this process may run on; in a container, what its quota of their time comes to."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # "max 100000" where there is no quota
        quota, period = map(int, (CGROUP / "cpu.max").read_text().split())
        count = min(count, -(-quota // period))
    return count


# Learner and sampler take turns in this process: its threads share the cores with other ranks here, no more.
CORES = max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE") or 1))
os.environ.setdefault("OMP_NUM_THREADS", str(CORES))
# Threads wait for each other some microseconds awake, then asleep. By default they stay awake for some
# milliseconds, and lose whole time slices when another program wants one of their cores: benchmarks/busy.py.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
