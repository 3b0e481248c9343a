"""Is a model's answer right? Its response and reference answers in, `Verdict(formatted, correct)` out.

    extract the answer -> normalize its text -> equal text or numbers? -> parse both, compare as mathematics

The text comes from a model that is rewarded for getting past this file, so nothing here executes it: a small
parser of our own builds sympy objects, and bounds length, nesting and the size of numbers before any
arithmetic. What those bounds do not catch, `VerifierPool` kills after `timeout_s`.
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
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from random import Random
from typing import Any, Literal, NamedTuple

AnswerFormat = Literal["boxed", "answer_tag"]
MAX_CHARS, MAX_TOKENS, MAX_DEPTH = 2000, 600, 40  # of an answer; one beyond them is never right
MAX_BITS = 50_000  # of an integer
TOLERANCE = {
    0: 1e-15,
    1: 2e-6,
    2: 1e-9,
    3: 1e-2,
}  # relative; keys: how many of the two have decimals; 3: `\approx`
MEMORY_BYTES, START_SECONDS = 2 << 30, 60  # limits of a worker: address space, time to import sympy


class Verdict(NamedTuple):
    formatted: bool
    correct: bool
    timed_out: bool = False


# ---- From a response to the text of its answer ----


def extract_boxed(text: str) -> str | None:
    """The content of the last \\boxed or \\fbox, None if its braces do not balance; `\\boxed 7` counts."""
    text = text[max(text.rfind(r"\boxed"), text.rfind(r"\fbox"), 0) :]
    found = re.match(r"\\(?:boxed|fbox)\s*(?:(\{)|(?<=\s)([^\s${}\\]+))", text)
    depth = 0
    for brace in re.finditer(r"\\.|[{}]", text, re.DOTALL) if found and found[1] else ():  # `\{` is no brace
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if brace[0] == "}" and depth == 0:
            return text[found.end() : brace.start()]
    return found and found[2]


def extract_answer_tag(text: str) -> str | None:
    """The text between <answer> and </answer>, None unless </think> comes just before."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    follows = start >= 0 and text[:start].rstrip().endswith("</think>")
    return text[start + len("<answer>") : end] if follows else None


def extract(response: str, answer_format: AnswerFormat) -> str | None:
    """The answer's text, without a box inside the answer tag; None where the format is not kept."""
    answer = {"boxed": extract_boxed, "answer_tag": extract_answer_tag}[answer_format](response)
    return answer and (extract_boxed(answer) or answer)


# ---- Text: one spelling for what is written in many ways, then equal texts and plain numbers ----

PLAIN = r"- - \times \cdot / \le \ge \ne \infty \cup \cap \in \pi \sqrt \pm ^\circ ^2 ^3 '".split()
UNICODE = str.maketrans({mark: f"{latex} " for mark, latex in zip("−–×·÷≤≥≠∞∪∩∈π√±°²³′", PLAIN, strict=True)})
SPELLING = dict.fromkeys([*",;:> \n", "quad", "qquad", "displaystyle", "limits"], " ")
SPELLING |= dict.fromkeys([*"!()[]$", "left", "right", "big", "Big", "bigl", "bigr", "Bigl", "Bigr"], "")
SPELLING |= dict.fromkeys("textbf textit textrm textnormal mbox mathrm mathbf operatorname".split(), r"\text")
SPELLING |= {"dfrac": r"\frac", "tfrac": r"\frac", "cfrac": r"\frac", "dbinom": r"\binom", "%": "%"}
UNITS = """degree deg; meter m metre; centimeter cm; millimeter mm; kilometer km; inch in inches;
foot feet ft; yard yd; mile mi; second s sec; minute min; hour h hr; day; week; month; year yr; gram g;
kilogram kg; pound lb; milligram mg; ounce oz; ton; liter l L; milliliter ml mL; gallon gal; quart; cup;
dollar USD; cent; euro; way; newton N; joule J; watt W; volt V; pascal Pa; hertz Hz; kelvin K; mole mol;
radian rad; erg; mph; piece; unit; point; person people; student; page; percent pct percentage;
square sq cubic per of each; th st nd rd"""
UNIT_NAMES = {name: group.split()[0] for group in UNITS.split(";") for name in group.split()}
UNIT = re.compile(
    r"\^\{?\\circ\}?(?:\\text\{[CF]\}|[CF](?![A-Za-z]))?|\^\{\\text\{(?:th|st|nd|rd)\}\}"
    r"|(?:/|\\cdot ?)?\\text ?\{([^{}]*)\}(?:\^\{?-?[0-9]\}?)?"
    r"|(?<=[0-9})]) ?((?:[A-Za-z]{3,}|[ckm]m|kg|ft)(?: [A-Za-z]{2,})*)(?:\^\{?-?[0-9]\}?)?(?![A-Za-z(^_])"
)
THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])")
MIXED = re.compile(r"(?<![0-9.^_])([0-9]+) ?(?:\\frac\{([0-9]+)\}\{([0-9]+)\}|(?<= )([0-9]+)/([0-9]+))")
DECIMAL = r"(?:[0-9]{1,400}(?:\.[0-9]{1,400})?|\.[0-9]{1,400})(?:[eE][+-]?[0-9]{1,3}(?![0-9A-Za-z.]))?"


def normalize(text: str) -> str:
    """`text` without marks that do not change its meaning; "" where it is too long to be an answer."""
    text = text.translate(UNICODE) if len(text) <= MAX_CHARS else ""
    text = re.sub(r"(?<=[0-9])(?:\\[, ]|,\\!|\{,\}) *(?=[0-9]{3}(?![0-9]))", "", text)  # 1{,}000
    text = re.sub(r"\\(?:left|right)\s*\.", "", text)
    text = re.sub(r"\\([A-Za-z]+|.)", lambda m: SPELLING.get(m[1], m[0]), text, flags=re.DOTALL)
    text = re.sub(r"\s+", " ", text.replace("$", "").replace("~", " "))
    text = re.sub(r"\\frac ?([0-9])", r"\\frac{\1}", text)
    text = re.sub(r"(\\frac ?\{[^{}]*\}) ?([0-9])", r"\1{\2}", text).lstrip(" ,;:").rstrip(" .,;:")
    text = re.sub(r"^\\text ?\{([^{}]*)\}$", r"\1", text).rstrip(" .,")
    return re.sub(r"(?<![0-9A-Za-z,]) | (?![0-9A-Za-z])", "", text)  # `1 1/2` and `2, 345` keep their space


def split_units(text: str) -> tuple[str, set[str]]:
    """A normalized text without known units, and these; other words stay, as they may mean anything."""
    units = set()

    def drop(found: re.Match[str]) -> str:
        words = re.findall(r"[A-Za-z]+", found[1] or found[2] or "degree")
        names = {UNIT_NAMES.get(word) or UNIT_NAMES.get(word.lower().removesuffix("s")) for word in words}
        if not names or None in names:
            return found[0]
        units.update(names - {"square", "percent"})
        return "%" if "percent" in names else " "

    return UNIT.sub(drop, text).strip() or text, units


def plain_number(text: str) -> Fraction | None:
    """The value of a text that is one number or fraction, else None."""
    text = text.replace(",", "") if THOUSANDS.match(text) else text
    text = re.sub(r"^([+-]?)\\frac\{([0-9]+)\}\{([0-9]+)\}$", r"\1\2/\3", text)
    text = re.sub(r"\\(?:times|cdot)10\^(\{?)([+-]?[0-9]{1,3})\}?$", r"e\2", text)
    return (
        Fraction(text)
        if re.fullmatch(rf"[+-]?(?:{DECIMAL}|[0-9]{{1,400}}/0*[1-9][0-9]{{0,400}})", text)
        else None
    )


def near(a: Fraction, b: Fraction, rounded: int) -> bool:
    """Equal, or `rounded` of the two are decimals and neither an integer, equal up to a relative rounding."""
    if a == b or not rounded or a.denominator == 1 or b.denominator == 1:
        return a == b
    return abs(a - b) <= Fraction(TOLERANCE[rounded]) * max(abs(a), abs(b))


def quick_match(given: str, truth: str) -> bool | None:
    """Decides equal texts and plain numbers in microseconds; None where mathematics is needed."""
    if not given or not truth:
        return False
    if given == truth or (
        given.lower() == truth.lower() and re.search(r"^[A-Za-z ]*[a-z]{2}[A-Za-z ]*$", truth)
    ):
        return True
    (given, given_units), (truth, truth_units) = split_units(given), split_units(truth)
    if given_units and truth_units and given_units != truth_units:
        return False
    a, b = plain_number(given), plain_number(truth)
    return None if a is None or b is None else near(a, b, ("." in given) + ("." in truth))


# ---- Mathematics: tokens, then precedence climbing, which builds sympy objects ----

SAME_TOKENS = r"""* \times \cdot \ast; / \div :; <= \le \leq \leqslant; >= \ge \geq \geqslant; != \ne \neq
; > \gt; < \lt; | \mid \vert; ~ \approx; ^ **; = ==; \infty infinity; \pi pi; \cup \cupdot; or \or; and \land
; \setminus \backslash; mod \bmod \mod; sqrt \sqrt; frac \frac; binom \binom; \emptyset \varnothing
; log ln \ln; asin arcsin \arcsin; acos arccos \arccos; atan arctan \arctan; Max max \max; Min min \min"""
ALIASES = {name: group.split()[0] for group in SAME_TOKENS.split(";") for name in group.split()} | {";": ","}
FUNCTIONS = {*"sin cos tan cot sec csc sinh cosh tanh exp log asin acos atan acot Max Min gcd lcm".split()}
NAMES = r"e E; i I; \pi pi; \infty oo; \mathbbR Reals; \emptyset EmptySet"
CONSTANTS = dict(pair.split() for pair in NAMES.split(";"))  # to the name that sympy has for it
RELATIONS = {"=", "~", "<", ">", "<=", ">=", "!=", r"\in"}
BINARY = dict.fromkeys((r"\cup", r"\cap", r"\setminus"), 3) | dict.fromkeys(("+", "-", r"\pm", r"\mp"), 4)
BINARY |= dict.fromkeys(("*", "/", "mod", ""), 5) | {"^": 6, "!": 7, "%": 7}  # "" is juxtaposition
CLOSING = {"(": [")", "]"], "[": [")", "]"], "{": ["}"], r"\{": [r"\}"], "|": ["|"], r"\begin": [r"\end"]}
CLOSING |= {r"\lfloor": [r"\rfloor"], r"\lceil": [r"\rceil"]}
SEPARATORS = {",", "&", r"\\", "and", "or"}
REFUSED = {"END", "_", *SEPARATORS, *RELATIONS, *BINARY, *sum(CLOSING.values(), [])} - {
    "|"
}  # as a value's start
TOKEN = re.compile(
    r"(?P<text>\\text ?\{([^{}]*)\})|(?P<edge>\\begin|\\end)\{[a-z]*\}(?:\{[clr|]*\})?"
    r"|(?P<name>\\?log(?![a-z])"
    r"|(?:\\[A-Za-z]+|[A-Za-z]|[0-9]{1,400})(?=[_'])(?:_(?:\{(?:[^{}]|\{[^{}]*\})*\}|\\?[A-Za-z]|[0-9]+))?'*"
    r"|[A-Za-z]\([0-9]+\)|\\(?:hat|bar|vec|d?dot|tilde|overline|mathbb|mathcal)\{[^{}]*\})"
    rf"|{DECIMAL}(?![0-9])|\\[A-Za-z]+|\\.|[A-Za-z]+(?![_'])|\*\*|<=|>=|!=|==|[-+*/^_=<>(){{}}\[\],;:|!%&]"
    r"|\s|\.(?![0-9])|(?P<unknown>.)"
)
LABEL = r"(?:\\[A-Za-z]+|[A-Za-z]{4,}|[A-Z]+|[a-z])(?:_[^(),]+)?'*(?:\([A-Za-z0-9,]*\))?"
POINTS = r"(?=.*[A-Z])(?:\\(?:angle|triangle|overline)|frac|[A-Z](?:_\w)?'*|[|/{}])+"
NAME = re.compile(rf"{LABEL}|\({LABEL}(?:,{LABEL})*\)|{POINTS}")  # x, f(x), (p,q), |AB|: goes left of `=`


@dataclass(frozen=True)  # not a tuple: comparing a sympy object with one calls sympify on what it holds
class Group:
    """Values in brackets (kind "(]"), in a list ("," or "and"), or related (kind "< <=")."""

    kind: str
    items: tuple[Any, ...]


def tokenize(text: str) -> list[str]:
    tokens: list[str] = []
    for found in TOKEN.finditer(text):
        token = ALIASES.get(found[0], found[0])
        if found["unknown"] or len(tokens) > MAX_TOKENS:
            raise ValueError(f"unreadable: {token!r}")
        if found["text"]:
            word = found[2].strip()
            tokens += [word] if re.fullmatch(r"[A-Za-z][\w ]*", word) else tokenize(word)[:-1]
        elif found["edge"] or token.lstrip("\\") in FUNCTIONS:
            tokens.append(found["edge"] or token.lstrip("\\"))
        elif token.isalpha() and len(token) < 4 and token not in REFUSED:
            tokens += token  # `abc` is a product, `even` a word
        elif token.strip(" ."):
            tokens.append(re.sub(r"[{} ]|\\text", "", token) if found["name"] else token)
    return [*tokens, "END"]


class Parser:
    """Every method reads tokens from `self.at` on and returns a sympy object or a Group."""

    def __init__(self, text: str, percent: Fraction, sign: int):
        self.tokens, self.percent, self.sign = tokenize(text), percent, sign
        self.at = self.depth = self.bars = 0

    def accept(self, *tokens: str) -> str:
        token = self.tokens[self.at] if self.tokens[self.at] in tokens else ""
        self.at += token != ""
        return token

    def items(self, *closing: str) -> tuple[Group, str]:
        """A list and the token that closes it."""
        values, joints = [self.relation()], set()
        while joint := self.accept(*SEPARATORS):
            joints.add(self.accept("and", "or") or joint)  # `1, 2, and 3`
            values.append(self.relation())
        if not (close := self.accept(*closing)):
            raise ValueError(f"{self.tokens[self.at]} where one of {closing} is needed")
        return Group("and" if joints == {"and"} else ",", tuple(values)), close

    def relation(self) -> Any:
        sides, ops = [], []
        while len(sides) == len(ops):
            end = next(
                i for i, t in enumerate(self.tokens) if i >= self.at and (t in RELATIONS or t == "END")
            )
            name = "".join(self.tokens[self.at : end])
            if self.tokens[end] != "END" and NAME.fullmatch(name):
                self.at = end
                sides.append(sp.Symbol(name))
            else:
                sides.append(self.expression(3))
            ops += filter(None, [self.accept(*RELATIONS)])
        return relate(ops, sides) if ops else sides[0]

    def expression(self, floor: int) -> Any:
        """Operators that bind at least as tightly as `floor`."""
        op = self.accept("-", "+", r"\pm", r"\mp")
        value = self.operate(op, None, self.expression(max(floor, 5))) if op else self.atom()
        while BINARY.get(op := self.operator(), 0) >= floor:
            self.at += op != ""
            if op == "!":
                value = sp.factorial(bounded(value, 12))
            elif op == "%":
                value = bounded(value) * sp.Rational(self.percent)
            else:
                value = self.operate(op, value, self.expression(BINARY[op] + (op != "^")))
        return value

    def operator(self) -> str:
        """The next token, or "" before a factor: never before a number, so `4 2` is no product."""
        token = self.tokens[self.at]
        return token if token in REFUSED or token[0] in ".0123456789" or (token == "|" and self.bars) else ""

    def operate(self, op: str, a: Any, b: Any) -> Any:
        if op in (r"\pm", r"\mp"):
            op = "+" if (self.sign > 0) == (op == r"\pm") else "-"
        if op in (r"\cup", r"\cap", r"\setminus") or (op == "-" and kind_of(a)[0]):
            a, b = as_set(a), as_set(b)
            return a | b if op == r"\cup" else a & b if op == r"\cap" else a - b
        if a is None:
            return b if op == "+" else -b if b == sp.oo else -bounded(b)
        a, b = bounded(a), bounded(b, 40 if op == "^" else MAX_BITS)
        if op == "^" and b.is_Rational and size(a) * abs(b.p) > (MAX_BITS if b.q == 1 else 2000) * b.q:
            raise ValueError("power too large")
        operations = {"+": a.__add__, "-": a.__sub__, "/": a.__truediv__, "^": a.__pow__, "mod": a.__mod__}
        return bounded(operations.get(op, a.__mul__)(b))

    def atom(self) -> Any:
        token, self.at, self.depth = self.tokens[self.at], self.at + 1, self.depth + 1
        if token in REFUSED or self.depth > MAX_DEPTH:
            raise ValueError(f"no value starts with {token}")
        if token[0] in ".0123456789":
            digits, _, base = token.partition("_")
            value = sp.Rational(Fraction(digits)) if base in ("", "10") else sp.Symbol(token)
        elif token in FUNCTIONS:
            value = self.function(token)
        elif token in ("frac", "binom"):
            a, b = self.atom(), self.atom()
            value = (
                self.operate("/", a, b) if token == "frac" else sp.binomial(bounded(a, 12), bounded(b, 12))
            )
        elif token == "sqrt":
            index = self.bracketed("[") if self.accept("[") else sp.Integer(2)
            value = self.operate("^", self.atom(), 1 / bounded(index))
        elif token in CLOSING:
            value = self.bracketed(token)
        else:
            value = getattr(sp, CONSTANTS[token]) if token in CONSTANTS else sp.Symbol(token)
        self.depth -= 1
        return value

    def function(self, name: str) -> Any:
        base = self.atom() if self.accept("_") else sp.E
        exponent = self.expression(6) if self.accept("^") else sp.Integer(1)
        if exponent == -1 and f"a{name}" in FUNCTIONS:
            name, exponent = f"a{name}", sp.Integer(1)
        bracketed = self.tokens[self.at] in ("(", "{")
        value = self.atom() if bracketed else self.expression(6)
        while not bracketed and not self.operator() and self.tokens[self.at] not in FUNCTIONS:
            value = self.operate("*", value, self.expression(6))  # \sin 2 x
        value = getattr(sp, name)(*map(bounded, value.items if isinstance(value, Group) else (value,)))
        return self.operate("^", value / sp.log(base), exponent)

    def bracketed(self, opening: str) -> Any:
        if opening == r"\{" and self.tokens[self.at + 1] == "|":
            self.at += 2  # {x | x > 0}
            return as_set(Group("and", self.items(r"\}")[0].items))
        if close := self.accept(*CLOSING[opening]):
            return Group(opening + close, ())
        bars, self.bars, start = self.bars, opening == "|", self.at
        group, close = self.items(*CLOSING[opening])
        self.bars, items = bars, group.items
        if opening in ("|", r"\lfloor", r"\lceil"):
            return {"|": sp.Abs, r"\lfloor": sp.floor, r"\lceil": sp.ceiling}[opening](bounded(items[0]))
        if opening == r"\begin":
            rows = 1 + self.tokens[start : self.at].count(r"\\")
            cases = any(kind_of(item)[0] for item in items)
            return group if cases else sp.ImmutableMatrix(rows, len(items) // rows, items)
        if len(items) == 1 and opening + close in ("()", "[]", "{}"):
            return items[0]
        return Group(r"\{\}" if opening == "{" else opening + close, items)


def size(value: Any) -> int:
    return max((max(abs(n.p), n.q).bit_length() for n in value.atoms(sp.Rational)), default=0)


def bounded(value: Any, bits: int = MAX_BITS) -> Any:
    """`value`, if it is a finite number or expression of bounded size. Infinity only stands alone."""
    if not isinstance(value, sp.Expr) or value.has(sp.oo, -sp.oo, sp.zoo, sp.nan) or size(value) > bits:
        raise ValueError(f"{value} where a number is needed, up to {bits} bits")
    return value


def relate(ops: list[str], sides: list[Any]) -> Any:
    if ops == [r"\in"]:
        return sides[1]
    if not set(ops) <= {"=", "~"}:
        return Group(" ".join(ops), tuple(sides))
    if not any(kind_of(side)[0] or side.free_symbols for side in sides):  # 2 + 2 = 4, or 2/3 ~ 0.67
        if not all(same(sides[0], side, 3 * (op == "~")) for op, side in zip(ops, sides[1:], strict=True)):
            raise ValueError("the sides differ")
        return sides[0]
    if (
        len(sides) > 2
        and isinstance(sides[0], sp.Symbol)
        and all(same(sides[1], side, 1) for side in sides[2:])
    ):
        sides = sides[:2]
    if isinstance(sides[-1], sp.Symbol) and not isinstance(sides[0], sp.Symbol):
        sides = sides[::-1]
    return Group("=" * (len(sides) - 1), tuple(sides))


# ---- Comparison of what was parsed ----


def kind_of(value: Any) -> tuple[str, tuple[Any, ...]]:
    """(kind, parts) of a group, set, or matrix (a vector is a tuple); ("", ()) of a number or expression."""
    if isinstance(value, sp.MatrixBase):
        return "()" if 1 in value.shape else f"matrix {value.shape}", tuple(value)
    if isinstance(value, sp.Set):
        return type(value).__name__, value.args
    return (value.kind, value.items) if isinstance(value, Group) else ("", ())


def as_set(value: Any) -> Any:
    """The set of real numbers that `value` means, None where it means none."""
    kind, items = kind_of(value)
    if isinstance(value, sp.Set) or not kind:
        return value if kind else None
    if kind in (",", "and"):
        sets = [as_set(item) for item in items]
        sound = None not in sets and any(isinstance(v, sp.Set) or kind_of(v)[0][0] in "<>!" for v in items)
        return (sp.Intersection if kind == "and" else sp.Union)(*sets) if sound else None
    symbols = set().union(*(item.free_symbols for item in items))
    if kind[0] in "<>!" and len(symbols) == 1:
        sides = [side.subs(symbols.copy().pop(), sp.Symbol("x", real=True)) for side in items]
        relation = {"<": sp.Lt, "<=": sp.Le, ">": sp.Gt, ">=": sp.Ge, "!=": sp.Ne}
        pairs = zip(kind.split(), sides, sides[1:], strict=False)
        return sp.And(*(relation[op](left, right) for op, left, right in pairs)).as_set()
    if kind == "=" and isinstance(items[0], sp.Symbol):
        kind, items = r"\{\}", items[1:]
    if not all(isinstance(item, sp.Expr) and item.is_number and item.is_extended_real for item in items):
        return None
    if kind in ("()", "(]", "[)", "[]") and len(items) == 2 and items[0] < items[1]:
        return sp.Interval(*items, kind[0] == "(", kind[1] == ")")
    return sp.FiniteSet(*items) if kind == r"\{\}" else None


def same(a: Any, b: Any, rounded: int) -> bool:
    """Whether two parsed values mean the same. rounded: how many of them have decimals, see TOLERANCE."""
    (kind_a, xs), (kind_b, ys) = kind_of(a), kind_of(b)
    if a == b or (not kind_a and not kind_b):
        return a == b or same_expressions(a, b, rounded)
    if kind_a == kind_b == "=":
        names = {xs[0], ys[0]}
        if all(isinstance(name, sp.Symbol) for name in names):  # y = 2x is f(x) = 2x, but x = 1 is not y = 1
            return (len(names) == 1 or not {*map(str, names)} <= {*"xyz"}) and same(xs[1], ys[1], rounded)
        return proportional(xs[0] - xs[1], ys[0] - ys[1], rounded)
    for kind, items, other in ((kind_a, xs, b), (kind_b, ys, a)):
        if kind == "=" and isinstance(items[0], sp.Symbol):  # k = 3
            return same(items[1], other, rounded)
        if kind in (r"\{\}", "FiniteSet") and len(items) == 1 and not kind_of(other)[0]:
            return same(items[0], other, rounded)
    kinds, vector = {kind_a, kind_b}, isinstance(a, sp.MatrixBase) or isinstance(b, sp.MatrixBase)
    if len(xs) == len(ys) and kinds <= {",", "and", r"\{\}", "FiniteSet", "Union"}:  # in any order
        left = list(ys)
        for x in xs:
            left = next((left[:i] + left[i + 1 :] for i, y in enumerate(left) if same(x, y, rounded)), left)
        if not left:
            return True
    elif len(xs) == len(ys) and (len(kinds) == 1 or kinds <= {"()", "[]", ","}):
        # A pair in brackets may be an interval, so (1, 2) is not [1, 2].
        if len(kinds) == 1 or vector or len(xs) > 2 or "," in kinds:
            return all(same(x, y, rounded) for x, y in zip(xs, ys, strict=True))
    a, b = as_set(a), as_set(b)
    again = None not in (a, b) and a != b and {kind_of(a)[0], kind_of(b)[0]} != kinds
    return None not in (a, b) and (a == b or (again and same(a, b, rounded)))


def proportional(a: Any, b: Any, rounded: int) -> bool:
    """Whether a = 0 and b = 0 are the same equation up to a factor."""
    at_a, at_b = (numeric(value, a.free_symbols | b.free_symbols, 0) for value in (a, b))
    return bool(at_a and at_b) and same_expressions(a, b * (at_a / at_b), rounded)


def numeric(value: Any, symbols: set[Any], index: int) -> Any:
    """`value` at a point that is always the same: below 1 for an even index, above 1 for an odd one."""
    random, (low, high) = Random(index), ((300, 999), (1001, 3000))[index % 2]
    point = {symbol: sp.Rational(random.randint(low, high), 1009) for symbol in sorted(symbols, key=str)}
    found = value.evalf(30, subs=point)
    return found if found.is_number and found.is_finite else None


def same_expressions(a: Any, b: Any, rounded: int) -> bool:
    """Equal wherever both are real at sample points, or, if they rarely are, wherever they are defined."""
    if rounded < 3 and a.is_Rational and b.is_Rational:
        return near(Fraction(a.p, a.q), Fraction(b.p, b.q), rounded)
    real, other, symbols = [], [], a.free_symbols | b.free_symbols
    for index in range(6 if symbols else 1):
        x, y = numeric(a, symbols, index), numeric(b, symbols, index)
        if x is not None and y is not None:
            scale = max(abs(x), abs(y)) if x and y else 1e-50  # a zero is rarely exact
            close = bool(abs(x - y) <= TOLERANCE[rounded] * scale)
            if x.is_real and y.is_real and not close:
                return False
            (real if x.is_real and y.is_real else other).append(close)
        if len(real) == 3:
            break
    return bool(real or other) and (len(real) > 1 or all(other))


def readings(text: str) -> list[tuple[Any, int, bool]]:
    """(value, percent divided by, any decimals): 28\\% is 28 or 0.28, and 5,120 is one number or two."""

    def mixed(m: re.Match[str]) -> str:
        whole, above, below = (group for group in m.groups() if group)
        return f"({whole}+{above}/{below})" if 0 < int(above) < int(below) else m[0]

    text, found, signs = MIXED.sub(mixed, text), [], (1, -1) if r"\pm" in text else (1,)
    variants = {text.replace(",", ""), text} if THOUSANDS.match(text) else {text}
    for variant, percent in product(variants, (1, 100) if "%" in text else (0,)):
        groups = [Parser(variant, Fraction(1, percent or 1), sign).items("END")[0] for sign in signs]
        if len(groups[0].items) == 1 and kind_of(groups[0].items[0])[0] == r"\{\}":
            groups = [group.items[0] for group in groups]  # {1 \pm 2, 3}
        items = (
            groups[0].items if len(groups) == 1 else tuple(dict.fromkeys(groups[0].items + groups[1].items))
        )
        found.append((Group(groups[0].kind, items) if len(items) > 1 else items[0], percent, "." in variant))
    return found


def answers_match(given: str, truth: str) -> bool:
    """Whether two answers mean the same. Never raises, but may take long: see VerifierPool."""
    global sp  # imported on first use: a parent that leaves this to its workers never pays the half second
    try:
        given, truth = normalize(given), normalize(truth)
        quick = quick_match(given, truth)
        if quick is not None:
            return quick
        import sympy as sp

        for a, b in product(readings(split_units(given)[0]), readings(split_units(truth)[0])):
            if (a[1] == b[1] or not (a[1] and b[1])) and same(a[0], b[0], a[2] + b[2]):
                return True
    except Exception:  # sympy's are of many kinds, and what it can't handle is not the reference answer
        pass
    return False


def verify(response: str, answers: Sequence[str], answer_format: AnswerFormat) -> Verdict:
    """Correct if any of the reference answers matches. No time limit: see VerifierPool."""
    given = extract(response, answer_format)
    return Verdict(
        given is not None, given is not None and any(answers_match(given, truth) for truth in answers)
    )


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
            quick = (
                [] if given is None else [quick_match(normalize(given), normalize(truth)) for truth in truths]
            )
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
    import sympy  # noqa: F401

    os.write(1, b"r")
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_REAL, timeout_s + 0.5)
        given, answers = json.loads(line)
        correct = any(answers_match(given, truth) for truth in answers)
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(1, b"1r" if correct else b"0r")


if __name__ == "__main__":
    work(float(sys.argv[1]))
