import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import make_rollout

from data import Problem
from eval import evaluate, pass_at_k, summarize
from verify import VerifierPool

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("n,c,k", [(1, 0, 1), (1, 1, 1), (5, 2, 1), (5, 2, 3), (6, 1, 6), (6, 4, 3)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n, c, k):
    subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@pytest.mark.parametrize("n,c,k", [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5)])
def test_pass_at_k_refuses_impossible_counts(n, c, k):
    with pytest.raises(ValueError, match="need 0 <= c <= n"):
        pass_at_k(n, c, k)


def test_summary_by_hand():
    rows = [
        (True, True, False, 10),
        (False, True, False, 20),
        (False, False, True, 30),
        (False, False, True, 40),
    ]
    keys = ("correct", "formatted", "truncated", "response_tokens")
    metrics = summarize([dict(zip(keys, row, strict=True)) for row in rows], n=2)
    # Rates of the two problems: 1/2 and 0. Mean 1/4, sample variance 1/8, standard error sqrt(1/8 / 2) = 1/4.
    assert metrics == pytest.approx(
        {
            "accuracy": 0.25,
            "accuracy_stderr": 0.25,
            "pass@2": 0.5,
            "formatted": 0.5,
            "truncated": 0.5,
            "response_tokens": 25.0,
        }
    )


class ScriptedSampler:
    """Answers each prompt by a script, in the order of the prompts."""

    def __init__(self, texts):
        self.texts = texts

    def sample(self, prompts, n, temperature, max_response_tokens, stop, seed, progress=False):
        assert stop == ("</answer>",)
        rollouts = [make_rollout(ids, [1, 2, 3]) for ids in prompts for _ in range(n)]
        return [
            type(r)(r.prompt_ids, r.response_ids, text, r.sampler_logprobs, False)
            for r, text in zip(rollouts, self.texts, strict=True)
        ]


def test_records_are_problem_major_and_verified_in_the_templates_format(tokenizer):
    problems = [Problem("1 + 1?", ("2",), "easy"), Problem("6 / 4?", ("1.5", "3/2"))]
    right, wrong = " so </think> <answer>2</answer>", " so \\boxed{2}"
    texts = [right, wrong, " so </think> <answer>\\frac{3}{2}</answer>", " so </think> <answer>2</answer>"]
    with VerifierPool(num_workers=1) as verifier:
        metrics, records = evaluate(
            ScriptedSampler(texts),
            tokenizer,
            verifier,
            problems,
            template="r1",
            n=2,
            temperature=1.0,
            max_response_tokens=10,
        )
    assert [r["problem"] for r in records] == [0, 0, 1, 1]
    assert [r["correct"] for r in records] == [True, False, True, False]
    assert [r["formatted"] for r in records] == [True, False, True, True]
    assert [r["response"] for r in records] == texts
    assert records[0]["level"] == "easy" and records[2]["answers"] == ("1.5", "3/2")
    assert metrics["accuracy"] == 0.5 and metrics["pass@2"] == 1.0


def run(*args):
    return subprocess.run(
        [sys.executable, "eval.py", *args], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_command_line_end_to_end(checkpoint, tmp_path):
    args = [
        "--model",
        checkpoint,
        "--limit",
        "3",
        "--n",
        "2",
        "--temperature",
        "1",
        "--max_response_tokens",
        "8",
    ]
    done = run(*args, "--output_dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "arithmetic: 3 questions  accuracy" in done.stdout
    records = [json.loads(line) for line in (tmp_path / "arithmetic.jsonl").read_text().splitlines()]
    assert len(records) == 6 and all(0 < r["response_tokens"] <= 8 for r in records)
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert report["arithmetic"]["accuracy"] == sum(r["correct"] for r in records) / 6
    assert report["config"]["n"] == 2


@pytest.mark.parametrize(
    "change,message",
    [
        (["--n", "4"], "several samples need a temperature above 0"),
        (["--data", "no-such-set"], "no-such-set"),
        (["--model", "./nowhere"], "model './nowhere' is no folder"),
        (["--max_response_tokens", "5000"], "set max_response_tokens to"),
    ],
)
def test_bad_input_ends_with_one_sentence_before_the_engine_starts(
    checkpoint, monkeypatch, capsys, change, message
):
    import eval as script

    monkeypatch.setattr(sys, "argv", ["eval.py", "--model", checkpoint, *change])
    monkeypatch.setattr("rollout.Sampler.__init__", lambda *_, **__: pytest.fail("the engine was started"))
    with pytest.raises(SystemExit) as stopped:
        script.main()
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.startswith("eval.py: ") and message in error and error.count("\n") == 1
