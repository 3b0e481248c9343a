"""Runs that are killed, stopped, starved or poisoned: real processes, a random model. See `make soak` too."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from accelerate import PartialState
from conftest import free_port, kill, make_rollout, start
from transformers import AutoModelForCausalLM

from data import Problem
from run import log as runlog
from run import signals
from run.log import RunLog, find_warnings
from run.settings import check_changes, parse_config
from run.signals import Interrupted, StopSignal
from run.start import open_run

FLAGS = """--recipe tiny --num_steps 6 --prompts_per_step 4 --group_size 4 --minibatch_size 8 --lr 1e-3
    --max_response_tokens 24 --eval_limit 8 --eval_every 4 --save_every 1""".split()


def start_run(folder: Path, *more: str, script: str = "train.py", ranks: int = 1) -> subprocess.Popen:
    """A run with all that it prints in one stream."""
    launcher = f"--num_processes 2 --main_process_port {free_port()}" if ranks == 2 else None
    command = [script, *FLAGS, "--output_dir", str(folder), *more]
    return start(*command, launcher=launcher, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen, code: int = 0) -> str:
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == code, printed[-4000:]
    return printed


def read_until(process: subprocess.Popen, text: str) -> None:
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return
    pytest.fail(f"the run ended without {text!r}: {''.join(lines)[-4000:]}")


def records(folder: Path, name: str = "metrics.jsonl") -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def untimed(folder: Path) -> list[dict]:
    """metrics.jsonl without the times."""
    timed = ("time/", "tokens_per_second")
    return [{key: m[key] for key in m if not key.startswith(timed)} for m in records(folder)]


WAITING = """
import time
import train

real_update, steps = train.update, []

def update(*arguments):
    steps.append(1)
    if len(steps) == 5:
        time.sleep(1000)  # to be killed before there is more to lose
    return real_update(*arguments)

train.update = update
train.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(ranks, checkpoint, tmp_path):
    """Six steps in one go, and three, kill -9, and the rest: every number and every sample is the same."""
    model = ["--model", checkpoint, "--save_every", "3"]
    printed = finish(start_run(tmp_path / "straight", *model, ranks=ranks))
    assert printed.count("step   6/6  reward") == 1 and f"{ranks} rank" in printed  # told once, by rank 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "straight" / "model").num_parameters() > 0
    (tmp_path / "waiting.py").write_text(WAITING)
    killed = start_run(tmp_path / "killed", *model, script=str(tmp_path / "waiting.py"), ranks=ranks)
    read_until(killed, "step   4/6")  # three are saved, the fourth is lost
    kill(killed)
    printed = finish(start_run(tmp_path / "killed", *model, "--resume", ranks=ranks))
    assert "step   4/6" in printed and "step   3/6" not in printed
    assert untimed(tmp_path / "killed") == untimed(tmp_path / "straight")
    assert [m["step"] for m in records(tmp_path / "killed")] == list(range(7))
    for file in ("samples.jsonl", "groups.jsonl"):
        assert records(tmp_path / "killed", file) == records(tmp_path / "straight", file)


@pytest.mark.slow
def test_ranks_whose_launcher_is_killed_save_and_end(checkpoint, tmp_path):
    run = start_run(tmp_path, "--model", checkpoint, "--num_steps", "10000", "--save_every", "5000", ranks=2)
    read_until(run, "step   2/10000")
    ranks = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    assert "stopped after step" in run.communicate(timeout=60)[0]  # no process has the other end any more
    _, alive = psutil.wait_procs(ranks, timeout=60)
    assert not alive and list((tmp_path / "checkpoints").iterdir())


@pytest.mark.slow
def test_a_termination_signal_saves_within_half_a_minute_and_one_folder_has_one_run(checkpoint, tmp_path):
    first = start_run(tmp_path, "--model", checkpoint, "--num_steps", "10000", "--save_every", "5000")
    read_until(first, "step   2/10000")
    second = finish(start_run(tmp_path, "--resume"), code=2)
    assert "is in use by another run" in second
    first.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    printed = finish(first)
    assert time.monotonic() - asked < 30
    done = records(tmp_path)[-1]["step"]
    assert f"stopped after step {done}; go on with" in printed
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [f"step_{done}"]
    assert not (tmp_path / "model").exists()


UNLUCKY = """
import sys
import torch
import train
from accelerate import Accelerator
from run import checkpoint

calls = {}

def number_of(name):
    calls[name] = calls.get(name, 0) + 1
    return calls[name]

def tracker_is_gone(self, values, step):
    raise ConnectionError("no server")

def save(*arguments):
    if number_of("save") == 1:
        raise OSError("No space left on device")
    return save_checkpoint(*arguments)

def update(policy, optimizer, rollouts, advantages, *rest):
    if number_of("update") == 4:
        advantages = torch.full_like(advantages, float("nan"))
    return update_of(policy, optimizer, rollouts, advantages, *rest)

save_checkpoint, update_of = checkpoint.save_checkpoint, train.update
checkpoint.save_checkpoint, train.update = save, update
Accelerator.log = tracker_is_gone
train.main()
"""


@pytest.mark.slow
def test_a_run_survives_what_it_can_and_stops_at_what_is_not_a_number(checkpoint, tmp_path):
    (tmp_path / "unlucky.py").write_text(UNLUCKY)
    folder = tmp_path / "run"
    script = str(tmp_path / "unlucky.py")
    printed = finish(start_run(folder, "--model", checkpoint, "--save_every", "2", script=script), code=3)
    assert "! the tracker failed, and training goes on: ConnectionError" in printed
    assert printed.count("the tracker failed") == 1
    assert "! no checkpoint after step 2, trying again after the next: No space left on device" in printed
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["step_3"]
    assert "train.py: step 4, minibatch 0, micro-batches [0]: losses [nan]" in printed
    assert len(records(folder, "not_finite_step_4_rank_0.jsonl")) == 8
    assert [m["step"] for m in records(folder)] == [0, 1, 2, 3]
    printed = finish(start_run(folder, "--resume", "--num_steps", "4"))
    assert "resume: num_steps: 6 before, now 4" in printed and "step   4/4" in printed
    assert "step   3/4" not in printed
    assert [m["step"] for m in records(folder)] == [0, 1, 2, 3, 4]


ILL = """
import rollout, train
from accelerate import PartialState

generate_of, calls = rollout.Sampler._generate, []

def out_of_memory(*_, **__):
    raise RuntimeError("out of memory")

def generate(self, *arguments):
    calls.append(1)
    # Calls: the first probe, its check, the evaluation, step 1, its check; then step 2.
    state = PartialState()
    if len(calls) == 6 and state.process_index == state.num_processes - 1:
        self._llm.generate = out_of_memory
    return generate_of(self, *arguments)

sampled = []

def update(policy, optimizer, rollouts, *rest):
    sampled[:] = rollouts
    return update_of(policy, optimizer, rollouts, *rest)

def hand_over(policy, sampler, probe, *rest):  # checked on this rank's longest response
    assert not sampled or len(probe.response_ids) == max(len(r.response_ids) for r in sampled)
    assert not sampled or probe in sampled
    return hand_over_of(policy, sampler, probe, *rest)

update_of, hand_over_of = train.update, train.hand_over
train.update, train.hand_over, rollout.Sampler._generate = update, hand_over, generate
train.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_failed_engine_is_saved_before_and_a_resumed_run_goes_on_as_if_it_had_not(
    ranks, checkpoint, tmp_path
):
    """The engine of the last rank fails in step 2; both save, and the launcher's exit code is its own."""
    (tmp_path / "ill.py").write_text(ILL)
    flags = ["--model", checkpoint, "--save_every", "50", "--num_steps", "3", "--resume"]
    ill = start_run(tmp_path / "run", *flags, script=str(tmp_path / "ill.py"), ranks=ranks)
    printed = finish(ill, code=4 if ranks == 1 else 1)
    assert f"resume: {tmp_path / 'run'} holds no run yet, so this is its start" in printed
    assert "train.py: the engine failed: RuntimeError: out of memory; to go on: --output_dir" in printed
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_1"]
    if ranks == 1:
        assert "step   2/3" in finish(start_run(tmp_path / "run", *flags))


def test_signals_are_obeyed_at_once_while_sampling_else_kept_for_later(capsys, monkeypatch):
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests run below nohup
        for number in (signal.SIGTERM, signal.SIGHUP):
            stop = StopSignal()
            signal.raise_signal(number)
            assert stop.received == number and "stopping, and saving" in capsys.readouterr().err
            stop.sampling = True
            with pytest.raises(Interrupted):
                signal.raise_signal(number)
            signal.raise_signal(number)  # while it saves
        with pytest.raises(KeyboardInterrupt):  # the second Ctrl-C
            signal.raise_signal(signal.SIGINT)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup starts a process
        stop = StopSignal()
        signal.raise_signal(signal.SIGHUP)
        assert stop.received == 0
        monkeypatch.setattr(signals, "gather_object", lambda mine: [*mine, signal.SIGTERM])
        assert stop.agreed() == signal.SIGTERM  # another rank's
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


def test_a_run_is_not_resumed_on_other_questions_by_mistake(tmp_path):
    run, problems = ["--output_dir", str(tmp_path / "run")], [Problem("1 + 1?", ("2",))]
    open_run(parse_config(run), PartialState(), problems).close()
    resume = [*run, "--resume", "--num_steps", "7"]
    open_run(parse_config(resume), PartialState(), problems).close()
    more = [*problems, Problem("1 + 2?", ("3",))]
    with pytest.raises(ValueError, match="^resume: arithmetic holds other questions than before. To train"):
        open_run(parse_config(resume), PartialState(), more)
    open_run(parse_config([*resume, "--allow_config_change"]), PartialState(), more).close()
    open_run(parse_config(resume), PartialState(), more).close()  # its questions from now on


def test_flags_that_change_the_training_need_leave(tmp_path):
    saved = parse_config(["--algo", "grpo", "--lr", "3e-5", "--output_dir", str(tmp_path)])
    (tmp_path / "config.json").write_text(json.dumps(vars(saved) | {"allow_config_change": True}))
    resume = ["--output_dir", str(tmp_path), "--resume"]
    assert check_changes(parse_config(["--output_dir", "elsewhere"])) == []
    assert check_changes(parse_config(resume)) == []
    free = check_changes(parse_config([*resume, "--num_steps", "7", "--micro_batch_tokens", "9000"]))
    assert free == [
        "resume: num_steps: 100 before, now 7",
        "resume: micro_batch_tokens: None before, now 9000",
    ]
    changed = [*resume, "--lr", "1e-5", "--num_steps", "7"]
    with pytest.raises(ValueError, match="^resume: lr: 3e-05 before, now 1e-05. To train on so, add --allow"):
        check_changes(parse_config(changed))
    assert len(check_changes(parse_config([*changed, "--allow_config_change"]))) == 2
    of_the_policy = """algo model data template group_size prompts_per_step max_prompt_tokens temperature
        max_response_tokens minibatch_size lr clip_eps max_grad_norm clip_eps_high importance_cap beta
        mask_truncated seed"""
    for name in of_the_policy.split():
        c = parse_config(resume)
        setattr(c, name, "another")
        with pytest.raises(ValueError, match=f"^resume: {name}: .* before, now another. To train on so"):
            check_changes(c)
    for name in "eval_data save_every engine_memory attn_implementation skip_equal_groups".split():
        c = parse_config(resume)
        setattr(c, name, "another")
        assert len(check_changes(c)) == 1


# What the log does


class Silent:
    """An accelerator whose tracker can fail."""

    is_main_process, num_processes, trackers = True, 1, ()

    def __init__(self, fails: bool = False):
        self.fails, self.logged = fails, []

    def log(self, values, step):
        self.logged.append((values, step))
        if self.fails:
            raise ConnectionError("no server")


def healthy(**changes) -> dict:
    usual = {"step": 1, "groups/all_zero": 0.1, "groups/all_one": 0.1, "truncated": 0.0, "reward/mean": 0.5}
    return usual | {"sampler_kl": 0.001, "entropy": 0.4} | changes


def test_torn_and_repeated_lines_go_when_a_run_is_resumed(tmp_path):
    lines = ['{"step": 0}', '{"step": 1, "x": 2}', '{"step": 2}', '{"st']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    log = RunLog(tmp_path, 1, Silent())
    log.write({"step": 2, "x": 3})
    assert records(tmp_path) == [{"step": 0}, {"step": 1, "x": 2}, {"step": 2, "x": 3}]
    for file in ("samples.jsonl", "groups.jsonl"):
        (tmp_path / file).write_text('{"step": 1}\n{"step": 2}\n{"step": 1, "resp')
    RunLog(tmp_path, 1, Silent())
    assert records(tmp_path, "samples.jsonl") == records(tmp_path, "groups.jsonl") == [{"step": 1}]
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 0}\n\xff\x00garbage\n{"step": 1}\n')
    RunLog(tmp_path, 5, Silent())
    assert records(tmp_path) == [{"step": 0}, {"step": 1}]


def test_lines_that_a_full_disk_refuses_are_written_later(tmp_path, monkeypatch, capsys):
    log = RunLog(tmp_path, -1, Silent(fails=True))
    log.write({"step": 0})
    usual_open = open

    def full(file, mode="r"):
        stream = usual_open(file, mode)
        stream.write('{"st')  # a part fits
        stream.flush()
        raise OSError("No space left on device")

    monkeypatch.setattr("builtins.open", full)
    log.write({"step": 1})
    log.write({"step": 2})
    monkeypatch.undo()
    assert records(tmp_path) == [{"step": 0}]
    log.write({"step": 3})
    assert records(tmp_path) == [{"step": step} for step in range(4)]
    printed = capsys.readouterr().out
    assert printed.count("cannot be written, and training goes on: No space") == 1
    assert printed.count("the tracker failed, and training goes on") == 1


@pytest.mark.parametrize(
    "changes,zero_steps,names",
    [
        ({}, 19, []),
        ({"groups/all_zero": 0.5, "groups/all_one": 0.46}, 0, ["no_signal"]),
        ({"truncated": 0.96}, 0, ["truncated"]),
        ({"sampler_kl": -0.2}, 0, ["drift"]),
        ({"entropy": 1e-5}, 0, ["collapsed"]),
        ({"groups/all_zero": 1.0}, 20, ["no_signal", "no_reward"]),
    ],
)
def test_what_looks_wrong(changes, zero_steps, names):
    assert list(find_warnings(healthy(**changes), zero_steps)) == names


def test_a_warning_is_told_once_and_recorded_each_time(tmp_path, capsys):
    log = RunLog(tmp_path, -1, Silent())
    assert log.warnings(healthy(truncated=1.0)) == ["truncated"] == log.warnings(healthy(truncated=1.0))
    assert log.warnings(healthy()) == []
    assert capsys.readouterr().out.count("nearly all responses are cut off") == 1


def test_the_line_of_a_step_by_hand(tmp_path, capsys):
    """A resumed run at its steps 11 and 12 of 20: 4 and then 3 seconds a step on average."""
    log = RunLog(tmp_path, 10, Silent())
    metrics = healthy(step=11, tokens_per_second=1234.5, **{"time/sample": 3.0, "time/rest": 1.0})
    metrics |= {"response_tokens/correct": 10.4, "response_tokens/incorrect": None, "verify/timeouts": 7}
    log.progress(metrics, 20)
    log.progress(metrics | {"step": 12, "time/sample": 1.0}, 20)
    first, second = capsys.readouterr().out.splitlines()
    numbers = "reward 0.500  tokens right 10 wrong -  1,234 tokens/s"
    assert first == f"step  11/20  {numbers}  4.0 s/step  00:36 left"
    assert second == f"step  12/20  {numbers}  3.0 s/step  00:24 left"


def test_the_metrics_of_a_step_are_of_all_ranks(tmp_path, monkeypatch):
    log = RunLog(tmp_path, -1, Silent())
    of_another = ([(1.0, True, 9, False)] * 2, 3)  # two responses, three timeouts
    monkeypatch.setattr(runlog, "gather_object", lambda mine: [*mine, of_another])
    for part in runlog.PARTS:
        log.lap(part)
    rollouts = [make_rollout([1], [2])] * 2
    verdicts = [SimpleNamespace(formatted=True, timed_out=True)] * 2
    c = SimpleNamespace(group_size=2, num_steps=2)
    metrics = log.step(1, c, rollouts, verdicts, [0.0, 0.0], {"sampler_kl": 0.0, "entropy": 1.0})
    assert (metrics["reward/mean"], metrics["response_tokens/mean"]) == (0.5, 5)
    assert metrics["verify/timeouts"] == 5
    assert (metrics["groups/all_zero"], metrics["groups/all_one"]) == (0.5, 0.5)


def test_trackers_get_numbers_alone_and_other_ranks_write_nothing(tmp_path, capsys):
    accelerator = Silent()
    log = RunLog(tmp_path, -1, accelerator)
    log.write({"step": 3, "loss": 0.5, "response_tokens/correct": None, "warnings": ["drift"]})
    assert accelerator.logged == [({"step": 3, "loss": 0.5}, 3)]
    written = (tmp_path / "metrics.jsonl").read_text()
    accelerator.is_main_process = False
    log = RunLog(tmp_path, -1, accelerator)
    log.write({"step": 4})
    log.say("from another rank")
    assert (tmp_path / "metrics.jsonl").read_text() == written and capsys.readouterr().out == ""


def test_samples_are_the_first_response_to_each_of_four_questions(tmp_path):
    log = RunLog(tmp_path, -1, Silent())
    rollouts = [make_rollout([1], [2]) for _ in range(10)]
    for i, rollout in enumerate(rollouts):
        object.__setattr__(rollout, "text", f"response {i}")
    problems = [Problem(f"question {i}", ("1",)) for i in range(5)]
    log.samples(1, problems, rollouts, [i / 10 for i in range(10)], str)
    samples = records(tmp_path, "samples.jsonl")
    expected = [(f"question {i}", f"response {2 * i}", 2 * i / 10) for i in range(4)]
    assert [(s["question"], s["response"], s["reward"]) for s in samples] == expected


def test_a_group_is_kept_whole_with_500_tokens_of_a_response_at_most(tmp_path):
    log = RunLog(tmp_path, -1, Silent())
    long, short = make_rollout([1], [7] * 501, truncated=True), make_rollout([1], [8, 9], logprob=-1 / 3)
    log.samples(3, [Problem("a", ("1", "2")), Problem("b", ("1",))], [long, short] * 2, [0.0, 1.0] * 2, str)
    (group,) = records(tmp_path, "groups.jsonl")
    first = {"reward": 0.0, "truncated": True, "response_tokens": 501}
    first |= {"tokens": ["[7]"] * 500, "logprobs": [-1.0] * 500}
    second = {"reward": 1.0, "truncated": False, "response_tokens": 2}
    second |= {"tokens": ["[8]", "[9]"], "logprobs": [-0.3333] * 2}
    assert group == {"step": 3, "question": "a", "answers": ["1", "2"], "responses": [first, second]}


class Tables(SimpleNamespace):
    """A tracker of accelerate's as wandb's is."""

    def log_table(self, name, columns, data, step):
        self.logged.append((name, columns, data, step))
        raise ConnectionError("no server")


def test_trackers_get_samples_as_a_table_and_one_that_fails_ends_nothing(tmp_path, monkeypatch, capsys):
    wandb, numbers_alone = Tables(name="wandb", logged=[]), SimpleNamespace(name="tensorboard")
    trackio = SimpleNamespace(name="trackio", logged=[])
    trackio.log = lambda values, step: trackio.logged.append((values, step))
    module = SimpleNamespace(Table=lambda dataframe: dataframe.to_dict("records"))
    monkeypatch.setitem(sys.modules, "trackio", module)
    accelerator = Silent()
    accelerator.trackers = (wandb, numbers_alone, trackio)
    log = RunLog(tmp_path, -1, accelerator)
    for step in (1, 2):
        log.samples(step, [Problem("a", ("1", "2"))], [make_rollout([1], [2])] * 2, [1.0, 0.0], str)
    columns = ["step", "question", "answers", "response", "reward", "truncated"]
    row = ["a", "1, 2", "", 1.0, False]
    assert wandb.logged == [("samples", columns, [[step, *row]], step) for step in (1, 2)]
    table = [dict(zip(columns, [2, *row], strict=True))]
    assert trackio.logged[1] == ({"samples": table}, 2) and len(trackio.logged) == 2
    assert capsys.readouterr().out.count("the tracker failed, and training goes on: ConnectionError") == 1
    accelerator.is_main_process = False
    RunLog(tmp_path, -1, accelerator).samples(3, [Problem("a", ("1",))], [make_rollout([1], [2])], [1.0], str)
    assert len(trackio.logged) == 2 and len(records(tmp_path, "groups.jsonl")) == 2


def test_twenty_steps_without_reward_count_across_a_resume(tmp_path, capsys):
    log = RunLog(tmp_path, -1, Silent())
    for step in range(1, 16):
        metrics = healthy(step=step, **{"reward/mean": 0.0})
        assert log.warnings(metrics) == []
        log.write(metrics)
    log = RunLog(tmp_path, 12, Silent())
    found = [log.warnings(healthy(step=step, **{"reward/mean": 0.0})) for step in range(13, 21)]
    assert found == [[]] * 7 + [["no_reward"]]
    assert "do --template and --model match?" in capsys.readouterr().out
    assert log.warnings(healthy(step=21)) == []  # one that is right starts the count again
    assert log.warnings(healthy(step=22, **{"reward/mean": 0.0})) == []


def test_what_a_model_writes_stays_text(tmp_path):
    """Quotes, markup, line ends, a path, a null byte, a lone surrogate: a line, and the same text again."""
    hostile = '"}\n{"step": 1}\u2028<script>alert(1)</script> {0} %s ../../x $(reboot) \x00 \ud800'
    log = RunLog(tmp_path, -1, Silent())
    rollout = make_rollout([1], [2])
    object.__setattr__(rollout, "text", hostile)
    log.samples(1, [Problem(hostile, (hostile,), None)], [rollout], [1.0], lambda ids: hostile)
    (sample,), (group,) = records(tmp_path, "samples.jsonl"), records(tmp_path, "groups.jsonl")
    assert sample["response"] == sample["question"] == hostile
    assert group["responses"][0]["tokens"] == [hostile]
    assert records(tmp_path, Path(log.keep_rollouts("kept.jsonl", [rollout])).name)[0]["text"] == hostile


def test_responses_that_cannot_be_kept_end_nothing(tmp_path):
    log = RunLog(tmp_path, -1, Silent())
    (tmp_path / "taken").mkdir()
    assert log.keep_rollouts("taken", [make_rollout([1], [2])]).startswith("not kept, [Errno 21]")
    assert log.keep_rollouts("empty.jsonl", []) == "none here" and not (tmp_path / "empty.jsonl").exists()


def test_a_file_that_was_moved_away_is_begun_again(tmp_path):
    log = RunLog(tmp_path, -1, Silent())
    log.write({"step": 0})
    os.rename(tmp_path / "metrics.jsonl", tmp_path / "moved.jsonl")
    log.write({"step": 1})
    assert records(tmp_path) == [{"step": 1}] and records(tmp_path, "moved.jsonl") == [{"step": 0}]


# The soak: make soak


@pytest.mark.soak
@pytest.mark.parametrize("ranks,trials", [(1, 20), (2, 4)])
def test_soak(ranks, trials, checkpoint, tmp_path):
    """kill -9 at random moments, again and again: always resumable, one save interval lost at most.

    A save at each step, so that the moments fall into sampling, update, hand-over and saving alike.
    """
    flags = ["--model", checkpoint, "--num_steps", "100000", "--eval_every", "100000"]
    resume, lost = [], []
    for trial in range(trials):
        run = start_run(tmp_path, *flags, *resume, ranks=ranks)
        read_until(run, "s/step")
        time.sleep(random.Random(f"{ranks} {trial}").uniform(0, 3))
        kill(run)
        reached = max(int(line["step"]) for line in records_that_parse(tmp_path))
        newest = max(int(p.name[5:]) for p in (tmp_path / "checkpoints").iterdir() if p.name[5:].isdecimal())
        partial = [p.name for p in (tmp_path / "checkpoints").glob("*.partial")]
        lost.append(reached - newest)
        print(f"{ranks} ranks, trial {trial + 1}: killed after step {reached}, checkpoint {newest} {partial}")
        assert lost[-1] <= 1
        resume = ["--resume"]
    last = start_run(tmp_path, *flags, "--resume", "--num_steps", str(newest + 2), ranks=ranks)
    printed = finish(last)
    assert "is damaged" not in printed
    assert [m["step"] for m in records(tmp_path)] == list(range(newest + 3))
    print(f"{ranks} ranks: {trials} kills, at most {max(lost)} steps lost, {newest + 2} steps in all")


def records_that_parse(folder: Path) -> list[dict]:
    """A kill can tear the last line."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]
