"""The figures: learning curves of training runs, pass@k against temperature, templates side by side.

    python -m analysis.plot runs/grpo-0 runs/grpo-1 runs/drgrpo-0 runs/drgrpo-1      curves.png, curves.svg
    python -m analysis.plot runs/eval-base                                           pass_at_k.*, templates.*

A folder with metrics.jsonl is a run of train.py; runs are grouped by their algorithm, and a line is the mean
over a group's runs (seeds), with a band of one standard deviation. A folder with report.json is one of
eval.py. What can be drawn from the folders is drawn, into --output_dir. view.py draws with this file too.
"""

import argparse
import io
import json
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from analysis.records import read_lines, read_object

# Okabe and Ito's colours, which the colour-blind can tell apart; styles, markers and hatches do it in grey.
LOOKS = [
    {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    {"color": "#D55E00", "linestyle": "--", "marker": "s"},
    {"color": "#009E73", "linestyle": "-.", "marker": "^"},
    {"color": "#CC79A7", "linestyle": ":", "marker": "D"},
    {"color": "#E69F00", "linestyle": (0, (5, 1)), "marker": "v"},
    {"color": "#56B4E9", "linestyle": (0, (1, 1)), "marker": "P"},
]
HATCHES = ["", "///", "...", "\\\\\\", "xxx", "++"]
ALGO_NAMES = {"grpo": "GRPO", "drgrpo": "Dr. GRPO", "grpo_no_length": "GRPO without length term"}
ALGO_NAMES |= {"grpo_no_std": "GRPO without std term"}
STYLE = {"figure.constrained_layout.use": True, "axes.spines.top": False, "axes.spines.right": False}
STYLE |= {
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.axisbelow": True,
    "font.size": 9,
    "lines.markersize": 4.5,
}
STYLE |= {"hatch.linewidth": 0.7, "svg.hashsalt": "figures"}
for prefix, namespace in {"": "http://www.w3.org/2000/svg", "xlink": "http://www.w3.org/1999/xlink"}.items():
    ElementTree.register_namespace(prefix, namespace)
PAGE_STYLE = STYLE | {"svg.fonttype": "none", "path.simplify_threshold": 0.3}  # text in the page's font
POINTS = 400  # of a line, at most
# A metric, its title, and whether it is smoothed: evaluations are few.
FIG5 = {
    "reward/mean": ("Training reward", True),
    "response_tokens/mean": ("Response length (tokens)", True),
    "response_tokens/incorrect": ("Incorrect responses (tokens)", True),
    "accuracy": ("Evaluation accuracy", False),
}
ALL_PANELS = {
    "reward/mean": ("Training reward", True),
    "accuracy": ("Evaluation accuracy", False),
    "response_tokens/mean": ("Length of all responses (tokens)", True),
    "response_tokens/correct": ("Length of right responses (tokens)", True),
    "response_tokens/incorrect": ("Length of wrong responses (tokens)", True),
    "truncated": ("Truncated (share)", True),
    "entropy": ("Entropy (nats a token)", True),
    "sampler_kl": ("KL of sampler and learner (nats)", True),
}
PARTS = {f"time/{part}": part for part in ("sample", "verify", "update", "sync", "rest")}
Row = dict[str, Any]


def read_run(folder: Path) -> tuple[str, list[Row]]:
    """The algorithm of a run, and its lines of metrics with the mean accuracy over evaluation sets."""
    config, _ = read_object(folder / "config.json")
    lines, _ = read_lines(folder / "metrics.jsonl", {"step": int})
    add_accuracy(lines)
    return config.get("algo", "unknown"), lines


def add_accuracy(lines: list[Row]) -> None:
    """`accuracy` to each line with evaluations: the mean over their sets."""
    for line in lines:
        accuracies = [line[key] for key in line if key.startswith("eval/") and key.endswith("/accuracy")]
        if accuracies:
            line["accuracy"] = sum(accuracies) / len(accuracies)


def series(runs: list[list[Row]], key: str, window: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps that all runs have with that metric, and mean and standard deviation over runs there.

    Each run is first smoothed by a mean over `window` values around each.
    """
    curves = []
    for lines in runs:
        points = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
        values = [value for _, value in points]
        half = window // 2
        smooth = [np.mean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
        curves.append({step: value for (step, _), value in zip(points, smooth, strict=True)})
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    table = np.array([[curve[step] for step in steps] for curve in curves]).reshape(len(curves), len(steps))
    return np.array(steps), table.mean(axis=0), table.std(axis=0)


def draw_mean(
    axis: plt.Axes, runs: list[list[Row]], key: str, window: int, *, alpha: float = 1.0, **look: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The mean curve of `series`, of several runs over a band of one standard deviation -> steps, mean."""
    steps, mean, deviation = series(runs, key, window)
    every = -(-len(steps) // POINTS) or 1
    steps, mean, deviation = (values[::every] for values in (steps, mean, deviation))
    axis.plot(steps, mean, alpha=alpha, markevery=max(1, len(steps) // 6), **look)
    if len(runs) > 1:
        low, high = mean - deviation, mean + deviation
        axis.fill_between(steps, low, high, color=look["color"], alpha=0.2 * alpha, lw=0)
    return steps, mean


def label_of(algo: str, runs: int) -> str:
    return ALGO_NAMES.get(algo, algo) + (f" ({runs} seeds)" if runs > 1 else "")


def legend(figure: plt.Figure, axis: plt.Axes, columns: int | None = None) -> None:
    """One for all panels, below them; long handles show the line's style."""
    handles, labels = axis.get_legend_handles_labels()
    columns = columns or int(figure.get_figwidth() / 1.6)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=3.5, frameon=False)


def draw_panel(axis: plt.Axes, runs: dict[str, list[list[Row]]], key: str, title: str, window: int) -> None:
    """A metric against the step, a line an algorithm."""
    for look, (algo, of_algo) in zip(cycle(LOOKS), runs.items(), strict=False):
        draw_mean(axis, of_algo, key, window, label=label_of(algo, len(of_algo)), **look)
    axis.set(title=title, xlabel="Step")


def draw_curves(runs: dict[str, list[list[Row]]], window: int) -> plt.Figure:
    """Reward, length, length of wrong responses and accuracy against the step, as in Fig. 5."""
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.2))
    for axis, (key, (title, smoothed)) in zip(axes, FIG5.items(), strict=True):
        draw_panel(axis, runs, key, title, window if smoothed else 1)
    legend(figure, axes[0])
    return figure


def draw_page(runs: dict[str, list[list[Row]]], window: int) -> Iterator[str]:
    """The panels of view.py's page as SVG: each metric that there is, and the times of each algorithm."""

    def has(key: str, some: list[list[Row]]) -> bool:
        return any(line.get(key) is not None for lines in some for line in lines)

    every_run = [lines for of_algo in runs.values() for lines in of_algo]
    with plt.rc_context(PAGE_STYLE):
        for key, (title, smoothed) in ALL_PANELS.items():
            if has(key, every_run):
                figure, axis = plt.subplots(figsize=(3.5, 2.4))
                draw_panel(axis, runs, key, title, window if smoothed else 1)
                yield to_svg(figure, title)
        for algo, of_algo in runs.items():
            parts = {key: part for key, part in PARTS.items() if has(key, of_algo)}
            if not parts:
                continue
            figure, axis = plt.subplots(figsize=(3.5, 2.8))
            for look, (key, part) in zip(cycle(LOOKS), parts.items(), strict=False):
                draw_mean(axis, of_algo, key, window, label=part, **look)
            title = f"Seconds a step: {label_of(algo, 1)}"
            axis.set(title=title, xlabel="Step", yscale="log")
            legend(figure, axis, columns=3)
            yield to_svg(figure, title)


def draw_key(labels: list[str]) -> str:
    """The looks of these lines beside their labels, as SVG."""
    with plt.rc_context(PAGE_STYLE):
        figure, axis = plt.subplots(figsize=(3.5, 0.22 * len(labels) + 0.1))
        lines = [axis.plot([], [], **look, label=label)[0] for look, label in zip(cycle(LOOKS), labels)]
        axis.set_axis_off()
        figure.legend(lines, labels, loc="center left", handlelength=3.5, frameon=False)
        return to_svg(figure, "Key to the lines")


def to_svg(figure: plt.Figure, name: str) -> str:
    """The figure as an <svg> to stand in an HTML page, without its ground; black becomes the page's colour.

    The same data gives the same text. It has no style attributes, which a page's security policy can forbid,
    and its ids begin with `name`, so that those of two figures never clash.
    """
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    root = ElementTree.fromstring(stream.getvalue())
    for parent in list(root.iter()):
        for child in [c for c in parent if c.tag.endswith(("}style", "}metadata"))]:
            parent.remove(child)
    for element in root.iter():
        for rule in filter(None, element.attrib.pop("style", "").split(";")):
            key, value = (part.strip() for part in rule.split(":", 1))
            if key != "font-family":
                element.set(key, "currentColor" if value == "#000000" else value)
        if element.tag.endswith("}text"):
            element.attrib.setdefault("fill", "currentColor")
        if element.tag.endswith("}g"):
            element.attrib.pop("id", None)  # nothing refers to a group
        for key in {"d", "x", "y", "width", "height"} & element.attrib.keys():
            element.set(key, re.sub(r"(\.\d\d)\d+|\n", r"\1", element.get(key)))  # of a point
    for key in ("width", "height"):
        del root.attrib[key]
    root.attrib |= {"role": "img", "aria-label": name, "stroke-linejoin": "round"}
    text = ElementTree.tostring(root, encoding="unicode")
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{re.sub('[^a-z]+', '-', name.lower())}-", text)


def draw_pass_at_k(rows: list[Row]) -> plt.Figure | None:
    """pass@k against temperature with intervals (Fig. 3, middle), a panel for each set and template."""
    panels: dict[str, list[Row]] = {}
    for row in rows:
        panels.setdefault(f"{row['name']}, template {row['template']}", []).append(row)
    panels = {name: some for name, some in panels.items() if len({row["temperature"] for row in some}) > 1}
    if not panels:
        return None
    figure, axes = plt.subplots(
        1, len(panels), figsize=(1 + 3.8 * len(panels), 3.6), squeeze=False, sharey=True
    )
    ks = sorted({int(key[5:]) for some in panels.values() for row in some for key in row["intervals"]})
    for axis, (name, some) in zip(axes[0], panels.items(), strict=True):
        for look, key in zip(cycle(LOOKS), [f"pass@{k}" for k in ks], strict=False):
            found = sorted((row for row in some if key in row["intervals"]), key=lambda r: r["temperature"])
            if found:
                x = [row["temperature"] for row in found]
                low, high = np.array([row["intervals"][key] for row in found]).T
                axis.plot(x, [row[key] for row in found], **look, label=key)
                axis.fill_between(x, low, high, color=look["color"], alpha=0.15, lw=0)
        axis.set(title=name, xlabel="Temperature", ylim=(-0.03, 1.03))  # a curve at 0 stays visible
    axes[0][0].set_ylabel("Probability that one of k is right")
    legend(figure, axes[0][0])
    return figure


def draw_templates(rows: list[Row]) -> plt.Figure | None:
    """Accuracy of each template at the lowest temperature sampled, with intervals, set by set (Table 1)."""
    lowest = min(row["temperature"] for row in rows)
    rows = [row for row in rows if row["temperature"] == lowest]
    names, templates = ([*dict.fromkeys(row[key] for row in rows)] for key in ("name", "template"))
    if len(templates) < 2:
        return None
    figure, axis = plt.subplots(figsize=(2.5 + 1.3 * len(names), 3.4))
    width = 0.8 / len(templates)
    for i, (template, look, hatch) in enumerate(zip(templates, cycle(LOOKS), cycle(HATCHES), strict=False)):
        found = [row for row in rows if row["template"] == template]
        x = np.array([names.index(row["name"]) for row in found]) + (i - (len(templates) - 1) / 2) * width
        values = np.array([row["accuracy"] for row in found])
        low, high = np.array([row["intervals"]["pass@1"] for row in found]).T
        errors = np.maximum(0, [values - low, high - values])
        color = dict(color=look["color"], edgecolor="white", hatch=hatch)
        axis.bar(x, values, 0.92 * width, label=template, **color)
        axis.errorbar(x, values, errors, fmt="none", capsize=2.5, ecolor="#333333")
    axis.set(ylabel=f"Accuracy at temperature {lowest:g}", ylim=(0, 1))
    axis.set_xticks(range(len(names)), names)
    axis.grid(axis="x", visible=False)
    legend(figure, axis)
    return figure


def short_names(models: Sequence[str]) -> dict[str, str]:
    """Each model by the end of its path: of two that are called runs/a/model and runs/b/model, a/model."""
    parts = {model: Path(model).parts for model in models}
    depth = 1
    while len({ends[-depth:] for ends in parts.values()}) < len({*parts.values()}):
        depth += 1
    return {model: "/".join(ends[-depth:]) for model, ends in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="run folders of train.py and eval.py")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/figures"))
    parser.add_argument("--window", type=int, default=5, help="curves are means over that many steps")
    args = parser.parse_args()
    runs: dict[str, list[list[Row]]] = {}
    reports: list[tuple[str, list[Row]]] = []
    for folder in args.folders:
        if (folder / "metrics.jsonl").exists():
            algo, lines = read_run(folder)
            runs.setdefault(algo, []).append(lines)
        elif (folder / "report.json").exists():
            report = json.loads((folder / "report.json").read_text())
            reports.append((report.get("model", ""), report["results"]))
        else:
            print(f"plot.py: {folder} has neither metrics.jsonl nor report.json", file=sys.stderr)
            sys.exit(2)
    names = short_names([model for model, _ in reports])
    rows = [
        row | {"name": f"{names[model]}\n" * (len(names) > 1) + Path(row["set"]).name}
        for model, results in reports
        for row in results
    ]
    plt.rcParams.update(STYLE)
    figures = {"curves": draw_curves(runs, args.window) if runs else None}
    figures |= {"pass_at_k": draw_pass_at_k(rows), "templates": draw_templates(rows)} if rows else {}
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        for suffix in (".png", ".svg") if figure else ():
            figure.savefig(args.output_dir / f"{name}{suffix}", dpi=160)
            print(args.output_dir / f"{name}{suffix}")


if __name__ == "__main__":
    main()
