"""Is a model's answer right? Its response and reference answers in, `Verdict(formatted, correct)` out.

    extract the answer -> normalize its text -> equal text or numbers? -> mathexpr.py, which parses both

`answers_match` is the whole comparison, in this process and without a time limit. Training uses
`VerifierPool`: what is decided by text alone is decided in the caller's process, the rest goes to worker
processes that run this file as a script (see `work`), and that are killed and replaced when they take too
long. The text comes from a model that is rewarded for getting past this file, so nothing executes it.
"""

import json
import os
import queue
import re
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import product
from typing import Literal, NamedTuple

AnswerFormat = Literal["boxed", "answer_tag"]
MAX_CHARS = 2000  # of an answer; a longer one is never right
MEMORY_BYTES = 2 << 30  # address space of a worker
START_SECONDS = 60  # for a worker to import sympy, on a busy machine


class Verdict(NamedTuple):
    formatted: bool
    correct: bool
    timed_out: bool = False


# ---- From a response to the text of its answer ----


BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:(?P<brace>\{)|(?<=\s)(?P<word>[^\s${}\\]+))")
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # `\{` is not one


def extract_boxed(text: str) -> str | None:
    """The content of the last \\boxed or \\fbox, None if its braces do not balance; `\\boxed 7` counts."""
    last = max(text.rfind(r"\boxed"), text.rfind(r"\fbox"), 0)
    box = BOX.match(text, last)
    if not box or not box["brace"]:
        return box and box["word"]
    depth = 0
    for brace in BRACE.finditer(text, box.end()):
        if brace[0] == "}" and depth == 0:
            return text[box.end() : brace.start()]
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
    return None


def extract_answer_tag(text: str) -> str | None:
    """The text between <answer> and </answer>, None unless </think> comes just before."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    if start < 0 or not text[:start].rstrip().endswith("</think>"):
        return None
    return text[start + len("<answer>") : end]


def extract(response: str, answer_format: AnswerFormat) -> str | None:
    """The answer's text, without a box inside the answer tag; None where the format is not kept."""
    answer = {"boxed": extract_boxed, "answer_tag": extract_answer_tag}[answer_format](response)
    return answer and (extract_boxed(answer) or answer)


# ---- Normalization: one spelling for what is written in many ways ----

# Characters to LaTeX. A space ends the command's name: `2πx` is `2\pi x`.
UNICODE = r"""− -, – -, × \times, · \cdot, ÷ /, ≤ \le, ≥ \ge, ≠ \ne, ∞ \infty, ∪ \cup, ∩ \cap, ∈ \in, π \pi
, √ \sqrt, ± \pm, ° ^\circ, ² ^2, ³ ^3, ′ '"""
CHARACTERS = str.maketrans({pair.split()[0]: pair.split()[1] + " " for pair in UNICODE.split(",")})
# Commands, without their backslash, to what replaces them.
COMMANDS = dict.fromkeys([*",;:> \n", "quad", "qquad", "displaystyle", "limits"], " ")
COMMANDS |= dict.fromkeys([*"!()[]$", "left", "right", "big", "Big", "bigl", "bigr", "Bigl", "Bigr"], "")
COMMANDS |= dict.fromkeys("textbf textit textrm textnormal mbox mathrm mathbf operatorname".split(), r"\text")
COMMANDS |= {"dfrac": r"\frac", "tfrac": r"\frac", "cfrac": r"\frac", "dbinom": r"\binom", "%": "%"}


def normalize(text: str) -> str:
    """`text` without marks that do not change its meaning; "" where it is too long to be an answer."""
    if len(text) > MAX_CHARS:
        return ""
    text = text.translate(CHARACTERS)
    text = re.sub(r"(?<=[0-9])(?:\\[, ]|,\\!|\{,\}) *(?=[0-9]{3}(?![0-9]))", "", text)  # 1{,}000 is 1000
    text = re.sub(r"\\(?:left|right)\s*\.", "", text)  # an invisible bracket
    text = re.sub(r"\\([A-Za-z]+|.)", lambda m: COMMANDS.get(m[1], m[0]), text, flags=re.DOTALL)
    text = re.sub(r"\s+", " ", text.replace("$", "").replace("~", " "))
    text = re.sub(r"\\frac ?([0-9])", r"\\frac{\1}", text)  # \frac12 is \frac{1}{2}, in two steps
    text = re.sub(r"(\\frac ?\{[^{}]*\}) ?([0-9])", r"\1{\2}", text)
    text = text.lstrip(" ,;:").rstrip(" .,;:")
    text = re.sub(r"^\\text ?\{([^{}]*)\}$", r"\1", text).rstrip(" .,")
    # Only a space between words or numbers means something: `1 1/2`, and `2, 345` is no 2,345.
    return re.sub(r"(?<![0-9A-Za-z,]) | (?![0-9A-Za-z])", "", text)


# Names of a unit, the first for all of them; then words that stand with units.
UNITS = """degree deg; meter m metre; centimeter cm; millimeter mm; kilometer km; inch in inches;
foot feet ft; yard yd; mile mi; second s sec; minute min; hour h hr; day; week; month; year yr; gram g;
kilogram kg; pound lb; milligram mg; ounce oz; ton; liter l L; milliliter ml mL; gallon gal; quart; cup;
dollar USD; cent; euro; way; newton N; joule J; watt W; volt V; pascal Pa; hertz Hz; kelvin K; mole mol;
radian rad; erg; mph; piece; unit; point; person people; student; page; percent pct percentage;
square sq cubic per of each; th st nd rd"""
UNIT_NAMES = {name: group.split()[0] for group in UNITS.split(";") for name in group.split()}
UNIT = re.compile(
    r"""
      \^\{?\\circ\}? (?: \\text\{[CF]\} | [CF](?![A-Za-z]) )?   # a degree sign, perhaps with Celsius
    | \^\{\\text\{(?:th|st|nd|rd)\}\}                           # 12^{\text{th}}
    | (?:/|\\cdot\ ?)? \\text\ ?\{([^{}]*)\}                    # \text{cm}, /\text{s}
      (?:\^\{?-?[0-9]\}?)?                                      # ^2, ^{-3}
    | (?<=[0-9})])\ ? ((?:[A-Za-z]{3,}|[ckm]m|kg|ft)(?:\ [A-Za-z]{2,})*)    # bare, after a number: 10 cm
      (?:\^\{?-?[0-9]\}?)? (?![A-Za-z(^_])
    """,
    re.VERBOSE,
)


def split_units(text: str) -> tuple[str, set[str]]:
    """A normalized text without known units, and these; other words stay, as they may mean anything."""
    units: set[str] = set()

    def drop(found: re.Match[str]) -> str:
        words = re.findall(r"[A-Za-z]+", found[1] or found[2] or "degree")
        names = {UNIT_NAMES.get(word) or UNIT_NAMES.get(word.lower().removesuffix("s")) for word in words}
        if not names or None in names:
            return found[0]
        units.update(names - {"square", "percent"})
        return "%" if "percent" in names else " "

    return UNIT.sub(drop, text).strip() or text, units


# ---- Comparison, the cheap part first ----

DECIMAL = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?"
NUMBER = re.compile(rf"{DECIMAL}|[+-]?[0-9]+/0*[1-9][0-9]*")
THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])")
MIXED = re.compile(
    r"(?<![0-9.^_])([0-9]+) ?(?:\\frac\{([0-9]+)\}\{([0-9]+)\}|(?<= )([0-9]+)/([0-9]+))(?P<more>\+[0-9]+$)?"
)


def plain_number(text: str) -> Fraction | None:
    """The value of a text that is one number or fraction, else None."""
    if THOUSANDS.match(text):
        text = text.replace(",", "")
    text = re.sub(r"^([+-]?)\\frac\{([0-9]+)\}\{([0-9]+)\}$", r"\1\2/\3", text)
    text = re.sub(r"\\(?:times|cdot)10\^(\{?)([+-]?[0-9]{1,3})\}?$", r"e\2", text)
    return Fraction(text) if NUMBER.fullmatch(text) else None


def quick_match(given: str, truth: str) -> bool | None:
    """Decides equal texts and plain numbers in microseconds; None where mathematics is needed."""
    if not given or not truth:
        return False
    if given == truth:
        return True
    if given.lower() == truth.lower() and re.fullmatch(r"[A-Za-z ]*[a-z]{2}[A-Za-z ]*", truth):  # words
        return True
    (given, given_units), (truth, truth_units) = split_units(given), split_units(truth)
    if given_units and truth_units and given_units != truth_units:
        return False
    a, b = plain_number(given), plain_number(truth)
    if a is None or b is None:
        return None
    # Integers are equal or not; decimals that differ may be rounded, see TOLERANCE in mathexpr.py.
    rounded = a != b and a.denominator > 1 and b.denominator > 1 and "." in given + truth
    return None if rounded else a == b


def spellings(text: str) -> list[str]:
    """Ways to read a text: "5,120" is one number or two. A mixed number becomes a fraction."""

    def as_fraction(found: re.Match[str]) -> str:
        above, below = int(found[2] or found[4]), int(found[3] or found[5])
        whole = int(found[1]) + int(found["more"] or 0)  # public graders take 1 1/2 + 3 as worked out
        return f"({whole * below + above}/{below})" if 0 < above < below else found[0]

    text = MIXED.sub(as_fraction, text)
    return [text, text.replace(",", "")] if THOUSANDS.match(text) else [text]


def answers_match(given: str, truth: str) -> bool:
    """Whether two answers mean the same. Never raises, but may take long: see VerifierPool."""
    try:
        given, truth = normalize(given), normalize(truth)
        quick = quick_match(given, truth)
        if quick is not None:
            return quick
        # Not at the top: a parent that leaves this to its workers never pays half a second for sympy.
        from mathexpr import TOLERANCE, parse, same

        given, truth = split_units(given)[0], split_units(truth)[0]
        percents = (100, 1) if ("%" in given) != ("%" in truth) else (1,)  # 28% is 28 or 0.28
        free_signs = (False, True) if r"\pm" in given + truth else (False,)  # of (\pm 1, \pm 2): two, or four
        for percent, free, a, b in product(percents, free_signs, spellings(given), spellings(truth)):
            (x, x_finished), (y, y_finished) = parse(a, percent, free), parse(b, percent, free)
            if (x_finished or not y_finished) and same(x, y, TOLERANCE[("." in a) + ("." in b)]):
                return True
    except Exception:  # sympy's are of many kinds, and what it can't handle is not the reference answer
        pass
    return False


def verify(response: str, answers: Sequence[str], answer_format: AnswerFormat) -> Verdict:
    """Correct if any of the reference answers matches. No time limit: see VerifierPool."""
    given = extract(response, answer_format)
    if given is None:
        return Verdict(formatted=False, correct=False)
    return Verdict(formatted=True, correct=any(answers_match(given, truth) for truth in answers))


# ---- Processes ----


class VerifierPool:
    """`num_workers` processes and a spare. An answer that takes over `timeout_s`, or kills one, is wrong.

    timeouts: how many answers were lost in that way so far.
    """

    def __init__(self, num_workers: int, timeout_s: float = 1.0):
        if num_workers < 1 or timeout_s <= 0:
            raise ValueError(f"num_workers {num_workers} must be at least 1, timeout_s {timeout_s} above 0")
        self.timeout_s, self.timeouts = timeout_s, 0
        self.threads = ThreadPoolExecutor(num_workers)  # each waits for one worker at a time
        self.workers: queue.SimpleQueue[subprocess.Popen] = queue.SimpleQueue()
        for _ in range(num_workers + 1):
            self.workers.put(self._start())

    def __enter__(self) -> "VerifierPool":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self.threads.shutdown(cancel_futures=True)
        while not self.workers.empty():
            self._end(self.workers.get())

    def verify_all(
        self, responses: Sequence[str], answers: Sequence[Sequence[str]], answer_format: AnswerFormat
    ) -> list[Verdict]:
        """One verdict per response, in order; `answers` holds the references of each: any may match."""
        if len(responses) != len(answers):
            raise ValueError(f"{len(responses)} responses but {len(answers)} tuples of references")
        verdicts, slow = [], {}
        for index, (response, truths) in enumerate(zip(responses, answers, strict=True)):
            given = extract(response, answer_format)
            quick = []
            if given is not None:
                quick = [quick_match(normalize(given), normalize(truth)) for truth in truths]
            verdicts.append(Verdict(given is not None, True in quick))
            if None in quick and True not in quick:
                slow[index] = self.threads.submit(self._ask, json.dumps([given, list(truths)]))
        for index, verdict in slow.items():
            verdicts[index] = verdict.result()
            self.timeouts += verdicts[index].timed_out
        return verdicts

    def _start(self) -> subprocess.Popen:
        # A fresh interpreter that runs `work` below. Not multiprocessing's spawn: that imports the parent's
        # main script (train.py, so torch and vLLM) into every worker, and unpickles what a worker sends.
        command = [sys.executable, os.path.abspath(__file__), str(self.timeout_s)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, bufsize=0, **pipes)

    def _end(self, worker: subprocess.Popen) -> None:
        with worker:  # closes its pipes and waits for it
            worker.kill()

    def _ask(self, line: str) -> Verdict:
        worker, reply = self.workers.get(), b""  # the one that has been ready for longest
        try:
            if self._read(worker, START_SECONDS) != b"r":
                raise RuntimeError("a verifier worker did not start: does `python -c 'import sympy'` work?")
            worker.stdin.write(line.encode() + b"\n")
            reply = self._read(worker, self.timeout_s)
        except BrokenPipeError:
            pass  # it died while idle
        finally:
            if not reply:
                self._end(worker)
                worker = self._start()
            self.workers.put(worker)
        return Verdict(True, reply == b"1", timed_out=not reply)

    def _read(self, worker: subprocess.Popen, seconds: float) -> bytes:
        """One byte, or none where the worker is late or dead."""
        poll = select.poll()  # select() refuses file numbers over 1023
        poll.register(worker.stdout, select.POLLIN)
        return os.read(worker.stdout.fileno(), 1) if poll.poll(seconds * 1000) else b""


def work(timeout_s: float) -> None:
    """A worker: "r" out when ready, a line [given, references] in, "1" or "0" out.

    If the parent is killed, it ends by end of file when idle, and when busy by an alarm with no handler,
    which stops C code too.
    """
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    import mathexpr  # noqa: F401, before the first answer, so that none pays for the import of sympy

    os.write(1, b"r")
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_REAL, timeout_s + 0.5)
        given, answers = json.loads(line)
        correct = any(answers_match(given, truth) for truth in answers)
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(1, b"1r" if correct else b"0r")


if __name__ == "__main__":
    work(float(sys.argv[1]))
