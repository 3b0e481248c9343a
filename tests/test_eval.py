import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, make_rollout
from stub_server import chat, completion, stub_server

import eval as script
from analysis import served
from analysis.report import analyse
from analysis.served import Response, Server, ServerError
from data import Problem, load_problems
from eval import evaluate, grade
from learner import compute_dtype
from templates import TEMPLATES
from verify import VerifierPool


class ScriptedSampler:
    """Answers each prompt by a script, in the order of the prompts."""

    def __init__(self, texts):
        self.texts = texts

    def sample(self, prompts, n, temperature, max_response_tokens, stop, seed, progress, logprobs, top_p):
        assert stop == ("</answer>",)
        rollouts = [make_rollout(ids, [1, 2, 3]) for ids in prompts for _ in range(n)]
        return [
            type(r)(r.prompt_ids, r.response_ids, text, r.sampler_logprobs, False)
            for r, text in zip(rollouts, self.texts, strict=True)
        ]


def test_ranks_share_problems_out_each_with_seeds_of_its_own(tokenizer, monkeypatch):
    """Five problems, two prompts a call: the second rank calls as often as the first, at last in vain."""
    problems = [Problem(f"{i} + 1?", ("1",)) for i in range(5)]
    calls, of_ranks = [], [[], []]
    monkeypatch.setattr(script, "CHUNK", 4)

    class Echo:
        def sample(self, prompts, n, *_, seed, **__):
            calls.append((len(prompts), seed))
            rollouts = [make_rollout(ids, [1]) for ids in prompts for _ in range(n)]
            return [dataclasses.replace(r, text=tokenizer.decode(r.prompt_ids)) for r in rollouts]

    for rank in range(2):

        def gather(mine, rank=rank):
            of_ranks[rank] = mine
            return of_ranks[0] + of_ranks[1]

        state = SimpleNamespace(process_index=rank, num_processes=2)
        monkeypatch.setattr(script, "gather_object", gather)
        monkeypatch.setattr(script, "PartialState", lambda state=state: state)
        settings = dict(template="none", n=2, temperature=1.0, max_response_tokens=9, seed=7)
        with VerifierPool(1) as verifier:
            _, records = evaluate(Echo(), tokenizer, verifier, problems, **settings)
    assert calls == [(2, 7), (1, 9), (2, 8), (0, 10)]
    asked = [(r["problem"], r["response"]) for r in records]
    assert asked == [(i, problem.question) for i, problem in enumerate(problems) for _ in range(2)]


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


def test_chunks_of_questions_keep_order_and_have_seeds_of_their_own(tokenizer, monkeypatch):
    calls = []

    class Sampler:
        def sample(self, prompts, n, temperature, max_response_tokens, stop, seed, progress, logprobs, top_p):
            calls.append((len(prompts), seed))
            texts = [tokenizer.decode(ids) for ids in prompts for _ in range(n)]
            return [SimpleNamespace(text=text, response_ids=[1], truncated=False) for text in texts]

    monkeypatch.setattr(script, "CHUNK", 8)
    problems = [Problem(f"What is {i} + 1?", (str(i + 1),)) for i in range(5)]
    settings = dict(template="none", n=4, temperature=1.0, max_response_tokens=9, seed=7)
    with VerifierPool(num_workers=1) as verifier:
        _, records = evaluate(Sampler(), tokenizer, verifier, problems, **settings)
    assert calls == [(2, 7), (2, 8), (1, 9)]
    assert [r["response"] for r in records] == [p.question for p in problems for _ in range(4)]


def test_top_p_and_further_stop_strings_reach_the_sampler(tokenizer):
    asked = {}

    class Sampler:
        def sample(self, prompts, n, temperature, max_response_tokens, stop, **settings):
            asked.update(settings, stop=stop)
            return [make_rollout(ids, [1]) for ids in prompts for _ in range(n)]

    settings = dict(template="r1", n=2, temperature=1.0, max_response_tokens=9, top_p=0.9, stop=["\n\n"])
    with VerifierPool(num_workers=1) as verifier:
        evaluate(Sampler(), tokenizer, verifier, [Problem("1 + 1?", ("2",))], **settings)
    assert asked["top_p"] == 0.9 and asked["stop"] == ("</answer>", "\n\n")


def test_a_right_answer_counts_though_the_budget_ran_out_behind_it(tokenizer):
    response = Response("\\boxed{2} and so on and", 9, truncated=True)
    with VerifierPool(num_workers=1) as verifier:
        (record,) = grade(verifier, [Problem("1 + 1?", ("2",))], [0], [response], "none")
    assert record["correct"] and record["truncated"]


def test_responses_are_written_whole_or_not_at_all(tmp_path):
    def groups(broken):
        yield [{"problem": 0}, {"problem": 1}]
        if broken:
            raise OSError("the server is gone")
        yield [{"problem": 2}]

    file = tmp_path / "responses.jsonl"
    with pytest.raises(OSError):
        script.write_responses(groups(broken=True), file)
    assert not file.exists()
    script.write_responses(groups(broken=False), file)
    assert [json.loads(line)["problem"] for line in file.read_text().splitlines()] == [0, 1, 2]


def main(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["eval.py", *map(str, args)])
    script.main()


def read(folder):
    report = json.loads((folder / "report.json").read_text())
    return report, [json.loads(line) for line in (folder / "responses.jsonl").read_text().split("\n")[:-1]]


def test_an_interruption_keeps_what_was_done(checkpoint, tmp_path, monkeypatch):
    def sample(prompts, n, temperature, max_response_tokens, stop, **settings):
        if temperature:
            raise KeyboardInterrupt
        return [make_rollout(ids, [1]) for ids in prompts]

    monkeypatch.setattr(script, "Sampler", lambda *args, **settings: SimpleNamespace(sample=sample))
    flags = ["--data", "arithmetic", "--temperature", "0,1", "--limit", 3, "--output_dir", tmp_path / "one"]
    kept = tmp_path / "one" / "responses.partial"
    with pytest.raises(SystemExit, match=f"interrupted; start again; .* is in {kept}, which --regrade takes"):
        main(monkeypatch, "--model", checkpoint, *flags)
    with pytest.raises(SystemExit):  # and is not written over
        main(monkeypatch, "--regrade", kept, "--output_dir", tmp_path / "one")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(monkeypatch, "--regrade", kept, "--output_dir", "one")
    main(monkeypatch, "--regrade", kept, "--output_dir", tmp_path / "two")
    (row,) = read(tmp_path / "two")[0]["results"]
    assert row["temperature"] == 0 and len(read(tmp_path / "two")[1]) == 3


def test_a_long_prompt_takes_nothing_from_the_budget_of_others(checkpoint, tmp_path, capsys):
    """The context is 256 tokens; the second question takes 200 of them, so only its response is cut."""
    rows = [{"question": "1+1", "answer": "2"}, {"question": "1+" * 100, "answer": "100"}]
    (tmp_path / "two.jsonl").write_text("\n".join(map(json.dumps, rows)))
    plan = script.prepare(script.EvalConfig(model=checkpoint, data=[f"{tmp_path}/two.jsonl"]))
    assert (plan.budget, plan.max_model_len) == (255, 256)
    assert "2 prompts leave less than 255 tokens of the model's context, 256" in capsys.readouterr().out
    flags = dict(model=checkpoint, data=[f"{tmp_path}/two.jsonl"], max_response_tokens=100)
    plan = script.prepare(script.EvalConfig(**flags))
    assert (plan.budget, plan.max_model_len) == (100, 256)
    assert "1 prompts leave less than 100 tokens" in capsys.readouterr().out
    plan = script.prepare(script.EvalConfig(**flags | {"max_response_tokens": 50}))
    assert plan.max_model_len == 250 and capsys.readouterr().out == ""


def test_a_prompt_must_leave_room_for_a_token(checkpoint, tmp_path):
    for length in (255, 256):
        (tmp_path / f"{length}.jsonl").write_text(json.dumps({"question": "1" * length, "answer": "1"}))
    plan = script.prepare(script.EvalConfig(model=checkpoint, data=[f"{tmp_path}/255.jsonl"]))
    assert plan.max_model_len == 256
    with pytest.raises(ValueError, match="the longest prompt has 256 tokens, and the model's context is 256"):
        script.prepare(script.EvalConfig(model=checkpoint, data=[f"{tmp_path}/256.jsonl"]))


def test_names_said_twice_count_once_and_questions_are_those_not_trained_on(checkpoint):
    flags = dict(template="no,none,qwen_math", temperature="0,1,0.0", n=2, limit=50)
    plan = script.prepare(script.EvalConfig(model=checkpoint, data=["arithmetic"], **flags))
    assert plan.templates == ["none", "qwen_math"] and plan.temperatures == [0.0, 1.0]
    held_out = {problem.question for problem in plan.sets["arithmetic"]}
    trained_on = {problem.question for problem in load_problems("arithmetic")}
    assert len(plan.sets["arithmetic"]) == 50 and not held_out & trained_on


def test_the_engine_samples_with_the_flags_of_the_command_line(tokenizer, monkeypatch):
    calls = []

    class Sampler:
        def __init__(self, model, *, max_model_len, dtype, memory):
            calls.append((model, max_model_len, memory))

        def sample(self, prompts, n, temperature, max_response_tokens, stop, seed, progress, logprobs, top_p):
            calls.append((n, temperature, max_response_tokens, stop, seed))
            return [SimpleNamespace(text="", response_ids=[1], truncated=False) for _ in prompts * n]

    monkeypatch.setattr(script, "Sampler", Sampler)
    plan = script.Plan({}, [], [], tokenizer, 9, 32)
    source = script.local_source(script.EvalConfig(model="m", seed=7, memory=0.5), plan)
    with VerifierPool(num_workers=1) as verifier:
        source(verifier, [Problem("1 + 1?", ("2",))], template="r1", n=3, temperature=0.5)
    assert calls == [("m", 32, 0.5), (3, 0.5, 9, ("</answer>",), 7)]


def test_all_sets_are_sampled_in_one_call_and_told_apart_afterwards(tokenizer):
    sets = {
        name: [Problem(f"{name} {i}?", (str(i),)) for i in range(count)]
        for name, count in (("a", 2), ("b", 3))
    }
    calls = []

    def source(verifier, problems, *, n, template, temperature):
        calls.append((template, temperature, n))
        texts = [f"{p.question} \\boxed{{{k}}}" for p in problems for k in range(n)]
        responses = [Response(text, 1, False) for text in texts]
        return grade(verifier, problems, range(len(problems)), responses, template)

    plan = script.Plan(sets, ["none"], [0.0, 1.0], tokenizer, 9, 32)
    with VerifierPool(num_workers=1) as verifier:
        groups = list(script.sampled(plan, 2, source, verifier))
    assert calls == [("none", 0.0, 1), ("none", 1.0, 2)]
    assert [(g[0]["set"], g[0]["temperature"], len(g)) for g in groups] == [
        ("a", 0.0, 2), ("b", 0.0, 3), ("a", 1.0, 4), ("b", 1.0, 6),
    ]  # fmt: skip
    assert [(r["problem"], r["response"]) for r in groups[3][:3]] == [
        (0, "b 0? \\boxed{0}"), (0, "b 0? \\boxed{1}"), (1, "b 1? \\boxed{0}"),
    ]  # fmt: skip
    assert [r["correct"] for r in groups[3]] == [True, False, False, True, False, False]


# ---- Without a model: --regrade ----

HOSTILE = ["\0\\boxed{2}", "\ud800 \\boxed{2}", "x" * 3_000_000 + "\\boxed{2}", "\u2028\x85\r\n\\boxed{2}"]
HOSTILE += ["\\boxed{" * 50_000, "{question} %s $(touch executed) | `a` \\boxed{3}", "\\boxed{\0\ud800}", ""]


@pytest.fixture
def hostile_file(tmp_path):
    """Records of two problems with four responses each, with verdicts that are all wrong."""
    known = {"set": "s|%s", "template": "none", "temperature": 1.0, "question": "1 + 1?", "answers": ["2"]}
    known |= {"answer_format": "boxed", "formatted": False, "correct": False, "truncated": False}
    lines = [
        json.dumps(known | {"problem": i // 4, "level": "1", "response": text, "response_tokens": 5})
        for i, text in enumerate(HOSTILE)
    ]
    (tmp_path / "responses.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "report.json").write_text(json.dumps({"model": "m", "config": {"seed": 3}, "results": []}))
    return tmp_path / "responses.jsonl"


def test_hostile_responses_are_graded_judged_and_reported(hostile_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with stub_server(lambda body, i: chat("Category: 1")) as stub:
        judge_flags = ["--judge_model", "j", "--judge_url", stub.url, "--output_dir", tmp_path / "new"]
        main(monkeypatch, "--regrade", hostile_file, *judge_flags)
    report, records = read(tmp_path / "new")
    assert [r["response"] for r in records] == HOSTILE
    assert [r["correct"] for r in records] == [True] * 4 + [False] * 4
    assert [r["formatted"] for r in records] == [True] * 4 + [False, True, True, False]
    (row,) = report["results"]
    assert (row["questions"], row["n"], row["accuracy"], row["pass@4"]) == (2, 4, 0.5, 0.5)
    assert row["answering"] == 1 and row["judge_categories"]["reflection"] == {"1": 8}
    assert report["model"] == "m" and report["config"] == {"seed": 3}  # of the run that sampled
    out = capsys.readouterr().out
    assert "6 of 8 verdicts have changed" in out and "judge: 16 calls for 16 judgements" in out
    assert len(stub.requests) == 16 and not os.path.exists("executed")
    assert {headers["Authorization"] for headers in stub.headers} == {"Bearer sk-secret"}
    assert (
        not any("sk-secret" in file.read_text() for file in (tmp_path / "new").iterdir()) and "sk-" not in out
    )


def test_regrading_in_place_changes_nothing_the_second_time(hostile_file, monkeypatch, capsys):
    main(monkeypatch, "--regrade", hostile_file, "--output_dir", hostile_file.parent)
    first = hostile_file.read_bytes(), json.loads((hostile_file.parent / "report.json").read_text())
    main(monkeypatch, "--regrade", hostile_file, "--output_dir", hostile_file.parent)
    assert "0 of 8 verdicts have changed" in capsys.readouterr().out
    assert first == (hostile_file.read_bytes(), json.loads((hostile_file.parent / "report.json").read_text()))


def test_intervals_follow_the_seed(tmp_path, monkeypatch):
    known = {"set": "a", "template": "none", "temperature": 0.0, "question": "1 + 1?", "answers": ["2"]}
    known |= {"answer_format": "boxed", "formatted": True, "truncated": False, "response_tokens": 5}
    records = [known | {"problem": i, "correct": i % 3 == 0} for i in range(40)]
    for record in records:
        record["response"] = f"\\boxed{{{2 if record['correct'] else 3}}}"
    (tmp_path / "responses.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for seed in (0, 5):
        flags = ["--seed", seed, "--output_dir", tmp_path / str(seed)]
        main(monkeypatch, "--regrade", tmp_path / "responses.jsonl", *flags)
        (row,) = read(tmp_path / str(seed))[0]["results"]
        assert row["intervals"] == analyse([(records, 1)], seed)[0]["intervals"]
    assert row["intervals"] != analyse([(records, 1)], 0)[0]["intervals"]


def test_a_judge_that_stops_answering_leaves_a_run_that_goes_on(hostile_file, tmp_path, monkeypatch, capsys):
    with stub_server(lambda body, i: chat("Category: 1") if i < 5 else (401, b"{}")) as stub:
        flags = ["--judge_model", "j", "--judge_url", stub.url, "--concurrency", 1]
        with pytest.raises(SystemExit, match="to go on: --regrade .*, the judge's flags"):
            main(monkeypatch, "--regrade", hostile_file, *flags, "--output_dir", tmp_path / "new")
        made = read(tmp_path / "new")[0]
        assert made["model"] == "m" and not made["results"]
    with stub_server(lambda body, i: chat("Category: 1")) as stub:
        flags = ["--judge_model", "j", "--judge_url", stub.url, "--output_dir", tmp_path / "new"]
        main(monkeypatch, "--regrade", tmp_path / "new" / "responses.jsonl", *flags)
        assert len(stub.requests) == 16 - 5
    report, _ = read(tmp_path / "new")
    assert report["model"] == "m" and report["results"][0]["answering"] == 1
    assert "judge: 11 calls for 16 judgements" in capsys.readouterr().out


# ---- Served models, by a stub ----


def test_a_served_model_gets_the_same_report_and_is_resumed(checkpoint, tmp_path, monkeypatch, capsys):
    def answer(body, i):
        if body["max_tokens"] == 1:
            return completion()  # the trial
        return completion(" \\boxed{1}", tokens=4) if i < limit else (401, b"{}")

    flags = ["--model", "m", "--tokenizer", checkpoint, "--limit", 3, "--n", 2, "--temperature", "0,1"]
    flags += ["--top_p", 0.9, "--stop", "~", "\n\n"]
    flags += ["--template", "none,r1", "--output_dir", tmp_path, "--concurrency", 1]
    limit = 8
    with stub_server(answer) as stub:
        with pytest.raises(SystemExit, match="to go on, start again with the same flags and --output_dir"):
            main(monkeypatch, *flags, "--base_url", stub.url)
    limit = 99
    with stub_server(answer) as stub:
        main(monkeypatch, *flags, "--base_url", stub.url)
        # Per template 3 greedy responses and 3 x 2; 7 and the trial were there.
        assert len(stub.requests) == 2 * 9 - 7
        assert all(isinstance(body["prompt"], list) for body in stub.requests)
        assert {body["top_p"] for body in stub.requests} == {0.9}
        stops = {tuple(body["stop"]) for body in stub.requests}
        assert stops == {("~", "\n\n"), ("</answer>", "~", "\n\n")}  # none's and r1's
    report, records = read(tmp_path)
    groups = [(row["template"], row["temperature"], row["n"]) for row in report["results"]]
    assert groups == [("none", 0, 1), ("none", 1, 2), ("r1", 0, 1), ("r1", 1, 2)]
    assert len(records) == 18 and all(r["response_tokens"] == 4 for r in records)
    assert report["max_response_tokens"] == 3000 and report["prompts_as"] == "token ids"
    assert "as token ids" in capsys.readouterr().out


def test_a_server_that_refuses_token_ids_gets_text(checkpoint, tmp_path, monkeypatch, capsys):
    def answer(body, i):
        return (400, b"{}") if isinstance(body["prompt"], list) else completion(" \\boxed{1}")

    flags = ["--model", "m", "--tokenizer", checkpoint, "--limit", 3, "--output_dir", tmp_path]
    with stub_server(answer) as stub:
        main(monkeypatch, *flags, "--base_url", stub.url)
    report, records = read(tmp_path)
    assert report["prompts_as"] == "text" and len(records) == 3
    assert {body["prompt"] for body in stub.requests[2:]} == {record["question"] for record in records}
    assert "as text" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change,message",
    [
        (["--n", "4"], "several samples need a temperature above 0"),
        (["--data", "no-such-set"], "no-such-set"),
        (["--model", "./nowhere"], "model './nowhere' is no folder"),
        (
            ["--max_response_tokens", "5000"],
            "max_response_tokens 5000 is over the model's context",
        ),
        (["--template", "four_shot"], "tokens, and the model's context is 256"),
        (["--template", "none,r2"], "template 'r2' is unknown: choose one of"),
        (["--temperature", "0.5,hot"], "temperature '0.5,hot': 0 or numbers from 0.01 on"),
        (["--temperature", "0,0.005"], "temperature '0,0.005': 0 or numbers from 0.01 on"),
        (["--temperature", "nan"], "temperature 'nan': 0 or numbers from 0.01 on"),
        (["--temperature=-0.5"], "temperature '-0.5': 0 or numbers from 0.01 on"),
        (["--model", ""], "set one of them"),
        (["--regrade", "x.jsonl"], "set one of them"),
        (["--model", "", "--regrade", "./no.jsonl"], "no.jsonl"),
        (["--model", "", "--regrade", __file__], "line 1 is no record of eval.py"),
        (["--model", "", "--regrade", os.devnull], "holds no responses"),
        (["--judge_url", "http://x"], "judge_url http://x is used with judge_model only: set that too"),
        (["--tokenizer", "t"], "tokenizer t is used with base_url only"),
        (["--model", "", "--regrade", "x", "--base_url", "http://x"], "base_url http://x, regrade x"),
        (["--n", "0"], "n is 0, and must be above 0"),
        (["--limit", "0"], "limit is 0, and must be above 0"),
        (["--top_p", "0", "--temperature", "1"], "top_p is 0.0, and must be above 0"),
        (["--top_p", "95", "--temperature", "1"], "top_p is 95.0, and must be at most 1"),
        (["--top_p", "0.95"], "top_p 0.95 at temperature 0 changes nothing: set a temperature above 0"),
        (["--max_new_tokens", "9"], "--max_new_tokens is no flag: did you mean --max_response_tokens?"),
        (["--data", "a", "--data", "b"], "give it once, with all sets behind it"),
        (["--stop", ""], "--stop is empty: give it a value, or leave it out"),
        (["--base_url", "host:8000/v1"], "base_url host:8000/v1 should begin with http:// or https://"),
        (["--judge_model", "j", "--judge_url", "host/v1"], "judge_url host/v1 should begin with http"),
        (["--n", "many"], "--n: invalid int value: 'many'"),
        (["--max_response_tokens", "0"], "max_response_tokens is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--judge_model", "j"], "set OPENAI_API_KEY"),
        (["--base_url", "http://127.0.0.1:9/v1"], "APIConnectionError, Connection error., 3 times over"),
        (["--output_dir", "{used}"], "responses.jsonl already"),
    ],
)
def test_bad_input_ends_with_one_sentence_before_the_engine_starts(
    checkpoint, hostile_file, monkeypatch, capsys, change, message
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr("analysis.served.WAIT_S", 0.001)
    monkeypatch.setattr("rollout.Sampler.__init__", lambda *_, **__: pytest.fail("the engine was started"))
    monkeypatch.chdir(hostile_file.parent)
    with pytest.raises(SystemExit) as stopped:
        change = [text.replace("{used}", str(hostile_file.parent)) for text in change]
        main(monkeypatch, "--model", checkpoint, *change)
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.startswith("eval.py: ") and message in error and error.count("\n") == 1


def test_records_that_are_not_a_rectangle_are_refused(hostile_file, monkeypatch, capsys):
    hostile_file.write_text("".join(hostile_file.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(SystemExit):
        main(monkeypatch, "--regrade", hostile_file)
    assert "are not 4 for each problem" in capsys.readouterr().err


# ---- With an engine ----


def run(*args):
    command = [sys.executable, "eval.py", *map(str, args)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_command_line_end_to_end(checkpoint, tmp_path):
    """Two sets, two templates and three temperatures in one engine start."""
    own = tmp_path / "own.jsonl"
    own.write_text('{"question": "What is 1 + 2?", "answer": "3", "level": 1}\n')
    flags = ["--model", checkpoint, "--data", "arithmetic", own, "--limit", 3, "--max_response_tokens", 8]
    flags += ["--n", 2, "--temperature", "0,0.5,1", "--template", "no,qwen_math"]
    flags += ["--top_p", 1e-6, "--stop", "7"]  # only the likeliest token is left
    done = run(*flags, "--output_dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    report, records = read(tmp_path / "out")
    assert len(records) == 2 * (1 + 2 + 2) * (3 + 1) and all(0 < r["response_tokens"] <= 8 for r in records)
    for i in range(0, len(records) - 1):
        here, after = records[i], records[i + 1]
        if all(here[key] == after[key] for key in ("template", "temperature", "set", "problem")):
            assert here["response"] == after["response"]
    assert all("7" not in r["response"][:-1] for r in records)
    rows = [(row["template"], row["temperature"], row["set"]) for row in report["results"]]
    groups = [(t, h) for t in ("none", "qwen_math") for h in (0.0, 0.5, 1.0)]
    sets = ("arithmetic", str(own))
    assert rows == [(*g, s) for g in groups for s in sets] + [(*g, "average") for g in groups]
    for row in report["results"][:12]:
        group = [r for r in records if all(r[k] == row[k] for k in ("set", "template", "temperature"))]
        assert row["accuracy"] == sum(r["correct"] for r in group) / len(group)
    assert done.stdout.count("\n| ") == 18 + 1  # the table, its first line at the start
    # What makes the report again: prompts, checksums, seed and versions.
    assert report["config"]["seed"] == 0 and report["versions"]["torch"] == torch.__version__
    assert report["templates"]["qwen_math"]["prompt"] == TEMPLATES["qwen_math"].prompt
    text = '[["What is 1 + 2?", ["3"], "1"]]'
    checksum = hashlib.sha256(text.encode()).hexdigest()
    assert report["sets"][str(own)] == {"questions": 1, "sha256": checksum}


@pytest.fixture(scope="module")
def vllm_server(checkpoint, tmp_path_factory):
    """The address of a real `vllm serve` of the random checkpoint."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dtype = str(compute_dtype()).removeprefix("torch.")
    # What `vllm serve` starts; that script itself fails on the CPU build, whose package has another name.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", checkpoint]
    command += [
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
        "--served-model-name",
        "tiny",
        "--enforce-eager",
        "--dtype",
        dtype,
    ]
    cpu = {} if torch.cuda.is_available() else {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    environment = os.environ | cpu | {"VLLM_CPU_KVCACHE_SPACE": "1", "NO_PROXY": "127.0.0.1"}
    log = tmp_path_factory.mktemp("server") / "log"
    with open(log, "w") as output:
        # A session of its own: it starts an engine process, which must end with it.
        server = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        give_up = time.monotonic() + 240
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert server.poll() is None and time.monotonic() < give_up, log.read_text()[-3000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(url, timeout=2).status == 200
    except OSError:
        return False


@pytest.mark.slow
def test_a_real_server_gives_the_same_report(vllm_server, checkpoint, tmp_path, monkeypatch, capsys):
    flags = ["--model", "tiny", "--base_url", vllm_server, "--limit", 4, "--max_response_tokens", 8]
    flags += ["--n", 3, "--temperature", "0,1", "--template", "none,qwen_math", "--output_dir"]
    main(monkeypatch, *flags, tmp_path / "ids", "--tokenizer", checkpoint)
    main(monkeypatch, *flags, tmp_path / "text")
    out = capsys.readouterr().out
    assert "as token ids" in out and "as text" in out
    (report, by_ids), (by_text_report, by_text) = read(tmp_path / "ids"), read(tmp_path / "text")
    assert (report["prompts_as"], by_text_report["prompts_as"]) == ("token ids", "text")
    assert len(by_ids) == 2 * (1 + 3) * 4 and len(report["results"]) == 4
    assert all(0 < r["response_tokens"] <= 8 for r in by_ids)
    assert all(r["truncated"] == (r["response_tokens"] == 8) for r in by_ids)
    assert len({r["response"] for r in by_ids if r["temperature"]}) > 12  # seeds differ
    # Text and ids are one prompt; batches of another shape may round another way, so not all must agree.
    assert sum(a["response"] == b["response"] for a, b in zip(by_ids, by_text, strict=True)) > len(by_ids) / 2


@pytest.mark.slow
def test_a_real_server_keeps_stop_strings_and_refuses_in_words(vllm_server, tmp_path):
    server = Server(vllm_server, "NO_KEY", 60, 4)
    settings = dict(n=16, temperature=1.0, max_response_tokens=60, stop=["7"], seed=0)
    responses = served.sample(server, "tiny", [[5, 6]], **settings, file=tmp_path / "a")
    stopped = [r for r in responses if "7" in r.text]
    assert stopped and all(r.text.index("7") == len(r.text) - 1 and not r.truncated for r in stopped)
    with pytest.raises(ServerError, match="(?i)max_tokens|context|length"):
        settings["max_response_tokens"] = 9000
        served.sample(server, "tiny", [[5, 6]], **settings, file=tmp_path / "b")
    with pytest.raises(ServerError, match="other"):
        served.takes_token_ids(server, "other", [1], "1", file=tmp_path / "c")
