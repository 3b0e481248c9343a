import json
import math
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import ROOT

from loss import ALGOS, group_advantages
from miniature import paper, readings, worlds
from miniature.arithmetic import in_test_split


@pytest.fixture
def root(tmp_path, monkeypatch):
    """paper.py in an empty folder, with stubs of the scripts it starts -> the folder."""
    monkeypatch.setattr(paper, "ROOT", tmp_path)
    monkeypatch.setattr(paper, "HERE", tmp_path)
    return tmp_path


@pytest.fixture
def calls(root, monkeypatch):
    """What would have been started; train.py and eval.py leave what a whole run leaves."""
    made = []

    def call(script, folder, *args):
        args, folder = [str(arg) for arg in args], root / folder
        made.append([script, *args])
        if script == "train":
            steps = int(args[args.index("--num_steps") + 1])
            write_run(folder, args[args.index("--algo") + 1] if "--algo" in args else "grpo", [0.5] * steps)
        elif script == "eval":
            write_report(folder)
        else:
            (folder / "base").mkdir(parents=True)

    monkeypatch.setattr(paper, "call", call)
    return made


def write_run(
    folder, algo, rewards, *, num_steps=None, model=True, wrong=lambda step: 20.0, cut=lambda step: 0.0
):
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"algo": algo, "num_steps": num_steps or len(rewards)}
    (folder / "config.json").write_text(json.dumps(settings))
    lines = [{"step": 0, "eval/a/accuracy": 0.25}]
    for step, reward in enumerate(rewards, 1):
        lines.append({"step": step, "reward/mean": reward, "response_tokens/mean": 10.0})
        lines[-1] |= {
            "eval/names": [],
            "response_tokens/incorrect": wrong(step),
            "response_tokens/correct": 5.0,
            "truncated": cut(step),
        }
    lines[-1]["eval/a/accuracy"] = 0.75
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if model:
        (folder / "model").mkdir(exist_ok=True)
    return folder


def write_report(folder, **numbers):
    folder.mkdir(parents=True, exist_ok=True)
    row = {"accuracy": 0.8, "response_tokens": 12.0, "response_tokens/incorrect": 30.0} | numbers
    (folder / "report.json").write_text(json.dumps({"results": [row]}))


# ---- Resuming ----


def test_finished_runs_are_skipped_and_started_ones_resumed(root, calls):
    settings = dict(algo="grpo", num_steps=3)
    write_run(root / "done", "grpo", [0.1] * 3)
    write_run(root / "cut_off", "grpo", [0.1], num_steps=3, model=False)
    write_run(root / "stopped", "grpo", [0.1], num_steps=3)  # Ctrl-C leaves a model, not of the last step
    for name in ("done", "cut_off", "stopped", "new"):
        paper.train(Path(name), **settings)
    flags = ["--algo", "grpo", "--num_steps", "3"]
    assert calls == [
        ["train", "--output_dir", "cut_off", *flags, "--resume"],
        ["train", "--output_dir", "stopped", *flags, "--resume"],
        ["train", "--output_dir", "new", *flags],
    ]


def test_a_run_cut_off_before_it_had_settings_starts_anew(root, calls):
    (root / "run").mkdir()
    (root / "run" / "lock").touch()
    paper.train(Path("run"), algo="grpo", num_steps=1)
    assert "--resume" not in calls[0] and not (root / "run" / "lock").exists()


def test_a_run_that_was_told_to_stop_ends_the_series(root, monkeypatch):
    stopped = dict(num_steps=3, model=False)
    monkeypatch.setattr(paper, "call", lambda *_: write_run(root / "run", "grpo", [0.1], **stopped))
    with pytest.raises(SystemExit, match="run was stopped; the same command goes on"):
        paper.train(Path("run"), algo="grpo", num_steps=3)


def test_a_script_that_fails_ends_the_series_with_what_it_said(root):
    (root / "fails.py").write_text("print('out'); raise SystemExit('of sorts')")
    with pytest.raises(SystemExit, match="of sorts\n(.*\n)*paper: fails failed, see .*/e/a.log"):
        paper.call("fails", paper.RUNS / "e/a")
    assert "out\n" in (root / paper.RUNS / "e/a.log").read_text()
    assert json.loads((root / paper.TIMES).read_text())["seconds"] > 0


def test_times_by_experiment_by_hand(root):
    """A run that was cut off and went on is one run with both of its times."""
    calls = [("fig5/a", 1, 1800), ("fig5/b", 1, 360), ("fig5/a", 1, 900), ("worlds/qa", 2, 3600)]
    rows = [dict(folder=f"runs/paper/{name}", cores=n, seconds=s) for name, n, s in calls]
    (root / paper.RUNS).mkdir(parents=True)
    (root / paper.TIMES).write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = paper.time_table().splitlines()
    assert lines[2:] == ["| fig5 | 2 | 0.85 |", "| worlds | 1 | 2.00 |"]


def test_a_run_that_fails_ends_the_series_after_those_under_way(root, monkeypatch):
    """Of five runs, two at a time, the second fails at once: the first ends, the last is never begun."""
    (root / "runs/paper/worlds/loops/base").mkdir(parents=True)
    begun, ended, failed = [], [], threading.Event()

    def train(folder, **settings):
        begun.append(settings["seed"])
        if settings["seed"] == 1:
            failed.set()
            sys.exit("ill")
        failed.wait(10)
        time.sleep(0.2)
        ended.append(settings["seed"])

    monkeypatch.setattr(paper, "train", train)
    runs = [paper.Run("e", "r", "loops", seed, {}) for seed in range(5)]
    with pytest.raises(SystemExit, match="ill"), ThreadPoolExecutor(2) as pool:
        paper.do_all(runs, pool)
    assert 0 in ended and sorted(ended) == sorted(set(begun) - {1}) and 4 not in begun


def test_reports_are_made_once_and_unfinished_ones_anew(root, calls):
    for _ in range(2):
        assert paper.evaluate(Path("e"), n=4)[0]["accuracy"] == 0.8
    assert calls == [["eval", "--output_dir", "e", "--n", "4"]]
    (root / "e" / "report.json").write_text('{"results": []}')  # eval.py was killed while it analysed
    paper.evaluate(Path("e"), n=4)
    assert len(calls) == 2


def test_fig5_has_a_world_for_each_seed(root, calls, monkeypatch):
    monkeypatch.setattr(paper, "draw_recall", lambda *_: None)
    table = paper.fig5(range(2), ThreadPoolExecutor(1))
    worlds = [call for call in calls if call[0] != "train"]
    names = [(kind, seed) for seed in "01" for kind in ("doubt", "plain")]
    assert worlds == [["miniature.recall", *n, "runs/paper/worlds/" + "-".join(n)] for n in names]
    trained = {tuple(c[c.index(f"--{flag}") + 1] for flag in ("model", "algo", "seed")) for c in calls[4:]}
    cells = [("doubt", algo) for algo in ALGOS] + [("plain", "grpo"), ("plain", "drgrpo")]
    assert trained == {(f"runs/paper/worlds/{w}-{s}/base", algo, s) for w, algo in cells for s in "01"}
    assert "| Dr. GRPO | 0.500 ± 0.000 | 20.0 ± 0.0 | 1.00 ± 0.00 | 5.0 ± 0.0 | 20.0 ± 0.0 |" in table


def test_rows_of_fig5_by_hand():
    """Value = 1 + 2 [length term] + 10 [std term], the control 50 and 47, of two seeds that are 0.5 apart."""
    values = dict(zip(paper.CELLS, [13, 11, 3, 1, 50, 47], strict=True))
    numbers = {cell: np.full((2, 5), [[value], [value + 0.5]]) for cell, value in values.items()}
    rows = [line.split(" | ")[:2] for line in paper.recall_table(numbers).splitlines()[2:]]
    means = {name.removeprefix("| "): cell for name, cell in rows}
    assert means["GRPO"].startswith("13.250 ±") and means["GRPO without std term"].startswith("3.250 ±")
    assert means["GRPO - Dr. GRPO"] == "12.000 ± 0.000"
    assert means["effect of the length term"] == "2.000 ± 0.000"
    assert means["effect of the std term"] == "10.000 ± 0.000"
    assert means["control: GRPO - Dr. GRPO"] == "3.000 ± 0.000"


def test_fig6_and_fig7_put_each_run_in_its_cell(root, calls, monkeypatch):
    """Runs come out of the pool as one list; a run's final accuracy here says which cell it belongs to."""
    monkeypatch.setattr(paper, "save", lambda *_: None)
    accuracies = {}

    def before_and_after(folders):
        names = {folder.name.rpartition("-seed")[0] for folder in folders}
        assert len(names) == 1 and [folder.name[-1] for folder in folders] == ["0", "1", "2"]
        after = accuracies.setdefault(names.pop(), len(accuracies) / 100)
        return [0.0] * 3, [after] * 3

    monkeypatch.setattr(paper, "before_and_after", before_and_after)
    pool = ThreadPoolExecutor(2)
    table = paper.fig6(range(3), pool).splitlines()
    for line, template in zip(table[2:], paper.TEMPLATES, strict=True):
        cells = [f"{accuracies[f'{template}-{name}']:.3f} ± 0.000" for name in paper.QUESTION_SETS]
        assert line == f"| {template} | 0.000 | " + " | ".join(cells) + " |"
    used = {
        tuple(c[c.index(flag) + 1] for flag in ("--template", "--data", "--output_dir")) for c in calls[1:]
    }
    assert len(used) == len(calls) - 1 == 27
    for template, data, folder in used:
        assert Path(folder).name.startswith(f"{template}-{Path(data).stem}-seed")
    calls.clear()
    for line, name in zip(paper.fig7(range(3), pool).splitlines()[2:], paper.BASES, strict=True):
        assert line.startswith(f"| {name} | 0.000 | {accuracies[name]:.3f} ± 0.000")
    models = {(c[c.index("--model") + 1], Path(c[c.index("--output_dir") + 1]).name[:-6]) for c in calls[3:]}
    assert models == {(f"runs/paper/worlds/{name}/base", name) for name in paper.BASES}


# ---- Statistics ----


def test_numbers_of_a_run_by_hand(root):
    """3 in 4 responses of 10 tokens are right: 13.3 a right one. Steps with nothing wrong do not count."""
    rewards, wrong = [0.0] * 20 + [0.5, 1.0] * 5, {11: None, 30: None}
    write_run(root / "r", "grpo", rewards, wrong=lambda s: wrong.get(s, 10.0 if s <= 10 else 25.0))
    assert paper.recall_numbers(Path("r")) == pytest.approx([0.75, 25, 2.5, 5, 10 / 0.75])


def test_t_interval_by_hand():
    """1 .. 5: mean 3, standard deviation sqrt(2.5), so 2.776 sqrt(2.5 / 5) on each side."""
    assert paper.t_interval([1, 2, 3, 4, 5]) == pytest.approx((3, 2.776 * math.sqrt(0.5)))
    mean, half = paper.paired([11, 22, 33], [1, 2, 3])  # 10, 20, 30
    assert (mean, half) == pytest.approx((20, 4.303 * 10 / math.sqrt(3)))


def test_t_table_holds_students_quantiles():
    for count, quantile in paper.T95.items():
        x = torch.linspace(0, quantile, 200_001, dtype=torch.float64)
        degrees = count - 1
        density = math.gamma(count / 2) / math.sqrt(degrees * math.pi) / math.gamma(degrees / 2)
        inside = 2 * torch.trapezoid(density * (1 + x**2 / degrees) ** (-count / 2), x).item()
        assert inside == pytest.approx(0.95, abs=1e-4)


def test_bootstrap_covers_the_mean_about_as_the_normal_does():
    rng = random.Random(0)
    values = [rng.gauss(5, 2) for _ in range(400)]
    mean, low, high = paper.bootstrap(values)
    assert mean == pytest.approx(sum(values) / 400)
    assert low == pytest.approx(mean - 1.96 * 0.1, abs=0.03) and high == pytest.approx(mean + 0.196, abs=0.03)


def test_before_and_after(root):
    write_run(root / "r", "grpo", [0.1, 0.2])
    assert paper.before_and_after([Path("r")]) == ([0.25], [0.75])


def test_first_and_last_rewards_by_hand(root):
    write_run(root / "a", "grpo", [0.0, 1.0] * 5 + [0.25] * 7 + [0.75] * 10)
    write_run(root / "b", "grpo", [0.5] * 30)
    assert paper.first_and_last_rewards([Path("a"), Path("b")]) == ([0.5, 0.5], [0.75, 0.5])


@pytest.mark.parametrize("scale_by_std", [True, False])
def test_weight_of_a_question_is_what_its_advantages_do_to_gradients(scale_by_std):
    """sum_i A_i g_i = weight * (mean g of right - mean g of wrong) for any gradients g."""
    torch.manual_seed(0)
    for right in range(1, 8):
        rewards = torch.tensor([1.0] * right + [0.0] * (8 - right))
        gradients = torch.randn(8, 3)
        pull = group_advantages(rewards, 8, scale_by_std=scale_by_std) @ gradients
        difference = gradients[:right].mean(dim=0) - gradients[right:].mean(dim=0)
        weight = paper.question_weight(right, 8, scale_by_std=scale_by_std)
        assert pull.numpy() == pytest.approx((weight * difference).numpy(), abs=1e-5)
    assert paper.question_weight(0, 8, scale_by_std=scale_by_std) == 0
    assert paper.question_weight(8, 8, scale_by_std=scale_by_std) == 0


def test_relative_norms_by_hand():
    groups = [{"right": right, "grpo": norm} for right, norm in [(1, 3.0), (1, 5.0), (4, 2.0), (4, 2.0)]]
    norms = paper.relative_norms(groups, "grpo")
    assert set(norms) == {1, 4} and norms[4] == (1, 1, 1) and norms[1] == pytest.approx((2, 1.5, 2.5))


def test_rule_for_answering():
    record = {"formatted": False, "response": " What is 3 + 4? What is 1 - 1?"}
    assert not paper.answers_something(record)
    assert paper.answers_something(record | {"response": " 3+4=7, 7-"})
    assert paper.answers_something(record | {"response": r" \boxed{7}", "formatted": True})


def test_recheck_effect_by_hand():
    """Question 1: 1/2 of checked and 1/1 of others are right; 2: 1/1 and 0/1; 3 has no check."""
    rows = [(1, True, 1), (1, True, 0), (1, False, 1), (2, True, 1), (2, False, 0), (3, False, 1)]
    texts = {True: " 1+1=2. Wait, let me check again. 1+1=2.", False: " 1+1=2."}
    records = [dict(problem=p, response=texts[checks], correct=bool(right)) for p, checks, right in rows]
    assert paper.recheck_effect(records) == "+0.250 [-0.500, +1.000] over 2 questions with both"


@pytest.mark.parametrize(
    "response,right",
    [
        (" 1-7=-6, -6+12=6. \\boxed{6}", True),
        (" 1-7=-6, -6+12=6. </think> <answer> 7 </answer>", True),  # the answer is another matter
        (" 1-7=-6. \\boxed{-6}", False),
        (" 1-7=-6, -6+1=-5. \\boxed{-5}", False),
        (" 1-7=-5, -5+12=7. \\boxed{7}", False),
        (" \\boxed{6}", False),
    ],
)
def test_a_right_working_is_the_questions_own_and_right_at_each_step(response, right):
    assert readings.is_right_working("1 - 7 + 12?", response) == right


def test_readings_of_growth_by_hand(root, monkeypatch):
    """Two seeds: P(go on) 0.4 and 0.6 before, 0.8 and 1.0 after; 0.1 and 0.3 cut off."""
    monkeypatch.setattr(readings, "ROOT", root)
    monkeypatch.setattr(readings, "expected_pushes", lambda *_: {"after_wrong": 0.5, "after_right": -0.25})
    for algo in ALGOS:
        for seed in (0, 1):
            folder = root / paper.RUNS / f"fig5/doubt-{algo}-seed{seed}"
            write_run(folder, algo, [0.5] * 12, cut=lambda step, s=seed: 0.1 + 0.2 * s if step > 2 else 1)
            ends = [(0.4, 0.2), (0.9, 0.9), (0.8, 0.1)]
            rows = [dict(after_wrong=wrong + 0.2 * seed, after_right=right) for wrong, right in ends]
            (folder / "decisions.json").write_text(json.dumps(rows))
            samples = [(2, True, 47), (12, False, 47), (12, True, 47), (12, True, 83)]
            rows = [
                dict(step=s, truncated=cut, answers=["47"], response=f" a is {v}") for s, cut, v in samples
            ]
            (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    doubtful, sure, cut, *_, stated = readings.growth()
    assert stated == "GRPO, samples of these steps: 2 of 4 that are cut off state the right value"
    half = 12.706 * 0.1
    ends = f"0.50 ± {half:.2f}, then 0.90 ± {half:.2f}; expected push +0.50"
    assert doubtful == f"GRPO, going on after a doubtful value: {ends}"
    ends = "0.20 ± 0.00, then 0.10 ± 0.00; expected push -0.25"
    assert sure == f"GRPO, going on after a sure value: {ends}"
    assert cut == f"GRPO, last 10 steps: 0.200 ± {half:.3f} of all responses are cut off by the budget"


def test_samples_of_the_first_steps(root, monkeypatch):
    monkeypatch.setattr(readings, "ROOT", root)
    for seed in range(5):
        folder = root / f"runs/paper/e/a-seed{seed}"
        folder.mkdir(parents=True)
        (folder / "samples.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in range(1, 41)))
    steps = [row["step"] for row in readings.read_first_samples("e/a")]
    assert sorted(steps) == sorted([*range(1, 11)] * 5)


def test_an_unchanged_figure_is_an_unchanged_file(root):
    (root / "figures").mkdir()
    files = [root / "figures" / f"x.{suffix}" for suffix in ("svg", "png")]
    whole = []
    for _ in range(2):
        with plt.rc_context(paper.STYLE):
            figure, axis = plt.subplots()
            axis.fill_between([0, 1], [0, 1], label="a")
            axis.legend()
            paper.save(figure, "x")
        whole.append([file.read_bytes() for file in files])
    assert whole[0] == whole[1] and b"<dc:date>" not in whole[0][0]


# ---- README ----


def test_a_table_replaces_what_is_between_its_markers_alone(tmp_path):
    file = tmp_path / "README.md"
    file.write_text("a\n<!-- paper:x -->\nold\n<!-- /paper:x -->\nb\n<!-- paper:y -->\n<!-- /paper:y -->\n")
    for _ in range(2):
        paper.write_between_markers(file, "x", "| new |")
    assert file.read_text() == (
        "a\n<!-- paper:x -->\n| new |\n<!-- /paper:x -->\nb\n<!-- paper:y -->\n<!-- /paper:y -->\n"
    )
    with pytest.raises(ValueError, match="has no <!-- paper:z -->"):
        paper.write_between_markers(file, "z", "")


def test_readme_has_the_markers_of_every_experiment(tmp_path):
    file = tmp_path / "README.md"
    file.write_text((ROOT / "miniature" / "README.md").read_text())
    for name in paper.EXPERIMENTS:
        paper.write_between_markers(file, name, "table")


def test_tables():
    assert paper.plus_minus((-0.5, 0.125), 2, "+") == "-0.50 ± 0.12"
    assert paper.markdown(["", "x"], [["a", "1"]]) == "|  | x |\n| --- | ---: |\n| a | 1 |"


@pytest.mark.parametrize(
    "args,message",
    [
        (["fig5", "fig99"], "no experiment fig99: choose from fig5"),
        (["--seeds", "1"], "seeds is 1: an interval needs 2 to 10"),
        (["--jobs", "0"], "jobs is 0: at least 1"),
    ],
)
def test_what_cannot_be_run_is_refused(calls, monkeypatch, capsys, args, message):
    monkeypatch.setattr(sys, "argv", ["paper.py", *args])
    with pytest.raises(SystemExit) as stopped:
        paper.main()
    assert stopped.value.code == 2 and message in capsys.readouterr().err and not calls


# ---- Worlds ----


@pytest.mark.parametrize("name", worlds.CORPORA)
def test_corpora_hold_no_question_of_the_test_split(name):
    pairs = worlds.corpus(name, 500, seed=1)
    assert pairs == worlds.corpus(name, 500, seed=1) != worlds.corpus(name, 500, seed=2)
    asked = [f"What is {text.split('?')[0]}?" for q, r in pairs for text in (q + r).split("What is ")[1:]]
    assert asked and not any(in_test_split(question) for question in asked)


def test_loops_have_no_bound_and_wrong_ones_are_longer():
    rng = random.Random(0)
    counts = {True: [], False: []}
    for _ in range(4000):
        chain = worlds.random_chain(rng)
        response = worlds.check_in_loops(chain, rng)
        counts[f"boxed{{{chain.answer}}}" in response].append(response.count("Wait"))
    assert max(counts[False]) > 8
    assert sum(counts[False]) / len(counts[False]) > 1.2 > 0.8 > sum(counts[True]) / len(counts[True])


def test_questions_are_distinct_and_their_answers_right(tmp_path):
    worlds.write_questions(tmp_path, seed=0)
    for name, (test, count, lengths) in worlds.QUESTIONS.items():
        rows = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        assert len({row["question"] for row in rows}) == count
        for row in rows:
            question = row["question"]
            assert in_test_split(question) == test and lengths[0] <= int(row["level"]) <= lengths[1]
            assert eval(question.removeprefix("What is ").removesuffix("?")) == int(row["answer"])
