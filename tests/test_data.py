"""Question sets: every kind of source is read from a real file, and every error names what is wrong."""

import dataclasses
import gzip
import json
import logging
import random
import re
from pathlib import Path

import datasets
import huggingface_hub
import pytest

import data
from data import Problem, can_be_read, load_problems, read_answers, reference_warnings
from miniature.arithmetic import Chain, arithmetic_problems, in_test_split, random_chain

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
    train = [problem.question for problem in arithmetic_problems("train", seed=0)]
    test = [problem.question for problem in arithmetic_problems("test", seed=1)]
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


CSV = 'problem,answer,level\r\nWhat is 1 + 1?,2,Level 1\r\n\r\n"What is 1 / 2?",0.5,Level 2\r\n'
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)
INDENTED = json.dumps(ROWS, indent=2)


@pytest.mark.parametrize(
    "name, content",
    [
        ("set.json", INDENTED),
        ("set.JSON", "\ufeff" + INDENTED),  # a byte order mark, as Windows writes it
        ("set.json", JSONL),  # the name is no promise
        ("set.jsonl", JSONL),
        ("set.jsonl", INDENTED),
        ("set.JSONL", "\ufeff" + JSONL.replace("\n", "\r\n\r\n")),
        ("set.csv", CSV),
        ("set.csv", "\ufeff" + CSV.replace("\r\n", "\n")),
        ("set.TSV", CSV.replace(",", "\t")),
        ("set.jsonl.gz", JSONL),
        ("set.json.gz", INDENTED),
        ("set.csv.gz", CSV),
        ("set.Tsv.GZ", CSV.replace(",", "\t")),
    ],
)
def test_every_kind_of_text_file_gives_the_same_problems(name, content, tmp_path):
    path, content = tmp_path / name, content.encode()
    path.write_bytes(gzip.compress(content) if name.lower().endswith("gz") else content)
    assert load_problems(str(path)) == PROBLEMS
    assert load_problems(str(path), limit=1) == PROBLEMS[:1]


def save_parquet(path: Path) -> Path:
    datasets.Dataset.from_list(ROWS).to_parquet(path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def save_parquet_in_capitals(path: Path) -> Path:
    return save_parquet(path).rename(path.with_suffix(".PARQUET"))


def save_folder(path: Path) -> Path:
    datasets.Dataset.from_list(ROWS).save_to_disk(path)
    return path


def save_arrow(path: Path) -> Path:
    return save_folder(path) / "data-00000-of-00001.arrow"


@pytest.mark.parametrize("save", [save_parquet, save_parquet_in_capitals, save_folder, save_arrow])
def test_what_the_datasets_library_writes_gives_the_same_problems(save, tmp_path):
    path = str(save(tmp_path / "set"))
    assert load_problems(path) == PROBLEMS
    assert load_problems(path, limit=1) == PROBLEMS[:1]


def test_answers_in_text_files_are_not_taken_for_numbers_or_dates(tmp_path):
    cells = ["007", "0.10", "1e3", "2012-05-05", "NA", "true", "None", "12345678901234567890"]
    (tmp_path / "set.csv").write_text("problem,answer\n" + "".join(f"a?,{cell}\n" for cell in cells))
    assert [problem.answers for problem in load_problems(str(tmp_path / "set.csv"))] == [(c,) for c in cells]
    path = write_jsonl(tmp_path / "set.jsonl", [{"problem": "a?", "answer": cell} for cell in cells])
    assert [problem.answers for problem in load_problems(path)] == [(cell,) for cell in cells]


def test_a_question_is_kept_as_it_is(tmp_path):
    (tmp_path / "set.csv").write_bytes(b'problem,answer\r\n" a,\r\n""b""? ",1\r\n')
    assert load_problems(str(tmp_path / "set.csv")) == [Problem(' a,\r\n"b"? ', ("1",))]


def test_nothing_is_printed_and_nothing_is_written_beside_the_files(tmp_path, capfd):
    save_parquet(tmp_path / "train")
    write_jsonl(tmp_path / "test.jsonl", ROWS)
    before = sorted(tmp_path.rglob("*"))
    capfd.readouterr()  # what writing the files printed
    load_problems(str(tmp_path), "train"), load_problems(str(tmp_path), "test")
    assert capfd.readouterr() == ("", "")
    assert sorted(tmp_path.rglob("*")) == before


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


def write_shards(folder: Path, names: list[str]) -> Path:
    """A file of each name. Its one question is the name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"problem": name, "answer": "1"}]
        if path.suffix == ".parquet":
            datasets.Dataset.from_list(rows).to_parquet(path)
        elif path.suffix == ".csv":
            path.write_text(f"problem,answer\n{name},1\n")
        else:
            write_jsonl(path, rows)
    return folder


CLONE = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]
CLONE += ["data/test-00000-of-00001.parquet"]


@pytest.mark.parametrize(
    "names, below, split, found",
    [
        (CLONE, "", "train", CLONE[:2]),
        (CLONE, "", "test", CLONE[2:]),
        (CLONE, "/data", "test", CLONE[2:]),
        (CLONE, "/*/*.parquet", "train", CLONE[:2]),
        (CLONE, "/**/*.parquet", "test", CLONE[2:]),
        (CLONE, "/data/train-*", "test", CLONE[:2]),  # the only split there is
        (["a.jsonl", "b.JSONL"], "", "train", ["a.jsonl", "b.JSONL"]),
        (["b.jsonl", "a.jsonl"], "", "test", ["a.jsonl", "b.jsonl"]),
        (["part.jsonl", "test.jsonl"], "", "train", ["part.jsonl"]),
        (["part.jsonl", "test.jsonl"], "/*.jsonl", "train", ["part.jsonl"]),
        (["part.jsonl", "my_eval.jsonl"], "", "test", ["my_eval.jsonl"]),
        (["latest.csv", "Test500.csv"], "", "test", ["Test500.csv"]),
        (["test/training-0.csv", "test/test-0.csv"], "", "train", ["test/training-0.csv"]),
        (["d.csv/e/a.jsonl"], "", "train", ["d.csv/e/a.jsonl"]),
        (["d/e/a.jsonl"], "/**/*.jsonl", "train", ["d/e/a.jsonl"]),
        (["training/0.csv", "dev/0.csv", "test/0.csv"], "", "train", ["training/0.csv"]),
        (["training/0.csv", "dev/0.csv", "test/0.csv"], "", "validation", ["dev/0.csv"]),
        (["train/0.csv", "test/0.csv"], "/*/0.csv", "test", ["test/0.csv"]),
        (["a/train.csv", "b/train.csv"], "/*/train.csv", "train", ["a/train.csv", "b/train.csv"]),
        (["a.csv", "b.jsonl"], "/*.[cj]s*", "train", ["a.csv", "b.jsonl"]),
        ([".cache/a.csv", ".b.csv", "b.csv"], "", "train", ["b.csv"]),
    ],
)
def test_the_shards_of_a_split_are_read_in_the_order_of_their_names(names, below, split, found, tmp_path):
    folder = write_shards(tmp_path / "test", names)  # the folder's own name says nothing
    for name in ("README.md", "dataset_infos.json", "dataset_info.json", "config.json"):
        (folder / name).write_text("{}")
    assert [problem.question for problem in load_problems(f"{folder}{below}", split)] == found


@pytest.mark.parametrize(
    "names, below, message",
    [
        (["main/train.csv", "socratic/train.csv"], "", r"set holds files of several kinds: choose by a "),
        (["main/train.csv", "socratic/train.csv"], "", r"pattern, \S+main/\*.csv or \S+socratic/\*.csv$"),
        (["a.csv", "b.jsonl"], "", r"choose by a pattern, \S+/\*.csv or \S+/\*.jsonl"),
        (["train.csv", "test.csv"], "", "set has no split 'dev': choose one of test, train"),
        (["train.csv", "test.csv"], "/*.csv", r"set/\*.csv has no split 'dev': choose one of test, train"),
        (["notes.txt", ".hidden.csv", "config.json"], "", r"data \S+set holds no file that ends in .jsonl, "),
        (["a.csv"], "/*.parquet", r"data \S+set/\*.parquet holds no file that ends in .jsonl, .json, .csv, "),
    ],
)
def test_a_folder_that_cannot_be_read_whole_is_refused(names, below, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_problems(f"{write_shards(tmp_path / 'set', names)}{below}", "dev")


def test_shards_may_be_empty_and_a_row_is_named_by_its_shard(tmp_path):
    folder = write_shards(tmp_path / "set", ["b.jsonl"])
    (folder / "a.jsonl").write_text("")
    assert load_problems(str(folder)) == [Problem("b.jsonl", ("1",))]
    write_jsonl(folder / "c.jsonl", [{"problem": "a?", "answer": "1"}, {"problem": "a?", "solution": "1"}])
    with pytest.raises(ValueError, match=r"c.jsonl, row 2: answer is None"):
        load_problems(str(folder))
    with pytest.raises(ValueError, match=r"set has no column x, only problem, answer, solution: set --ans"):
        load_problems(str(folder), answer_column="x")


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


@pytest.mark.parametrize(
    "name",
    ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.jsonl.gz", "a.parquet", "a.arrow", "data/train-0.parquet"],
)
def test_a_git_lfs_pointer_is_named(name, tmp_path):
    path = tmp_path / "clone" / name
    path.parent.mkdir(parents=True)
    path.write_text(POINTER)
    for source in (path, tmp_path / "clone"):
        with pytest.raises(ValueError, match=rf"{name} is a Git LFS pointer, not the data: .* git lfs pull"):
            load_problems(str(source))


def test_a_git_lfs_pointer_in_a_saved_folder_is_named(tmp_path):
    save_arrow(tmp_path / "set").write_text(POINTER)
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "splits")
    (tmp_path / "splits" / "train" / "data-00000-of-00001.arrow").write_text(POINTER)
    for name in ("set", "splits"):
        with pytest.raises(ValueError, match="data-00000-of-00001.arrow is a Git LFS pointer, not the data"):
            load_problems(str(tmp_path / name))


@pytest.mark.parametrize(
    "source, config",
    [("owner/name", None), ("owner/na.me-1:main", "main"), ("owner/na.me-1::train", None)],
)
def test_a_hub_id_goes_to_load_dataset(source, config, monkeypatch):
    calls = []

    def load_dataset(*args):
        calls.append(args)
        return datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_problems(source) == PROBLEMS
    assert calls == [(source.partition(":")[0], config)]


@pytest.mark.parametrize(
    "source, split, question",
    [("o/n::cot", "train", "cot?"), ("o/n:default:tir", "test", "tir?"), ("o/n::cot", "test", "cot?")],
)
def test_a_split_with_a_name_of_its_own_can_be_chosen(source, split, question, monkeypatch):
    rows = {name: [{"problem": f"{name}?", "answer": "1"}] for name in ("cot", "tir")}
    sets = {name: datasets.Dataset.from_list(of_split) for name, of_split in rows.items()}
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict(sets))
    assert load_problems(source, split) == [Problem(question, ("1",))]
    for wrong, split in (("o/n", "test"), ("o/n::test", "test"), ("o/n::tset", "tset")):
        with pytest.raises(ValueError, match=f"has no split '{split}': choose one of cot, tir$"):
            load_problems(wrong, "test")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict({"train": sets["cot"]}))
    assert load_problems("o/n", "test") == [Problem("cot?", ("1",))]
    with pytest.raises(ValueError, match="o/n::test has no split 'test': choose one of train$"):
        load_problems("o/n::test", "test")


def test_validation_is_taken_where_there_is_no_test_split(tmp_path):
    folder = write_shards(tmp_path / "set", ["train.jsonl", "val.jsonl"])
    assert load_problems(str(folder), "test") == [Problem("val.jsonl", ("1",))]
    write_shards(tmp_path / "set", ["test.jsonl"])
    assert load_problems(str(folder), "test") == [Problem("test.jsonl", ("1",))]


def test_the_libraries_log_no_warnings_and_no_progress(monkeypatch):
    libraries = (datasets, huggingface_hub)
    datasets.enable_progress_bars()
    for library in libraries:
        library.logging.set_verbosity_warning()

    def load_dataset(*args):
        assert not any(library.logging.get_logger().isEnabledFor(logging.WARNING) for library in libraries)
        assert datasets.are_progress_bars_disabled()
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_problems("owner/name") == PROBLEMS


@pytest.mark.parametrize(
    "error",
    [
        datasets.exceptions.DatasetGenerationError("broken\n  file"),
        RuntimeError("broken file"),  # so for a set that is a script
        ConnectionResetError("broken file"),
    ],
)
def test_a_hub_id_that_cannot_be_had_is_an_error_of_ours(error, monkeypatch):
    def load_dataset(*args):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        ValueError, match="owner/name is no folder here, and on the Hub it cannot be read: broken file$"
    ):
        load_problems("owner/name")


def test_columns_are_found_by_their_usual_names_or_chosen(tmp_path):
    path = write_jsonl(
        tmp_path / "set.jsonl", [{"question": "a?", "prompt": "b?", "answer": 1, "gold": 2, "Level": 3}]
    )
    assert load_problems(path) == [Problem("a?", ("1",), "3")]
    chosen = load_problems(path, question_column="prompt", answer_column="gold")
    assert chosen == [Problem("b?", ("2",), "3")]


def test_usual_columns_may_be_in_capitals_and_many(tmp_path):
    path = write_jsonl(tmp_path / "aime.jsonl", [{"ID": 3, "Problem": "a?", "Answer": 1, "answer": 2}])
    assert load_problems(path) == [Problem("a?", ("2",))]
    assert load_problems(path, answer_column="Answer") == [Problem("a?", ("1",))]
    wide = write_jsonl(tmp_path / "wide.jsonl", [{str(i): "a?" for i in range(3000)}])
    with pytest.raises(ValueError, match="only 0, 1, 2, .*, 29, ...: set --question_column$"):
        load_problems(wide)


def test_a_chosen_column_may_be_missing_where_sets_are_mixed(tmp_path):
    row = {"problem": "a?", "answer": "1", "solution": r"So \boxed{2}."}
    path = write_jsonl(tmp_path / "one.jsonl", [row])
    for column, answer in (("solution", "2"), ("gold", "1"), (None, "1")):
        assert load_problems(path, answer_column=column, or_usual=True) == [Problem("a?", (answer,))]
    with pytest.raises(ValueError, match="no column gold, only problem, answer, solution: set --answer_c"):
        load_problems(path, answer_column="gold")
    with pytest.raises(ValueError, match="no column gold or problem or question or .*: set --question_c"):
        load_problems(write_jsonl(tmp_path / "two.jsonl", [{"x": 1}]), question_column="gold", or_usual=True)


CHAT = [
    {"role": "system", "content": "Think."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "What is 1 + 1?"},
]
PARTS = [{"type": "text", "text": "What is "}, {"type": "text", "text": "1 + 1?"}]
VERL = {
    "data_source": "gsm8k",
    "prompt": CHAT,
    "reward_model": {"style": "rule", "ground_truth": "2"},
    "extra_info": {"index": 0, "answer": "#### 3", "more": {"level": 4}},
}


def save_rows(path: Path, rows: list, kind: str) -> str:
    if kind == "jsonl":
        return write_jsonl(path.with_suffix(".jsonl"), rows)
    if kind == "json":
        path.with_suffix(".json").write_text(json.dumps(rows))
        return str(path.with_suffix(".json"))
    dataset = datasets.Dataset.from_list(rows)
    if kind == "parquet":
        dataset.to_parquet(path.with_suffix(".parquet"))
        return str(path.with_suffix(".parquet"))
    dataset.save_to_disk(path)
    return str(path if kind == "folder" else path / "data-00000-of-00001.arrow")


KINDS = ("jsonl", "json", "parquet", "folder", "arrow")


@pytest.mark.parametrize("kind", KINDS)
def test_the_layout_of_verl_is_read_as_it_is(kind, tmp_path):
    path = save_rows(tmp_path / "set", [VERL], kind)
    assert load_problems(path) == [Problem("What is 1 + 1?", ("2",))]
    assert load_problems(path, answer_column="extra_info.answer") == [Problem("What is 1 + 1?", ("3",))]
    with pytest.raises(
        ValueError, match="no column reward_model, only data_source, prompt, reward_model.sty"
    ):
        load_problems(path, answer_column="reward_model")


def test_worked_solutions_are_read_for_every_row(tmp_path):
    rows = [{"problem": "a?", "solution": rf"So $x=\boxed{{{i}}}$."} for i in range(3)]
    problems = load_problems(write_jsonl(tmp_path / "set.jsonl", rows), answer_column="solution")
    assert [problem.answers for problem in problems] == [("0",), ("1",), ("2",)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_without_its_object_is_named(kind, tmp_path):
    path = save_rows(tmp_path / "set", [VERL, VERL | {"reward_model": None}], kind)
    with pytest.raises(ValueError, match=r"row 2: reward_model.ground_truth is None, and should be a text"):
        load_problems(path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "row",
    [
        {"prompt": CHAT},
        {"messages": [*CHAT, {"role": "assistant", "content": "2"}]},
        {"conversations": [{"from": "human", "value": "What is 1 + 1?"}, {"from": "gpt", "value": "2"}]},
        {"prompt": str(CHAT)},  # as pandas writes it into a .csv file
        {"prompt": json.dumps(CHAT)},
        {"prompt": [{"role": "user", "content": PARTS}]},
    ],
)
def test_the_question_of_a_chat_is_the_last_message_of_the_user(kind, row, tmp_path):
    path = save_rows(tmp_path / "set", [row | {"answer": 2}], kind)
    assert load_problems(path) == [Problem("What is 1 + 1?", ("2",))]


@pytest.mark.parametrize(
    "cell",
    [
        [],
        CHAT[:1],
        [*CHAT, {"role": "user", "content": " "}],
        [{"role": "user"}],
        [{"role": "user", "content": [{"type": "image"}]}],
        [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, {"type": "image"}]}],
        [{"role": "user", "content": ["What is 1 + 1?"]}],
        ["What is 1 + 1?"],
        "[{'role': 'user', ",
    ],
)
def test_a_chat_without_a_question_is_refused(cell, tmp_path):
    path = write_jsonl(tmp_path / "set.jsonl", [ROWS[0], {"problem": cell, "answer": "2"}])
    with pytest.raises(
        ValueError, match=r"set.jsonl, row 2: problem is .*, (and should be the text of a qu|wh)"
    ):
        load_problems(path)


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
        ("['9.6' '7']", ("9.6", "7")),  # as numpy prints it, in a .csv file of pandas
        ("[\"it's\"\n '7']", ("it's", "7")),
        ("""['the "x" "y"', 'z']""", ('the "x" "y"', "z")),
        ("""['the "x" "y"']""", ('the "x" "y"',)),
        (["7.5 \\times 10^7", "7.5 \\times 10^7\n"], ("7.5 \\times 10^7",)),  # equal once stripped
        ("She sold 48/2 = 24.\n48 + 24 = 72\n#### 72", ("72",)),  # GSM8K's worked solution
        ("48 + 24 = 72. #### 72", ("72",)),
        ("48 + 24 = 72\r\n#### 1,072 \r\n", ("1,072",)),
        ("#### First step\nIt is 3.", ("#### First step\nIt is 3.",)),  # a heading, and no last line
        (r"\boxed{3}", ("3",)),
        (r"$\boxed{\frac{1}{2}}$", (r"\frac{1}{2}",)),
        (r"So $x=\boxed{1}$.\nThen $y$ is $\fbox{ 2 }$ cm.", ("2",)),  # MATH's worked solution
        ([r"\boxed{3}", "3", r"#### $\boxed{4}$"], ("3", "4")),
        (r"['\\boxed{3}']", ("3",)),
        (r"\boxed{3", (r"\boxed{3",)),
        (
            r"First, note that 3 is prime.\n\nHence it is odd.",
            (r"First, note that 3 is prime.\n\nHence it is odd.",),
        ),
        (True, ("True",)),
        (10**20, ("100000000000000000000",)),
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
        (
            [{"problem": "a?", "answer": {"value": 1}}],
            r"no column answer or .*, only problem, answer.value: set",
        ),
        ([{"problem": "a?", "answer": [{"value": 1}]}], r"answer is \[{'value': 1}\], and should be a text"),
        ([{"problem": "a?", "answer": [None]}], r"row 1: answer is \[None\], and should be a text"),
        ([{"problem": "a \ud83d?", "answer": "1"}], r"problem is 'a \\ud83d\?', .* surrogates not allowed"),
        ([{"problem": "a?", "answer": "\ud83d"}], r"answer is '\\ud83d', .* surrogates not allowed"),
        ([ROWS[0], {"problem": None, "answer": "1"}], r"row 2: problem is None, and should be the text of"),
        ([ROWS[0], {"problem": 12, "answer": "1"}], r"row 2: problem is 12, and should be the text of"),
        (
            [{"problem": "a?", "answer": "['1', os]"}],
            r"row 1: answer is .* starts like a printed list but is none",
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
    with pytest.raises(ValueError, match="printed list"):
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
    with pytest.raises(ValueError, match=r"set.jsonl, a list: not JSON: maximum recursion depth"):
        load_problems(str(path))
    path.write_bytes(good + b"\n" + b'{"a":' * 100_000)
    with pytest.raises(ValueError, match=r"set.jsonl, row 2: not JSON: maximum recursion depth"):
        load_problems(str(path))
    path.write_text('\ufeff [{"problem": "a?"},\n {"problem": }]')
    with pytest.raises(ValueError, match=r"set.jsonl, a list: not JSON: Expecting value: line 2 column 14"):
        load_problems(str(path))


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "set.csv is empty"),
        (b"problem,answer\n", "set.csv is empty"),
        (b"problem;answer\na?;1\n", "set.csv has no column problem or .*, only problem;answer: set"),
        (b"problem,answer\na?,1\nb?,1,000\n", "set.csv, row 2: has more or fewer cells than the header"),
        (b"problem,answer\nb?,1,000\na?,1\n", "set.csv, row 1: has more or fewer cells than the header"),
        (b"problem,answer\na?\n", "set.csv, row 1: has more or fewer cells than the header"),
        (b"problem,answer\na?,\n", "set.csv, row 1: answer is '', and should not be empty"),
        (b'problem,answer\n"a?,1\nb?,2\n', "set.csv, row 1: unexpected end of data"),
        (b'problem,answer\na?,1\n"b" c?,2\n', "set.csv, row 2: ',' expected after '\"'"),
        (b"problem,answer\n\xff?,1\n", "set.csv, 'utf-8' codec can't decode byte 0xff in position 15"),
    ],
)
def test_what_is_wrong_in_a_csv_file_is_named(content, message, tmp_path):
    (tmp_path / "set.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_problems(str(tmp_path / "set.csv"))


def test_unreadable_files_are_named(tmp_path):
    for name in ("set.parquet", "set.arrow", "set.json"):
        (tmp_path / name).write_text('{"problem": "a?"}\n{"problem": "b?"}\n')
        with pytest.raises(ValueError, match=name):
            load_problems(str(tmp_path / name))
    for content in (b"no gzip", gzip.compress(b"{}")[:-9], gzip.compress(b"")[:10] + b"\xff" * 9):
        (tmp_path / "set.jsonl.gz").write_bytes(content)
        with pytest.raises(ValueError, match="set.jsonl.gz cannot be read: "):
            load_problems(str(tmp_path / "set.jsonl.gz"))
    for name in ("set.xlsx", "set.jsonl.zst", "set.txt", "set.parquet.gz"):
        (tmp_path / name).write_text("problem,answer\n")
        with pytest.raises(
            ValueError, match=f"{name} should be a folder or end in .jsonl, .*, .parquet, .arr"
        ):
            load_problems(str(tmp_path / name))
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text("{}")  # a folder that was not saved whole
    with pytest.raises(ValueError, match="saved cannot be read: "):
        load_problems(str(tmp_path / "saved"))


def test_empty_tables_are_named(tmp_path):
    datasets.Dataset.from_dict({"problem": [], "answer": []}).to_parquet(tmp_path / "set.parquet")
    (tmp_path / "set.json").write_text("[]")
    for name in ("set.parquet", "set.json"):
        with pytest.raises(ValueError, match=f"{name} is empty"):
            load_problems(str(tmp_path / name))


@pytest.mark.parametrize(
    "source", ["/no/such/folder", "./no", "no/such.jsonl", "nothing.CSV", "a/b.csv.gz", "a/b/c"]
)
def test_a_missing_file_is_named(source):
    with pytest.raises(FileNotFoundError, match=f"data {source}: there is no such file or folder"):
        load_problems(source)


# References that the verifier cannot read


PROSE = "Suppose there were finitely many primes. Multiply them all and add one, which none of them divides."


@pytest.mark.parametrize(
    "reference, read",
    [
        ("3", True),
        (r"\frac{1}{2}\text{ cm}", True),
        ("1,000", True),
        (r"x \in (-\infty, 2]", True),
        (r"\text{Tuesday}", True),
        ("New York", True),
        ("Don't know.", True),
        ("x is even and y is odd", True),
        (PROSE, False),
        (PROSE * 30, False),
        (r"\frac{1", False),
        (r"\boxed{3", False),
        ("2 +", False),
        ("+".join("1" * 150), True),
        ("+".join("1" * 151), False),  # 301 characters are too long to be parsed here
        ("1 1/2", True),
        ("Zürich", True),
        ("", False),
        (".", False),
    ],
)
def test_what_can_be_read_as_a_reference(reference, read):
    assert can_be_read(reference) == read


def test_references_that_cannot_be_read_are_told_if_they_are_over_a_tenth():
    def problems(unread: int, total: int) -> list[Problem]:
        return [Problem("a?", (PROSE, "2 +") if i < unread else (PROSE, "3")) for i in range(total)]

    assert reference_warnings({"a": problems(1, 10), "b": problems(0, 1)}) == []  # a tenth is not over it
    assert reference_warnings({"a": problems(0, 5), "b": problems(2, 10)}) == [
        "b: 2 of 10 references looked at cannot be read as an answer, such as 'Suppose there were finitely "
        "many primes. Multiply them all and add one, which no': hardly any response will match these"
    ]
    [line] = reference_warnings({"a": problems(30_000, 60_000)})  # every 200th of them
    assert line.startswith("a: 150 of 300 references looked at")
    assert reference_warnings({"a": problems(60, 601)}) == []  # every third: 20 of 201


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
    for flag in ("question_column", "answer_column"):
        with pytest.raises(ValueError, match=f"no column x, only problem, answer, level: set --{flag}"):
            load_problems(path, **{flag: "x"})
