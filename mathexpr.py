"""The text of a mathematical answer -> sympy objects, and whether two of them mean the same.

    tokenize -> Parser, by precedence climbing -> value;  same(value, other, tolerance)

A value is a sympy expression, set or matrix, or a `Group` of values: a list, a tuple, a relation. verify.py
sends texts it has normalized, and imports this file on first use, as sympy takes half a second to import.

The text was written by a model that is rewarded for getting past this file, so no string ever reaches a
parser of sympy's, which would run code in it: tokens become numbers, symbols and what the tables below name.
Bounds are checked before any arithmetic; what is slow all the same, `verify.VerifierPool` kills. What cannot
be read or is too large raises an exception, of whatever type, and is not the right answer.
"""

import operator
import re
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from typing import Any

import sympy as sp

MAX_TOKENS, MAX_DEPTH = 600, 40  # of a text; depth counts brackets and arguments
MAX_BITS = 50_000  # of an integer
MAX_ROOT_BITS = 2_000  # of an integer under a root: sympy looks for its factors
MAX_EXPONENT_BITS = 40  # of an integer in an exponent
MAX_FACTORIAL_BITS = 12  # of n in n! and in binomials: 4095! has 43,000 bits

# How far apart two equal values may be, relative to the larger one.
EXACT = sp.Rational(1, 10**15)  # for evaluation to 30 digits; two rational numbers have to be equal
ROUNDED = sp.Rational(2, 10**6)  # where one is a decimal, which may round the other: 0.333333 for 1/3
TOLERANCE = (EXACT, ROUNDED, sp.Rational(1, 10**9))  # by how many of the two are decimals
APPROXIMATE = sp.Rational(1, 100)  # of the two sides of `\approx`


# ---- Tables: what a token means ----

SPELLINGS = r"""* \times \cdot \ast; / \div :; ^ **; ~ \approx; | \mid \vert; \setminus \backslash
; = ==; < \lt; > \gt; <= \le \leq \leqslant; >= \ge \geq \geqslant; != \ne \neq; mod \bmod \mod; \cup \cupdot
; and \land; or \or; \infty infinity; \pi pi; \emptyset \varnothing; frac \frac; sqrt \sqrt; binom \binom
; log ln \ln; asin arcsin \arcsin; acos arccos \arccos; atan arctan \arctan; Max max \max; Min min \min"""
CANONICAL = {spelling: group.split()[0] for group in SPELLINGS.split(";") for spelling in group.split()}

FUNCTION_NAMES = "sin cos tan cot sec csc sinh cosh tanh exp log asin acos atan acot Max Min gcd lcm"
FUNCTIONS = {name: getattr(sp, name) for name in FUNCTION_NAMES.split()}
CONSTANTS = {"e": sp.E, "E": sp.E, r"\pi": sp.pi, "i": sp.I, "I": sp.I, r"\infty": sp.oo}
CONSTANTS |= {r"\mathbbR": sp.Reals, r"\emptyset": sp.EmptySet}

ARITHMETIC = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
ARITHMETIC |= {"": operator.mul, "^": operator.pow, "mod": operator.mod}  # "" is juxtaposition: 2x, x(x+1)
SET_OPERATIONS = {r"\cup": operator.or_, r"\cap": operator.and_, r"\setminus": operator.sub}

SETS, SUM, PRODUCT, POWER, POSTFIX = range(1, 6)  # how tightly they bind
PRECEDENCE = dict.fromkeys(SET_OPERATIONS, SETS)
PRECEDENCE |= dict.fromkeys(("+", "-", r"\pm", r"\mp"), SUM) | dict.fromkeys(("*", "/", "mod", ""), PRODUCT)
PRECEDENCE |= {"^": POWER, "!": POSTFIX, "%": POSTFIX}

ORDER = {"<": sp.Lt, "<=": sp.Le, ">": sp.Gt, ">=": sp.Ge, "!=": sp.Ne}
RELATIONS = {"=", "~", r"\in", *ORDER}
SEPARATORS = {",", ";", "&", r"\\", "and", "or"}
CLOSING = {"(": [")", "]"], "[": [")", "]"], "{": ["}"], r"\{": [r"\}"], "|": ["|"], r"\begin": [r"\end"]}
CLOSING |= {r"\lfloor": [r"\rfloor"], r"\lceil": [r"\rceil"]}
UNORDERED = {",", "and", r"\{\}", "FiniteSet", "Union"}  # kinds of values with parts in any order
BARS = {"|": sp.Abs, r"\lfloor": sp.floor, r"\lceil": sp.ceiling}
ALL_CLOSING = {closing for choices in CLOSING.values() for closing in choices} - {"|"}  # `|` opens as well
NO_VALUE = {"END", "_", *SEPARATORS, *RELATIONS, *PRECEDENCE, *ALL_CLOSING}  # no value starts with these


# ---- Text to tokens ----

NUMBER = r"(?:[0-9]{1,400}(?:\.[0-9]{1,400})?|\.[0-9]{1,400})(?:[eE][+-]?[0-9]{1,3}(?![0-9A-Za-z.]))?"
SUBSCRIPT = r"_(?:\{(?:[^{}]|\{[^{}]*\})*\}|\\?[A-Za-z]|[0-9]+)"
TOKEN = re.compile(
    rf"""
    (?P<text> \\text\ ?\{{ (?P<words>[^{{}}]*) \}})
    | (?P<edge> \\begin | \\end) \{{[a-z]*\}} (?:\{{[clr|]*\}})?    # \begin{{array}}{{c|c}}
    | \\?log(?![a-z])                                               # not a name with a subscript: \log_2 8
    | (?P<name>
        (?:\\[A-Za-z]+|[A-Za-z]|[0-9]{{1,400}}) (?=[_']) (?:{SUBSCRIPT})? '*    # x_1, f', and 52_8 in base 8
        | [A-Za-z]\([0-9]+\)                                        # f(0) is no product
        | \\(?:hat|bar|vec|d?dot|tilde|overline|mathbb|mathcal)\{{[^{{}}]*\}}
      )
    | {NUMBER}(?![0-9])
    | \\[A-Za-z]+ | \\. | [A-Za-z]+(?![_'])
    | \*\* | <= | >= | != | == | [-+*/^_=<>(){{}}\[\],;:|!%&]
    | (?P<space> \s | \.(?![0-9]))
    | (?P<unknown> .)
    """,
    re.VERBOSE,
)
LABEL = r"(?:\\[A-Za-z]+|[A-Za-z]{4,}|[A-Z]+|[a-z])(?:_[^(),]+)?'*(?:\([A-Za-z0-9,]*\))?"
POINTS = r"(?=.*[A-Z])(?:\\(?:angle|triangle|overline)|frac|[A-Z](?:_\w)?'*|[|/{}])+"
NAME = re.compile(rf"{LABEL}|\({LABEL}(?:,{LABEL})*\)|{POINTS}")  # x, f(x), (p,q), |AB|: goes left of `=`


def tokenize(text: str) -> list[str]:
    """`2x \\le \\text{ten}` -> ["2", "x", "<=", "ten", "END"]"""
    tokens: list[str] = []
    for found in TOKEN.finditer(text):
        token = CANONICAL.get(found[0], found[0])
        if found["unknown"] or len(tokens) > MAX_TOKENS:
            raise ValueError(f"unreadable: {token!r}")
        if found["text"]:
            words = found["words"].strip()
            tokens += [words] if re.fullmatch(r"[A-Za-z][\w ]*", words) else tokenize(words)[:-1]
        elif found["edge"]:
            tokens.append(found["edge"])
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


def parse(text: str, percent: int = 1) -> Any:
    """The value of a normalized text. percent: what a % sign divides by."""
    plus = Parser(text, percent, sign=1).items("END")[0]
    if r"\pm" in text:
        minus = Parser(text, percent, sign=-1).items("END")[0]
        if len(plus.items) == 1 and kind_of(plus.items[0])[0] == r"\{\}":
            plus, minus = plus.items[0], minus.items[0]  # {1 \pm 2, 3} is one set of three
        plus = Group(plus.kind, tuple(dict.fromkeys(plus.items + minus.items)))
    return plus.items[0] if len(plus.items) == 1 else plus


class Parser:
    """Reads a text once, with `\\pm` as `sign`. Every method reads tokens from `self.at` on."""

    def __init__(self, text: str, percent: int, sign: int):
        self.tokens, self.percent, self.sign = tokenize(text), percent, sign
        self.at = self.depth = 0
        self.in_bars = False  # whether a `|` closes the innermost bracket

    def accept(self, *tokens: str) -> str:
        """The next token, now read, if it is one of `tokens`, else ""."""
        token = self.tokens[self.at] if self.tokens[self.at] in tokens else ""
        self.at += token != ""
        return token

    def items(self, *closing: str) -> tuple[Group, str]:
        """A list and the token that closes it. In `p=5,q=2; p=7,q=2` semicolons part tuples."""
        rows, joints = [[self.relation()]], set()
        while joint := self.accept(*SEPARATORS):
            joints.add(self.accept("and", "or") or joint)  # `1, 2, and 3`
            if joint == ";":
                rows.append([])
            rows[-1].append(self.relation())
        if not (close := self.accept(*closing)):
            raise ValueError(f"{self.tokens[self.at]} where one of {closing} is needed")
        values = rows[0]
        if len(rows) > 1:
            values = [row[0] if len(row) == 1 else Group("()", tuple(row)) for row in rows]
        return Group("and" if joints == {"and"} else ",", tuple(values)), close

    def relation(self) -> Any:
        """An expression, or several with signs such as `=` or `<` between them."""
        sides, ops = [self.name() or self.expression(SETS)], []
        while op := self.accept(*RELATIONS):
            ops.append(op)
            sides.append(self.name() or self.expression(SETS))
        return relate(ops, sides) if ops else sides[0]

    def name(self) -> Any:
        """What is left of a relation sign if it names something, as one symbol: f(x) is no product there."""
        end = self.at
        while self.tokens[end] != "END" and self.tokens[end] not in RELATIONS:
            end += 1
        name = "".join(self.tokens[self.at : end])
        if self.tokens[end] == "END" or not NAME.fullmatch(name):
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
                value = bounded(value) / self.percent
            else:
                right_floor = POWER if op == "^" else PRECEDENCE[op] + 1  # 2^3^2 is 2^(3^2), 7-3-2 (7-3)-2
                value = self.operate(op, value, self.expression(right_floor))
        return value

    def next_operator(self) -> str:
        """The next token, or "" before a factor: never before a number, so `4 2` is no product."""
        token = self.tokens[self.at]
        closes = token in NO_VALUE or (token == "|" and self.in_bars)
        return token if closes or token[0] in ".0123456789" else ""

    def operate(self, op: str, a: Any, b: Any) -> Any:
        """a op b; `op` is a sign if a is None."""
        if op in (r"\pm", r"\mp"):
            op = "+" if (self.sign > 0) == (op == r"\pm") else "-"
        if op in SET_OPERATIONS or (op == "-" and isinstance(a, Group | sp.Set)):
            return SET_OPERATIONS.get(op, operator.sub)(as_set(a), as_set(b))
        if a is None and op == "+":
            return b
        if a is None:
            return -b if b == sp.oo else -bounded(b)
        a, b = bounded(a), bounded(b, MAX_EXPONENT_BITS if op == "^" else MAX_BITS)
        if op == "^" and b.is_Rational:  # a^(p/q) has at most size(a) * p / q bits
            limit = MAX_BITS if b.is_Integer else MAX_ROOT_BITS
            if size(a) * abs(b.p) > limit * b.q:
                raise ValueError("power too large")
        return bounded(ARITHMETIC[op](a, b))

    def atom(self) -> Any:
        """A number, name, function with its argument, or something in brackets."""
        token, self.at, self.depth = self.tokens[self.at], self.at + 1, self.depth + 1
        if token in NO_VALUE or self.depth > MAX_DEPTH:
            raise ValueError(f"no value starts with {token}, or it is nested too deeply")
        if token[0] in ".0123456789":
            digits, _, base = token.partition("_")
            value = sp.Rational(Fraction(digits)) if base in ("", "10") else sp.Symbol(token)
        elif token in FUNCTIONS:
            value = self.function(token)
        elif token == "frac":
            value = self.operate("/", self.atom(), self.atom())
        elif token == "binom":
            above, below = self.atom(), self.atom()
            value = sp.binomial(bounded(above, MAX_FACTORIAL_BITS), bounded(below, MAX_FACTORIAL_BITS))
        elif token == "sqrt":
            index = self.bracketed("[") if self.accept("[") else sp.Integer(2)
            value = self.operate("^", self.atom(), 1 / bounded(index))
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
        value = FUNCTIONS[name](*(bounded(argument) for argument in arguments))
        return self.operate("^", value / sp.log(base), exponent)

    def bracketed(self, opening: str) -> Any:
        """What follows an opening bracket, up to the one that closes it."""
        if opening == r"\{" and self.tokens[self.at + 1] == "|":  # {x | x > 0}
            self.at += 2
            return as_set(Group("and", self.items(r"\}")[0].items))
        if close := self.accept(*CLOSING[opening]):
            return Group(opening + close, ())
        outer, self.in_bars, start = self.in_bars, opening == "|", self.at
        group, close = self.items(*CLOSING[opening])
        self.in_bars, items = outer, group.items
        if opening in BARS:
            return BARS[opening](bounded(items[0]))
        if opening == r"\begin":
            if any(kind_of(item)[0] for item in items):  # equations in `cases`
                return group
            rows = 1 + self.tokens[start : self.at].count(r"\\")
            return sp.ImmutableMatrix(rows, len(items) // rows, items)
        if len(items) == 1 and opening + close in ("()", "[]", "{}"):
            return items[0]
        return Group(r"\{\}" if opening == "{" else opening + close, items)


def size(value: Any) -> int:
    """Bits of the largest integer in `value`."""
    return max((max(abs(n.p), n.q).bit_length() for n in value.atoms(sp.Rational)), default=0)


def bounded(value: Any, bits: int = MAX_BITS) -> Any:
    """`value`, if it is a finite number or expression of bounded size. Infinity only stands alone."""
    if not isinstance(value, sp.Expr) or value.has(sp.oo, -sp.oo, sp.zoo, sp.nan) or size(value) > bits:
        raise ValueError(f"{value} where a number is needed, up to {bits} bits")
    return value


def relate(ops: list[str], sides: list[Any]) -> Any:
    """The value of `sides` with `ops` between them."""
    if ops == [r"\in"]:
        return sides[1]
    if not set(ops) <= {"=", "~"}:
        return Group(" ".join(ops), tuple(sides))
    if not any(kind_of(side)[0] or side.free_symbols for side in sides):  # 2 + 2 = 4, or 2/3 ~ 0.67
        for op, side in zip(ops, sides[1:], strict=True):
            if not same(sides[0], side, APPROXIMATE if op == "~" else EXACT):
                raise ValueError("the sides differ")
        return sides[0]
    if is_name(sides[0]) and all(same(sides[1], side, ROUNDED) for side in sides[2:]):  # x = 1/2 = 0.5
        sides = sides[:2]
    if is_name(sides[-1]) and not is_name(sides[0]):  # 5 = x
        sides = sides[::-1]
    return Group("=" * (len(sides) - 1), tuple(sides))


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
    """Whether two values mean the same; see TOLERANCE."""
    if a == b:
        return True
    (kind_a, parts_a), (kind_b, parts_b) = kind_of(a), kind_of(b)
    if not kind_a and not kind_b:
        return same_expressions(a, b, tolerance)
    if kind_a == kind_b == "=":
        return same_equations(parts_a, parts_b, tolerance)
    for kind, parts, other in ((kind_a, parts_a, b), (kind_b, parts_b, a)):
        if kind == "=" and is_name(parts[0]):  # k = 3 is 3
            return same(parts[1], other, tolerance)
        if kind in (r"\{\}", "FiniteSet") and len(parts) == 1 and not kind_of(other)[0]:  # {5} is 5
            return same(parts[0], other, tolerance)
    kinds = {kind_a, kind_b}
    if len(parts_a) == len(parts_b):
        # (1, 2) is not [1, 2], as a pair in brackets may be an interval.
        no_interval = "," in kinds or len(parts_a) > 2 or any(isinstance(v, sp.MatrixBase) for v in (a, b))
        if kinds <= UNORDERED:
            if same_in_any_order(parts_a, parts_b, tolerance):
                return True
        elif len(kinds) == 1 or (kinds <= {"()", "[]", ","} and no_interval):
            return all(same(x, y, tolerance) for x, y in zip(parts_a, parts_b, strict=True))
    a, b = as_set(a), as_set(b)
    if a is None or b is None or a == b:
        return a is not None and a == b
    return {kind_of(a)[0], kind_of(b)[0]} != kinds and same(a, b, tolerance)  # if these are new to compare


def same_in_any_order(xs: tuple[Any, ...], ys: tuple[Any, ...], tolerance: Any) -> bool:
    left = list(ys)
    for x in xs:
        index = next((i for i, y in enumerate(left) if same(x, y, tolerance)), None)
        if index is None:
            return False
        del left[index]
    return not left


def same_equations(xs: tuple[Any, ...], ys: tuple[Any, ...], tolerance: Any) -> bool:
    names = {xs[0], ys[0]}
    if all(is_name(name) for name in names):  # y = 2x is f(x) = 2x, but x = 1 is not y = 1
        alike = len(names) == 1 or not {str(name) for name in names} <= {"x", "y", "z"}
        return alike and same(xs[1], ys[1], tolerance)
    # a = 0 and b = 0 are the same equation if a is a multiple of b.
    a, b = xs[0] - xs[1], ys[0] - ys[1]
    at_a, at_b = (numeric(value, a.free_symbols | b.free_symbols, 0) for value in (a, b))
    return bool(at_a and at_b) and same_expressions(a, b * (at_a / at_b), tolerance)


def as_set(value: Any) -> Any:
    """The set of real numbers that `value` means, None where it means none."""
    kind, parts = kind_of(value)
    if not kind or isinstance(value, sp.Set):
        return value if kind else None
    if kind in (",", "and"):
        sets = [as_set(part) for part in parts]
        if None in sets or not any(isinstance(p, sp.Set) or kind_of(p)[0][0] in "<>!" for p in parts):
            return None
        return (sp.Intersection if kind == "and" else sp.Union)(*sets)
    if kind[0] in "<>!":
        return solutions(kind.split(), parts)
    if kind == "=" and is_name(parts[0]):
        kind, parts = r"\{\}", parts[1:]
    if not all(isinstance(part, sp.Expr) and part.is_number and part.is_extended_real for part in parts):
        return None
    if kind in ("()", "(]", "[)", "[]") and len(parts) == 2 and parts[0] < parts[1]:
        return sp.Interval(*parts, left_open=kind[0] == "(", right_open=kind[1] == ")")
    return sp.FiniteSet(*parts) if kind == r"\{\}" else None


def solutions(ops: list[str], sides: tuple[Any, ...]) -> Any:
    """The real numbers that keep 0 < x <= 1, None if it isn't about one unknown."""
    symbols = set().union(*(side.free_symbols for side in sides))
    if len(symbols) != 1:
        return None
    sides = [side.subs(symbols.copy().pop(), sp.Symbol("x", real=True)) for side in sides]
    pairs = zip(ops, sides, sides[1:], strict=False)
    return sp.And(*(ORDER[op](left, right) for op, left, right in pairs)).as_set()


def numeric(value: Any, symbols: set[Any], index: int) -> Any:
    """`value` at a point that is always the same: below 1 for an even index, above 1 for an odd one."""
    random, (low, high) = Random(index), ((300, 999), (1001, 3000))[index % 2]
    point = {symbol: sp.Rational(random.randint(low, high), 1009) for symbol in sorted(symbols, key=str)}
    found = value.evalf(30, subs=point)
    return found if found.is_number and found.is_finite else None


def same_expressions(a: Any, b: Any, tolerance: Any) -> bool:
    """Equal wherever both are real at sample points, or, if they rarely are, wherever they are defined."""
    if a.is_Rational and b.is_Rational and tolerance < APPROXIMATE:
        if tolerance == EXACT or a.is_Integer or b.is_Integer:  # integers are never rounded
            return a == b
        return bool(abs(a - b) <= tolerance * max(abs(a), abs(b)))
    symbols, agreed, real_points = a.free_symbols | b.free_symbols, [], 0
    for index in range(6 if symbols else 1):
        x, y = numeric(a, symbols, index), numeric(b, symbols, index)
        if x is None or y is None:
            continue
        scale = max(abs(x), abs(y)) if x and y else sp.Float("1e-50")  # a zero is rarely exact
        agreed.append(bool(abs(x - y) <= tolerance * scale))
        if x.is_real and y.is_real:
            if not agreed[-1]:
                return False
            real_points += 1
        if real_points == 3:
            break
    return real_points > 1 or (bool(agreed) and all(agreed))
