"""Several ranks, as real processes over gloo, learn exactly what one rank learns."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import make_rollout, random_qwen2, settings
from transformers import AutoModelForCausalLM

import learner
from learner import checkpoint_weights, prepare_policy, update
from loss import ALGOS

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")


def rollouts():
    """Eight responses of 1 to 29 tokens; the odd ones, which rank 1 of 2 gets, are long."""
    lengths = [1, 29, 2, 27, 3, 25, 4, 23]
    return [make_rollout([5, 6, 7 + i], list(range(10, 10 + n))) for i, n in enumerate(lengths)]


ADVANTAGES = torch.tensor([0.5, -0.5, 0.25, -0.25, 0.75, -0.75, 1.0, -1.0])


def one_update(tokenizer, algo: str, tied: bool) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """One SGD step on this rank's share -> the whole weights, and the metrics."""
    learner.compute_dtype = lambda: torch.float32
    policy = prepare_policy(random_qwen2(tokenizer, tied=tied))
    config = settings(algo=algo, minibatch_size=8, micro_batch_tokens=40, max_response_tokens=32)
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    metrics = update(policy, optimizer, rollouts()[rank::ranks], ADVANTAGES[rank::ranks], config, CPU, seed=0)
    return {name: tensor.clone() for name, tensor in checkpoint_weights(policy)}, metrics


def rank_main(rank: int, ranks: int, port: int, folder: str, tokenizer, cases) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    for algo, tied in cases:
        torch.save(one_update(tokenizer, algo, tied), f"{folder}/{algo}-{tied}-{rank}.pt")
    dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_with_uneven_micro_batches_make_the_update_of_one(ranks, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(learner, "compute_dtype", learner.compute_dtype)  # put back after the test
    cases = [(algo, True) for algo in ALGOS] + [("drgrpo", False)]
    mp.spawn(rank_main, (ranks, free_port(), str(tmp_path), tokenizer, cases), nprocs=ranks)
    for algo, tied in cases:
        expected, alone = one_update(tokenizer, algo, tied)
        for rank in range(ranks):
            weights, metrics = torch.load(tmp_path / f"{algo}-{tied}-{rank}.pt")
            assert weights.keys() == expected.keys() and "lm_head.weight" in weights
            for name, tensor in weights.items():
                torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=1e-6)
            assert metrics == pytest.approx(alone, rel=1e-4, abs=1e-7)


@pytest.mark.slow
def test_two_ranks_train_with_an_engine_each(checkpoint, tmp_path):
    """The launcher, two gloo ranks, two engines: one set of files, and a model that opens."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    flags = "--recipe tiny --num_steps 2 --prompts_per_step 4 --group_size 4 --minibatch_size 8 --lr 1e-3"
    flags += f" --max_response_tokens 16 --eval_limit 6 --save_every 1 --model {checkpoint}"
    command = [*launch, f"--main_process_port={free_port()}", "train.py", *flags.split()]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--output_dir", str(tmp_path / "run")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("step   2/2  reward") == 1 and "2 ranks" in done.stdout
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model").num_parameters() > 0
