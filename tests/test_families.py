"""Architectures: each is learned and handed over exactly, or refused in one sentence before weights load.

The weights are sharp and moved after the engine's start: a random model of usual size answers nearly
uniformly, so that even a layer that never arrived would hardly show.
"""

import gc
import json
import os
import shutil

import pytest
import torch
import transformers
from conftest import make_rollout
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import learner
from learner import checkpoint_weights, load_policy
from rollout import Sampler, collate
from run import base_model
from run.base_model import check_model, empty_model, encode, load_tokenizer
from run.settings import check, parse_config

CPU = torch.device("cpu")
SMALL = dict(
    vocab_size=320, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, max_position_embeddings=256, initializer_range=0.3, bos_token_id=None,
    eos_token_id=0, pad_token_id=0,
)  # fmt: skip
EXACT = {
    "Llama": dict(tie_word_embeddings=False),
    "Mistral": dict(sliding_window=None),
    "Qwen2": dict(tie_word_embeddings=True),
    "Qwen3": dict(head_dim=32, tie_word_embeddings=True),
    "Qwen3-untied": dict(head_dim=32, tie_word_embeddings=False),
    "Gemma3Text": dict(head_dim=32, query_pre_attn_scalar=32, sliding_window=64),
    "Phi3": {},
    "Olmo2": {},
    "SmolLM3": {},
    "Granite": dict(logits_scaling=8.0, embedding_multiplier=3.0, residual_multiplier=0.5),
    "Cohere": dict(logit_scale=0.25),
    "GPTNeoX": dict(num_key_value_heads=2),  # it has as many of these as heads
}
# One of each kind in every run of the tests: tied, scaled embedding, packed projections, vLLM's own or
# transformers' code in the engine, scaled logits. The others are for `make soak`: ten seconds each.
KINDS = ("Qwen2", "Gemma3Text", "Phi3", "Olmo2", "Granite", "Cohere")


def config_of(family: str, **more):
    kind = getattr(transformers, family.removesuffix("-untied") + "Config")
    return kind(**SMALL | more)


def save(family: str, folder, tokenizer, **more) -> str:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config_of(family, **more)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setattr(learner, "compute_dtype", lambda: torch.float32)


PROBE = make_rollout(list(range(20, 50)), list(range(60, 90)))


def learner_logprobs(policy) -> torch.Tensor:
    batch = collate([PROBE])
    with torch.no_grad():
        return policy(batch.input_ids, batch.labels, batch.response_mask)[0][batch.response_mask]


# Before any engine: vLLM changes the classes of some families, which then want its own settings.
@pytest.mark.parametrize("family", EXACT)
def test_prompts_can_be_shared_where_no_window_hides_them(family, tokenizer, tmp_path):
    path = save(family, tmp_path, tokenizer, **EXACT[family])
    flags = f"--recipe tiny --model {path} --share_prompts --attn_implementation sdpa"
    if family == "Gemma3Text":
        with pytest.raises(ValueError, match="^share_prompts: .* sees a window of its text"):
            check(parse_config(flags.split()), 1)
        return
    check(parse_config(flags.split()), 1)
    batch = collate([PROBE, make_rollout(PROBE.prompt_ids, list(range(30, 70)))])
    inputs = (batch.input_ids, batch.labels, batch.response_mask)
    policy = load_policy(path, CPU)
    with torch.no_grad():
        (plain, _), (shared, _) = policy(*inputs), policy(*inputs, share=True)
    torch.testing.assert_close(shared, plain, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("family", EXACT)
def test_whole_weights_pass_in_one_file_in_parts_and_as_bin(family, tokenizer, tmp_path):
    path = save(family, tmp_path, tokenizer, **EXACT[family])
    check_model(path)
    model = AutoModelForCausalLM.from_pretrained(path)
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(path, max_shard_size="100KB")
    assert not (tmp_path / "model.safetensors").exists()
    check_model(path)
    for file in tmp_path.glob("*.safetensors*"):
        file.unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    check_model(path)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="float32 comparisons, written for the CPU build")
@pytest.mark.parametrize(
    "family", [f if f in KINDS else pytest.param(f, marks=pytest.mark.soak) for f in EXACT]
)
def test_a_family_is_learned_and_handed_over_exactly(family, tokenizer, tmp_path):
    path = save(family, tmp_path, tokenizer, **EXACT[family])
    assert check_model(path) == 256
    empty_model(path)
    policy = load_policy(path, CPU)
    sampler = Sampler(path, max_model_len=128, dtype=torch.float32, memory=0.05)
    try:
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.mul_(1.2).add_(0.05 * torch.randn_like(parameter))
        logprobs = learner_logprobs(policy)
        # The textbook: the model's own logits.
        ids = torch.tensor([PROBE.prompt_ids + PROBE.response_ids])
        with torch.no_grad():
            own = policy.model(input_ids=ids).logits[0, 29:-1].log_softmax(-1)
        own = own.gather(1, torch.tensor(PROBE.response_ids)[:, None])[:, 0]
        torch.testing.assert_close(logprobs, own, atol=1e-4, rtol=1e-5)
        before = torch.tensor(sampler.logprobs(PROBE))
        sampler.load_weights(checkpoint_weights(policy))
        after = torch.tensor(sampler.logprobs(PROBE))
        torch.testing.assert_close(after, logprobs, atol=1e-3, rtol=1e-4)  # two implementations
        assert (before - after).abs().max() > 0.1
    finally:
        del sampler  # an engine that ends takes the process group with it, so before the next one starts
        gc.collect()


@pytest.mark.parametrize(
    "family,more,message",
    [
        (
            "Qwen3Moe",
            dict(num_experts=4, moe_intermediate_size=32),
            "Qwen3MoeForCausalLM packs several matric",
        ),
        ("Mixtral", dict(num_local_experts=4), "MixtralForCausalLM packs several matrices into one tensor"),
        ("Gemma2", {}, "Gemma2ForCausalLM does more to its logits than to scale them"),
        ("Phi", {}, "PhiForCausalLM has a head with a bias"),
        ("GPT2", {}, "GPT2LMHeadModel has no decoder layers in base_model.layers"),
        ("Mamba", None, "is a mamba, which states no max_position_embeddings"),
        ("T5", {}, "is a t5, and only models of text alone can be trained"),
        ("Gemma3", None, "is a gemma3, and only models of text alone can be trained"),
        ("Llama", dict(quantization_config={"quant_method": "awq", "bits": 4}), "is quantized: take"),
        ("Llama", dict(auto_map={"AutoConfig": "evil.Evil"}, model_type="evil"), "cannot be read: "),
        ("Llama", dict(model_type="unheard_of"), "cannot be read: The checkpoint you are trying to load has"),
        (
            "Llama",
            dict(hidden_size="64"),
            "'hidden_size': TypeError: Field 'hidden_size' expected int, got",
        ),
        ("Llama", dict(dtype="bogus"), "cannot be read: AttributeError: module 'torch' has no attribute 'bo"),
        ("Llama", dict(rope_parameters={"rope_type": "bogus", "rope_theta": 1e4}), "KeyError: 'bogus'"),
        ("Dots1", None, ": TypeError: empty() takes 1 positional argument"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_sentence(family, more, message, tmp_path, monkeypatch):
    """Also without a question on stdin, which transformers asks before it runs a checkpoint's own code."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question on stdin"))
    monkeypatch.setattr(base_model, "check_weights", lambda *_: None)  # there are none
    config = config_of(family) if more is not None else getattr(transformers, f"{family}Config")()
    written = config.to_dict() | (more or {})
    (tmp_path / "config.json").write_text(json.dumps(written))
    with pytest.raises(ValueError) as refused:
        check_model(str(tmp_path))
        empty_model(str(tmp_path))
    assert message in str(refused.value) and "\n" not in str(refused.value)


def rename(folder, change):
    weights = {change(name): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def cut(folder):
    os.truncate(folder / "model.safetensors", 5000)


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
INDEX = json.dumps({"weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}})


@pytest.mark.parametrize(
    "damage,message",
    [
        (lambda folder: None, None),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights: there is no model.safe"),
        (lambda folder: (folder / "model.safetensors").write_text(POINTER), "or a pointer of Git LFS (git l"),
        (cut, "model.safetensors is damaged, or a pointer of Git LFS (git lfs pull): Error while deseri"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "model.safetensors.index.json"),
            "model.safetensors.index.json cannot be read: ",
        ),
        (
            lambda folder: (
                (folder / "model.safetensors").unlink(),
                (folder / "model.safetensors.index.json").write_text(INDEX),
            ),
            "lacks model-00001-of-00001.safetensors, a part of its weights",
        ),
        (
            lambda folder: rename(folder, "module.{}".format),
            ": lm_head.weight is missing, in all 27 weights, and module.model.embed_tokens.weight has no",
        ),
        (
            lambda folder: edit_config(folder, tie_word_embeddings=False),
            ": lm_head.weight is missing, in all 1 weights",
        ),
        (
            lambda folder: edit_config(folder, intermediate_size=100),
            ": model.layers.0.mlp.down_proj.weight is [64, 96], and by its config.json [64, 100]",
        ),
    ],
)
def test_damaged_weights_are_refused_before_they_load(damage, message, checkpoint, tmp_path, capfd):
    """Those that are missing would be drawn at random, and the run go on."""
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    damage(tmp_path)
    if message is None:
        check_model(str(tmp_path))
        assert capfd.readouterr() == ("", "")
        return
    with pytest.raises(ValueError) as refused:
        check_model(str(tmp_path))
    assert str(refused.value).startswith(f"model '{tmp_path}'") and message in str(refused.value)


def test_weights_that_do_not_load_are_not_drawn_at_random(checkpoint, tmp_path):
    """Seen as they load, too: before that nothing is known of a model on the Hub."""
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    rename(tmp_path, lambda name: name.replace("layers.1.", "layers.2."))
    with pytest.raises(ValueError, match=r"model.layers.1.input_layernorm.weight is missing, in all 12 wei"):
        load_policy(str(tmp_path), CPU)


def test_an_adapter_is_named_as_such(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is an adapter \(LoRA\): merge it into its base model first"):
        check_model(str(tmp_path))


def test_a_checkpoint_needs_its_tokenizer(tokenizer, tmp_path):
    path = save("Qwen2", tmp_path / "whole", tokenizer)
    assert load_tokenizer(path).encode("1+1") == tokenizer.encode("1+1")
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(f"{path}/{name}", bare)
    with pytest.raises(ValueError, match="tokenizer"):
        load_tokenizer(str(bare))


def test_a_token_beyond_the_embedding_is_named(tokenizer):
    ids = tokenizer.encode("1+1")
    assert encode(tokenizer, ["1+1", "1"], max(ids) + 1) == [ids, tokenizer.encode("1")]
    assert encode(tokenizer, [], 1) == []
    with pytest.raises(ValueError, match=f"is number {max(ids)}, and the model knows {max(ids)}: not its"):
        encode(tokenizer, ["1+1"], max(ids))
