"""Question sets: every kind of source is read from a real file, and every error names what is wrong."""

import dataclasses
import json
import random
import re
from pathlib import Path

import datasets
import pytest

import data
from data import Chain, Problem, arithmetic_problems, in_test_split, load_problems, random_chain, read_answers

AUTHORS_DATA = Path(__file__).parents[1].parent / "shared" / "data"
needs_authors_data = pytest.mark.skipif(not AUTHORS_DATA.is_dir(), reason="the authors' files are not here")

ROWS = [
    {"problem": "What is 1 + 1?", "answer": "2", "level": "Level 1"},
    {"problem": "What is 1 / 2?", "answer": "0.5", "level": "Level 2"},
]
PROBLEMS = [
    Problem("What is 1 + 1?", ("2",), "Level 1"),
    Problem("What is 1 / 2?", ("0.5",), "Level 2"),
]


def write_jsonl(path: Path, rows: list) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


# Arithmetic


def test_a_chain_reads_and_adds_up_from_left_to_right():
    chain = Chain(3, (("+", 9), ("-", 4)))
    assert (chain.question, chain.answer) == ("What is 3 + 9 - 4?", "8")
    assert Chain(2, (("-", 9), ("-", 1))).answer == "-8"


def test_random_chains_draw_every_length_sign_and_digit_alike():
    rng = random.Random(0)
    chains = [random_chain(rng) for _ in range(4000)]
    lengths = [1 + len(chain.steps) for chain in chains]
    # 4000 draws over 4 lengths: 1000 each, standard deviation 27
    assert all(abs(lengths.count(length) - 1000) < 150 for length in (2, 3, 4, 5)) and len(set(lengths)) == 4
    assert {chain.first for chain in chains} == set(range(10))
    assert {step for chain in chains for step in chain.steps} == {(s, d) for s in "+-" for d in range(10)}


def test_arithmetic_questions_have_their_own_answers():
    problems = load_problems("arithmetic", limit=300)
    assert len(problems) == 300
    for problem in problems:
        text = re.fullmatch(r"What is (\d(?: [+-] \d){1,4})\?", problem.question).group(1)
        signed = re.findall(r"[+-]?\d", text.replace(" ", ""))
        assert problem.answers == (str(sum(map(int, signed))),)
        assert problem.level == str(len(signed))


def test_arithmetic_splits_are_disjoint_and_of_the_stated_sizes():
    train = [problem.question for problem in load_problems("arithmetic", "train", seed=0)]
    test = [problem.question for problem in load_problems("arithmetic", "test", seed=1)]
    assert (len(set(train)), len(set(test))) == (len(train), len(test)) == (8000, 500)
    assert not any(map(in_test_split, train)) and all(map(in_test_split, test))


def test_the_split_of_a_question_never_changes():
    # A tiny base made earlier has seen the one and not the other. Their CRC-32 is 3805563913 and 2708904550.
    assert not in_test_split("What is 3 + 9 - 4?")
    assert in_test_split("What is 6 + 4 - 6 - 7 - 9?")


def test_arithmetic_is_repeatable_and_a_smaller_set_is_the_beginning_of_a_larger():
    assert arithmetic_problems("train", 50, seed=7) == arithmetic_problems("train", 200, seed=7)[:50]
    assert arithmetic_problems("train", 50, seed=7) != arithmetic_problems("train", 50, seed=8)


# Files, folders, the Hub


def save_json(path: Path) -> Path:
    path.with_suffix(".json").write_text(json.dumps(ROWS))
    return path.with_suffix(".json")


def save_jsonl(path: Path) -> Path:
    return Path(write_jsonl(path.with_suffix(".jsonl"), ROWS))


def save_parquet(path: Path) -> Path:
    datasets.Dataset.from_list(ROWS).to_parquet(path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def save_folder(path: Path) -> Path:
    datasets.Dataset.from_list(ROWS).save_to_disk(path)
    return path


def save_arrow(path: Path) -> Path:
    return save_folder(path) / "data-00000-of-00001.arrow"


@pytest.mark.parametrize("save", [save_json, save_jsonl, save_parquet, save_folder, save_arrow])
def test_every_kind_of_file_gives_the_same_problems(save, tmp_path):
    path = str(save(tmp_path / "set"))
    assert load_problems(path) == PROBLEMS
    assert load_problems(path, limit=1) == PROBLEMS[:1]


def test_a_problem_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PROBLEMS[0].question = "What is 2 + 2?"


def test_a_folder_with_splits_gives_the_one_asked_for(tmp_path):
    first, second = datasets.Dataset.from_list(ROWS[:1]), datasets.Dataset.from_list(ROWS[1:])
    datasets.DatasetDict({"train": first, "test": second}).save_to_disk(tmp_path / "two")
    assert load_problems(str(tmp_path / "two"), "train") == PROBLEMS[:1]
    assert load_problems(str(tmp_path / "two"), "test") == PROBLEMS[1:]
    with pytest.raises(ValueError, match="two has no split 'dev': choose one of train, test"):
        load_problems(str(tmp_path / "two"), "dev")
    datasets.DatasetDict({"train": first}).save_to_disk(tmp_path / "one")
    assert load_problems(str(tmp_path / "one"), "test") == PROBLEMS[:1]  # the only one there is


@pytest.mark.parametrize("source, config", [("owner/name", None), ("owner/na.me-1:main", "main")])
def test_a_hub_id_goes_to_load_dataset(source, config, monkeypatch):
    calls = []

    def load_dataset(*args):
        calls.append(args)
        return datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_problems(source) == PROBLEMS
    assert calls == [(source.partition(":")[0], config)]


def test_a_hub_id_that_cannot_be_had_is_an_error_of_ours(monkeypatch):
    def load_dataset(*args):
        raise datasets.exceptions.DatasetGenerationError("broken file")  # neither OSError nor ValueError

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        ValueError, match="owner/name is no folder here, and on the Hub it cannot be read: broken"
    ):
        load_problems("owner/name")


def test_columns_are_found_by_their_usual_names_or_chosen(tmp_path):
    path = write_jsonl(
        tmp_path / "set.jsonl", [{"question": "a?", "prompt": "b?", "answer": 1, "gold": 2, "n": 3}]
    )
    assert load_problems(path) == [Problem("a?", ("1",))]
    chosen = load_problems(path, question_column="prompt", answer_column="gold", level_column="n")
    assert chosen == [Problem("b?", ("2",), "3")]


def test_a_level_may_be_a_number_or_missing(tmp_path):
    rows = [{"problem": "a?", "answer": "1", "difficulty": level} for level in (5.0, 2.375, 4, None)]
    problems = load_problems(write_jsonl(tmp_path / "set.jsonl", rows))
    assert [problem.level for problem in problems] == ["5", "2.375", "4", None]


@pytest.mark.parametrize(
    "cell, answers",
    [
        (" 9.6\n", ("9.6",)),
        (142, ("142",)),
        (142.0, ("142.0",)),
        (["9.6\n"], ("9.6",)),  # Minerva in the authors' files
        ("['9.6\n']", ("9.6",)),  # the same, printed with a line break in it
        (str(["9.6\n", "$\\frac{1}{2}$"]), ("9.6", "$\\frac{1}{2}$")),  # the same, printed by Python
        (["7.5 \\times 10^7", "7.5 \\times 10^7\n"], ("7.5 \\times 10^7",)),  # equal once stripped
        ("She sold 48/2 = 24.\n48 + 24 = 72\n#### 72", ("72",)),  # GSM8K's worked solution
        ("#### First step\nIt is 3.", ("#### First step\nIt is 3.",)),  # a heading, and no last line
        ("[2, 5)", ("[2, 5)",)),  # an interval is an answer
        ("[1, 2]", ("[1, 2]",)),
        ([1, "one"], ("1", "one")),
    ],
)
def test_read_answers(cell, answers):
    assert read_answers(cell) == answers


# The paper's sets by name


def test_paper_sets_come_from_a_data_dir_or_a_clone_of_the_repository(tmp_path):
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "evaluation_suite" / "math")
    assert load_problems("math500", "test", data_dir=str(tmp_path)) == PROBLEMS
    clone = tmp_path / "clone"
    folder = clone / "datasets" / "train" / "math_12k"
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(folder)
    assert load_problems("math12k", data_dir=str(clone)) == PROBLEMS
    with pytest.raises(
        FileNotFoundError, match=r"orz57k: there is no train/orz_57k/train/data\S+ in data_dir .*clone"
    ):
        load_problems("orz57k", data_dir=str(clone))


@pytest.fixture
def authors_server(tmp_path, monkeypatch) -> Path:
    """A file:// stand-in for the authors' repository, and an empty cache: the folder of the set `aime`."""
    monkeypatch.setattr(data, "AUTHORS_URL", (tmp_path / "server").as_uri())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "server" / data.AUTHORS_COMMIT / "datasets" / "evaluation_suite" / "aime"


def cached_files(tmp_path: Path) -> list[str]:
    return [str(path.relative_to(tmp_path)) for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_paper_set_is_fetched_once_and_kept(authors_server, tmp_path):
    datasets.Dataset.from_list(ROWS).save_to_disk(authors_server)
    assert load_problems("aime", "test") == PROBLEMS
    commit = "dfca49dd460ee7cc8e4a5a162c876a7fd6993b87"
    kept = f"cache/understand-r1-zero/{commit}/evaluation_suite/aime/data-00000-of-00001.arrow"
    assert cached_files(tmp_path) == [kept]
    (authors_server / "data-00000-of-00001.arrow").unlink()  # the second call needs no server
    assert load_problems("aime", "test") == PROBLEMS


def test_a_failed_fetch_names_the_address_and_the_flag_and_leaves_nothing(authors_server, tmp_path):
    with pytest.raises(
        OSError, match=r"aime: file:\S+/evaluation_suite/aime/data\S+ could not be .* --data_dir"
    ):
        load_problems("aime")
    authors_server.mkdir(parents=True)
    (authors_server / "data-00000-of-00001.arrow").write_text("<html>Please log in</html>")
    with pytest.raises(OSError, match="set --data_dir to a copy"):
        load_problems("aime")
    assert cached_files(tmp_path) == []


@needs_authors_data
@pytest.mark.parametrize(
    "name, rows, answers, level",
    [
        ("aime", 30, ("204",), "2"),
        ("amc", 83, ("142.0",), "2"),
        ("math500", 500, (r"\left( 3, \frac{\pi}{2} \right)",), "2"),
        ("minerva", 272, ("9.6",), None),
        ("olympiad", 675, ("2",), None),
        ("gsm8k", 8792, ("18",), None),
        ("asdiv", 1788, ("65",), None),
    ],
)
def test_the_authors_files(name, rows, answers, level):
    problems = load_problems(name, data_dir=str(AUTHORS_DATA))
    assert len(problems) == rows
    assert (problems[0].answers, problems[0].level) == (answers, level)
    assert all(answer == answer.strip() != "" for problem in problems for answer in problem.answers)


# What is wrong, and where


@pytest.mark.parametrize(
    "rows, message",
    [
        ([], r"set.jsonl is empty"),
        (
            [{"problem": "a?", "x": 1}],
            r"set.jsonl has no column answer or .*, only problem, x: set --answer_column",
        ),
        (
            [{"y": "a?", "answer": 1}],
            r"set.jsonl has no column problem or .*, only y, answer: set --question_column",
        ),
        ([ROWS[0], {"problem": "a?"}], r"set.jsonl, row 2: answer is None, and should be a text"),
        ([ROWS[0], {"problem": "a?", "answer": " "}], r"row 2: answer is ' ', and should not be empty"),
        ([ROWS[0], {"problem": "a?", "answer": []}], r"row 2: answer is \[\], and should not be empty"),
        (
            [ROWS[0], {"problem": "a?", "answer": float("nan")}],
            r"row 2: answer is nan, and should not be empty",
        ),
        ([{"problem": "a?", "answer": {"value": 1}}], r"row 1: answer is {'value': 1}, and should be a text"),
        (
            [{"problem": "a?", "answer": "['1', os]"}],
            r"row 1: answer is .* printed list of strings but is none",
        ),
        ([ROWS[0], {"problem": "\n", "answer": "1"}], r"row 2: problem is '\\n', and should be the text"),
        ([ROWS[0], ["a?", "1"]], r"row 2: should be an object with columns, not \['a\?', '1'\]"),
    ],
)
def test_a_bad_row_is_named(rows, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_problems(write_jsonl(tmp_path / "set.jsonl", rows))


@pytest.mark.parametrize("end", ["[" * 9000, "-" * 9000 + "1]", "'1', " * 3000 + "]"], ids=["[", "-", "long"])
def test_a_printed_list_is_read_within_bounds(end):
    with pytest.raises(ValueError, match="printed list of strings"):
        read_answers("['1', " + end)


def test_a_broken_line_is_named_by_its_line_number(tmp_path):
    good = json.dumps(ROWS[0]).encode()
    path = tmp_path / "set.jsonl"
    path.write_bytes(good + b"\n\n" + good + b'\n{"problem": "a?", \n')
    with pytest.raises(ValueError, match=r"set.jsonl, row 4: not JSON"):  # the blank line counts
        load_problems(str(path))
    path.write_bytes(good + b'\n{"problem": "\xff?", "answer": "1"}\n')
    with pytest.raises(ValueError, match=r"set.jsonl, row 2: not JSON: 'utf-8' codec"):
        load_problems(str(path))
    path.write_bytes(b"[" * 100_000)
    with pytest.raises(ValueError, match=r"set.jsonl, row 1: not JSON"):
        load_problems(str(path))


def test_unreadable_files_are_named(tmp_path):
    for name in ("set.parquet", "set.arrow", "set.json"):
        (tmp_path / name).write_text('{"problem": "a?"}\n{"problem": "b?"}\n')
        with pytest.raises(ValueError, match=name):
            load_problems(str(tmp_path / name))
    (tmp_path / "set.csv").write_text("problem,answer\n")
    with pytest.raises(
        ValueError, match="set.csv should be a folder or end in .jsonl, .json, .parquet, .arrow"
    ):
        load_problems(str(tmp_path / "set.csv"))
    with pytest.raises(ValueError, match=f"{tmp_path} cannot be read"):  # a folder of something else
        load_problems(str(tmp_path))


def test_empty_tables_are_named(tmp_path):
    datasets.Dataset.from_dict({"problem": [], "answer": []}).to_parquet(tmp_path / "set.parquet")
    (tmp_path / "set.json").write_text("[]")
    for name in ("set.parquet", "set.json"):
        with pytest.raises(ValueError, match=f"{name} is empty"):
            load_problems(str(tmp_path / name))


@pytest.mark.parametrize("source", ["/no/such/folder", "./no", "no/such.jsonl", "nothing.parquet", "a/b/c"])
def test_a_missing_file_is_named(source):
    with pytest.raises(FileNotFoundError, match=f"data {source}: there is no such file or folder"):
        load_problems(source)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="'math' is no file .* none of arithmetic, math12k, .* olympiad"):
        load_problems("math")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"split": "dev"}, "arithmetic has no split 'dev': choose one of train, test"),
        ({"limit": 0}, "limit 0 leaves no questions"),
        ({"limit": 10**6}, "arithmetic makes 1 to 50000 questions, not 1000000"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        load_problems("arithmetic", **settings)


def test_a_chosen_column_must_be_there(tmp_path):
    path = write_jsonl(tmp_path / "set.jsonl", ROWS)
    for flag in ("question_column", "answer_column", "level_column"):
        with pytest.raises(ValueError, match=f"no column x, only problem, answer, level: set --{flag}"):
            load_problems(path, **{flag: "x"})
