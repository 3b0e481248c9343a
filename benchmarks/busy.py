"""A training step on a machine that does other things: alone, and beside one busy process per two cores.

    python -m benchmarks.busy                     on the tiny base (python pretrain.py makes it)

Real runs of the tiny recipe, in turns: as train.py sets the threads' waiting (run/environment.py), and as the
OpenMP library would have it. Median seconds of a step's four parts; prints one JSON line last.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
WAITING = {"ours": {}, "library": {"GOMP_SPINCOUNT": "300000"}}  # libgomp's default
ROUNDS, STEPS, WARM_UP = 3, 12, 3
LIMIT = 2.2  # busy / alone


@contextlib.contextmanager
def busy_processes(count: int):
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    yield
    for process in processes:
        process.kill()
        process.wait()


def steps_of_a_run(environment: dict[str, str]) -> list[float]:
    """Seconds of each step of a run after its warm-up."""
    with tempfile.TemporaryDirectory() as folder:
        flags = f"--num_steps {STEPS} --eval_every 0 --save_every {STEPS + 1} --output_dir {folder}/run"
        command = [sys.executable, "train.py", "--recipe", "tiny", *flags.split()]
        subprocess.run(command, cwd=ROOT, env=os.environ | environment, check=True, capture_output=True)
        metrics = [json.loads(line) for line in Path(folder, "run/metrics.jsonl").read_text().splitlines()]
    parts = ("sample", "verify", "update", "sync")
    return [sum(m[f"time/{part}"] for part in parts) for m in metrics if m["step"] > WARM_UP]


def main() -> None:
    count = max(1, (os.cpu_count() or 1) // 2)
    seconds = {(name, busy): [] for name in WAITING for busy in (0, count)}
    for number in range(ROUNDS):
        for (name, busy), steps in seconds.items():
            with busy_processes(busy):
                steps += steps_of_a_run(WAITING[name])
            print(f"round {number + 1}, {name}, {busy} busy: {statistics.median(steps):.2f} s", flush=True)
    result = {"benchmark": "busy", "cores": os.cpu_count(), "busy_processes": count, "limit": LIMIT}
    for name in WAITING:
        alone, beside = (statistics.median(seconds[name, busy]) for busy in (0, count))
        result[name] = {"alone": alone, "busy": beside, "ratio": beside / alone}
    result["alone_to_library"] = result["ours"]["alone"] / result["library"]["alone"]
    print(json.dumps(result | {"ok": result["ours"]["ratio"] <= LIMIT}))


if __name__ == "__main__":
    main()
