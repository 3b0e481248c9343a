"""Next-token training on concatenated question-answer text.

    python pretrain.py                                     make the tiny base model of the CPU default
    accelerate launch pretrain.py --model M --data D    continual pretraining of a base model (Sec. 3.4)

The tiny base is a Qwen2 of 0.5M parameters and 2 layers. Its corpus is a mixture of behaviours, as web text
is, because reinforcement learning selects behaviours that the base model already has: to the same arithmetic
question some texts work step by step, some blurt out an answer, some ramble, some ask further questions.
"""

import math
import random
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import environment  # noqa: F401

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from cli import Flags, above_zero, one_sentence, try_hub
from data import (
    ANSWER_COLUMNS,
    QUESTION_COLUMNS,
    Chain,
    find_column,
    in_test_split,
    open_source,
    random_chain,
)
from learner import (
    Policy,
    autocast,
    check_model,
    load_policy,
    load_tokenizer,
    prepare_policy,
    read_config,
    save_model,
    start_accelerator,
)
from loss import masked_mean

END = "<|endoftext|>"
TINY_BASE = "models/tiny-base"  # train.py looks for it here


@dataclass
class PretrainConfig:
    model: str | None = field(
        default=None, metadata={"help": "base model to go on with; none: make the tiny one"}
    )
    data: str | None = field(
        default=None, metadata={"help": "question-answer texts: a file, folder or Hub id"}
    )
    question_column: str | None = None
    answer_column: str | None = field(default=None, metadata={"help": "worked answers; default: solution"})
    output_dir: str | None = field(default=None, metadata={"help": "where the trained model goes"})
    epochs: int = field(default=2, metadata={"help": "passes over --data (the paper: 2)"})
    lr: float | None = field(
        default=None, metadata={"help": "peak: 1e-5 (the paper), 3e-3 for the tiny base"}
    )
    row_tokens: int = field(default=4096, metadata={"help": "length of the rows that texts are packed into"})
    batch_rows: int = field(default=32, metadata={"help": "rows an update, over all ranks"})
    seed: int = 0


# The tiny world: texts that answer "What is 3 + 9 - 4?" in four ways


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
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

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


# Next-token training, at any size


def pack(
    pairs: list[tuple[str, str]], tokenizer, row_tokens: int, *, learn_questions: bool
) -> tuple[Tensor, Tensor]:
    """Join question + response + end token into one stream -> ids, is_target, both [rows, row_tokens + 1].

    No padding: a text that does not fit in a row goes on in the next. `is_target` marks the tokens to learn.
    """
    encode = tokenizer.backend_tokenizer.encode_batch_fast  # twice as fast as the call with all its options
    questions = encode([question for question, _ in pairs], add_special_tokens=False)
    responses = encode([response for _, response in pairs], add_special_tokens=False)
    ids, is_target = [], []
    for question, response in zip(questions, responses, strict=True):
        ids += [*question.ids, *response.ids, tokenizer.eos_token_id]
        is_target += [learn_questions] * len(question) + [True] * (len(response) + 1)
    rows = (len(ids) - 1) // row_tokens
    if rows == 0:
        raise ValueError(f"{len(pairs)} texts give {len(ids)} tokens, fewer than one row of {row_tokens}")
    # Neighbouring rows share a token: the last label of one is the first input of the next.
    take = torch.arange(rows)[:, None] * row_tokens + torch.arange(row_tokens + 1)
    return torch.tensor(ids)[take], torch.tensor(is_target)[take]


def train_next_token(
    policy: Policy,
    ids: Tensor,
    is_target: Tensor,
    *,
    epochs: int,
    batch_rows: int,
    lr: float,
    seed: int,
    accelerator: Accelerator,
) -> float:
    """AdamW, a short warm-up, a cosine to zero -> mean loss of the last 50 updates, in nats a token."""
    world, rank = accelerator.num_processes, accelerator.process_index
    optimizer = torch.optim.AdamW(policy.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    generator = torch.Generator().manual_seed(seed)
    order = torch.cat([torch.randperm(len(ids), generator=generator) for _ in range(epochs)])
    updates = len(order) // batch_rows
    if updates == 0 or batch_rows % world:
        raise ValueError(
            f"batch_rows {batch_rows} must be a multiple of {world} ranks, and at most the {len(order)} rows"
        )
    warmup = max(1, updates // 20)
    losses = []
    progress = tqdm(range(updates), desc="pretrain", unit="update", disable=not accelerator.is_main_process)
    for update in progress:
        fraction = (
            (update + 1) / warmup if update < warmup else (1 + math.cos(math.pi * update / updates)) / 2
        )
        optimizer.param_groups[0]["lr"] = lr * fraction
        rows = order[update * batch_rows : (update + 1) * batch_rows][rank::world]
        batch, target = ids[rows].to(accelerator.device), is_target[rows].to(accelerator.device)
        # Log-probs of all tokens, though not all are targets: shapes that never change are faster on CPU.
        with autocast(accelerator.device):
            logprobs, _ = policy(batch[:, :-1], batch[:, 1:], torch.ones_like(target[:, 1:]))
        loss = -masked_mean(logprobs, target[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if update % 20 == 0:
            progress.set_postfix(loss=f"{losses[-1]:.3f}")
    return sum(losses[-50:]) / len(losses[-50:])


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


def read_texts(source: str, question_column: str | None, answer_column: str | None) -> list[tuple[str, str]]:
    """(question, worked answer) pairs. ValueError names the file and the row where one of them is empty."""
    table = open_source(source, "train", None)
    question = find_column(table, question_column, QUESTION_COLUMNS, "question_column")
    answer = find_column(table, answer_column, ("solution", *ANSWER_COLUMNS), "answer_column")
    pairs = []
    for number, row in table.rows:
        if not row.get(question) or not row.get(answer):
            raise ValueError(f"{table.origin}, row {number}: {question} or {answer} is empty")
        pairs.append((f"{row[question]}\n", str(row[answer])))
    return pairs


def continue_pretraining(config: PretrainConfig, accelerator: Accelerator) -> None:
    """Sec. 3.4: next-token training of an existing model on concatenated question-answer text."""
    pairs = read_texts(config.data, config.question_column, config.answer_column)
    tokenizer = load_tokenizer(config.model)
    ids, is_target = pack(pairs, tokenizer, config.row_tokens, learn_questions=True)
    policy = load_policy(config.model, accelerator.device, gradient_checkpointing=True)
    loss = train_next_token(
        policy,
        ids,
        is_target,
        epochs=config.epochs,
        batch_rows=config.batch_rows,
        lr=config.lr or 1e-5,
        seed=config.seed,
        accelerator=accelerator,
    )
    save_model(policy, tokenizer, config.output_dir, read_config(config.model).dtype)
    accelerator.print(
        f"{config.output_dir}: trained on {len(ids):,} rows, final loss {loss:.3f} nats a token"
    )


def main() -> None:
    usage = "pretrain.py [--model M --data D --output_dir O] [--flag value ...]   (-h lists all flags)"
    started = time.perf_counter()
    with one_sentence("pretrain.py"):
        config = Flags(PretrainConfig, usage).read(sys.argv[1:])
        above_zero(config, ["epochs", "lr", "row_tokens", "batch_rows"])
        accelerator = start_accelerator()
        if config.model is None and config.data is None:
            make_tiny_base(config.output_dir or TINY_BASE, accelerator, config.seed, config.lr or 3e-3)
        elif config.model is None or config.data is None or config.output_dir is None:
            raise ValueError("continual pretraining needs all of --model, --data and --output_dir")
        else:
            try_hub([config.model, config.data])
            check_model(config.model)
            continue_pretraining(config, accelerator)
    accelerator.print(f"done in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
