"""Prompt templates: how a question is put to a base model (paper, Sec. 2.1).

One table holds what belongs together: the text around the question, the form the final answer takes, and
the strings at which sampling stops. The same base model behaves very differently under each of them.

    template  | the answer is in        | sampling stops at
    r1        | <answer> ... </answer>  | </answer>, or the end token
    qwen_math | \\boxed{...}             | the end token
    none      | \\boxed{...}             | the end token
    four_shot | \\boxed{...}             | the next invented question, or the end token
"""

from typing import Literal, NamedTuple


class Template(NamedTuple):
    prompt: str  # holds {question} once
    answer_format: Literal["boxed", "answer_tag"]
    stop: tuple[str, ...]  # strings that end a response; a sampler keeps them in the response's text


# Template 1: the prompt of DeepSeek-R1-Zero. The response continues after the opening <think>.
R1 = (
    "A conversation between User and Assistant. The User asks a question, and the Assistant solves it. "
    "The Assistant first thinks about the reasoning process in the mind and then provides the User with the "
    "answer. The reasoning process is enclosed within <think> </think> and answer is enclosed within "
    "<answer> </answer> tags, respectively, i.e., <think> reasoning process here </think> "
    "<answer> answer here </answer>.\nUser: {question}\nAssistant: <think>"
)

# Template 2: the chat format of the Qwen2.5-Math instruct models.
QWEN_MATH = (
    "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
    "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
)

# Four worked examples, then the question. The paper's 4-shot numbers (Table 1) are quoted from Qwen's report
# and were made with Qwen's prompt. This text is ours, so its scores are not comparable to the digit.
FOUR_SHOT = r"""Question: Let $f(x) = 3x^2 - 5x + 1$. What is the value of $f(-2)$?
Answer: We substitute $x = -2$ and get $f(-2) = 3 \cdot 4 - 5 \cdot (-2) + 1 = 12 + 10 + 1 = 23$.
The final answer is $\boxed{23}$.

Question: A bag holds 4 red and 6 blue marbles. Two are drawn at random without replacement. What is the
probability that both are red? Express your answer as a common fraction.
Answer: The first marble is red with probability $\frac{4}{10}$. Then 3 of the 9 marbles left are red.
Both are red with probability $\frac{4}{10} \cdot \frac{3}{9} = \frac{12}{90} = \frac{2}{15}$.
The final answer is $\boxed{\frac{2}{15}}$.

Question: How many positive divisors does 72 have?
Answer: We factor $72 = 2^3 \cdot 3^2$. A divisor takes one of 4 powers of 2 and one of 3 powers of 3.
So there are $4 \cdot 3 = 12$ divisors.
The final answer is $\boxed{12}$.

Question: The legs of a right triangle are 5 and 10. How long is the hypotenuse, in simplest radical form?
Answer: By the Pythagorean theorem it is $\sqrt{5^2 + 10^2} = \sqrt{125} = 5\sqrt{5}$.
The final answer is $\boxed{5\sqrt{5}}$.

Question: {question}
Answer:"""

TEMPLATES = {
    "r1": Template(R1, "answer_tag", ("</answer>",)),
    "qwen_math": Template(QWEN_MATH, "boxed", ()),
    "none": Template("{question}", "boxed", ()),
    # After its answer a base model goes on with "Question: ..." of its own: that is not part of the response.
    "four_shot": Template(FOUR_SHOT, "boxed", ("\nQuestion:", "\nProblem:")),
}


def apply_template(name: str, question: str) -> str:
    """The prompt of one question under the template `name`; ValueError if there is no such template."""
    if name not in TEMPLATES:
        raise ValueError(f"template {name!r} is unknown: choose one of {', '.join(TEMPLATES)}")
    # str.replace and not str.format: the templates hold \boxed{}, and questions hold LaTeX braces.
    return TEMPLATES[name].prompt.replace("{question}", question)
