"""How responses become minibatches, micro-batches for every rank, and rows."""

from collections.abc import Sequence

import torch
from torch import Tensor

# What a pass costs beside its tokens (kernels to start, weights to gather), in tokens: assumed, not measured.
# It changes how a minibatch is cut, and by that its time, not its gradient.
PASS_TOKENS = 500


def deal_micro_batches(lengths: Sequence[int], token_budget: int, ranks: int = 1) -> list[list[list[int]]]:
    """Indices of responses -> micro-batches, each a list of indices for every rank.

    Ranks wait for the slowest, and a row is padded to the longest of its micro-batch. So the responses are
    sorted by length, dealt out like cards, and cut where that costs least: rows x longest row, within the
    budget, and PASS_TOKENS a micro-batch.
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True)
    rounds = [order[start : start + ranks] for start in range(0, len(order), ranks)]  # a response a rank
    longest = [lengths[dealt[0]] for dealt in rounds]
    costs, cuts = [0], [[]]  # the cheapest cut of the first n rounds, as (first round, end) each
    for end in range(1, len(rounds) + 1):
        fitting = [s for s in range(end) if s == end - 1 or (end - s) * longest[s] <= token_budget]
        cost = {s: costs[s] + (end - s) * longest[s] + PASS_TOKENS for s in fitting}
        start = min(cost, key=cost.get)
        costs.append(cost[start])
        cuts.append([*cuts[start], (start, end)])
    return [
        [[row[rank] for row in rounds[start:end] if rank < len(row)] for rank in range(ranks)]
        for start, end in cuts[-1]
    ]


def cut_minibatches(
    lengths: Sequence[int], minibatch_size: int, token_budget: int, seed: int, ranks: int = 1,
    skip: Tensor | None = None,
) -> list[list[list[list[int]]]]:  # fmt: skip
    """Shuffled indices of all ranks' responses -> minibatches of micro-batches, each a list for every rank.

    A response whose `skip` [N] is set counts in its minibatch but is in no micro-batch. A minibatch has one
    micro-batch at least, if an empty one: without any there would be no gradient to step by.
    """
    order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(seed)).tolist()
    minibatches = []
    for start in range(0, len(order), minibatch_size):
        chosen = [i for i in order[start : start + minibatch_size] if skip is None or not skip[i]]
        dealt = deal_micro_batches([lengths[i] for i in chosen], token_budget, ranks)
        cut = [[[chosen[j] for j in of_rank] for of_rank in micro_batch] for micro_batch in dealt]
        minibatches.append(cut or [[[] for _ in range(ranks)]])
    return minibatches


def share_prompts(input_ids: Tensor, mask: Tensor) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
    """input_ids, mask [B, T] -> a model's inputs, and where (rows, columns) the masked tokens are in them.

    Rows of the same prompt become one: the prompt up to its last token, then the masked tokens of each, which
    see the prompt and their own row, and count their positions from the prompt on. Rows without a masked
    token are left out.
    """
    of_prompt: dict[tuple[int, ...], list[int]] = {}
    for row in mask.any(dim=1).nonzero().flatten().tolist():
        start = int(mask[row].int().argmax())
        of_prompt.setdefault(tuple(input_ids[row, :start].tolist()), []).append(row)
    lengths = mask.sum(dim=1).tolist()
    width = max(len(prompt) + sum(lengths[row] for row in rows) for prompt, rows in of_prompt.items())
    ids, positions = input_ids.new_zeros(2, len(of_prompt), width)
    owner = torch.full_like(ids, -1)  # whose a token is: 0 the prompt's, -1 nobody's, which is padding
    columns, joined = torch.zeros_like(input_ids), torch.zeros_like(input_ids)
    for number, (prompt, rows) in enumerate(of_prompt.items()):
        at = len(prompt)
        ids[number, :at] = ids.new_tensor(prompt)
        positions[number, :at] = torch.arange(at)
        owner[number, :at] = 0
        for row in rows:
            here = torch.arange(at, at + lengths[row], device=ids.device)
            ids[number, here] = input_ids[row, mask[row]]
            positions[number, here] = here - at + len(prompt)
            owner[number, here] = row + 1
            columns[row, mask[row]], joined[row] = here, number
            at += lengths[row]
    sees = (owner[:, :, None] == owner[:, None]) | (owner[:, None] == 0)
    sees &= torch.ones_like(sees[0]).tril()
    inputs = dict(input_ids=ids, position_ids=positions, attention_mask=sees[:, None])
    return inputs, (joined[mask], columns[mask])
