"""Accuracy by category and speed of verify.py beside math-verify 0.9.0, in one run, on one core.

    pip install math-verify==0.9.0        # optional: its columns are left out without it
    python -m benchmarks.verify           # [--cases path/to/cases.jsonl] [--limit N] [--misses]
    python -m benchmarks.verify --hostile 1000    # how the pool stands that many hostile answers in a row

Each line of the cases holds gold, answer, expected, category and form: "answer" (bare), or "response", of
which the last box is graded. Ours runs in one worker of `VerifierPool`, pipes and timeouts included, as in
training; math-verify runs in this process with its own timeout of 5 s. The last line printed is JSON.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.hostile import HOSTILE
from verify import VerifierPool

ROOT = Path(__file__).parents[1]

# The label depends on the grader's policy (is 85.71 right for 600/7?): reported, but not counted.
POLICY = set(
    "approx_loose hard_approx hard_text hard_renaming hard_deg_rad text_case time sympy_dialect "
    "response_think response_nobox".split()
)


def group_of(category: str) -> str:
    if category in POLICY:
        return "policy"
    prefixes = {"rewrite": "rewrites", "corrupt": "corruptions", "identity": "identity"}
    return prefixes.get(category.split("/")[0], "public suites")


def ours(cases: list[dict]) -> tuple[list[bool], float]:
    """Verdicts, and seconds once the worker has started."""
    answers = [case["answer"] for case in cases]
    boxed = [
        a if case["form"] == "response" else f"\\boxed{{{a}}}" for a, case in zip(answers, cases, strict=True)
    ]
    with VerifierPool(1) as pool:
        pool.verify_all(["\\boxed{x}"], [("y",)], "boxed")
        start = time.perf_counter()
        verdicts = pool.verify_all(boxed, [(case["gold"],) for case in cases], "boxed")
        return [verdict.correct for verdict in verdicts], time.perf_counter() - start


def math_verify(cases: list[dict]) -> tuple[list[bool], float]:
    import math_verify as library

    def dollars(text: str) -> str:
        return text if "$" in text or "\\boxed" in text else f"${text}$"  # without, it reads no LaTeX

    verdicts = []
    library.verify(library.parse("$1$"), library.parse("$1$"))
    start = time.perf_counter()
    for case in cases:
        response = case["answer"] if case["form"] == "response" else dollars(case["answer"])
        verdicts.append(library.verify(library.parse(dollars(case["gold"])), library.parse(response)))
    return verdicts, time.perf_counter() - start


def hostile(count: int) -> dict[str, float | int | bool]:
    """The kinds of hostile.py over and over, one at a time; seconds each takes in all."""
    start = time.perf_counter()
    seconds, accepted, killed = [], 0, 0
    with tempfile.TemporaryDirectory() as directory, VerifierPool(1) as pool:
        pool.verify_all(["\\boxed{x}"], [("y",)], "boxed")
        pool_start = time.perf_counter() - start
        canary = Path(directory, "canary")
        kinds = [
            answer.replace("{canary!r}", repr(str(canary))).replace("{canary}", str(canary))
            for answer in HOSTILE.values()
        ]
        for index in range(count):
            start = time.perf_counter()
            response = f"\\boxed{{{kinds[index % len(kinds)]}}}"
            (verdict,) = pool.verify_all([response], [("42",)], "boxed")
            accepted, killed = accepted + verdict.correct, killed + verdict.timed_out
            seconds.append(time.perf_counter() - start)
        return {
            "pool_start_s": round(pool_start, 2),
            "hostile": count,
            "slowest_s": round(max(seconds), 3),
            "over_1.1_s": sum(second > 1.1 for second in seconds),
            "killed_and_replaced": killed,
            "accepted": accepted,
            "code_run": canary.exists(),
            "still_right": pool.verify_all(["\\boxed{x+1}"], [("1+x",)], "boxed")[0].correct,
            "workers": pool.workers.qsize(),
        }


def table(cases: list[dict], columns: dict[str, list[bool]], key) -> dict[str, dict[str, float]]:
    accuracy: dict[str, dict[str, float]] = {name: {} for name in columns}
    sizes = Counter(key(case["category"]) for case in cases)
    print("  ".join([f"{'category':32} {'cases':>5}", *(f"{name:>24}" for name in columns)]))
    for category, size in sorted(sizes.items()):
        cells = []
        for name, verdicts in columns.items():
            pairs = [
                (verdict, case["expected"])
                for verdict, case in zip(verdicts, cases, strict=True)
                if key(case["category"]) == category
            ]
            wrong_accepts = sum(verdict and not expected for verdict, expected in pairs)
            wrong_rejects = sum(expected and not verdict for verdict, expected in pairs)
            accuracy[name][category] = round(100 * (1 - (wrong_accepts + wrong_rejects) / size), 2)
            cells.append(f"{accuracy[name][category]:6.2f} % fp {wrong_accepts:3} fn {wrong_rejects:3}")
        print("  ".join([f"{category:32} {size:5}", *(f"{cell:>24}" for cell in cells)]))
    print()
    return accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ROOT.parent / "shared" / "data" / "verify_dev.jsonl"
    parser.add_argument("--cases", type=Path, default=default, help="labelled cases, one JSON object a line")
    parser.add_argument("--limit", type=int, default=None, help="only the first N cases")
    parser.add_argument("--misses", action="store_true", help="print every case that ours gets wrong")
    parser.add_argument("--hostile", type=int, default=0, help="grade that many hostile answers instead")
    args = parser.parse_args()
    if args.hostile:
        print(json.dumps(hostile(args.hostile)))
        return
    if not args.cases.exists():
        print(json.dumps({"skipped": f"no file {args.cases}"}))
        return
    cases = [json.loads(line) for line in args.cases.read_text().splitlines()][: args.limit]
    columns, rates = {}, {}
    for name, grade in {"ours": ours, "math-verify": math_verify}.items():
        try:
            columns[name], seconds = grade(cases)
        except ImportError:
            print("math-verify is not installed: pip install math-verify==0.9.0")
            continue
        rates[name] = round(len(cases) / seconds, 1)
    table(cases, columns, lambda category: category)
    accuracy = table(cases, columns, group_of)
    for verdict, case in zip(columns["ours"], cases, strict=True) if args.misses else ():
        if verdict != case["expected"] and case["category"] not in POLICY:
            print(
                case["category"],
                repr(case["gold"]),
                repr(case["answer"][-160:]),
                "expected",
                case["expected"],
            )
    print(json.dumps({"accuracy": accuracy, "cases_per_second": rates}))


if __name__ == "__main__":
    main()
