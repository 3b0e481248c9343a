"""What the learner costs. `python -m benchmarks.learner` prints one JSON object as its last line.

memory: linear_logprobs against the naive version (the three lines of its docstring), vocabulary 151,936 and
1,024 tokens of width 1,536: log-probs, entropy, and the backward pass from the sum of the log-probs, each
version in a fresh process. Measured is working memory, all but the inputs and the two gradients, which any
version must return. It is the larger of
  - the peak of resident memory until the forward pass has ended, minus what was resident before it,
  - the peak until the backward pass has ended, minus the same, minus the bytes of the gradients.
The second is too low for the naive version, which peaks before its gradients exist; so the share is too high.

speed, length, prompts, trl: see the functions. All but trl run without TRL.
"""

import argparse
import json
import multiprocessing
import re
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import torch

from benchmarks.common import LLAMA_135M, QWEN_0_5B
from learner import autocast, prepare_policy, update
from loss import group_advantages, linear_logprobs
from rollout import Rollout

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


SPEED_LIMIT, TRL_LIMIT, BUDGET = 0.85, 1.5, 512


def policy_135m():
    """Random weights: speed does not depend on their values."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return prepare_policy(LlamaForCausalLM(LlamaConfig(**LLAMA_135M)))


def realistic_rollouts(count=16):
    """Prompts of 60 to 120 tokens; lengths of responses log-normal around 150, as a math model's are."""
    generator = torch.Generator().manual_seed(0)
    lengths = (torch.randn(count, generator=generator) * 0.6 + 5.0).exp().long().clamp(16, BUDGET).tolist()
    prompts = torch.randint(60, 120, (count,), generator=generator).tolist()

    def ids(n):
        return torch.randint(3, LLAMA_135M["vocab_size"], (n,), generator=generator).tolist()

    return [Rollout(ids(p), ids(n), "", [-1.0] * n, False) for p, n in zip(prompts, lengths, strict=True)]


def settings(rollouts, **changes):
    """One minibatch, so that neither side needs a second forward for old log-probs."""
    options = dict(importance_cap=None, beta=0.0, mask_truncated=False, skip_equal_groups=False)
    options |= dict(share_prompts=False)
    options |= dict(algo="drgrpo", temperature=1.0, clip_eps=0.2, clip_eps_high=None, max_grad_norm=1.0)
    options |= dict(minibatch_size=len(rollouts), micro_batch_tokens=2048, max_response_tokens=BUDGET)
    return SimpleNamespace(**options | changes)


def seconds_of(run, rounds=3):
    """The fastest of some rounds after a warm-up: what else runs on the machine only ever adds."""
    run()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def our_update(policy, rollouts, advantages, **changes):
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.0)
    config = settings(rollouts, **changes)
    return update(policy, optimizer, rollouts, advantages, config, torch.device("cpu"), seed=0)


def speed():
    """Tokens a second of learner.update against a bare forward and backward of as many tokens, unpadded.

    Bare: transformers' own model(input_ids, labels).loss.backward() in rows of the mean length.
    """
    policy, rollouts = policy_135m(), realistic_rollouts()
    tokens = sum(len(r.prompt_ids) + len(r.response_ids) for r in rollouts)
    advantages = torch.linspace(-1, 1, len(rollouts))
    rows = torch.randint(3, LLAMA_135M["vocab_size"], (len(rollouts), tokens // len(rollouts)))

    def bare():
        for chunk in rows.split(max(1, 2048 // rows.shape[1])):
            with autocast(torch.device("cpu")):
                loss = policy.model(input_ids=chunk, labels=chunk, use_cache=False).loss
            loss.backward()
        policy.zero_grad()

    ours = tokens / seconds_of(lambda: our_update(policy, rollouts, advantages))
    theirs = rows.numel() / seconds_of(bare)
    return {"ours_tokens_per_second": ours, "bare_tokens_per_second": theirs, "share": ours / theirs,
            "limit": SPEED_LIMIT, "ok": ours / theirs >= SPEED_LIMIT}  # fmt: skip


def prompts():
    """Seconds of an update of Qwen2.5-0.5B's shape with and without --share_prompts, by turns.

    Two questions x 8 responses: prompts of 150 tokens, as ASDiv's under R1's template, responses around 80.
    """
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    policy = prepare_policy(Qwen2ForCausalLM(Qwen2Config(**QWEN_0_5B)), gradient_checkpointing=True)
    lengths = (torch.randn(16) * 0.5 + 4.25).exp().long().clamp(10, 300).tolist()
    rollouts = []
    for number, length in enumerate(lengths):
        prompt = list(range(100 + number // 8, 250 + number // 8))
        rollouts.append(Rollout(prompt, list(range(500, 500 + length)), "", [-1.0] * length, False))
    advantages, seconds = torch.linspace(-1, 1, 16), {False: [], True: []}
    for turn in range(4):
        for share, times in seconds.items():
            started = time.perf_counter()
            loss = our_update(policy, rollouts, advantages, group_size=8, share_prompts=share)["loss"]
            times += [time.perf_counter() - started] * (turn > 0)  # the first is a warm-up
            print(f"share_prompts {share}: loss {loss:.5f}, {time.perf_counter() - started:.1f} s")
    plain, shared = (statistics.median(times) for times in seconds.values())
    tokens = [150 * prompts + sum(lengths) for prompts in (16, 2)]
    return {"seconds": plain, "shared_seconds": shared, "ratio": plain / shared,
            "tokens_ratio": tokens[0] / tokens[1], "limit": 1.6, "ok": plain / shared >= 1.6}  # fmt: skip


def length():
    """Milliseconds a token for responses of 64 to 1024 tokens; what attention alone adds, by its products.

    A token of a response of length n costs 6 x parameters + 12 x layers x width x n / 2 multiplications.
    """
    policy, result = policy_135m(), {}
    parameters = sum(p.numel() for p in policy.parameters())
    for n in (64, 256, 1024):
        rollouts = [Rollout([5], list(range(10, 10 + n)), "", [-1.0] * n, False)] * (2048 // n)
        advantages = torch.ones(len(rollouts))
        seconds = seconds_of(lambda r=rollouts, a=advantages: our_update(policy, r, a), rounds=2)
        attention = 6 * LLAMA_135M["num_hidden_layers"] * LLAMA_135M["hidden_size"] * n / (6 * parameters)
        result[n] = {"ms_per_token": 1000 * seconds / 2048, "attention_share_by_products": attention}
    return result


def trl():
    """learner.update against the update of TRL's GRPOTrainer: same model, rollouts and loss.

    TRL pads a batch to its longest prompt and its longest response; per_device_train_batch_size 4 holds about
    the tokens of one of our micro-batches. `pip install trl` first.
    """
    import tempfile

    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    policy, rollouts = policy_135m(), realistic_rollouts()
    advantages = group_advantages(torch.tensor([1.0, 0, 0, 0] * 4), 4, scale_by_std=False)
    tokens = sum(len(r.prompt_ids) + len(r.response_ids) for r in rollouts)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "<eos>": 1}, unk_token="a")), eos_token="<eos>",
        pad_token="<eos>", unk_token="a",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            folder, loss_type="dr_grpo", scale_rewards=False, beta=0.0, max_completion_length=BUDGET,
            bf16=True,
            per_device_train_batch_size=4, num_generations=4, gradient_checkpointing=False, report_to="none",
            use_cpu=True, importance_sampling_level="token",
        )  # fmt: skip
        trainer = GRPOTrainer(
            policy.model, lambda completions, **_: [0.0] * len(completions), config,
            Dataset.from_dict({"prompt": ["a"] * 8}), processing_class=tokenizer,
        )  # fmt: skip

    def pad(rows, left):
        width = max(map(len, rows))
        fill = [[0] * (width - len(row)) for row in rows]
        ids = torch.tensor([f + r if left else r + f for r, f in zip(rows, fill, strict=True)])
        ones = [[1] * len(row) for row in rows]
        return ids, torch.tensor([f + o if left else o + f for o, f in zip(ones, fill, strict=True)])

    trainer.current_gradient_accumulation_steps = len(rollouts) // 4
    losses = []

    def theirs():
        losses.clear()
        for start in range(0, len(rollouts), 4):
            part = rollouts[start : start + 4]
            prompt_ids, prompt_mask = pad([r.prompt_ids for r in part], left=True)
            completion_ids, completion_mask = pad([r.response_ids for r in part], left=False)
            inputs = dict(prompt_ids=prompt_ids, prompt_mask=prompt_mask, completion_ids=completion_ids)
            inputs |= dict(completion_mask=completion_mask, advantages=advantages[start : start + 4])
            inputs |= dict(num_items_in_batch=completion_mask.sum())
            with autocast(torch.device("cpu")):
                loss = trainer._compute_loss(policy.model, inputs)
            loss.backward()
            losses.append(loss.item())
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        policy.zero_grad()

    policy.train()
    their_seconds = seconds_of(theirs)
    our_seconds = seconds_of(lambda: our_update(policy, rollouts, advantages))
    our_loss, their_loss = our_update(policy, rollouts, advantages)["loss"], sum(losses)
    ratio = their_seconds / our_seconds
    return {"ours_tokens_per_second": tokens / our_seconds, "trl_tokens_per_second": tokens / their_seconds,
            "ratio": ratio, "our_loss": our_loss, "trl_loss": their_loss, "limit": TRL_LIMIT,
            "ok": ratio >= TRL_LIMIT and abs(our_loss - their_loss) < 1e-4}  # fmt: skip


PARTS = {"memory": memory, "speed": speed, "length": length, "prompts": prompts, "trl": trl}


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
