"""Next-token training on concatenated question-answer text.

    python pretrain.py                                                 make the tiny base of the CPU default
    accelerate launch pretrain.py --model M --data D --output_dir O    go on with a base model (Sec. 3.4)

Domain pretraining before RL lifts what RL can reach; the tiny base's texts are in miniature/tiny_base.py.
"""

import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import run.environment  # noqa: F401

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from data import ANSWER_COLUMNS, QUESTION_COLUMNS, find_column, open_source, read_cell, read_question
from learner import Policy, autocast, load_policy, save_model
from run.base_model import check_largest, check_model, empty_model, load_tokenizer, read_config
from run.flags import Flags, check_numbers, flag, one_sentence, try_hub, try_writing
from run.ranks import start_accelerator
from run.settings import TINY_BASE

MICRO_BATCH_TOKENS = 16384  # of a rank's forward and backward


@dataclass
class PretrainConfig:
    model: str | None = flag(None, "base model to go on with; none: make the tiny one")
    data: str | None = flag(None, "question-answer texts: a file, folder or Hub id")
    question_column: str | None = flag(None, "column of --data that holds the question")
    answer_column: str | None = flag(None, "worked answers; default: solution")
    output_dir: str | None = flag(None, "where the trained model goes")
    epochs: int = flag(2, "passes over --data (the paper: 2)")
    lr: float | None = flag(None, "peak: 1e-5 (the paper), 3e-3 for the tiny base")
    row_tokens: int = flag(4096, "length of the rows that texts are packed into")
    batch_rows: int = flag(32, "rows an update, over all ranks")
    seed: int = flag(0, "of the order of rows, and of the tiny base")


def pack(
    pairs: list[tuple[str, str]], tokenizer, row_tokens: int, *, learn_questions: bool
) -> tuple[Tensor, Tensor]:
    """Join question + response + end token into one stream -> ids, is_target, both [rows, row_tokens + 1].

    No padding: a text that does not fit in a row goes on in the next. `is_target` marks the tokens to learn.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer names no end token (eos_token), with which each text ends")
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
    """AdamW, a short warm-up, a cosine to zero -> mean loss of the last 50 updates, in nats a token.

    Each target of an update weighs the same, on whichever rank and in whichever micro-batch it is.
    """
    world, rank = accelerator.num_processes, accelerator.process_index
    optimizer = torch.optim.AdamW(policy.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    generator = torch.Generator().manual_seed(seed)
    order = torch.cat([torch.randperm(len(ids), generator=generator) for _ in range(epochs)])
    updates = len(order) // batch_rows
    if updates == 0 or batch_rows % world:
        raise ValueError(
            f"batch_rows {batch_rows} must be a multiple of {world} ranks, and at most the {len(order)} rows"
        )
    warmup, at_once = max(1, updates // 20), max(1, MICRO_BATCH_TOKENS // (ids.shape[1] - 1))
    losses = []
    progress = tqdm(range(updates), desc="pretrain", unit="update", disable=not accelerator.is_main_process)
    for update in progress:
        fraction = (
            (update + 1) / warmup if update < warmup else (1 + math.cos(math.pi * update / updates)) / 2
        )
        optimizer.param_groups[0]["lr"] = lr * fraction
        rows = order[update * batch_rows : (update + 1) * batch_rows]
        # The ranks' gradients are averaged, so each divides by a rank's part of all ranks' targets.
        targets = is_target[rows][:, 1:].sum() / world
        losses.append(0.0)
        for micro_batch in rows[rank::world].split(at_once):
            batch = ids[micro_batch].to(accelerator.device)
            target = is_target[micro_batch][:, 1:].to(accelerator.device)
            # Log-probs of all tokens, though not all are targets: shapes that never change are faster on CPU.
            with autocast(accelerator.device):
                logprobs, _ = policy(batch[:, :-1], batch[:, 1:], torch.ones_like(target))
            loss = -logprobs.where(target, 0.0).sum() / targets
            loss.backward()
            losses[-1] += loss.item()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if update % 20 == 0:
            progress.set_postfix(loss=f"{losses[-1]:.3f}")
    return sum(losses[-50:]) / len(losses[-50:])


def read_texts(source: str, question_column: str | None, answer_column: str | None) -> list[tuple[str, str]]:
    """(question, worked answer) pairs. ValueError names the file and the row where one of them is no text."""
    table = open_source(source, "train", None)
    question = find_column(table, question_column, QUESTION_COLUMNS, "question_column")
    answer = find_column(table, answer_column, ("solution", *ANSWER_COLUMNS), "answer_column")
    pairs = []
    for place, row in table.rows:
        asked = read_cell(place, row, question, read_question)
        pairs.append((f"{asked}\n", read_cell(place, row, answer, read_worked_answer)))
    return pairs


def read_worked_answer(cell: Any) -> str:
    """A text as it is, with all its steps; ValueError for anything else, or a blank one."""
    if not isinstance(cell, str) or not cell.strip():
        raise ValueError("and should be a worked answer")
    return cell


def check_output(output_dir: str) -> None:
    """ValueError if anything is where the trained model goes, OSError if nothing can be written there."""
    folder = Path(output_dir).resolve()
    for path in (folder, Path(f"{folder}.partial")):  # save_model writes the one, and renames it to the other
        if path.is_file() or (path.exists() and any(path.iterdir())):
            raise ValueError(f"output_dir {path} is there already: take a new folder, or move that one away")
    try_writing(folder.parent)


def continue_pretraining(config: PretrainConfig, accelerator: Accelerator) -> None:
    """Sec. 3.4: next-token training of an existing model on concatenated question-answer text."""
    context = check_model(config.model)
    if config.row_tokens > context:
        raise ValueError(
            f"row_tokens {config.row_tokens} is over the context of {config.model}, {context} tokens"
        )
    vocab_size = empty_model(config.model).config.vocab_size
    pairs = read_texts(config.data, config.question_column, config.answer_column)
    tokenizer = load_tokenizer(config.model)
    ids, is_target = pack(pairs, tokenizer, config.row_tokens, learn_questions=True)
    check_largest(tokenizer, ids.max().item(), vocab_size)
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
        check_numbers(config)
        accelerator = start_accelerator()
        if config.model is None and config.data is None:
            from miniature.tiny_base import make_tiny_base

            check_output(config.output_dir or TINY_BASE)
            make_tiny_base(config.output_dir or TINY_BASE, accelerator, config.seed, config.lr or 3e-3)
        elif config.model is None or config.data is None or config.output_dir is None:
            raise ValueError("continual pretraining needs all of --model, --data and --output_dir")
        else:
            check_output(config.output_dir)
            try_hub([config.model, config.data])
            continue_pretraining(config, accelerator)
    accelerator.print(f"done in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
