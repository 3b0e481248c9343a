"""The prompts are part of the experiment (paper, Sec. 2.1): they are held here letter by letter."""

import re

import pytest

from templates import TEMPLATES, apply_template

QUESTION = r"If $\frac{x}{2} = {y}$, what is $x$?"

R1_PROMPT = r"""A conversation between User and Assistant. The User asks a question, and the Assistant solves it. The Assistant first thinks about the reasoning process in the mind and then provides the User with the answer. The reasoning process is enclosed within <think> </think> and answer is enclosed within <answer> </answer> tags, respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>.
User: If $\frac{x}{2} = {y}$, what is $x$?
Assistant: <think>"""  # noqa: E501

QWEN_MATH_PROMPT = r"""<|im_start|>system
Please reason step by step, and put your final answer within \boxed{}.<|im_end|>
<|im_start|>user
If $\frac{x}{2} = {y}$, what is $x$?<|im_end|>
<|im_start|>assistant
"""


@pytest.mark.parametrize(
    "name, prompt", [("r1", R1_PROMPT), ("qwen_math", QWEN_MATH_PROMPT), ("none", QUESTION)]
)
def test_prompts_are_the_papers(name, prompt):
    assert apply_template(name, QUESTION) == prompt


def test_four_shot_shows_four_answered_examples_and_then_asks():
    prompt = apply_template("four_shot", QUESTION)
    *examples, asked = prompt.split("\n\n")
    assert [re.findall(r"\\boxed\{(.*)\}\$\.$", example) for example in examples] == [
        ["23"], [r"\frac{2}{15}"], ["12"], [r"5\sqrt{5}"],
    ]  # fmt: skip
    assert asked == f"Question: {QUESTION}\nAnswer:"


def test_four_shot_stops_where_the_model_asks_a_next_question():
    prompt, stop = TEMPLATES["four_shot"].prompt, TEMPLATES["four_shot"].stop
    response = " It is 4. The final answer is $\\boxed{4}$.\n\nQuestion: What is 1 + 1?"
    assert any(text in response for text in stop)
    # None of the worked answers would have been cut: a response is what stands behind "Answer:".
    answers = [example.partition("Answer:")[2] for example in prompt.split("\n\n")]
    assert not any(text in answer for text in stop for answer in answers)


@pytest.mark.parametrize(
    "name, answer_format, stop",
    [("r1", "answer_tag", ("</answer>",)), ("qwen_math", "boxed", ()), ("none", "boxed", ())],
)
def test_answer_format_and_stop_strings(name, answer_format, stop):
    assert (TEMPLATES[name].answer_format, TEMPLATES[name].stop) == (answer_format, stop)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_question_is_put_in_once_and_unchanged(name):
    # str.format would fail on these braces, and a second replacement would fill in the question's own.
    question = "Let $S = \\{1, {2}\\}$ and {0}. What does {question} mean?"
    assert TEMPLATES[name].prompt.count("{question}") == 1
    before, after = TEMPLATES[name].prompt.split("{question}")
    assert apply_template(name, question) == before + question + after


def test_an_unknown_template_names_the_known_ones():
    with pytest.raises(ValueError, match="'qwen' is unknown: choose one of r1, qwen_math, none, four_shot"):
        apply_template("qwen", "What is 1 + 1?")
