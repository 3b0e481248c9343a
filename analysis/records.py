"""Files that a run left, read by their shape: what does not have it is left out, and a note says so.

A run may still be writing, may have been killed while it wrote, or be older than a file is.
"""

import json
from pathlib import Path
from typing import Any

Record = dict[str, Any]
NUMBER = int | float
BIGGEST = 1e12  # of a number
ASKED = {"question": str, "answers": [str]}
SAMPLE = ASKED | {"step": int, "response": str, "reward": NUMBER, "truncated": bool}
IN_GROUP = {"reward": NUMBER, "truncated": bool, "response_tokens": int}
IN_GROUP |= {"tokens": [str], "logprobs": [NUMBER]}
GROUP = ASKED | {"step": int, "responses": [IN_GROUP]}
GRADED = ASKED | {"set": str, "template": str, "temperature": NUMBER, "answer_format": str}
GRADED |= {"response": str, "formatted": bool, "correct": bool, "truncated": bool}


def kind_of(folder: Path) -> str:
    """`run` or `evaluation`; ValueError for a folder that is neither."""
    if any((folder / name).exists() for name in ("metrics.jsonl", "samples.jsonl", "config.json")):
        return "run"
    if any((folder / name).exists() for name in ("report.json", "responses.jsonl")):
        return "evaluation"
    raise ValueError(f"{folder} is no run: it has neither metrics.jsonl nor report.json")


def fits(value: Any, shape: Any) -> bool:
    """Whether a value read from JSON has a shape: a type, [the shape of each], or {key: shape}."""
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(k in value and fits(value[k], s) for k, s in shape.items())
    if shape in ([str], [NUMBER]):  # of which groups have millions
        return isinstance(value, list) and all(isinstance(v, shape[0]) for v in value)
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(v, shape[0]) for v in value)
    return isinstance(value, shape) and (shape in (str, bool) or abs(value) < BIGGEST)


def read_lines(file: Path, shape: dict) -> tuple[list[Record], list[str]]:
    """The lines of a file that have that shape, and notes on what is not there."""
    if not file.exists():
        return [], [f"{file.name} is not there."]
    records = []
    for line in filter(None, file.read_text(errors="replace").split("\n")):
        try:
            records.append(json.loads(line, parse_constant=lambda name: None))  # nan and the infinities
        except (ValueError, RecursionError):
            records.append(None)
    kept = [record for record in records if fits(record, shape)]
    if len(kept) < len(records):
        bad = f"{len(records) - len(kept)} of {len(records)} lines of {file.name}"
        return kept, [f"{bad} cannot be read, torn or of another kind, and are left out."]
    return kept, [] if kept else [f"{file.name} is empty so far."]


def read_object(file: Path) -> tuple[Record, list[str]]:
    """A JSON file of one object, {} if it is none, and notes."""
    if not file.exists():
        return {}, [f"{file.name} is not there."]
    try:
        value = json.loads(file.read_text(errors="replace"))
    except (ValueError, RecursionError):
        value = None
    return (value, []) if isinstance(value, dict) else ({}, [f"{file.name} cannot be read."])
