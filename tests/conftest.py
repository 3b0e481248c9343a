"""What several test files share: random checkpoints of a real architecture, and hand-made rollouts."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import run.environment  # noqa: F401

import psutil
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from miniature.tiny_base import arithmetic_corpus, tiny_tokenizer
from rollout import Rollout

ROOT = Path(__file__).parents[1]
STARTED: list[subprocess.Popen] = []  # by the test under way
on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="several ranks are tried over gloo, on CPUs")


def start(*command: str, launcher: str | None = None, stderr: int = subprocess.PIPE) -> subprocess.Popen:
    """A script in the background, in a process group of its own; under the launcher if that has flags."""
    if launcher and torch.cuda.is_available():
        pytest.skip(on_cpu.kwargs["reason"])
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", *launcher.split()] if launcher else []
    process = subprocess.Popen(
        [sys.executable, *launch, *command],
        cwd=ROOT,
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": "."},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        start_new_session=True,
    )
    STARTED.append(process)
    return process


def kill(process: subprocess.Popen) -> None:
    """kill -9 for all of its processes; the launcher starts its ranks in sessions of their own."""
    for each in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture(autouse=True)
def nothing_runs_on():
    """A test that fails leaves no run behind."""
    yield
    while STARTED:
        if (process := STARTED.pop()).poll() is None:
            kill(process)


def random_qwen2(tokenizer, *, tied: bool, seed: int = 0) -> Qwen2ForCausalLM:
    """Two layers of weights random and large enough that other weights mean other log-probs."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer) + 3,  # padded, as real checkpoints are
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        initializer_range=0.1,
    )
    return Qwen2ForCausalLM(config)


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_tokenizer(question + response for question, response in arithmetic_corpus(500, seed=0))


@pytest.fixture(scope="session")
def checkpoint(tokenizer, tmp_path_factory) -> str:
    """A folder with a random tied model and the tiny tokenizer."""
    folder = tmp_path_factory.mktemp("checkpoint")
    random_qwen2(tokenizer, tied=True).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def make_rollout(
    prompt_ids: list[int], response_ids: list[int], logprob: float = -1.0, truncated: bool = False
) -> Rollout:
    return Rollout(prompt_ids, response_ids, "", [logprob] * len(response_ids), truncated)


def settings(**changes) -> SimpleNamespace:
    """The flags that an update reads: one minibatch of four, no clipping of the norm."""
    usual = dict(
        algo="drgrpo",
        minibatch_size=4,
        micro_batch_tokens=1000,
        temperature=1.0,
        clip_eps=0.2,
        max_response_tokens=16,
        max_grad_norm=1e9,
        clip_eps_high=None,
        importance_cap=None,
        beta=0.0,
        mask_truncated=False,
        skip_equal_groups=False,
        share_prompts=False,
    )
    return SimpleNamespace(**usual | changes)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
