"""Settings of the process that torch and vLLM read as they load: imported before them.

What is set already, by you or by a launcher, stays as it is.
"""

import os


def _cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# Learner and sampler take turns in this process: its threads share the cores with other ranks here, no more.
CORES = max(1, _cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
os.environ.setdefault("OMP_NUM_THREADS", str(CORES))
# Threads wait for each other some microseconds awake, then asleep. By default they stay awake for some
# milliseconds, and lose whole time slices when another program wants one of their cores: benchmarks/busy.py.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
