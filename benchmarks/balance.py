"""Which share of an update's token slots is idle or padding, worked out from lengths; nothing is trained.

    python -m benchmarks.balance                              lognormal lengths up to 3,000 tokens
    python -m benchmarks.balance runs/eval/responses.jsonl    those of eval.py, several responses a question

Ranks of a sharded model wait for each other at every layer, so a micro-batch takes the time of the rank with
the most slots (rows x longest row). Compared are each rank cutting the responses to its own questions, which
may not be mixed with other ranks', longest first into as few micro-batches as the budget allows; and
learner.py's way, which deals each minibatch's responses out by length. 128 questions x 8, minibatches of 128.
`time` adds PASS_TOKENS a micro-batch and is relative to the first way.
"""

import json
import math
import random
import sys
from collections import defaultdict
from pathlib import Path

from run.batches import PASS_TOKENS, deal_micro_batches

QUESTIONS, GROUP, MINIBATCH, PROMPT, STEPS = 128, 8, 128, 150, 10


def lognormal_groups(rng: random.Random) -> list[list[int]]:
    """Lengths of a step: a question's own, around 600 tokens, times each response's, up to the budget."""
    groups = []
    for _ in range(QUESTIONS):
        usual = rng.lognormvariate(math.log(600), 0.5)
        groups.append([min(3000, int(usual * rng.lognormvariate(0, 0.4)) + 1) for _ in range(GROUP)])
    return groups


def groups_of_file(file: str, rng: random.Random) -> list[list[int]]:
    """Questions of eval.py's responses.jsonl, drawn again and again."""
    of_problem = defaultdict(list)
    for line in Path(file).read_text().splitlines():
        record = json.loads(line)
        of_problem[record["set"], record["template"], record["problem"]].append(record["response_tokens"])
    return rng.choices(list(of_problem.values()), k=QUESTIONS)


def own_cut(lengths: list[int], budget: int) -> list[list[int]]:
    """Longest first, as many rows to a micro-batch as fit."""
    micro_batches: list[list[int]] = []
    for length in sorted(lengths, reverse=True):
        if micro_batches and micro_batches[-1][0] * (len(micro_batches[-1]) + 1) <= budget:
            micro_batches[-1].append(length)
        else:
            micro_batches.append([length])
    return micro_batches


def compare(draw, ranks: int, budget: int) -> dict[str, float]:
    rng, useful, slots, passes = random.Random(0), 0.0, [0, 0], [0, 0]
    for _ in range(STEPS):
        groups = [[PROMPT + length for length in group] for group in draw(rng)]
        of_ranks = [[length for group in groups[rank::ranks] for length in group] for rank in range(ranks)]
        for lengths in of_ranks:
            rng.shuffle(lengths)
        share = MINIBATCH // ranks
        for start in range(0, len(of_ranks[0]), share):
            minibatch = [lengths[start : start + share] for lengths in of_ranks]
            useful += sum(map(sum, minibatch)) / ranks
            cuts = [own_cut(lengths, budget) for lengths in minibatch]
            count = max(map(len, cuts))  # a rank with fewer ran empty ones, of one row
            passes[0] += count
            slots[0] += sum(max(len(c[i]) * c[i][0] if i < len(c) else 1 for c in cuts) for i in range(count))
            joined = [length for lengths in minibatch for length in lengths]
            dealt = deal_micro_batches(joined, budget, ranks)
            passes[1] += len(dealt)
            slots[1] += sum(len(m[0]) * max(joined[i] for of_rank in m for i in of_rank) for m in dealt)
    times = [slots[way] + PASS_TOKENS * passes[way] for way in (0, 1)]
    return {
        "idle_own": round(1 - useful / slots[0], 2),
        "idle_dealt": round(1 - useful / slots[1], 2),
        "time": round(times[1] / times[0], 2),
    }


def main() -> None:
    files = {
        Path(file).parent.name: lambda rng, file=file: groups_of_file(file, rng) for file in sys.argv[1:]
    }
    for name, draw in (files or {"lognormal": lognormal_groups}).items():
        for ranks in (1, 8, 64):
            for budget in (16384, 32768):
                result = {"lengths": name, "ranks": ranks, "micro_batch_tokens": budget}
                print(json.dumps(result | compare(draw, ranks, budget)))


if __name__ == "__main__":
    main()
