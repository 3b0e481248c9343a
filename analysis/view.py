"""A run to read: one page with its curves, its responses, and each group as the loss sees it.

    python -m analysis.view runs/drgrpo                    writes runs/drgrpo/view.html
    python -m analysis.view runs/grpo runs/drgrpo          over each other; folders of eval.py too
    python -m analysis.view runs/drgrpo --watch 5          again every 5 seconds; the open page follows

The page is one file, without a network. What a model wrote goes into it as JSON, which view.html's script
puts there as text. To stay under PAGE_BYTES, texts are cut in their middle and steps are left out evenly,
those of the groups first; the page says so.
"""

import argparse
import base64
import contextlib
import hashlib
import json
import math
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from torch import Tensor

import verify
from analysis import plot, report
from analysis.records import GRADED, GROUP, NUMBER, SAMPLE, Record, fits, kind_of, read_lines, read_object
from loss import ALGOS, Algo, aggregate, clipped_loss, group_advantages
from run.flags import one_sentence
from templates import TEMPLATES

PAGE_BYTES = 2_900_000
MOST_PLACES = 1000  # steps, or responses of an evaluation, that are looked at at all
TEXT_CHARS = 6000  # of a response; of a question a third, of a reference a tenth
TOKEN_CHARS = 60
LONGEST = 10**6  # tokens of a response

FORMATS = {template.answer_format for template in TEMPLATES.values()}


# ---- What a token weighs ----


def token_weights(algo: Algo, rewards: Tensor, mask: Tensor, max_response_tokens: int) -> Tensor:
    """rewards [G], response mask [G, T] of one group -> [G, T], what each token's log-prob is multiplied by.

    Minus the gradient of loss.py's loss by the log-probs, where these are still the sampler's: above 0 a
    token becomes likelier. The division by the number of responses, the same for all, is left out.
    """
    advantages = group_advantages(rewards, len(rewards), scale_by_std=algo.scale_by_std)  # [G]
    logprobs = torch.zeros(mask.shape, requires_grad=True)
    token_loss, _ = clipped_loss(logprobs, logprobs.detach(), advantages, mask)
    divisors = dict(divide_by_length=algo.divide_by_length, max_response_tokens=max_response_tokens)
    aggregate(token_loss, mask, **divisors, num_rollouts=1).backward()
    return -logprobs.grad


def weigh(group: Record, config: Record) -> dict[str, list[list[float]]]:
    """A line of groups.jsonl -> for GRPO and Dr. GRPO the weight of a token and of all, by response."""
    responses = group["responses"]
    lengths = torch.tensor([r["response_tokens"] for r in responses])  # [G]
    mask = torch.arange(int(lengths.max())) < lengths[:, None]  # [G, T]
    if config.get("mask_truncated"):
        mask &= ~torch.tensor([r["truncated"] for r in responses])[:, None]
    rewards = torch.tensor([float(r["reward"]) for r in responses])
    weights = {}
    for name in ("grpo", "drgrpo"):
        each = token_weights(ALGOS[name], rewards, mask, config["max_response_tokens"])
        weights[name] = torch.stack([each[:, 0], each.sum(dim=1)], dim=1).tolist()
    return weights


# ---- What goes on the page ----


def to_json(value: Record | list) -> str:
    """JSON that can stand in a <script>: none of it has a meaning in HTML. Lone surrogates become U+FFFD."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text = re.sub("[\ud800-\udfff]", "\ufffd", text)
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)


def evenly(items: Sequence, count: int) -> list:
    """`count` of the items, evenly spaced, the first and the last among them; of one the last."""
    count, last = min(count, len(items)), len(items) - 1
    return [items[last - round(i * last / max(1, count - 1))] for i in reversed(range(count))]


def within(items: Sequence, size: int) -> list:
    """As many items, evenly spaced, as take at most `size` bytes on the page."""
    sizes = [len(to_json(item).encode()) for item in items]
    count = len(items)
    while count and sum(evenly(sizes, count)) > size:
        count = count * 19 // 20
    return evenly(items, count)


def answer_span(text: str, answer_format: str) -> tuple[int, int]:
    """Where verify.py found a response's answer, with its \\boxed; (0, 0) where it found none."""
    found = verify.extract(text, answer_format) or []
    if answer_format == "answer_tag" and found:
        end = text.rfind("</answer>")
        return text.rfind("<answer>", 0, end) + len("<answer>"), end
    spans = []
    for box in reversed(list(re.finditer(r"\\(?:boxed|fbox)", text))):
        if not found:
            break
        content, end = verify.box_at(text, box.start())
        if content == found[-1]:
            spans.append((box.start(), end))
            found.pop()
    return (spans[-1][0], spans[0][1]) if spans else (0, 0)


def shorten(text: str, limit: int = TEXT_CHARS) -> list[list[str]]:
    """A text as pieces [kind, text]: "text", or "cut", which tells how much is left out of its middle."""
    if len(text) <= limit:
        return [["text", text]] if text else []
    gap = f"{len(text) - limit:,} characters are left out here"
    return [["text", text[: limit // 2]], ["cut", gap], ["text", text[-(limit - limit // 2) :]]]


def card(at: int, record: Record, right: bool, answer_format: str | None) -> Record:
    """A response on the page, `at` a step or part: its text is in pieces, the answer a piece of its own."""
    text, formatted = record["response"], record.get("formatted")
    start, end = answer_span(text, answer_format) if answer_format else (0, 0)
    if formatted is None and answer_format:
        formatted = verify.extract(text, answer_format) is not None
    pieces = shorten(text[:start]) + [["answer", text[start:end][:TEXT_CHARS]]] * (end > start)
    return {
        "at": at,
        "question": shorten(record["question"], TEXT_CHARS // 3),
        "reference": shorten(" or ".join(record["answers"]), TEXT_CHARS // 10),
        "pieces": pieces + shorten(text[end:]),
        "right": right,
        "unformatted": formatted is False,
        "truncated": record["truncated"],
    }


def bars(group: Record, config: Record) -> Record:
    """A group on the page: for each response its tokens' texts and log-probs, and its weights."""
    responses = []
    for r in group["responses"]:
        response = {"right": r["reward"] > 0, "truncated": r["truncated"], "length": r["response_tokens"]}
        response["tokens"] = [text[:TOKEN_CHARS] for text in r["tokens"]]
        response["logprobs"] = [round(logprob, 2) for logprob in r["logprobs"]]
        responses.append(response)
    head = {"at": group["step"], "question": shorten(group["question"], TEXT_CHARS // 3)}
    head |= {"reference": shorten(" or ".join(group["answers"]), TEXT_CHARS // 10)}
    return head | {"responses": responses, "weights": weigh(group, config)}


def can_be_weighed(group: Record, budget: int) -> bool:
    """Whether a group has two responses or more, all within the token budget."""
    responses = group["responses"]
    return len(responses) > 1 and all(
        len(r["tokens"]) == len(r["logprobs"]) <= r["response_tokens"]
        and 0 < r["response_tokens"] <= min(budget, LONGEST)
        for r in responses
    )


def left_out(what: str, kept: int, of: int) -> list[str]:
    return [f"To keep this page small it shows the {what} of {kept} of {of} steps."] if kept < of else []


def run_part(folder: Path, size: int) -> Record:
    """What the page shows of a run of train.py, in some `size` bytes."""
    config, notes = read_object(folder / "config.json")
    samples, about_samples = read_lines(folder / "samples.jsonl", SAMPLE)
    lines, about_groups = read_lines(folder / "groups.jsonl", GROUP)
    budget = config.get("max_response_tokens")
    groups = [line for line in lines if fits(budget, int) and can_be_weighed(line, budget)]
    if len(groups) < len(lines):
        about_groups.append(f"{len(lines) - len(groups)} groups do not fit the settings in config.json.")
    some = within(evenly(groups, MOST_PLACES // 4), size * 11 // 20)
    drawn = [bars(group, config) for group in some]
    template = TEMPLATES.get(str(config.get("template")))
    by_step: dict[int, list[Record]] = {}
    for sample in samples:
        by_step.setdefault(sample["step"], []).append(sample)
    cards = [
        [card(step, s, s["reward"] > 0, template and template.answer_format) for s in by_step[step]]
        for step in evenly(sorted(by_step), MOST_PLACES)
    ]
    cards = within(cards, size * 9 // 20 if drawn else size)
    notes += about_samples + left_out("responses", len(cards), len(by_step))
    notes += about_groups + left_out("groups", len(drawn), len(groups))
    cards = [each for of_step in cards for each in of_step]
    steps = sorted({each["at"] for each in cards + drawn})
    part = {"name": folder.name, "kind": "run", "algo": str(config.get("algo")), "notes": notes, "table": []}
    return part | {"places": [[s, f"step {s}"] for s in steps], "cards": cards, "groups": drawn}


def evaluation_part(folder: Path, size: int) -> Record:
    """What the page shows of a folder of eval.py, in some `size` bytes; its places are set and template."""
    result, notes = read_object(folder / "report.json")
    records, more = read_lines(folder / "responses.jsonl", GRADED)
    try:
        table = report.cells(result.get("results", []))
    except (KeyError, TypeError, ValueError, AttributeError):
        table, more = [], [*more, "report.json holds no table that is known here."]
    names = [f"{r['set']}, {r['template']}, temperature {r['temperature']:g}" for r in records]
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    some = evenly(list(zip(names, records, strict=True)), 4 * MOST_PLACES)
    cards = [
        card(places[name], r, r["correct"], r["answer_format"] if r["answer_format"] in FORMATS else None)
        for name, r in some
    ]
    cards = within(cards, size)
    if len(cards) < len(records):
        more.append(f"To keep this page small it shows {len(cards):,} of {len(records):,} responses.")
    part = {"name": folder.name, "kind": "evaluation", "algo": "", "notes": notes + more, "groups": []}
    return part | {"table": table, "places": [[i, name] for name, i in places.items()], "cards": cards}


def curves(folders: Sequence[Path]) -> tuple[list[str], str, list[str]]:
    """Panels of the runs as SVG, the key to their lines, and notes."""
    runs, notes = {}, []
    for folder in folders:
        algo = str(read_object(folder / "config.json")[0].get("algo"))
        lines, about = read_lines(folder / "metrics.jsonl", {"step": int})
        lines = [{k: v for k, v in line.items() if fits(v, NUMBER)} for line in lines]
        plot.add_accuracy(lines)
        notes += [f"{folder.name}: {note}" for note in about]
        if lines:
            runs.setdefault(algo if algo in ALGOS else "unknown algorithm", []).append(lines)
    labels = [plot.label_of(algo, len(of_algo)) for algo, of_algo in runs.items()]
    return list(plot.draw_page(runs, window=5)), plot.draw_key(labels) if len(labels) > 1 else "", notes


def csp_hash(text: str) -> str:
    """What a security policy names a <script> or <style> by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def page(folders: Sequence[Path], watch: float = 0) -> str:
    """The HTML; ValueError for a folder that is no run."""
    kinds = [kind_of(folder) for folder in folders]
    panels, key, notes = curves([f for f, kind in zip(folders, kinds, strict=True) if kind == "run"])
    size = max(0, PAGE_BYTES - sum(map(len, panels)) - 60_000) // len(folders)  # the rest is view.html
    make = {"run": run_part, "evaluation": evaluation_part}
    parts = [make[kind](folder, size) for folder, kind in zip(folders, kinds, strict=True)]
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.filters["csp_hash"] = csp_hash
    return environment.get_template("view.html").render(
        parts=parts,
        notes=notes,
        panels=[Markup(panel) for panel in panels],
        key=Markup(key),
        data=Markup(to_json({"watch": watch, "parts": parts, "names": plot.ALGO_NAMES})),
    )


def stamp(folders: Sequence[Path]) -> list[tuple[int, int]]:
    """Changes whenever a file that the page is made of does."""
    kinds = ("*.json", "*.jsonl")
    files = [file for folder in folders for kind in kinds for file in sorted(folder.glob(kind))]
    return [(file.stat().st_mtime_ns, file.stat().st_size) for file in files]


def write(file: Path, text: str) -> None:
    """The whole page or the one before: who reloads it never sees half."""
    aside = file.with_name(f"{file.name}.partial")
    aside.write_text(text, encoding="utf-8", errors="replace")
    os.replace(aside, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="run folders of train.py and of eval.py")
    parser.add_argument("--output", type=Path, help="the page; default: view.html in the first folder")
    parser.add_argument("--watch", type=float, default=0, help="seconds after which the page is made again")
    args = parser.parse_args()
    with one_sentence("view.py"), contextlib.suppress(KeyboardInterrupt):
        if not 0 <= args.watch < math.inf:
            raise ValueError(f"watch is {args.watch}, and must be 0 seconds or more")
        file, seen = args.output or args.folders[0] / "view.html", None
        while True:
            if (now := stamp(args.folders)) != seen:
                write(file, page(args.folders, args.watch))
            if seen is None:
                print(file)
            if not args.watch:
                break
            seen = now
            time.sleep(args.watch)


if __name__ == "__main__":
    main()
