import ctypes
import math
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import make_rollout, random_qwen2

import learner
import train
from learner import prepare_policy
from rollout import EngineFailed, Sampler, collate
from run.memory import check_engine
from train import derived_seed, hand_over

CPU = torch.device("cpu")


def test_collate_by_hand():
    batch = collate([make_rollout([5, 6], [7, 8], logprob=-0.5), make_rollout([1], [2], logprob=-2.0)])
    assert batch.input_ids.tolist() == [[5, 6, 7], [1, 2, 0]]
    assert batch.labels.tolist() == [[6, 7, 8], [2, 0, 0]]
    assert batch.response_mask.tolist() == [[False, True, True], [True, False, False]]
    assert batch.sampler_logprobs.tolist() == [[0.0, -0.5, -0.5], [-2.0, 0.0, 0.0]]


class StubLLM:
    """Answers from the global generators, as vLLM does: numpy's on GPUs, torch's on CPUs."""

    def __init__(self):
        self.calls, self.prompts, self.params, self.finish_reason = [], [], [], "stop"

    def generate(self, inputs, params, use_tqdm):
        self.prompts += [given["prompt_token_ids"] for given in inputs]
        self.params.append(params)
        ids = [int(np.random.randint(10**9)), int(torch.randint(10**9, ()))]
        logprobs = SimpleNamespace(logprobs=[-1.0, -1.0])
        answer = SimpleNamespace(token_ids=ids, text="", logprobs=logprobs, finish_reason=self.finish_reason)
        scores = [{token: SimpleNamespace(logprob=-float(token)) for token in range(30)}] * 30
        return [SimpleNamespace(outputs=[answer], prompt_logprobs=scores) for _ in inputs]

    def get_tokenizer(self):
        return SimpleNamespace(batch_decode=lambda responses, **_: [f"{len(ids)} ids" for ids in responses])

    def __getattr__(self, name):  # sleep, wake_up, collective_rpc, reset_prefix_cache
        return lambda *arguments, **keywords: self.calls.append((name, *keywords.get("tags", [])))


@pytest.fixture
def stub(monkeypatch):
    sampler = object.__new__(Sampler)
    sampler._llm, sampler._sampling_params, sampler.dtype = StubLLM(), dict, torch.bfloat16
    sampler._tensor_parallel, sampler._max_model_len, sampler._can_sleep = 1, 8, True
    return sampler


def test_both_global_generators_follow_the_seed_and_ranks_and_steps_differ(stub):
    """On GPUs vLLM draws a seed a request from numpy's generator, which all ranks' engines seed alike."""

    def draw(step, rank):
        return stub.sample([[1]], 1, 1.0, 4, (), derived_seed(0, "sample", step, rank))[0].response_ids

    draws = [draw(step, rank) for step in range(3) for rank in range(3)]
    for generator in (0, 1):
        assert len({ids[generator] for ids in draws}) == 9
    assert draws == [draw(step, rank) for step in range(3) for rank in range(3)]


def test_every_sampling_starts_without_cached_keys_and_so_does_every_check(stub):
    stub.sample([[1]], 1, 1.0, 4, (), 0)
    assert stub._llm.calls == [("reset_prefix_cache",)]
    stub._llm.calls.clear()
    stub.load_weights(iter([]))
    wake = [("wake_up", "weights"), ("wake_up", "kv_cache")]
    assert stub._llm.calls == [wake[0], ("collective_rpc",), ("reset_prefix_cache",), wake[1]]


def test_the_engine_is_asked_for_what_the_caller_wants_and_keeps_stop_strings(stub):
    (rollout,) = stub.sample([[1]], 4, 0.7, 5, ("a", "b"), 0)
    (params,) = stub._llm.params
    assert (params["n"], params["temperature"], params["max_tokens"], params["stop"]) == (
        4,
        0.7,
        5,
        ["a", "b"],
    )
    assert params["include_stop_str_in_output"] and params["logprobs"] == 0  # of the sampled token, no others
    assert rollout.sampler_logprobs == [-1.0, -1.0] and not rollout.truncated
    stub._llm.finish_reason = "length"
    (rollout,) = stub.sample([[1]], 1, 0.7, 5, (), 0, logprobs=False)
    assert rollout.truncated and rollout.sampler_logprobs == [] and stub._llm.params[1]["logprobs"] is None
    stub.sample([[1]], 1, 1.0, 4, (), 0, top_p=0.9)
    assert [params["top_p"] for params in stub._llm.params] == [1.0, 1.0, 0.9]
    stub._llm.prompts.clear()
    assert stub.sample([], 1, 1.0, 4, (), 0) == [] and stub._llm.prompts == []


def test_ranks_that_share_an_engine_are_its_workers(monkeypatch):
    options = {}
    vllm = SimpleNamespace(LLM=lambda **given: options.update(given), SamplingParams=dict)
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setattr("os.environ", {})
    monkeypatch.setattr("rollout.world_size", lambda: 2)
    Sampler("m", max_model_len=9, dtype=torch.bfloat16, memory=0.5, tensor_parallel=2)
    expected = dict(model="m", max_model_len=9, dtype="bfloat16", tensor_parallel_size=2)
    expected |= dict(distributed_executor_backend="external_launcher")
    assert expected.items() <= options.items()


def test_weights_go_over_in_the_engines_dtype_and_are_dropped_when_it_sleeps(stub):
    taken, levels = [], []
    stub._llm.collective_rpc = lambda method, kwargs: taken.extend(kwargs["weights_iterator"])
    stub._llm.sleep = lambda level: levels.append(level)
    stub.load_weights(iter([("head", torch.ones(2))]))
    stub.sleep()
    assert [(name, tensor.dtype) for name, tensor in taken] == [("head", torch.bfloat16)]
    assert levels == [2]  # at level 1 a copy of the weights would stay in RAM


def test_ranks_of_an_engine_ask_together_with_one_seed_and_take_their_own_answers(stub, monkeypatch):
    """Rank 3 of four, two an engine: ranks 2 and 3 share one, and have not equally many prompts."""
    of_ranks = [[], [], [([5], 77)], [([6], 88), ([7], 88)]]
    monkeypatch.setattr("rollout.this_rank", lambda: 3)
    monkeypatch.setattr("rollout.gather_object", lambda items: of_ranks)
    stub._tensor_parallel = 2
    drawn = stub.sample([[6], [7]], 1, 1.0, 4, (), 88)
    assert stub._llm.prompts == [[5], [6], [7]] and [r.prompt_ids for r in drawn] == [[6], [7]]
    assert torch.initial_seed() == 77
    of_ranks[2] = [([5], 77), ([5], 77), ([5], 77)]
    assert stub._of_engine([([6], 88), ([7], 88)])[1] == slice(3, 5)


def test_a_library_that_vllm_lacks_is_told_before_anything_loads(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_engine()
    load = ctypes.CDLL
    monkeypatch.setattr(ctypes, "CDLL", lambda name: load("libnone.so.1"))
    with pytest.raises(ValueError, match="vLLM cannot start: libnone.so.1: .*apt install libnuma1"):
        check_engine()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # its CUDA build does not load it
    check_engine()


@pytest.mark.parametrize("on_gpu", [False, True])
def test_the_engine_starts_with_the_options_of_its_device(on_gpu, monkeypatch):
    started = []
    vllm = SimpleNamespace(LLM=lambda **options: started.append(options), SamplingParams=dict)
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    for name in ("ENABLE_V1_MULTIPROCESSING", "CPU_OMP_THREADS_BIND", "LOGGING_LEVEL"):
        monkeypatch.setenv(
            f"VLLM_{name}", {"LOGGING_LEVEL": "ERROR"}.get(name, "")
        )  # put back after the test
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "0")
    monkeypatch.delenv("TORCHDYNAMO_DISABLE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    for sleep in (False, True):
        Sampler("m", max_model_len=9, dtype=torch.bfloat16, memory=0.5, sleep=sleep, seed=3)
        options = started.pop()
        assert (options["model"], options["max_model_len"], options["seed"]) == ("m", 9, 3)
        assert options["dtype"] == "bfloat16" and options["logprobs_mode"] == "processed_logprobs"
        assert options["enable_sleep_mode"] == (sleep and on_gpu) and options["enforce_eager"] != on_gpu
        assert options.get("gpu_memory_utilization") == (0.5 if on_gpu else None)
        assert options.get("kv_cache_memory_bytes") == (None if on_gpu else 2**29)  # half a GiB
        assert os.environ.get("TORCHDYNAMO_DISABLE") == (None if on_gpu else "1")


def test_a_response_that_fills_the_context_is_scored_without_its_last_token(stub):
    """vLLM refuses a prompt of max_model_len tokens."""
    assert stub.logprobs(make_rollout([1, 2, 3], [4, 5, 6, 7, 8])) == [-4.0, -5.0, -6.0, -7.0]
    assert stub.logprobs(make_rollout([1, 2, 3], [4, 5, 6, 7])) == [-4.0, -5.0, -6.0, -7.0]
    assert stub._llm.prompts == [[1, 2, 3, 4, 5, 6, 7]] * 2
    assert [params["temperature"] for params in stub._llm.params] == [1.0] * 2


def test_what_an_engine_dies_of_is_named(stub, monkeypatch):
    monkeypatch.setattr(stub._llm, "generate", lambda *_, **__: [][1])
    for call in (lambda: stub.sample([[1]], 1, 1.0, 4, (), 0), lambda: stub.logprobs(make_rollout([1], [2]))):
        with pytest.raises(EngineFailed, match="^IndexError: list index out of range$"):
            call()


def test_the_learner_lets_go_of_its_memory_before_the_engine_takes_its_own(stub, monkeypatch):
    calls = stub._llm.calls
    monkeypatch.setattr(train, "reshard", lambda policy: calls.append(("reshard",)))
    monkeypatch.setattr(train, "checkpoint_weights", lambda *_: iter([]))

    def policy(input_ids, labels, mask):
        calls.append(("forward",))
        return -labels.float(), None

    hand_over(policy, stub, make_rollout([1, 2, 3], [4, 5, 6, 7, 8]), CPU)
    steps = "forward reshard wake_up/weights collective_rpc reset_prefix_cache wake_up/kv_cache"
    assert ["/".join(call) for call in calls] == steps.split()
    with pytest.raises(RuntimeError, match="sampler gives a response -5.5000 nats a token, the learner -6.0"):
        hand_over(lambda *a: (policy(*a)[0] - 0.5, None), stub, make_rollout([1, 2, 3], [4, 5, 6, 7, 8]), CPU)


@pytest.mark.parametrize("shifts", [[0.5] * 5, [-0.5] * 5, [0.5, -0.5, 0.5, -0.5, 0.0], [math.nan] * 5])
def test_a_gap_of_either_sign_stops_the_run_and_so_does_one_that_is_no_number(stub, shifts, monkeypatch):
    monkeypatch.setattr(train, "checkpoint_weights", lambda *_: iter([]))
    probe = make_rollout([1, 2, 3], [4, 5, 6, 7, 8])

    def policy(input_ids, labels, mask):
        return -labels.float() + torch.tensor([[0.0, 0.0, *shifts]]), None

    with pytest.raises(RuntimeError, match="the weights did not arrive"):
        hand_over(policy, stub, probe, CPU)
    shifts = [0.21] * 5
    with pytest.raises(RuntimeError, match="mean gap 0.2100, at most 0.2"):
        hand_over(policy, stub, probe, CPU)
    shifts = [0.19] * 5
    hand_over(policy, stub, probe, CPU)


def test_the_check_of_the_hand_over_computes_as_the_update_does(stub, monkeypatch):
    monkeypatch.setattr(learner, "compute_dtype", lambda: torch.bfloat16)
    monkeypatch.setattr(train, "checkpoint_weights", lambda *_: iter([]))
    seen = []

    def policy(input_ids, labels, mask):
        seen.append((torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()))
        return -labels.float(), None

    hand_over(policy, stub, make_rollout([1, 2, 3], [4, 5, 6, 7, 8]), CPU)
    assert seen == [(True, False)]


pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="float32 comparisons, written for the CPU build"
)


@pytest.fixture(scope="module")
def sampler(checkpoint):
    return Sampler(checkpoint, max_model_len=128, dtype=torch.float32, memory=0.2)


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    """Both sides in float32: what is left of a gap is then a mistake, not rounding."""
    monkeypatch.setattr(learner, "compute_dtype", lambda: torch.float32)


def learner_logprobs(policy, rollouts, temperature: float = 1.0) -> list[list[float]]:
    batch = collate(rollouts)
    with torch.no_grad():
        logprobs, _ = policy(batch.input_ids, batch.labels, batch.response_mask, temperature)
    return [row[mask].tolist() for row, mask in zip(logprobs, batch.response_mask, strict=True)]


def give(sampler, policy):
    sampler.load_weights(learner.checkpoint_weights(policy))


@pytest.mark.slow
def test_samples_are_prompt_major_and_carry_the_learners_log_probs(sampler, tokenizer):
    policy = prepare_policy(random_qwen2(tokenizer, tied=True, seed=1))
    give(sampler, policy)
    prompts = [[5, 6, 7], [8] * 40, [9]]
    rollouts = sampler.sample(prompts, 4, temperature=0.7, max_response_tokens=20, stop=[], seed=3)
    assert [r.prompt_ids for r in rollouts] == [ids for ids in prompts for _ in range(4)]
    for rollout, ours in zip(rollouts, learner_logprobs(policy, rollouts, temperature=0.7), strict=True):
        assert rollout.sampler_logprobs == pytest.approx(ours, abs=1e-4)  # two implementations in float32
        ended = rollout.response_ids[-1] == tokenizer.eos_token_id
        assert rollout.truncated == (not ended) and (ended or len(rollout.response_ids) == 20)


@pytest.mark.slow
def test_sampling_is_repeatable_and_seeds_differ(sampler):
    def draw(seed):
        return sampler.sample([[5, 6, 7], [8] * 90], 8, 1.0, 20, [], seed)

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


@pytest.mark.slow
def test_greedy_takes_the_most_likely_token(sampler, tokenizer):
    policy = prepare_policy(random_qwen2(tokenizer, tied=True, seed=2))
    give(sampler, policy)
    (rollout,) = sampler.sample([[5, 6, 7]], 1, temperature=0.0, max_response_tokens=10, stop=[], seed=0)
    ids = rollout.prompt_ids + rollout.response_ids
    logits = policy.model(input_ids=torch.tensor([ids])).logits[0]
    assert logits[2:-1].argmax(dim=-1).tolist() == rollout.response_ids


@pytest.mark.slow
def test_a_stop_string_ends_a_response_properly_and_is_kept(sampler, tokenizer):
    rollouts = sampler.sample([[5, 6]], 256, 1.0, 60, ["7"], seed=0)
    stopped = [r for r in rollouts if not r.truncated and r.response_ids[-1] != tokenizer.eos_token_id]
    assert stopped
    for rollout in stopped:
        assert rollout.text.index("7") == len(rollout.text) - 1
        assert tokenizer.decode(rollout.response_ids, skip_special_tokens=True) == rollout.text


@pytest.mark.slow
def test_a_response_reads_the_same_whoever_decodes_it(sampler):
    """With stop strings vLLM does, as it samples; without them they are decoded afterwards."""
    drawn = [sampler.sample([[5, 6], [7] * 9], 64, 1.0, 60, stop, seed=0) for stop in ((), ("never this",))]
    for ours, engines in zip(*drawn, strict=True):
        assert ours.response_ids == engines.response_ids
        # Half a character at the end: vLLM waits for the rest of it.
        assert ours.text.rstrip("\N{REPLACEMENT CHARACTER}") == engines.text.rstrip(
            "\N{REPLACEMENT CHARACTER}"
        )


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 4])
def test_hand_over_changes_every_answer_of_the_engine(sampler, tokenizer, seed):
    """Quite other weights arrive whole: embeddings, packed projections, tied head, fresh prefix cache."""
    probe = make_rollout(list(range(20, 60)), list(range(60, 80)))
    before = sampler.logprobs(probe)
    policy = prepare_policy(random_qwen2(tokenizer, tied=True, seed=seed))
    hand_over(policy, sampler, probe, CPU, limit=1e-4)
    after = sampler.logprobs(probe)
    assert after == pytest.approx(learner_logprobs(policy, [probe])[0], abs=1e-4)
    assert max(abs(a - b) for a, b in zip(before, after, strict=True)) > 0.1


@pytest.mark.slow
def test_a_head_that_stays_behind_stops_the_run(sampler, tokenizer, monkeypatch):
    """vLLM has a packed copy of a tied head and rebuilds it only when the head is named, silently."""
    policy = prepare_policy(random_qwen2(tokenizer, tied=True, seed=5))
    without_head = lambda policy, _: iter([(n, p.detach()) for n, p in policy.model.named_parameters()])  # noqa: E731
    monkeypatch.setattr("train.checkpoint_weights", without_head)
    with pytest.raises(RuntimeError, match=r"nats a token, the learner -\d"):
        hand_over(policy, sampler, make_rollout([5, 6, 7], list(range(20, 40))), CPU)
