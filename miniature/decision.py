"""The one decision of recall.py's worlds, to go on or to answer: what is expected of it, and what it became.

Expected: the push on the decision's logit from a group of G responses to a question whose value is right with
probability p. A response that goes on k times and then answers has the score s = k (1 - q) - q, the
derivative of its log-probability by the logit of q, the probability of going on. The push of a group is

    1/G sum_i A_i s_i / D_i        A_i: advantage, D_i: the response's length, or the token budget

summed over the responses that meet this decision. Given the rewards, lengths are independent, so its mean
needs only E[s / D]. Divided by a constant, that is 0, whatever the advantages: no push. Divided by length, it
is below 0, since one who answers at once (s < 0) has the shortest response. The negative advantage of wrong
responses turns this into a push to go on, the positive one of right responses into a push to answer; where
both kinds meet the same decision, as in the control, they cancel exactly.
"""

import math
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer

from learner import load_policy
from loss import ALGOS, group_advantages
from miniature.recall import FILLER, WORLDS, World, make_facts, value_sentence

KINDS = {"after_wrong": False, "after_right": True}  # decision -> whether the value before it is right


def score_moments(go_on: float, first: int, each: int, divisor: int | None) -> tuple[float, float]:
    """Mean and mean square of s / D over responses of `first` tokens and `each` for each time of going on.

    `divisor` is D; None stands for the response's length. The budget cuts none off.
    """
    k = torch.arange(1000, dtype=torch.float64)
    chance = go_on**k * (1 - go_on)
    share = (k * (1 - go_on) - go_on) / (divisor or first + each * k)
    return (chance * share).sum().item(), (chance * share**2).sum().item()


def expected_push(
    algo: str,
    p_right: float,
    go_on: float,
    first: int,
    each: int,
    *,
    meets: tuple[bool, bool],
    group_size: int = 8,
    budget: int = 192,
) -> tuple[float, float]:
    """Mean and root mean square of a group's push on the logit of `go_on`; Adam follows their ratio.

    `meets` says whether wrong responses meet the decision, and whether right ones do.
    """
    terms = ALGOS[algo]
    mean, square = score_moments(go_on, first, each, None if terms.divide_by_length else budget)
    pushes = torch.zeros(2, dtype=torch.float64)
    for right in range(group_size + 1):
        wrong = group_size - right
        rewards = torch.tensor([0.0] * wrong + [1.0] * right)
        advantages = group_advantages(rewards, group_size, scale_by_std=terms.scale_by_std).double()
        advantages = advantages[torch.tensor([meets[0]] * wrong + [meets[1]] * right)] / group_size
        pushed = advantages.sum() * mean
        spread = (advantages**2).sum() * (square - mean**2)  # the variance, of independent responses
        chance = math.comb(group_size, right) * p_right**right * (1 - p_right) ** wrong
        pushes += chance * torch.stack([pushed, pushed**2 + spread])
    return pushes[0].item(), pushes[1].sqrt().item()


@torch.no_grad()
def go_on_probability(policy: torch.nn.Module, tokenizer, seed: int, world: World) -> dict[str, float]:
    """P(first token of a sentence of filler) after a fact's wrong and right value, means over the facts."""
    filler, means = tokenizer.encode(FILLER)[0], {}
    for name, right in KINDS.items():
        texts = [fact.question + value_sentence(fact, world, right=right) for fact in make_facts(seed)]
        rows = [torch.tensor(tokenizer.encode(text)) for text in texts]
        ids = pad_sequence(rows, batch_first=True)  # [facts, T], padded on the right, which nothing looks at
        last = torch.tensor([len(row) - 1 for row in rows])
        mask = torch.arange(ids.shape[1]) == last[:, None]
        logprobs, _ = policy(ids, torch.full_like(ids, filler), mask)  # at `last`, of filler coming next
        means[name] = logprobs[mask].exp().mean().item()
    return means


def expected_pushes(base: Path, name: str, algo: str) -> dict[str, float]:
    """Mean over root mean square of expected_push for each decision of a world, in its texts, at p = 1/2.

    In `plain` both are one decision.
    """
    world, fact, tokenizer = WORLDS[name], make_facts(0)[0], AutoTokenizer.from_pretrained(base)
    pushes = {}
    for key, right in KINDS.items():
        text = value_sentence(fact, world, right=right) + f" \\boxed{{{fact.right}}}"
        first, each = len(tokenizer.encode(text)) + 1, len(tokenizer.encode(FILLER))  # + the end token
        meets = (not right or not world.doubt, right or not world.doubt)
        mean, root = expected_push(algo, 0.5, getattr(world, key), first, each, meets=meets)
        pushes[key] = mean / root
    return pushes


def read_decisions(run: Path, base: Path, world: str, seed: int) -> list[dict[str, float]]:
    """step, after_wrong, after_right: of the base, and of each checkpoint of a run."""
    policy, tokenizer = load_policy(base, torch.device("cpu"), "eager"), AutoTokenizer.from_pretrained(base)
    rows = [{"step": 0} | go_on_probability(policy, tokenizer, seed, WORLDS[world])]
    for path in sorted(run.glob("checkpoints/step_*"), key=lambda path: int(path.name[5:])):
        dcp.load({"policy": policy.state_dict()}, checkpoint_id=path, no_dist=True)  # in place
        rows.append({"step": int(path.name[5:])} | go_on_probability(policy, tokenizer, seed, WORLDS[world]))
    return rows
