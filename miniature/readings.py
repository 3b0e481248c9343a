"""What is read off paper.py's runs after their results were seen: why effects appear, or do not.

    python -m miniature.readings              of all experiments, once paper.py has their runs
    python -m miniature.readings fig5         of one

A line a reading, printed and written to README.md here, below the experiment's table. paper.py starts this
after each experiment. The reading of fig6 evaluates two models.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from analysis.judge import keywords_in
from analysis.plot import ALGO_NAMES, read_run
from loss import ALGOS
from miniature.arithmetic import Chain
from miniature.decision import expected_pushes
from miniature.paper import (
    GROUP,
    HERE,
    LAST,
    ROOT,
    RUNS,
    TEMPLATES,
    Row,
    bootstrap,
    evaluate,
    first_and_last_rewards,
    is_working,
    plus_minus,
    read_responses,
    t_interval,
    write_between_markers,
)

SEEDS = range(5)


def is_right_working(question: str, response: str) -> bool:
    """Whether the steps written down are the question's, and each is right; whatever answer follows."""
    first, *steps = re.findall(r"[+-]?\d+", question.replace(" ", ""))
    chain = Chain(int(first), tuple((step[0], int(step[1:])) for step in steps))
    total, lines = chain.first, []
    for operator, number in chain.steps:
        result = total + number if operator == "+" else total - number
        lines.append((str(total), f"{operator}{number}", str(result)))
        total = result
    return re.findall(r"(-?\d+)([+-]\d+)=(-?\d+)", response) == lines


def read_first_samples(name: str) -> list[Row]:
    """What samples.jsonl holds of the first LAST steps of all seeds of a run."""
    files = [ROOT / RUNS / f"{name}-seed{seed}" / "samples.jsonl" for seed in SEEDS]
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [row for row in rows if row["step"] <= LAST]


def share(records: list[Row]) -> str:
    """Of how many records how many are right."""
    return f"{sum(record['correct'] for record in records) / len(records):.3f} of {len(records)}"


def growth() -> Iterator[str]:
    """Fig. 5: the decision at the start and at the end, what is expected of it, and the budget's part."""

    def runs_of(algo: str) -> list[Path]:
        return sorted((ROOT / RUNS / "fig5").glob(f"doubt-{algo}-seed*/"))

    for algo in ALGOS:
        runs = runs_of(algo)
        decisions = [json.loads((run / "decisions.json").read_text()) for run in runs]
        pushes = expected_pushes(ROOT / RUNS / "worlds/doubt-0/base", "doubt", algo)
        for key, after in {"after_wrong": "doubtful", "after_right": "sure"}.items():
            ends = [plus_minus(t_interval([rows[i][key] for rows in decisions]), 2) for i in (0, -1)]
            push = f"expected push {pushes[key]:+.2f}"
            yield f"{ALGO_NAMES[algo]}, going on after a {after} value: {ends[0]}, then {ends[1]}; {push}"
        last = [[line["truncated"] for line in read_run(run)[1] if line["step"] > 0][-LAST:] for run in runs]
        cut = plus_minus(t_interval([np.mean(shares) for shares in last]), 3)
        yield f"{ALGO_NAMES[algo]}, last {LAST} steps: {cut} of all responses are cut off by the budget"
    samples = [json.loads(line) for run in runs_of("grpo") for line in (run / "samples.jsonl").open()]
    last = max(sample["step"] for sample in samples) - LAST
    cut = [sample for sample in samples if sample["step"] > last and sample["truncated"]]
    right = sum(f" is {sample['answers'][0]}" in sample["response"] for sample in cut)
    yield f"GRPO, samples of these steps: {right} of {len(cut)} that are cut off state the right value"


def rechecks_and_lengths() -> Iterator[str]:
    """Table 1 and bias: the base of `loops`, by whether a working checks, and by how hard a question is."""
    records = read_responses(RUNS / "table1/rechecks")
    for checked in (True, False):
        some = [r for r in records if is_working(r) and bool(keywords_in(r["response"])) == checked]
        yield f"base of loops, workings {'with' if checked else 'without'} a check, right: {share(some)}"
    groups: dict[int, list[Row]] = {}
    for record in records:
        groups.setdefault(record["problem"], []).append(record)
    for right in range(1, GROUP):
        some = [g for g in groups.values() if sum(record["correct"] for record in g) == right]
        mean, low, high = bootstrap([sum(record["response_tokens"] for record in g) / GROUP for g in some])
        yield f"base of loops, {right} of {GROUP} right: {mean:.1f} [{low:.1f}, {high:.1f}] tokens"


def templates_and_levels() -> Iterator[str]:
    """Fig. 6: rewards of samples under r1; right workings whose answer is another number; what training on
    the easier set leaves."""
    first, last = first_and_last_rewards([RUNS / f"fig6/r1-train-seed{seed}" for seed in SEEDS])
    first, last = (plus_minus(t_interval(rewards), 3) for rewards in (first, last))
    yield f"r1 on the broad set, reward: {first} in the first {LAST} steps, {last} in the last"
    world, budget = RUNS / "worlds/qa", dict(max_response_tokens=192)
    models = {"base": world / "base", "easier": RUNS / "fig6/none-easier-seed0/model"}
    for name, model in models.items():
        settings = dict(model=model, data=world / "test.jsonl", template=",".join(TEMPLATES), **budget)
        evaluate(RUNS / "readings" / name, **settings)
        records = read_responses(RUNS / "readings" / name)
        for template in TEMPLATES if name == "base" else ():
            some = [record for record in records if record["template"] == template]
            good = [
                r for r in some if is_right_working(r["question"].removeprefix("What is "), r["response"])
            ]
            wrong = sum(not record["correct"] for record in good)
            line = f"{len(good) / len(some):.2f} right workings, {wrong / len(some):.2f} with another answer"
            yield f"{name} of qa, {template}, greedy: {line}"
        for level in sorted({record["level"] for record in records}):
            some = [r for r in records if r["template"] == "none" and r["level"] == level]
            yield f"{name}, template none, {level} numbers: {share(some)}"


def bases() -> Iterator[str]:
    """Fig. 7: how often each base works at all."""
    for name in ("general", "domain", "concatenated"):
        rows = read_first_samples(f"fig7/{name}")
        yield f"{name}, first {LAST} steps: {sum(map(is_working, rows)) / len(rows):.3f} of {len(rows)} work"


READINGS = {"fig5": growth, "fig6": templates_and_levels, "fig7": bases, "table1": rechecks_and_lengths}


def main(experiments: list[str]) -> None:
    for name in experiments or READINGS:
        lines = "\n".join(READINGS[name]())
        print(f"\n{name}\n{lines}", flush=True)
        write_between_markers(HERE / "README.md", f"{name}-readings", f"```\n{lines}\n```")


if __name__ == "__main__":
    main(sys.argv[1:])
