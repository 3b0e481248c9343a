"""What the learner costs. `python benchmarks/learner.py` prints one JSON object as its last line.

memory: linear_logprobs against the naive version (the three lines of its docstring), vocabulary 151,936 and
1,024 tokens of width 1,536: log-probs, entropy, and the backward pass from the sum of the log-probs, each
version in a fresh process. Measured is working memory, all but the inputs and the two gradients, which any
version must return. It is the larger of
  - the peak of resident memory until the forward pass has ended, minus what was resident before it,
  - the peak until the backward pass has ended, minus the same, minus the bytes of the gradients.
The second is too low for the naive version, which peaks before its gradients exist; so the share is too high.
"""

import argparse
import json
import multiprocessing
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from loss import linear_logprobs  # noqa: E402

VOCABULARY, TOKENS, WIDTH = 151_936, 1_024, 1_536  # Qwen2.5-Math-1.5B's head, one response of 1,024 tokens
MEMORY_LIMIT = 0.15  # of the naive version


def naive_logprobs(hidden, weight, labels):
    logprobs = (hidden @ weight.T).float().log_softmax(dim=-1)
    entropy = -(logprobs.exp() * logprobs).sum(dim=-1).detach()
    return logprobs.gather(-1, labels[..., None]).squeeze(-1), entropy


def resident_bytes(field):
    """What the process holds in memory now ("VmRSS") or has held at most ("VmHWM"); Linux only."""
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def head_run(version, precision):
    """One forward and backward in this process -> working memory, seconds, and results to compare."""
    compute = {"ours": linear_logprobs, "naive": naive_logprobs}[version]
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    torch.manual_seed(0)

    def forward(hidden, weight, labels):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
            return compute(hidden, weight, labels)

    def inputs(vocabulary, tokens):
        hidden = torch.randn(tokens, WIDTH, dtype=dtype, requires_grad=True)
        weight = torch.empty(vocabulary, WIDTH, dtype=dtype).normal_(std=WIDTH**-0.5).requires_grad_()
        return hidden, weight, torch.randint(vocabulary, (tokens,))

    forward(*inputs(512, 64))[0].sum().backward()  # kernels and threads, once loaded, stay resident
    hidden, weight, labels = inputs(VOCABULARY, TOKENS)
    before = resident_bytes("VmRSS")
    started = time.perf_counter()
    logprobs, entropy = forward(hidden, weight, labels)
    forward_peak = resident_bytes("VmHWM") - before
    logprobs.sum().backward()
    seconds = time.perf_counter() - started
    gradients = hidden.grad.nbytes + weight.grad.nbytes
    working = max(forward_peak, resident_bytes("VmHWM") - before - gradients)
    return {
        "MiB": round(working / 2**20, 1),
        "seconds": round(seconds, 1),
        "logprob": logprobs.mean().item(),
        "entropy": entropy.mean().item(),
        "grad_hidden": hidden.grad.float().norm().item(),
        "grad_weight": weight.grad.float().norm().item(),
    }


def memory():
    """Working memory of both versions in float32, under bf16 autocast (weights in float32), and in bf16."""
    result = {"limit": MEMORY_LIMIT}
    for precision in ("float32", "autocast", "bfloat16"):
        runs = {}
        for version in ("naive", "ours"):
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                runs[version] = pool.submit(head_run, version, precision).result()
            print(precision, version, runs[version], flush=True)
        for figure in ("logprob", "entropy", "grad_hidden", "grad_weight"):
            a, b = runs["ours"][figure], runs["naive"][figure]
            if abs(a - b) > 1e-2 * abs(
                b
            ):  # bf16 rounds at other places; the exact comparison is in the tests
                raise RuntimeError(
                    f"{precision}: {figure} is {a}, naive {b}; the versions compute different things"
                )
        result[precision] = {
            "ours_MiB": runs["ours"]["MiB"],
            "naive_MiB": runs["naive"]["MiB"],
            "share": round(runs["ours"]["MiB"] / runs["naive"]["MiB"], 3),
            "ours_seconds": runs["ours"]["seconds"],
            "naive_seconds": runs["naive"]["seconds"],
        }
    result["ok"] = all(run["share"] <= MEMORY_LIMIT for run in result.values() if isinstance(run, dict))
    return result


PARTS = {"memory": memory}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="default: all")
    parts = parser.parse_args().parts or list(PARTS)
    print(
        json.dumps(
            {"benchmark": "learner", "threads": torch.get_num_threads()} | {p: PARTS[p]() for p in parts}
        )
    )


if __name__ == "__main__":
    main()
