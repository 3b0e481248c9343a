"""Does it run here? Sleep, wake and hand-over of one engine with the memory in use at each, then two steps.

    make smoke                                        the tiny base, made first where it is missing
    make smoke ARGS="--model Qwen/Qwen2.5-0.5B"       any checkpoint

Written for the first run on a new GPU; on a CPU the engine has no sleep, and the rest is the same.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer

from learner import compute_dtype, load_policy
from miniature.tiny_base import make_tiny_base
from rollout import Sampler
from run.ranks import start_accelerator
from run.settings import TINY_BASE
from train import hand_over

ROOT = Path(__file__).parents[1]


def report(moment: str) -> None:
    """Memory in use at this moment: of the whole GPU, or of this process."""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        print(f"{moment:<40}{(total - free) / 1e9:8.2f} GB of {total / 1e9:.0f} GB")
    else:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        print(f"{moment:<40}{pages * os.sysconf('SC_PAGE_SIZE') / 1e9:8.2f} GB")


def engine_part(model: str) -> None:
    """Sampling by seed, sleep, wake and hand-over, in a process of its own, so that the GPU is free after."""
    accelerator = start_accelerator()
    if model == TINY_BASE and not os.path.isdir(model):
        make_tiny_base(model, accelerator)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"torch {torch.__version__}, {name}, {compute_dtype()}, {model}")
    report("at the start")
    policy = load_policy(model, accelerator.device)
    report("learner loaded")
    memory = 0.6 if torch.cuda.is_available() else 1.0
    sampler = Sampler(model, max_model_len=256, dtype=compute_dtype(), memory=memory, sleep=True)
    report("engine started")
    prompt = AutoTokenizer.from_pretrained(model).encode("What is 31 + 7 - 12?\n")

    def sample(temperature: float, seed: int, n: int = 8):
        return sampler.sample([prompt], n, temperature, 64, (), seed)

    (before,) = sample(0.0, seed=0, n=1)
    drawn = [[r.text for r in sample(1.0, seed)] for seed in (0, 0, 1)]
    if drawn[0] != drawn[1] or drawn[0] == drawn[2] or len(set(drawn[0])) == 1:
        sys.exit(f"seeds 0, 0 and 1 gave {drawn}")
    print("the same seed gives the same 8 responses, another seed others")
    for turn in (1, 2):
        sampler.sleep()
        report(f"engine asleep, turn {turn}")
        hand_over(policy, sampler, before, accelerator.device)  # wakes it, and compares log-probs
        report("engine awake, weights handed over")
        (after,) = sample(0.0, seed=0, n=1)
        if after.response_ids != before.response_ids:
            sys.exit(
                f"after sleep and hand-over the same prompt gives {after.text!r}, before it {before.text!r}"
            )
    print("the same greedy response before and after; now two steps of train.py", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default=TINY_BASE)
    model = parser.parse_args().model
    engine = multiprocessing.get_context("spawn").Process(target=engine_part, args=(model,))
    engine.start()
    engine.join()
    run = ["train.py", "--recipe", "tiny", "--model", model, "--num_steps", "2", "--eval_limit", "50"]
    launcher = ["-m", "accelerate.commands.launch"] if torch.cuda.is_available() else []
    failed = engine.exitcode or subprocess.run([sys.executable, *launcher, *run], cwd=ROOT).returncode
    print("smoke test FAILED" if failed else "smoke test passed")
    sys.exit(failed)


if __name__ == "__main__":
    main()
