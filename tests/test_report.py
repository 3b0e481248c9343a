import itertools

import numpy as np
import pytest

from analysis import report
from analysis.report import (
    analyse,
    average,
    categories,
    intervals,
    majorities,
    markdown,
    pass_at_k,
    pass_rates,
    resampled_means,
    summarize,
)


@pytest.mark.parametrize("n,c,k", [(1, 0, 1), (1, 1, 1), (5, 2, 1), (5, 2, 3), (6, 1, 6), (6, 4, 3)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n, c, k):
    subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@pytest.mark.parametrize("n,c,k", [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5)])
def test_pass_at_k_refuses_impossible_counts(n, c, k):
    with pytest.raises(ValueError, match="need 0 <= c <= n"):
        pass_at_k(n, c, k)


def make_records(rows, **common):
    """Records of (problem, correct, formatted, truncated, response_tokens)."""
    keys = ("problem", "correct", "formatted", "truncated", "response_tokens")
    common = {"response": "", "level": None, "answers": ["1"], "answer_format": "boxed"} | common
    return [dict(zip(keys, row, strict=True)) | common for row in rows]


FOUR = [
    (0, True, True, False, 10),
    (0, False, True, False, 20),
    (1, False, False, True, 30),
    (1, False, False, True, 40),
]


def test_summary_by_hand():
    # Rates of the two problems: 1/2 and 0. Mean 1/4, sample variance 1/8, standard error sqrt(1/8 / 2) = 1/4.
    assert summarize(make_records(FOUR), n=2) == pytest.approx(
        {
            "accuracy": 0.25,
            "accuracy_stderr": 0.25,
            "pass@2": 0.5,
            "formatted": 0.5,
            "truncated": 0.5,
            "response_tokens": 25.0,
            "response_tokens/correct": 10.0,
            "response_tokens/incorrect": 30.0,
        }
    )
    assert summarize(make_records(FOUR[2:]), n=2)["response_tokens/correct"] is None


@pytest.mark.parametrize(
    "responses,expected",
    [
        (["1", "1", "2"], 1),
        (["1", "2", "2"], 0),
        (["1", "2"], 1 / 2),  # a tie, decided by lot
        (["1", "2", "3", "3", "1", "4"], 1 / 2),
        (["1", "2", "3"], 1 / 3),
        (["2", "3", "4"], 0),
        (["1.0", r"\frac{2}{2}", "2", "2", "1"], 1),  # one number, three spellings
        (["1", "1", "2", "$2$", r"\text{2}"], 0),  # one text
        ([None, None, "1"], 1),  # what has no answer does not vote
        ([None, None, None], 0),
    ],
)
def test_maj_at_n_by_hand(responses, expected):
    def records(texts):
        rows = [(0, text in ("1", "1.0", r"\frac{2}{2}"), text is not None, False, 9) for text in texts]
        answered = ["so" if text is None else f"so \\boxed{{{text}}}" for text in texts]
        return [r | {"response": text} for r, text in zip(make_records(rows), answered, strict=True)]

    n = len(responses)
    assert majorities(records(responses), n) == {f"maj@{n}": pytest.approx(expected)}
    wrong = records(["7"] * n)
    assert majorities(records(responses) + wrong, n) == {f"maj@{n}": pytest.approx(expected / 2)}
    assert majorities(records(responses), 1) == {}


def test_votes_are_read_in_the_format_of_the_template():
    texts = ["</think> <answer>1</answer>", r"\boxed{2}", r"\boxed{2}"]  # two are no answers here
    rows = [(0, "answer" in text, "answer" in text, False, 9) for text in texts]
    records = make_records(rows, answer_format="answer_tag")
    records = [r | {"response": text} for r, text in zip(records, texts, strict=True)]
    assert majorities(records, 3) == {"maj@3": 1.0}


@pytest.mark.parametrize("n,ks", [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_pass_rates_are_of_powers_of_two_and_n(n, ks):
    rows = [
        (i, i == 0 and j == 0, True, False, 1) for i in range(2) for j in range(n)
    ]  # one right of n, none
    rates = pass_rates(make_records(rows), n)
    assert list(rates) == [f"pass@{k}" for k in ks]
    for k, values in zip(ks, rates.values(), strict=True):
        assert values == pytest.approx([k / n, 0])  # the right one is among k of n with probability k/n


def test_resampling_is_over_questions_and_repeatable():
    values = np.array([[0.0, 0.0], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    means = resampled_means(values, seed=1)
    assert means.shape == (report.RESAMPLES, 2)
    assert (means[:, 1] == 2 * means[:, 0]).all()  # both columns from the same questions
    assert set(means[:, 0]) == {0, 0.25, 0.5, 0.75, 1}
    # Of four draws from four questions, the number of zeros is Binomial(4, 1/4); 1000 draws, 5 sigma.
    assert (means[:, 0] == 1).mean() == pytest.approx(0.75**4, abs=0.075)
    assert (resampled_means(values, seed=1) == means).all()
    assert (resampled_means(values, seed=2) != means).any()


def test_an_interval_leaves_out_a_fortieth_on_either_side():
    means = np.stack([np.arange(1001.0), np.arange(1001.0) / 2], axis=1)
    found = intervals(["a", "b"], means[::-1])
    assert found["a"] == pytest.approx([25, 975]) and found["b"] == pytest.approx([12.5, 487.5])


def test_interval_covers_the_truth_as_often_as_it_says():
    """300 sets of 100 questions with a true accuracy of 0.4: the 95 % interval holds it 95 % of the time."""
    rng, covered = np.random.default_rng(0), 0
    for seed in range(300):
        answers = (rng.random((100, 1)) < 0.4).astype(float)
        ((low, high),) = intervals(["a"], resampled_means(answers, seed)).values()
        covered += low <= 0.4 <= high
    assert covered / 300 == pytest.approx(0.945, abs=0.045)


def test_categories_by_level_and_their_lengths():
    rows = [
        (0, True, True, True, 10),  # right, and cut off afterwards: graded by its text
        (0, True, True, False, 20),
        (1, False, True, True, 30),
        (1, False, False, True, 50),
        (2, False, True, False, 7),
        (2, False, False, False, 9),
    ]
    records = make_records(rows)
    for record in records:
        record["level"] = {0: "3", 1: "5", 2: None}[record["problem"]]
    assert categories(records) == {
        "categories_by_level": {
            "3": {"correct": 2},
            "5": {"truncated": 2},
            "all": {"incorrect": 1, "unformatted": 1},
        },
        "response_tokens_by_category": {"correct": 15, "truncated": 40, "incorrect": 7, "unformatted": 9},
    }


def test_sets_are_averaged_with_equal_weight_per_template_and_temperature():
    def group(name, template, *correct):
        rows = [(i, right, True, False, 10 if right else 20) for i, right in enumerate(correct)]
        return make_records(rows, set=name, template=template, temperature=0.0), 1

    groups = [group("a", "r1", True), group("b", "r1", False, False, False), group("a", "none", True, False)]
    rows = analyse(groups, seed=0)
    names = [(row["set"], row["template"], row["questions"]) for row in rows]
    assert names == [("a", "r1", 1), ("b", "r1", 3), ("a", "none", 2), ("average", "r1", 4)]
    assert [row["accuracy"] for row in rows] == [1, 0, 0.5, 0.5]
    # Every resample of "a" is 1 and of "b" is 0; a mean over sets leaves out those without right responses.
    assert rows[3]["intervals"] == {"pass@1": [0.5, 0.5]}
    assert rows[3]["response_tokens/correct"] == 10 and rows[3]["response_tokens/incorrect"] == 20
    assert rows[2]["intervals"]["pass@1"] == [0, 1]


def test_the_seed_draws_the_questions_of_the_intervals():
    rows = [(i, i % 3 == 0, True, False, 1) for i in range(40)]
    group = make_records(rows, set="a", template="r1", temperature=0.0), 1
    drawn = [analyse([group], seed)[0]["intervals"]["pass@1"] for seed in range(8)]
    values = np.array([[float(i % 3 == 0)] for i in range(40)])
    assert drawn == [intervals(["x"], resampled_means(values, seed))["x"] for seed in range(8)]
    assert len(set(map(tuple, drawn))) > 1


def test_averages_are_over_sets_of_one_temperature_and_as_many_samples():
    def group(name, temperature, n, correct):
        rows = [(0, i < correct, True, False, 10) for i in range(n)]
        return make_records(rows, set=name, template="r1", temperature=temperature), n

    groups = [group("a", 0.5, 2, 1), group("b", 0.5, 2, 2), group("a", 1.0, 2, 0), group("b", 1.0, 4, 0)]
    averages = [row for row in analyse(groups, seed=0) if row["set"] == "average"]
    assert [(row["temperature"], row["accuracy"]) for row in averages] == [(0.5, 0.75)]


def test_groups_of_records_are_of_one_template_temperature_and_set():
    rows = [("r1", 0.5, "a", 0), ("r1", 1.0, "a", 0), ("r1", 1.0, "a", 0), ("r1", 1.0, "b", 0)]
    keys = ("template", "temperature", "set", "problem")
    records = [dict(zip(keys, row, strict=True)) for row in rows]
    assert [(len(group), n) for group, n in report.by_group(records)] == [(1, 1), (2, 2), (1, 1)]


def test_sets_of_one_size_are_resampled_independently():
    """Two sets with the same rates: the average's interval is narrower by the square root of 2."""
    rows = [(i, i % 2 == 0, True, False, 1) for i in range(400)]
    groups = [(make_records(rows, set=name, template="r1", temperature=0.0), 1) for name in "ab"]
    ends = [row["intervals"]["pass@1"] for row in analyse(groups, 0)]
    widths = [high - low for low, high in ends]
    assert widths[2] == pytest.approx(widths[0] / 2**0.5, rel=0.1)


def test_the_error_of_an_average_is_that_of_a_mean_of_independent_sets():
    same = dict(questions=2, template="r1", temperature=0.0, n=1, intervals={})
    rows = [{"set": name, "accuracy_stderr": error} | same for name, error in [("a", 0.3), ("b", 0.4)]]
    assert average(rows) == {"set": "average", "accuracy_stderr": 0.25} | {
        "questions": 4, "template": "r1", "temperature": 0.0, "n": 1,
    }  # fmt: skip


def test_the_table_is_markdown_with_a_column_for_each_k():
    answered = dict(set="a", template="r1", temperature=0.6, response=r"\boxed{1}")
    many = make_records(FOUR, **answered), 2
    greedy = make_records(FOUR[1:3], set="a", template="r1", temperature=0.0), 1
    head, rule, first, second = markdown(analyse([many, greedy], seed=0)).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (head, first, second)]
    assert len({line.count("|") for line in (head, rule, first, second)}) == 1
    table = [dict(zip(cells[0], row, strict=True)) for row in cells[1:]]
    assert table[0]["accuracy [95 %]"] == "25.0 [0.0, 50.0]" and table[0]["pass@2"] == "50.0"
    assert table[0]["tokens"] == "25" and table[0]["of right"] == "10" and table[0]["of wrong"] == "30"
    assert table[0]["questions"] == "2" and table[0]["n"] == "2" and table[0]["reflection"] == "0.0"
    assert table[1]["accuracy [95 %]"] == "0.0 [0.0, 0.0]"
    assert cells[0][6:9] == ["pass@2", "maj@2", "formatted"]
    assert table[0]["maj@2"] == "25.0" and table[1]["maj@2"] == "-"  # one verdict of four votes is right
    assert table[1]["pass@2"] == "-" and table[1]["of right"] == "-" and table[1]["temperature"] == "0"


def test_the_table_shows_reflection_that_keywords_and_judge_agree_on():
    records = make_records(FOUR, set="a", template="r1", temperature=0.6)
    for record in records[:3]:
        record["response"] = "Let me recheck."
    verdicts = [{"answering": int(i > 0), "reflection": 2 * (i == 0)} for i in range(4)]
    head, _, line = markdown(analyse([(records, 2)], 0, lambda group: verdicts)).splitlines()
    cells = [[cell.strip() for cell in text.strip("|").split("|")] for text in (head, line)]
    row = dict(zip(*cells, strict=True))
    assert row["reflection"] == "25.0" and row["answering"] == "75.0"
