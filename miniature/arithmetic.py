"""The questions of the tiny world: chains of 2 to 5 digits, "What is 3 + 9 - 4?", made from a seed."""

import random
import zlib
from typing import NamedTuple

from data import Problem


class Chain(NamedTuple):
    """Chain(3, (("+", 9), ("-", 4))) asks "What is 3 + 9 - 4?", and its answer is "8"."""

    first: int
    steps: tuple[tuple[str, int], ...]

    @property
    def question(self) -> str:
        return f"What is {self.first}" + "".join(f" {sign} {digit}" for sign, digit in self.steps) + "?"

    @property
    def answer(self) -> str:
        return str(self.first + sum(digit if sign == "+" else -digit for sign, digit in self.steps))


def random_chain(rng: random.Random) -> Chain:
    """A chain of 2 to 5 digits (0 to 9): every length, digit and sign is equally likely."""
    num_steps = rng.randint(1, 4)
    return Chain(rng.randrange(10), tuple((rng.choice("+-"), rng.randrange(10)) for _ in range(num_steps)))


def in_test_split(question: str) -> bool:
    """Whether an arithmetic question is held out: a tenth of all texts, whatever the seed that drew them."""
    return zlib.crc32(question.encode()) % 10 == 0


def arithmetic_problems(split: str = "train", count: int | None = None, seed: int = 0) -> list[Problem]:
    """`count` distinct questions (by default 8000 for train, 500 for test) in the order of their draw.

    The level is the number of digits. Only 200 questions have two, so a large set has few of level 2.
    """
    defaults = {"train": 8000, "test": 500}
    if split not in defaults:
        raise ValueError(f"arithmetic has no split {split!r}: choose one of {', '.join(defaults)}")
    count = defaults[split] if count is None else count
    if not 1 <= count <= 50_000:  # the test split has about 168,000 in all; new ones become slow to find
        raise ValueError(f"arithmetic makes 1 to 50000 questions, not {count}")
    rng, problems = random.Random(seed), {}
    while len(problems) < count:
        chain = random_chain(rng)
        if in_test_split(chain.question) == (split == "test"):
            problems[chain.question] = Problem(chain.question, (chain.answer,), str(len(chain.steps) + 1))
    return list(problems.values())
