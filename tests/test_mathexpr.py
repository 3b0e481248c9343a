import pytest
import sympy as sp

from mathexpr import APPROXIMATE, EXACT, MAX_BITS, TOLERANCE, Group, parse, same, tokenize

x, y = sp.symbols("x y")


@pytest.mark.parametrize(
    "text, expected",
    [
        (r"2x\le\text{ten}", ["2", "x", "<=", "ten"]),
        (r"x_{\text{max}}'+f(0)", ["x_max'", "+", "f(0)"]),
        (r"\mathbb{R}", [r"\mathbbR"]),
        ("abc", ["a", "b", "c"]),
        ("even", ["even"]),
        (r"\log_2 8", ["log", "_", "2", "8"]),
        (r"\cos x", ["cos", "x"]),
        ("52_8", ["52_8"]),
        ("1.5e-3", ["1.5e-3"]),
        (r"\text{1, 2}", ["1", ",", "2"]),
        (r"\begin{array}{c|c}1&2\end{array}", [r"\begin", "1", "&", "2", r"\end"]),
    ],
)
def test_tokenize(text, expected):
    assert tokenize(text) == [*expected, "END"]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("2+3*4", 14),
        ("7-3-2", 2),
        ("8/4/2", 1),
        ("-2^2", -4),
        ("2^3^2", 512),
        ("2^-1", sp.Rational(1, 2)),
        ("2^3!", 64),
        ("2^{10}", 1024),
        ("6/2(1+2)", 9),
        (r"\frac{1}{2}x", x / 2),
        (r"\sqrt[3]{8}", 2),
        (r"\sin2x", sp.sin(2 * x)),
        (r"\sin x\cos y", sp.sin(x) * sp.cos(y)),
        (r"\sin^2x", sp.sin(x) ** 2),
        (r"\sin^{-1}x", sp.asin(x)),
        (r"\log_2 8", sp.log(8) / sp.log(2)),
        (r"|x|-|y|", sp.Abs(x) - sp.Abs(y)),
        (r"\lfloor7/2\rfloor", 3),
        (r"17\mod5", 2),
        ("0.1", sp.Rational(1, 10)),
        ("-\\infty", -sp.oo),
        ("[1,2)", Group("[)", (1, 2))),
        (r"\{1,2\}", Group(r"\{\}", (1, 2))),
        (r"1\pm2", Group(",", (3, -1))),
        (r"1\pm2\mp3", Group(",", (0, 2))),
        (r"\{1\pm2,5\}", Group(r"\{\}", (3, 5, -1))),
        (r"\{\}", Group(r"\{\}", ())),
        ("1,2;3", Group(",", (Group("()", (1, 2)), 3))),
        ("x=1/2=0.5", Group("=", (x, sp.Rational(1, 2)))),
        ("5=x", Group("=", (x, 5))),
        (r"x\in[0,1]", Group("[]", (0, 1))),
        ("0<x<=1", Group("< <=", (0, x, 1))),
        (r"(0,2)\cup(1,3)", sp.Interval.open(0, 3)),
        (r"[0,3]-\{1\}", sp.Interval(0, 3) - sp.FiniteSet(1)),
        (r"\{x|x>0\}", sp.Interval.open(0, sp.oo)),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", sp.ImmutableMatrix([[1, 2], [3, 4]])),
        (r"\begin{pmatrix}3\\4\end{pmatrix}-\begin{pmatrix}1\\1\end{pmatrix}", sp.ImmutableMatrix([2, 3])),
    ],
)
def test_parse(text, expected):
    assert parse(text) == expected


def test_percent():
    assert parse("28%") == 28
    assert parse("28%", percent=100) == sp.Rational(7, 25)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "4 2",
        "2+",
        "(1,2",
        "1)",
        "1/0",
        r"\infty+1",
        "2=3",
        "x#y",
        "9" * 401,
        "1e1000",
        "+".join("1" * 400),  # more than MAX_TOKENS
        "{" * 41 + "1" + "}" * 41,  # deeper than MAX_DEPTH
        f"2^{{{MAX_BITS + 1}}}",
        "2^{-99999}",
        "x^{10^{99}}",
        r"\sqrt{2^{4001}}",
        "4096!",
        r"\binom{5000}{3}",
        "(9^{9999})(9^{9999})",
    ],
)
def test_what_cannot_be_read_or_is_too_large_raises(text):
    with pytest.raises((ValueError, TypeError)):
        parse(text)


def test_bounds_are_not_too_tight():
    assert parse("9" * 400) == 10**400 - 1
    assert parse("2^{24999}") == 2**24999
    assert parse("20!") == 2432902008176640000
    assert parse("{" * 39 + "1" + "}" * 39) == 1


@pytest.mark.parametrize(
    "a, b, tolerance, expected",
    [
        ("1/3", "0.333333", TOLERANCE[1], True),  # 1e-6 away
        ("1/3", "0.33333", TOLERANCE[1], False),  # 1e-5 away
        ("1/3", "0.333333", EXACT, False),
        ("0.333333", "0.3333333", TOLERANCE[2], False),  # two decimals are not roundings of each other
        ("3", "3.000001", TOLERANCE[1], False),  # an integer is never rounded
        ("3", "2.99", APPROXIMATE, True),
        (r"\sqrt2", "1.414214", TOLERANCE[1], True),  # 3e-7 away
        (r"\sqrt2", "1.41421", TOLERANCE[1], False),  # 3e-6 away
        (r"\sqrt2\sqrt3", r"\sqrt6", EXACT, True),
        (r"\sqrt{x^2}", "x", EXACT, True),
        (r"\ln(-x)-\ln(x)", r"i\pi", EXACT, True),  # never real
        ("x^2", "x", EXACT, False),
        ("1,2", "2,1", EXACT, True),
        ("1,1,2", "1,2,2", EXACT, False),
        ("(1,2)", "(2,1)", EXACT, False),
        ("(1,2)", "[1,2]", EXACT, False),
        ("(1,2,3)", "[1,2,3]", EXACT, True),
        ("k=3", "3", EXACT, True),
        ("y=2x", "f(x)=2x", EXACT, True),
        ("x=1", "y=1", EXACT, False),
        ("2x+2y=4", "x+y=2", EXACT, True),
        ("2x+2y=4", "x+y=3", EXACT, False),
        ("x<1", r"(-\infty,1)", EXACT, True),
        ("x<=1", r"(-\infty,1)", EXACT, False),
        (r"\{\}", r"\emptyset", EXACT, True),
    ],
)
def test_same(a, b, tolerance, expected):
    assert same(parse(a), parse(b), tolerance) is expected
    assert same(parse(b), parse(a), tolerance) is expected
