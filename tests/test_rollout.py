import pytest
import torch
from conftest import make_rollout, random_qwen2

import learner
from learner import prepare_policy
from rollout import Sampler, collate
from train import hand_over

CPU = torch.device("cpu")


def test_collate_by_hand():
    batch = collate([make_rollout([5, 6], [7, 8], logprob=-0.5), make_rollout([1], [2], logprob=-2.0)])
    assert batch.input_ids.tolist() == [[5, 6, 7], [1, 2, 0]]
    assert batch.labels.tolist() == [[6, 7, 8], [2, 0, 0]]
    assert batch.response_mask.tolist() == [[False, True, True], [True, False, False]]
    assert batch.sampler_logprobs.tolist() == [[0.0, -0.5, -0.5], [-2.0, 0.0, 0.0]]


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
    without_head = lambda policy: iter([(n, p.detach()) for n, p in policy.model.named_parameters()])  # noqa: E731
    monkeypatch.setattr("train.checkpoint_weights", without_head)
    with pytest.raises(RuntimeError, match=r"nats a token, the learner -\d"):
        hand_over(policy, sampler, make_rollout([5, 6, 7], list(range(20, 40))), CPU)
