"""Question sets and benchmarks, as lists of `Problem`.

A source is the first of these that fits:
- `arithmetic`: chains of 2 to 5 digits ("What is 3 + 9 - 4?"), made here from a seed;
- one of the paper's own sets by its name (`PAPER_SETS`): from `data_dir`, or fetched once from the authors;
- a local file with one of ENDINGS, or a folder that the `datasets` library saved;
- a folder of such files (a clone of a Hub dataset), or a pattern for their names ('x/*.parquet');
- `owner/name` or `owner/name:config` on the Hugging Face Hub.

A source that holds one table gives it for every split; files in a folder belong to the split that their
names state, or else to train. Whatever is wrong with a source is a ValueError or an OSError whose one
sentence names the file, the row and the columns found.
"""

import ast
import codecs
import contextlib
import csv
import glob
import gzip
import io
import json
import os
import random
import re
import urllib.request
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from itertools import chain, count, islice, takewhile
from pathlib import Path
from typing import Any, NamedTuple

from verify import extract_boxed, normalize, spellings

# The first that is there is taken. A dot leads into a column of objects, such as verl's answers.
QUESTION_COLUMNS = ("problem", "question", "prompt", "input", "messages", "conversations")
ANSWER_COLUMNS = ("answer", "answers", "final_answer", "expected_answer", "reward_model.ground_truth")
LEVEL_COLUMNS = ("level", "difficulty")
USER = ("user", "human")  # who asks in a chat
ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".jsonl.gz", ".json.gz", ".csv.gz", ".tsv.gz")
ENDINGS += (".parquet", ".arrow")
METADATA = ("config.json", "dataset_info.json", "dataset_infos.json")  # about the data of a folder
SPLITS = "train training; test testing eval evaluation; validation valid val dev"  # as the Hub reads names
SPLIT_WORDS = {word: group.split()[0] for group in SPLITS.split(";") for word in group.split()}
MAX_SAMPLE = 300  # references of a set that are tried on the verifier
MAX_CHARS, MAX_WORDS = 300, 12  # of a reference; a longer one is prose
LFS_POINTER = b"version https://git-lfs.github.com/spec/"

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
    origin: str  # the file, folder, pattern or Hub id, for errors
    columns: list[str]
    rows: Iterable[tuple[str, dict[str, Any]]]  # each with its place: "set.jsonl, row 3"


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
    for place, row in islice(table.rows, limit):
        if not problems:  # an empty set has no columns to look for
            question = find_column(table, question_column, QUESTION_COLUMNS, "question_column")
            answer = find_column(table, answer_column, ANSWER_COLUMNS, "answer_column")
            level = find_column(table, level_column, LEVEL_COLUMNS, "level_column", optional=True)
        try:
            problems.append(read_problem(row, question, answer, level))
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
    if not problems:
        raise ValueError(f"{table.origin} is empty")
    return problems


# ---- A row to a problem ----


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
    found = []
    for name, read in ((question, read_question), (answer, read_answers)):
        try:
            found.append(read(row.get(name)))
        except ValueError as error:
            raise ValueError(f"{name} is {row.get(name)!r:.80}, {error}") from None
    difficulty = row.get(level)
    if isinstance(difficulty, float):
        difficulty = f"{difficulty:g}"  # 5.0 -> "5"
    return Problem(*found, None if difficulty is None else str(difficulty))


def read_question(cell: Any) -> str:
    """The text of a question. Of a chat it is the last message of the user.

    Messages are {"role": "user", "content": "..."} or {"from": "human", "value": "..."}.
    """
    if isinstance(cell, str) and re.match(r"\s*\[\s*\{\s*['\"]", cell):
        cell = read_printed(cell)
    text = cell
    if isinstance(cell, list):
        by_user = [m for m in cell if isinstance(m, dict) and (m.get("role") or m.get("from")) in USER]
        text = (by_user[-1].get("content") or by_user[-1].get("value")) if by_user else None
    if not isinstance(text, str) or not text.strip():
        raise ValueError("and should be the text of a question, or messages with one of the user's")
    return text


def read_answers(cell: Any) -> tuple[str, ...]:
    r"""The accepted answers in one cell: a text, a number (142.0 -> "142.0") or a list of them; stripped.

    Habits of published sets are undone: a list printed into a text ("['9.6\n']" -> "9.6"), and a worked
    solution in place of its answer, see `final_answer`.
    """
    if isinstance(cell, str) and re.match(r"\s*\[\s*['\"]", cell):
        cell = read_printed(cell)
    values = cell if isinstance(cell, list) else [cell]
    if not all(isinstance(value, str | int | float) for value in values):
        raise ValueError("and should be a text, a number or a list of them")
    texts = [final_answer(str(value)) for value in values]
    if not texts or "" in texts or "nan" in texts:
        raise ValueError("and should not be empty")
    return tuple(dict.fromkeys(texts))  # in order, without repeats


def read_printed(text: str) -> list[Any]:
    """The list that was printed into a text."""
    try:  # literal_eval reads literals only; a line break inside quotes would stop it
        found = ast.literal_eval(text.strip().replace("\n", r"\n")) if len(text) < 10_000 else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise ValueError("which starts like a printed list but is none")
    return found


def final_answer(text: str) -> str:
    """What a worked solution comes to: after #### in its last line (GSM8K), else in its last box (MATH).

    A text with neither is the answer itself.
    """
    last_line = text.strip().rpartition("\n")[2]
    text = last_line.rpartition("####")[2] if "####" in last_line else text
    return (extract_boxed(text) or text).strip()


def can_be_read(reference: str) -> bool:
    """Whether the verifier takes a reference as mathematics, or it is a few plain words; prose is neither."""
    text = normalize(reference)
    words = re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", text)  # \frac is none
    if len(text) > MAX_CHARS or len(words) > MAX_WORDS:
        return False
    if re.fullmatch(r"[\w\s,.'’-]+", text):
        return True
    from mathexpr import parse  # here, because sympy takes half a second

    for spelling in spellings(text):
        with contextlib.suppress(Exception):  # of whatever kind, as in verify.answers_match
            parse(spelling)
            return True
    return False


def reference_warnings(sets: dict[str, list[Problem]]) -> list[str]:
    """A sentence for each set in which over a tenth of the references cannot be read as an answer."""
    lines = []
    for name, problems in sets.items():
        sample = problems[:: -(-len(problems) // MAX_SAMPLE)]  # evenly spaced
        unread = [problem for problem in sample if not any(map(can_be_read, problem.answers))]
        if 10 * len(unread) > len(sample):
            lines.append(
                f"{name}: {len(unread)} of {len(sample)} references looked at cannot be read as an answer, "
                f"such as {unread[0].answers[0][:80]!r}: hardly any response will match these"
            )
    return lines


# ---- A source to a table ----


def open_source(source: str, split: str, data_dir: str | None) -> Table:
    """Find out what a source is, open it, and choose the split: a single table serves every split."""
    path = find_paper_set(source, data_dir) if source in PAPER_SETS else Path(source).expanduser()
    if path.is_file():
        return read_file(path)
    if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
        return open_dataset(path, split)
    if path.is_dir() or glob.has_magic(source):
        return read_shards(path, split)
    if ending(path) or not HUB_ID.fullmatch(source):
        if "/" in source or ending(path):
            raise FileNotFoundError(f"data {source}: there is no such file or folder")
        names = ", ".join(("arithmetic", *PAPER_SETS))
        raise ValueError(f"data {source!r} is no file or folder, no Hub id (owner/name) and none of {names}")
    return open_dataset(source, split)


def choose_split(origin: Path | str, splits: dict[str, Any], split: str) -> Any:
    if split not in splits and len(splits) != 1:
        raise ValueError(f"{origin} has no split {split!r}: choose one of {', '.join(splits)}")
    return splits[split] if split in splits else next(iter(splits.values()))


def open_dataset(source: Path | str, split: str = "train") -> Table:
    """What the `datasets` library reads: a file or a folder that it saved (Path), or a Hub id (str)."""
    import datasets  # here, because it takes a second and arithmetic does without
    import huggingface_hub
    import pyarrow.parquet

    datasets.disable_progress_bars()
    for library in (datasets, huggingface_hub):  # without a network: ten lines about retries
        library.logging.set_verbosity_error()
    try:
        if isinstance(source, str):
            name, _, config = source.partition(":")
            dataset = datasets.load_dataset(name, config or None)
        elif source.is_dir():
            for file in source.rglob("*.arrow"):
                refuse_pointer(file)
            dataset = datasets.load_from_disk(str(source))
        elif ending(source) == ".arrow":
            dataset = datasets.Dataset.from_file(str(source))
        else:  # Dataset.from_parquet would leave a second copy in a cache
            dataset = datasets.Dataset(pyarrow.parquet.read_table(source))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        where = "is no folder here, and on the Hub it " if isinstance(source, str) else ""
        raise ValueError(f"{source} {where}cannot be read: {' '.join(str(error).split())}") from error
    if isinstance(dataset, dict):  # a DatasetDict: one Dataset a split
        dataset = choose_split(source, dataset, split)
    dataset = dataset.flatten()  # a column of objects becomes one for each of their keys, as in `flat`
    places = (f"{source}, row {number}" for number in count(1))
    return Table(str(source), dataset.column_names, zip(places, dataset, strict=False))


def read_shards(path: Path, split: str) -> Table:
    """The files of one split, by name: of a folder (a clone of a Hub dataset), or that match a pattern.

    The `datasets` library finds them too, but says nothing of those it leaves out: files with a rarer ending
    than others, or a part.jsonl beside a test.jsonl.
    """
    fixed = takewhile(lambda part: not glob.has_magic(part), path.parts)
    base, found = Path(*fixed), map(Path, glob.glob(str(path), recursive=True))
    if path.is_dir():
        base, found = path, path.rglob("*")
    splits: dict[str, list[Path]] = {}
    for file in sorted(found):
        below = file.relative_to(base)
        hidden = any(part.startswith(".") for part in below.parts)
        if ending(file) and file.is_file() and not hidden and file.name not in METADATA:
            words = reversed(re.split("[^a-z]+", str(below).lower()))
            name = next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), "train")
            splits.setdefault(name, []).append(file)
    if not splits:
        raise ValueError(f"data {path} holds no file that ends in {', '.join(ENDINGS)}")
    files = choose_split(path, splits, split)
    kinds = sorted({f"{file.parent}/*{ending(file)}" for file in files})
    if path.is_dir() and len(kinds) > 1:  # the configs of a Hub dataset, or other files than its data
        raise ValueError(
            f"{path} holds files of several kinds: choose by a pattern, {' or '.join(kinds[:4])}"
        )
    tables = [read_file(file) for file in files]
    columns = dict.fromkeys(name for table in tables for name in table.columns)
    return Table(str(path), list(columns), chain.from_iterable(table.rows for table in tables))


def ending(path: Path) -> str:
    """The one of ENDINGS that a file has, in capitals or not, or ""."""
    return next((end for end in ENDINGS if path.name.lower().endswith(end)), "")


def refuse_pointer(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise ValueError(f"{path} is a Git LFS pointer, not the data: fetch the data with git lfs pull")


def read_file(path: Path) -> Table:
    """The table in one file, by its ending.

    Text is not read by the `datasets` library: it would make the number 7.0 of an answer "007" in a .csv
    file, a date of "2012-05-05" in a .jsonl file, and it does not say which row is broken.
    """
    kind = ending(path)
    if not kind:
        raise ValueError(f"data {path} should be a folder or end in {', '.join(ENDINGS)}")
    refuse_pointer(path)
    if kind in (".parquet", ".arrow"):
        return open_dataset(path)
    try:
        content = gzip.decompress(path.read_bytes()) if kind.endswith(".gz") else path.read_bytes()
        numbered = read_json(content) if "json" in kind else read_csv(content, "\t" if "tsv" in kind else ",")
        rows = [(f"{path}, row {number}", row) for number, row in numbered]
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from None
    return Table(str(path), list(dict.fromkeys(name for _, row in rows for name in row)), rows)


def read_json(content: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered rows of a list of objects, or of an object a line, whichever it is; blank lines count."""
    try:
        cells = json.loads(content)
        cells = cells if isinstance(cells, list) else [cells]
    except (ValueError, RecursionError) as error:
        if content.lstrip(codecs.BOM_UTF8 + b" \t\r\n").startswith(b"["):
            raise ValueError(f"a list: not JSON: {error}") from None
        cells = content.splitlines()
    for number, cell in enumerate(cells, 1):
        if isinstance(cell, bytes) and not cell.strip():
            continue
        try:
            row = json.loads(cell) if isinstance(cell, bytes) else cell
            row = flat(row) if isinstance(row, dict) else row
        except (ValueError, RecursionError) as error:
            raise ValueError(f"row {number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"row {number}: should be an object with columns, not {row!r:.40}")
        yield number, row


def read_csv(content: bytes, delimiter: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Numbered rows below a header."""
    lines = io.StringIO(content.decode("utf-8-sig"), newline="")
    number = 0
    try:
        for number, row in enumerate(csv.DictReader(lines, delimiter=delimiter, strict=True), 1):
            if None in row or None in row.values():
                raise ValueError(f"row {number}: has more or fewer cells than the header")
            yield number, row
    except csv.Error as error:
        raise ValueError(f"row {number + 1}: {error}") from None


def flat(row: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"reward_model": {"ground_truth": 3}} -> {"reward_model.ground_truth": 3}"""
    cells = {}
    for name, cell in row.items():
        cells |= flat(cell, f"{prefix}{name}.") if isinstance(cell, dict) else {prefix + name: cell}
    return cells


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
        read_file(aside)  # a proxy's error page must not enter the cache
        aside.replace(path)
    except (OSError, ValueError, HTTPException) as error:
        raise OSError(f"{name}: {url} could not be fetched ({error}): set --data_dir to a copy") from error
    finally:
        aside.unlink(missing_ok=True)
    return path
