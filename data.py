"""Question sets and benchmarks, as lists of `Problem`.

A source is the first of these that fits:
- `arithmetic`: chains of 2 to 5 digits ("What is 3 + 9 - 4?"), made here from a seed;
- one of the paper's own sets by its name (`PAPER_SETS`): from `data_dir`, or fetched once from the authors;
- a local .jsonl, .json, .parquet or .arrow file, or a folder that the `datasets` library saved;
- `owner/name` or `owner/name:config` on the Hugging Face Hub.

A source that holds one table gives it for every split. Whatever is wrong with a source is a ValueError or an
OSError whose one sentence names the file, the row and the columns found.
"""

import ast
import json
import os
import random
import re
import urllib.request
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

QUESTION_COLUMNS = ("problem", "question", "prompt", "input")  # the first that is there is taken
ANSWER_COLUMNS = ("answer", "answers", "final_answer", "expected_answer")
LEVEL_COLUMNS = ("level", "difficulty")
FILE_TYPES = (".jsonl", ".json", ".parquet", ".arrow")

# The authors' files at one commit of their repository, so that a name always means the same questions.
AUTHORS_URL = "https://raw.githubusercontent.com/sail-sg/understand-r1-zero"
AUTHORS_COMMIT = "dfca49dd460ee7cc8e4a5a162c876a7fd6993b87"
PAPER_SETS = {  # name -> folder below datasets/, with one file in each
    "math12k": "train/math_12k/train",
    "math_lvl3to5": "train/math_lvl3to5_8k/train",
    "orz57k": "train/orz_57k/train",
    "gsm8k": "train/gsm_8k/train",  # 8,792 rows: GSM8K's own test questions are among them
    "asdiv": "train/asdiv_2k/train",
    "aime": "evaluation_suite/aime",
    "amc": "evaluation_suite/amc",
    "math500": "evaluation_suite/math",
    "minerva": "evaluation_suite/minerva",
    "olympiad": "evaluation_suite/olympiad_bench",
}
ARROW_FILE = "data-00000-of-00001.arrow"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+(:[\w.-]+)?")  # owner/name or owner/name:config


@dataclass(frozen=True)
class Problem:
    question: str
    answers: tuple[str, ...]  # any of them counts as right
    level: str | None = None  # difficulty, where the set states one


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


class Table(NamedTuple):
    origin: str  # the file, folder or Hub id, for errors
    columns: list[str]
    rows: Iterable[tuple[int, dict[str, Any]]]  # numbered from 1; in a .jsonl file by line


def load_problems(
    source: str,
    split: str = "train",
    *,
    data_dir: str | None = None,
    question_column: str | None = None,
    answer_column: str | None = None,
    level_column: str | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> list[Problem]:
    """The problems of a source (see the top of this file) in its order, at most `limit` of them.

    `data_dir` holds the paper's sets: a clone of the authors' repository, or its datasets/ folder.
    `seed` draws the arithmetic questions and nothing else.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit {limit} leaves no questions: set it to 1 or more")
    if source == "arithmetic":
        return arithmetic_problems(split, limit, seed)
    table = open_source(source, split, data_dir)
    problems = []
    for number, row in islice(table.rows, limit):
        if not problems:  # an empty set has no columns to look for
            question = find_column(table, question_column, QUESTION_COLUMNS, "question_column")
            answer = find_column(table, answer_column, ANSWER_COLUMNS, "answer_column")
            level = find_column(table, level_column, LEVEL_COLUMNS, "level_column", optional=True)
        try:
            problems.append(read_problem(row, question, answer, level))
        except ValueError as error:
            raise ValueError(f"{table.origin}, row {number}: {error}") from None
    if not problems:
        raise ValueError(f"{table.origin} is empty")
    return problems


def find_column(
    table: Table, chosen: str | None, usual: tuple[str, ...], flag: str, *, optional: bool = False
) -> str | None:
    """The chosen column, else the first of the usual ones, else (if optional and none was chosen) None."""
    wanted = (chosen,) if chosen else usual
    found = next((name for name in wanted if name in table.columns), None)
    if found is None and (chosen or not optional):
        columns = ", ".join(table.columns)
        raise ValueError(f"{table.origin} has no column {' or '.join(wanted)}, only {columns}: set --{flag}")
    return found


def read_problem(row: dict[str, Any], question: str, answer: str, level: str | None) -> Problem:
    """One row as a Problem, given the names of its columns. The question's text is kept as it is."""
    text, difficulty = row.get(question), row.get(level)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{question} is {text!r:.80}, and should be the text of a question")
    try:
        answers = read_answers(row.get(answer))
    except ValueError as error:
        raise ValueError(f"{answer} is {row.get(answer)!r:.80}, {error}") from None
    if isinstance(difficulty, float):
        difficulty = f"{difficulty:g}"  # 5.0 -> "5"
    return Problem(text, answers, None if difficulty is None else str(difficulty))


def read_answers(value: Any) -> tuple[str, ...]:
    r"""The accepted answers in one cell: a text, a number (142.0 -> "142.0") or a list of them; stripped.

    Two habits of published sets are undone: a list printed into a text ("['9.6\n']" -> "9.6"), and GSM8K's
    worked solution whose last line is "#### 72".
    """
    if isinstance(value, str) and re.match(r"\s*\[\s*['\"]", value):
        try:  # literal_eval reads literals only; a line break inside quotes would stop it
            value = ast.literal_eval(value.strip().replace("\n", r"\n")) if len(value) < 10_000 else None
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError("which starts like a printed list of strings but is none")
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str | int | float) for item in values):
        raise ValueError("and should be a text, a number or a list of them")
    texts = []
    for item in values:
        text = str(item).strip()
        last_line = text.rpartition("\n")[2]
        texts.append(last_line[4:].strip() if last_line.startswith("####") else text)
    if not texts or "" in texts or "nan" in texts:
        raise ValueError("and should not be empty")
    return tuple(dict.fromkeys(texts))  # in order, without repeats


def open_source(source: str, split: str, data_dir: str | None) -> Table:
    """Find out what a source is, open it, and choose the split: a single table serves every split."""
    path = find_paper_set(source, data_dir) if source in PAPER_SETS else Path(source).expanduser()
    on_hub = not path.exists() and path.suffix not in FILE_TYPES and HUB_ID.fullmatch(source)
    if not path.exists() and not on_hub:
        if "/" in source or path.suffix in FILE_TYPES:
            raise FileNotFoundError(f"data {source}: there is no such file or folder")
        names = ", ".join(("arithmetic", *PAPER_SETS))
        raise ValueError(f"data {source!r} is no file or folder, no Hub id (owner/name) and none of {names}")
    if path.is_file() and path.suffix not in FILE_TYPES:
        raise ValueError(f"data {source} should be a folder or end in {', '.join(FILE_TYPES)}")
    if path.suffix in (".json", ".jsonl") and path.is_file():
        rows = list(read_json(path))
        return Table(str(path), list(dict.fromkeys(name for _, row in rows for name in row)), rows)
    origin = source if on_hub else str(path)
    dataset = open_dataset(source if on_hub else path)
    if isinstance(dataset, dict):  # a DatasetDict: one Dataset a split
        if split not in dataset and len(dataset) != 1:
            raise ValueError(f"{origin} has no split {split!r}: choose one of {', '.join(dataset)}")
        dataset = dataset[split] if split in dataset else next(iter(dataset.values()))
    return Table(origin, dataset.column_names, enumerate(dataset, 1))


def read_json(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered rows of a .jsonl file (an object a line) or a .json file (a list of objects).

    The `datasets` library reads these too, but does not say which row is broken.
    """
    if path.suffix == ".jsonl":
        cells = path.read_bytes().splitlines()
    else:
        try:
            cells = json.loads(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path} is not JSON (one object a line? name it .jsonl): {error}") from None
        cells = cells if isinstance(cells, list) else [cells]
    for number, cell in enumerate(cells, 1):
        if isinstance(cell, bytes) and not cell.strip():
            continue  # a blank line
        try:
            row = json.loads(cell) if isinstance(cell, bytes) else cell
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, row {number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, row {number}: should be an object with columns, not {row!r:.40}")
        yield number, row


def open_dataset(source: Path | str):
    """The Dataset of a file or folder (Path) or of a Hub id (str); a DatasetDict where there are splits."""
    import datasets  # here, because it takes a second and arithmetic does without
    import pyarrow.parquet

    datasets.disable_progress_bars()
    try:
        if isinstance(source, str):
            name, _, config = source.partition(":")
            return datasets.load_dataset(name, config or None)
        if source.suffix == ".arrow":
            return datasets.Dataset.from_file(str(source))
        if source.suffix == ".parquet":  # Dataset.from_parquet would leave a second copy in a cache
            return datasets.Dataset(pyarrow.parquet.read_table(source))
        return datasets.load_from_disk(str(source))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        where = "is no folder here, and on the Hub it " if isinstance(source, str) else ""
        raise ValueError(f"{source} {where}cannot be read: {error}") from error


def find_paper_set(name: str, data_dir: str | None) -> Path:
    """The file of one of the paper's sets: in `data_dir` if given, else fetched once into a cache."""
    file = f"{PAPER_SETS[name]}/{ARROW_FILE}"
    if data_dir is not None:
        root = Path(data_dir).expanduser()
        for path in (root / file, root / "datasets" / file):
            if path.is_file():
                return path
        raise FileNotFoundError(f"{name}: there is no {file} in data_dir {data_dir}, nor in its datasets/")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(cache, "understand-r1-zero", AUTHORS_COMMIT, file)
    if path.is_file():
        return path
    url = f"{AUTHORS_URL}/{AUTHORS_COMMIT}/datasets/{file}"
    aside = path.with_name(f"{os.getpid()}-{ARROW_FILE}")  # several ranks may fetch at once
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            aside.write_bytes(response.read())
        open_dataset(aside)  # a proxy's error page must not enter the cache
        aside.replace(path)
    except (OSError, ValueError, HTTPException) as error:
        raise OSError(f"{name}: {url} could not be fetched ({error}): set --data_dir to a copy") from error
    finally:
        aside.unlink(missing_ok=True)
    return path
