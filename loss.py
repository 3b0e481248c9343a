"""The mathematics of R1-Zero-like training: GRPO and Dr. GRPO (Liu et al., arXiv 2503.20783v2).

    algo   | advantage of response i          | its summed token losses are divided by
    -------|----------------------------------|-----------------------------------------------------
    grpo   | (R_i - mean(R)) / (std(R) + eps) | its own length |o_i| (Eq. 3)
    drgrpo | R_i - mean(R)                    | one constant, the token budget (Sec. 3.2, Listing 1)

Sizes: N rollouts, B responses in a micro-batch, T tokens, V vocabulary, H hidden width. Masks are bool or
0/1; what stands at masked positions, even inf or nan, has no effect. Log-probs, entropy and KL are in nats.
"""

from typing import NamedTuple

import torch


class Algo(NamedTuple):
    scale_by_std: bool
    divide_by_length: bool


ALGOS = {
    "grpo": Algo(scale_by_std=True, divide_by_length=True),
    "grpo_no_length": Algo(scale_by_std=True, divide_by_length=False),  # Fig. 8: only the length term dropped
    "grpo_no_std": Algo(scale_by_std=False, divide_by_length=True),  # Fig. 8: only the std term dropped
    "drgrpo": Algo(scale_by_std=False, divide_by_length=False),
}


def group_advantages(rewards, group_size, *, scale_by_std, eps=1e-8):
    """rewards [N], the `group_size` responses to a question side by side -> advantages [N], float32.

    GRPO: (R_i - mean) / (std + eps) within the group, with the unbiased std (Eq. 3). Dr. GRPO: R_i - mean.
    """
    if group_size < 2:
        raise ValueError(f"group_size is {group_size}; a response needs others to be compared with")
    if rewards.ndim != 1 or len(rewards) % group_size:
        raise ValueError(f"rewards are {list(rewards.shape)}; need [N], N % group_size {group_size} = 0")
    groups = _float32(rewards).reshape(-1, group_size)
    groups = groups - groups[:, :1]  # equal rewards: exactly 0, no mean's rounding that eps would enlarge
    advantages = groups - groups.mean(dim=1, keepdim=True)
    # Dr. GRPO, change 1: leave this out. The std favours questions that are nearly always or never solved.
    if scale_by_std:
        advantages = advantages / (groups.std(dim=1, keepdim=True) + eps)
    return advantages.flatten()


def token_logprobs(logits, labels, temperature=1.0):
    """logits [B, T, V], labels [B, T] -> log softmax(logits / temperature) at the labels [B, T], float32."""
    _check(temperature, logits=logits[..., 0], labels=labels)
    return (_float32(logits) / temperature).log_softmax(dim=-1).gather(-1, labels[..., None]).squeeze(-1)


def linear_logprobs(hidden, weight, labels, *, temperature=1.0, chunk_size=None):
    """hidden [..., H], weight [V, H], labels [...] -> log-probs, entropy (detached), both [...], float32.

    The same as these lines, forward and backward, with only about `chunk_size` logits in memory at a time:

        logprobs = (hidden @ weight.T).float().div(temperature).log_softmax(dim=-1)  # [..., V]
        entropy = -(logprobs.exp() * logprobs).sum(dim=-1).detach()
        logprobs = logprobs.gather(-1, labels[..., None]).squeeze(-1)

    Products run in autocast's dtype, else in hidden's. hidden[mask] spares prompts and padding.
    """
    _check(temperature, hidden=hidden[..., 0], labels=labels)
    if weight.ndim != 2 or weight.shape[1] != hidden.shape[-1]:
        raise ValueError(f"weight is {list(weight.shape)}; need [V, H] for hidden {list(hidden.shape)}")
    if labels.numel() and not 0 <= labels.min() <= labels.max() < len(weight):
        raise ValueError(f"labels span {labels.min()}..{labels.max()}; need 0..{len(weight) - 1} everywhere")
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    if chunk_size is None:
        chunk_size = 2**22 if device == "cpu" else 2**24  # CPUs gain by their cache, GPUs by large products
    flat = hidden.reshape(-1, hidden.shape[-1])  # [tokens, H]
    logprobs, entropy = _LinearLogprobs.apply(flat, weight, labels.flatten(), temperature, chunk_size, dtype)
    return logprobs.view(labels.shape), entropy.view(labels.shape)


class _LinearLogprobs(torch.autograd.Function):
    # A chunk is a slice of the vocabulary, all tokens: one product, summed in float32, completes its rows of
    # the weight's gradient. Chunks of tokens would need a second [V, H] to add up their shares.

    @staticmethod
    def forward(ctx, hidden, weight, labels, temperature, chunk_size, dtype):
        hidden = hidden.to(dtype)
        width = max(64, chunk_size // max(1, len(labels)) // 64 * 64)  # multiples of 64 multiply fastest
        logsumexp = torch.full_like(labels, -torch.inf, dtype=torch.promote_types(dtype, torch.float32))
        mean, chosen = torch.zeros_like(logsumexp), torch.zeros_like(logsumexp)  # expected, label's logit
        for start in range(0, len(weight), width):
            rows = weight[start : start + width].to(dtype)
            logits = _float32(hidden @ rows.T).div_(temperature)  # [tokens, width]
            column = (labels - start).clamp(0, len(rows) - 1)  # where the label is, if it is in this chunk
            chosen = torch.where(column == labels - start, logits.gather(1, column[:, None])[:, 0], chosen)
            # The chunk's own softmax is one fused pass, and its largest value tells the chunk's logsumexp.
            softmax = logits.softmax(dim=-1)
            chunk_logsumexp = logits.amax(dim=-1) - softmax.amax(dim=-1).log()
            logsumexp = torch.logaddexp(logsumexp, chunk_logsumexp)
            share = (chunk_logsumexp - logsumexp).exp()  # of the probability seen so far
            mean = mean.lerp(softmax.mul_(logits).sum(dim=-1), share)
        ctx.save_for_backward(hidden, weight, labels, logsumexp)
        ctx.temperature, ctx.width = temperature, width
        logprobs, entropy = chosen - logsumexp, logsumexp - mean
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, _):
        hidden, weight, labels, logsumexp = ctx.saved_tensors
        grad = grad[:, None] / ctx.temperature
        grad_hidden = torch.zeros_like(hidden, dtype=logsumexp.dtype)
        grad_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        for start in range(0, len(weight), ctx.width):
            rows = weight[start : start + ctx.width].to(hidden.dtype)
            logits = _float32(hidden @ rows.T).div_(ctx.temperature)  # once more, instead of having kept them
            column = (labels - start).clamp(0, len(rows) - 1)
            at_label = grad * (column == labels - start)[:, None]
            # d logprob / d logit = 1 at the label - softmax
            grad_logits = logits.sub_(logsumexp[:, None]).exp_().mul_(-grad)
            grad_logits = grad_logits.scatter_add_(1, column[:, None], at_label).to(hidden.dtype)
            grad_hidden += grad_logits @ rows
            if grad_weight is not None:
                grad_weight[start : start + ctx.width] = grad_logits.T @ hidden
        return grad_hidden, grad_weight, None, None, None, None


def clipped_loss(logprobs, old_logprobs, advantages, response_mask, *, clip_eps=0.2, clip_eps_high=None):
    """logprobs, old_logprobs, response_mask [B, T], advantages [B] -> loss, clipped (bool), both [B, T].

    -min(ratio * A, clip(ratio, 1 - clip_eps, 1 + clip_eps) * A), ratio = exp(logprobs - old_logprobs), Eq. 3.
    Clipped tokens have no gradient. `clip_eps_high` is another eps for 1 + eps (DAPO's clip-higher).
    Where old log-probs would equal the current ones, pass logprobs.detach().
    """
    ratio = _log_ratio(logprobs, old_logprobs, response_mask).exp()  # 1 at masked positions, so not clipped
    _check(responses=logprobs[:, 0], advantages=advantages)
    advantages = advantages[:, None]
    low, high = 1 - clip_eps, 1 + (clip_eps if clip_eps_high is None else clip_eps_high)
    loss = -torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)
    clipped = (ratio > high) & (advantages > 0) | (ratio < low) & (advantages < 0)
    return loss.where(response_mask.bool(), 0.0), clipped


def aggregate(token_loss, response_mask, *, divide_by_length, max_response_tokens, num_rollouts):
    """token_loss, response_mask [B, T] -> scalar, sum_responses(sum_tokens / divisor) / num_rollouts (Eq. 3).

    `num_rollouts` counts the whole minibatch on all ranks, divided by the number of ranks: the gradient is
    then the sum over micro-batches and the mean over ranks, however the minibatch was cut. It stays the same
    when truncated responses are masked out (response_mask & ~truncated[:, None], DAPO's overlong filtering),
    and when groups whose advantages are all 0 are not computed.
    """
    _check(token_loss=token_loss, response_mask=response_mask)
    mask = response_mask.bool()
    divisor = max_response_tokens
    # Dr. GRPO, change 2: leave this out. A token of a wrong answer costs less the longer that answer is.
    if divide_by_length:
        divisor = mask.sum(dim=1).clamp(min=1)
    return (token_loss.where(mask, 0.0).sum(dim=1) / divisor).sum() / num_rollouts


def importance_weights(old_logprobs, sampler_logprobs, response_mask, *, cap=2.0):
    """All [B, T] -> min(exp(old_logprobs - sampler_logprobs), cap), detached, factors for the token loss.

    Truncated importance sampling (Ionides 2008), for a sampler whose arithmetic is not quite the learner's.
    """
    return _log_ratio(old_logprobs, sampler_logprobs, response_mask).exp().clamp(max=cap).detach()


def kl_to_reference(logprobs, ref_logprobs, response_mask):
    """All [B, T] -> KL(policy || reference) [B, T], to be added to the token loss times beta (Eq. 1).

    r - log(r) - 1 with r = exp(ref_logprobs - logprobs): the k3 estimator (Schulman 2020), never negative.
    """
    log_ratio = _log_ratio(ref_logprobs, logprobs, response_mask)
    return log_ratio.exp() - log_ratio - 1


def masked_mean(values, mask):
    """values, mask of one shape -> scalar, nan for an empty mask. For metrics, not losses (Listing 1)."""
    _check(values=values, mask=mask)
    return values.where(mask.bool(), 0.0).sum() / mask.bool().sum()


def _log_ratio(numerator, denominator, mask):
    _check(numerator=numerator, denominator=denominator, mask=mask)
    return (numerator - denominator).where(mask.bool(), 0.0)  # masked after exp, inf would give nan gradients


def _float32(x):
    return x.to(torch.promote_types(x.dtype, torch.float32))  # float64 stays as it is


def _check(temperature=1.0, **tensors):
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; the logits are divided by it, so it must be above 0")
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
        raise ValueError(f"shapes are {shapes}; they must be equal")
