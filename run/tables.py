"""Files, folders and Hub ids as tables of rows, whose errors name the file, the row and the columns found."""

import codecs
import csv
import glob
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain, count, takewhile
from pathlib import Path
from typing import Any, NamedTuple

ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".jsonl.gz", ".json.gz", ".csv.gz", ".tsv.gz")
ENDINGS += (".parquet", ".arrow")
METADATA = ("config.json", "dataset_info.json", "dataset_infos.json")  # about the data of a folder
SPLITS = "train training; test testing eval evaluation; validation valid val dev"  # as the Hub reads names
SPLIT_WORDS = {word: group.split()[0] for group in SPLITS.split(";") for word in group.split()}
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+(:[\w.-]+|:[\w.-]*:[\w.-]+)?")  # owner/name[:config[:split]]


class Table(NamedTuple):
    origin: str  # the file, folder, pattern or Hub id, for errors
    columns: list[str]
    rows: Iterable[tuple[str, dict[str, Any]]]  # each with its place: "set.jsonl, row 3"


def choose_split(origin: Path | str, splits: dict[str, Any], split: str, by_name: bool = False) -> Any:
    if split == "test" and split not in splits and "validation" in splits and not by_name:
        split = "validation"
    if split not in splits and (len(splits) != 1 or by_name):
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
    chosen = ""
    try:
        if isinstance(source, str):
            name, config, chosen = [*source.split(":"), "", ""][:3]
            dataset = datasets.load_dataset(name, config or None)
        elif source.is_dir():
            for file in source.rglob("*.arrow"):
                refuse_pointer(file)
            dataset = datasets.load_from_disk(str(source))
        elif ending(source) == ".arrow":
            dataset = datasets.Dataset.from_file(str(source))
        else:  # Dataset.from_parquet would leave a second copy in a cache
            dataset = datasets.Dataset(pyarrow.parquet.read_table(source))
    except Exception as error:  # each library below has its own
        where = "is no folder here, and on the Hub it " if isinstance(source, str) else ""
        raise ValueError(f"{source} {where}cannot be read: {' '.join(str(error).split())}") from error
    if isinstance(dataset, dict):  # a DatasetDict: one Dataset a split
        dataset = choose_split(source, dataset, chosen or split, by_name=bool(chosen))
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
