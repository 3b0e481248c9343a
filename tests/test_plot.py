import json
import sys

import matplotlib.colors
import numpy as np
import pytest

from analysis import plot


def write_run(folder, algo, rewards):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"algo": algo}))
    first = {"step": 0, "eval/a/accuracy": 0.1, "eval/b/accuracy": 0.3, "eval/b/accuracy_stderr": 9.0}
    lines = [first]
    for step, reward in enumerate(rewards, 1):
        lengths = {"response_tokens/mean": 10.0 * step, "response_tokens/incorrect": None}
        lines.append({"step": step, "reward/mean": reward} | lengths)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def row(name, template, temperature, **rates):
    intervals = {key: [value - 0.1, value + 0.1] for key, value in rates.items()}
    return {"set": name, "template": template, "temperature": temperature, "intervals": intervals} | {
        "accuracy": rates["pass@1"],
        **rates,
    }


def write_report(folder, rows, model="models/m"):
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps({"model": model, "results": rows}))
    return folder


def test_accuracy_of_a_run_is_the_mean_over_its_sets(tmp_path):
    algo, lines = plot.read_run(write_run(tmp_path / "r", "grpo", [0.5]))
    assert algo == "grpo" and lines[0]["accuracy"] == pytest.approx(0.2) and "accuracy" not in lines[1]


def test_a_run_that_was_killed_while_it_wrote_is_read(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1}\n{"step": 2, "rew')
    assert plot.read_run(tmp_path) == ("unknown", [{"step": 0}, {"step": 1}])


def test_series_by_hand():
    """The second run is shorter and has no value at step 2; smoothing is within a run."""
    first = [{"step": s, "x": v} for s, v in [(1, 0.0), (2, 6.0), (3, 0.0), (4, 8.0)]]
    second = [{"step": 1, "x": 2.0}, {"step": 2, "x": None}, {"step": 3, "x": 4.0}, {"step": 4}]
    steps, mean, deviation = plot.series([first, second], "x", window=1)
    assert steps.tolist() == [1, 3] and mean.tolist() == [1, 2] and deviation.tolist() == [1, 2]
    steps, mean, deviation = plot.series([first], "x", window=3)
    assert mean == pytest.approx([3, 2, 14 / 3, 4]) and not deviation.any()


def run(monkeypatch, tmp_path, *folders):
    figures = []
    savefig = plot.plt.Figure.savefig
    monkeypatch.setattr(
        plot.plt.Figure, "savefig", lambda f, *a, **k: (figures.append(f), savefig(f, *a, **k))
    )
    monkeypatch.setattr(sys, "argv", ["plot.py", *map(str, folders), "--output_dir", str(tmp_path / "out")])
    plot.main()
    assert all(file.stat().st_size > 5000 for file in (tmp_path / "out").iterdir())
    return figures[::2], sorted(file.name for file in (tmp_path / "out").iterdir())  # .png and .svg of each


def test_curves_of_runs_have_a_line_a_group_that_also_grey_tells_apart(monkeypatch, tmp_path):
    folders = [
        write_run(tmp_path / "0", "grpo", [0.2, 0.4]),
        write_run(tmp_path / "1", "grpo", [0.4, 0.8]),
        write_run(tmp_path / "2", "drgrpo", [0.5, 0.5]),
    ]
    (figure,), files = run(monkeypatch, tmp_path, *folders, "--window", "1")
    assert files == ["curves.png", "curves.svg"]
    reward, length, incorrect, accuracy = figure.axes
    grpo, drgrpo = reward.lines
    assert grpo.get_ydata() == pytest.approx([0.3, 0.6]) and grpo.get_label() == "GRPO (2 seeds)"
    assert drgrpo.get_ydata().tolist() == [0.5, 0.5] and drgrpo.get_label() == "Dr. GRPO"
    band = reward.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((0.2, 0.8))  # 0.3 +- 0.1 and 0.6 +- 0.2
    assert grpo.get_linestyle() != drgrpo.get_linestyle() and grpo.get_marker() != drgrpo.get_marker()
    assert accuracy.lines[0].get_ydata() == pytest.approx([0.2])
    assert incorrect.lines[0].get_ydata().size == 0  # there were none


def test_reports_become_pass_at_k_curves_and_template_bars(monkeypatch, tmp_path):
    rows = [
        row(
            "a", template, temperature, **{"pass@1": 0.3 + temperature / 10, "pass@4": 0.6 + temperature / 10}
        )
        for template in ("none", "r1")
        for temperature in (1.0, 0.5)
    ]
    figures, files = run(monkeypatch, tmp_path, write_report(tmp_path / "e", rows))
    assert files == ["pass_at_k.png", "pass_at_k.svg", "templates.png", "templates.svg"]
    curves, bars = figures
    assert [axis.get_title() for axis in curves.axes] == ["a, template none", "a, template r1"]
    one, four = curves.axes[0].lines
    assert one.get_xdata().tolist() == [0.5, 1.0] and one.get_ydata() == pytest.approx([0.35, 0.4])
    assert four.get_label() == "pass@4" and four.get_ydata() == pytest.approx([0.65, 0.7])
    patches = bars.axes[0].patches
    assert [bar.get_height() for bar in patches] == pytest.approx([0.35, 0.35])  # at 0.5, the lowest
    assert len({bar.get_hatch() for bar in patches}) == 2


def test_two_models_of_one_name_are_told_apart(monkeypatch, tmp_path):
    folders = []
    for name, accuracy in {"a": 0.2, "b": 0.8}.items():
        rows = [row("set", template, 0.0, **{"pass@1": accuracy}) for template in ("none", "r1")]
        folders.append(write_report(tmp_path / name, rows, model=f"runs/{name}/model"))
    (bars,), _ = run(monkeypatch, tmp_path, *folders)
    labels = [label.get_text() for label in bars.axes[0].get_xticklabels()]
    assert labels == ["a/model\nset", "b/model\nset"]
    assert sorted(bar.get_height() for bar in bars.axes[0].patches) == [0.2, 0.2, 0.8, 0.8]
    assert plot.short_names(["x/a/m", "x/a/m/", "y/a/m", "n"]) == {
        "x/a/m": "x/a/m", "x/a/m/": "x/a/m", "y/a/m": "y/a/m", "n": "n"
    }  # fmt: skip


def test_one_template_at_one_temperature_gives_no_figure(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["plot.py", str(tmp_path / "e"), "--output_dir", str(tmp_path / "out")])
    write_report(tmp_path / "e", [row("a", "none", 0.0, **{"pass@1": 0.3})])
    plot.main()
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_without_anything_to_draw_ends_in_one_sentence(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["plot.py", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        plot.main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"plot.py: {tmp_path} has neither metrics.jsonl nor report.json\n"


def test_colours_are_far_apart_for_the_colour_blind():
    """Simulated deuteranopia (Machado et al., 2009): no two of the colours come close."""
    deuteranopia = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
    seen = [deuteranopia @ np.array(matplotlib.colors.to_rgb(look["color"])) for look in plot.LOOKS]
    gaps = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
    assert min(gaps) > 0.15
