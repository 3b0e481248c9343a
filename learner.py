"""The learner: the model that is being trained. Load it, shard it, run it, update it on rollouts, save it.

Master weights are float32: at a learning rate of 1e-6 a bf16 AdamW update rounds to zero. The compute is bf16
where the machine has it.
"""

import contextlib
import copy
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME, cached_file

from loss import ALGOS, aggregate, clipped_loss, importance_weights, kl_to_reference, linear_logprobs
from rollout import Batch, Rollout, collate
from run.base_model import check_loaded, empty_model, logit_scale, read_config
from run.batches import cut_minibatches, share_prompts
from run.ranks import this_rank, world_size


class NotFinite(RuntimeError):
    """A loss or gradient is not finite, and the weights were left alone; `rollouts` are what it came from."""

    def __init__(self, message: str, rollouts: Sequence[Rollout]):
        super().__init__(message)
        self.rollouts = rollouts


class Policy(nn.Module):
    """A causal language model whose forward returns log-probs instead of logits.

    The head's product with the hidden states happens inside this module, so that the hooks of `fully_shard`
    gather its weight like any other, and only for the tokens that are asked for.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.logit_scale = model, logit_scale(model)
        # vLLM runs some architectures (OLMo2, SmolLM3) by transformers' own classes, to whose call it adds a
        # compiler that looks for this switch. The learner's instance has none of the rest.
        model.base_model.do_not_compile = True

    def forward(
        self, input_ids: Tensor, labels: Tensor, mask: Tensor, temperature: float = 1.0, share: bool = False
    ) -> tuple[Tensor, Tensor]:
        """input_ids [B, T], labels [B, T], mask [B, T] bool -> logprobs [B, T], entropy [B, T], both in nats.

        Both are float32 and 0 where the mask is off. Rows are padded on the right only: under a causal
        mask no real token then sees a padded one, and no attention mask is needed. `share`: compute a prompt
        that several rows begin with once.
        """
        inputs, where = dict(input_ids=input_ids), mask
        if share and mask.any():
            inputs, where = share_prompts(input_ids, mask)
        # use_cache=False: the key-value cache would be kept for nothing.
        hidden = self.model.base_model(**inputs, use_cache=False).last_hidden_state[where]  # [tokens, H]
        head = self.model.get_output_embeddings()
        temperature = temperature / self.logit_scale
        picked, entropy = linear_logprobs(hidden, head.weight, labels[mask], temperature=temperature)
        zeros = torch.zeros(labels.shape, dtype=torch.float32, device=labels.device)
        return zeros.masked_scatter(mask, picked), zeros.masked_scatter(mask, entropy)


def compute_dtype() -> torch.dtype:
    """bf16 where the hardware multiplies it natively, else float32."""
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


def reshard(policy: Policy) -> None:
    """Let go of what a sharded forward without gradients leaves gathered: the root, embedding and head."""
    if isinstance(policy, FSDPModule):
        policy.reshard()


def autocast(device: torch.device) -> contextlib.AbstractContextManager:
    """Mixed precision for forward passes; float32 parameters stay float32."""
    return torch.autocast(device.type, compute_dtype(), enabled=compute_dtype() != torch.float32)


def load_policy(
    path: str,
    device: torch.device,
    attn_implementation: str = "sdpa",
    gradient_checkpointing: bool = False,
    replicas: int = 1,
) -> Policy:
    """The checkpoint at `path` in float32, sharded over all ranks where there is more than one.

    With `replicas` there are as many copies, each sharded over ranks that follow each other. Rank 0 alone
    reads it, and deals out one parameter at a time: no other rank ever holds a whole copy. ValueError where
    weights are missing.
    """

    def read(dtype: torch.dtype | str) -> nn.Module:
        options = dict(attn_implementation=attn_implementation, trust_remote_code=False)
        model, loaded = AutoModelForCausalLM.from_pretrained(
            path, config=read_config(path), dtype=dtype, output_loading_info=True, **options
        )
        check_loaded(path, loaded)
        return model

    if world_size() == 1:
        return prepare_policy(read(torch.float32).to(device), gradient_checkpointing)
    policy = prepare_policy(empty_model(path, attn_implementation), gradient_checkpointing, replicas)
    buffers = dict(policy.named_buffers())  # computed, not in the checkpoint, and lost by to_empty
    policy.to_empty(device=device)
    for name, buffer in policy.named_buffers():
        buffer.copy_(buffers[name])
    weights = read("auto").state_dict() if this_rank() == 0 else None
    dist.barrier()  # while rank 0 reads; the groups of replicas would not wait for as long
    for name, shard in policy.model.state_dict().items():
        whole = (
            weights[name].to(device, torch.float32) if weights else torch.empty(shard.shape, device=device)
        )
        dealt = distribute_tensor(whole, shard.device_mesh, shard.placements, src_data_rank=0)
        shard.to_local().copy_(dealt.to_local())
    return policy


def prepare_policy(model: nn.Module, gradient_checkpointing: bool = False, replicas: int = 1) -> Policy:
    """Wrap a transformers model, and shard it where there are several ranks; see `load_policy`."""
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    policy = Policy(model).train()
    if world_size() > 1:
        mixed = MixedPrecisionPolicy(param_dtype=compute_dtype(), reduce_dtype=torch.float32)
        shape, names = (world_size(),), ("shard",)
        if replicas > 1:
            shape, names = (replicas, world_size() // replicas), ("replica", "shard")
        mesh = init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", shape, mesh_dim_names=names)
        for layer in policy.model.base_model.layers:
            fully_shard(layer, mesh=mesh, mp_policy=mixed)
        fully_shard(policy, mesh=mesh, mp_policy=mixed)
    return policy


def full_tensor(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A parameter as a whole, gathered from its shards; a collective call where it is sharded.

    `dtype`, if given, is what is sent: in bf16 half the bytes of float32. The peak is the tensor itself.
    """
    if not isinstance(tensor, DTensor):
        return tensor.to(dtype or tensor.dtype)
    group = tensor.device_mesh.get_group(tensor.device_mesh.ndim - 1)  # of its shards, not of its replicas
    ranks, shard = dist.get_process_group_ranks(group), tensor.to_local().to(dtype or tensor.dtype)
    whole = torch.empty(tensor.shape, dtype=shard.dtype, device=shard.device)
    if dist.get_backend(group) == "nccl" and len(whole) % len(ranks) == 0:  # GPU only
        dist.all_gather_into_tensor(whole, shard, group)
        return whole
    # Each rank sends its rows into their place; an all-gather over gloo would hold the tensor twice.
    for rank, rows in zip(ranks, whole.chunk(len(ranks)), strict=False):  # cut as fully_shard does
        if rank == this_rank():
            rows.copy_(shard)
        dist.broadcast(rows, src=rank, group=group)
    return whole


def checkpoint_weights(policy: Policy, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
    """(name in the checkpoint, whole tensor), one at a time, so that no second full copy is ever held.

    `state_dict` and not `named_parameters`: with tied embeddings it lists the head too. vLLM keeps a packed
    copy of the head that is rebuilt only when the head is named. Every rank must run through all of it.
    """
    for name, tensor in policy.model.state_dict().items():
        yield name, full_tensor(tensor.detach(), dtype)


def save_model(policy: Policy, tokenizer, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Write weights and tokenizer so that transformers and vLLM open `folder` as it is.

    Written aside and then renamed: a folder of that name is always whole. All ranks call it, rank 0 writes.
    OSError where it cannot.
    """
    is_writer = this_rank() == 0
    once = {name for name, _ in policy.model.named_parameters()}  # a tied head goes by the embedding's name
    tied = {name for name, _ in policy.model.named_parameters(remove_duplicate=False)} - once
    weights = {}
    for name, tensor in checkpoint_weights(policy, dtype):
        if is_writer and name not in tied:
            weights[name] = tensor.cpu()
    if is_writer:
        folder = Path(folder).resolve()
        aside = folder.with_name(folder.name + ".partial")
        shutil.rmtree(aside, ignore_errors=True)
        policy.model.generation_config = GenerationConfig()  # transformers refuses to write some bases'
        config = copy.deepcopy(policy.model.config)  # it names the learner's dtype, and the file has another
        config.dtype = dtype
        try:
            policy.model.save_pretrained(aside, state_dict=weights)
            config.save_pretrained(aside)
            tokenizer.save_pretrained(aside)
            copy_generation_config(config.name_or_path, aside)
        except (OSError, SafetensorError) as error:  # the second where the disk fills up half-way
            shutil.rmtree(aside, ignore_errors=True)
            raise OSError(f"{aside}: {error}") from None
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(aside, folder)


def copy_generation_config(base: str, folder: Path) -> None:
    """Give a saved model the generation_config.json of its base as it is, or none if the base has none."""
    (folder / GENERATION_CONFIG_NAME).unlink(missing_ok=True)
    try:
        own = cached_file(base, GENERATION_CONFIG_NAME, local_files_only=True)  # of the Hub's: in its cache
    except OSError:
        return
    shutil.copyfile(own, folder / GENERATION_CONFIG_NAME)


def stop_if_not_finite(
    losses: Tensor, grad_norm: float, minibatch: list[list[int]], number: int, rollouts: Sequence[Rollout]
) -> None:
    """NotFinite, on all ranks, if the gradient norm or a micro-batch's loss on any rank is not finite.

    To blame are the micro-batches whose loss is not finite; where only the gradient is, all of them; where
    the loss was another rank's, none here.
    """
    bad = ~losses.isfinite()  # [micro-batches]
    any_bad = bad.any().float()
    if world_size() > 1:
        dist.all_reduce(any_bad, op=dist.ReduceOp.MAX)
    if not any_bad and math.isfinite(grad_norm):
        return
    blamed = bad.nonzero().flatten().tolist() if any_bad else list(range(len(minibatch)))
    raise NotFinite(
        f"minibatch {number}, micro-batches {blamed}: losses {losses[blamed].tolist()}, norm {grad_norm}"
        if blamed
        else f"minibatch {number}: a loss of another rank is not finite",
        [rollouts[i] for which in blamed for i in minibatch[which]],
    )


def update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    rollouts: Sequence[Rollout],
    advantages: Tensor,
    config,
    device: torch.device,
    seed: int,
    reference: Policy | None = None,
) -> dict[str, float]:
    """One pass over all ranks' rollouts, an optimizer step a minibatch -> metrics, the same on all ranks.

    `rollouts` and `advantages` [N] are this rank's own, and are dealt out anew. Of `config`, train.py's, are
    read: algo, group_size, minibatch_size, micro_batch_tokens, temperature, clip_eps, clip_eps_high,
    importance_cap, beta, max_grad_norm, max_response_tokens, mask_truncated, share_prompts and
    skip_equal_groups. `seed`, the same on all ranks, shuffles; `reference` is for beta > 0. NotFinite, on all
    ranks, where a loss or gradient of any is not finite, before the weights are touched.
    """
    algo, rank, ranks = ALGOS[config.algo], this_rank(), world_size()
    if ranks > 1:
        of_ranks = [None] * ranks
        dist.all_gather_object(of_ranks, (rollouts, advantages))
        rollouts = [rollout for of_rank, _ in of_ranks for rollout in of_rank]
        advantages = torch.cat([of_rank for _, of_rank in of_ranks])
    # What is dealt out: single responses, or groups in one row.
    size = config.group_size if config.share_prompts else 1
    starts = range(0, len(rollouts), size)
    lengths = [
        len(rollouts[i].prompt_ids) + sum(len(r.response_ids) for r in rollouts[i : i + size]) for i in starts
    ]
    shortest = size * lengths.index(min(lengths))
    skip = (advantages == 0).view(-1, size).all(dim=1) if config.skip_equal_groups else None
    minibatch_size = config.minibatch_size // size
    cut = cut_minibatches(lengths, minibatch_size, config.micro_batch_tokens, seed, ranks, skip)
    minibatches = [
        [[size * i + j for i in micro_batch[rank] for j in range(size)] for micro_batch in minibatch]
        for minibatch in cut
    ]

    def forward(model: Policy, micro_batch: list[int]) -> tuple[Tensor, Tensor, Batch, Tensor]:
        # An empty micro-batch runs a forward like any other, for the other ranks, with nothing in its mask.
        chosen = [rollouts[i] for i in micro_batch or [shortest]]
        batch = collate(chosen, device)
        mask = batch.response_mask & bool(micro_batch)
        if config.mask_truncated:
            mask = mask & ~torch.tensor([r.truncated for r in chosen], device=device)[:, None]
        with autocast(device):
            logprobs, entropy = model(
                batch.input_ids, batch.labels, mask, config.temperature, config.share_prompts
            )
        return logprobs, entropy, batch, mask  # [B, T] each

    # Old log-probs, under the policy that starts this step. The first minibatch is learned from with exactly
    # these weights, so there its own log-probs serve.
    with torch.no_grad():
        old = [[None] * len(minibatches[0])]
        old += [[forward(policy, micro_batch)[0] for micro_batch in m] for m in minibatches[1:]]
        ref = [
            [forward(reference, micro_batch)[0] if reference else None for micro_batch in m]
            for m in minibatches
        ]
        if reference:
            reshard(reference)

    # Sums: the loss, and over tokens their number, clipped ones, entropy, log p(sampler) - log p(learner), KL
    totals = torch.zeros(6, device=device)
    grad_norms = []
    for number, (minibatch, olds, refs) in enumerate(zip(minibatches, old, ref, strict=True)):
        losses = []
        for micro_batch, old_logprobs, ref_logprobs in zip(minibatch, olds, refs, strict=True):
            logprobs, entropy, batch, mask = forward(policy, micro_batch)
            if old_logprobs is None:
                old_logprobs = logprobs.detach()
            token_loss, clipped = clipped_loss(
                logprobs,
                old_logprobs,
                advantages[micro_batch or [shortest]].to(device),
                mask,
                clip_eps=config.clip_eps,
                clip_eps_high=config.clip_eps_high,
            )
            if config.importance_cap is not None:
                token_loss = token_loss * importance_weights(
                    old_logprobs, batch.sampler_logprobs, mask, cap=config.importance_cap
                )
            kl = torch.zeros_like(token_loss)
            if ref_logprobs is not None:
                kl = kl_to_reference(logprobs, ref_logprobs, mask)
                token_loss = token_loss + config.beta * kl
            loss = aggregate(
                token_loss,
                mask,
                divide_by_length=algo.divide_by_length,
                max_response_tokens=config.max_response_tokens,  # Dr. GRPO's constant; Adam undoes its size
                num_rollouts=config.minibatch_size // ranks,
            )
            loss.backward()
            losses.append(loss.detach())
            gap = (batch.sampler_logprobs - old_logprobs).where(mask, 0.0)
            sums = (loss.detach(), mask.sum(), clipped.sum(), entropy.sum(), gap.sum(), kl.detach().sum())
            totals += torch.stack(sums)
        norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
        grad_norms.append((norm.full_tensor() if isinstance(norm, DTensor) else norm).item())
        stop_if_not_finite(torch.stack(losses), grad_norms[-1], minibatch, number, rollouts)
        optimizer.step()
        optimizer.zero_grad()
    if ranks > 1:
        dist.all_reduce(totals)
    loss_sum, tokens, *token_sums = totals.tolist()
    clip_fraction, mean_entropy, sampler_kl, reference_kl = (total / max(1, tokens) for total in token_sums)
    metrics = {
        "loss": loss_sum / ranks / len(minibatches),
        "grad_norm": sum(grad_norms) / len(grad_norms),
        "clip_fraction": clip_fraction,
        "entropy": mean_entropy,
        "sampler_kl": sampler_kl,
    }
    return metrics | ({"reference_kl": reference_kl} if reference else {})
