"""The GPU benchmark at toy size. The others are run by hand, see README."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.slow
def test_the_gpu_benchmark_runs_on_a_cpu_and_each_part_prints_its_figures():
    command = [sys.executable, "-m", "benchmarks.gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    *lines, last = done.stdout.splitlines()
    results = json.loads(last)
    assert list(results) == "benchmark device peak learner sampler repeat handover memory".split()
    assert not any("failed" in results[part] for part in list(results)[2:])
    assert results["repeat"] == {"same_seed": 8, "other_seed": 0, "of": 8}
    assert all(results[part][key] > 0 for part, key in (("sampler", "ratio"), ("learner", "mfu")))
    assert any(line.startswith("learner   bare_tokens_per_second") for line in lines)
