"""What a weight hand-over takes: calls and bytes (`python -m benchmarks.handover`), or memory, on Linux:

    ACCELERATE_USE_CPU=true MALLOC_MMAP_THRESHOLD_=65536 \\
        accelerate launch --multi_gpu --num_processes 2 -m benchmarks.handover

Calls and bytes are counted, for Qwen2.5-7B's shape on 8 and 64 ranks, as full_tensor makes its calls to a
process group that sends nothing: over NCCL, over gloo, and over gloo in the float32 of the shards.

Memory is that of the peak, beside the largest parameter, of a random model of 135M parameters with tied
embeddings; the threshold makes freed blocks leave the process.
`streamed_mb` is what going through the weights takes, `handed_over_mb` adds what vLLM takes to load them.
"""

import gc
import json
import os
import re
import tempfile
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from benchmarks.common import LLAMA_135M, QWEN_7B
from learner import checkpoint_weights, load_policy, prepare_policy
from miniature.tiny_base import tiny_tokenizer
from rollout import Sampler


def megabytes(key: str) -> float:
    return int(re.search(key + r":\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6


def peak_of(act) -> float:
    """Resident memory at its highest during `act`, above what it was before, in MB."""
    gc.collect()
    before = megabytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    act()
    return megabytes("VmHWM") - before


def traffic(ranks: int, backend: str, dtype: torch.dtype | None) -> dict[str, float]:
    """Calls, and GB that arrive at a rank, of one hand-over."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    with torch.device("meta"):
        model = Qwen2ForCausalLM(Qwen2Config(**QWEN_7B))
    policy, received = prepare_policy(model), []
    with (
        mock.patch.object(dist, "get_backend", lambda _: backend),
        mock.patch.object(dist, "broadcast", lambda rows, **_: received.append(rows.nbytes)),
        mock.patch.object(dist, "all_gather_into_tensor", lambda whole, *_: received.append(whole.nbytes)),
    ):
        for _ in checkpoint_weights(policy, dtype):
            pass
    dist.destroy_process_group()
    return {"calls": len(received), "GB": round(sum(received) / 1e9, 1)}


def count() -> None:
    ways = {"nccl": ("nccl", torch.bfloat16), "gloo": ("gloo", torch.bfloat16), "float32": ("gloo", None)}
    for ranks in (8, 64):
        print(json.dumps({"ranks": ranks} | {name: traffic(ranks, *way) for name, way in ways.items()}))


def main() -> None:
    if "WORLD_SIZE" not in os.environ:
        return count()
    accelerator = Accelerator(cpu=True)
    (folder,) = broadcast_object_list([tempfile.mkdtemp()])
    if accelerator.is_main_process:
        LlamaForCausalLM(LlamaConfig(**LLAMA_135M)).to(torch.bfloat16).save_pretrained(folder)
        tiny_tokenizer(["a text"]).save_pretrained(folder)
    accelerator.wait_for_everyone()
    policy = load_policy(folder, accelerator.device)
    sampler = Sampler(folder, max_model_len=256, dtype=torch.bfloat16, memory=0.5)

    def stream():
        for _ in checkpoint_weights(policy):
            pass

    def hand_over():
        sampler.load_weights(checkpoint_weights(policy))

    hand_over()  # what vLLM and gloo take once
    streamed, handed_over = peak_of(stream), peak_of(hand_over)
    if accelerator.is_main_process:
        result = {
            "ranks": accelerator.num_processes,
            "all_weights_mb": sum(p.numel() for p in policy.parameters()) * 4 / 1e6,
            "largest_parameter_mb": max(p.numel() for p in policy.parameters()) * 4 / 1e6,
            "streamed_mb": streamed,
            "handed_over_mb": handed_over,
        }
        print(json.dumps({key: round(value, 1) for key, value in result.items()}))


if __name__ == "__main__":
    main()
