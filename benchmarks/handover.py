"""Memory that a weight hand-over takes at its peak, beside the largest parameter. Linux, on CPU:

    ACCELERATE_USE_CPU=true MALLOC_MMAP_THRESHOLD_=65536 \\
        accelerate launch --multi_gpu --num_processes 2 benchmarks/handover.py

A random model of 135M parameters with tied embeddings; the threshold makes freed blocks leave the process.
`streamed_mb` is what going through the weights takes, `handed_over_mb` adds what vLLM takes to load them.
"""

import gc
import json
import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from transformers import LlamaConfig, LlamaForCausalLM

from learner import checkpoint_weights, load_policy
from pretrain import tiny_tokenizer
from rollout import Sampler

SHAPE = dict(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=2048,
    tie_word_embeddings=True,
)


def megabytes(key: str) -> float:
    return int(re.search(key + r":\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6


def peak_of(act) -> float:
    """Resident memory at its highest during `act`, above what it was before, in MB."""
    gc.collect()
    before = megabytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    act()
    return megabytes("VmHWM") - before


def main() -> None:
    accelerator = Accelerator(cpu=True)
    (folder,) = broadcast_object_list([tempfile.mkdtemp()])
    if accelerator.is_main_process:
        LlamaForCausalLM(LlamaConfig(**SHAPE)).to(torch.bfloat16).save_pretrained(folder)
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
