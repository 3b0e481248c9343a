"""What a run needs of each GPU's memory, by part, from the model's config alone: nothing is loaded.

The learner and its engine take turns. While the engine samples, it holds its weights and KV cache beside the
learner's weights and optimizer; while the learner updates, the engine sleeps.
"""

import copy
from typing import NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from transformers import AutoModelForCausalLM

from loss import _LinearLogprobs

GB = 1e9
USABLE = 0.92  # of a GPU: CUDA's context, its graphs, NCCL's buffers and fragmentation take the rest


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


def learner_memory(
    c, model: nn.Module, world_size: int, dtype: torch.dtype = torch.bfloat16, chunk_size: int = 2**24
) -> Memory:
    """What the learner needs with the settings `c` of train.py; `model` is made by `empty_model`.

    `chunk_size` is that of `linear_logprobs`: 2**24 on GPUs, 2**22 on CPU.
    """
    parameters = sum(p.numel() for p in model.parameters())
    layers = model.base_model.layers
    layer = sum(p.numel() for p in layers[0].parameters())
    root = parameters - layer * len(layers)
    share, sharded = 4 * parameters / world_size, world_size > 1
    longest = c.max_prompt_tokens + c.max_response_tokens
    rows = max(1, c.micro_batch_tokens // longest)
    return Memory(
        weights=share,
        gradients=share,
        optimizer=2 * share,
        reference=share if c.beta > 0 else 0.0,
        gathered=2 * dtype.itemsize * (root + 2 * layer) + 4 * layer if sharded else 0.0,
        activations=_activations(c, model.config, rows, longest, dtype, sharded, chunk_size),
    )


def _activations(c, config, rows: int, width: int, *how) -> float:
    """Peak bytes beside parameters and gradients in a forward and backward of `rows` x `width` tokens.

    Every layer more keeps as much for its backward. A model is cut to as few layers as show that in its peak:
    with fewer, the peak may be elsewhere, as at the embedding's gradient.
    """
    depth, layers = config.num_hidden_layers, 1
    peak, kept = _pass(c, config, layers, rows, width, *how)
    a_layer = _pass(c, config, 2, rows, width, *how)[1] - kept
    while layers < depth:
        more = min(layers, depth - layers)
        smaller, (peak, _) = peak, _pass(c, config, layers + more, rows, width, *how)
        layers += more
        if peak - smaller > 0.99 * more * a_layer:
            break
    return peak + (depth - layers) * a_layer


def _pass(
    c, config, layers: int, rows: int, width: int, dtype: torch.dtype, sharded: bool, chunk_size: int
) -> tuple[float, float]:
    """(peak, kept after the forward) in bytes, for a model cut to `layers`.

    PyTorch's MemTracker follows a pass over tensors that have shapes and no data.
    """
    config = copy.deepcopy(config)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    attention = (
        "eager" if c.attn_implementation == "eager" else "sdpa"
    )  # flash attention needs what sdpa does

    def total(snapshot: dict) -> float:
        return snapshot[torch.device("cpu")]["Total"]

    with FakeTensorMode():
        # Sharded weights are gathered in the compute dtype; whole ones are float32, and autocast copies them.
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype if sharded else torch.float32, attn_implementation=attention
        ).train()
        if c.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        tracker = MemTracker()
        tracker.track_external(model)
        with tracker, torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            ids = torch.zeros(rows, width, dtype=torch.long)
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
            kept = total(tracker.get_tracker_snapshot("current"))
            weight = model.get_output_embeddings().weight
            # Not linear_logprobs, which looks at its labels: they have no data here.
            logprobs, _ = _LinearLogprobs.apply(hidden, weight, ids.flatten(), 1.0, chunk_size, dtype)
            logprobs.sum().backward()
    held = 2 * sum(p.numel() * p.itemsize for p in model.parameters())  # parameters and gradients
    return total(tracker.get_tracker_snapshot("peak")) - held, kept - held


def engine_memory(c, model: nn.Module, dtype: torch.dtype = torch.bfloat16) -> tuple[float, float]:
    """(weights, keys and values of one full-length response) on each GPU of an engine, in bytes."""
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kv_heads = max(1, config.num_key_value_heads // c.tensor_parallel)
    per_token = 2 * dtype.itemsize * config.num_hidden_layers * kv_heads * head_dim
    weights = dtype.itemsize * sum(p.numel() for p in model.parameters()) / c.tensor_parallel
    return weights, per_token * (c.max_prompt_tokens + c.max_response_tokens)


def check_engine(c, model: nn.Module, share: float, gpu_bytes: float | None, dtype: torch.dtype) -> None:
    """ValueError if the engine's `share` (GiB where there is no GPU) does not hold model and one response."""
    weights, response = engine_memory(c, model, dtype)
    room = share * 2**30 if gpu_bytes is None else share * gpu_bytes - weights
    if room < response:
        part = "KV cache" if gpu_bytes is None else f"weights, {weights / GB:.2f} GB, and KV cache"
        total = share * (2**30 if gpu_bytes is None else gpu_bytes)
        raise ValueError(
            f"engine_memory {share:g} is {total / GB:.2f} GB for vLLM's {part}, and one response of full "
            f"length takes {response / GB:.2f} GB of KV cache: raise --engine_memory"
            + ("" if gpu_bytes is None else " or --tensor_parallel")
        )


def memory_table(c, model: nn.Module, share: float, gpus: int = 8, sizes: tuple[int, ...] = (40, 80)) -> str:
    """The parts in GB on `gpus` GPUs of each of `sizes` GB, and what to change where they do not fit."""
    need = learner_memory(c, model, gpus)
    weights, response = engine_memory(c, model)
    caches = {size: max(0.0, share * size * GB - weights) for size in sizes}
    beside = {size: need.beside_engine + weights + caches[size] for size in sizes}

    def line(name: str, values, unit: float = GB, digits: int = 1) -> str:
        return f"{name:<46}" + "".join(f"{value / unit:>12.{digits}f}" for value in values)

    def both(value: float) -> list[float]:
        return [value] * len(sizes)

    lines = [f"{'memory of each GPU, in GB':<46}" + "".join(f"{f'{gpus} x {size} GB':>12}" for size in sizes)]
    lines += [line(f"learner: {part}", both(value)) for part, value in need._asdict().items() if value]
    lines += [line("  its sum, while it updates", both(need.update))]
    lines += [line("engine: weights", both(weights)), line("engine: KV cache", caches.values())]
    lines += [line("  with the learner's weights and optimizer", beside.values())]
    at_once = [cache // response for cache in caches.values()]
    lines += [line("responses of full length sampled at once", at_once, unit=1, digits=0)]
    return "\n".join(
        lines + [f"! {size} GB: {text}" for size in sizes for text in _advice(c, need, model, share, size)]
    )


def _advice(c, need: Memory, model: nn.Module, share: float, size: int) -> list[str]:
    """What to change so that a GPU of `size` GB is enough."""
    usable, weights, response = USABLE * size * GB, *engine_memory(c, model)
    texts = []
    if need.update > usable:
        fixed = need.update - need.activations
        tokens = int(c.micro_batch_tokens * (usable - fixed) / need.activations)
        if tokens >= c.max_prompt_tokens + c.max_response_tokens:
            change = f"--micro_batch_tokens {tokens}"
        elif fixed < usable and not c.gradient_checkpointing:
            change = "--gradient_checkpointing true"
        else:
            change = "more GPUs, or a smaller model"
        texts.append(
            f"an update takes {need.update / GB:.1f}, activations {need.activations / GB:.1f} of it: {change}"
        )
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
