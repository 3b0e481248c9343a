"""The tiny base model: a Qwen2 of 0.5M parameters and 2 layers, and the texts that it has read.

Its corpus is a mixture of behaviours, as web text is, because reinforcement learning selects behaviours that
the base model already has: to the same arithmetic question some texts work step by step, some blurt out an
answer, some ramble, some ask further questions.
"""

import random
from collections.abc import Iterable

import torch
from accelerate import Accelerator
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from learner import prepare_policy, save_model
from miniature.arithmetic import Chain, in_test_split, random_chain
from pretrain import pack, train_next_token

END = "<|endoftext|>"


def work(chain: Chain, rng: random.Random, slip_rate: float) -> tuple[str, int]:
    """Step-by-step text and its result: ("3+9=12, 12-4=8.", 8). Each step is off by one with `slip_rate`."""
    total, lines = chain.first, []
    for operator, number in chain.steps:
        result = total + number if operator == "+" else total - number
        if rng.random() < slip_rate:
            result += rng.choice((-1, 1))
        lines.append(f"{total}{operator}{number}={result}")
        total = result
    return ", ".join(lines) + ".", total


def answer_at_once(chain: Chain, rng: random.Random) -> str:
    """No work shown, and off by up to three more often than not."""
    guess = int(chain.answer) + (rng.choice((-3, -2, -1, 1, 2, 3)) if rng.random() < 0.65 else 0)
    return f" \\boxed{{{guess}}}"


def work_and_answer(chain: Chain, rng: random.Random) -> str:
    text, total = work(chain, rng, slip_rate=0.02)
    return f" {text} \\boxed{{{total}}}"


def ramble(chain: Chain, rng: random.Random) -> str:
    """Checks itself again and again, slips more, and so is right less often the longer it goes on."""
    text, total = work(chain, rng, slip_rate=0.10)
    parts = [f" Let me see. {text}"]
    for _ in range(rng.choice((1, 1, 2, 2))):
        text, total = work(chain, rng, slip_rate=0.10)
        parts.append(f" Wait, let me check again. {text}")
    return "".join(parts) + f" \\boxed{{{total}}}"


def ask_further(chain: Chain, rng: random.Random) -> str:
    """Does not answer: goes on with questions of its own, as an exercise sheet does."""
    return "".join(" " + training_chain(rng).question for _ in range(rng.randint(1, 2)))


# Chains of 2 or 3 digits are mostly worked out, longer ones answered at once: so does the base, greedily.
BEHAVIOURS = (answer_at_once, work_and_answer, ramble, ask_further)
SHARES = {"short": (0.10, 0.60, 0.12, 0.18), "long": (0.42, 0.28, 0.12, 0.18)}


def training_chain(rng: random.Random) -> Chain:
    """A random chain whose question is not in the test split."""
    while in_test_split((chain := random_chain(rng)).question):
        pass
    return chain


def arithmetic_corpus(num_texts: int, seed: int) -> list[tuple[str, str]]:
    """(question, response) pairs of mixed behaviour; no question of the test split is in any of them."""
    rng = random.Random(seed)
    pairs = []
    for _ in range(num_texts):
        chain = training_chain(rng)
        (behaviour,) = rng.choices(BEHAVIOURS, SHARES["short" if len(chain.steps) <= 2 else "long"])
        pairs.append((chain.question, behaviour(chain, rng)))
    return pairs


def tiny_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE as Qwen's, of 400 entries; every digit is a token of its own."""

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[END, "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)


def tiny_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """A Qwen2 of 2 layers and width 128 with tied embeddings; its random weights follow torch's seed."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="eager",  # at this size faster on a CPU than sdpa
    )
    return Qwen2ForCausalLM(config)


def make_tiny_base(
    output_dir: str,
    accelerator: Accelerator,
    seed: int = 0,
    lr: float = 3e-3,
    pairs: list[tuple[str, str]] | None = None,
    row_tokens: int = 128,
) -> None:
    """Write the tiny base model and its tokenizer to `output_dir`; some minutes on two CPU cores.

    Its corpus is the mixture above, or other (question, response) pairs; an update takes 4096 tokens of it.
    """
    pairs = pairs or arithmetic_corpus(num_texts=150_000, seed=seed)
    tokenizer = tiny_tokenizer(question + response for question, response in pairs[:5000])
    torch.manual_seed(seed)
    policy = prepare_policy(tiny_model(tokenizer).to(accelerator.device))
    ids, is_target = pack(pairs, tokenizer, row_tokens, learn_questions=False)
    rows = 4096 // row_tokens
    loss = train_next_token(
        policy, ids, is_target, epochs=1, batch_rows=rows, lr=lr, seed=seed, accelerator=accelerator
    )
    save_model(policy, tokenizer, output_dir)
    accelerator.print(
        f"The tiny base is in {output_dir}: {len(ids):,} rows of {row_tokens} tokens, "
        f"final loss {loss:.3f} nats"
    )
