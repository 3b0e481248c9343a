"""The gradient of each group of responses, under every algorithm: what a question weighs in an update.

    python -m miniature.bias BASE QUESTIONS.jsonl BUDGET OUT.jsonl      a line a group: right, norms

The groups are those of a first step of train.py: 8 responses a question at temperature 1. Groups whose
responses are all right or all wrong have no gradient and are left out.
"""

import json
import math
import os
import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer

from data import load_problems
from learner import Policy, autocast, compute_dtype, load_policy
from loss import ALGOS, aggregate, clipped_loss, group_advantages
from rollout import Rollout, Sampler, collate
from verify import VerifierPool

QUESTIONS, GROUP = 768, 8


def gradient_norm(
    policy: Policy, group: list[Rollout], rewards: torch.Tensor, name: str, budget: int
) -> float:
    """Norm of the gradient of one group's loss, rewards [G], with nothing clipped."""
    algo, batch = ALGOS[name], collate(group)
    advantages = group_advantages(rewards, len(group), scale_by_std=algo.scale_by_std)  # [G]
    with autocast(torch.device("cpu")):
        logprobs, _ = policy(batch.input_ids, batch.labels, batch.response_mask)
    token_loss, _ = clipped_loss(logprobs, logprobs.detach(), advantages, batch.response_mask)
    divisors = dict(divide_by_length=algo.divide_by_length, max_response_tokens=budget)
    aggregate(token_loss, batch.response_mask, **divisors, num_rollouts=len(group)).backward()
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), math.inf).item()
    policy.zero_grad()
    return norm


def main() -> None:
    base, questions, budget, out = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    problems, tokenizer = load_problems(questions, limit=QUESTIONS), AutoTokenizer.from_pretrained(base)
    sampler = Sampler(base, max_model_len=64 + budget, dtype=compute_dtype(), memory=1.0)
    prompts = [tokenizer.encode(problem.question) for problem in problems]
    rollouts = sampler.sample(prompts, GROUP, 1.0, budget, (), seed=0)
    answers = [problem.answers for problem in problems for _ in range(GROUP)]
    with VerifierPool(num_workers=os.cpu_count() or 1) as verifier:
        verdicts = verifier.verify_all([rollout.text for rollout in rollouts], answers, "boxed")
    correct = [v.correct and not r.truncated for v, r in zip(verdicts, rollouts, strict=True)]
    policy, rows = load_policy(base, torch.device("cpu"), "eager"), []
    for start in range(0, len(rollouts), GROUP):
        group = rollouts[start : start + GROUP]
        rewards = torch.tensor(correct[start : start + GROUP], dtype=torch.float32)
        if 0 < rewards.sum() < GROUP:
            norms = {name: gradient_norm(policy, group, rewards, name, budget) for name in ALGOS}
            rows.append({"right": int(rewards.sum())} | norms)
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_suffix(".partial")
    aside.write_text("".join(json.dumps(row) + "\n" for row in rows))
    aside.replace(out)


if __name__ == "__main__":
    main()
