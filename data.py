"""Question sets and benchmarks, as lists of `Problem`.

A source is the first of these that fits:
- `arithmetic`: chains of 2 to 5 digits ("What is 3 + 9 - 4?"), made from a seed in miniature/arithmetic.py;
- one of the paper's own sets by its name (`PAPER_SETS`): from `data_dir`, or fetched once from the authors;
- a local file with one of ENDINGS, or a folder that the `datasets` library saved;
- a folder of such files (a clone of a Hub dataset), or a pattern for their names ('x/*.parquet');
- `owner/name`, `owner/name:config` or `owner/name:config:split` on the Hugging Face Hub.

A source that holds one table gives it for every split; files in a folder belong to the split that their
names state, or else to train. Where there is no test split, validation is taken. Whatever is wrong with a
source is a ValueError or an OSError whose one sentence names the file, the row and the columns found.
"""

import ast
import contextlib
import glob
import hashlib
import json
import os
import re
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from http.client import HTTPException
from itertools import islice
from pathlib import Path
from typing import Any

from run.tables import HUB_ID, Table, ending, open_dataset, read_file, read_shards
from verify import extract_boxed, normalize, spellings

# The first that is there is taken. A dot leads into a column of objects, such as verl's answers.
QUESTION_COLUMNS = ("problem", "question", "prompt", "input", "messages", "conversations")
ANSWER_COLUMNS = ("answer", "answers", "final_answer", "expected_answer", "reward_model.ground_truth")
LEVEL_COLUMNS = ("level", "difficulty")
QUOTED = r"""(?:'[^'\n]*'|"[^"\n]*")"""
USER = ("user", "human")  # who asks in a chat
MAX_SAMPLE = 300  # references of a set that are tried on the verifier
MAX_CHARS, MAX_WORDS = 300, 12  # of a reference; a longer one is prose

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


@dataclass(frozen=True)
class Problem:
    question: str
    answers: tuple[str, ...]  # any of them counts as right
    level: str | None = None  # difficulty, where the set states one


def load_problems(
    source: str,
    split: str = "train",
    *,
    data_dir: str | None = None,
    question_column: str | None = None,
    answer_column: str | None = None,
    or_usual: bool = False,
    limit: int | None = None,
) -> list[Problem]:
    """The problems of a source (see the top of this file) in its order, at most `limit` of them.

    `data_dir` holds the paper's sets: a clone of the authors' repository, or its datasets/ folder.
    A chosen column must be there, unless `or_usual`: then a set without it is read by the usual names.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit {limit} leaves no questions: set it to 1 or more")
    if source == "arithmetic":
        from miniature.arithmetic import arithmetic_problems

        return arithmetic_problems(split, limit)
    table = open_source(source, split, data_dir)
    rows = list(islice(table.rows, limit))
    if not rows:  # and so without columns
        raise ValueError(f"{table.origin} is empty")
    question = find_column(table, question_column, QUESTION_COLUMNS, "question_column", or_usual=or_usual)
    answer = find_column(table, answer_column, ANSWER_COLUMNS, "answer_column", or_usual=or_usual)
    level = first_there(LEVEL_COLUMNS, table.columns)
    return [read_problem(place, row, question, answer, level) for place, row in rows]


def checksum(problems: list[Problem]) -> str:
    """The same for the same problems in the same order."""
    return hashlib.sha256(json.dumps([astuple(problem) for problem in problems]).encode()).hexdigest()


# ---- A row to a problem ----


def find_column(
    table: Table, chosen: str | None, usual: tuple[str, ...], flag: str, *, or_usual: bool = False
) -> str:
    """The chosen column, or (if none was chosen, or with `or_usual`) the first of the usual ones."""
    wanted = (chosen, *(usual if or_usual else ())) if chosen else usual
    found = first_there(wanted, table.columns)
    if found is None:
        columns = ", ".join(table.columns[:30]) + ", ..." * (len(table.columns) > 30)
        raise ValueError(f"{table.origin} has no column {' or '.join(wanted)}, only {columns}: set --{flag}")
    return found


def first_there(wanted: Sequence[str], columns: Sequence[str]) -> str | None:
    """The first of the wanted columns; in capitals ("Problem"), where no column is called exactly so."""
    names = {name.lower(): name for name in reversed(columns)} | {name: name for name in columns}
    return next((names[name] for name in wanted if name in names), None)


def read_cell(place: str, row: dict[str, Any], name: str, read: Callable[[Any], Any]) -> Any:
    """What `read` makes of a cell; its ValueError is told with the place and the content."""
    try:
        return read(row.get(name))
    except ValueError as error:
        raise ValueError(f"{place}: {name} is {row.get(name)!r:.80}, {error}") from None


def read_problem(place: str, row: dict[str, Any], question: str, answer: str, level: str | None) -> Problem:
    """One row as a Problem, given the names of its columns. The question's text is kept as it is."""
    asked = read_cell(place, row, question, read_question)
    answers = read_cell(place, row, answer, read_answers)
    difficulty = row.get(level)
    if isinstance(difficulty, float):
        difficulty = f"{difficulty:g}"  # 5.0 -> "5"
    return Problem(asked, answers, None if difficulty is None else str(difficulty))


def read_question(cell: Any) -> str:
    """The text of a question. Of a chat it is the last message of the user.

    Messages are {"role": "user", "content": "..."} or {"from": "human", "value": "..."}; the content may be
    a list of {"type": "text", "text": "..."}.
    """
    if isinstance(cell, str) and re.match(r"\s*\[\s*\{\s*['\"]", cell):
        cell = read_printed(cell)
    text = cell
    if isinstance(cell, list):
        by_user = [m for m in cell if isinstance(m, dict) and (m.get("role") or m.get("from")) in USER]
        text = (by_user[-1].get("content") or by_user[-1].get("value")) if by_user else None
        if isinstance(text, list) and all(
            isinstance(part, dict) and part.get("type") == "text" for part in text
        ):
            text = "".join(part.get("text") or "" for part in text)
    if not isinstance(text, str) or not text.strip():
        raise ValueError("and should be the text of a question, or messages with one of the user's")
    text.encode()  # a ValueError for half of a surrogate pair, which no tokenizer takes
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
    "".join(texts).encode()  # as a question
    return tuple(dict.fromkeys(texts))  # in order, without repeats


def read_printed(text: str) -> list[Any]:
    """The list that was printed into a text, by Python or, without commas, by numpy."""
    text = text.strip()
    if re.fullmatch(rf"\[\s*{QUOTED}(\s+{QUOTED})+\s*\]", text):
        text = f"[{', '.join(re.findall(QUOTED, text))}]"
    try:  # literal_eval reads literals only; a line break inside quotes would stop it
        found = ast.literal_eval(text.replace("\n", r"\n")) if len(text) < 10_000 else None
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
