"""loss.py against the paper: expectations by enumeration, gradients by hand, fast code against naive code."""

import ast
import sys
from math import log, sqrt
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from torch.utils._python_dispatch import TorchDispatchMode

import loss
from loss import (
    ALGOS,
    aggregate,
    clipped_loss,
    group_advantages,
    importance_weights,
    kl_to_reference,
    linear_logprobs,
    masked_mean,
    token_logprobs,
)

INF, NAN = float("inf"), float("nan")
ALL_ALGOS = pytest.mark.parametrize("algo", ALGOS.values(), ids=ALGOS)


def close(got, expected, tolerance=1e-6):
    expected = torch.as_tensor(expected, dtype=got.dtype)
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=0, check_dtype=False)


# Unbiasedness (App. A), by enumeration ----

END, MAX_TOKENS = 0, 3


def all_responses():
    """Every response of at most 3 tokens 0 (end), 1, 2: one of length 1, two of 2, twelve of 3."""
    done, growing = [], [()]
    for _ in range(MAX_TOKENS):
        grown = [prefix + (token,) for prefix in growing for token in range(3)]
        done += [response for response in grown if response[-1] == END]
        growing = [response for response in grown if response[-1] != END]
    return done + growing


RESPONSES = all_responses()
PREFIXES = sorted({response[:t] for response in RESPONSES for t in range(len(response))})
LENGTHS = torch.tensor([len(response) for response in RESPONSES])
MASK = torch.arange(MAX_TOKENS) < LENGTHS[:, None]
LABELS = torch.tensor([response + (0,) * (MAX_TOKENS - len(response)) for response in RESPONSES])
STATES = torch.tensor(  # the policy's state before each token; any state after the end, where the mask is 0
    [[PREFIXES.index(r[:t]) if t < len(r) else 0 for t in range(MAX_TOKENS)] for r in RESPONSES]
)
REWARDS = torch.tensor([float(i % 3 == 1) for i in range(len(RESPONSES))], dtype=torch.float64)


def policy_parameters(seed=0):
    """A policy with a free logit for every (prefix, token)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(PREFIXES), 3, dtype=torch.float64, generator=generator).requires_grad_()


def expected_loss(logprobs, mask, rewards, algo, group_size):
    """The expectation of the loss over all groups of `group_size` responses.

    All groups are laid side by side as one minibatch, and the loss of each is weighted by its probability.
    """
    probs = logprobs.detach().where(mask, 0.0).sum(dim=1).exp()
    groups = torch.cartesian_prod(*[torch.arange(len(rewards))] * group_size)  # [groups, G]
    weights = probs[groups].prod(dim=1).repeat_interleave(group_size)  # [groups * G]
    rows = groups.flatten()
    advantages = group_advantages(rewards[rows], group_size, scale_by_std=algo.scale_by_std)
    token_loss, clipped = clipped_loss(logprobs[rows], logprobs[rows].detach(), advantages, mask[rows])
    assert not clipped.any()
    return aggregate(
        token_loss * weights[:, None],
        mask[rows],
        divide_by_length=algo.divide_by_length,
        max_response_tokens=MAX_TOKENS,
        num_rollouts=group_size,
    )


def gradients(algo, group_size):
    """Gradients on the policy: of the expected loss (times -MAX_TOKENS), and of the expected reward."""
    theta = policy_parameters()
    logprobs = token_logprobs(theta[STATES], LABELS)
    (estimate,) = torch.autograd.grad(expected_loss(logprobs, MASK, REWARDS, algo, group_size), theta)
    logprobs = token_logprobs(theta[STATES], LABELS)
    expected_reward = (logprobs.where(MASK, 0.0).sum(dim=1).exp() * REWARDS).sum()
    (truth,) = torch.autograd.grad(expected_reward, theta)
    return -MAX_TOKENS * estimate, truth


def residual(estimate, truth):
    """The part of `estimate`, as a share of its norm, that no rescaling of `truth` explains."""
    scale = (estimate * truth).sum() / (truth * truth).sum()
    return ((estimate - scale * truth).norm() / estimate.norm()).item()


def test_enumeration_is_complete():
    assert len(RESPONSES) == 15 and sorted(LENGTHS.tolist()) == [1] + [2] * 2 + [3] * 12
    logprobs = token_logprobs(policy_parameters()[STATES], LABELS)
    close(logprobs.where(MASK, 0.0).sum(dim=1).exp().sum(), 1.0, 1e-12)


@pytest.mark.parametrize("group_size", [2, 3, 4])
def test_drgrpo_is_the_policy_gradient(group_size):
    """E[Dr. GRPO's gradient] = (G - 1) / G * the gradient of the expected reward, over all 15 ** G groups."""
    estimate, truth = gradients(ALGOS["drgrpo"], group_size)
    assert truth.abs().max() > 0.05
    close(estimate, (group_size - 1) / group_size * truth, 1e-9)


@pytest.mark.parametrize("group_size", [2, 3, 8])
def test_drgrpo_is_rloo_in_every_group(group_size):
    """G / (G - 1) times Dr. GRPO's advantage is the reward minus the mean reward of the *other* responses."""
    rewards = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * group_size)
    others = (rewards.sum(dim=1, keepdim=True) - rewards) / (group_size - 1)
    advantages = group_advantages(rewards.flatten(), group_size, scale_by_std=False)
    close(advantages * group_size / (group_size - 1), (rewards - others).flatten(), 1e-12)


@pytest.mark.parametrize("name", ["grpo", "grpo_no_std"])
def test_length_term_turns_the_gradient(name):
    """With 1 / |o| the expected gradient is not even parallel to the true one, and without it it is."""
    assert residual(*gradients(ALGOS[name], 4)) > 0.2
    assert residual(*gradients(ALGOS["drgrpo"], 4)) < 1e-9


@pytest.mark.parametrize("name", ["drgrpo", "grpo_no_std"])
def test_length_bias_sign(name):
    """Each token of response o is pushed by p(o) * (R(o) - J) * (G - 1) / G on average, whatever its length.

    With the length term a wrong answer of 3 tokens is pushed down a third as hard as one of 1 token, and a
    right answer of 2 tokens pushed up half again as hard as one of 3.
    """
    group_size = 4
    logprobs = token_logprobs(policy_parameters().detach()[STATES], LABELS).requires_grad_()
    (push,) = torch.autograd.grad(expected_loss(logprobs, MASK, REWARDS, ALGOS[name], group_size), logprobs)
    probs = logprobs.detach().where(MASK, 0.0).sum(dim=1).exp()
    push = -MAX_TOKENS * push[:, 0] / probs  # of the first token; the others get the same
    fair = (REWARDS - (probs * REWARDS).sum()) * (group_size - 1) / group_size
    if name == "drgrpo":
        close(push, fair, 1e-9)
    else:
        close(push, fair * MAX_TOKENS / LENGTHS, 1e-9)
        wrong = {n: push[(REWARDS == 0) & (LENGTHS == n)].mean() for n in (1, 2, 3)}
        right = {n: push[(REWARDS == 1) & (LENGTHS == n)].mean() for n in (2, 3)}
        assert wrong[1] < wrong[2] < wrong[3] < 0 < right[3] < right[2]
        close(wrong[3] / wrong[1], 1 / 3, 1e-9)
        close(right[2] / right[3], 3 / 2, 1e-9)


def question_weight(algo, solve_rate, group_size=4):
    """The factor on the true gradient of a question whose one-token answer is right at `solve_rate`."""
    logit = torch.tensor(log(solve_rate / (1 - solve_rate)), dtype=torch.float64, requires_grad=True)
    logits = torch.stack([torch.zeros_like(logit), logit]).expand(
        2, 1, 2
    )  # two responses, one token, two tokens
    logprobs = token_logprobs(logits, torch.tensor([[0], [1]]))
    mask, rewards = torch.ones(2, 1, dtype=torch.bool), torch.tensor([0.0, 1.0], dtype=torch.float64)
    (estimate,) = torch.autograd.grad(expected_loss(logprobs, mask, rewards, algo, group_size), logit)
    return -MAX_TOKENS * estimate.item() / (solve_rate * (1 - solve_rate))  # d p / d logit = p (1 - p)


def test_difficulty_bias_sign():
    """Dr. GRPO weighs all questions alike, the std more those that are closer to always or never solved."""
    for rate in (0.05, 0.5, 0.95):
        assert question_weight(ALGOS["drgrpo"], rate) == pytest.approx(3 / 4, abs=1e-9)
    medium, easy, nearly_solved, nearly_hopeless = (
        question_weight(ALGOS["grpo_no_length"], rate) for rate in (0.5, 0.75, 0.95, 0.05)
    )
    assert medium < easy < nearly_solved
    assert nearly_hopeless == pytest.approx(nearly_solved, abs=1e-9)
    # By hand at p = 1/2, G = 4: of 16 groups 8 have one odd response out (std 1/2) and 6 are two against two
    # (std 1/sqrt(3)). The mean of (R - mean) * R over the group is 3/16 or 1/4, and p (1 - p) = 1/4.
    assert medium == pytest.approx(
        (8 * (3 / 16) * 2 + 6 * (1 / 4) * sqrt(3)) / 16 / (1 / 4), abs=1e-7
    )  # eps 1e-8


# Invariance: micro-batches and ranks ----

NUM_ROLLOUTS, BUDGET = 16, 12
CUTS = {
    "1": [16],
    "2": [8, 8],
    "4": [4, 4, 4, 4],
    "8": [2] * 8,
    "uneven": [1, 7, 5, 3],
    "by one": [1] * 16,
}


def minibatch():
    """16 rollouts of 1 to 12 tokens under a linear head that has moved since sampling, so that some clip."""
    torch.manual_seed(0)
    lengths = torch.tensor([1, 12, 3, 7, 2, 12, 5, 1, 9, 4, 11, 6, 2, 8, 3, 10])
    mask = torch.arange(BUDGET) < lengths[:, None]
    hidden, weight = torch.randn(NUM_ROLLOUTS, BUDGET, 8), torch.randn(20, 8)
    labels = torch.randint(20, (NUM_ROLLOUTS, BUDGET))
    old_logprobs = linear_logprobs(hidden, weight + 0.2 * torch.randn(20, 8), labels)[0]
    rewards = torch.tensor([1.0, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 0, 1, 0, 1, 0])
    return hidden, weight, labels, mask, old_logprobs, rewards


def accumulated_gradient(algo, cuts, rollouts=range(NUM_ROLLOUTS), num_ranks=1):
    """One rank's gradient over micro-batches of the sizes `cuts`, each padded to its own longest response."""
    hidden, weight, labels, mask, old_logprobs, rewards = minibatch()
    advantages = group_advantages(rewards, 4, scale_by_std=algo.scale_by_std)
    weight.requires_grad_()
    clipped_tokens = 0
    assert sum(cuts) == len(rollouts)
    for rows in torch.tensor(rollouts).split(cuts):
        width = mask[rows].sum(dim=1).max()
        micro = [tensor[rows, :width] for tensor in (hidden, labels, mask, old_logprobs)]
        logprobs, _ = linear_logprobs(micro[0], weight, micro[1])
        token_loss, clipped = clipped_loss(logprobs, micro[3], advantages[rows], micro[2])
        aggregate(
            token_loss,
            micro[2],
            divide_by_length=algo.divide_by_length,
            max_response_tokens=BUDGET,
            num_rollouts=NUM_ROLLOUTS / num_ranks,
        ).backward()
        clipped_tokens += clipped.sum().item()
    return weight.grad, clipped_tokens


@ALL_ALGOS
@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
def test_micro_batches_add_up(algo, cuts):
    whole, clipped_tokens = accumulated_gradient(algo, [16])
    assert clipped_tokens > 5 and whole.abs().max() > 1e-2
    close(accumulated_gradient(algo, cuts)[0], whole)


@ALL_ALGOS
def test_the_mean_over_two_ranks_is_the_gradient_of_one(algo):
    """Rank 0 has 6 rollouts in 4 micro-batches, rank 1 has 10 in 2; FSDP averages their gradients."""
    first, _ = accumulated_gradient(algo, [1, 3, 1, 1], range(6), num_ranks=2)
    second, _ = accumulated_gradient(algo, [3, 7], range(6, 16), num_ranks=2)
    close((first + second) / 2, accumulated_gradient(algo, [16])[0])


# Values and gradients by hand ----


def test_algos():
    assert ALGOS["grpo"] == (True, True) and ALGOS["drgrpo"] == (False, False)
    assert ALGOS["grpo_no_length"] == (True, False) and ALGOS["grpo_no_std"] == (False, True)


def test_group_advantages_by_hand():
    rewards = torch.tensor([1, 0, 0, 0, 1, 1, 0, 1])
    close(
        group_advantages(rewards, 4, scale_by_std=False), [0.75, -0.25, -0.25, -0.25, 0.25, 0.25, -0.75, 0.25]
    )
    # Squared deviations sum to 3/4 in either group, so the unbiased std is sqrt(3/4 / 3) = 1/2.
    close(group_advantages(rewards, 4, scale_by_std=True), [1.5, -0.5, -0.5, -0.5, 0.5, 0.5, -1.5, 0.5])
    assert group_advantages(rewards.bool(), 4, scale_by_std=True).dtype == torch.float32


@pytest.mark.parametrize("scale_by_std", [False, True])
def test_equal_rewards_give_exactly_zero(scale_by_std):
    """The float32 mean of eight 0.1 is not 0.1, and its error of 7e-9 is no less than the std's eps."""
    rewards = torch.cat([torch.full((8,), value) for value in (0.1, 0.0, 1.0, 1e6 / 3)])
    assert (rewards[:8] - rewards[:8].mean()).abs().max() > 0
    assert (group_advantages(rewards, 8, scale_by_std=scale_by_std) == 0).all()


def test_token_logprobs_by_hand():
    logits = torch.tensor([[[0.0, log(4)], [log(9), 0.0]]])
    labels = torch.tensor([[1, 1]])
    close(token_logprobs(logits, labels), [[log(4 / 5), log(1 / 10)]])
    close(token_logprobs(logits, labels, temperature=2.0), [[log(2 / 3), log(1 / 4)]])  # odds 4 -> 2, 9 -> 3
    assert token_logprobs(logits.bfloat16(), labels).dtype == torch.float32


def test_token_logprobs_gradient_by_hand():
    """d logprob / d logits = (one-hot - softmax) / temperature, with softmax (1/3, 2/3) and label 1."""
    logits = torch.tensor([[[0.0, log(4)]]], requires_grad=True)
    token_logprobs(logits, torch.tensor([[1]]), temperature=2.0).sum().backward()
    close(logits.grad, [[[-1 / 6, 1 / 6]]])


@pytest.mark.parametrize(
    "ratio, advantage, clip_eps_high, expected_loss, expected_clipped, expected_gradient",
    [
        (1.0, 2.0, None, -2.0, False, -2.0),
        (1.5, 1.0, None, -1.2, True, 0.0),  # gained enough already
        (1.5, -1.0, None, 1.5, False, 1.5),  # went the wrong way: never clipped
        (0.5, 1.0, None, -0.5, False, -0.5),  # went the wrong way: never clipped
        (0.5, -1.0, None, 0.8, True, 0.0),  # lost enough already
        (1.1, 1.0, None, -1.1, False, -1.1),
        (0.9, -1.0, None, 0.9, False, 0.9),
        (1.5, 0.0, None, 0.0, False, 0.0),
        (1.25, 1.0, 0.28, -1.25, False, -1.25),  # clip-higher lets it grow further
        (1.5, 1.0, 0.28, -1.28, True, 0.0),
        (0.5, -1.0, 0.28, 0.8, True, 0.0),  # and leaves the lower bound where it is
    ],
)
def test_clipped_loss_by_hand(
    ratio, advantage, clip_eps_high, expected_loss, expected_clipped, expected_gradient
):
    logprobs = torch.tensor([[-1.0 + log(ratio)]], requires_grad=True)
    token_loss, clipped = clipped_loss(
        logprobs,
        torch.tensor([[-1.0]]),
        torch.tensor([advantage]),
        torch.ones(1, 1),
        clip_eps_high=clip_eps_high,
    )
    token_loss.sum().backward()
    close(token_loss, [[expected_loss]])
    assert clipped.tolist() == [[expected_clipped]]
    close(logprobs.grad, [[expected_gradient]])


def test_clip_eps_bounds_both_sides():
    logprobs, advantages = torch.tensor([[log(1.5), log(0.4)]] * 2), torch.tensor([1.0, -1.0])
    token_loss, clipped = clipped_loss(
        logprobs, torch.zeros(2, 2), advantages, torch.ones(2, 2), clip_eps=0.45
    )
    close(token_loss, [[-1.45, -0.4], [1.5, 0.55]])
    assert clipped.tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize(
    "divide_by_length, value, gradient",
    [
        (False, (3 + 4) / 10 / 2, [[0.05, 0.05, 0.0], [0.05, 0.0, 0.0]]),
        (True, (3 / 2 + 4) / 2, [[0.25, 0.25, 0.0], [0.5, 0.0, 0.0]]),
    ],
)
def test_aggregate_by_hand(divide_by_length, value, gradient):
    token_loss = torch.tensor([[1.0, 2.0, 50.0], [4.0, NAN, INF]], requires_grad=True)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    total = aggregate(
        token_loss, mask, divide_by_length=divide_by_length, max_response_tokens=10, num_rollouts=2
    )
    total.backward()
    close(total, value)
    close(token_loss.grad, gradient)


def test_masked_mean_by_hand():
    close(masked_mean(torch.tensor([[1.0, 2.0], [6.0, NAN]]), torch.tensor([[1, 1], [1, 0]])), 3.0)
    assert masked_mean(torch.ones(2), torch.zeros(2)).isnan()


@ALL_ALGOS
@pytest.mark.parametrize("bad", [INF, -INF, NAN, 1e30, -1e30])
def test_masked_positions_never_matter(algo, bad):
    """Whatever stands at masked positions, loss and gradient are those with zeros there."""

    def loss_and_gradient(filler):
        logprobs = torch.tensor([[-1.0, -2.0, filler], [-0.5, filler, filler]], requires_grad=True)
        old = torch.tensor([[-1.1, -1.9, -filler], [-0.4, 1.0, filler]])
        mask = torch.tensor([[True, True, False], [True, False, False]])
        token_loss, clipped = clipped_loss(logprobs, old, torch.tensor([0.5, -0.5]), mask)
        assert (token_loss[~mask] == 0).all() and not clipped[~mask].any()
        token_loss = token_loss * importance_weights(old, logprobs, mask) + kl_to_reference(
            logprobs, old, mask
        )
        total = aggregate(
            token_loss, mask, divide_by_length=algo.divide_by_length, max_response_tokens=3, num_rollouts=2
        )
        total.backward()
        return total, logprobs.grad, clipped, masked_mean(logprobs, mask)

    total, gradient, clipped, mean = loss_and_gradient(bad)
    clean_total, clean_gradient, clean_clipped, clean_mean = loss_and_gradient(0.0)
    assert gradient.isfinite().all() and clean_gradient.abs().max() > 0.01
    close(total, clean_total)
    close(gradient, clean_gradient)
    close(mean, clean_mean)
    assert (clipped == clean_clipped).all()


def test_fully_masked_response_costs_nothing():
    token_loss = torch.ones(2, 3, requires_grad=True)
    mask = torch.tensor([[1, 1, 1], [0, 0, 0]])
    for divide_by_length in (False, True):
        total = aggregate(
            token_loss, mask, divide_by_length=divide_by_length, max_response_tokens=3, num_rollouts=2
        )
        close(total, 0.5)


# Listing 1 and Table 2: what a token weighs under the common normalisers ----


def listing_1_masked_mean(tensor, mask, dim=None):
    return (tensor * mask).sum(dim) / mask.sum(dim)


NORMALISERS = {  # each as in the code that Table 2 lists, then the fix of Listing 1
    "per response": lambda loss, mask: listing_1_masked_mean(loss, mask, dim=1).mean(),  # OpenRLHF; Eq. 3
    "per batch": lambda loss, mask: listing_1_masked_mean(loss, mask),  # trl, verl
    "constant": lambda loss, mask: ((loss * mask).sum(dim=1) / 8).mean(),
}


def token_weights(normaliser, lengths):
    """The gradient on the first token of each response."""
    mask = (torch.arange(8) < torch.tensor(lengths)[:, None]).float()
    token_loss = torch.zeros(len(lengths), 8, requires_grad=True)
    normaliser(token_loss, mask).backward()
    return token_loss.grad[:, 0]


@pytest.mark.parametrize(
    "name, short, longer, own_length_matters, other_lengths_matter",
    [
        # Two responses: lengths (2, 2), then (2, 6).
        ("per response", [1 / 4, 1 / 4], [1 / 4, 1 / 12], True, False),
        ("per batch", [1 / 4, 1 / 4], [1 / 8, 1 / 8], True, True),
        ("constant", [1 / 16, 1 / 16], [1 / 16, 1 / 16], False, False),
    ],
)
def test_normalisers_of_table_2(name, short, longer, own_length_matters, other_lengths_matter):
    before = token_weights(NORMALISERS[name], [2, 2])
    after = token_weights(NORMALISERS[name], [2, 6])
    close(before, short)
    close(after, longer)
    assert (before[1] != after[1]).item() == own_length_matters
    assert (before[0] != after[0]).item() == other_lengths_matter


@pytest.mark.parametrize("name, divide_by_length", [("per response", True), ("constant", False)])
def test_aggregate_is_one_of_them(name, divide_by_length):
    def ours(token_loss, mask):
        return aggregate(
            token_loss, mask, divide_by_length=divide_by_length, max_response_tokens=8, num_rollouts=4
        )

    lengths = [1, 8, 3, 5]
    close(token_weights(ours, lengths), token_weights(NORMALISERS[name], lengths))


# Options ------------------------------------------------------------------------------------------


def test_importance_weights_by_hand():
    old = torch.tensor([[log(0.2), log(0.8), log(0.3), NAN]], requires_grad=True)
    sampler = torch.tensor([[log(0.4), log(0.2), log(0.2), INF]])
    mask = torch.tensor([[1, 1, 1, 0]])
    weights = importance_weights(old, sampler, mask)
    close(weights, [[0.5, 2.0, 1.5, 1.0]])  # 0.8 / 0.2 = 4 is capped
    close(importance_weights(old, sampler, mask, cap=5.0), [[0.5, 4.0, 1.5, 1.0]])
    close(importance_weights(old, sampler, mask, cap=1.25), [[0.5, 1.25, 1.25, 1.0]])  # small ones stay
    assert not weights.requires_grad


def test_kl_to_reference_by_hand():
    logprobs = torch.log(torch.tensor([[0.25, 0.5, 0.5, 0.1]])).requires_grad_()
    reference = torch.log(torch.tensor([[0.5, 0.5, 0.25, 0.0]]))
    kl = kl_to_reference(logprobs, reference, torch.tensor([[1, 1, 1, 0]]))
    kl.sum().backward()
    close(kl, [[2 - log(2) - 1, 0.0, 0.5 + log(2) - 1, 0.0]])
    close(logprobs.grad, [[1 - 2.0, 0.0, 1 - 0.5, 0.0]])  # 1 - r


def test_kl_to_reference_is_unbiased():
    """Its mean over the policy's tokens is KL(policy || reference), by enumeration of 6 tokens."""
    torch.manual_seed(0)
    logprobs, reference = torch.randn(2, 1, 6, dtype=torch.float64).log_softmax(dim=-1)
    kl = (logprobs.exp() * (logprobs - reference)).sum()
    assert kl > 0.1
    close((logprobs.exp() * kl_to_reference(logprobs, reference, torch.ones(1, 6))).sum(), kl, 1e-12)


@ALL_ALGOS
def test_masking_truncated_responses_is_leaving_them_out(algo):
    token_loss = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    mask, truncated = torch.tensor([[1, 0], [1, 1], [1, 1]]), torch.tensor([False, True, False])
    options = {"divide_by_length": algo.divide_by_length, "max_response_tokens": 2, "num_rollouts": 3}
    masked = aggregate(token_loss, mask.bool() & ~truncated[:, None], **options)
    close(masked, aggregate(token_loss[~truncated], mask[~truncated], **options))
    assert masked < aggregate(token_loss, mask, **options)


@ALL_ALGOS
def test_groups_without_signal_can_be_left_out(algo):
    """Rollouts 8 to 11 share one reward: the gradient without them is the gradient."""
    rest = [*range(8), *range(12, 16)]
    close(accumulated_gradient(algo, [12], rest)[0], accumulated_gradient(algo, [16])[0])


# linear_logprobs against the naive version ----


def naive_logprobs(hidden, weight, labels, temperature=1.0):
    logits = hidden @ weight.T
    logprobs = (
        logits.to(torch.promote_types(logits.dtype, torch.float32)).div(temperature).log_softmax(dim=-1)
    )
    entropy = -(logprobs.exp() * logprobs).sum(dim=-1).detach()
    return logprobs.gather(-1, labels[..., None]).squeeze(-1), entropy


def head_inputs(dtype=torch.float32, tokens=(5, 6), vocabulary=300, width=16):
    """Logits of about standard deviation 1, as naive and chunked float32 sums differ in the last digit."""
    torch.manual_seed(0)
    hidden = torch.randn(*tokens, width, dtype=torch.float64).to(dtype)
    weight = (torch.randn(vocabulary, width, dtype=torch.float64) / sqrt(width)).to(dtype)
    labels = torch.randint(vocabulary, tokens)
    edges = torch.tensor([0, 63, 64, vocabulary - 1])[: labels.numel()]  # of chunks
    labels.view(-1)[: len(edges)] = edges
    return hidden.requires_grad_(), weight.requires_grad_(), labels, torch.randn(tokens)


def run_both(hidden, weight, labels, upstream, **options):
    """Pairs (ours, naive) of log-probs, entropy, gradient of hidden, gradient of weight."""
    results = []
    temperature = options.get("temperature", 1.0)
    for compute in (
        lambda: linear_logprobs(hidden, weight, labels, **options),
        lambda: naive_logprobs(hidden, weight, labels, temperature),
    ):
        logprobs, entropy = compute()
        results.append(
            (logprobs, entropy, *torch.autograd.grad((logprobs * upstream).sum(), (hidden, weight)))
        )
    return zip(*results, strict=True)


CHUNK_SIZES = pytest.mark.parametrize("chunk_size", [1, 30 * 128, None])  # 5 chunks, the last of 44; 3; 1


@CHUNK_SIZES
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-6)], ids=str)
def test_linear_logprobs_is_the_naive_version(dtype, tolerance, temperature, chunk_size):
    for ours, naive in run_both(*head_inputs(dtype), temperature=temperature, chunk_size=chunk_size):
        assert ours.dtype == naive.dtype == dtype
        # Gradients are sums of 30 terms, values sums of 300: float32 is exact to 1e-6 of the largest.
        close(ours, naive.detach(), tolerance * max(1.0, naive.abs().max().item()))


@CHUNK_SIZES
def test_linear_logprobs_in_bfloat16(chunk_size):
    logprobs, entropy, grad_hidden, grad_weight = run_both(
        *head_inputs(torch.bfloat16), chunk_size=chunk_size
    )
    for ours, naive in (logprobs, entropy):  # the same bf16 logits, then float32 on both sides
        assert ours.dtype == torch.float32
        close(ours, naive.detach(), 1e-5)
    for ours, naive in (grad_hidden, grad_weight):
        assert ours.dtype == torch.bfloat16
        close(ours, naive, 2**-7 * naive.abs().max().item())  # bf16 has 8 bits, rounded at other places


def test_linear_logprobs_adds_chunks_in_float32():
    """Over 128 chunks, bf16 gradients are as near to the exact ones as the naive version's."""
    hidden, weight, labels, upstream = head_inputs(torch.bfloat16, vocabulary=128 * 64)
    _, _, grad_hidden, grad_weight = run_both(hidden, weight, labels, upstream, chunk_size=1)
    hidden, weight = (tensor.detach().double().requires_grad_() for tensor in (hidden, weight))
    exact = run_both(hidden, weight, labels, upstream)
    for (ours, naive), (_, truth) in zip((grad_hidden, grad_weight), list(exact)[2:], strict=True):
        assert (ours - truth).norm() < 1.2 * (naive - truth).norm()


@CHUNK_SIZES
def test_linear_logprobs_under_autocast(chunk_size):
    """float32 weights and gradients, bf16 products, float32 log-probs; backward may be outside autocast."""
    inputs = head_inputs()
    with torch.autocast("cpu", torch.bfloat16):
        pairs = list(run_both(*inputs, chunk_size=chunk_size))
    assert all(ours.dtype == torch.float32 for ours, _ in pairs)
    for (ours, naive), tolerance in zip(pairs, (1e-5, 1e-5, 2**-7, 2**-7), strict=True):
        close(ours, naive.detach(), tolerance * max(1.0, naive.abs().max().item()))
    with torch.autocast("cpu", torch.bfloat16):
        logprobs, _ = linear_logprobs(*inputs[:3], chunk_size=chunk_size)
    (outside,) = torch.autograd.grad((logprobs * inputs[3]).sum(), inputs[1])
    close(outside, pairs[3][0], 1e-6)


@CHUNK_SIZES
def test_linear_logprobs_with_a_tied_embedding(chunk_size):
    """The weight's gradient is the sum of both of its uses."""
    _, weight, labels, upstream = head_inputs()
    gradients = []
    for compute in (lambda h: linear_logprobs(h, weight, labels, chunk_size=chunk_size)[0], None):
        hidden = torch.tanh(weight[labels.roll(1, dims=-1)])
        logprobs = compute(hidden) if compute else naive_logprobs(hidden, weight, labels)[0]
        gradients += torch.autograd.grad((logprobs * upstream).sum(), weight)
    close(gradients[0], gradients[1], 1e-6 * max(1.0, gradients[1].abs().max().item()))


@pytest.mark.parametrize("frozen", [0, 1], ids=["hidden", "weight"])
def test_linear_logprobs_with_one_input_frozen(frozen):
    hidden, weight, labels, upstream = head_inputs()
    inputs = [hidden, weight]
    both = torch.autograd.grad((linear_logprobs(*inputs, labels)[0] * upstream).sum(), inputs)
    inputs[frozen] = inputs[frozen].detach()
    trained = inputs[1 - frozen]
    (alone,) = torch.autograd.grad((linear_logprobs(*inputs, labels)[0] * upstream).sum(), trained)
    close(alone, both[1 - frozen])


def test_linear_logprobs_gradcheck():
    hidden, weight, labels, _ = head_inputs(torch.float64, tokens=(4,), vocabulary=70, width=2)
    assert torch.autograd.gradcheck(
        lambda h, w: linear_logprobs(h, w, labels, temperature=0.7, chunk_size=1)[0], (hidden, weight)
    )


def test_linear_logprobs_entropy_by_hand():
    """Uniform over 100 tokens: log 100 nats. One logit 40 above the rest: 0. No gradient in either."""
    weight = torch.zeros(100, 1)
    weight[77] = 1.0
    hidden = torch.tensor([[0.0], [40.0]], requires_grad=True)
    logprobs, entropy = linear_logprobs(hidden, weight, torch.tensor([3, 77]), chunk_size=1)
    close(entropy, [log(100), 0.0])
    close(logprobs, [-log(100), 0.0])
    assert logprobs.requires_grad and not entropy.requires_grad


def test_linear_logprobs_survives_huge_logits():
    """Logits of +-1e4 overflow exp; the chunks' sums are taken relative to their largest."""
    hidden, weight, labels, upstream = head_inputs()
    with torch.no_grad():
        hidden *= 1e4
    for ours, naive in run_both(hidden, weight, labels, upstream, chunk_size=1):
        assert ours.isfinite().all()
        close(ours, naive.detach(), 1e-6 * max(1.0, naive.abs().max().item()))


def test_linear_logprobs_accepts_flat_strided_and_no_tokens():
    hidden, weight, labels, upstream = head_inputs(tokens=(2, 5))
    logprobs, entropy = linear_logprobs(hidden, weight, labels)
    mask = torch.rand(2, 5) < 0.5
    close(linear_logprobs(hidden[mask], weight, labels[mask])[0], logprobs[mask].detach())
    close(linear_logprobs(hidden[:, 1::2], weight, labels[:, 1::2])[0], logprobs[:, 1::2].detach())
    nothing, _ = linear_logprobs(hidden[:0], weight, labels[:0])
    assert nothing.shape == (0, 5)
    close(torch.autograd.grad(nothing.sum(), weight)[0], torch.zeros_like(weight))


class LargestTensor(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation returns, in the backward pass too."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numel = max(self.numel, result.numel())
        return result


def test_linear_logprobs_never_holds_all_logits():
    tokens, vocabulary, chunk_size = 200, 1000, 200 * 128
    hidden, weight, labels, upstream = head_inputs(tokens=(tokens,), vocabulary=vocabulary, width=4)
    with LargestTensor() as ours:
        logprobs, _ = linear_logprobs(hidden, weight, labels, chunk_size=chunk_size)
        (logprobs * upstream).sum().backward()
    with LargestTensor() as naive:
        (naive_logprobs(hidden, weight, labels)[0] * upstream).sum().backward()
    assert naive.numel == tokens * vocabulary
    assert ours.numel == chunk_size  # the largest: the weight's gradient has 4,000 elements


# At the door ----


def test_inputs_are_never_changed():
    torch.manual_seed(0)
    logprobs, old = torch.randn(2, 4, 3)
    mask, advantages, rewards = torch.rand(4, 3) < 0.7, torch.randn(4), torch.rand(4)
    hidden, weight, labels = torch.randn(4, 3, 8), torch.randn(100, 8), torch.randint(100, (4, 3))
    inputs = [logprobs, old, mask, advantages, rewards, hidden, weight, labels]
    for tensor in (logprobs, old, hidden, weight):
        tensor.requires_grad_()
    before = [tensor.detach().clone() for tensor in inputs]
    group_advantages(rewards, 2, scale_by_std=True)
    token_loss, _ = clipped_loss(logprobs, old, advantages, mask)
    token_loss = token_loss + kl_to_reference(logprobs, old, mask) * importance_weights(old, logprobs, mask)
    token_loss = (
        token_loss + token_logprobs(hidden @ weight.T, labels) + linear_logprobs(hidden, weight, labels)[0]
    )
    kept = token_loss.detach().clone()
    aggregate(token_loss, mask, divide_by_length=True, max_response_tokens=3, num_rollouts=4).backward()
    masked_mean(logprobs, mask)
    assert torch.equal(token_loss, kept)
    for tensor, copy in zip(inputs, before, strict=True):
        assert torch.equal(tensor, copy)


ROW, ROWS = torch.zeros(3), torch.zeros(2, 3)
IDS, HIDDEN, WEIGHT = torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3, 4), torch.zeros(5, 4)
AGGREGATE = {"divide_by_length": False, "max_response_tokens": 3, "num_rollouts": 2}


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: group_advantages(torch.zeros(6), 1, scale_by_std=False), "group_size is 1"),
        (lambda: group_advantages(torch.zeros(6), 4, scale_by_std=False), r"\[6\].*4"),
        (lambda: group_advantages(ROWS, 3, scale_by_std=False), r"\[2, 3\]"),
        (lambda: group_advantages(torch.zeros(4, 3), 2, scale_by_std=False), r"\[4, 3\]"),
        (lambda: token_logprobs(HIDDEN, IDS[:1]), r"logits.*\[2, 3\].*labels.*\[1, 3\]"),
        (lambda: token_logprobs(HIDDEN, IDS, temperature=0.0), "temperature is 0.0"),
        (lambda: linear_logprobs(HIDDEN, WEIGHT, IDS, temperature=-1.0), "temperature is -1.0"),
        (lambda: linear_logprobs(HIDDEN, WEIGHT, IDS[0]), r"hidden.*\[2, 3\].*labels.*\[3\]"),
        (lambda: linear_logprobs(HIDDEN, WEIGHT.T, IDS), r"weight is \[4, 5\].*\[2, 3, 4\]"),
        (lambda: linear_logprobs(HIDDEN, WEIGHT, IDS - 100), "labels span -100..-100.*0..4"),
        (lambda: linear_logprobs(HIDDEN, WEIGHT, IDS + 5), "labels span 5..5.*0..4"),
        (lambda: clipped_loss(ROWS, ROWS[:1], torch.zeros(2), ROWS), r"\[2, 3\].*\[1, 3\]"),
        (lambda: clipped_loss(ROWS, ROWS, torch.zeros(3), ROWS), r"advantages.*\[3\]"),
        (lambda: clipped_loss(ROWS, ROWS, torch.zeros(2), ROW), r"mask.*\[3\]"),
        (lambda: aggregate(ROWS, ROW, **AGGREGATE), r"response_mask.*\[3\]"),
        (lambda: importance_weights(ROWS, ROW, ROWS), r"denominator.*\[3\]"),
        (lambda: kl_to_reference(ROWS, ROW, ROWS), r"numerator.*\[3\]"),
        (lambda: masked_mean(ROWS, ROW), r"mask.*\[3\]"),
    ],
)
def test_wrong_inputs_are_refused(call, message):
    """Shapes that would broadcast silently are the ones that matter."""
    with pytest.raises(ValueError, match=message):
        call()


# Copying loss.py ----


def test_imports_only_torch_and_the_standard_library():
    imported = set()
    for node in ast.walk(ast.parse(Path(loss.__file__).read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add("." if node.level else node.module.split(".")[0])
    assert "torch" in imported
    assert imported - {"torch"} <= sys.stdlib_module_names


def test_readme_example_runs():
    """README's python block under the heading "Copy loss.py": at most 12 lines, and it leaves a gradient."""
    readme = (ROOT / "README.md").read_text()
    section = readme.partition("\n## Copy loss.py\n")[2].partition("\n## ")[0]
    code = section.partition("```python\n")[2].partition("```")[0]
    assert code, 'README.md has no python block under a heading "Copy loss.py"'
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    leaves = [value for value in names.values() if isinstance(value, torch.Tensor) and value.is_leaf]
    assert any(leaf.grad is not None and leaf.grad.abs().max() > 0 for leaf in leaves)
