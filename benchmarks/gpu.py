"""Speed and memory on one GPU at real shapes: a line a figure, one JSON line last; no network.

    python -m benchmarks.gpu                      Qwen2.5-1.5B's shape with random weights
    python -m benchmarks.gpu --parts learner      some parts; each stands alone, and one that fails says so

Random weights rarely end a response, so lengths are drawn: prompts of 100 to 200 tokens, responses of 100 to
3,000 (log-uniform). On a CPU it runs at toy size, to test that it runs.
"""

import argparse
import json
import math
import random
import statistics
import sys
import tempfile
import time
import traceback
from functools import cached_property

import run.environment  # noqa: F401

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.common import QWEN_1_5B, compare
from learner import autocast, compute_dtype, load_policy, update
from miniature.arithmetic import arithmetic_problems
from miniature.tiny_base import tiny_tokenizer
from rollout import Rollout, Sampler
from run.base_model import empty_model
from run.memory import engine_memory, learner_memory
from run.settings import Config
from train import hand_over

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
LONGEST = (200, 3000) if GPU else (20, 60)  # prompt, response
RESPONSES = 256 if GPU else 8
TOY = dict(
    vocab_size=600, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=4096, tie_word_embeddings=True,
)  # fmt: skip


class Bench:
    """What several parts need, made when the first of them asks."""

    share = 0.4 if GPU else 0.1  # of the GPU; GiB of KV cache on a CPU

    def __init__(self, folder: str):
        self.folder = folder
        self.config = Config(
            model=folder, gradient_checkpointing=GPU, max_prompt_tokens=LONGEST[0],
            max_response_tokens=LONGEST[1], minibatch_size=RESPONSES // 2, engine_memory=self.share,
            micro_batch_tokens=16384 if GPU else 200,
        )  # fmt: skip

    @cached_property
    def checkpoint(self) -> str:
        torch.manual_seed(0)
        tokenizer = tiny_tokenizer(problem.question for problem in arithmetic_problems(count=200))
        special = dict(bos_token_id=None, eos_token_id=tokenizer.eos_token_id)
        with DEVICE:
            config = Qwen2Config(**(QWEN_1_5B if GPU else TOY), **special)
            Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(self.folder)
        tokenizer.save_pretrained(self.folder)
        return self.folder

    @cached_property
    def policy(self):
        return load_policy(self.checkpoint, DEVICE, gradient_checkpointing=self.config.gradient_checkpointing)

    @cached_property
    def optimizer(self):
        return torch.optim.AdamW(self.policy.parameters(), lr=1e-6, betas=(0.9, 0.95), fused=True)

    @cached_property
    def sampler(self) -> Sampler:
        length = sum(LONGEST)
        return Sampler(
            self.checkpoint, max_model_len=length, dtype=compute_dtype(), memory=self.share, sleep=True
        )

    @cached_property
    def rollouts(self) -> list[Rollout]:
        """Groups of 8 share a prompt; every response has a length of its own."""
        rng, rollouts = random.Random(0), []
        for i in range(RESPONSES):
            if i % 8 == 0:
                prompt = rng.choices(range(3, 600), k=rng.randint(LONGEST[0] // 2, LONGEST[0]))
            length = int(math.exp(rng.uniform(math.log(LONGEST[1] / 30), math.log(LONGEST[1]))))
            response = rng.choices(range(3, 600), k=max(1, length))
            rollouts.append(Rollout(prompt, response, "", [-1.0] * len(response), False))
        return rollouts

    def learn(self, count: int) -> None:
        """One optimizer step on the first `count` rollouts."""
        self.config.minibatch_size = count
        advantages = torch.linspace(-1, 1, count)
        rollouts = self.rollouts[:count]
        update(self.policy, self.optimizer, rollouts, advantages, self.config, DEVICE, seed=0)


def synchronize() -> None:
    if GPU:
        torch.cuda.synchronize()


def seconds_of(run, rounds: int = 3) -> float:
    """Median of some rounds after a warm-up."""
    times = []
    for _ in range(rounds + 1):
        synchronize()
        started = time.perf_counter()
        run()
        synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def used() -> float:
    """GB of the whole GPU that are in use; 0 on a CPU."""
    if not GPU:
        return 0.0
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 1e9


def peak(_: Bench) -> dict[str, float]:
    """The GPU's largest bf16 rate in TFLOP/s, by a product of square matrices."""
    n = 8192 if GPU else 256
    a, b = (torch.randn(n, n, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    return {"tflops": 2 * n**3 / seconds_of(lambda: a @ b, rounds=20) / 1e12}


def sampler(bench: Bench) -> dict[str, float]:
    """Response tokens a second of Sampler.sample, and of a bare LLM.generate with the same requests."""
    engine, prompts = bench.sampler, [r.prompt_ids for r in bench.rollouts]
    from vllm import SamplingParams  # after Sampler has set up vLLM

    usual = engine._sampling_params
    lengths = [len(r.response_ids) for r in bench.rollouts]
    params = [SamplingParams(max_tokens=n, logprobs=0, flat_logprobs=True, ignore_eos=True) for n in lengths]

    def bare() -> int:
        engine._llm.reset_prefix_cache()
        engine._llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
        return sum(lengths)

    def ours() -> int:
        engine._sampling_params = lambda **_: params
        engine.sample(prompts, 1, 1.0, LONGEST[1], [], seed=0)
        engine._sampling_params = usual
        return sum(lengths)

    result = compare(ours, bare, rounds=2)
    return result | {"seconds": sum(lengths) / result["tokens_per_second"]}


def repeat(bench: Bench) -> dict[str, float]:
    """Of 64 responses: how many the same seed gives again, and how many another seed gives."""
    prompts = [r.prompt_ids for r in bench.rollouts[::8]][:8]
    first, again, other = (
        [r.response_ids for r in bench.sampler.sample(prompts, 8, 1.0, LONGEST[1] // 10, [], seed)]
        for seed in (0, 0, 1)
    )

    def alike(a, b):
        return sum(x == y for x, y in zip(a, b, strict=True))

    return {"same_seed": alike(first, again), "other_seed": alike(first, other), "of": len(first)}


def learner(bench: Bench) -> dict[str, float]:
    """Tokens a second of an update (prompts included), beside a bare forward and backward of as many.

    mfu: products that the update needs over the largest rate measured in this run; recomputed ones are not
    counted. Bare: transformers' model(input_ids, labels).loss.backward() in rows of the mean length.
    """
    count = RESPONSES // 2
    rollouts, config = bench.rollouts[:count], bench.policy.model.config
    lengths = [len(r.prompt_ids) + len(r.response_ids) for r in rollouts]
    tokens, width = sum(lengths), sum(lengths) // count
    rows = torch.randint(3, 600, (count, width), device=DEVICE)

    def bare():
        for chunk in rows.split(max(1, bench.config.micro_batch_tokens // width)):
            with autocast(DEVICE):
                loss = bench.policy.model(input_ids=chunk, labels=chunk, use_cache=False).loss
            loss.backward()
        bench.optimizer.step()
        bench.optimizer.zero_grad()

    ours, theirs = seconds_of(lambda: bench.learn(count)), seconds_of(bare)
    head = config.vocab_size * config.hidden_size
    body = sum(p.numel() for p in bench.policy.parameters()) - head  # the embedding is tied, and looked up
    products = body * tokens + head * sum(len(r.response_ids) for r in rollouts)
    products += config.num_hidden_layers * config.hidden_size * sum(n * n for n in lengths)
    return {"tokens_per_second": tokens / ours, "bare_tokens_per_second": rows.numel() / theirs,
            "ratio": tokens / ours / (rows.numel() / theirs), "seconds": ours, "tokens": tokens,
            "mfu": 6 * products / ours / 1e12 / peak(bench)["tflops"]}  # fmt: skip


def handover(bench: Bench) -> dict[str, float]:
    """Seconds from a sleeping engine to one that has the learner's weights, its check included."""
    probe = max(bench.rollouts, key=lambda r: len(r.response_ids))
    sleeping = []

    def run():
        started = time.perf_counter()
        bench.sampler.sleep()
        sleeping.append(time.perf_counter() - started)
        # Random responses are unlikely ones, so rounding makes more of a gap than on sampled ones.
        hand_over(bench.policy, bench.sampler, probe, DEVICE, limit=0.5)

    total = seconds_of(run)
    return {
        "seconds": total,
        "of_it_sleep": statistics.median(sleeping),
        "probe_tokens": len(probe.response_ids),
    }


def memory(bench: Bench) -> dict[str, float]:
    """GB in use at each moment of a step, beside what run/memory.py says of the same moment."""
    model = empty_model(bench.checkpoint)
    need = learner_memory(bench.config, model, 1, dtype=compute_dtype())
    weights, _ = engine_memory(bench.config, model, compute_dtype())
    total = torch.cuda.mem_get_info()[1] if GPU else 0
    bench.sampler.sleep()
    bench.learn(RESPONSES // 2)  # the optimizer has its moments now
    if GPU:
        torch.cuda.empty_cache()
    found = {"learner_beside_sleeping_engine": used()}
    if GPU:
        torch.cuda.reset_peak_memory_stats()
    bench.learn(RESPONSES // 2)
    found["update_peak_allocated"] = torch.cuda.max_memory_allocated() / 1e9 if GPU else 0.0
    found["update_peak_reserved"] = torch.cuda.max_memory_reserved() / 1e9 if GPU else 0.0
    found["update_said"] = need.update / 1e9
    hand_over(bench.policy, bench.sampler, bench.rollouts[0], DEVICE, limit=0.5)
    found["engine_awake"] = used()
    found["engine_awake_said"] = (need.beside_engine + max(weights, bench.share * total)) / 1e9
    return found


PARTS = {f.__name__: f for f in (peak, learner, sampler, repeat, handover, memory)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    results = {"benchmark": "gpu", "device": torch.cuda.get_device_name() if GPU else "cpu"}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(folder)
        for name in parser.parse_args().parts:
            started = time.perf_counter()
            try:
                results[name] = PARTS[name](bench)
            except Exception as error:  # of whatever kind: the other parts are worth having
                traceback.print_exc()
                results[name] = {"failed": f"{type(error).__name__}: {error}"[:500]}
            for key, value in results[name].items():
                print(f"{name:<9} {key:<32} {value if isinstance(value, str) else f'{value:12,.3f}'}")
            print(f"{name:<9} took {time.perf_counter() - started:.0f} s", flush=True)
    print(json.dumps(results), flush=True)
    sys.exit(any("failed" in results[name] for name in PARTS if name in results))


if __name__ == "__main__":
    main()
