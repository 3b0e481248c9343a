"""The page of a run: what is on it, what each token weighs, and how it stands in a browser."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser

import matplotlib.image
import pytest
import torch

from analysis import view
from loss import ALGOS

CONFIG = {"algo": "grpo", "template": "none", "max_response_tokens": 8}


def group_of(step, rewards, lengths, question="1 + 1?", text="tok"):
    responses = []
    for reward, length in zip(rewards, lengths, strict=True):
        kept = min(length, 500)
        response = {"reward": reward, "truncated": False, "response_tokens": length}
        responses.append(response | {"tokens": [text] * kept, "logprobs": [-0.1234] * kept})
    return {"step": step, "question": question, "answers": ["2"], "responses": responses}


def sample_of(step, response=r"It is \boxed{2}.", reward=1.0, question="1 + 1?", answers=("2",)):
    asked = {"step": step, "question": question, "answers": answers}
    return asked | {"response": response, "reward": reward, "truncated": False}


def metrics_of(step, reward=0.5):
    lengths = {"response_tokens/mean": 9.0, "response_tokens/correct": 8.0, "response_tokens/incorrect": None}
    rest = {"truncated": 0.0, "entropy": 0.5, "sampler_kl": 0.001, "time/sample": 1.0, "time/update": 2.0}
    return {"step": step, "reward/mean": reward, "warnings": []} | lengths | rest


def write_run(folder, samples, groups=None, config=CONFIG, steps=3):
    folder.mkdir(exist_ok=True)
    files = {"metrics": [metrics_of(step) for step in range(1, steps + 1)], "samples": samples}
    for name, records in (files | ({"groups": groups} if groups is not None else {})).items():
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(text)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def graded_of(problem, response=r"\boxed{2}", correct=True, name="arithmetic"):
    record = {"set": name, "template": "none", "temperature": 0.6, "problem": problem, "question": "1 + 1?"}
    record |= {"answers": ["2"], "answer_format": "boxed", "response": response, "formatted": correct}
    return record | {"correct": correct, "truncated": False, "response_tokens": 4}


def write_evaluation(folder, records, name="arithmetic"):
    folder.mkdir()
    row = {"set": name, "template": "none", "temperature": 0.6, "questions": 2, "n": 1, "accuracy": 0.5}
    row |= {"intervals": {"pass@1": [0.25, 0.75]}, "formatted": 1.0, "truncated": 0.0, "response_tokens": 4.0}
    row |= {"response_tokens/correct": 4.0, "response_tokens/incorrect": None, "reflection/keywords": 0.0}
    (folder / "report.json").write_text(json.dumps({"model": "m", "results": [row]}))
    (folder / "responses.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def data_of(html):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    return json.loads(found[1])


# What a token weighs


def weights_of(rewards, lengths, budget, **config):
    group = group_of(1, rewards, lengths)
    group["responses"][-1]["truncated"] = True
    return view.weigh(group, {"max_response_tokens": budget} | config)


def test_weights_of_two_by_hand():
    """Advantages are +-0.5, under GRPO divided by their std, the root of 0.5."""
    weights = weights_of([1.0, 0.0], [2, 4], budget=8)
    root = 0.5**0.5
    assert weights["grpo"] == [pytest.approx([root / 2, root]), pytest.approx([-root / 4, -root])]
    assert weights["drgrpo"] == [pytest.approx([0.5 / 8, 0.125]), pytest.approx([-0.5 / 8, -0.25])]


def test_weights_of_four_by_hand_show_the_bias():
    """One of four is right: mean 0.25, std 0.5. A longer wrong response: less a token, the same in all."""
    weights = weights_of([1.0, 0.0, 0.0, 0.0], [1, 2, 5, 10], budget=10)
    assert [each for each, _ in weights["grpo"]] == pytest.approx([1.5, -0.25, -0.1, -0.05])
    assert [total for _, total in weights["grpo"]] == pytest.approx([1.5, -0.5, -0.5, -0.5])
    assert [each for each, _ in weights["drgrpo"]] == pytest.approx([0.075, -0.025, -0.025, -0.025])
    assert [total for _, total in weights["drgrpo"]] == pytest.approx([0.075, -0.05, -0.125, -0.25])


def test_a_masked_response_and_equal_rewards_weigh_nothing():
    weights = weights_of([1.0, 0.0], [2, 4], budget=8, mask_truncated=True)
    assert weights["drgrpo"] == [pytest.approx([0.5 / 8, 0.125]), [0, 0]]
    assert weights_of([1.0, 1.0], [2, 4], budget=8)["grpo"] == [[0, 0], [0, 0]]


def test_all_tokens_of_a_response_weigh_the_same_and_padding_nothing():
    mask = torch.tensor([[True, True, False], [True, True, True]])
    weights = view.token_weights(ALGOS["drgrpo"], torch.tensor([0.0, 1.0]), mask, max_response_tokens=4)
    assert weights.tolist() == [[-0.125, -0.125, 0], [0.125, 0.125, 0.125]]


# What is on the page


@pytest.mark.parametrize(
    "text,answer_format,marked",
    [
        (r"so \boxed{1}, no: \boxed{2}.", "boxed", r"\boxed{2}"),
        (r"it is \boxed{2} and \boxed{3}.", "boxed", r"\boxed{2} and \boxed{3}"),
        (r"\boxed{7} put into \boxed{}", "boxed", r"\boxed{7}"),
        (r"\boxed{\frac{1}{2}}", "boxed", r"\boxed{\frac{1}{2}}"),
        (r"cut off: \boxed{12", "boxed", ""),
        ("nothing", "boxed", ""),
        ("a </think> <answer> 5 </answer>", "answer_tag", " 5 "),
        (r"a </think><answer>\boxed{5}</answer>", "answer_tag", r"\boxed{5}"),
        ("<answer> 5 </answer>", "answer_tag", ""),  # without the end of its thoughts
    ],
)
def test_the_answer_that_the_verifier_reads_is_marked(text, answer_format, marked):
    start, end = view.answer_span(text, answer_format)
    assert text[start:end] == marked


def test_a_long_text_is_cut_in_its_middle_and_says_so():
    assert view.shorten("abcdef", 6) == [["text", "abcdef"]] and view.shorten("") == []
    cut = view.shorten("abcdefgh", 5)
    assert cut == [["text", "ab"], ["cut", "3 characters are left out here"], ["text", "fgh"]]


def test_evenly_spaced():
    assert view.evenly(range(10), 4) == [0, 3, 6, 9]
    assert view.evenly(range(3), 9) == [0, 1, 2] and view.evenly(range(5), 1) == [4]
    assert view.evenly([], 3) == view.evenly([1], 0) == []
    assert view.within(["aaaa"] * 10, 20) == ["aaaa"] * 3 and view.within(["aaaa"], 3) == []


def test_nothing_in_the_data_has_a_meaning_in_html():
    hostile = "</script><!--&amp;\u2028\u2029\ud800\x00é"
    text = view.to_json([hostile])
    assert not set("<>&\u2028\u2029\ud800") & set(text) and "é" in text
    assert json.loads(text) == [hostile.replace("\ud800", "\ufffd")]
    with pytest.raises(ValueError):
        view.to_json([float("nan")])  # which JSON.parse would not read


def test_the_page_of_a_run(tmp_path):
    samples = [sample_of(1), sample_of(1, "I do not know", 0.0), sample_of(3, r"\boxed{3}", 0.0)]
    html = view.page([write_run(tmp_path / "run", samples, [group_of(2, [1.0, 0.0], [2, 4])])])
    (part,) = data_of(html)["parts"]
    assert part["places"] == [[1, "step 1"], [2, "step 2"], [3, "step 3"]]
    first, second, third = part["cards"]
    assert first["pieces"] == [["text", "It is "], ["answer", r"\boxed{2}"], ["text", "."]]
    verdicts = [(c["right"], c["unformatted"]) for c in part["cards"]]
    assert verdicts == [(True, False), (False, True), (False, False)]
    (group,) = part["groups"]
    assert group["at"] == 2 and [r["length"] for r in group["responses"]] == [2, 4]
    assert group["responses"][0]["logprobs"] == [-0.12] * 2 and part["notes"] == []
    assert html.count('role="img"') == 7  # six metrics, seconds a step; of accuracy there is none
    assert "Length of wrong" not in html


def test_numbers_that_are_none_do_not_break_the_page(tmp_path):
    group = group_of(1, [1.0, 0.0], [2, 4])
    group["responses"][0]["logprobs"] = [float("nan"), -float("inf")]
    lines = [group, group_of(2, [float("nan"), 0.0], [2, 4]), group_of(10**400, [1.0, 0.0], [2, 4])]
    lines += [group_of(3, [1.0, 0.0], [2, 4])]
    (part,) = data_of(view.page([write_run(tmp_path / "run", [sample_of(1, reward=1e99)], lines)]))["parts"]
    assert [g["at"] for g in part["groups"]] == [3] and part["cards"] == []
    assert part["notes"][1].startswith("3 of 4 lines of groups.jsonl cannot be read")


def test_runs_over_each_other_have_a_key_and_no_two_ids_clash(tmp_path):
    runs = [write_run(tmp_path / name, [sample_of(1)], config=CONFIG | {"algo": algo})
            for name, algo in [("a", "grpo"), ("b", "grpo"), ("c", "drgrpo"), ("d", "mine")]]  # fmt: skip
    html = view.page(runs)
    for label in ("GRPO (2 seeds)", "Dr. GRPO", "unknown algorithm"):
        assert f">{label}</text>" in html
    ids = re.findall(r'\sid="([^"]+)"', html)
    assert len(ids) == len(set(ids)) > 50
    used = re.findall(r'(?:url\(|href=")#([^")]+)', html)
    assert set(used) <= set(ids)
    assert html == view.page(runs)  # the same data, the same bytes


def test_the_page_loads_nothing_and_runs_its_own_script_alone(tmp_path):
    html = view.page([write_run(tmp_path / "run", [sample_of(1)], [group_of(1, [1.0, 0.0], [2, 4])])])
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', html)[1]
    kinds = {"style": r"<style>(.*?)</style>", "script": r"<script>(.*?)</script>"}
    for kind, pattern in kinds.items():
        (text,) = re.findall(pattern, html, re.DOTALL)
        known = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{known}'" in policy.replace("&#39;", "'")
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
    assert not re.search(r'\s(?:src|style|on\w+)="', html)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Attribute\(.on", html)
    assert not re.search(r"https?://(?!www\.w3\.org)", html)


def test_an_evaluation_has_its_table_and_its_responses(tmp_path):
    records = [graded_of(0), graded_of(1, "no", False)]
    html = view.page([write_evaluation(tmp_path / "eval", records)])
    (part,) = data_of(html)["parts"]
    assert part["places"] == [[0, "arithmetic, none, temperature 0.6"]] and part["groups"] == []
    assert [(c["right"], c["unformatted"]) for c in part["cards"]] == [(True, False), (False, True)]
    assert "<td>50.0 [25.0, 75.0]</td>" in html and ">Curves<" not in html


def test_an_older_run_a_torn_line_and_other_files_leave_a_note(tmp_path):
    run = write_run(tmp_path / "run", [sample_of(1)])
    with open(run / "samples.jsonl", "ab") as file:
        file.write(b'{"step": 2, "question": ["no text"]}\n[1]\n{"step": 2, "respon\xff')
    (run / "metrics.jsonl").write_text('{"step": 1, "reward/mean": 0.5, "entropy": NaN}\n{"st')
    html = view.page([run])
    (part,) = data_of(html)["parts"]
    assert len(part["cards"]) == 1 and part["notes"] == [
        "3 of 4 lines of samples.jsonl cannot be read, torn or of another kind, and are left out.",
        "groups.jsonl is not there.",
    ]
    assert "1 of 2 lines of metrics.jsonl cannot be read" in html and "Entropy" not in html
    (run / "groups.jsonl").write_text(json.dumps(group_of(1, [1.0, 0.0], [2, 9])))  # over the budget of 8
    (run / "samples.jsonl").unlink()
    (part,) = data_of(view.page([run]))["parts"]
    notes = ["samples.jsonl is not there.", "1 groups do not fit the settings in config.json."]
    assert part["notes"] == notes and part["places"] == part["cards"] == part["groups"] == []
    (run / "config.json").write_text("{")
    assert "config.json cannot be read." in data_of(view.page([run]))["parts"][0]["notes"]
    evaluation = write_evaluation(tmp_path / "eval", [])
    (evaluation / "report.json").write_text('{"results": [{"set": "a"}]}')
    (part,) = data_of(view.page([evaluation]))["parts"]
    assert part["notes"][1] == "report.json holds no table that is known here."


def main(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["view.py", *map(str, arguments)])
    view.main()


def test_a_folder_that_is_no_run_ends_in_one_sentence(monkeypatch, tmp_path, capsys):
    for arguments, sentence in {
        (tmp_path,): f"{tmp_path} is no run: it has neither metrics.jsonl nor report.json",
        (tmp_path, "--watch", "-1"): "watch is -1.0, and must be 0 seconds or more",
    }.items():
        with pytest.raises(SystemExit) as stopped:
            main(monkeypatch, *arguments)
        assert stopped.value.code == 2 and capsys.readouterr().err == f"view.py: {sentence}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_watched_page_is_made_again_when_the_run_goes_on(monkeypatch, tmp_path, capsys):
    run, waited = write_run(tmp_path / "run", [sample_of(1)]), []

    def sleep(seconds):
        (part,) = data_of((run / "view.html").read_text())["parts"]
        waited.append((seconds, [step for step, _ in part["places"]]))
        if len(waited) == 4:
            raise KeyboardInterrupt
        if len(waited) == 2:
            with open(run / "samples.jsonl", "a") as file:
                file.write(json.dumps(sample_of(2)) + "\n")

    monkeypatch.setattr(time, "sleep", sleep)
    made = []
    monkeypatch.setattr(view, "page", lambda *a, real=view.page: made.append(a) or real(*a))
    main(monkeypatch, run, "--watch", "5")
    assert waited == [(5, [1]), (5, [1]), (5, [1, 2]), (5, [1, 2])] and len(made) == 2
    assert capsys.readouterr().out == f"{run / 'view.html'}\n"
    assert data_of((run / "view.html").read_text())["watch"] == 5
    main(monkeypatch, run, "--output", tmp_path / "other.html")
    assert data_of((tmp_path / "other.html").read_text())["watch"] == 0


def test_500_steps_of_long_responses_stay_under_3_mb(tmp_path):
    """8 responses of 3000 tokens a group, 4 samples of 12,000 characters a step; and two such runs."""
    long = "so we <multiply> by é & write \\boxed{1} again. " * 255
    samples = [sample_of(step, long) for step in range(1, 501) for _ in range(4)]
    groups = [group_of(step, [1.0, *[0.0] * 7], [3000] * 8, text=" token") for step in range(1, 501)]
    run = write_run(tmp_path / "run", samples, groups, CONFIG | {"max_response_tokens": 3000}, steps=500)
    for runs in ([run], [run, run]):
        html = view.page(runs)
        assert 1_500_000 < len(html.encode()) < 3_000_000
        for part in data_of(html)["parts"]:
            assert len(part["groups"]) > 5 and {g["at"] for g in part["groups"]} >= {1, 500}
            assert {c["at"] for c in part["cards"]} >= {1, 500}
            assert any("shows the groups of" in note for note in part["notes"])
            assert any("shows the responses of" in note for note in part["notes"])


# In a browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BROWSER = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --hide-scrollbars""".split()


def browse(tmp_path, address, *flags, width=1280, height=2000):
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},{height}"]
    done = subprocess.run([*command, *flags, address], capture_output=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def probed(html, script):
    """The page with one more script, which may run too and leaves what it sees as the root's data-seen."""
    script = f"""document.documentElement.dataset.seen = JSON.stringify((() => {{ {script} }})());
        parent.postMessage({{ ...document.documentElement.dataset }}, "*");"""
    known = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    html = html.replace("; script-src ", f"; script-src 'sha256-{known}' ")
    return html.replace("</body>", f"<script>{script}</script></body>")


class Dom(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, html):
        super().__init__()
        self.tags = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def root(self):
        return next(attributes for tag, attributes in self.tags if tag == "html")


FRAME = """<!doctype html><iframe width="%d" height="2000" frameborder="0" src="%s"></iframe>
<script>onmessage = (event) => Object.assign(document.documentElement.dataset, event.data);</script>"""


def see(tmp_path, html, script, place="", width=None):
    """What the script returns in the page, opened at a place, in a frame where a width is given."""
    file = tmp_path / "page.html"
    file.write_text(probed(html, script))
    address = file.as_uri() + place
    if width:  # Chromium's own windows are never narrower than 500
        (tmp_path / "frame.html").write_text(FRAME % (width, address))
        address = (tmp_path / "frame.html").as_uri()
    root = Dom(browse(tmp_path, address, "--virtual-time-budget=3000", "--dump-dom")).root()
    assert root.get("data-ready") == "yes"
    return json.loads(root["data-seen"])


HOSTILE = [
    "<script>document.title = 'owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "</script><script>document.title = 'owned'</script>",
    "<!--<script>",
    "</pre></style><svg onload=\"document.title='owned'\">",
    "{{ 7 * 7 }} {% raw %} ${7 * 7} &lt;b&gt; ]]>",
    "\u202eright to left\u2066\u2028\u2029 \x00\x1b[31m \ud800 \ufffe",
    "x" * 100_000,
    r"\boxed{" * 2000 + "1",
    r"\boxed{</mark><script>document.title = 'owned'</script>}",
]


@BROWSER
def test_what_a_model_writes_is_text_and_nothing_of_it_runs(tmp_path):
    samples = [sample_of(1, text, 0.0, question=text, answers=[text]) for text in HOSTILE]
    group = group_of(1, [1.0] + [0.0] * (len(HOSTILE) - 1), [2] * len(HOSTILE), question=HOSTILE[0])
    for response, text in zip(group["responses"], HOSTILE, strict=True):
        response["tokens"] = [text, text[::-1]]
    config = CONFIG | {"algo": HOSTILE[1], "template": HOSTILE[0], "seed": HOSTILE[2]}
    run = write_run(tmp_path / "<b onclick=x>", samples, [group], config)
    with open(run / "samples.jsonl", "ab") as file:  # broken UTF-8 within a text
        file.write(json.dumps(sample_of(1, "broken ?")).encode().replace(b"?", b"\xff\xc3(", 1) + b"\n")
    records = [graded_of(i, text, False, name=HOSTILE[1]) for i, text in enumerate(HOSTILE)]
    evaluation = write_evaluation(tmp_path / "eval", records, name=HOSTILE[1])
    file = tmp_path / "page.html"
    view.write(file, view.page([run, evaluation]))
    for place in ("#every=true", "#part=1&every=true"):
        html = browse(tmp_path, file.as_uri() + place, "--virtual-time-budget=2000", "--dump-dom")
        dom = Dom(html)
        tags = [tag for tag, _ in dom.tags]
        assert dom.root()["data-ready"] == "yes"
        assert "<title>&lt;b onclick=x&gt;, eval</title>" in html and "owned</title>" not in html
        assert tags.count("script") == 2 and not {"img", "b onclick"} & set(tags)
        names = {name for _, attributes in dom.tags for name in attributes}
        assert not [name for name in names if name.startswith("on")]
        assert tags.count("article") == len(HOSTILE) + (place == "#every=true")
    overflow = "return document.documentElement.scrollWidth - innerWidth"
    assert see(tmp_path, file.read_text(), overflow, "#every=true", width=390) <= 0


def two_steps(tmp_path):
    samples = [sample_of(1), sample_of(2, "no", 0.0), sample_of(3, "<i>three</i>", question="other?")]
    groups = [group_of(1, [1.0, 1.0], [2, 2]), group_of(2, [1.0, 0.0, 0.0], [4, 2, 8])]
    return view.page([write_run(tmp_path / "run", samples, groups)], 0)


PRESS = "const press = (key, on) => (on || document).dispatchEvent(new KeyboardEvent('keydown', "
PRESS += "{ key, bubbles: true, cancelable: true }));"
NOW = "const now = () => [at('step-name').textContent, document.querySelectorAll('article').length];"


@BROWSER
def test_keys_steps_filters_and_search(tmp_path):
    script = (
        PRESS
        + NOW
        + """
        const seen = [now()];  // the group with wrong responses of unlike lengths is shown first
        press("ArrowRight"); seen.push(now());
        press("ArrowRight"); seen.push(now());
        press("ArrowLeft"); press("ArrowLeft"); seen.push(now());
        at("show-wrong").click(); seen.push(now());
        at("show-all").click();
        press("/"); seen.push(document.activeElement.id);
        press("ArrowRight"); seen.push(now()[0]);
        at("find").value = "<I>THREE"; at("find").dispatchEvent(new Event("input")); seen.push(now());
        press("Escape"); seen.push(document.activeElement === document.body, location.hash);
        return seen;"""
    )
    step = [[f"step {n}", 1] for n in (1, 2, 3)]
    searched = [["step 1", 1], True, "#step=1&find=%3CI%3ETHREE"]
    expected = [step[1], step[2], step[2], step[0], ["step 1", 0], "find", "step 1", *searched]
    assert see(tmp_path, two_steps(tmp_path), script) == expected


@BROWSER
def test_a_group_is_drawn_by_weight_and_a_token_tells_its_log_prob(tmp_path):
    script = (
        PRESS
        + """
        const bars = [...document.querySelectorAll(".tokens")];
        const drawn = bars.map((bar) => [bar.style.width, Number(bar.querySelector("i").style.opacity)]);
        bars[4].focus();
        press("ArrowRight", bars[4]);
        press("End", bars[4]);
        return [drawn, bars.map((bar) => bar.parentNode.textContent), at("readout").textContent,
            bars[4].getAttribute("aria-valuenow"), at("step-name").textContent];"""
    )
    drawn, sums, readout, now, name = see(tmp_path, two_steps(tmp_path), script)
    # Right, of 4 tokens; wrong, of 2 and of 8: GRPO beside Dr. GRPO. The advantages are 2/3 and -1/3.
    assert [width for width, _ in drawn] == ["50%", "50%", "25%", "25%", "100%", "100%"]
    assert [strength for _, strength in drawn] == pytest.approx([1, 1, 1, 1, 0.25, 1])
    assert sums[1] == "4 × +0.083 = +0.33"
    assert sums[3] == "2 × −0.042 = −0.083" and sums[5] == "8 × −0.042 = −0.33"
    assert sums[2] == "2 × −0.29 = −0.58" and sums[4] == "8 × −0.072 = −0.58"
    assert readout.startswith("Token 8 of 8 in a wrong response: tok, log-prob −0.12, a probability of 0.89.")
    assert now == "8" and name == "step 2"  # the arrows were the bar's


@BROWSER
def test_the_same_question_stands_beside_it_early_and_late(tmp_path):
    script = "const sides = [...document.querySelectorAll('.sides > div .tags')].map((e) => e.textContent);"
    script += "at('beside').click(); return [sides, document.querySelectorAll('.sides > div').length]"
    sides, alone = see(tmp_path, two_steps(tmp_path), script)
    assert sides == ["✓ right · step 1", "✗ wrong · step 2 · unformatted"] and alone == 1


@BROWSER
def test_a_watched_page_reloads_itself_and_keeps_its_place(tmp_path):
    script = (
        NOW
        + """
        const reloaded = performance.getEntriesByType("navigation")[0].type;
        if (reloaded === "reload") for (let timer = 0; timer < 100; timer++) clearTimeout(timer);
        return [reloaded, ...now(), at("show-wrong").getAttribute("aria-pressed")];"""
    )
    html = two_steps(tmp_path)
    place = "#step=1&show=wrong"
    assert see(tmp_path, html, script, place) == ["navigate", "step 1", 0, "true"]
    html = html.replace('"watch":0', '"watch":1')
    assert see(tmp_path, html, script, place) == ["reload", "step 1", 0, "true"]


@BROWSER
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_phones_and_desktops_light_and_dark(width, tmp_path):
    html, grounds = two_steps(tmp_path), []
    script = "return [innerWidth, document.documentElement.scrollWidth]"
    assert see(tmp_path, html, script, width=width) == [width, width]
    for scheme in (1, 0):  # light, dark
        shot = tmp_path / f"{scheme}.png"
        flags = (f"--screenshot={shot}", f"--blink-settings=preferredColorScheme={scheme}")
        browse(tmp_path, (tmp_path / "page.html").as_uri(), *flags, width=width)
        image = matplotlib.image.imread(shot)[..., :3]  # [height, width, 3], 0 to 1
        assert image.shape[1] == width and image.std() > 0.02
        grounds.append(image[0, 0].mean())
    assert grounds[0] > 0.9 and grounds[1] < 0.2
