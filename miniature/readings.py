"""What README.md reads off paper.py's runs after their results were seen: why effects appear, or do not.

python -m miniature.readings      once paper.py has run; evaluates two models, then prints a line a reading
"""

import json
import re

from analysis.judge import keywords_in
from loss import ALGOS
from miniature.arithmetic import Chain
from miniature.paper import (
    GROUP,
    LAST,
    ROOT,
    RUNS,
    TEMPLATES,
    Row,
    bootstrap,
    evaluate,
    first_and_last_rewards,
    is_working,
    numbers_of,
    paired,
    plus_minus,
    read_responses,
    t_interval,
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


def read_samples(name: str, *, last: bool) -> list[Row]:
    """What samples.jsonl holds of the first or last LAST steps of all seeds of a run."""
    files = [ROOT / RUNS / f"{name}-seed{seed}" / "samples.jsonl" for seed in SEEDS]
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    end = max(row["step"] for row in rows)
    return [row for row in rows if (row["step"] > end - LAST if last else row["step"] <= LAST)]


def checks(records: list[Row]) -> str:
    """How often workings check again, on average."""
    counts = [record["response"].count("check again") for record in records if is_working(record)]
    return f"{sum(counts) / len(counts):.2f} checks in each of {len(counts)} workings"


def share(records: list[Row]) -> str:
    """Of how many records how many are right."""
    return f"{sum(record['correct'] for record in records) / len(records):.3f} of {len(records)}"


def wrong_responses() -> None:
    """Fig. 5: what wrong responses are made of, and how often they check."""
    for name in ("algos/grpo", "algos/drgrpo"):
        for last in (False, True):
            wrong = [row for row in read_samples(name, last=last) if not row["reward"]]
            without = sum(not is_working(row) for row in wrong) / len(wrong)
            when = "last" if last else "first"
            print(f"{name}, {when} {LAST} steps, wrong: {without:.2f} have no working; {checks(wrong)}")
    rows = read_samples("control/grpo", last=False) + read_samples("control/drgrpo", last=False)
    for reward, name in ((0, "wrong"), (1, "right")):
        print(f"control, first {LAST} steps, {name}: {checks([r for r in rows if r['reward'] == reward])}")


def rechecks_and_lengths() -> None:
    """Fig. 5 and bias: the base of `loops`, by whether a working checks, and by how hard a question is."""
    records = read_responses(RUNS / "table1/rechecks")
    for checked in (True, False):
        some = [r for r in records if is_working(r) and bool(keywords_in(r["response"])) == checked]
        print(f"base of loops, workings {'with' if checked else 'without'} a check, right: {share(some)}")
    groups: dict[int, list[Row]] = {}
    for record in records:
        groups.setdefault(record["problem"], []).append(record)
    for right in range(1, GROUP):
        some = [g for g in groups.values() if sum(record["correct"] for record in g) == right]
        mean, low, high = bootstrap([sum(record["response_tokens"] for record in g) / GROUP for g in some])
        print(f"base of loops, {right} of {GROUP} right: {mean:.1f} [{low:.1f}, {high:.1f}] tokens")


def templates_and_levels() -> None:
    """Fig. 6: right workings whose answer is another number; what training on the easier set leaves."""
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
            print(f"{name} of qa, {template}, greedy: {line}")
        for level in sorted({record["level"] for record in records}):
            some = [r for r in records if r["template"] == "none" and r["level"] == level]
            print(f"{name}, template none, {level} numbers: {share(some)}")


def rewards_and_effects() -> None:
    """Fig. 5 and 6: rewards of samples. Fig. 8: the length term beside the std term, and without it."""
    for name in ("algos/grpo", "algos/drgrpo", "fig6/r1-train"):
        first, last = first_and_last_rewards([RUNS / f"{name}-seed{seed}" for seed in SEEDS])
        first, last = (plus_minus(t_interval(rewards), 3) for rewards in (first, last))
        print(f"{name}, reward: {first} in the first {LAST} steps, {last} in the last")
    numbers = numbers_of({algo: [RUNS / f"algos/{algo}-seed{seed}" for seed in SEEDS] for algo in ALGOS})
    wrong = {algo: numbers[algo]["held_out/wrong"] for algo in ALGOS}
    for beside, algos in {"with": ("grpo", "grpo_no_length"), "without": ("grpo_no_std", "drgrpo")}.items():
        effect = plus_minus(paired(*(wrong[algo] for algo in algos)), 1, "+")
        print(f"length term {beside} the std term, wrong responses held out: {effect} tokens")


def bases() -> None:
    """Fig. 7: how often each base works at all."""
    for name in ("general", "domain", "concatenated"):
        rows = read_samples(f"fig7/{name}", last=False)
        print(f"{name}, first {LAST} steps: {sum(map(is_working, rows)) / len(rows):.3f} of {len(rows)} work")


if __name__ == "__main__":
    for reading in (wrong_responses, rechecks_and_lengths, rewards_and_effects, templates_and_levels, bases):
        reading()
