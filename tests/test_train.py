import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, make_rollout, random_qwen2
from transformers import AutoModelForCausalLM, AutoTokenizer

import learner
import train
import verify
from data import Problem
from learner import NotFinite
from rollout import EngineFailed, collate
from run import checkpoint, signals, start
from run import settings as config
from run.checkpoint import checkpoint_state
from run.log import response_metrics
from run.ranks import start_accelerator
from run.settings import Config, check, parse_config
from run.signals import Interrupted, sample_or_stop
from run.start import encode_questions
from train import derived_seed, questions_of_step

# Table 6 of the paper
TABLE_6 = dict(
    prompts_per_step=128,
    group_size=8,
    minibatch_size=128,
    max_prompt_tokens=1024,
    max_response_tokens=3000,
    temperature=1.0,
    lr=1e-6,
    clip_eps=0.2,
    max_grad_norm=1.0,
    beta=0.0,
    eval_every=16,
    eval_data=["aime", "amc", "math500", "minerva", "olympiad"],
)


@pytest.mark.parametrize(
    "recipe,model,data,template",
    [
        ("oat-zero-7b", "Qwen/Qwen2.5-Math-7B", "math_lvl3to5", "qwen_math"),
        ("oat-zero-1.5b", "Qwen/Qwen2.5-Math-1.5B", "math12k", "r1"),
        ("oat-zero-3b", "lkevinzc/Llama-3.2-3B-NuminaQA", "math12k", "r1"),
        ("figure5", "Qwen/Qwen2.5-1.5B", "math12k", "r1"),
    ],
)
def test_recipes_are_the_papers_and_a_flag_overrides_them(recipe, model, data, template):
    c = vars(parse_config(["--recipe", recipe]))
    assert (c["model"], c["data"], c["template"]) == (model, data, template)
    assert {name: c[name] for name in TABLE_6} == TABLE_6
    assert parse_config(["--recipe", recipe, "--lr", "2e-6"]).lr == 2e-6


def test_every_recipe_passes_the_checks(monkeypatch):
    qwen_7b = SimpleNamespace(num_attention_heads=28)
    monkeypatch.setattr(config, "check_model", lambda _: 4096)
    monkeypatch.setattr(config, "empty_model", lambda *_: SimpleNamespace(config=qwen_7b))
    for name in ("check_memory", "check_disk"):
        monkeypatch.setattr(config, name, lambda *_: None)
    for recipe in config.RECIPES:
        for ranks in (1, 2, 4, 8):
            check(parse_config(["--recipe", recipe]), ranks)


def test_everything_that_is_not_the_papers_is_off_unless_asked_for():
    c = vars(parse_config(["--recipe", "oat-zero-7b"]))
    off = dict(clip_eps_high=None, importance_cap=None, mask_truncated=False, skip_equal_groups=False)
    off |= dict(report_to="none", resume=False, tensor_parallel=1, seed=0, algo="drgrpo")
    assert {name: c[name] for name in off} == off


def test_a_micro_batch_may_hold_just_one_full_response(checkpoint):
    flags = ["--recipe", "tiny", "--model", checkpoint, "--micro_batch_tokens", str(64 + 128)]
    check(parse_config(flags), 1)
    assert "128 responses an update, in 128 micro-batches" in config.plan(parse_config(flags), 1, 99)
    assert "32 responses an update, in 32" in config.plan(parse_config(flags), 4, 99)


@pytest.mark.parametrize("on_gpu,default", [(False, 1.0), (True, 0.6)])
def test_the_engine_has_a_gibibyte_or_three_fifths_of_a_gpu(on_gpu, default, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    assert config.engine_share(Config()) == default
    assert config.engine_share(Config(engine_memory=0.3)) == 0.3


def test_resume_goes_on_with_the_settings_of_the_run(tmp_path):
    saved = parse_config(["--algo", "grpo", "--lr", "3e-5", "--output_dir", str(tmp_path)])
    (tmp_path / "config.json").write_text(json.dumps(vars(saved) | {"versions": {}}))
    c = parse_config(["--output_dir", str(tmp_path), "--resume", "--num_steps", "7"])
    assert (c.algo, c.lr, c.num_steps, c.resume) == ("grpo", 3e-5, 7, True)
    moved = tmp_path / "moved"
    (tmp_path / "config.json").rename(moved.with_suffix(".json"))
    moved.mkdir()
    moved.with_suffix(".json").rename(moved / "config.json")
    assert parse_config(["--output_dir", str(moved), "--resume"]).output_dir == str(moved)
    (moved / "config.json").write_text('{"algo": "gr')
    with pytest.raises(ValueError, match="^resume: .*/config.json cannot be read: "):
        parse_config(["--output_dir", str(moved), "--resume"])


def test_resume_finds_the_run_below_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"lr": 3e-5}))
    c = parse_config(["--output_dir", "~", "--resume"])
    assert (c.lr, c.output_dir) == (3e-5, str(tmp_path))


def test_an_epoch_asks_every_question_once_and_in_a_new_order():
    asked = [i for step in range(6) for i in questions_of_step(step, 4, 12, seed=5)]
    first, second = asked[:12], asked[12:]
    assert sorted(first) == sorted(second) == list(range(12)) and first != second
    assert questions_of_step(1, 8, 12, seed=5) == asked[8:16]  # across the border of two epochs
    assert asked != [i for step in range(6) for i in questions_of_step(step, 4, 12, seed=6)]


def test_seeds_differ_by_purpose_step_and_rank():
    seeds = {
        derived_seed(s, p, i, r) for s in (0, 1) for p in ("a", "b") for i in range(12) for r in range(12)
    }
    assert len(seeds) == 2 * 2 * 12 * 12 and all(0 <= seed < 2**31 for seed in seeds)


def test_response_metrics_by_hand():
    records = [
        (1.0, True, 10, False),
        (0.0, True, 30, False),
        (0.0, False, 50, True),
        (0.0, False, 40, False),
    ]
    assert response_metrics(records, group_size=2) == {
        "reward/mean": 0.25,
        "reward/formatted": 0.5,
        "response_tokens/mean": 32.5,
        "response_tokens/correct": 10,
        "response_tokens/incorrect": 40,
        "truncated": 0.25,
        "groups/all_zero": 0.5,
        "groups/all_one": 0.0,
    }
    all_right = response_metrics(records[:1] * 2, group_size=2)
    assert all_right["groups/all_one"] == 1.0 and all_right["response_tokens/incorrect"] is None


def test_prompts_over_the_limit_are_left_out_and_counted(checkpoint, tokenizer, capsys):
    questions = ("1 + 1?", "1 + 1 + 1 + 1 + 1 + 1?", "2?")
    problems = [Problem(question, ("2",)) for question in questions]
    c = Config(model=checkpoint, data="mine", prompts_per_step=2, max_prompt_tokens=8, max_response_tokens=9)
    kept, prompts, max_model_len = encode_questions(c, tokenizer, problems, {})
    longest = len(tokenizer.encode("1 + 1?"))
    assert kept == [problems[0], problems[2]] and max_model_len == longest + 9
    assert prompts == [tokenizer.encode("1 + 1?"), tokenizer.encode("2?")]
    assert "1 of 3 questions are left out: over max_prompt_tokens 8" in capsys.readouterr().out
    c.max_prompt_tokens = longest
    assert encode_questions(c, tokenizer, problems, {})[0] == kept
    c.max_prompt_tokens, c.prompts_per_step = 8, 3
    with pytest.raises(
        ValueError, match="2 of 3 questions of mine are within max_prompt_tokens 8, fewer than"
    ):
        encode_questions(c, tokenizer, problems, {})


def test_a_response_ends_where_the_context_does_and_no_other_budget_shrinks(checkpoint, tokenizer, capsys):
    """The checkpoint's context is 256 tokens; the evaluation set's longest prompt takes 201 of them."""
    short, long = Problem("1 + 1?", ("2",)), Problem("1+" * 99 + "1?", ("100",))
    lengths = [len(tokenizer.encode(problem.question)) for problem in (short, long)]
    assert lengths[1] > 198
    c = Config(model=checkpoint, data="mine", prompts_per_step=1, max_prompt_tokens=64)
    c.max_response_tokens = 100
    kept, _, max_model_len = encode_questions(c, tokenizer, [short, long], {"held": [short, long]})
    assert kept == [short] and max_model_len == 256
    assert "1 prompts of held leave less than max_response_tokens of the context, 256" in (
        capsys.readouterr().out
    )
    c.max_response_tokens = 20
    assert encode_questions(c, tokenizer, [short], {"held": [long]})[2] == lengths[1] + 20
    c.max_prompt_tokens = 10_000
    endless = Problem("1+" * 200, ("200",))
    kept, _, max_model_len = encode_questions(c, tokenizer, [long, endless], {})
    assert kept == [long] and max_model_len == lengths[1] + 20
    assert "1 of 2 questions are left out: over what the context of" in capsys.readouterr().out
    for length in (254, 255):  # a prompt must leave room for two tokens
        questions = [short, Problem("1" * length, ("1",))]
        assert encode_questions(c, tokenizer, questions, {})[0] == questions[: 1 + (length < 255)]
    c.max_response_tokens = 1
    assert encode_questions(c, tokenizer, [long], {})[2] == lengths[1] + 2
    with pytest.raises(ValueError, match=r"a prompt of held has \d+ tokens, and the context of .* is 256"):
        encode_questions(c, tokenizer, [short], {"held": [short, endless]})


# Bad input: one sentence, exit code 2, before a model loads


@pytest.mark.parametrize(
    "flags,message",
    [
        ("--algo ppo", "invalid choice: 'ppo'"),
        ("--recipe big", "invalid choice: 'big'"),
        ("--template chatml", "invalid choice: 'chatml'"),
        ("--grup_size 4", "--grup_size is no flag: did you mean --group_size? -h lists them all"),
        ("--learning_rate 1e-6", "--learning_rate is no flag: did you mean --lr?"),
        (
            "--top_p 0.95",
            "--top_p: training samples from the policy itself: where sampling leaves tokens out",
        ),
        ("--top-k=20", "--top_k: training samples from the policy itself"),
        ("--lr abc", "--lr: invalid float value: 'abc'"),
        ("--lr -1e-5", "lr is -1e-05, and must be above 0"),
        ("--lr inf", "lr is inf, and must be finite"),
        ("--beta nan", "beta is nan, and must be 0 or more"),
        ("--seed -1", "seed is -1, and must be 0 or more"),
        ("--eval_every -1", "eval_every is -1, and must be 0 or more"),
        ("--save_every 0", "save_every is 0, and must be above 0"),
        ("--eval_limit 0", "eval_limit is 0, and must be above 0"),
        ("--resume tests", "--resume: Truthy value expected: got tests"),
        (
            "--data arithmetic --data gsm8k",
            "--data is there 2 times, and the last alone would count: give it",
        ),
        ("--output_dir=", "--output_dir is empty: give it a value, or leave it out"),
        ("--model ./nowhere", "model './nowhere' is no folder"),
        ("--data no-such-set", "'no-such-set' is no file or folder"),
        ("--data missing.jsonl", "missing.jsonl: there is no such file"),
        ("--group_size 1 --minibatch_size 32", "group_size is 1: a response is compared with others"),
        ("--minibatch_size 100", "minibatch_size 100 does not divide the 256 responses"),
        ("--num_steps 0", "num_steps is 0, and must be above 0"),
        ("--temperature -1", "temperature is -1.0, and must be above 0"),
        ("--temperature 0.005", "temperature 0.005 is below 0.01, the engine's smallest"),
        ("--clip_eps_high 0", "clip_eps_high is 0.0, and must be above 0"),
        ("--importance_cap -1", "importance_cap is -1.0, and must be above 0"),
        ("--beta -0.1", "beta is -0.1, and must be 0 or more"),
        ("--beta 0.1 --skip_equal_groups", "above 0 groups of equal rewards have a gradient too"),
        ("--max_response_tokens 256 --micro_batch_tokens 320", "max_response_tokens 256 is over the context"),
        ("--micro_batch_tokens 191", "does not hold one full response: 192, of max_prompt_tokens 64"),
        ("--micro_batch_tokens 900 --share_prompts", "does not hold a group's 8 responses: 1088, of"),
        ("--share_prompts --minibatch_size 4", "share_prompts with minibatch_size 4, group_size 8 and"),
        ("--share_prompts", "attn_implementation eager: it takes minibatches of whole groups, and sdpa"),
        ("--max_response_tokens 1000", "is over the context of"),
        ("--max_prompt_tokens 3", "0 of 8000 questions of arithmetic are within max_prompt_tokens 3"),
        ("--attn_implementation bogus", '`attn_implementation="bogus"` is not supported'),
        ("--tensor_parallel 2", "tensor_parallel 2 does not divide the 1 ranks"),
        ("--replicas 2", "replicas 2 does not divide the 1 ranks"),
        ("--engine_memory 1e-5", "engine_memory 1e-05 is 0.00 GB for vLLM's KV cache, and one response"),
        ("--report_to json", "--report_to: invalid choice: 'json' (choose from "),
        ("--report_to dvclive", "report_to dvclive: install that package first"),
        ("--resume", "resume: which run? set output_dir to its folder"),
        ("--resume --output_dir tests", "output_dir tests is no run, it has no config.json but other files"),
        ("--output_dir tests", "output_dir tests holds another run: take a new folder, or add --resume"),
    ],
)
def test_bad_input(flags, message, checkpoint, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["train.py", "--recipe", "tiny", "--model", checkpoint, *flags.split()])
    monkeypatch.setattr(train, "load_policy", lambda *_: pytest.fail("a model was loaded"))
    monkeypatch.setattr(train, "Sampler", lambda *_, **__: pytest.fail("the engine was started"))
    with pytest.raises(SystemExit) as stopped:
        train.main()
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.startswith("train.py: ") and message in error and error.count("\n") == 1


def test_a_start_that_failed_does_not_block_the_next(checkpoint, monkeypatch, tmp_path):
    flags = f"--recipe tiny --model {checkpoint} --eval_limit 1 --output_dir {tmp_path}/run".split()
    monkeypatch.setattr(sys, "argv", ["train.py", *flags])

    def fail(*_):
        raise RuntimeError("the engine did not start")

    monkeypatch.setattr(train, "train", fail)
    with pytest.raises(RuntimeError):
        train.main()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"lock", "config.json"}
    check(parse_config(flags), 1)
    (tmp_path / "run" / "metrics.jsonl").write_text("{}\n")  # now there is something to lose
    with pytest.raises(ValueError, match="holds another run"):
        check(parse_config(flags), 1)


def test_a_folder_that_cannot_be_locked_is_used_with_a_word(monkeypatch, tmp_path, capsys):
    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(start.fcntl, "flock", flock)
    start.lock(tmp_path / "run").close()
    said = (
        f"output_dir {tmp_path}/run cannot be locked ([Errno 38] Function not implemented): see that no other"
    )
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("place", ["models", "runs"])
def test_the_tiny_base_is_not_made_where_nothing_can_be_written(place, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(start, "make_tiny_base", lambda *_, **__: pytest.fail("it was made"))
    (tmp_path / place).write_text("a file where the folder should be")
    with pytest.raises(OSError, match=f"'{place}'"):
        start.prepare(parse_config(["--recipe", "tiny"]), start_accelerator())


def test_without_evaluations_no_set_is_read(checkpoint, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    flags = ["--recipe", "tiny", "--model", checkpoint, "--eval_data", "no-such-set", "--eval_every", "0"]
    *_, eval_sets, _ = train.prepare(parse_config(flags), train.start_accelerator())
    assert eval_sets == {}
    with pytest.raises(ValueError, match="no-such-set"):
        train.prepare(parse_config([*flags, "--eval_every", "5"]), train.start_accelerator())


@pytest.mark.parametrize("name,value", [("prompts_per_step", 30), ("minibatch_size", 66)])
def test_ranks_must_share_evenly(name, value, checkpoint):
    c = parse_config(["--recipe", "tiny", "--model", checkpoint, f"--{name}", str(value)])
    with pytest.raises(ValueError, match=f"{name} {value} is not a multiple of the 4 ranks"):
        check(c, world_size=4)


def test_an_engine_splits_evenly(checkpoint):
    c = parse_config(["--recipe", "tiny", "--model", checkpoint, "--tensor_parallel", "4"])
    with pytest.raises(ValueError, match="tensor_parallel 4 does not divide 2 attention heads"):
        check(c, world_size=4)


def test_dry_run_prints_the_plan_and_loads_nothing(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", "--recipe", "tiny", "--algo", "grpo", "--dry_run"])
    train.main()
    out = capsys.readouterr().out
    assert "grpo on models/tiny-base with 8000 questions of arithmetic, template none, 1 rank" in out
    assert "32 questions x 8 = 256 responses, 2 updates of 128; an epoch: 250.0 steps" in out
    assert "100 steps: 0.40 epochs" in out
    # A full response has 64 + 128 tokens, so 10 of them fit in 2048.
    assert "a rank: 32 questions a step, 128 responses an update, in 13 micro-batches of 2048" in out
    assert json.loads(out[: out.index("}") + 1])["lr"] == 6e-5
    assert not list(tmp_path.iterdir())


def test_dry_run_of_a_recipe_tells_the_memory_on_four_machines(monkeypatch, capsys, checkpoint):
    flags = f"--recipe oat-zero-7b --model {checkpoint} --data arithmetic --eval_data arithmetic --dry_run"
    flags += " --max_response_tokens 200 --micro_batch_tokens 16384"
    monkeypatch.setattr(sys, "argv", ["train.py", *flags.split()])
    train.main()
    out = capsys.readouterr().out
    assert "128 questions x 8 = 1024 responses, 8 updates of 128" in out and "8 ranks" in out
    assert "a rank: 16 questions a step, 16 responses an update, in 2 micro-batches of 16384" in out
    assert "1 x 24 GB   1 x 80 GB   8 x 40 GB   8 x 80 GB" in out and "learner: activations" in out
    assert "disk: 0.0 GB a checkpoint" in out


def test_dry_run_reads_the_questions_as_a_start_does(monkeypatch, capsys, checkpoint, tmp_path):
    (tmp_path / "long.jsonl").write_text(json.dumps({"question": "1+" * 200, "answer": "200"}) + "\n")
    flags = f"--recipe tiny --model {checkpoint} --eval_data {tmp_path}/long.jsonl --dry_run"
    monkeypatch.setattr(sys, "argv", ["train.py", *flags.split()])
    with pytest.raises(SystemExit) as stopped:
        train.main()
    assert stopped.value.code == 2
    assert "long.jsonl has 400 tokens, and the context" in capsys.readouterr().err


def test_evaluation_questions_are_not_trained_on(checkpoint):
    c = parse_config(["--recipe", "tiny", "--model", checkpoint, "--eval_limit", "50"])
    _, problems, prompts, eval_sets, max_model_len = train.prepare(c, start_accelerator())
    held_out = {problem.question for problem in eval_sets["arithmetic"]}
    assert len(held_out) > 40 and not held_out & {problem.question for problem in problems}
    assert len(prompts) == len(problems) and max_model_len > 128


@pytest.mark.parametrize(
    "error,code,message",
    [
        (NotFinite("a loss is nan", []), 3, "train.py: a loss is nan"),
        (EngineFailed("ill"), 4, "train.py: the engine failed: ill; to go on: --output_dir {} --resume"),
    ],
)
def test_the_exit_code_tells_what_ended_a_run(error, code, message, monkeypatch, capsys, tmp_path):
    def fail(*_):
        raise error

    monkeypatch.setattr(train, "prepare", lambda *_: (None, []))
    monkeypatch.setattr(train, "train", fail)
    monkeypatch.setattr(sys, "argv", f"train.py --recipe tiny --output_dir {tmp_path}/run".split())
    with pytest.raises(SystemExit) as stopped:
        train.main()
    assert stopped.value.code == code
    assert capsys.readouterr().err == message.format(f"{tmp_path}/run") + "\n"


def test_sampling_is_given_up_for_a_signal_and_a_dead_engine_is_named(monkeypatch):
    stop, seen = SimpleNamespace(received=0, sampling=False), []

    def sample(*outcome):
        seen.append(stop.sampling)
        if isinstance(outcome[0], BaseException):
            stop.received = signal.SIGTERM * isinstance(outcome[0], Interrupted)
            raise outcome[0]
        return list(outcome)

    assert sample_or_stop(lambda: sample("a"), stop, 1) == (["a"], "", False) and not stop.sampling
    outcome = sample_or_stop(lambda: sample(EngineFailed("ill")), stop, 1)
    assert outcome == ([], "ill", False) and not stop.sampling
    assert seen == [True, True]  # a signal that comes then is obeyed at once
    with pytest.raises(EngineFailed):  # the others would wait within the engine
        sample_or_stop(lambda: sample(EngineFailed("ill")), stop, 2)
    assert seen[2:] == [False] and not stop.sampling
    assert sample_or_stop(lambda: sample(Interrupted()), stop, 1) == ([], "", True)
    assert sample_or_stop(lambda: pytest.fail("sampled after a signal"), stop, 1) == ([], "", True)
    stop.received = 0

    def of_ranks(*outcomes, during=0):
        """Stands for the gathering of two ranks' outcomes; this rank may get a signal meanwhile."""

        def gather(_):
            stop.received = stop.received or during
            return outcomes

        monkeypatch.setattr(signals, "gather_object", gather)

    of_ranks(("", signal.SIGTERM), ("", 0))
    assert sample_or_stop(lambda: sample("a"), stop, 1)[1:] == ("", True)
    of_ranks(("", 0), ("ill", 0))
    assert sample_or_stop(lambda: sample("a"), stop, 1)[1:] == ("ill", False)
    of_ranks(("", signal.SIGTERM), ("ill", 0))
    assert sample_or_stop(lambda: sample("a"), stop, 1)[1:] == ("", True)
    # All ranks do what was gathered, and what came too late for that is kept for the next step.
    of_ranks(("", 0), ("", 0), during=signal.SIGTERM)
    assert sample_or_stop(lambda: sample("a"), stop, 1) == (["a"], "", False)
    assert stop.received == signal.SIGTERM


def test_the_state_of_a_checkpoint_by_hand():
    c = Config(prompts_per_step=4, seed=5)
    evaluated = {"eval/a/accuracy": 0.25, "eval/b/accuracy": 0.75, "eval/b/truncated": 1.0}
    state = checkpoint_state(c, 3, 2, evaluated)
    assert (state["step"], state["position"], state["seed"], state["world_size"]) == (3, 12, 5, 2)
    assert state["accuracy"] == 0.5 and checkpoint_state(c, 3, 2, {})["accuracy"] is None


# The loop, with a scripted engine: five steps of two questions with four responses

# A group's responses: text, tokens, whether the budget cut it off. The first is right and cut off.
ANSWER = " </think> <answer>{}</answer>"
GROUP = [(ANSWER + " and", 4, True), (ANSWER, 2, False), (ANSWER.format("{}0"), 5, False), ("none", 3, False)]
QUESTIONS = [Problem(f"{i} + 2?", (str(i + 2),)) for i in range(6)]
PROMPTS = [[5, 6, 10 + i] for i in range(6)]


class ScriptedEngine:
    """Takes the place of `Sampler`: the responses are given, the log-probs those of the weights it has."""

    def __init__(self, model, **options):
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        self.calls, self.asked, self.probes, self.dtype = [], [], [], torch.float32
        self.fail_at, self.options, self.alone = None, options, []

    def sample(self, prompts, n, temperature, max_response_tokens, stop, seed, **_):
        if n > 1:
            self.calls.append("sample")
            self.asked.append((prompts, temperature, max_response_tokens, stop, seed))
            if len(self.asked) == self.fail_at:
                raise EngineFailed("ill")
        else:
            self.alone.append((temperature, max_response_tokens, stop))
        return [
            replace(
                make_rollout(ids, list(range(20, 20 + tokens))),
                text=text.format(PROMPTS.index(ids) + 2 if ids in PROMPTS else 2),
                truncated=truncated,
            )
            for ids in prompts
            for text, tokens, truncated in GROUP[:n]
        ]

    def load_weights(self, named_tensors):
        self.calls.append("load_weights")
        self.model.load_state_dict(dict(named_tensors))

    def logprobs(self, rollout):
        self.calls.append("logprobs")
        self.probes.append(len(rollout.response_ids))
        batch = collate([rollout])
        with torch.no_grad():
            logps = self.model(input_ids=batch.input_ids).logits.log_softmax(dim=-1)
        return logps.gather(-1, batch.labels[..., None])[..., 0][batch.response_mask].tolist()

    def __getattr__(self, name):  # sleep
        return lambda: self.calls.append(name)


class TextVerifier:
    """Takes the place of `VerifierPool`: no processes, and the last verdict of each call took too long."""

    def __init__(self, num_workers):
        pass

    def verify_all(self, responses, answers, answer_format):
        pairs = zip(responses, answers, strict=True)
        verdicts = [verify.verify(response, truths, answer_format) for response, truths in pairs]
        return [*verdicts[:-1], verdicts[-1]._replace(timed_out=True)]

    def close(self):
        pass


@pytest.fixture
def loop(tokenizer, tmp_path, monkeypatch):
    """A function that runs the loop in this process -> what its parts were given."""
    random_qwen2(tokenizer, tied=True).to(torch.bfloat16).save_pretrained(tmp_path / "base")
    seen = SimpleNamespace(folder=tmp_path / "run", saved=[], updates=[], tries=[], refuse_save=None)
    seen.folder.mkdir()
    seen.stop = SimpleNamespace(received=0, sampling=False, agreed=lambda: seen.stop.received)
    real_update = train.update

    def engine(*arguments, **options):
        seen.engine = ScriptedEngine(*arguments, **options)
        seen.engine.fail_at = seen.fail_at
        return seen.engine

    def update(policy, optimizer, rollouts, advantages, c, device, seed, reference):
        seen.updates.append((advantages.tolist(), dict(optimizer.param_groups[0]), seed, reference))
        if len(seen.updates) == seen.stop_in:
            seen.stop.received = seen.signal
        return real_update(policy, optimizer, rollouts, advantages, c, device, seed, reference)

    def save_checkpoint(folder, state, policy, optimizer, keep):
        seen.keep = keep
        seen.tries.append(state["step"])
        if state["step"] == seen.refuse_save:
            raise OSError("no room")
        seen.saved.append((state["step"], state["accuracy"]))

    monkeypatch.setattr(learner, "compute_dtype", lambda: torch.float32)
    for name, stub in dict(
        Sampler=engine,
        VerifierPool=TextVerifier,
        StopSignal=lambda: seen.stop,
        update=update,
    ).items():
        monkeypatch.setattr(train, name, stub)
    monkeypatch.setattr(checkpoint, "save_checkpoint", save_checkpoint)

    def run(accelerator=None, fail_at=None, stop_in=None, received=0, refuse_save=None, **changes):
        seen.fail_at, seen.stop_in, seen.signal, seen.refuse_save = fail_at, stop_in, received, refuse_save
        usual = dict(model=str(tmp_path / "base"), output_dir=str(seen.folder), template="r1", num_steps=5)
        usual |= dict(prompts_per_step=2, group_size=4, minibatch_size=4, max_response_tokens=8, lr=1e-3)
        usual |= dict(eval_every=2, save_every=3, temperature=0.7, micro_batch_tokens=1000)
        c = Config(**usual | changes)
        sets = {"mine": [Problem("1 + 1?", ("2",)), Problem("0 + 2?", ("2",))]}
        train.train(c, accelerator or start_accelerator(), tokenizer, QUESTIONS, PROMPTS, sets, 32)
        return seen

    run.seen = seen
    return run


def test_a_right_response_that_the_budget_cut_off_is_not_rewarded(loop):
    seen = loop(num_steps=1)
    assert seen.updates[0][0] == [-0.25, 0.75, -0.25, -0.25] * 2  # the second of each group alone is right
    metrics = lines(seen.folder / "metrics.jsonl")[1]
    assert (metrics["reward/mean"], metrics["reward/formatted"], metrics["truncated"]) == (0.25, 0.75, 0.25)
    assert (metrics["response_tokens/correct"], metrics["response_tokens/incorrect"]) == (2, 4)
    samples = lines(seen.folder / "samples.jsonl")
    assert [(s["reward"], s["truncated"]) for s in samples] == [(0.0, True)] * 2
    assert [s["response"] for s in samples] == [GROUP[0][0].format(*s["answers"]) for s in samples]


def test_the_loop_samples_learns_hands_over_evaluates_and_saves_when_it_should(loop):
    seen = loop()
    hand_over = ["sleep", "load_weights", "logprobs"]
    assert seen.engine.calls == hand_over + ["sample", *hand_over] * 5
    assert seen.engine.probes == [4] + [5] * 5  # the longest response of a step
    for step, (prompts, *settings, _) in enumerate(seen.engine.asked):
        assert prompts == [PROMPTS[i] for i in questions_of_step(step, 2, 6, seed=0)]
        assert settings == [0.7, 8, ("</answer>",)]
    assert len({seed for *_, seed in seen.engine.asked}) == len({seed for *_, seed, _ in seen.updates}) == 5
    _, group, _, reference = seen.updates[0]
    assert (group["lr"], group["betas"], group["weight_decay"], reference) == (1e-3, (0.9, 0.95), 0.0, None)
    metrics = lines(seen.folder / "metrics.jsonl")
    assert [m["step"] for m in metrics if "eval/mine/accuracy" in m] == [0, 2, 4, 5]
    assert seen.saved == [(3, None), (5, 1.0)]
    for m in metrics[1:]:
        parts = [m[f"time/{part}"] for part in ("sample", "verify", "update", "sync")]
        assert m["tokens_per_second"] * sum(parts) == pytest.approx(2 * (4 + 2 + 5 + 3))
        assert min(*parts, m["time/rest"]) >= 0 and m["verify/timeouts"] == 1
    assert AutoModelForCausalLM.from_pretrained(seen.folder / "model").dtype == torch.bfloat16  # as the base


def test_grpo_scales_by_the_std_and_beta_brings_a_reference(loop):
    seen = loop(num_steps=1, algo="grpo", beta=0.1)
    # Squared deviations of (0, 1, 0, 0) sum to 3/4, so the unbiased std is 1/2.
    assert seen.updates[0][0] == pytest.approx([-0.5, 1.5, -0.5, -0.5] * 2, abs=1e-6)
    base = AutoModelForCausalLM.from_pretrained(seen.folder.parent / "base", dtype=torch.float32).state_dict()
    reference = seen.updates[0][3].model.state_dict()
    assert all(torch.equal(reference[name], tensor) for name, tensor in base.items())  # after a step, too
    assert "reference_kl" in lines(seen.folder / "metrics.jsonl")[1]


def test_evaluation_is_greedy_and_the_first_probe_is_sampled(loop):
    seen = loop(num_steps=1)
    assert seen.engine.alone == [(0.7, 8, ("</answer>",))] + [(0.0, 8, ("</answer>",))] * 2


def test_the_seed_decides_questions_samples_and_minibatches(loop):
    first, second = loop(num_steps=2).engine.asked, loop(num_steps=2, seed=1).engine.asked
    for step, (prompts, *_) in enumerate(second):
        assert prompts == [PROMPTS[i] for i in questions_of_step(step, 2, 6, seed=1)]
    assert len({seed for *_, seed in first + second}) == 4
    assert len({seed for *_, seed, _ in loop.seen.updates}) == 4


def test_flags_reach_the_learner_the_engine_and_the_checkpoints(loop, monkeypatch):
    load_policy, asked = train.load_policy, []

    def load(path, device, *how, **more):
        asked.append((how, more))
        return load_policy(path, device)

    monkeypatch.setattr(train, "load_policy", load)
    flags = dict(attn_implementation="eager", gradient_checkpointing=True, replicas=3, beta=0.1)
    flags |= dict(seed=5, tensor_parallel=2, engine_memory=0.25, keep_checkpoints=7)
    seen = loop(num_steps=1, **flags)
    assert asked == [(("eager", True, 3), {}), (("eager",), {"replicas": 3})]
    options = dict(max_model_len=32, memory=0.25, sleep=True, seed=5, tensor_parallel=2)
    assert seen.engine.options == options | {"dtype": train.compute_dtype()} and seen.keep == 7


def test_a_rank_asks_its_own_questions_with_seeds_of_its_own(loop):
    ours = loop(num_steps=2).engine.asked
    second = SimpleNamespace(device=torch.device("cpu"), process_index=1, num_processes=2)
    vars(second).update(is_main_process=True, trackers=[], print=print, log=lambda *_, **__: None)
    seen = loop(accelerator=second, num_steps=2)
    for step, (prompts, *_) in enumerate(seen.engine.asked):
        assert prompts == [PROMPTS[questions_of_step(step, 2, 6, seed=0)[1]]]
    assert not {seed for *_, seed in ours} & {seed for *_, seed in seen.engine.asked}
    first, second = ([seed for *_, seed, _ in seen.updates][n : n + 2] for n in (0, 2))
    assert first == second and len(set(first)) == 2  # ranks cut their minibatches from the same order


def test_a_checkpoint_that_could_not_be_written_is_tried_again_after_the_next_step(loop):
    seen = loop(refuse_save=3)
    assert seen.tries == [3, 4, 5] and seen.saved == [(4, 1.0), (5, 1.0)]


@pytest.mark.parametrize("fail_at,saved", [(3, [(2, None)]), (4, [(3, None)])])
def test_what_was_learned_is_saved_once_before_a_dead_engine_ends_the_run(fail_at, saved, loop):
    with pytest.raises(EngineFailed, match="ill"):
        loop(fail_at=fail_at)
    assert loop.seen.saved == saved and len(loop.seen.updates) == fail_at - 1


@pytest.mark.parametrize("received,model", [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_a_signal_ends_the_run_after_the_step_and_only_ctrl_c_waits_for_the_model(received, model, loop):
    seen = loop(stop_in=2, received=received)
    assert seen.saved == [(2, None)] and len(seen.updates) == len(seen.engine.asked) == 2
    assert (seen.folder / "model").exists() == model


def test_a_run_that_was_stopped_and_could_not_be_saved_says_so(loop):
    with pytest.raises(SystemExit, match="stopped after step 2, and it could not be saved"):
        loop(stop_in=2, received=signal.SIGINT, refuse_save=2)


def test_a_machine_that_is_taken_away_in_the_last_step_leaves_the_model_to_resuming(loop, capsys):
    seen = loop(stop_in=5, received=signal.SIGTERM)
    assert seen.saved == [(3, None), (5, 1.0)] and not (seen.folder / "model").exists()
    assert f"no model is written; to write it: --output_dir {seen.folder} --resume" in capsys.readouterr().out


def test_a_resumed_run_repeats_no_step_and_keeps_its_lines(loop, monkeypatch):
    seen = loop(num_steps=4)
    first = lines(seen.folder / "metrics.jsonl")
    state = {"step": 3, "world_size": 1, "code": train.code_version()}
    monkeypatch.setattr(train, "load_checkpoint", lambda *_: state)
    seen.saved.clear()
    seen = loop(resume=True)
    metrics = lines(seen.folder / "metrics.jsonl")
    assert metrics[:4] == first[:4] and [m["step"] for m in metrics] == [0, 1, 2, 3, 4, 5]
    assert [prompts for prompts, *_ in seen.engine.asked] == [
        [PROMPTS[i] for i in questions_of_step(step, 2, 6, seed=0)] for step in (3, 4)
    ]
    assert seen.engine.calls[:3] == ["sleep", "load_weights", "logprobs"]
    assert seen.saved == [(5, 1.0)]


# The whole program, on a random model: real engine, real processes, real files

SMALL = (
    "--recipe tiny --prompts_per_step 4 --group_size 4 --minibatch_size 8 --max_response_tokens 24 --lr 1e-3"
)


def command(checkpoint, folder, *more) -> list[str]:
    fixed = [*SMALL.split(), *"--lr 1e-3 --eval_limit 8 --save_every 2 --eval_every 4".split()]
    return [sys.executable, "train.py", *fixed, "--model", checkpoint, "--output_dir", str(folder), *more]


def run(checkpoint, folder, *more, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command(checkpoint, folder, *more), cwd=ROOT, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def straight(checkpoint, tmp_path_factory) -> tuple[Path, str]:
    """Four steps in one go; on a PATH without any compiler, and with nothing compiled before."""
    folder = tmp_path_factory.mktemp("runs") / "straight"
    programs = tmp_path_factory.mktemp("programs")
    (programs / "lscpu").symlink_to(shutil.which("lscpu"))  # of every Linux; vLLM asks it for the cores
    bare = {name: value for name, value in os.environ.items() if name not in ("CC", "CXX")}
    bare |= {"PATH": str(programs), "TORCHINDUCTOR_CACHE_DIR": str(programs / "cache")}
    return folder, run(checkpoint, folder, "--num_steps", "4", env=bare)


@pytest.mark.slow
def test_a_run_leaves_what_the_readme_says(straight):
    folder, printed = straight
    metrics = lines(folder / "metrics.jsonl")
    assert [m["step"] for m in metrics] == [0, 1, 2, 3, 4]
    expected = """step reward/mean reward/formatted response_tokens/mean response_tokens/correct
        response_tokens/incorrect truncated groups/all_zero groups/all_one loss grad_norm clip_fraction
        entropy sampler_kl verify/timeouts time/sample time/verify time/update time/sync time/rest
        tokens_per_second warnings"""
    assert list(metrics[1]) == expected.split()
    assert all("eval/arithmetic/accuracy" in metrics[step] for step in (0, 4))
    assert all(0 < m["response_tokens/mean"] <= 24 and abs(m["sampler_kl"]) < 0.05 for m in metrics[1:])
    samples = lines(folder / "samples.jsonl")
    assert [s["step"] for s in samples] == [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4
    assert list(samples[0]) == ["step", "question", "answers", "response", "reward", "truncated"]
    groups = lines(folder / "groups.jsonl")
    assert [g["step"] for g in groups] == [1, 2, 3, 4]
    assert groups[0]["question"] == samples[0]["question"] and len(groups[0]["responses"]) == 4
    for response in groups[0]["responses"]:
        assert len(response["tokens"]) == len(response["logprobs"]) == response["response_tokens"] <= 24
    saved = json.loads((folder / "config.json").read_text())
    assert saved["algo"] == "drgrpo" and saved["minibatch_size"] == 8 and "torch" in saved["versions"]
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["step_2", "step_4"]
    assert "step   4/4  reward" in printed and "left" in printed
    assert printed.endswith(f"see the run: python -m analysis.view {folder}\n")
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert model.num_parameters() > 0 and tokenizer.eos_token == "<|endoftext|>"


def run_past_the_first_step(checkpoint, folder) -> subprocess.Popen:
    """A run of many steps, of which one is done."""
    long = command(checkpoint, folder, "--num_steps", "10000")
    process = subprocess.Popen(long, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert any(line.startswith("step   1/10000") for line in process.stdout)
    return process


@pytest.mark.slow
def test_ctrl_c_saves_what_was_trained(checkpoint, tmp_path):
    process = run_past_the_first_step(checkpoint, tmp_path)
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    assert process.wait(timeout=60) == 0
    steps = lines(tmp_path / "metrics.jsonl")[-1]["step"]
    assert 1 <= steps < 10000 and f"stopped after step {steps}" in rest
    assert (tmp_path / "model" / "model.safetensors").exists()
    assert (tmp_path / "checkpoints" / f"step_{steps}").exists()


@pytest.mark.slow
def test_a_run_goes_on_when_nobody_reads_it_and_evaluates_only_when_asked(checkpoint, tmp_path):
    """As under `| head -1`: the pipe is closed in the middle."""
    flags = command(checkpoint, tmp_path, "--num_steps", "4", "--eval_every", "0")
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process = subprocess.Popen(flags, cwd=ROOT, **pipes)
    assert process.stdout.readline()
    process.stdout.close()
    assert "BrokenPipe" not in process.stderr.read() and process.wait(timeout=200) == 0
    metrics = lines(tmp_path / "metrics.jsonl")
    assert [m["step"] for m in metrics] == [0, 1, 2, 3, 4]
    assert not [key for m in metrics for key in m if key.startswith("eval/")]
    assert (tmp_path / "model" / "model.safetensors").exists()


@pytest.mark.slow
def test_no_process_is_left_behind_when_the_run_is_killed(checkpoint, tmp_path):
    process = run_past_the_first_step(checkpoint, tmp_path)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert children  # the verifier's workers
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{child}") for child in children):
        assert time.monotonic() < deadline, "verifier workers outlived the run"
        time.sleep(0.1)
