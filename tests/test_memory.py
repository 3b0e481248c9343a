import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from transformers import LlamaConfig, Qwen2Config

from learner import compute_dtype
from run import environment, memory
from run import settings as run_settings
from run.base_model import empty_model
from run.memory import check_disk, check_memory, disk_needed, engine_memory, learner_memory, memory_table
from run.settings import SMALLEST_GPU, default_recipe, parse_config

# The published shapes of Qwen2.5-Math-7B and SmolLM2-135M.
QWEN_7B = Qwen2Config(
    vocab_size=152064,
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
    max_position_embeddings=4096,
    tie_word_embeddings=False,
)
LLAMA_135M = LlamaConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=2048,
    tie_word_embeddings=True,
)
# By hand. A layer: q and o 2 x 3584 x 3584, k and v 2 x 3584 x 512, biases 3584 + 2 x 512, three matrices of
# 3584 x 18944, two norms. Then embedding and head, 2 x 152064 x 3584, and the last norm.
QWEN_LAYER = 2 * 3584**2 + 2 * 3584 * 512 + 3584 + 1024 + 3 * 3584 * 18944 + 2 * 3584
QWEN_PARAMETERS = 28 * QWEN_LAYER + 2 * 152064 * 3584 + 3584


@pytest.fixture(scope="module")
def qwen_7b(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen-7b")
    QWEN_7B.save_pretrained(folder)
    return empty_model(str(folder))


def settings(**changes) -> SimpleNamespace:
    usual = dict(
        max_prompt_tokens=1024,
        max_response_tokens=3000,
        micro_batch_tokens=16384,
        gradient_checkpointing=True,
        attn_implementation="sdpa",
        tensor_parallel=1,
        replicas=1,
        beta=0.0,
        keep_checkpoints=2,
        num_steps=500,
        save_every=16,
        share_prompts=False,
    )
    return SimpleNamespace(**usual | changes)


def test_shares_of_the_7b_on_eight_gpus_by_hand(qwen_7b, monkeypatch):
    monkeypatch.setattr(memory, "_activations", lambda *_: 5.0)
    need = learner_memory(settings(), qwen_7b, 8)
    assert QWEN_PARAMETERS == 7_615_616_512
    assert need.weights == need.gradients == 4 * QWEN_PARAMETERS / 8
    assert need.optimizer == 8 * QWEN_PARAMETERS / 8 and need.reference == 0
    root = QWEN_PARAMETERS - 28 * QWEN_LAYER
    assert need.gathered == 4 * root + 8 * QWEN_LAYER + 4 * QWEN_LAYER
    assert need.update == sum(need) and need.activations == 5
    assert learner_memory(settings(beta=0.1), qwen_7b, 8).reference == need.weights
    assert learner_memory(settings(), qwen_7b, 1).gathered == 0


def test_recomputing_keeps_each_layers_input_and_the_inside_of_one(qwen_7b):
    tokens = 2 * 512
    c = settings(max_prompt_tokens=12, max_response_tokens=500, micro_batch_tokens=tokens)
    inputs = 28 * 2 * 3584 * tokens
    # Gate, up and their product, 2 bytes each: the largest of a layer's inside.
    inside = 3 * 2 * 18944 * tokens
    recomputed = learner_memory(c, qwen_7b, 8).activations
    c.gradient_checkpointing = False
    kept = learner_memory(c, qwen_7b, 8).activations
    head = 2 * 152064 * 3584 * 2  # its gradient and the embedding's, at the very end
    assert inputs + inside < recomputed < inputs + 3 * inside + head
    assert kept > 28 * inside


def test_the_engines_memory_by_hand(qwen_7b):
    # Keys and values, 2 bytes, 28 layers, 4 heads of 128, for 4024 tokens.
    assert engine_memory(settings(), qwen_7b) == (2 * QWEN_PARAMETERS, 2 * 2 * 28 * 4 * 128 * 4024)
    halves = (QWEN_PARAMETERS, 2 * 2 * 28 * 2 * 128 * 4024)
    assert engine_memory(settings(tensor_parallel=2), qwen_7b) == halves
    # Eight ranks and four heads: each rank has one.
    assert engine_memory(settings(tensor_parallel=8), qwen_7b)[1] == 2 * 2 * 28 * 1 * 128 * 4024


# GB of weights, gradients, optimizer, reference, gathered, activations
FITS = (4, 4, 8, 0, 7, 8)


@pytest.mark.parametrize(
    "changes,parts,share,advice",
    [
        ({}, FITS, 0.6, {}),
        # 23 GB besides activations; 92 % of 40 GB leaves 13.8 for them, a tenth of 138, and of 80 GB 50.6.
        (
            {"micro_batch_tokens": 50000},
            (4, 4, 8, 0, 7, 138),
            0.6,
            {40: "--micro_batch_tokens 5000", 80: "--micro_batch_tokens 18333"},
        ),
        (
            {"gradient_checkpointing": False},
            (4, 4, 8, 0, 7, 69),
            0.6,
            {40: "--gradient_checkpointing true", 80: "--micro_batch_tokens 12014"},
        ),
        ({}, (4, 4, 8, 0, 7, 69), 0.6, {40: "more GPUs", 80: "--micro_batch_tokens 12014"}),
        ({}, FITS, 0.3, {40: "12.0, does not hold its weights and a response: --tensor_parallel 2"}),
        # 12 GB beside the engine, 36.8 usable of 40.
        (
            {},
            FITS,
            0.9,
            {40: "36.0, is too much beside the learner: --engine_memory 0.62", 80: "--engine_memory 0.77"},
        ),
        # A reference stays beside the engine: 4 + 8 + 4 GB, and 36.8 usable of 40.
        ({}, (4, 4, 8, 4, 3, 3), 0.6, {40: "24.0, is too much beside the learner: --engine_memory 0.52"}),
        # 15.32 GB hold the weights of 15.23, and no response of 0.23 beside them.
        ({}, FITS, 0.383, {40: "15.3, does not hold its weights and a response: --tensor_parallel 2"}),
        ({}, (15, 1, 10, 0, 0, 1), 0.6, {40: "24.0, is too much beside the learner: more GPUs"}),
    ],
)
def test_what_does_not_fit_is_named_with_the_flag_to_change(
    changes, parts, share, advice, qwen_7b, monkeypatch
):
    need = memory.Memory(*(part * 1e9 for part in parts))
    monkeypatch.setattr(memory, "learner_memory", lambda *_: need)
    printed = memory_table(settings(**changes), qwen_7b, share, ((8, 40, 1), (8, 80, 1))).splitlines()
    warnings = [line for line in printed if line.startswith("!")]
    assert len(warnings) == len(advice)
    for line, (size, text) in zip(warnings, advice.items(), strict=True):
        assert line.startswith(f"! 8 x {size} GB: ") and text in line


@pytest.mark.parametrize(
    "gpu_bytes,tokens",
    [
        # 23 GB besides activations; 92 % of 28 GB leaves 2.76 for them, where 32,768 tokens take 8.
        (28e9, 11304),
        (40e9, 32768),  # more would fit, and gain nothing
        (26e9, 4024),  # less fits, and a response must
        (None, 4024),
    ],
)
def test_a_micro_batch_takes_what_fits(gpu_bytes, tokens, qwen_7b, monkeypatch):
    asked = []

    def need(c, model, shards, dtype):
        asked.append((c.micro_batch_tokens, shards))
        return memory.Memory(*(p * 1e9 for p in FITS))

    monkeypatch.setattr(memory, "learner_memory", need)
    c = settings(micro_batch_tokens=None, replicas=2)
    assert memory.fitting_micro_batch(c, qwen_7b, gpu_bytes, 16, torch.bfloat16) == tokens
    assert asked == ([(32768, 8)] if gpu_bytes else []) and c.micro_batch_tokens is None
    c.max_prompt_tokens, c.max_response_tokens = 64, 128
    assert memory.fitting_micro_batch(c, qwen_7b, None, 16, torch.float32) == 2048


def test_the_table_tells_the_engines_share_by_hand(qwen_7b, monkeypatch):
    monkeypatch.setattr(memory, "learner_memory", lambda *_: memory.Memory(*(p * 1e9 for p in FITS)))
    printed = memory_table(settings(), qwen_7b, 0.6, ((8, 40, 1), (8, 80, 1))).splitlines()
    rows = {line[:46].strip(): line[46:].split() for line in printed if len(line) == 46 + 2 * 12}
    # 60 % of 40 and 80 GB without 15.23 of weights; 12 GB of the learner stay beside; 0.2308 a response.
    assert rows["engine: weights"] == ["15.2", "15.2"] and rows["engine: KV cache"] == ["8.8", "32.8"]
    assert rows["with the learner's weights and optimizer"] == ["36.0", "60.0"]
    assert rows["responses of full length sampled at once"] == ["38", "142"]


def check(model, gpu_bytes, share=0.6, ranks=8, **changes):
    check_memory(settings(**changes), model, share, gpu_bytes, torch.bfloat16, ranks, ranks)


def test_a_gpu_without_room_is_refused(qwen_7b, monkeypatch):
    monkeypatch.setattr(memory, "learner_memory", lambda *_: memory.Memory(*(p * 1e9 for p in FITS)))
    check(qwen_7b, 40e9)
    with pytest.raises(
        ValueError, match="^GPUs of 40 GB, 8 of them: the engine's share, 12.0, does not hold"
    ):
        check(qwen_7b, 40e9, share=0.3)
    with pytest.raises(ValueError, match="GPUs of 24 GB, 8 of them: an update takes 31.0, .*: more GPUs"):
        check(qwen_7b, 24e9, share=0.7)


def test_without_a_gpu_learner_and_engine_share_the_ram(qwen_7b, monkeypatch):
    monkeypatch.setattr(memory, "learner_memory", lambda *_, **__: memory.Memory(*(p * 1e9 for p in FITS)))
    ram = SimpleNamespace(available=0)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: ram)
    # 31 of the update, 15.23 of the engine's weights, 1.07 of its cache, 1 of the process; 80 % are used.
    ram.available = 61e9
    check(qwen_7b, None, share=1.0, ranks=1)
    ram.available = 60e9
    with pytest.raises(ValueError, match="60.0 GB of RAM a process, and the engine takes 17.3: an update"):
        check(qwen_7b, None, share=1.0, ranks=1)
    with pytest.raises(ValueError, match="--micro_batch_tokens [0-9]+ or --gradient_checkpointing true$"):
        check(qwen_7b, None, share=1.0, ranks=1, gradient_checkpointing=False, micro_batch_tokens=16384)
    with monkeypatch.context() as container:
        ram.available = 500e9
        container.setattr(memory, "container_bytes", lambda: 60e9)
        with pytest.raises(
            ValueError, match="60.0 GB of RAM a process, and the engine takes 17.3: an update"
        ):
            check(qwen_7b, None, share=1.0, ranks=1)
    ram.available = 119e9
    with pytest.raises(ValueError, match="59.5 GB of RAM a process"):
        check(qwen_7b, None, share=1.0, ranks=2)
    # 23 of the rest and 17.3 of the engine are more than 80 % of 50.
    ram.available = 50e9
    with pytest.raises(ValueError, match="8.0 of it: more GPUs, or a smaller model$"):
        check(qwen_7b, None, share=1.0, ranks=1, gradient_checkpointing=False, micro_batch_tokens=16384)
    with pytest.raises(
        ValueError, match="engine_memory 0.2 is 0.21 GB for vLLM's KV cache, and one response"
    ):
        check(qwen_7b, None, share=0.2)


def test_the_limits_of_a_container_count(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "CGROUP", tmp_path)
    here = environment.cores()
    for quota, memory_max, cores, size in [
        ("150000 100000", "1572864000", min(2, here), 1572864000),
        ("50000 100000", "9000000000", 1, 9000000000),
        ("6400000 100000", "max", here, float("inf")),
        ("max 100000", "max", here, float("inf")),
    ]:
        (tmp_path / "cpu.max").write_text(quota + "\n")
        (tmp_path / "memory.max").write_text(memory_max + "\n")
        assert (environment.cores(), memory.container_bytes()) == (cores, size)
    for file in tmp_path.iterdir():
        file.unlink()
    assert (environment.cores(), memory.container_bytes()) == (here, float("inf"))


def test_a_tiny_model_needs_the_room_of_its_process_too(checkpoint, monkeypatch):
    monkeypatch.setattr(memory, "container_bytes", lambda: 1.5e9)
    with pytest.raises(ValueError, match="1.5 GB of RAM a process, and the engine takes 2.1"):
        check(empty_model(checkpoint), None, share=1.0, ranks=1)
    monkeypatch.setattr(memory, "container_bytes", lambda: 4e9)
    check(empty_model(checkpoint), None, share=1.0, ranks=1)


def test_a_half_billion_parameters_do_not_fit_into_24_gb_of_ram_without_recomputing(tmp_path, monkeypatch):
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=24e9))
    shape = dict(hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14)
    shape |= dict(vocab_size=151936, num_key_value_heads=2, max_position_embeddings=32768)
    Qwen2Config(**shape, tie_word_embeddings=True).save_pretrained(tmp_path)
    model = empty_model(str(tmp_path))
    tokens = dict(max_prompt_tokens=64, max_response_tokens=128, micro_batch_tokens=4096)
    tokens |= dict(attn_implementation="eager")  # all of it as in the tiny recipe
    with pytest.raises(ValueError, match="--micro_batch_tokens [0-9]+ or --gradient_checkpointing true$"):
        check(model, None, share=1.0, ranks=1, gradient_checkpointing=False, **tokens)
    check(model, None, share=1.0, ranks=1, **tokens)


def test_the_disk_of_a_run_by_hand(qwen_7b, tmp_path, monkeypatch):
    run = SimpleNamespace(keep_checkpoints=2, num_steps=500, save_every=16)
    # Weights and two moments, 4 bytes each; two kept, the best, one being written, and model/.
    assert disk_needed(run, qwen_7b) == (12 * QWEN_PARAMETERS, (4 * 12 + 4) * QWEN_PARAMETERS)
    run.num_steps = 17
    assert disk_needed(run, qwen_7b)[1] == (2 * 12 + 4) * QWEN_PARAMETERS
    disk = SimpleNamespace(free=213.3e9)
    monkeypatch.setattr(memory.shutil, "disk_usage", lambda path: disk if path == tmp_path else None)
    check_disk(run, qwen_7b, tmp_path / "new" / "run")
    disk.free = 213.2e9
    with pytest.raises(ValueError, match="up to 213.2 GB of disk, 91.4 a checkpoint, and 213.2 are free"):
        check_disk(run, qwen_7b, tmp_path / "new" / "run")
    held = tmp_path / "checkpoints" / "step_2"
    held.mkdir(parents=True)
    (held / "shard").write_bytes(bytes(40_000_000))  # is written over in time
    check_disk(run, qwen_7b, tmp_path)


SHAPES = {  # the published ones: vocabulary, width, inner width, layers, heads, key-value heads, tied
    "oat-zero-7b": (152064, 3584, 18944, 28, 28, 4, False),
    "oat-zero-1.5b": (151936, 1536, 8960, 28, 12, 2, True),
    "gsm8k-0.5b": (151936, 896, 4864, 24, 14, 2, True),
}


@pytest.mark.slow
@pytest.mark.parametrize("recipe,gpus", [("oat-zero-7b", 8), ("oat-zero-1.5b", 1), ("gsm8k-0.5b", 1)])
def test_the_smallest_gpu_of_a_recipe_is_what_the_plan_says(recipe, gpus, tmp_path):
    names = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads"
    names = f"{names} num_key_value_heads tie_word_embeddings".split()
    Qwen2Config(**dict(zip(names, SHAPES[recipe], strict=True))).save_pretrained(tmp_path)
    c, model = parse_config(["--recipe", recipe, "--model", str(tmp_path)]), empty_model(str(tmp_path))
    c.micro_batch_tokens = c.micro_batch_tokens or 16384
    needs = {n: learner_memory(c, model, n) for n in ((1, 8) if gpus == 1 else (8,))}
    size = SMALLEST_GPU[recipe][gpus]
    advice = [memory._advice(c, needs[gpus], model, c.engine_memory or 0.6, gb) for gb in (size, size - 1)]
    assert advice[0] == [] and advice[1]
    for n in SMALLEST_GPU[recipe].keys() - {gpus}:  # shares of weights by hand, the rest as on eight
        ratio = needs[8].weights * 8 / n
        need = needs[8]._replace(weights=ratio, gradients=ratio, optimizer=2 * ratio)
        assert memory._advice(c, need, model, c.engine_memory or 0.6, SMALLEST_GPU[recipe][n]) == []


@pytest.mark.parametrize(
    "gpus,gb,recipe",
    [
        (1, 0, "tiny"),
        (1, 12, "tiny"),
        (1, 24, "gsm8k-0.5b"),
        (1, 80, "oat-zero-1.5b"),
        (2, 40, "oat-zero-1.5b"),
        (4, 40, "oat-zero-1.5b"),
        (4, 80, "oat-zero-7b"),
        (8, 24, "oat-zero-1.5b"),
        (8, 40, "oat-zero-7b"),
        (16, 80, "oat-zero-7b"),
    ],
)
def test_the_default_recipe_follows_the_hardware(gpus, gb, recipe):
    assert default_recipe(gpus, gb) == recipe


def test_without_a_flag_the_recipe_is_that_of_this_machines_gpus(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setattr(run_settings, "gpu_bytes", lambda: 80 * 10**9)
    assert parse_config([]).recipe == "oat-zero-7b"


def test_a_start_asks_for_room_on_the_disk(checkpoint, monkeypatch):
    monkeypatch.setattr(memory.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(ValueError, match="a run needs up to .* GB of disk"):
        run_settings.check(parse_config(["--recipe", "tiny", "--model", checkpoint]), 1)


MEASURE = """
import gc, json, re, sys, torch
from transformers import AutoConfig, AutoModelForCausalLM
from learner import autocast, prepare_policy

rows, width = map(int, sys.argv[2:])

def mebibytes(key):
    with open("/proc/self/status") as status:
        return int(re.search(key + r":\\s+(\\d+)", status.read())[1]) / 1024

def learn(rows, width):
    ids = torch.randint(1000, (rows, width + 1))
    with autocast(torch.device("cpu")):
        logprobs, _ = policy(ids[:, :-1], ids[:, 1:], torch.ones(rows, width, dtype=torch.bool))
    logprobs.sum().backward()

# What the libraries take on first use is not the model's: a small one goes first.
config = AutoConfig.from_pretrained(sys.argv[1])
small = AutoConfig.from_pretrained(sys.argv[1], num_hidden_layers=1, vocab_size=2000)
policy = prepare_policy(AutoModelForCausalLM.from_config(small))
learn(rows, width)
torch.optim.AdamW(policy.parameters(), fused=True).step()
del policy
gc.collect()
before = mebibytes("VmRSS")
policy = prepare_policy(AutoModelForCausalLM.from_config(config))
optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-6, fused=True)
for p in policy.parameters():
    p.grad = torch.zeros_like(p)
    p.grad.fill_(0.0)  # touched, so that it is resident
optimizer.step()
gc.collect()
held = mebibytes("VmRSS")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak counts from here
learn(rows, width)
print(json.dumps([held - before, mebibytes("VmHWM") - held]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory by Linux's /proc")
def test_the_estimate_is_within_15_percent_of_what_135m_parameters_take(tmp_path):
    LLAMA_135M.save_pretrained(tmp_path)
    rows, width = 2, 512
    c = settings(
        max_prompt_tokens=12,
        max_response_tokens=500,
        micro_batch_tokens=rows * width,
        gradient_checkpointing=False,
    )
    need = learner_memory(c, empty_model(str(tmp_path)), 1, compute_dtype(), chunk_size=2**22)
    # A fixed threshold returns each large block at once, as a GPU's allocator could; glibc's own keeps them.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": str(ROOT)}
    arguments = [str(tmp_path), str(rows), str(width)]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    held, peak = json.loads(done.stdout.splitlines()[-1])
    expected_held = (need.weights + need.gradients + need.optimizer) / 2**20
    print(f"MiB: held {held:.0f} of {expected_held:.0f}, peak {peak:.0f} of {need.activations / 2**20:.0f}")
    assert held == pytest.approx(expected_held, rel=0.15)
    assert peak == pytest.approx(need.activations / 2**20, rel=0.15)
    assert held + peak == pytest.approx(need.update / 2**20, rel=0.15)
