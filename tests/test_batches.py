import itertools

import pytest
import torch
from conftest import make_rollout, random_qwen2, settings

import learner
from learner import prepare_policy, update
from rollout import collate
from run import batches
from run.batches import cut_minibatches, deal_micro_batches, share_prompts


def test_micro_batches_by_hand():
    # Longest first: 9; then 5 and 4 fit in 10 = 2 x 5; then 3, 2 and 1 in 9 = 3 x 3.
    assert deal_micro_batches([4, 9, 3, 1, 5, 2], token_budget=10) == [[[1]], [[4, 0]], [[2, 5, 3]]]
    # 3000 and 100 as two rows are 6000 tokens, in two passes 3100; 300 and 100 are 600 as two rows.
    assert deal_micro_batches([100, 3000], token_budget=9000) == [[[1]], [[0]]]
    assert deal_micro_batches([100, 300], token_budget=9000) == [[[1, 0]]]
    # Two ranks: 9 and 8, 5 and 4, and the last has no partner.
    assert deal_micro_batches([4, 9, 1, 5, 8], token_budget=5, ranks=2) == [[[1], [4]], [[3], [0]], [[2], []]]
    assert deal_micro_batches([], token_budget=5, ranks=2) == []


@pytest.mark.parametrize("ranks", [1, 3])
def test_no_cut_of_the_dealt_responses_is_cheaper(ranks):
    generator = torch.Generator().manual_seed(0)
    for budget in (900, 3000, 10_000):
        lengths = (torch.rand(8 * ranks, generator=generator) ** 3 * 900 + 1).long().tolist()
        longest = sorted(lengths, reverse=True)[::ranks]  # of each round
        costs = []
        for places in itertools.chain.from_iterable(itertools.combinations(range(1, 8), n) for n in range(8)):
            parts = [longest[a:b] for a, b in itertools.pairwise((0, *places, 8))]
            if all(len(part) * part[0] <= budget or len(part) == 1 for part in parts):
                costs.append(sum(len(part) * part[0] for part in parts) + batches.PASS_TOKENS * len(parts))
        dealt = deal_micro_batches(lengths, budget, ranks)
        widths = [max(lengths[i] for of_rank in micro for i in of_rank) for micro in dealt]
        ours = sum(len(micro[0]) * width for micro, width in zip(dealt, widths, strict=True))
        assert ours + batches.PASS_TOKENS * len(dealt) == min(costs)


@pytest.mark.parametrize("ranks", [1, 4])
def test_every_rollout_is_in_one_micro_batch_within_the_budget(ranks):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 40, (64,), generator=generator).tolist()
    minibatches = cut_minibatches(lengths, 16, token_budget=100, seed=3, ranks=ranks)
    flat = [[i for micro in minibatch for of_rank in micro for i in of_rank] for minibatch in minibatches]
    assert [len(indices) for indices in flat] == [16] * 4
    assert sorted(sum(flat, [])) == list(range(64)) and sum(flat, []) != list(range(64))
    for minibatch in minibatches:
        for micro in minibatch:
            assert len(micro) == ranks and {len(of_rank) for of_rank in micro} == {len(micro[0])}
            assert len(micro[0]) * max(lengths[i] for of_rank in micro for i in of_rank) <= 100


def test_a_minibatch_that_is_skipped_whole_has_an_empty_micro_batch_for_every_rank():
    skip = torch.tensor([True, True])
    assert cut_minibatches([3, 4], 1, 9, seed=0, ranks=2, skip=skip) == [[[[], []]]] * 2


def test_the_seed_shuffles_the_responses():
    first, second, again = (cut_minibatches([2] * 16, 4, 1000, seed) for seed in (3, 4, 3))
    assert first == again and first != second


# ---- Rows that share a prompt ----


def test_shared_rows_by_hand():
    """Prompt 1 2 3 with responses 4 5 and 6; prompt 7 8 with one response, 9, and one that is left out."""
    batch = collate(
        [
            make_rollout([1, 2, 3], [4, 5]),
            make_rollout([7, 8], [9]),
            make_rollout([1, 2, 3], [6]),
            make_rollout([7, 8], [5]),
        ]
    )
    batch.response_mask[3] = False
    inputs, (rows, columns) = share_prompts(batch.input_ids, batch.response_mask)
    # A token is there as an input, so no response's last one; the prompt's last one is there for each.
    assert inputs["input_ids"].tolist() == [[1, 2, 3, 4, 3], [7, 8, 0, 0, 0]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 3, 2], [0, 1, 0, 0, 0]]
    assert (rows.tolist(), columns.tolist()) == ([0, 0, 1, 0], [2, 3, 1, 4])
    sees = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]
    assert inputs["attention_mask"][0, 0].int().tolist() == sees
    assert inputs["attention_mask"][1, 0, :2].int().tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0]]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(micro_batch_tokens=30, mask_truncated=True),
        dict(minibatch_size=4, algo="grpo", skip_equal_groups=True, temperature=0.7),
    ],
)
def test_an_update_with_shared_prompts_is_the_same(changes, tokenizer, monkeypatch):
    monkeypatch.setattr(learner, "compute_dtype", lambda: torch.float32)
    generator = torch.Generator().manual_seed(0)
    rollouts = []
    for _ in range(3):
        prompt = torch.randint(3, 60, (9,), generator=generator).tolist()
        for length in torch.randint(1, 8, (4,), generator=generator).tolist():
            response = torch.randint(3, 60, (length,), generator=generator).tolist()
            rollouts.append(make_rollout(prompt, response, truncated=length == 1))
    advantages = torch.tensor([0.5, -0.5, 0.5, -0.5, 0, 0, 0, 0, 0.75, -0.25, -0.25, -0.25])
    moved, metrics = [], []
    for share in (False, True):
        policy = prepare_policy(random_qwen2(tokenizer, tied=True))
        optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
        config = settings(**dict(minibatch_size=12, group_size=4, share_prompts=share) | changes)
        if not share:  # in the order of groups, so that both have the same minibatches
            monkeypatch.setattr(learner, "cut_minibatches", of_groups(4))
        metrics.append(update(policy, optimizer, rollouts, advantages, config, torch.device("cpu"), seed=0))
        moved.append(torch.cat([parameter.detach().flatten() for parameter in policy.parameters()]))
        monkeypatch.undo()
        monkeypatch.setattr(learner, "compute_dtype", lambda: torch.float32)
    torch.testing.assert_close(moved[0], moved[1], atol=1e-5, rtol=1e-5)
    assert metrics[0] == pytest.approx(metrics[1], abs=1e-5)


def of_groups(size):
    """cut_minibatches for single responses, in the minibatches that whole groups would make."""

    def cut(lengths, minibatch_size, token_budget, seed, ranks, skip):
        minibatches = []
        for minibatch in cut_minibatches([1] * (len(lengths) // size), minibatch_size // size, 1000, seed):
            groups = [group for (of_rank,) in minibatch for group in of_rank]
            chosen = [size * group + place for group in groups for place in range(size)]
            minibatches.append([[[i]] for i in chosen if skip is None or not skip[i]] or [[[]]])
        return minibatches

    return cut
