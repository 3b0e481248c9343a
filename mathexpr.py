"""The text of a mathematical answer -> sympy objects, and whether two of them mean the same.

    tokenize -> Parser, by precedence climbing -> (value, finished);  same(answer, reference, tolerance)

A value is a sympy expression, set or matrix, or a `Group` of values: a list, a tuple, a relation. verify.py
sends texts it has normalized, and imports this file on first use, as sympy takes half a second to import.

The text was written by a model that is rewarded for getting past this file, so no string ever reaches a
parser of sympy's, which would run code in it: tokens become numbers, symbols and what the tables below name.
Bounds are checked before any arithmetic; what is slow all the same, `verify.VerifierPool` kills. What cannot
be read or is too large raises an exception, of whatever type, and is not the right answer.

The question given back is no answer: `finished` is False where something is left to work out, as in 3+9-4, or
to solve, as in 2x=6. Only a reference that is such a form itself may be answered by one.
"""

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise, product
from random import Random
from typing import Any

import sympy as sp

MAX_TOKENS, MAX_DEPTH = 600, 40  # of a text; depth counts brackets and arguments
MAX_SIGNS = 4  # of `\pm` signs that are independent of each other
MAX_UNION = 9  # of intervals
MAX_CELLS, MAX_MATRIX_POWER = 16, 3  # of a matrix with symbols
MAX_BITS = 50_000  # of an integer
MAX_ROOT_BITS = 2_000  # of an integer under a root: sympy looks for its factors
MAX_EXPONENT_BITS = 40  # of an integer in an exponent
MAX_FACTORIAL_BITS = 12  # of n in n! and in binomials: 4095! has 43,000 bits

# How far apart two equal values may be, relative to the larger one.
EXACT = sp.Rational(1, 10**50)  # for evaluation to 60 digits; two rational numbers have to be equal
ROUNDED = sp.Rational(2, 10**6)  # where one is a decimal, which may round the other: 0.333333 for 1/3
TOLERANCE = (EXACT, ROUNDED, sp.Rational(1, 10**9))  # by how many of the two are decimals
APPROXIMATE = sp.Rational(1, 100)  # of the two sides of `\approx`
PRECISION, NOISE = 60, sp.Float("1e-120")  # digits of an evaluation, and what it may leave of a zero


# ---- Tables: what a token means ----

SPELLINGS = r"""* \times \cdot \ast; / : to; ^ **; ~ \approx; | \mid \vert; \setminus \backslash; = == \equiv
; < \lt; > \gt; <= \le \leq \leqslant; >= \ge \geq \geqslant; != \ne \neq; mod \bmod \mod; \cup \cupdot
; and \land \wedge; or \lor \vee \or; if for when; \\ \cr; \infty infinity oo inf; \pi pi; frac \frac
; sqrt \sqrt; \emptyset \varnothing; binom \binom; \dots \ldots \cdots \dotsc \dotsb; log ln \ln
; asin arcsin \arcsin; acos arccos \arccos; atan arctan \arctan arctg \arctg; tan tg \tg; cot ctg \ctg
; Max max \max; Min min \min; sign sgn \sgn; \phi \varphi; \epsilon \varepsilon; \theta \vartheta"""
CANONICAL = {spelling: group.split()[0] for group in SPELLINGS.split(";") for spelling in group.split()}

FUNCTION_NAMES = "sin cos tan cot sec csc sinh cosh tanh exp log asin acos atan acot Max Min sign"
FUNCTIONS = {name: getattr(sp, name) for name in FUNCTION_NAMES.split()}
FUNCTIONS["lg"] = lambda number: sp.log(number, 10)
FUNCTIONS["gcd"] = lambda *numbers: sp.Integer(sp.igcd(*numbers))  # sp.gcd is of polynomials: gcd(a, b) is 1
FUNCTIONS["lcm"] = lambda *numbers: sp.Integer(sp.ilcm(*numbers))
CONSTANTS = {"e": sp.E, "E": sp.E, r"\pi": sp.pi, "i": sp.I, "I": sp.I, r"\infty": sp.oo}
CONSTANTS |= {r"\mathbbR": sp.Reals, r"\emptyset": sp.EmptySet}
BASES = {"two": "2", "three": "3", "eight": "8", "ten": "10", "sixteen": "16"}

ARITHMETIC = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
ARITHMETIC |= {"": operator.mul, "^": operator.pow, "mod": operator.mod}  # "" is juxtaposition: 2x, x(x+1)
ARITHMETIC |= dict.fromkeys((r"\div", r"\over"), operator.truediv)  # 6/2 is a number, 6 \div 2 a question
SET_OPERATIONS = {r"\cup": operator.or_, r"\cap": operator.and_, r"\setminus": operator.sub}

OVER, SETS, SUM, PRODUCT, POWER, POSTFIX = range(1, 7)  # how tightly they bind
PRECEDENCE = dict.fromkeys((r"\over", r"\choose"), OVER) | dict.fromkeys(SET_OPERATIONS, SETS)
PRECEDENCE |= dict.fromkeys(("+", "-", r"\pm", r"\mp"), SUM)
PRECEDENCE |= dict.fromkeys(("*", "/", r"\div", "mod", ""), PRODUCT)
PRECEDENCE |= {"^": POWER, "!": POSTFIX, "%": POSTFIX}

# Where expressions are compared: each symbol is a number from low to high, over the third one, with one of
# these signs. The first SMOOTH_SAMPLES do for expressions that have one form everywhere.
SMALL, NEAR, UP = (1, 9, 1009), (300, 999, 1009), (1001, 9000, 1009)
SAMPLES = [(*numbers, signs) for signs in ((1,), (-1,), (1, -1)) for numbers in (NEAR, UP, SMALL)]
SAMPLES += [(*numbers, (sign,)) for sign in (1, -1) for numbers in ((2, 20, 1), (10**6, 10**7, 7))]
SAMPLES += [(200, 900, 1, (1, -1))]
SMOOTH_SAMPLES = 3
PIECEWISE = (sp.Abs, sp.floor, sp.ceiling, sp.sign, sp.Max, sp.Min, sp.Mod, sp.log)
PIECEWISE += (sp.asin, sp.acos, sp.atan, sp.acot, sp.factorial, sp.binomial)

ORDER = {"<": sp.Lt, "<=": sp.Le, ">": sp.Gt, ">=": sp.Ge, "!=": sp.Ne}
SOLVED = {"<": lambda end: sp.Interval.open(-sp.oo, end), "<=": lambda end: sp.Interval(-sp.oo, end)}
SOLVED |= {">": lambda end: sp.Interval.open(end, sp.oo), ">=": lambda end: sp.Interval(end, sp.oo)}
SOLVED |= {"!=": lambda end: sp.Reals - sp.FiniteSet(end)}
MIRRORED = str.maketrans("<>", "><")
RELATIONS = {"=", "~", r"\in", *ORDER}
SEPARATORS = {",", ";", "&", r"\\", "and", "or", "if"}
CLOSING = {"(": [")", "]"], "[": [")", "]"], "{": ["}"], r"\{": [r"\}"], "|": ["|"], r"\begin": [r"\end"]}
CLOSING |= {r"\lfloor": [r"\rfloor"], r"\lceil": [r"\rceil"]}
UNORDERED = {",", "and", r"\{\}", "FiniteSet", "Union"}  # kinds of values with parts in any order
BARS = {"|": sp.Abs, r"\lfloor": sp.floor, r"\lceil": sp.ceiling}
ALL_CLOSING = {closing for choices in CLOSING.values() for closing in choices} - {"|"}  # `|` opens as well
ALL_OPENING = CLOSING.keys() - {"|"}
NAME_ENDS = RELATIONS | SEPARATORS | ALL_CLOSING
NO_VALUE = {"END", "_", *SEPARATORS, *RELATIONS, *PRECEDENCE, *ALL_CLOSING}  # no value starts with these


# ---- Text to tokens ----

FIGURES = ".0123456789"  # a number starts with one
NUMBER = r"(?:[0-9]{1,400}(?:\.[0-9]{1,400})?|\.[0-9]{1,400})(?:[eE][+-]?[0-9]{1,3}(?![0-9A-Za-z.]))?"
SUBSCRIPT = r"_(?:\{(?:[^{}]|\{[^{}]*\})+\}|\\text\{[^{}]*\}|\\[A-Za-z]+|[A-Za-z]|[0-9]+)"
TOKEN = re.compile(
    rf"""
    (?P<text> \\text\ ?\{{ (?P<words>[^{{}}]*) \}})
    | (?: \\\\ \s* (?=\\end))? (?P<edge> \\begin | \\end) \{{[a-z]*\}} (?:\{{[clr|]*\}})?  # {{array}}{{c|c}}
    | \\?log(?![a-z])                                               # not a name with a subscript: \log_2 8
    | (?P<name>
        (?:\\[A-Za-z]+|[A-Za-z]|[0-9]{{1,400}}) (?=[_']) (?:{SUBSCRIPT})? '*    # x_1, f', and 52_8 in base 8
        | [A-Za-z]\([0-9]+\)                                        # f(0) is no product
        | (?<![^,;])\ ?[A-Z](?:\ ?[A-Z])+(?![^,;])                 # nor is BCA alone, or in a list
        | \\(?:hat|bar|vec|d?dot|tilde|overline|mathbb|mathcal)\{{[^{{}}]*\}} (?:{SUBSCRIPT})?
      )
    | {NUMBER}(?![0-9])
    | \\[A-Za-z]+ | \\. | [A-Za-z]+(?![_'])
    | \*\* | <= | >= | != | == | [-+*/^_=<>(){{}}\[\],;:|!%&]
    | (?P<space> \s | \.(?![.0-9]))
    | (?P<unknown> .)
    """,
    re.VERBOSE,
)
LABEL = r"(?!not)(?:\\[A-Za-z]+|[A-Za-z][A-Za-z ]{2,}|[A-Z]+|[a-z])(?:_[^(),]+)?'*(?:\([A-Za-z0-9,]*\))?"
LINES = r"\\(?:angle|triangle|over(?:line|rightarrow))"
POINTS = rf"(?:m|[A-Za-z][A-Za-z ]+)?(?=.*[A-Z])(?:{LINES}|frac|[A-Z](?:_\w)?'*|[][|/{{}}])+"
NAME = rf"{LABEL}|\({LABEL}(?:,{LABEL})*\)|{POINTS}"  # x, f(x), (p,q), |AB|: goes left of a relation
# Goes left of `=`: f(-2), f^{-1}(x), (f\circ g)(2), P(A|B), E[X], |z|, dy/dx, \sin\theta.
FUNCTION = r"(?:[fghpqA-Z](?:_\w+)?'*(?:\^\{-1\})?|\\mathbbE|\(\w(?:\\circ\w)+\))"
QUANTITY = rf"{FUNCTION}(?:\((?:[^()]|\([^()]*\))+\)|\[[^][]+\])|\|(?:[zw]|\\vec\w)\||d\w?/d\w"
QUANTITY += rf"|(?!log|exp)(?:[a-z]{{3}}\\[a-z]+|{NAME})"
# y = 2x is f(x) = 2x, and f(x) = 1 is g(n) = 1, but x = 1 is not y = 1, nor f(1) = 3 f(2) = 3.
# Derivatives, ratios and sines are what they are; but y' is another name of dy/dx.
UNLIKE = r"[xyz] [xyz]|(?!\w\([a-z]\) \w\([a-z]\)$)\S*\(\S* \S*\(\S*"
UNLIKE += r"|(?!(.)' d\1/|d(.)/\S+ \2').*(?:frac|/|\b(?:sin|cos|tan|cot|sec|csc)(?:\\|[A-Zabcxyz]\b)).*"
UNLIKE = re.compile(UNLIKE)
MARKS = re.compile(r"m?\\angle|\\overline|[|]")  # that a name may have or not: \angle P is P
# A number that is worked out, as tokens without braces: 3, -1/2, 2*10^4, 1 \pm 2; graders label \sqrt{4} so.
DIGITS, SIGNED = r"[0-9.]\S*", r"(?:(?:[-+] )?[0-9]+|\( (?:[-+] )?[0-9]+ \))"
SHAPES = rf"(?:sqrt )*{DIGITS}|frac {SIGNED} {SIGNED}|{SIGNED} (?:/|\\over) {SIGNED}"
SHAPES += rf"|{DIGITS} \* 10 \^ {SIGNED}|10 \^ (?:(?:\( )?- [0-9]+|[5-9]|[1-9][0-9]+)"  # but 10^3 is 1000
OPEN, CLOSE = r"(?:[(\[] )*(?:(?:[-+]|\\pm|\\mp) )?(?:[(\[] )*", r"(?: [%)\]])*"
WORKED_OUT = re.compile(rf"{OPEN}(?:{SHAPES}){CLOSE}|(?:[-+] )?{DIGITS} \\pm {DIGITS}")


def tokenize(text: str) -> list[str]:
    """`2x \\le \\text{ten}` -> ["2", "x", "<=", "ten", "END"]"""
    tokens: list[str] = []
    for found in TOKEN.finditer(text):
        token = CANONICAL.get(found[0], found[0])
        if found["unknown"] or len(tokens) > MAX_TOKENS:
            raise ValueError(f"unreadable: {token!r}")
        if found["text"]:
            words = found["words"].strip()
            readable = re.fullmatch(r"[A-Za-z][\w ]*", words)
            tokens += [CANONICAL.get(words, words)] if readable else tokenize(words)[:-1]
        elif found["edge"]:
            tokens += [r"\det"] * (found[0] == r"\begin{vmatrix}") + [found["edge"]]
        elif found["name"]:
            tokens.append(re.sub(r"[{} ]|\\text", "", token))  # x_{\text{max}} is x_max
        elif (function := token.lstrip("\\")) in FUNCTIONS:
            tokens.append(function)
        elif token.isalpha() and len(token) < 4 and token not in NO_VALUE:
            tokens += token  # `abc` is a product, `even` a word
        elif not found["space"]:
            tokens.append(token)
    return [*tokens, "END"]


# ---- Tokens to values ----


@dataclass(frozen=True)  # not a tuple: comparing a sympy object with one calls sympify on what it holds
class Group:
    """Values in brackets (kind "(]"), in a list ("," or "and"), or related ("=", "< <=")."""

    kind: str
    items: tuple[Any, ...]


def parse(text: str, percent: int = 1, free_signs: bool = False) -> tuple[Any, bool]:
    """(the value of a normalized text, whether nothing in it is left to work out or to solve).

    percent: what a % sign divides by. free_signs: whether each `\\pm` has a sign of its own.
    """
    count = text.count(r"\pm") + text.count(r"\mp")
    choices = product((1, -1), repeat=min(count, MAX_SIGNS)) if free_signs else ([1] * count, [-1] * count)
    parsers = [Parser(text, percent, signs) for signs in (choices if count else [[]])]
    readings = [parser.items("END")[0] for parser in parsers]
    if len(readings) > 1 and len(readings[0].items) == 1 and kind_of(readings[0].items[0])[0] == r"\{\}":
        readings = [reading.items[0] for reading in readings]  # {1 \pm 2, 3} is one set of three
    value = readings[0]
    if len(readings) > 1:
        value = Group(value.kind, tuple(dict.fromkeys(sum((reading.items for reading in readings), ()))))
    alone = len(value.items) == 1 and value.kind in (",", "and")
    return value.items[0] if alone else value, all(parser.finished for parser in parsers)


class Parser:
    """Reads a text once, with `signs` for its `\\pm`. Every method reads tokens from `self.at` on.

    finished: whether nothing is left to work out or to solve in what was read, as there is in 3+9-4 and 2x=6.
    """

    def __init__(self, text: str, percent: int, signs: Sequence[int]):
        self.tokens, self.percent, self.signs = tokenize(text), percent, iter(signs)
        self.at = self.depth = 0
        self.in_bars = False  # whether a `|` closes the innermost bracket
        self.merged = 0  # how many operators joined terms or sets that become one: 3x+2x
        self.finished = self.done = True  # done: the same, of the last relation or expression alone

    def accept(self, *tokens: str) -> str:
        """The next token, now read, if it is one of `tokens`, else ""."""
        token = self.tokens[self.at] if self.tokens[self.at] in tokens else ""
        self.at += token != ""
        return token

    def items(self, *closing: str) -> tuple[Group, str]:
        """A list and the token that closes it. In `p=5,q=2; p=7,q=2` semicolons part tuples."""
        rows, joints = [[self.relation()]], set()
        done = self.done
        while joint := self.accept(*SEPARATORS):
            while more := self.accept("and", "or", "&", "if", r"\\"):  # `1, 2, and 3`, or `x, & if x > 0, \\`
                joint = more
            joints.add(joint)
            if joint == ";":
                rows.append([])
            rows[-1].append(self.relation())
            done &= self.done
        if not (close := self.accept(*closing)):
            raise ValueError(f"{self.tokens[self.at]} where one of {closing} is needed")
        values = rows[0]
        if len(rows) > 1:
            values = [row[0] if len(row) == 1 else Group("()", tuple(row)) for row in rows]
        # What stands alone in brackets, as in (1+2)x, is judged with what is around it.
        if len(values) > 1 or close in ("END", r"\}", r"\end") or kind_of(values[0])[0]:
            self.finished &= done
        return Group("and" if joints == {"and"} else ",", tuple(values)), close

    def relation(self) -> Any:
        """An expression, or several with signs such as `=` or `<` between them."""
        sides, ops, done = [], [""], []
        while ops[-1] or not sides:
            start, merged = self.at, self.merged
            sides.append(self.name() or self.expression(OVER))
            done.append(is_worked_out(sides[-1], self.tokens[start : self.at]) and self.merged == merged)
            ops.append(self.accept(*RELATIONS))
        value, self.done = relate(ops[1:-1], sides, done) if len(sides) > 1 else (sides[0], done[0])
        return value

    def name(self) -> Any:
        """What is left of a relation sign if it names something, as one symbol: f(x) is no product there."""
        end, depth = self.at, 0
        while (token := self.tokens[end]) != "END" and (depth or token not in NAME_ENDS):
            depth += (token in ALL_OPENING) - (token in ALL_CLOSING)
            end += 1
        name = re.sub(r"^frac\{(\w+)\}\{(\w+)\}$", r"\1/\2", "".join(self.tokens[self.at : end]))
        names = QUANTITY if token == "=" else NAME
        if token not in RELATIONS or name.startswith(r"\begin") or not re.fullmatch(names, name):
            return None
        self.at = end
        return sp.Symbol(name)

    def expression(self, floor: int) -> Any:
        """Operators that bind at least as tightly as `floor`, and what they join."""
        if sign := self.accept("-", "+", r"\pm", r"\mp"):
            value = self.operate(sign, None, self.expression(max(floor, PRODUCT)))
        else:
            value = self.atom()
        while PRECEDENCE.get(op := self.next_operator(), 0) >= floor:
            self.at += op != ""
            if op == "!":
                value = sp.factorial(bounded(value, MAX_FACTORIAL_BITS))
            elif op == "%":
                if self.accept("%"):
                    raise ValueError("a percentage of a percentage")
                value = bounded(value) / self.percent
            else:
                right_floor = POWER if op == "^" else PRECEDENCE[op] + 1  # 2^3^2 is 2^(3^2), 7-3-2 (7-3)-2
                self.depth += op == "^"
                value = self.operate(op, value, self.expression(right_floor))
                self.depth -= op == "^"
        return value

    def next_operator(self) -> str:
        """The next token, or "" before a factor; `4 2` is no product, nor is 1e1000."""
        last, token = self.tokens[self.at - 1], self.tokens[self.at]
        closes = token in NO_VALUE or (token == "|" and self.in_bars)
        figures = token[0] in FIGURES and (last[0] in FIGURES or last in ("e", "E"))
        return token if closes or figures else ""

    def operate(self, op: str, a: Any, b: Any) -> Any:
        """a op b; `op` is a sign if a is None."""
        if op in (r"\pm", r"\mp"):
            op = "+" if (next(self.signs) > 0) == (op == r"\pm") else "-"
        if op in SET_OPERATIONS or (op == "-" and isinstance(a, Group | sp.Set)):
            a, b = as_set(a), as_set(b)
            if isinstance(a, sp.Union) and len(a.args) > MAX_UNION:
                raise ValueError("too many intervals")
            self.merged += op == r"\cap" or (op != r"\cup" and isinstance(a, sp.FiniteSet))
            return SET_OPERATIONS.get(op, operator.sub)(a, b)
        if a is None and op == "+":
            return b
        if a is None:
            return -b if b == sp.oo else -bounded(b)
        if op == "^" and str(b) in ("T", "t", r"\top", r"\intercal") and kind_of(a)[0]:
            return a.T if isinstance(a, sp.MatrixBase) else a  # a tuple is a row or a column
        if op == r"\choose":
            return choose(a, b)
        a, b = bounded(a), bounded(b, MAX_EXPONENT_BITS if op == "^" else MAX_BITS)
        if op == "^" and b.is_number:  # a^b has about size(a) * b bits
            limit = MAX_ROOT_BITS if b.is_Rational and not b.is_Integer else MAX_BITS
            if max(size(a), 1) * abs(b.evalf(5)) > limit:
                raise ValueError("power too large")
        if op == "^" and isinstance(a, sp.MatrixBase):
            if not b.is_Integer or (a.free_symbols and abs(b) > MAX_MATRIX_POWER):
                raise ValueError("power of a matrix")
        value = bounded(ARITHMETIC[op](a, b))
        if op in ("+", "-") and not value.is_Rational and not isinstance(value, sp.MatrixBase):
            joined, *terms = (len(sp.Add.make_args(part)) for part in (value, a, b))
            self.merged += joined < sum(terms)
        return value

    def atom(self) -> Any:
        """A number, name, function with its argument, or something in brackets."""
        token, self.at, self.depth = self.tokens[self.at], self.at + 1, self.depth + 1
        if token in NO_VALUE or self.depth > MAX_DEPTH:
            raise ValueError(f"no value starts with {token}, or it is nested too deeply")
        if token[0] in FIGURES:
            digits, _, base = token.partition("_")
            base = BASES.get(base, base)
            value = sp.Rational(Fraction(digits)) if base in ("", "10") else sp.Symbol(f"{digits}_{base}")
        elif token in FUNCTIONS:
            value = self.function(token)
        elif token == "frac":
            value = self.operate("/", self.atom(), self.atom())
        elif token == "binom":
            value = choose(self.atom(), self.atom())
        elif token == "sqrt":
            index = self.bracketed("[") if self.accept("[") else sp.Integer(2)
            base, odd = self.atom(), bounded(index).is_odd
            sign = -1 if odd and isinstance(base, sp.Expr) and base.is_negative else 1  # \sqrt[3]{-8} is -2
            value = sign * self.operate("^", sign * base, 1 / index)
        elif token == r"\det":
            value = self.atom().det()
        elif token in CLOSING:
            value = self.bracketed(token)
        else:
            value = CONSTANTS[token] if token in CONSTANTS else sp.Symbol(token)
        self.depth -= 1
        return value

    def function(self, name: str) -> Any:
        """What follows a function's name: \\log_2 8, \\sin^2 x, \\tan^{-1} x, \\cos 2x, \\max(2, 5)."""
        base = self.atom() if self.accept("_") else sp.E
        exponent = self.expression(POWER) if self.accept("^") else sp.Integer(1)
        if exponent == -1 and f"a{name}" in FUNCTIONS:
            name, exponent = f"a{name}", sp.Integer(1)
        if self.tokens[self.at] in ("(", "{"):
            argument = self.atom()
        else:
            argument = self.expression(POWER)
            while not self.next_operator() and self.tokens[self.at] not in FUNCTIONS:  # \sin 2 x \cos y
                argument = self.operate("*", argument, self.expression(POWER))
        arguments = argument.items if isinstance(argument, Group) else (argument,)
        if name in ("exp", "sinh", "cosh"):
            self.operate("^", sp.E, arguments[0])  # is not too large
        value = FUNCTIONS[name](*(bounded(argument) for argument in arguments))
        return self.operate("^", value / sp.log(base), exponent)

    def bracketed(self, opening: str) -> Any:
        """What follows an opening bracket, up to the one that closes it."""
        bar = self.at + (3 if self.tokens[self.at + 1] == r"\in" else 1)
        if opening == r"\{" and self.tokens[bar] == "|":  # {x | x > 0}, {x \in R | x > 0}
            self.at = bar + 1
            return as_set(Group("and", self.items(r"\}")[0].items))
        if close := self.accept(*CLOSING[opening]):
            return Group(opening + close, ())
        outer, self.in_bars, start = self.in_bars, opening == "|", self.at
        group, close = self.items(*CLOSING[opening])
        self.in_bars, items = outer, group.items
        if opening == "|" and isinstance(items[0], sp.MatrixBase):
            return items[0].det()
        if opening in BARS:
            return BARS[opening](bounded(items[0]))
        if opening == r"\begin":
            rows = 1 + self.tokens[start : self.at].count(r"\\")
            width = len(items) // rows
            if any(kind_of(item)[0] for item in items):  # equations in `cases`, or values and when they hold
                pairs = [Group("()", items[i : i + width]) for i in range(0, len(items), width)]
                return group if 1 in (rows, width) else Group(",", tuple(pairs))
            if len(items) > MAX_CELLS and any(item.free_symbols for item in items):
                raise ValueError("matrix too large")
            return sp.ImmutableMatrix(rows, width, items)
        if len(items) == 1 and opening + close in ("()", "[]", "{}"):
            return items[0]
        return Group(r"\{\}" if opening == "{" else opening + close, items)


def choose(above: Any, below: Any) -> Any:
    return sp.binomial(bounded(above, MAX_FACTORIAL_BITS), bounded(below, MAX_FACTORIAL_BITS))


def is_worked_out(value: Any, tokens: list[str]) -> bool:
    """Whether a side of a relation is no number to be worked out: a sum, product, power, or sin(pi/4)."""
    if not isinstance(value, sp.Expr) or not value.is_number or len(tokens) == 1:
        return True
    if value.has(sp.I):  # a+bi and i(2-i) are values, i^3, (1+i)^2 and (1+i)(2-i) are questions
        complex_sums = sum(part.has(sp.I) for part in value.atoms(sp.Add))
        power = ("i", "^") in pairwise(tokens) or any(p.base.has(sp.I) for p in value.atoms(sp.Pow))
        if power or complex_sums > 1:
            return False
    if not value.is_Rational:  # roots are values, functions only if they are still there
        return value.has(sp.Function) or FUNCTIONS.keys().isdisjoint(tokens)
    return bool(WORKED_OUT.fullmatch(" ".join(token for token in tokens if token not in ("{", "}"))))


def size(value: Any) -> int:
    """Bits of the largest integer in `value`."""
    return max((max(abs(n.p), n.q).bit_length() for n in value.atoms(sp.Rational)), default=0)


def bounded(value: Any, bits: int = MAX_BITS) -> Any:
    """`value`, if it is a finite number or expression of bounded size. Infinity only stands alone."""
    if not isinstance(value, sp.Expr) or value.has(sp.oo, -sp.oo, sp.zoo, sp.nan) or size(value) > bits:
        raise ValueError(f"{value} where a number is needed, up to {bits} bits")
    return value


def relate(ops: list[str], sides: list[Any], done: list[bool]) -> tuple[Any, bool]:
    """(the value of `sides` with `ops` between them, whether it is finished); done: the same of each side."""
    tuples = ops == [r"\in"] or (is_name(sides[0]) and re.match(r"\(.*,", str(sides[0])))
    if tuples and isinstance(sides[1], sp.Expr) and sides[1].is_number:
        raise ValueError("a number where a set or a tuple is needed")  # x \in 5, (x,y) = 5
    ops = ["="] if ops == [r"\in"] else ops
    if set(ops) <= {">", ">="}:  # C > B > A is A < B < C
        ops, sides = [op.translate(MIRRORED) for op in reversed(ops)], sides[::-1]
    if not set(ops) <= {"=", "~"}:
        return Group(" ".join(ops), tuple(sides)), is_solved(sides, done, ordered=True)
    numbers = not any(kind_of(side)[0] or side.free_symbols for side in sides)
    if numbers:  # 2 + 2 = 4, or 2/3 ~ 0.67
        for op, side in zip(ops, sides[1:], strict=True):
            if not same_expressions(sides[0], side, APPROXIMATE if op == "~" else EXACT):
                raise ValueError("the sides differ")
    # A chain, also of what is no number: (x+1)(x-1) = x^2-1.
    if numbers or not any(map(is_name, sides)) and all(equal(sides[0], side) for side in sides[1:]):
        best = next((i for i, op in enumerate(["=", *ops]) if op == "=" and done[i]), 0)
        return sides[best], done[best]
    if is_name(sides[0]) and all(equal(sides[1], side) for side in sides[2:]):  # x = 1/2 = 0.5
        best = next((i for i in range(1, len(sides)) if done[i]), 1)
        sides, done = [sides[0], sides[best]], [True, done[best]]
    if is_name(sides[-1]) and not is_name(sides[0]):  # 5 = x
        sides, done = sides[::-1], done[::-1]
    if len(sides) > 2 and all(map(is_name, sides)):  # x = y = z
        sides = sorted(sides, key=str)
    return Group("=" * (len(sides) - 1), tuple(sides)), is_solved(sides, done)


def equal(a: Any, b: Any) -> bool:
    return same(a, b, ROUNDED) or same(b, a, ROUNDED)  # one of them may be worked out


def is_solved(sides: list[Any], done: list[bool], ordered: bool = False) -> bool:
    """Whether these are a name and numbers that are worked out, or are about more than one unknown.

    ordered: of an inequality; graders label -x > -1 as solved.
    """
    symbols = set().union(*(getattr(side, "free_symbols", ()) for side in sides))
    alone = [is_name(side) or (ordered and isinstance(side, sp.Expr) and is_name(-side)) for side in sides]
    unknown = [bool(getattr(side, "free_symbols", ())) for side in sides]
    if len(symbols) == 1 and alone != unknown:
        return False
    return all(done) or not any(alone)


# ---- Comparison of values ----


def is_name(value: Any) -> bool:
    return isinstance(value, sp.Symbol)


def kind_of(value: Any) -> tuple[str, tuple[Any, ...]]:
    """(kind, parts) of a group, set, or matrix (a vector is a tuple); ("", ()) of a number or expression."""
    if isinstance(value, Group):
        return value.kind, value.items
    if isinstance(value, sp.MatrixBase):
        return "()" if 1 in value.shape else f"matrix {value.shape}", tuple(value)
    if isinstance(value, sp.Interval):
        return "[("[bool(value.left_open)] + "])"[bool(value.right_open)], (value.start, value.end)
    if isinstance(value, sp.Set):
        return type(value).__name__, value.args
    return "", ()


def same(a: Any, b: Any, tolerance: Any = EXACT) -> bool:
    """Whether `a`, of an answer, means the same as `b`, of the reference; see TOLERANCE."""
    if a == b:
        return True
    (kind_a, parts_a), (kind_b, parts_b) = kind_of(a), kind_of(b)
    if not kind_a and not kind_b:
        return same_expressions(a, b, tolerance) and not is_hidden_number(a, b)
    names_a, names_b = named(a), named(b)
    if names_a or names_b:
        return same_named(a, b, names_a, names_b, tolerance)
    if kind_a == kind_b == "=":
        return same_equations(parts_a, parts_b, tolerance)
    if kind_a == "=" and is_name(parts_a[0]):  # k = 3 is 3
        return same(parts_a[1], b, tolerance)
    if kind_b == "=" and is_name(parts_b[0]):
        return same(a, parts_b[1], tolerance)
    if not kind_b and kind_a in (r"\{\}", "FiniteSet") and len(parts_a) == 1:  # {5} is 5
        return same(parts_a[0], b, tolerance)
    if not kind_a and kind_b in (r"\{\}", "FiniteSet") and len(parts_b) == 1:
        return same(a, parts_b[0], tolerance)
    kinds = {kind_a, kind_b}
    if len(parts_a) == len(parts_b):
        # (1, 2) is not [1, 2], as a pair in brackets may be an interval.
        no_interval = "," in kinds or len(parts_a) > 2 or any(isinstance(v, sp.MatrixBase) for v in (a, b))
        if kinds <= UNORDERED:
            if same_in_any_order(parts_a, parts_b, tolerance):
                return True
        elif len(kinds) == 1 or (kinds <= {"()", "[]", ","} and no_interval):
            if all(same(x, y, tolerance) for x, y in zip(parts_a, parts_b, strict=True)):
                return True
    a, b = as_set(a), as_set(b)
    if a is None or b is None or a == b:
        return a is not None and a == b
    return {kind_of(a)[0], kind_of(b)[0]} != kinds and same(a, b, tolerance)  # if these are new to compare


def same_in_any_order(xs: Any, ys: Any, tolerance: Any, same: Any = same) -> bool:
    left = list(ys)
    for x in xs:
        index = next((i for i, y in enumerate(left) if same(x, y, tolerance)), None)
        if index is None:
            return False
        del left[index]
    return not left


def is_hidden_number(a: Any, b: Any) -> bool:
    """Whether `b` is a fraction or decimal, and `a` another way to say exactly that: \\log_4 8, or 3+x-x."""
    if not b.is_Rational or a.is_Rational:
        return False
    return bool(a.free_symbols) or bool(abs((a - b).evalf(5)) < 1e-25)


# ---- Values with names ----


def named(value: Any) -> list[dict[str, Any]]:
    """`u=4,v=9`, `(u,v)=(4,9)`, `u=v=4` as a dict, or several for `u=4,v=9;u=5,v=8`; [] without two names."""
    kind, parts = kind_of(value)
    solutions: list[dict[str, Any]] = [{}]
    for part in parts if kind in (",", "and", "()", "[]", r"\{\}") else (value,):
        pairs = name_and_value(part)
        if not pairs:
            return []
        for name, item in pairs:
            if name in solutions[-1]:
                solutions.append({})
            solutions[-1][name] = item
    return solutions if len(solutions[0]) > 1 else []


def name_and_value(value: Any) -> list[tuple[str, Any]]:
    """[(name, value)] of `u=4`, `u>4`, each of `u=v=4` and of `(u,v)=(4,9)`; [] of anything else."""
    kind, sides = kind_of(value)
    if kind and kind[0] in "<>!" and any(is_name(side) for side in sides):
        symbols = set().union(*(side.free_symbols for side in sides))
        return [(str(*symbols), as_set(value))] if len(symbols) == 1 else []
    if set(kind) != {"="} or not all(is_name(side) for side in sides[:-1]):
        return []
    pairs = []
    for side in sides[:-1]:
        names = re.findall(LABEL, str(side)) if str(side)[0] == "(" else [MARKS.sub("", str(side))]
        values = kind_of(sides[-1])[1] if len(names) > 1 else sides[-1:]
        if len(names) != len(values):
            return []
        pairs += zip(names, values, strict=True)
    return pairs


def same_named(a: Any, b: Any, names_a: list[dict], names_b: list[dict], tolerance: Any) -> bool:
    """Names tell which value is which; an answer without names gives the values in the reference's order."""
    if names_a and names_b:
        return same_in_any_order(names_a, names_b, tolerance, same_solution)
    chain = "==" in kind_of(a)[0] + kind_of(b)[0]
    a, b = (without_names(names_a, ","), b) if names_a else (a, without_names(names_b, "()"))
    (kind_a, parts_a), (kind_b, parts_b) = kind_of(a), kind_of(b)
    if not kind_a or not kind_b:  # x = y = z = 5 is 5
        return chain and all(same(x, y, tolerance) for x in parts_a or (a,) for y in parts_b or (b,))
    return same(Group(kind_b, parts_a) if names_b and kind_a in UNORDERED else a, b, tolerance)


def without_names(solutions: list[dict[str, Any]], kind: str) -> Group:
    """The values alone, in brackets of that kind; those of several solutions are a list of tuples."""
    rows = [Group("()", tuple(row.values())) for row in solutions]
    return Group(",", tuple(rows)) if len(rows) > 1 else Group(kind, rows[0].items)


def same_solution(xs: dict[str, Any], ys: dict[str, Any], tolerance: Any) -> bool:
    """Two sets of named values; names that only one of them has are taken in the order they are written."""

    def equations(row: dict[str, Any], names: set[str]) -> list[Group]:
        return [Group("=", (sp.Symbol(name), value)) for name, value in row.items() if name in names]

    if len(xs) != len(ys):
        return False
    both = xs.keys() & ys.keys()
    pairs = [(xs[name], ys[name]) for name in both]
    pairs += zip(equations(xs, xs.keys() - both), equations(ys, ys.keys() - both), strict=True)
    return all(same(x, y, tolerance) for x, y in pairs)


def same_equations(xs: tuple[Any, ...], ys: tuple[Any, ...], tolerance: Any) -> bool:
    if is_name(xs[0]) and is_name(ys[0]):
        alike = xs[0] == ys[0] or not UNLIKE.fullmatch(f"{xs[0]} {ys[0]}")
        return alike and same(xs[1], ys[1], tolerance)
    # a = 0 and b = 0 are the same equation if a is a multiple of b.
    a, b = xs[0] - xs[1], ys[0] - ys[1]
    at_a, at_b = (numeric(value, a.free_symbols | b.free_symbols, 0)[0] for value in (a, b))
    return bool(at_a and at_b) and same_expressions(a, b * (at_a / at_b), tolerance)


def as_set(value: Any) -> Any:
    """The set of real numbers that `value` means, None where it means none."""
    kind, parts = kind_of(value)
    if not kind or isinstance(value, sp.Set):
        return value if kind else None
    if kind in (",", "and"):
        sets = [as_set(part) for part in parts]
        bare = [not isinstance(part, sp.Set) and kind_of(part)[0][:1] not in (*"<>!=",) for part in parts]
        if None in sets or all(bare) or all(isinstance(found, sp.FiniteSet) for found in sets):
            return None
        found = (sp.Intersection if kind == "and" else sp.Union)(*sets)
        return sp.Intersection(*sets) if found == sp.Reals else found  # `x > 0, x != 2` leaves something out
    if kind[0] in "<>!":
        return solutions(kind.split(), parts)
    if kind == "=" and is_name(parts[0]):
        kind, parts = r"\{\}", parts[1:]
        if kind_of(parts[0])[0]:  # x \in [0, 1]
            return as_set(parts[0])
    if not all(isinstance(part, sp.Expr) and part.is_number and part.is_extended_real for part in parts):
        return None
    if kind in ("()", "(]", "[)", "[]") and len(parts) == 2 and (parts[1] - parts[0]).is_extended_positive:
        return sp.Interval(*parts, left_open=kind[0] == "(", right_open=kind[1] == ")")
    return sp.FiniteSet(*parts) if kind == r"\{\}" else None


def solutions(ops: list[str], sides: tuple[Any, ...]) -> Any:
    """The real numbers that keep 0 < x <= 1, None if it isn't about one unknown."""
    symbols = set().union(*(side.free_symbols for side in sides))
    if len(symbols) != 1:
        return None
    x, found = symbols.pop(), sp.Reals
    for op, left, right in zip(ops, sides, sides[1:], strict=False):
        if right == x and left.is_number:
            op, left, right = op.translate(MIRRORED), right, left
        if left == x and right.is_extended_real:  # sympy needs long for its own way
            found &= SOLVED[op](right)
        else:
            real = sp.Symbol("x", real=True)
            found &= ORDER[op](left.subs(x, real), right.subs(x, real)).as_set()
    return found


def magnitude(number: Any) -> Any:
    return sum(abs(part) for part in number.as_real_imag())  # sympy's own takes milliseconds


def is_smooth(value: Any) -> bool:
    return not value.has(*PIECEWISE) and all(power.exp.is_Integer for power in value.atoms(sp.Pow))


def numeric(value: Any, symbols: set[Any], index: int) -> tuple[Any, bool]:
    """(`value` at a point that is always the same, whether no root or logarithm in it is of less than 0)."""
    random, (low, high, parts, signs) = Random(index), SAMPLES[index]
    point = {
        symbol: sp.Rational(random.randint(low, high), parts) * random.choice(signs)
        for symbol in sorted(symbols, key=str)
    }
    found = value.evalf(PRECISION, subs=point)
    if not found.is_number or not found.is_finite:
        return None, False
    return found, not symbols or all(is_real_at(part, point) for part in value.atoms(sp.Pow, sp.log))


def is_real_at(part: Any, point: dict[Any, Any]) -> bool:
    """Whether a power or logarithm is real at a point."""
    base, exponent = part.args if isinstance(part, sp.Pow) else (part.args[0], sp.Rational(1, 2))
    if exponent.is_Integer or base.is_positive:
        return True
    return bool(exponent.subs(point).is_integer or base.evalf(15, subs=point).is_positive)


def same_expressions(a: Any, b: Any, tolerance: Any) -> bool:
    """Equal wherever both are real at sample points, or, if they rarely are, wherever they are defined."""
    if a.is_Rational and b.is_Rational and tolerance < APPROXIMATE:
        if tolerance == EXACT or a.is_Integer or b.is_Integer:  # integers are never rounded
            return a == b
        return bool(abs(a - b) <= tolerance * max(abs(a), abs(b)))
    apart = a - b
    if tolerance == EXACT and apart.is_Rational and apart != 0:  # 3^{200}\pi+1 and 3^{200}\pi seem equal
        return False
    symbols, agreed, real_points = a.free_symbols | b.free_symbols, [], 0
    smooth = is_smooth(a) and is_smooth(b)
    for index in range(len(SAMPLES) if symbols else 1):
        (x, x_real), (y, y_real) = numeric(a, symbols, index), numeric(b, symbols, index)
        if x is None or y is None:
            continue
        # sympy's own mark of a zero that it could not tell from one.
        unsure = any(getattr(part, "_prec", 0) == 1 for value in (x, y) for part in value.as_real_imag())
        limit = max(tolerance * max(magnitude(x), magnitude(y)), NOISE if unsure else 0)
        close = bool(magnitude(x - y) <= limit)
        if x.is_real and y.is_real and x_real and y_real:
            if not close:
                return False
            real_points += 1
        if index < SMOOTH_SAMPLES:
            agreed.append(close)
        if real_points == SMOOTH_SAMPLES and smooth:
            break
    return real_points > 1 or (bool(agreed) and all(agreed))
