import random

import pytest
import torch
from torch.nn.functional import logsigmoid

from loss import ALGOS, aggregate, clipped_loss, group_advantages
from miniature import decision, recall

FIRST, EACH, BUDGET = 14, 12, 192


def sampled_pushes(algo, p_right, go_on, groups):
    """The naive version of expected_push -> [groups, 2], after a wrong and after a right value.

    Minus the gradient of the real loss by the logits of going on, each group of 8 with a pair of its own.
    """
    torch.manual_seed(0)
    right = torch.rand(groups * 8) < p_right  # [N]
    logits = torch.logit(torch.tensor(go_on)).repeat(groups, 1).requires_grad_()  # [groups, 2]
    logit = logits[torch.arange(groups).repeat_interleave(8), right.long()]  # [N]
    times = (
        torch.distributions.Geometric(logits=-logit.detach()).sample().long()
    )  # of going on before the end
    place = torch.arange(FIRST + EACH * int(times.max()))
    mask = place < (FIRST + EACH * times)[:, None]  # [N, T]
    # The first tokens of a response stand for its decisions; all others are certain.
    goes, answers = place < times[:, None], place == times[:, None]
    logprobs = goes * logsigmoid(logit)[:, None] + answers * logsigmoid(-logit)[:, None]
    terms = ALGOS[algo]
    advantages = group_advantages(right.float(), 8, scale_by_std=terms.scale_by_std)
    loss, _ = clipped_loss(logprobs, logprobs.detach(), advantages, mask)
    divisors = dict(divide_by_length=terms.divide_by_length, max_response_tokens=BUDGET)
    aggregate(loss, mask, **divisors, num_rollouts=8).backward()
    return -logits.grad


@pytest.mark.parametrize("algo", ALGOS)
def test_expected_pushes_are_those_of_the_real_loss(algo):
    """Within four standard errors of 5,000 groups, for wrong, right, and, in the control, both at once."""
    groups, p_right = 5000, 0.6
    apart = sampled_pushes(algo, p_right, [0.5, 0.15], groups)
    together = sampled_pushes(algo, p_right, [0.3, 0.3], groups).sum(dim=1)
    for go_on, meets, pushes in [
        (0.5, (True, False), apart[:, 0]),
        (0.15, (False, True), apart[:, 1]),
        (0.3, (True, True), together),
    ]:
        mean, root = decision.expected_push(algo, p_right, go_on, FIRST, EACH, meets=meets)
        assert pushes.mean().item() == pytest.approx(mean, abs=4 * root / groups**0.5)
        assert (pushes**2).mean().sqrt().item() == pytest.approx(root, rel=0.1)


@pytest.mark.parametrize("algo", ALGOS)
def test_only_length_pushes_and_only_where_wrong_and_right_are_told_apart(algo):
    push = {
        meets: decision.expected_push(algo, 0.5, 0.5, FIRST, EACH, meets=meets)[0]
        for meets in [(True, False), (False, True), (True, True)]
    }
    assert push[True, True] == pytest.approx(0, abs=1e-12)
    if ALGOS[algo].divide_by_length:
        assert push[True, False] > 1e-4 and push[False, True] < -1e-4
    else:
        assert push[True, False] == pytest.approx(0, abs=1e-12) == push[False, True]


def test_score_moments_by_hand():
    """q = 1/2: s = (k - 1) / 2, with chance 1/2, 1/4, .., has mean 0 and mean square 1/2; over D = 2, 1/8."""
    assert decision.score_moments(0.5, 10, 5, 2) == pytest.approx((0, 0.125))
    by_length = sum(0.5 ** (k + 1) * (k - 1) / 2 / (10 + 5 * k) for k in range(60))
    assert decision.score_moments(0.5, 10, 5, None)[0] == pytest.approx(by_length) and by_length < 0


@pytest.mark.parametrize("name", recall.WORLDS)
def test_texts_are_as_described(name):
    world, facts = recall.WORLDS[name], recall.make_facts(3)
    assert facts == recall.make_facts(3) != recall.make_facts(4)
    assert len({fact.name for fact in facts}) == recall.NAMES
    assert all(fact.right != fact.wrong and 10 <= min(fact.right, fact.wrong) for fact in facts)
    assert all(0.25 <= fact.share <= 0.75 for fact in facts)
    fact, rng = facts[0]._replace(share=0.4), random.Random(0)
    texts = [recall.random_response(fact, world, rng) for _ in range(4000)]
    by_right = {right: [t for t in texts if f"boxed{{{fact.right}}}" in t] for right in (True,)}
    by_right[False] = [t for t in texts if t not in set(by_right[True])]
    assert len(by_right[True]) / 4000 == pytest.approx(0.4, abs=0.03)
    for right, some in by_right.items():
        assert all(("believe" in t) == (bool(world.doubt) and not right) for t in some)
        go_on = world.after_right if right else world.after_wrong
        times = sum(t.count(recall.FILLER) for t in some) / len(some)
        assert times == pytest.approx(go_on / (1 - go_on), abs=0.1)


class Fixed(torch.nn.Module):
    """A policy whose log-prob of a label is log(0.8) where the token before it is a comma, else log(0.2)."""

    def forward(self, ids, labels, mask):
        return torch.where(ids == ord(","), 0.8, 0.2).log().where(mask, 0.0), None


class Bytes:
    def encode(self, text):
        return list(text.encode())


def test_the_decision_is_read_after_the_values_last_token(monkeypatch):
    monkeypatch.setattr(
        decision, "value_sentence", lambda fact, world, right: fact.name[:right] + "," * (not right)
    )
    read = decision.go_on_probability(Fixed(), Bytes(), 0, recall.WORLDS["doubt"])
    assert read == pytest.approx({"after_wrong": 0.8, "after_right": 0.2})
