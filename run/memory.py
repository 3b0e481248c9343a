"""What a run needs of each GPU's memory, by part, from the model's config alone: nothing is loaded.

The learner and its engine take turns. While the engine samples, it holds its weights and KV cache beside the
learner's weights and optimizer; while the learner updates, the engine sleeps.
"""

import copy
import ctypes
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from transformers import AutoModelForCausalLM

from loss import _LinearLogprobs
from run import environment

GB = 1e9
USABLE = 0.92  # of a GPU: CUDA's context, its graphs, NCCL's buffers and fragmentation take the rest
USABLE_RAM = 0.8  # without a GPU: glibc keeps freed blocks, and other programs run
PROCESS = 1e9  # Python with torch and vLLM
LARGEST_MICRO_BATCH, CPU_MICRO_BATCH = 32768, 2048  # in tokens, where --micro_batch_tokens is left out


class Memory(NamedTuple):
    """Bytes on each GPU."""

    weights: float  # float32, this rank's share
    gradients: float
    optimizer: float  # AdamW's two moments
    reference: float  # with --beta
    gathered: float  # what fully_shard holds whole: embedding, head and two layers, with their gradients
    activations: float  # of a micro-batch of full-length responses, at their peak

    @property
    def update(self) -> float:
        return sum(self)

    @property
    def beside_engine(self) -> float:
        return self.weights + self.optimizer + self.reference


def longest_row(c) -> int:
    """Tokens of the longest row of a micro-batch: a response with its prompt, or a group with its own."""
    return c.max_prompt_tokens + c.max_response_tokens * (c.group_size if c.share_prompts else 1)


def learner_memory(
    c, model: nn.Module, shards: int, dtype: torch.dtype = torch.bfloat16, chunk_size: int = 2**24
) -> Memory:
    """What the learner needs with the settings `c` of train.py; `model` is made by `empty_model`.

    `shards`: ranks that share a copy of the model. `chunk_size` is that of `linear_logprobs`: 2**24 on GPUs,
    2**22 on CPU.
    """
    parameters = sum(p.numel() for p in model.parameters())
    layers = model.base_model.layers
    layer = sum(p.numel() for p in layers[0].parameters())
    root = parameters - layer * len(layers)
    share, sharded = 4 * parameters / shards, shards > 1
    longest = longest_row(c)
    rows = max(1, c.micro_batch_tokens // longest)
    return Memory(
        weights=share,
        gradients=share,
        optimizer=2 * share,
        reference=share if c.beta > 0 else 0.0,
        gathered=2 * dtype.itemsize * (root + 2 * layer) + 4 * layer if sharded else 0.0,
        activations=_activations(c, model.config, rows, longest, dtype, sharded, chunk_size),
    )


def _activations(c, config, rows: int, width: int, dtype: torch.dtype, sharded: bool, chunk_size: int):
    """Peak bytes beside parameters and gradients in a forward and backward of `rows` x `width` tokens.

    The peak is in one of three moments: at the head, in the last layer's backward, or at the very end, when
    the embedding's gradient is made. Every layer keeps as much for its backward as the one before.
    """
    # Sharded weights are gathered in the compute dtype; whole ones are float32, and autocast copies them.
    weights = dtype if sharded else torch.float32
    vectors = weights.itemsize * rows * width * config.hidden_size
    embedding = weights.itemsize * config.vocab_size * config.hidden_size
    _, kept_of_one = _layers(c, config, 1, rows, width, dtype, weights)
    peak, kept = _layers(c, config, 2, rows, width, dtype, weights)
    more = (config.num_hidden_layers - 2) * (kept - kept_of_one)
    waiting = embedding * config.tie_word_embeddings  # the head's gradient, for the embedding's
    at_head = vectors + kept + more + _head(rows * width, config, dtype, weights, chunk_size)
    return max(at_head, vectors + peak + more + waiting, 2 * vectors + embedding + waiting)


def _layers(c, config, count: int, rows: int, width: int, dtype: torch.dtype, weights: torch.dtype):
    """(peak, kept after the forward) in bytes beside inputs and weights, of the first `count` layers.

    PyTorch's MemTracker follows a pass over tensors that have shapes and no data.
    """
    config = copy.deepcopy(config)
    config.num_hidden_layers = count
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:count]
    # flash attention needs what sdpa does
    attention = "eager" if c.attn_implementation == "eager" else "sdpa"
    with FakeTensorMode():
        model = AutoModelForCausalLM.from_config(config, dtype=weights, attn_implementation=attention).train()
        if c.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        inputs = torch.zeros(rows, width, config.hidden_size, dtype=weights, requires_grad=True)
        tracker = MemTracker()
        tracker.track_external(model, inputs)
        with tracker, torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            hidden = model.base_model(inputs_embeds=inputs, use_cache=False).last_hidden_state
            kept = _in_use(tracker, "current")
            hidden.sum().backward()
    outside = inputs.numel() * inputs.itemsize + 2 * sum(p.numel() * p.itemsize for p in model.parameters())
    return _in_use(tracker, "peak") - outside, kept - outside


def _head(tokens: int, config, dtype: torch.dtype, weights: torch.dtype, chunk_size: int) -> float:
    """Peak bytes of `linear_logprobs` and its backward beside its input, the weight and their gradients."""
    with FakeTensorMode():
        hidden = torch.zeros(tokens, config.hidden_size, dtype=weights, requires_grad=True)
        weight = torch.zeros(config.vocab_size, config.hidden_size, dtype=weights, requires_grad=True)
        weight.grad = torch.zeros_like(weight)
        labels, tracker = torch.zeros(tokens, dtype=torch.long), MemTracker()
        tracker.track_external(hidden, weight, labels)
        with tracker:
            # Not linear_logprobs, which looks at its labels: they have no data here.
            logprobs, _ = _LinearLogprobs.apply(hidden, weight, labels, 1.0, chunk_size, dtype)
            logprobs.sum().backward()
    outside = hidden.numel() * hidden.itemsize + 2 * weight.numel() * weight.itemsize
    return _in_use(tracker, "peak") - outside


def _in_use(tracker: MemTracker, moment: str) -> float:
    return tracker.get_tracker_snapshot(moment)[torch.device("cpu")]["Total"]


def engine_memory(c, model: nn.Module, dtype: torch.dtype = torch.bfloat16) -> tuple[float, float]:
    """(weights, keys and values of one full-length response) on each GPU of an engine, in bytes."""
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    all_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    kv_heads = max(1, all_heads // c.tensor_parallel)
    per_token = 2 * dtype.itemsize * config.num_hidden_layers * kv_heads * head_dim
    weights = dtype.itemsize * sum(p.numel() for p in model.parameters()) / c.tensor_parallel
    return weights, per_token * (c.max_prompt_tokens + c.max_response_tokens)


def disk_needed(c, model: nn.Module) -> tuple[float, float]:
    """(a checkpoint, all that a run holds at its worst) in bytes: weights and AdamW's moments in float32.

    That is the newest `keep_checkpoints`, the most accurate one, one that is being written, and model/.
    """
    parameters = sum(p.numel() for p in model.parameters())
    at_once = min(c.keep_checkpoints + 2, -(-c.num_steps // c.save_every))
    return 12 * parameters, (12 * at_once + 4) * parameters


def fitting_micro_batch(
    c, model: nn.Module, gpu_bytes: float | None, world_size: int, dtype: torch.dtype
) -> int:
    """Tokens of a micro-batch where the flag leaves them open: as many as fit, up to LARGEST_MICRO_BATCH.

    One response of full length at least. Without a GPU few: what stays in a CPU's cache is computed faster.
    """
    longest = longest_row(c)
    if gpu_bytes is None:
        return max(longest, CPU_MICRO_BATCH)
    largest = copy.copy(c)
    largest.micro_batch_tokens = max(longest, LARGEST_MICRO_BATCH)
    need = learner_memory(largest, model, world_size // c.replicas, dtype)
    fitting = _fitting_tokens(largest, need, USABLE * gpu_bytes)
    return max(longest, min(largest.micro_batch_tokens, fitting))


def check_engine() -> None:
    """ValueError where a library of the system is missing that vLLM's CPU build loads."""
    if torch.cuda.is_available() or sys.platform != "linux":
        return
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError as error:
        raise ValueError(f"vLLM cannot start: {error}; on Debian and Ubuntu, apt install libnuma1") from None


def check_disk(c, model: nn.Module, folder: Path) -> None:
    """ValueError if the disk has no room for the checkpoints of a run in `folder`, there or not yet."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    held = sum(file.stat().st_size for file in folder.glob("checkpoints/step_*/*"))
    free = shutil.disk_usage(there).free + held
    checkpoint, needed = disk_needed(c, model)
    if free < needed:
        raise ValueError(
            f"output_dir {folder}: a run needs up to {needed / GB:.1f} GB of disk, {checkpoint / GB:.1f} a "
            f"checkpoint, and {free / GB:.1f} are free: take another disk, or lower --keep_checkpoints"
        )


def container_bytes() -> float:
    """What a container's memory is limited to, infinite where it is not."""
    try:
        return int((environment.CGROUP / "memory.max").read_text())
    except (OSError, ValueError):  # "max"
        return math.inf


def check_memory(
    c, model: nn.Module, share: float, gpu_bytes: float | None, dtype: torch.dtype, world_size: int, here: int
) -> None:
    """ValueError, with the flag to change, if learner and engine do not fit into a GPU or, without one, RAM.

    `share` is the engine's: of the GPU, or GiB of KV cache. `here`: ranks that share this machine's RAM.
    """
    weights, response = engine_memory(c, model, dtype)
    if gpu_bytes is not None:
        need = learner_memory(c, model, world_size // c.replicas, dtype)
        if texts := _advice(c, need, model, share, gpu_bytes / GB):
            raise ValueError(f"GPUs of {gpu_bytes / GB:.0f} GB, {world_size} of them: {'; '.join(texts)}")
        return
    if share * 2**30 < response:
        raise ValueError(
            f"engine_memory {share:g} is {share * 2**30 / GB:.2f} GB for vLLM's KV cache, and one response "
            f"of full length takes {response / GB:.2f} GB: raise --engine_memory"
        )
    room = min(psutil.virtual_memory().available, container_bytes()) / here
    engine = weights + share * 2**30 + PROCESS
    if 16 * sum(p.numel() for p in model.parameters()) < room / 50 and engine < USABLE_RAM * room:
        return  # as the tiny base: not worth a second of following tensors
    need = learner_memory(c, model, world_size // c.replicas, dtype, chunk_size=2**22)
    if need.update + engine > USABLE_RAM * room:  # without a GPU the engine keeps its memory
        raise ValueError(
            f"{room / GB:.1f} GB of RAM a process, and the engine takes {engine / GB:.1f}: "
            + _change_of_update(c, need, USABLE_RAM * room - engine)
        )


# GPUs, GB of each, and --replicas: on two machines of eight the learner is sharded over all, or within each.
MACHINES = ((1, 24, 1), (1, 80, 1), (8, 40, 1), (8, 80, 1), (16, 80, 1), (16, 80, 2))


def memory_table(
    c, model: nn.Module, share: float, machines: Sequence[tuple[int, float, int]] = MACHINES
) -> str:
    """The parts in GB on each of some machines, what to change where they do not fit, and the disk."""
    needs = {
        shards: learner_memory(c, model, shards) for shards in {n // copies for n, _, copies in machines}
    }
    columns = [(needs[gpus // copies], size) for gpus, size, copies in machines]
    weights, response = engine_memory(c, model)
    caches = [max(0.0, share * size * GB - weights) for _, size in columns]

    def line(name: str, values, unit: float = GB, digits: int = 1) -> str:
        return f"{name:<46}" + "".join(f"{value / unit:>12.{digits}f}" for value in values)

    heads = [f"{gpus} x {size:g} GB" for gpus, size, _ in machines]
    lines = [f"{'memory of each GPU, in GB':<46}" + "".join(f"{head:>12}" for head in heads)]
    if any(copies > 1 for *_, copies in machines):
        lines += [line("--replicas", [copies for *_, copies in machines], unit=1, digits=0)]
    for part in Memory._fields:
        values = [getattr(need, part) for need, _ in columns]
        lines += [line(f"learner: {part}", values)] if any(values) else []
    lines += [line("  its sum, while it updates", [need.update for need, _ in columns])]
    lines += [line("engine: weights", [weights] * len(columns)), line("engine: KV cache", caches)]
    beside = [need.beside_engine + weights + cache for (need, _), cache in zip(columns, caches, strict=True)]
    lines += [line("  with the learner's weights and optimizer", beside)]
    at_once = [cache // response for cache in caches]
    lines += [line("responses of full length sampled at once", at_once, unit=1, digits=0)]
    for head, (need, size) in zip(heads, columns, strict=True):
        lines += [f"! {head}: {text}" for text in _advice(c, need, model, share, size)]
    checkpoint, run = disk_needed(c, model)
    return "\n".join([*lines, f"disk: {checkpoint / GB:.1f} GB a checkpoint, up to {run / GB:.1f} GB a run"])


def _fitting_tokens(c, need: Memory, usable: float) -> int:
    """Tokens of a micro-batch with which an update fits into `usable` bytes; activations grow with them."""
    fixed = need.update - need.activations
    return int(c.micro_batch_tokens * (usable - fixed) / need.activations)


def _change_of_update(c, need: Memory, usable: float) -> str:
    """What to change so that an update fits into `usable` bytes; "" where it does."""
    if need.update <= usable:
        return ""
    tokens, changes = _fitting_tokens(c, need, usable), []
    if tokens >= longest_row(c):
        changes.append(f"--micro_batch_tokens {tokens}")
    if tokens > 0 and not c.gradient_checkpointing:
        changes.append("--gradient_checkpointing true")
    change = " or ".join(changes) or "more GPUs, or a smaller model"
    parts = f"{need.update / GB:.1f}, activations {need.activations / GB:.1f} of it"
    return f"an update takes {parts}: {change}"


def _advice(c, need: Memory, model: nn.Module, share: float, size: float) -> list[str]:
    """What to change so that a GPU of `size` GB is enough."""
    usable, weights, response = USABLE * size * GB, *engine_memory(c, model)
    texts = [text for text in [_change_of_update(c, need, usable)] if text]
    if share * size * GB < weights + response:
        texts.append(
            f"the engine's share, {share * size:.1f}, does not hold its weights and a response: "
            f"--tensor_parallel {2 * c.tensor_parallel}"
        )
    elif need.beside_engine + share * size * GB > usable:
        fitting = (usable - need.beside_engine) / (size * GB)
        enough = fitting * size * GB > weights + response
        change = f"--engine_memory {fitting:.2f}" if enough else "more GPUs, or a smaller model"
        texts.append(f"the engine's share, {share * size:.1f}, is too much beside the learner: {change}")
    return texts
