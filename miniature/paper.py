"""The paper in miniature: its experiments in worlds that two CPU cores can train in, with intervals.

    python -m miniature.paper                 all experiments, one after the other
    python -m miniature.paper fig5 bias       some of them; -h lists them

An experiment is a list of runs of train.py, each with a seed, then its analysis: a figure in figures/ and a
table between the experiment's two markers in README.md here. Two runs go on at a time, on half of the cores
each, which is faster than one after the other; what they print goes to a .log file beside their folder.
Whatever is finished is not done again, and what was cut off goes on from its checkpoint: stop it as you
like. README.md here has the design: worlds, statistics, and what would count as an effect, written before
the runs.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

from analysis.judge import keywords_in
from analysis.plot import ALGO_NAMES, HATCHES, LOOKS, STYLE, draw_mean, draw_pass_at_k, legend, read_run
from loss import ALGOS
from miniature.decision import expected_pushes, read_decisions
from miniature.worlds import QUESTIONS

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[1]
RUNS = Path("runs/paper")
TIMES = RUNS / "times.jsonl"
LAST = 10  # training numbers of a run's start and end are means over that many steps
# Quantiles of Student's t, two-sided 95 %, by the number of values.
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}

Row = dict[str, Any]


# ---- Running ----


def call(module: str, folder: Path, *args: Any) -> None:
    """`python -m module args` as a process of its own, so that each run starts and may end alone.

    Its seconds are a line of TIMES, whatever its end. Exits with the end of what it printed if it fails.
    """
    command = [sys.executable, "-m", module, *map(str, args)]
    tqdm.write(" ".join(["$ python", *command[1:]]))
    log = (ROOT / folder).with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with log.open("a") as output:
        failed = subprocess.run(command, cwd=ROOT, stdout=output, stderr=output).returncode
    with (ROOT / TIMES).open("a") as lines:
        cores = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count()))
        row = {"folder": str(folder), "cores": cores, "seconds": time.monotonic() - start}
        lines.write(json.dumps(row) + "\n")
    if failed:
        sys.exit(f"{log.read_text()[-3000:]}\npaper: {module} failed, see {log}")


def flags(settings: dict[str, Any]) -> list[Any]:
    """{"algo": "grpo", "n": 4} -> ["--algo", "grpo", "--n", 4]."""
    return [part for name, value in settings.items() for part in (f"--{name}", value)]


def make_world(name: str) -> Path:
    """The folder of a world with its base and questions, made where it is not there yet.

    "doubt-3" is a world of recall.py with names and a base from seed 3; worlds.py's have no seed.
    """
    folder, (kind, *seed) = RUNS / "worlds" / name, name.split("-")
    if not (ROOT / folder / "base").exists():
        call("miniature.recall" if seed else "miniature.worlds", folder, kind, *seed, folder)
    return folder


def finished(folder: Path) -> bool:
    """Whether a run has taken its last step and saved its model: one that was stopped may have one too."""
    if not (folder / "model").exists():
        return False
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return last["step"] == json.loads((folder / "config.json").read_text())["num_steps"]


def train(folder: Path, **settings: Any) -> None:
    """A run of train.py: nothing if it is finished, the rest of it if it was cut off."""
    if finished(ROOT / folder):
        return
    started = (ROOT / folder / "config.json").exists()
    if not started:
        shutil.rmtree(ROOT / folder, ignore_errors=True)  # cut off before it had settings: nothing is in it
    call("train", folder, "--output_dir", folder, *flags(settings), *["--resume"] * started)
    if not finished(ROOT / folder):
        sys.exit(f"paper: {folder} was stopped; the same command goes on")


def evaluate(folder: Path, **settings: Any) -> list[Row]:
    """The rows of a report of eval.py, made where it is not there yet."""
    report = ROOT / folder / "report.json"
    if not report.exists() or not json.loads(report.read_text())["results"]:
        shutil.rmtree(ROOT / folder, ignore_errors=True)
        call("eval", folder, "--output_dir", folder, *flags(settings))
    return json.loads(report.read_text())["results"]


# All runs: the tiny recipe with a larger budget and fewer steps. The tiny world's budget is 128 tokens.
RECIPE = dict(recipe="tiny", num_steps=60, eval_every=20, save_every=20, eval_limit=250)
RECIPE |= dict(max_response_tokens=192, keep_checkpoints=1)


class Run(NamedTuple):
    experiment: str
    name: str
    world: str
    seed: int
    settings: dict[str, Any]  # beside RECIPE


def do(run: Run) -> Path:
    """Train, unless that is done -> the run's folder."""
    home, folder = RUNS / "worlds" / run.world, RUNS / run.experiment / f"{run.name}-seed{run.seed}"
    where = {"model": home / "base", "data": home / "train.jsonl", "eval_data": home / "test.jsonl"}
    train(folder, **RECIPE | where | run.settings | {"seed": run.seed})
    return folder


def do_all(runs: Sequence[Run], pool: Executor) -> list[Path]:
    """The folders of the runs. One that fails or is stopped ends the series, after those under way."""
    list(pool.map(make_world, dict.fromkeys(run.world for run in runs)))
    futures = [pool.submit(do, run) for run in runs]
    try:
        for future in tqdm(as_completed(futures), total=len(runs), unit="run"):
            future.result()
    finally:
        for future in futures:
            future.cancel()
    return [future.result() for future in futures]


# ---- Statistics ----


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean of one value a seed, and the half width of its 95 % interval by Student's t."""
    values = np.asarray(values, dtype=float)
    return values.mean(), T95[len(values)] * values.std(ddof=1) / math.sqrt(len(values))


def paired(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """t_interval of the differences first - second, seed by seed."""
    return t_interval(np.subtract(first, second))


def bootstrap(values: Sequence[float], draws: int = 2000) -> tuple[float, float, float]:
    """Mean of many values, and the ends of its 95 % interval from means of values drawn with replacement."""
    values, rng = np.asarray(values, dtype=float), np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(draws, len(values)))].mean(axis=1)
    return values.mean(), *np.percentile(means, [2.5, 97.5])


# ---- Tables and figures ----


def plus_minus(interval: tuple[float, float], digits: int, sign: str = "") -> str:
    """(3.14159, 0.5), 2 -> "3.14 ± 0.50"."""
    return f"{interval[0]:{sign}.{digits}f} ± {interval[1]:.{digits}f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_between_markers(file: Path, name: str, text: str) -> None:
    """Put `text` between <!-- paper:name --> and <!-- /paper:name -->. ValueError unless both are there."""
    start, end = f"<!-- paper:{name} -->", f"<!-- /paper:{name} -->"
    whole = file.read_text()
    before, found, rest = whole.partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{file} has no {start} ... {end}: the table of {name} goes between them")
    file.write_text(f"{before}{start}\n{text}\n{end}{after}")


def save(figure: plt.Figure, name: str) -> None:
    for suffix in ("png", "svg"):
        undated = {"Date": None} if suffix == "svg" else {}  # the same figure is the same file
        figure.savefig(HERE / "figures" / f"{name}.{suffix}", dpi=160, metadata=undated)
    plt.close(figure)


# ---- Fig. 5 and 8: wrong responses that grow, and the term that makes them grow ----

CELLS = [("doubt", algo) for algo in ALGOS] + [("plain", algo) for algo in ("grpo", "drgrpo")]
# There is no fact to hold out, so no evaluation beside training's own samples; checkpoints show the decision.
RECALL = dict(num_steps=100, eval_every=0, save_every=10, keep_checkpoints=10)
MEASURES = {  # column of recall_numbers -> digits
    "reward": 3,
    "wrong responses, tokens": 1,
    "over the first ten steps'": 2,
    "right responses, tokens": 1,
    "tokens per right answer": 1,
}
Folders = dict[tuple[str, str], list[Path]]  # (world, algorithm) -> a run for each seed


def recall_numbers(folder: Path) -> list[float]:
    """MEASURES of a run, means over its last steps. Tokens per right answer are those of all responses."""
    steps = [line for line in read_run(ROOT / folder)[1] if line["step"] > 0]

    def mean(some: list[Row], key: str) -> float:  # a step without wrong responses has no length of them
        return np.mean([line[key] for line in some if line[key] is not None])

    first, last = steps[:LAST], steps[-LAST:]
    reward, wrong = mean(last, "reward/mean"), mean(last, "response_tokens/incorrect")
    growth = wrong / mean(first, "response_tokens/incorrect")
    per_right = mean(last, "response_tokens/mean") / reward
    return [reward, wrong, growth, mean(last, "response_tokens/correct"), per_right]


def decisions_of(folder: Path, world: str, seed: int) -> list[Row]:
    """The probability of going on over a run; read once, then its checkpoints are not needed any more."""
    file = ROOT / folder / "decisions.json"
    if not file.exists():
        base = ROOT / RUNS / "worlds" / f"{world}-{seed}" / "base"
        file.write_text(json.dumps(read_decisions(ROOT / folder, base, world, seed)))
        shutil.rmtree(ROOT / folder / "checkpoints")
    return json.loads(file.read_text())


def fig5(seeds: range, pool: Executor) -> str:
    """GRPO and Dr. GRPO, each term alone, and a control, where facts are recalled (Fig. 5 and 8)."""
    runs = [
        Run("fig5", f"{world}-{algo}", f"{world}-{seed}", seed, dict(algo=algo) | RECALL)
        for seed in seeds
        for world, algo in CELLS
    ]
    done = do_all(runs, pool)
    folders = {cell: done[number :: len(CELLS)] for number, cell in enumerate(CELLS)}
    draw_recall(folders, seeds)
    return recall_table({cell: np.array([recall_numbers(f) for f in some]) for cell, some in folders.items()})


def recall_table(numbers: dict[tuple[str, str], np.ndarray]) -> str:
    """(world, algorithm) -> MEASURES of each seed [seeds, measures]. Differences are paired by seed.

    A term's effect is a mean over the other term's absence and presence.
    """
    both, no_length, no_std, neither = (numbers["doubt", algo] for algo in ALGOS)
    control = numbers["plain", "grpo"], numbers["plain", "drgrpo"]
    rows = {ALGO_NAMES[algo]: numbers["doubt", algo] for algo in ALGOS} | {
        "GRPO - Dr. GRPO": both - neither,
        "effect of the length term": (both - no_length + no_std - neither) / 2,
        "effect of the std term": (both - no_std + no_length - neither) / 2,
        "control: GRPO": control[0],
        "control: Dr. GRPO": control[1],
        "control: GRPO - Dr. GRPO": control[0] - control[1],
    }
    cells = [
        [name, *map(plus_minus, map(t_interval, table.T), MEASURES.values())] for name, table in rows.items()
    ]
    return markdown([f"{len(both)} seeds", *MEASURES], cells)


def draw_recall(folders: Folders, seeds: range) -> None:
    """Reward, length of wrong responses, the same in the control, and the decision with what is expected."""
    lines = {cell: [read_run(ROOT / folder)[1] for folder in some] for cell, some in folders.items()}
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.4))
    wrong = "response_tokens/incorrect"
    panels = {
        "Training reward": ("doubt", "reward/mean"),
        "Wrong responses (tokens)": ("doubt", wrong),
        "Control: wrong responses (tokens)": ("plain", wrong),
    }
    looks = dict(zip(ALGOS, LOOKS, strict=False))
    for axis, (title, (world, key)) in zip(axes, panels.items(), strict=False):
        for algo in (algo for of, algo in CELLS if of == world):
            draw_mean(axis, lines[world, algo], key, window=5, label=ALGO_NAMES[algo], **looks[algo])
        axis.set(title=title, xlabel="Step")
    axes[2].set_ylim(axes[1].get_ylim())
    draw_decision(axes[3], folders, seeds, looks)
    legend(figure, axes[0])
    save(figure, "fig5")


def draw_decision(axis: plt.Axes, folders: Folders, seeds: range, looks: dict[str, Row]) -> None:
    """P(go on) after a doubtful value, and paler after a sure one; arrows are what is expected at the start.

    They are all on one scale, that of GRPO's first checkpoint after a doubtful value.
    """
    base, reach, scale = ROOT / RUNS / "worlds" / f"doubt-{seeds[0]}" / "base", 30, None
    for algo in ALGOS:
        runs = [decisions_of(f, "doubt", seed) for f, seed in zip(folders["doubt", algo], seeds, strict=True)]
        for key, alpha in {"after_wrong": 1.0, "after_right": 0.45}.items():
            steps, mean = draw_mean(axis, runs, key, window=1, alpha=alpha, **looks[algo])
            logits, push = np.log(mean / (1 - mean)), expected_pushes(base, "doubt", algo)[key]
            scale = scale or (logits[1] - logits[0]) / steps[1] / push
            end = 1 / (1 + np.exp(-(logits[0] + scale * push * reach)))
            arrow = dict(arrowstyle="-|>", color=looks[algo]["color"], lw=1.5, shrinkA=0, shrinkB=0)
            axis.annotate("", (reach, end), (0, mean[0]), arrowprops=arrow, zorder=4)
    for place, value in {0.7: "after a doubtful value", 0.2: "after a sure value (pale)"}.items():
        axis.text(1, place, value, ha="right", transform=axis.transAxes)
    axis.set(title="Probability of going on", xlabel="Step", ylim=(0, 1))


# ---- The difficulty bias: what each question weighs, from gradients ----


def question_weight(right: int, group_size: int, *, scale_by_std: bool) -> float:
    """What the advantages of a group multiply its gradient by, if `right` of its responses are right.

    The advantages of right responses are all equal, and so are those of wrong ones; all of them sum to 0. So
    sum_i A_i g_i = weight * (mean g of the right - mean g of the wrong), and the weight is r (G - r) / G, for
    GRPO divided by the unbiased std of r ones and G - r zeros, sqrt(r (G - r) / (G (G - 1))).
    """
    weight = right * (group_size - right) / group_size
    return math.sqrt(weight * (group_size - 1)) if scale_by_std and weight else weight


GROUP = 8  # responses a question, as in all runs


def bias(*_: Any) -> str:
    """The weight of a question by how many of its responses are right (Sec. 3.1)."""
    world, file = make_world("loops"), RUNS / "bias" / "groups.jsonl"
    if not (ROOT / file).exists():
        budget = RECIPE["max_response_tokens"]
        call("miniature.bias", file, world / "base", world / "train.jsonl", budget, file)
    return bias_table([json.loads(line) for line in (ROOT / file).read_text().splitlines()])


def relative_norms(groups: list[Row], algo: str) -> dict[int, tuple[float, float, float]]:
    """Right responses -> mean norm of such groups over that of half-right ones, with bootstrap ends.

    The divisor is taken as known: its own error moves all points of a curve alike.
    """
    half = np.mean([row[algo] for row in groups if row["right"] == GROUP // 2])
    by_right = {
        right: [row[algo] / half for row in groups if row["right"] == right] for right in range(1, GROUP)
    }
    return {right: bootstrap(values) for right, values in by_right.items() if values}


def bias_table(groups: list[Row]) -> str:
    rights, scaled = range(1, GROUP), {algo: terms.scale_by_std for algo, terms in ALGOS.items()}
    measured = {algo: relative_norms(groups, algo) for algo in ALGOS}
    closed = {algo: [question_weight(r, GROUP, scale_by_std=scaled[algo]) for r in rights] for algo in ALGOS}
    closed = {algo: np.array(weights) / weights[GROUP // 2 - 1] for algo, weights in closed.items()}
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.8), sharey=True)
    panels = {
        "Divided by the token budget": ("grpo_no_length", "drgrpo"),
        "Divided by each length": ("grpo", "grpo_no_std"),
    }
    for axis, (title, algos) in zip(axes, panels.items(), strict=True):
        for algo, look, aside in zip(algos, LOOKS, (-0.07, 0.07), strict=False):
            mean, low, high = np.array(list(measured[algo].values())).T
            points, line = {**look, "linestyle": "none"}, {**look, "marker": None, "lw": 1}
            errors = [mean - low, high - mean]
            x = np.array(list(measured[algo])) + aside
            axis.errorbar(x, mean, errors, capsize=2.5, label=ALGO_NAMES[algo], **points)
            name = "weight r(G-r)/G" + " over std" * scaled[algo]
            axis.plot(rights, closed[algo], **line, label=name)
        axis.set(title=title, xlabel=f"Right responses of {GROUP}", ylim=(0, None))
        axis.legend(loc="lower center", frameon=False)
    axes[0].set_ylabel("Gradient's norm, over that at one half")
    save(figure, "bias")
    rows = []
    for right in rights:
        cells = [f"{right} of {GROUP}", str(sum(row["right"] == right for row in groups))]
        cells += [f"{closed[algo][right - 1]:.2f}" for algo in ("grpo", "drgrpo")]
        for algo in ALGOS:
            mean, low, high = measured[algo].get(right, (math.nan,) * 3)
            cells.append(f"{mean:.2f} [{low:.2f}, {high:.2f}]")
        rows.append(cells)
    head = ["right", "groups", "weight with std", "without", *(f"norm, {ALGO_NAMES[algo]}" for algo in ALGOS)]
    return markdown(head, rows)


# ---- Fig. 6: template and question set ----

TEMPLATES = ("none", "qwen_math", "r1")
QUESTION_SETS = ("train", "narrow", "easier")
LONG_PROMPT = dict(max_prompt_tokens=128)  # R1's has some 115 tokens in the tiny vocabulary


def before_and_after(folders: list[Path]) -> tuple[list[float], list[float]]:
    """Greedy held-out accuracy of the base and of the trained model, a value a seed."""
    accuracies = [[line["accuracy"] for line in read_run(ROOT / f)[1] if "accuracy" in line] for f in folders]
    return [run[0] for run in accuracies], [run[-1] for run in accuracies]


def first_and_last_rewards(folders: list[Path]) -> tuple[list[float], list[float]]:
    """Mean training reward over the first and over the last steps, a value a seed: samples, not greedy."""
    runs = [[line["reward/mean"] for line in read_run(ROOT / f)[1] if line["step"] > 0] for f in folders]
    return [np.mean(run[:LAST]) for run in runs], [np.mean(run[-LAST:]) for run in runs]


def fig6(seeds: range, pool: Executor) -> str:
    """Templates on a base that was pretrained on plain question-answer text, by question set (Fig. 6)."""
    cells = [(template, name) for name in QUESTION_SETS for template in TEMPLATES]
    runs = []
    for seed in seeds:
        for template, name in cells:
            data = RUNS / "worlds/qa" / f"{name}.jsonl"
            settings = dict(template=template, data=data, **LONG_PROMPT)
            runs.append(Run("fig6", f"{template}-{name}", "qa", seed, settings))
    done = do_all(runs, pool)
    folders = {cell: done[number :: len(cells)] for number, cell in enumerate(cells)}
    figure, axes = plt.subplots(1, len(QUESTION_SETS), figsize=(10, 3.2), sharey=True)
    for axis, name in zip(axes, QUESTION_SETS, strict=True):
        for template, look in zip(TEMPLATES, LOOKS, strict=False):
            runs = [read_run(ROOT / folder)[1] for folder in folders[template, name]]
            draw_mean(axis, runs, "accuracy", window=1, label=template, **look)
        title = {"train": "broad"}.get(name, name)
        axis.set(title=f"{title}: {QUESTIONS[name][1]} questions", xlabel="Step", ylim=(-0.03, 1.03))
    axes[0].set_ylabel("Held-out accuracy, greedy")
    legend(figure, axes[0])
    save(figure, "fig6")
    rows = []
    for template in TEMPLATES:
        cells = [f"{before_and_after(folders[template, 'train'])[0][0]:.3f}"]
        after = [before_and_after(folders[template, name])[1] for name in QUESTION_SETS]
        rows.append([template, *cells, *(plus_minus(t_interval(values), 3) for values in after)])
    return markdown([f"template, {len(seeds)} seeds", "base", "broad set", "narrow set", "easier set"], rows)


# ---- Fig. 7: what the base was pretrained on ----

BASES = ("general", "domain", "concatenated")


def fig7(seeds: range, pool: Executor) -> str:
    """The ceiling of RL by what the base has read (Fig. 7)."""
    done = do_all([Run("fig7", name, name, seed, {}) for seed in seeds for name in BASES], pool)
    folders = {name: done[number :: len(BASES)] for number, name in enumerate(BASES)}
    figure, axis = plt.subplots(figsize=(5, 3.2))
    for i, (name, look, hatch) in enumerate(zip(BASES, LOOKS, HATCHES, strict=False)):
        for x, values in zip((i - 0.2, i + 0.2), before_and_after(folders[name]), strict=True):
            alpha = 0.45 if x < i else 1.0
            axis.bar(
                x, np.mean(values), 0.36, color=look["color"], hatch=hatch, edgecolor="white", alpha=alpha
            )
        mean, half = t_interval(before_and_after(folders[name])[1])
        axis.errorbar(i + 0.2, mean, half, fmt="none", capsize=2.5, ecolor="#333333")
    axis.set(ylabel="Held-out accuracy, greedy", ylim=(0, 1), title="Before (pale) and after RL")
    axis.set_xticks(range(len(BASES)), BASES)
    save(figure, "fig7")
    rows = []
    for name in BASES:
        before, after = before_and_after(folders[name])
        difference = plus_minus(paired(after, before_and_after(folders["general"])[1]), 3, "+")
        cells = [
            f"{before[0]:.3f}",
            plus_minus(t_interval(after), 3),
            "-" if name == "general" else difference,
        ]
        cells += [plus_minus(t_interval(values), 3) for values in first_and_last_rewards(folders[name])]
        rows.append([name, *cells])
    head = [f"base, {len(seeds)} seeds", "before", "after RL", "after, over `general`, paired"]
    return markdown([*head, f"reward, first {LAST} steps", f"last {LAST} steps"], rows)


# ---- Table 1, Fig. 3 and 15: templates, answering, pass@8 against temperature, self-reflection ----


def is_working(record: Row) -> bool:
    return "=" in record["response"]


def answers_something(record: Row) -> bool:
    """The judge's question as a rule: a response that works on the sum or boxes an answer answers. The rest
    are further questions."""
    return record["formatted"] or is_working(record)


def rate(records: list[Row], test: Callable[[Row], bool]) -> str:
    """The share of responses that pass, with a bootstrap interval over questions."""
    by_question: dict[int, list[bool]] = {}
    for record in records:
        by_question.setdefault(record["problem"], []).append(test(record))
    mean, low, high = bootstrap([np.mean(some) for some in by_question.values()])
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def read_responses(folder: Path) -> list[Row]:
    """The graded responses of an evaluation."""
    return [json.loads(line) for line in (ROOT / folder / "responses.jsonl").read_text().splitlines()]


def recheck_effect(records: list[Row]) -> str:
    """Accuracy of responses that check again minus that of others to the same question (Fig. 15), over the
    questions that have both."""
    by_question: dict[int, dict[bool, list[bool]]] = {}
    for record in records:
        groups = by_question.setdefault(record["problem"], {True: [], False: []})
        groups[bool(keywords_in(record["response"]))].append(record["correct"])
    groups = [some for some in by_question.values() if some[True] and some[False]]
    mean, low, high = bootstrap([np.mean(some[True]) - np.mean(some[False]) for some in groups])
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}] over {len(groups)} questions with both"


def table1(*_: Any) -> str:
    """Base models as they are: answering by template, pass@8 by temperature, rechecks and accuracy."""
    home, loops = make_world("qa"), make_world("loops")
    common = dict(n=8, limit=250, max_response_tokens=192)
    where = dict(model=home / "base", data=home / "test.jsonl")
    evaluate(RUNS / "table1/templates", **where, template=",".join(TEMPLATES), temperature=1, **common)
    temperatures = "0.1,0.2,0.4,0.6,0.8,1.0"
    swept = evaluate(RUNS / "table1/temperatures", **where, temperature=temperatures, **common)
    save(draw_pass_at_k([row | {"name": "qa"} for row in swept]), "table1")
    where = dict(model=loops / "base", data=loops / "test.jsonl")
    (checked,) = evaluate(RUNS / "table1/rechecks", **where, temperature=1, **common)
    records = read_responses(RUNS / "table1/templates")
    rows = []
    for template in TEMPLATES:
        some = [record for record in records if record["template"] == template]
        right = rate(some, lambda record: record["correct"])
        rows.append([template, rate(some, answers_something), right])
    parts = [markdown(["template", "answering", "accuracy"], rows)]
    rows = [[f"{row['temperature']:g}", f"{row['accuracy']:.3f}", f"{row['pass@8']:.3f} "] for row in swept]
    for cells, row in zip(rows, swept, strict=True):
        cells[-1] += "[{:.3f}, {:.3f}]".format(*row["intervals"]["pass@8"])
    parts.append(markdown(["temperature", "accuracy", "pass@8"], rows))
    records = read_responses(RUNS / "table1/rechecks")
    workings = [record for record in records if is_working(record)]
    share = checked["reflection/keywords"]
    parts.append(
        f"Responses of `loops` that check again: {share:.3f}. Their accuracy minus that of others to the "
        f"same question: {recheck_effect(records)}. Among workings alone: {recheck_effect(workings)}."
    )
    return "\n\n".join(parts)


def time_table() -> str:
    """What was computed for each experiment so far: processes, and hours times cores of each.

    A base or question set belongs to `worlds`, as experiments share it.
    """
    rows = [json.loads(line) for line in (ROOT / TIMES).read_text().splitlines()]
    spent: dict[str, list[Row]] = {}
    for row in rows:
        spent.setdefault(Path(row["folder"]).relative_to(RUNS).parts[0], []).append(row)
    cells = [
        [name, str(len({row["folder"] for row in some}))]
        + [f"{sum(row['seconds'] * row['cores'] for row in some) / 3600:.2f}"]
        for name, some in sorted(spent.items())
    ]
    return markdown(["experiment", "runs", "core-hours"], cells)


EXPERIMENTS = {run.__name__: run for run in (fig5, bias, fig6, fig7, table1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = "; ".join(f"{name}: {run.__doc__.splitlines()[0]}" for name, run in EXPERIMENTS.items())
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help=known)
    parser.add_argument("--seeds", type=int, help="2 to 10; default: 8 for fig5, 5 for others")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time; each has its share of the cores")
    args = parser.parse_args()
    unknown = set(args.experiments) - EXPERIMENTS.keys()
    if unknown:
        parser.error(f"no experiment {', '.join(sorted(unknown))}: choose from {', '.join(EXPERIMENTS)}")
    if args.seeds is not None and args.seeds not in T95:
        parser.error(f"seeds is {args.seeds}: an interval needs 2 to {max(T95)}")
    if args.jobs < 1:
        parser.error(f"jobs is {args.jobs}: at least 1")
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // args.jobs))
    plt.rcParams.update(STYLE)
    with ThreadPoolExecutor(args.jobs) as pool:
        for name in args.experiments or EXPERIMENTS:
            table = EXPERIMENTS[name](range(args.seeds or (8 if name == "fig5" else 5)), pool)
            print(f"\n{name}\n{table}\n", flush=True)
            write_between_markers(HERE / "README.md", name, table)
            if name != "bias":  # its readings are of the responses of table1
                subprocess.run([sys.executable, "-m", "miniature.readings", name], cwd=ROOT, check=True)
            if (ROOT / TIMES).exists():
                write_between_markers(HERE / "README.md", "time", time_table())


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # has reached the runs too, and they have saved
        sys.exit("\npaper: stopped; the same command goes on")
