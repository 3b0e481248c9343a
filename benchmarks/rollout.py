"""What the training loop adds to the engine under it: two claims of README, each measured in one run.

    python -m benchmarks.rollout                     on the tiny base (python pretrain.py makes it)

sampler: response tokens per second of Sampler.sample over those of a bare vllm.LLM.generate with the same
prompts and settings, on one engine, in turns. A tiny model is the hardest case: the engine takes least time.
step: where the time of a training step goes, from the metrics of a real run. Prints one JSON line last.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import run.environment  # noqa: F401

from benchmarks.common import compare

ROOT = Path(__file__).parents[1]


def compare_sampling(model: str, rounds: int) -> dict[str, float]:
    """Of both, by turns; see `compare`."""
    from transformers import AutoTokenizer

    from data import load_problems
    from learner import compute_dtype
    from rollout import Sampler

    tokenizer = AutoTokenizer.from_pretrained(model)
    prompts = [tokenizer.encode(problem.question) for problem in load_problems("arithmetic", limit=32)]
    sampler = Sampler(model, max_model_len=192, dtype=compute_dtype(), memory=1.0)
    from vllm import SamplingParams  # after Sampler has set up vLLM

    # ignore_eos: both make the same number of tokens, whatever they sample.
    params = SamplingParams(n=8, max_tokens=64, logprobs=0, flat_logprobs=True, ignore_eos=True)
    sampler._sampling_params = lambda **ours: SamplingParams(**ours | {"ignore_eos": True})

    def ours() -> int:
        rollouts = sampler.sample(prompts, 8, 1.0, 64, [], seed=0)
        return sum(len(rollout.response_ids) for rollout in rollouts)

    def bare() -> int:
        outputs = sampler._llm.generate(
            [{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False
        )
        return sum(len(response.token_ids) for output in outputs for response in output.outputs)

    return compare(ours, bare, rounds)


def shares_of_a_step(model: str, steps: int) -> dict[str, float]:
    """Seconds a step, and the share of each part; evaluation and checkpoints left to the end of the run."""
    with tempfile.TemporaryDirectory() as folder:
        every = str(steps + 1)
        flags = ["--recipe", "tiny", "--model", model, "--num_steps", str(steps), "--eval_limit", "1"]
        flags += ["--eval_every", every, "--save_every", every, "--output_dir", f"{folder}/run"]
        subprocess.run([sys.executable, "train.py", *flags], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines][2:]  # without the evaluation before and the first step
    parts = {key: sum(m[key] for m in metrics) for key in metrics[0] if key.startswith("time/")}
    total = sum(parts.values())
    return {"seconds": total / len(metrics)} | {key: value / total for key, value in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="models/tiny-base")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    step = shares_of_a_step(args.model, args.steps)
    print("a step:", "  ".join(f"{key} {value:.3f}" for key, value in step.items()))
    sampling = compare_sampling(args.model, args.rounds)
    print(json.dumps({"step": step, "sampler": sampling}))


if __name__ == "__main__":
    main()
