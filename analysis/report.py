"""From graded responses to the numbers of a report: accuracy, pass@k, maj@k, lengths, categories.

    records, n a problem --summarize, pass_rates, categories, judge.behaviour--> a row of the report --> table

A record is a line of responses.jsonl, see `grade` in eval.py. All functions take problem-major records.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

import verify
from analysis import judge

RESAMPLES = 1000  # of the bootstrap
Record = dict[str, Any]


# ---- responses.jsonl ----


def read_records(file: Path) -> Iterator[Record]:
    """The lines of a responses.jsonl; ValueError for one that lacks something."""
    needed = {"set", "template", "temperature", "problem", "question", "answers", "answer_format", "response"}
    needed |= {"formatted", "correct", "truncated", "response_tokens"}
    with open(file) as lines:
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict) or needed - record.keys():
                raise ValueError(
                    f"{file}, line {number} is no record of eval.py with {', '.join(sorted(needed))}"
                )
            yield record


def by_group(records: Iterable[Record]) -> Iterator[tuple[list[Record], int]]:
    """The records of one template, temperature and set at a time, and how many there are for each problem.

    ValueError unless all problems of a group have as many, one problem after the other.
    """
    for _, lines in groupby(records, key=lambda r: (r["template"], r["temperature"], r["set"])):
        group = list(lines)
        problems = [record["problem"] for record in group]
        n = problems.count(problems[0])
        if problems != [problem for problem in problems[::n] for _ in range(n)]:
            name = group[0]["set"]
            raise ValueError(
                f"the records of {name} are not {n} for each problem, one problem after the other"
            )
        yield group, n


# ---- Numbers ----


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that at least one of k samples is right, without bias from n samples with c right.

    1 - C(n-c, k) / C(n, k) (Chen et al., 2021). ValueError unless 0 <= c <= n and 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} of {n} samples with {c} right: need 0 <= c <= n and 1 <= k <= n")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def summarize(records: Sequence[Record], n: int) -> dict[str, float | None]:
    """Metrics of problem-major records, n a problem.

    accuracy (with n > 1 the avg@n) and its standard error over problems, pass@n, the shares of formatted and
    of truncated responses, and mean lengths in tokens: of all, of right and of wrong responses (None: there
    are none).
    """
    right = [sum(r["correct"] for r in records[i : i + n]) for i in range(0, len(records), n)]
    rates = [c / n for c in right]
    accuracy = sum(rates) / len(rates)
    variance = sum((rate - accuracy) ** 2 for rate in rates) / max(1, len(rates) - 1)
    return {
        "accuracy": accuracy,
        "accuracy_stderr": math.sqrt(variance / len(rates)),
        f"pass@{n}": mean([pass_at_k(n, c, n) for c in right]),
        "formatted": mean([r["formatted"] for r in records]),
        "truncated": mean([r["truncated"] for r in records]),
        "response_tokens": mean([r["response_tokens"] for r in records]),
        "response_tokens/correct": mean([r["response_tokens"] for r in records if r["correct"]]),
        "response_tokens/incorrect": mean([r["response_tokens"] for r in records if not r["correct"]]),
    }


def pass_rates(records: Sequence[Record], n: int) -> dict[str, np.ndarray]:
    """pass@k of each problem, k = 1, 2, 4, ... and n; pass@1 is the accuracy."""
    right = [sum(r["correct"] for r in records[i : i + n]) for i in range(0, len(records), n)]
    ks = sorted({2**i for i in range(n.bit_length())} | {n})
    return {f"pass@{k}": np.array([pass_at_k(n, c, k) for c in right]) for k in ks}


def answer_of(record: Record) -> Any:
    """A response's vote: its answer as a number, else as normalised text; None without an answer."""
    boxes = verify.extract(record["response"], record["answer_format"])
    text = verify.normalize(verify.given_for(boxes, record["answers"][0])) if boxes else ""
    number = verify.plain_number(text)
    return (text or None) if number is None else number


def majority(records: Sequence[Record]) -> float:
    """maj@n of one problem's n records: whether the answer that most of them give is right.

    With W the answers of the most votes: maj@n = 1/|W| sum over a in W of right(a), as if a tie was decided
    by lot; right(a) is the share of right verdicts among the votes for a. 0 where no response has an answer.
    Of all n samples, not averaged over subsets as pass@k is. Wrong answers that are spelled in ways which
    only mathematics makes equal, such as x+1 and 1+x, are apart, and right ones too.
    """
    votes: dict[Any, list[bool]] = {}
    for record in records:
        if (answer := answer_of(record)) is not None:
            votes.setdefault(answer, []).append(record["correct"])
    most = max(map(len, votes.values()), default=0)
    return mean([mean(verdicts) for verdicts in votes.values() if len(verdicts) == most]) or 0.0


def majorities(records: Sequence[Record], n: int) -> dict[str, float]:
    """maj@n over the problems; of one sample there is no vote."""
    if n == 1:
        return {}
    return {f"maj@{n}": mean([majority(records[i : i + n]) for i in range(0, len(records), n)])}


def resampled_means(values: np.ndarray, seed: int) -> np.ndarray:
    """Means [RESAMPLES, M] of values [questions, M], over questions drawn with replacement."""
    rng, count = np.random.default_rng(seed), len(values)
    return np.stack([values[rng.integers(count, size=count)].mean(axis=0) for _ in range(RESAMPLES)])


def intervals(names: Iterable[str], means: np.ndarray) -> dict[str, list[float]]:
    """The central 95 % of each column of resampled means."""
    return dict(zip(names, np.percentile(means, [2.5, 97.5], axis=0).T.tolist(), strict=True))


def category(record: Record) -> str:
    """One of App. F's four categories; only a response that is not right can be cut off or unformatted."""
    if record["correct"]:
        return "correct"
    if record["truncated"]:
        return "truncated"
    return "incorrect" if record["formatted"] else "unformatted"


def categories(records: Sequence[Record]) -> dict[str, Any]:
    """Responses of each category by level of difficulty (Fig. 14), and mean length by category (Table 5)."""
    by_level: dict[str, Counter] = {}
    lengths: dict[str, list[int]] = {}
    for record in records:
        by_level.setdefault(str(record.get("level") or "all"), Counter())[category(record)] += 1
        lengths.setdefault(category(record), []).append(record["response_tokens"])
    return {
        "categories_by_level": {level: dict(by_level[level]) for level in sorted(by_level)},
        "response_tokens_by_category": {name: mean(values) for name, values in lengths.items()},
    }


# ---- Rows and table ----


def analyse(
    groups: Iterable[tuple[list[Record], int]], seed: int, ask_judge: Callable | None = None
) -> list[dict[str, Any]]:
    """A row for each group of records, then the averages over sets of each template and temperature.

    `ask_judge` takes records and gives the judge's verdicts. Intervals are of 95 %, over questions.
    """
    rows, resampled = [], {}
    for group, n in groups:
        key, rates = (group[0]["template"], group[0]["temperature"]), pass_rates(group, n)
        before = resampled.setdefault(key, [])  # of other sets, whose questions are drawn independently
        means = resampled_means(np.stack(list(rates.values()), axis=1), seed + len(before))
        before.append(means)
        rows.append(
            {"set": group[0]["set"], "template": key[0], "temperature": key[1]}
            | {"questions": len(group) // n, "n": n}
            | summarize(group, n)
            | {name: float(values.mean()) for name, values in rates.items()}
            | majorities(group, n)
            | {"intervals": intervals(rates, means)}
            | categories(group)
            | judge.behaviour(group, n, ask_judge and ask_judge(group))
        )
    for key, means in resampled.items():
        of_key = [row for row in rows if (row["template"], row["temperature"]) == key]
        if len(of_key) > 1 and len({row["n"] for row in of_key}) == 1:
            rows.append(
                average(of_key) | {"intervals": intervals(of_key[0]["intervals"], sum(means) / len(means))}
            )
    return rows


def average(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean of each number over the rows that have one: every set weighs the same, as in Table 1."""
    result = rows[0] | {"set": "average", "questions": sum(row["questions"] for row in rows)}
    for name in [name for name, value in result.items() if isinstance(value, float) or value is None]:
        result[name] = mean([row[name] for row in rows if row[name] is not None])
    result["accuracy_stderr"] = math.hypot(*(row["accuracy_stderr"] for row in rows)) / len(rows)
    return {name: value for name, value in result.items() if not isinstance(value, dict)}


def cells(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The rows as a table's head and lines: rates in %, accuracy with its interval, lengths in tokens."""

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f}"

    def tokens(value: float | None) -> str:
        return "-" if value is None else f"{value:.0f}"

    ks = sorted({int(key[5:]) for row in rows for key in row if key.startswith("pass@")} - {1})
    rates = [*(f"pass@{k}" for k in ks), *(f"maj@{k}" for k in ks if any(f"maj@{k}" in row for row in rows))]
    answering = ["answering"] if any("answering" in row for row in rows) else []
    head = ["set", "template", "temperature", "questions", "n", "accuracy [95 %]", *rates]
    head += ["formatted", "truncated", "tokens", "of right", "of wrong", *answering, "reflection"]
    lines = [head]
    for row in rows:
        low, high = row["intervals"]["pass@1"]
        numbers = [f"{row['temperature']:g}", str(row["questions"]), str(row["n"])]
        line = [row["set"], row["template"], *numbers]
        line.append(f"{percent(row['accuracy'])} [{percent(low)}, {percent(high)}]")
        line += [percent(row.get(rate)) for rate in rates]
        line += [percent(row["formatted"]), percent(row["truncated"]), tokens(row["response_tokens"])]
        line += [tokens(row["response_tokens/correct"]), tokens(row["response_tokens/incorrect"])]
        line += [percent(row.get(name)) for name in answering]
        lines.append(line + [percent(row.get("reflection/both", row["reflection/keywords"]))])
    return lines


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """`cells` as a Markdown table."""
    head, *lines = cells(rows)
    lines = [[line[0].replace("|", r"\|"), *line[1:]] for line in lines]
    lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
