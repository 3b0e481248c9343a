"""Several ranks, as real processes over gloo, learn exactly what one rank learns. See also test_faults.py."""

import json
import os
import weakref
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import free_port, make_rollout, on_cpu, random_qwen2, settings, start
from torch.distributed.tensor import DTensor

import learner
from learner import checkpoint_weights, load_policy, prepare_policy, reshard, update
from loss import ALGOS
from run.checkpoint import load_checkpoint, save_checkpoint

CPU = torch.device("cpu")


def rollouts():
    """Eight responses of 1 to 29 tokens; the odd ones, which rank 1 of 2 gets, are long."""
    lengths = [1, 29, 2, 27, 3, 25, 4, 23]
    return [make_rollout([5, 6, 7 + i], list(range(10, 10 + n))) for i, n in enumerate(lengths)]


ADVANTAGES = torch.tensor([0.5, -0.5, 0.25, -0.25, 0.75, -0.75, 1.0, -1.0])


def one_update(
    tokenizer, algo: str, tied: bool, recompute: bool = False, replicas: int = 1
) -> tuple[dict[str, torch.Tensor], dict[str, float], int]:
    """One SGD step on this rank's share -> the whole weights, the metrics, and the number of forwards."""
    learner.compute_dtype = lambda: torch.float32
    policy = prepare_policy(random_qwen2(tokenizer, tied=tied), recompute, replicas)
    forwards = []
    policy.register_forward_hook(lambda *_: forwards.append(1))
    config = settings(algo=algo, minibatch_size=8, micro_batch_tokens=40, max_response_tokens=32)
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    metrics = update(policy, optimizer, rollouts()[rank::ranks], ADVANTAGES[rank::ranks], config, CPU, seed=0)
    return {name: tensor.clone() for name, tensor in checkpoint_weights(policy)}, metrics, len(forwards)


def adamw(policy) -> torch.optim.AdamW:
    """An optimizer that has made a step."""
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.0)
    for parameter in policy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return optimizer


def most_whole_tensors_at_once(policy) -> int:
    """How many of the tensors that `checkpoint_weights` gathers are alive at a time."""
    alive, most = weakref.WeakSet(), 0
    for _, tensor in checkpoint_weights(policy):
        alive.add(tensor)
        most = max(most, len(alive))
    return most


def rank_main(rank: int, ranks: int, port: int, folder: str, tokenizer, cases) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    for case in cases:
        torch.save(one_update(tokenizer, *case), f"{folder}/{case}-{rank}.pt")
    if ranks == 4:  # two machines of two: two copies, each over two ranks
        policy = load_policy(f"{folder}/True", CPU, replicas=2)
        whole = {name: tensor.clone() for name, tensor in checkpoint_weights(policy)}
        shards = sum(p.to_local().numel() for p in policy.parameters())
        save_checkpoint(Path(folder), {"step": 1, "accuracy": None}, policy, adamw(policy), keep=1)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.zero_()
        load_checkpoint(Path(folder), policy, adamw(policy), print)
        again = {name: tensor.clone() for name, tensor in checkpoint_weights(policy)}
        torch.save((whole, shards, again), f"{folder}/replicas-{rank}.pt")
    for tied in (True, False):
        policy = load_policy(f"{folder}/{tied}", CPU)
        in_bf16 = dict(checkpoint_weights(policy, torch.bfloat16))
        with pytest.MonkeyPatch.context() as patch:  # the call that goes over NCCL, here over gloo
            patch.setattr(dist, "get_backend", lambda _: "nccl")
            gathered = dict(checkpoint_weights(policy, torch.bfloat16))
        torch.save((in_bf16, gathered), f"{folder}/bf16-{tied}-{rank}.pt")
        shards = sum(p.to_local().numel() for p in policy.parameters())
        whole = {name: tensor.clone() for name, tensor in checkpoint_weights(policy)}
        torch.save((whole, shards, most_whole_tensors_at_once(policy)), f"{folder}/loaded-{tied}-{rank}.pt")
        head = policy.model.get_output_embeddings
        with torch.no_grad():
            policy(torch.tensor([[5, 6]]), torch.tensor([[6, 7]]), torch.ones(1, 2, dtype=torch.bool))
        gathered = not isinstance(head().weight, DTensor)
        reshard(policy)
        torch.save((gathered, isinstance(head().weight, DTensor)), f"{folder}/head-{tied}-{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@on_cpu
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_with_uneven_micro_batches_make_the_update_of_one(ranks, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(learner, "compute_dtype", learner.compute_dtype)  # put back after the test
    cases = [(algo, True, False) for algo in ALGOS] + [("drgrpo", False, False)]
    cases += [("drgrpo", tied, True) for tied in (True, False)]  # with recomputation, as the large recipes
    cases += [("grpo", True, False, 2)] if ranks == 4 else []
    models = {tied: random_qwen2(tokenizer, tied=tied, seed=3).to(torch.bfloat16) for tied in (True, False)}
    for tied, model in models.items():
        model.save_pretrained(tmp_path / str(tied))
    mp.spawn(rank_main, (ranks, free_port(), str(tmp_path), tokenizer, cases), nprocs=ranks)
    for case in cases:
        expected, alone, _ = one_update(tokenizer, *case[:2])
        forwards = set()
        for rank in range(ranks):
            weights, metrics, count = torch.load(tmp_path / f"{case}-{rank}.pt")
            assert weights.keys() == expected.keys() and "lm_head.weight" in weights
            for name, tensor in weights.items():
                torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=1e-6)
            assert metrics == pytest.approx(alone, rel=1e-4, abs=1e-7)
            forwards.add(count)
        assert len(forwards) == 1  # a rank with more would wait for the others for ever
    # Each rank holds its share of the checkpoint, and gathers one tensor after the other.
    for tied, model in models.items():
        loaded = [torch.load(tmp_path / f"loaded-{tied}-{rank}.pt") for rank in range(ranks)]
        for whole, _, most_at_once in loaded:
            assert most_at_once <= 2  # the one that was handed out, and the next
            assert all(
                torch.equal(whole[name], tensor.float()) for name, tensor in model.state_dict().items()
            )
        assert sum(shards for _, shards, _ in loaded) == model.num_parameters()
        for rank in range(ranks):
            for sent in torch.load(tmp_path / f"bf16-{tied}-{rank}.pt"):
                assert sent.keys() == model.state_dict().keys()
                assert all(torch.equal(sent[name], tensor) for name, tensor in model.state_dict().items())
        for rank in range(ranks):  # a forward without gradients leaves embedding and head gathered
            assert torch.load(tmp_path / f"head-{tied}-{rank}.pt") == (True, True)

    for rank in range(ranks if ranks == 4 else 0):
        whole, shards, again = torch.load(tmp_path / f"replicas-{rank}.pt")
        assert 0.4 < shards / models[True].num_parameters() < 0.6
        for name, tensor in models[True].state_dict().items():
            assert torch.equal(whole[name], tensor.float()) and torch.equal(again[name], tensor.float())


FLAGS = "--recipe tiny --num_steps 2 --prompts_per_step 4 --group_size 4 --minibatch_size 8 --lr 1e-3"
FLAGS = f"{FLAGS} --max_response_tokens 16 --eval_limit 6 --save_every 1"


@pytest.mark.slow
def test_two_machines_train_together(checkpoint, tmp_path):
    """Two launchers, as README starts them on two machines, here both on the loopback address."""
    run = ["train.py", *FLAGS.split(), "--model", checkpoint, "--output_dir", str(tmp_path / "run")]
    port = free_port()
    both = "--num_machines 2 --num_processes 2 --main_process_ip 127.0.0.1"
    machines = [
        start(*run, launcher=f"{both} --main_process_port {port} --machine_rank {rank}") for rank in (0, 1)
    ]
    outputs = [machine.communicate(timeout=300) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], outputs
    assert [printed.count("step   2/2  reward") for printed, _ in outputs] == [1, 0]
    # Two steps, two questions of each rank, from the step's own four.
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert [s["step"] for s in samples] == [1] * 4 + [2] * 4
    assert len({s["question"] for s in samples}) == 8


@pytest.mark.slow
def test_what_cannot_work_is_said_once_and_all_ranks_end(checkpoint, tmp_path):
    run = ["train.py", *FLAGS.split(), "--model", checkpoint, "--prompts_per_step", "5"]
    process = start(*run, launcher=f"--num_processes 2 --main_process_port {free_port()}")
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert errors.count("train.py: prompts_per_step 5 is not a multiple of the 2 ranks") == 1


HAND_OVER = """
import json
import sys
import torch
from accelerate import Accelerator
import learner
from rollout import Sampler, collate
from transformers import AutoTokenizer

learner.compute_dtype = lambda: torch.float32
path, tensor_parallel = sys.argv[1], int(sys.argv[2])
gaps = {}
rank = Accelerator(cpu=True).process_index
policy = learner.load_policy(path, torch.device("cpu"))
sampler = Sampler(path, max_model_len=64, dtype=torch.float32, memory=0.1, tensor_parallel=tensor_parallel)

def gap(rollouts):
    batch = collate(rollouts)
    with torch.no_grad():
        logprobs, _ = policy(batch.input_ids, batch.labels, batch.response_mask)
    return (logprobs - batch.sampler_logprobs).abs().max().item()

def sample(seed):  # ranks have prompts of their own, and not equally many
    prompts = [[5, 6, 7 + rank], [8, 9]][: 1 + rank]
    rollouts = sampler.sample(prompts, 4, 1.0, 24, (), seed)
    assert [r.prompt_ids for r in rollouts] == [p for p in prompts for _ in range(4)]
    return rollouts

gaps["before"] = gap(sample(0))
with torch.no_grad():
    for parameter in policy.parameters():
        parameter.mul_(1.5)
gaps["changed"] = gap(sample(1))
sampler.load_weights(learner.checkpoint_weights(policy))
rollouts = sample(2)
gaps["after"] = gap(rollouts)
probe = zip(sampler.logprobs(rollouts[0]), rollouts[0].sampler_logprobs)
gaps["probe"] = max(abs(given - sampled) for given, sampled in probe)
with open(f"{path}/gaps-{rank}.json", "w") as file:
    json.dump(gaps, file)
"""


@pytest.mark.slow
@pytest.mark.parametrize("tied,tensor_parallel", [(True, 1), (False, 2)])
def test_each_engine_has_the_learners_weights(tied, tensor_parallel, tokenizer, tmp_path):
    """Two ranks with an engine each, and two that share one: what is sampled has the learner's log-probs."""
    random_qwen2(tokenizer, tied=tied).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "hand_over.py").write_text(HAND_OVER)
    script = [str(tmp_path / "hand_over.py"), str(tmp_path), str(tensor_parallel)]
    process = start(*script, launcher=f"--num_processes 2 --main_process_port {free_port()}")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    for rank in (0, 1):
        gaps = json.loads((tmp_path / f"gaps-{rank}.json").read_text())
        assert max(gaps["before"], gaps["after"], gaps["probe"]) < 1e-4 and gaps["changed"] > 0.01


BASE_BY_ONE = """
import shutil
import sys
import time
from run import settings, start
from run.ranks import start_accelerator

checkpoint, base = sys.argv[1:]

def make_tiny_base(folder, accelerator, seed):
    if accelerator.is_main_process:
        time.sleep(2)
        shutil.copytree(checkpoint, folder)

start.make_tiny_base, start.TINY_BASE, settings.TINY_BASE = make_tiny_base, base, base
config = settings.Config(model=base, data="arithmetic", eval_every=0, prompts_per_step=16)
assert start.prepare(config, start_accelerator())
"""


@pytest.mark.slow
def test_all_ranks_wait_for_the_tiny_base(checkpoint, tmp_path):
    (tmp_path / "base_by_one.py").write_text(BASE_BY_ONE)
    run = [str(tmp_path / "base_by_one.py"), checkpoint, str(tmp_path / "base")]
    process = start(*run, launcher=f"--num_processes 2 --main_process_port {free_port()}")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors[-3000:]


DYING = """
import atexit
import time
import train
from accelerate import PartialState

real_update, steps = train.update, []

def update(*arguments):
    steps.append(1)
    if len(steps) == 2 and PartialState().process_index == 1:
        raise RuntimeError("rank 1 is ill")
    return real_update(*arguments)

train.update = update
atexit.register(time.sleep, 600)  # as what waits for the other ranks, over NCCL
train.main()
"""


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_run_with_its_error(checkpoint, tmp_path):
    (tmp_path / "dying.py").write_text(DYING)
    run = [str(tmp_path / "dying.py"), *FLAGS.split(), "--model", checkpoint, "--num_steps", "1000"]
    run += ["--output_dir", str(tmp_path / "run")]
    process = start(*run, launcher=f"--num_processes 2 --main_process_port {free_port()}")
    while "step   1/1000" not in (line := process.stdout.readline()):
        assert line, process.stderr.read()[-3000:]
    _, errors = process.communicate(timeout=60)  # within a minute of the step before
    assert process.returncode != 0 and "RuntimeError: rank 1 is ill" in errors
