import os
import subprocess
import sys
import time
from dataclasses import dataclass
from types import SimpleNamespace

import huggingface_hub
import pytest
from conftest import ROOT

from eval import EvalConfig
from pretrain import PretrainConfig
from run.flags import OTHER_NAMES, PATHS, Flags, Outlet, check_numbers, one_sentence, try_hub
from run.log import RunLog
from run.settings import Config

TRAIN, EVAL, PRETRAIN = Config, EvalConfig, PretrainConfig


def read(settings, args, refused=()):
    return Flags(settings, "usage").read(args.split(" "), dict(refused))


# ---- Flags ----


@pytest.mark.parametrize(
    "settings,given,near",
    [
        (TRAIN, "--learning_rate", "lr"),
        (TRAIN, "--learning-rate", "lr"),
        (TRAIN, "--Learning_Rate=1", "lr"),
        (TRAIN, "-lr", "lr"),
        (TRAIN, "–lr", "lr"),  # as a word processor writes it
        (TRAIN, "--max_completion_length", "max_response_tokens"),
        (TRAIN, "--max_new_tokens", "max_response_tokens"),
        (TRAIN, "--num_generations", "group_size"),
        (TRAIN, "--n", "group_size"),
        (TRAIN, "--per_device_train_batch_size", "micro_batch_tokens"),
        (TRAIN, "--epsilon", "clip_eps"),
        (TRAIN, "--kl_coef", "beta"),
        (TRAIN, "--model_name_or_path", "model"),
        (TRAIN, "--eval_steps", "eval_every"),
        (TRAIN, "--grup_size", "group_size"),
        (TRAIN, "--temp", "temperature"),  # no silent abbreviation
        (TRAIN, "--gradient", "gradient_checkpointing"),
        (TRAIN, "--no_resume", "resume"),
        (EVAL, "--num_generations", "n"),
        (EVAL, "--dataset", "data"),
        (EVAL, "--gpu_memory_utilization", "memory"),
        (EVAL, "--topp", "top_p"),
        (EVAL, "--tasks", "data"),
        (PRETRAIN, "--learning_rate", "lr"),
        (PRETRAIN, "--num_train_epochs", "epochs"),
        (PRETRAIN, "--batch_size", "batch_rows"),
        (PRETRAIN, "--max_length", "row_tokens"),
    ],
)
def test_a_flag_that_is_none_is_told_with_the_nearest(settings, given, near):
    with pytest.raises(ValueError) as error:
        read(settings, f"{given} 1")
    given = given.split("=")[0]
    assert str(error.value) == f"{given} is no flag: did you mean --{near}? -h lists them all"


@pytest.mark.parametrize(
    "settings,args,message",
    [
        (TRAIN, "--xyzzy", "--xyzzy is no flag, -h lists them all"),
        (TRAIN, "grpo", "'grpo' belongs to no flag: a value with spaces needs quotes"),
        (TRAIN, "--output_dir my run", "'run' belongs to no flag"),
        (TRAIN, "--data a b", "'b' belongs to no flag"),
        (TRAIN, "--lr abc", "--lr: invalid float value: 'abc'"),
        (TRAIN, "--max-response-tokens 1e3", "--max_response_tokens: invalid int value: '1e3'"),
        (TRAIN, "--lr", "--lr: expected one argument"),
        (TRAIN, "--algo ppo", "--algo: invalid choice: 'ppo' (choose from "),
        (TRAIN, "--resume runs/mine", "--resume: Truthy value expected: got runs/mine"),
        (
            TRAIN,
            "--eval_data a --eval-data b",
            "--eval_data is there 2 times, and the last alone would count",
        ),
        (TRAIN, "--data_dir ", "--data_dir is empty: give it a value, or leave it out"),
        (TRAIN, "--eval_data a ", "--eval_data is empty"),
        (EVAL, "--tokenizer ", "--tokenizer is empty"),
        (TRAIN, "--top_p 0.9 --lr 1", "--top_p: it is biased"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(settings, args, message):
    with pytest.raises(ValueError) as error:
        read(settings, args, {"top_p": "it is biased"})
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "settings,args,expected",
    [
        (TRAIN, "--resume yes --dry-run=no", {"resume": True, "dry_run": False}),
        (TRAIN, "--resume --lr -1e-5 --seed -3", {"resume": True, "lr": -1e-5, "seed": -3}),
        (TRAIN, "--lr 1 --lr 2", {"lr": 2.0}),  # as everywhere
        (TRAIN, "--output_dir a=b", {"output_dir": "a=b"}),
        (TRAIN, "--eval_data a b --data c", {"eval_data": ["a", "b"], "data": "c"}),
        (EVAL, "--model ", {"model": ""}),  # its default
        (EVAL, "--stop a b --n 2", {"stop": ["a", "b"], "n": 2}),
    ],
)
def test_what_can_be_read(settings, args, expected):
    found = vars(read(settings, args))
    assert {name: found[name] for name in expected} == expected


def test_a_leading_tilde_is_the_home_in_every_path_and_nowhere_else(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    expanded = set()
    for settings in (TRAIN, EVAL, PRETRAIN):
        for name, default in vars(settings()).items():
            if name not in PATHS:
                continue
            value = getattr(read(settings, f"--{name} ~/a"), name)
            assert value == (["/home/me/a"] if isinstance(default, list) else "/home/me/a")
            expanded.add(name)
    assert expanded == set(PATHS)
    assert read(EVAL, "--data a ~/b ~").data == ["a", "/home/me/b", "/home/me"]
    assert read(EVAL, "--stop ~ --data x~/y").stop == ["~"]
    assert read(TRAIN, "--data x~/y").data == "x~/y"


def test_the_table_of_other_names_leads_to_flags_and_hides_none():
    scripts = [set(vars(settings())) for settings in (TRAIN, EVAL, PRETRAIN)]
    for ours, theirs in OTHER_NAMES.items():
        having = [names for names in scripts if ours in names]
        assert having, ours
        assert not any(names & set(theirs.split()) for names in having), ours


@dataclass
class Numbers:
    lr: float | None = 1.0
    seed: int = 0
    every: int = 1
    truth: bool = False
    name: str = ""


@pytest.mark.parametrize(
    "name,value,rule",
    [
        *(("lr", value, "above 0") for value in (0, -1, float("nan"))),
        ("lr", float("inf"), "finite"),
        ("seed", -1, "0 or more"),
        ("every", -1, "0 or more"),
    ],
)
def test_numbers_are_above_zero_or_what_their_default_is(name, value, rule):
    check_numbers(Numbers(), ["every"])
    check_numbers(Numbers(lr=None, every=0), ["every"])
    with pytest.raises(ValueError, match=f"^{name} is {value}, and must be {rule}$"):
        check_numbers(Numbers(**{name: value}), ["every"])


def test_a_seed_is_one_that_numpy_and_the_engine_take():
    check_numbers(Numbers(seed=2**31 - 1))
    with pytest.raises(ValueError, match="^seed is 202411281230, and must be below 2147483648$"):
        check_numbers(Numbers(seed=202411281230))


# ---- The start of a script ----


@pytest.mark.parametrize(
    "ranks,rank,said",
    [
        (None, None, True),
        ("2", "0", True),
        ("2", "1", False),
        ("1", "1", True),
        (None, "1", True),
        ("", "", True),
    ],
)
def test_a_start_that_fails_is_one_sentence_a_machine(ranks, rank, said, monkeypatch, capsys):
    for name, value in {"WORLD_SIZE": ranks, "LOCAL_RANK": rank}.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stopped, one_sentence("x.py"):
        raise OSError("one\n  two\n")
    assert stopped.value.code == 2 and capsys.readouterr().err == "x.py: one two\n" * said


@pytest.mark.parametrize("name", ["DEEPSPEED", "FSDP", "MEGATRON_LM", "PARALLELISM_CONFIG"])
def test_another_projects_accelerate_config(name, monkeypatch, capsys):
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(SystemExit) as stopped, one_sentence("x.py"):
        pytest.fail("it went on")
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.count("\n") == 1
    assert said.startswith(f"x.py: ACCELERATE_USE_{name} is set, by an accelerate config of another project")
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "false")
    with one_sentence("x.py"):
        pass


# ---- Streams that are gone ----


class Full:
    """The stream of a file on a full disk."""

    encoding = "utf-8"

    def write(self, text):
        raise OSError("No space left on device")

    def flush(self):
        self.write("")


def test_a_full_disk_under_stdout_ends_nothing(monkeypatch, tmp_path):
    accelerator = SimpleNamespace(is_main_process=True)
    monkeypatch.setattr(sys, "stdout", Full())
    RunLog(tmp_path, -1, accelerator).say("step 1")
    print_all = Outlet(Full())
    assert print_all.write("text") == 4 and print_all.encoding == "utf-8"
    print("text", file=print_all, flush=True)
    with pytest.raises(OSError):
        print("text", file=Full())


def test_a_network_that_is_not_there_is_named(monkeypatch, capsys):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo,ib77")
    with pytest.raises(SystemExit), one_sentence("x.py"):
        pytest.fail("it went on")
    assert "GLOO_SOCKET_IFNAME is lo,ib77, and this machine has no ib77, only lo" in capsys.readouterr().err
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    with one_sentence("x.py"):
        pass


PROGRAM = """
import sys, time
from run.flags import one_sentence
with one_sentence("x.py"):
    print("first", flush=True)
for _ in range(3):
    time.sleep(0.2)
    print("x" * 100_000)
open(sys.argv[1], "w").write("the end")
"""


@pytest.mark.parametrize("stdout", ["| head -1 >/dev/null; exit ${PIPESTATUS[0]}", "> /dev/full", ">&-"])
def test_a_process_outlives_its_stdout(stdout, tmp_path):
    command = f'"{sys.executable}" -c "$PROGRAM" {tmp_path}/end {stdout}'
    environment = os.environ | {"PROGRAM": PROGRAM}
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "end").read_text() == "the end"


# ---- The Hub ----


@pytest.mark.parametrize(
    "sources,fails,asked,offline",
    [
        (["owner/name"], True, 1, True),
        (["arithmetic", "owner/name:config", "owner/other"], True, 1, True),
        (["owner/name"], False, 1, False),
        (["arithmetic", "./a/b", "/a/b", "a/b/c", "tests/test_flags.py", ""], True, 0, False),
    ],
)
def test_a_hub_that_does_not_answer_is_asked_once(sources, fails, asked, offline, monkeypatch):
    requests = []

    def head(url, timeout):
        requests.append(url)
        if fails:
            raise ConnectionError("Name or service not known")

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: SimpleNamespace(head=head))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    try_hub(sources)
    assert len(requests) == asked
    assert huggingface_hub.constants.HF_HUB_OFFLINE == offline
    assert os.environ["HF_HUB_OFFLINE"] == str(int(offline))
    try_hub(sources)
    assert len(requests) == (asked if offline else 2 * asked)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "train.py --recipe tiny --model no/such --output_dir {}/run",
        "train.py --recipe tiny --data no/such --output_dir {}/run --dry_run",
        "eval.py --model no/such --output_dir {}/run",
        "pretrain.py --model no/such --data no/set --output_dir {}/run",
    ],
)
def test_a_hub_id_without_a_network_is_one_line(command, tmp_path):
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub")}
    started = time.monotonic()
    command = [sys.executable, *command.format(tmp_path).split()]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"{command[1]}: ") and "no/s" in done.stderr
    assert time.monotonic() - started < 60 and not (tmp_path / "run").exists()
