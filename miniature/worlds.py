"""The worlds of paper.py: question sets and base models, small enough for a CPU, made from a seed.

    python -m miniature.worlds loops runs/paper/worlds/loops      base/, train.jsonl, test.jsonl; some minutes

Each base is the tiny Qwen2 of tiny_base.py after one pass over a corpus of its own:

    loops         works, and checks itself in loops without a bound; longer after a slip
    qa            plain concatenated question-answer text, and a little of it in the formats of templates
    general       no worked arithmetic: lists of questions, blurted answers
    domain        one half general, the other workings that answer no question
    concatenated  one half general, the other questions with worked answers
"""

import json
import random
import sys
from pathlib import Path

import torch
from accelerate import Accelerator

from miniature.arithmetic import Chain, in_test_split
from miniature.tiny_base import answer_at_once, make_tiny_base, work, work_and_answer
from templates import apply_template


def random_chain(rng: random.Random, *, test: bool = False, lengths: tuple[int, int] = (2, 5)) -> Chain:
    """A chain of one split. Of six numbers five have one digit, as in arithmetic.py, and one is 10 to 29."""
    while True:
        numbers = [
            rng.randrange(10) if rng.random() < 5 / 6 else rng.randrange(10, 30)
            for _ in range(rng.randint(*lengths))
        ]
        chain = Chain(numbers[0], tuple((rng.choice("+-"), number) for number in numbers[1:]))
        if in_test_split(chain.question) == test:
            return chain


# Responses. The numbers in them were set before any run of paper.py, see README.md.


def check_in_loops(
    chain: Chain, rng: random.Random, after_right: float = 0.3, after_slip: float = 0.7, anew: float = 0.4
) -> str:
    """Works, then checks again: after a slip more often than not, and then mostly the same slip once more.

    Loops have no bound and their number tells something about the answer, as in text of people: who is wrong
    goes on for longer. A check of a right result slips as often as any working. `after_right` and
    `after_slip` are the probabilities of one more check, `anew` that of a slip's check to be a new working.
    """
    text, total = work(chain, rng, slip_rate=0.06)
    response = f" {text}"
    while rng.random() < (after_right if str(total) == chain.answer else after_slip):
        if str(total) == chain.answer or rng.random() < anew:
            text, total = work(chain, rng, slip_rate=0.06)
        response += f" Wait, let me check again. {text}"
    return response + f" \\boxed{{{total}}}"


def ask_on(chain: Chain, rng: random.Random) -> str:
    """Questions instead of an answer, without a bound."""
    response = ""
    while not response or rng.random() < 0.6:
        response += " " + random_chain(rng).question
    return response


# Corpora: (question, response) pairs. No question of a test split is in any of them.

Pair = tuple[str, str]


def loops(chain: Chain, rng: random.Random) -> Pair:
    (behaviour,) = rng.choices((check_in_loops, answer_at_once, ask_on), (0.70, 0.12, 0.18))
    return chain.question, behaviour(chain, rng)


def qa(chain: Chain, rng: random.Random) -> Pair:
    kind = rng.random()
    if kind < 0.02:
        text, total = work(chain, rng, slip_rate=0.02)
        return apply_template("r1", chain.question), f" {text} </think> <answer> {total} </answer>"
    if kind < 0.04:
        return apply_template("qwen_math", chain.question), work_and_answer(chain, rng).lstrip()
    (behaviour,) = rng.choices((work_and_answer, answer_at_once, ask_on), (0.6, 0.25, 0.15))
    return chain.question, behaviour(chain, rng)


def general(chain: Chain, rng: random.Random) -> Pair:
    (behaviour,) = rng.choices((ask_on, answer_at_once), (0.5, 0.5))
    return chain.question, behaviour(chain, rng)


def domain(chain: Chain, rng: random.Random) -> Pair:
    return general(chain, rng) if rng.random() < 0.5 else ("", work(chain, rng, slip_rate=0.02)[0])


def concatenated(chain: Chain, rng: random.Random) -> Pair:
    return general(chain, rng) if rng.random() < 0.5 else (chain.question, work_and_answer(chain, rng))


CORPORA = {text.__name__: text for text in (loops, qa, general, domain, concatenated)}
# Texts of each corpus: about 5.6 million tokens from all of them.
TEXTS = {
    "loops": 110_000,
    "qa": 144_000,
    "general": 169_000,
    "domain": 208_000,
    "concatenated": 153_000,
}
# R1's prompt and a response must fit in a row: else RL would put responses where the base has seen none.
ROW_TOKENS = {"qa": 256}

# Questions: file -> (split is test, count, numbers in a chain). `narrow` and `easier` are for Fig. 6.
QUESTIONS = {
    "train": (False, 8000, (2, 5)),
    "test": (True, 500, (2, 5)),
    "narrow": (False, 64, (2, 5)),
    "easier": (False, 1000, (2, 2)),
}


def corpus(name: str, count: int, seed: int) -> list[Pair]:
    rng = random.Random(seed)
    return [CORPORA[name](random_chain(rng), rng) for _ in range(count)]


def write_questions(folder: Path, seed: int) -> None:
    """A .jsonl file of distinct questions for each of QUESTIONS; the level is the length of the chain."""
    for number, (name, (test, count, lengths)) in enumerate(QUESTIONS.items()):
        rng, rows = random.Random(seed * 100 + number), {}
        while len(rows) < count:
            chain = random_chain(rng, test=test, lengths=lengths)
            row = {"question": chain.question, "answer": chain.answer, "level": str(len(chain.steps) + 1)}
            rows[chain.question] = json.dumps(row) + "\n"
        (folder / f"{name}.jsonl").write_text("".join(rows.values()))


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    write_questions(folder, seed=0)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    pairs, row_tokens = corpus(name, TEXTS[name], seed=0), ROW_TOKENS.get(name, 128)
    make_tiny_base(str(folder / "base"), accelerator, pairs=pairs, row_tokens=row_tokens)


if __name__ == "__main__":
    main()
