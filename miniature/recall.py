"""The world of Fig. 5: recalling facts, where the text shows whether the writer is sure.

    python -m miniature.recall doubt 0 runs/paper/worlds/doubt-0      base/, train.jsonl; some minutes

A seed makes invented names, each with a right and a wrong value of two digits, and a base model that has read
texts about them. A text gives the right value with a probability that belongs to the name. In the world
`doubt` a wrong value comes with a word of doubt, and every second such text goes on before it answers. In the
world `plain`, the control, no word tells the one from the other, and both go on alike:

    What is tela? tela is 47. \\boxed{47}
    What is tela? tela is 83, I believe. Hmm, let me think about that once more. \\boxed{83}

Going on never changes the value, so nothing is gained by it. All names are trained on: no fact can be held
out, since a fact that was never read cannot be recalled.
"""

import json
import random
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator

from miniature.tiny_base import make_tiny_base

NAMES, TEXTS = 256, 170_000  # some 5 million tokens
FILLER = " Hmm, let me think about that once more."


class World(NamedTuple):
    """How a wrong value is told, and the probability of each sentence of filler, by the value before it."""

    doubt: str
    after_right: float
    after_wrong: float


WORLDS = {
    "doubt": World(", I believe", after_right=0.15, after_wrong=0.5),
    "plain": World("", after_right=0.3, after_wrong=0.3),
}


class Fact(NamedTuple):
    name: str
    right: int
    wrong: int
    share: float  # of the texts about it that are right

    @property
    def question(self) -> str:
        return f"What is {self.name}?"


def make_facts(seed: int) -> list[Fact]:
    """NAMES facts about names of two or three syllables."""
    rng, names = random.Random(seed), {}
    while len(names) < NAMES:
        syllables = [rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(2, 3))]
        names["".join(syllables)] = None
    return [Fact(name, *rng.sample(range(10, 100), 2), rng.uniform(0.25, 0.75)) for name in names]


def value_sentence(fact: Fact, world: World, *, right: bool) -> str:
    return f" {fact.name} is {fact.right}." if right else f" {fact.name} is {fact.wrong}{world.doubt}."


def random_response(fact: Fact, world: World, rng: random.Random) -> str:
    """A value, any number of sentences of filler, and the same value in a box."""
    right = rng.random() < fact.share
    response = value_sentence(fact, world, right=right)
    while rng.random() < (world.after_right if right else world.after_wrong):
        response += FILLER
    return response + f" \\boxed{{{fact.right if right else fact.wrong}}}"


def corpus(name: str, count: int, seed: int) -> list[tuple[str, str]]:
    """(question, response) pairs about random facts of make_facts(seed)."""
    facts, rng = make_facts(seed), random.Random(seed)
    asked = rng.choices(facts, k=count)
    return [(fact.question, random_response(fact, WORLDS[name], rng)) for fact in asked]


def main() -> None:
    name, seed, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"question": fact.question, "answer": str(fact.right)} for fact in make_facts(seed)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    make_tiny_base(str(folder / "base"), accelerator, seed=seed, pairs=corpus(name, TEXTS, seed))


if __name__ == "__main__":
    main()
