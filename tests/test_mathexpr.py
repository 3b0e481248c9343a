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
        (r"\frac{v}{L C}=1", ["frac", "{", "v", "}", "{", "L", "C", "}", "=", "1"]),
        (r"x_\alpha+T_\text{max}", [r"x_\alpha", "+", "T_max"]),
        (r"\dot{x}_{0}", [r"\dotx_0"]),
        ("BCA, C A", ["BCA", ",", "CA"]),
        ("2CA", ["2", "C", "A"]),
        (r"\log_2 8", ["log", "_", "2", "8"]),
        (r"\cos x", ["cos", "x"]),
        ("52_8", ["52_8"]),
        ("1.5e-3", ["1.5e-3"]),
        (r"\text{1, 2}", ["1", ",", "2"]),
        (r"\begin{array}{c|c}1&2\end{array}", [r"\begin", "1", "&", "2", r"\end"]),
        (r"\begin{matrix}1\\2\\\end{matrix}", [r"\begin", "1", r"\\", "2", r"\end"]),
        (r"\begin{vmatrix}1\end{vmatrix}", [r"\det", r"\begin", "1", r"\end"]),
        (r"2\text{ to }3", ["2", "/", "3"]),
        (r"\text{ln}x", ["log", "x"]),
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
        ("2^{3}5", 40),
        ("x2", 2 * x),
        ("6/2(1+2)", 9),
        (r"\frac{1}{2}x", x / 2),
        (r"\sqrt[3]{8}", 2),
        (r"\sqrt[3]{-8}", -2),
        (r"\sqrt{-4}", 2 * sp.I),
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
        (r"x\in[0,1]", Group("=", (x, Group("[]", (0, 1))))),
        ("x=a or x=b", Group(",", (Group("=", (x, sp.Symbol("a"))), Group("=", (x, sp.Symbol("b")))))),
        ("{x=3}", Group("=", (x, 3))),
        ("(x+1)(x-1)=x^2-1", (x + 1) * (x - 1)),
        ("x=y=3", Group("==", (x, y, 3))),
        ("y=x=z", Group("==", (x, y, sp.Symbol("z")))),
        ("3+9-4=8", 8),
        ("0<x<=1", Group("< <=", (0, x, 1))),
        ("1>=x>0", Group("< <=", (0, x, 1))),
        ("f(-2)=3", Group("=", (sp.Symbol("f(-2)"), 3))),
        ("(-oo,2)", Group("()", (-sp.oo, 2))),
        (r"(0,2)\cup(1,3)", sp.Interval.open(0, 3)),
        (r"[0,3]-\{1\}", sp.Interval(0, 3) - sp.FiniteSet(1)),
        (r"\{x|x>0\}", sp.Interval.open(0, sp.oo)),
        (r"\{x\in\mathbb{R}|x>0\}", sp.Interval.open(0, sp.oo)),
        (r"x+1\over2", (x + 1) / 2),
        (r"{5\choose2}", 10),
        (r"\lg100", 2),
        (r"6\div2", 3),
        (r"\det\begin{pmatrix}1&2\\3&4\end{pmatrix}", -2),
        (r"|\begin{matrix}1&2\\3&4\end{matrix}|", -2),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}^T", sp.ImmutableMatrix([[1, 3], [2, 4]])),
        (r"(1,2)^\top", Group("()", (1, 2))),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", sp.ImmutableMatrix([[1, 2], [3, 4]])),
        (r"\begin{pmatrix}3\\4\end{pmatrix}-\begin{pmatrix}1\\1\end{pmatrix}", sp.ImmutableMatrix([2, 3])),
    ],
)
def test_parse(text, expected):
    assert parse(text)[0] == expected


def test_percent():
    assert parse("28%")[0] == 28
    assert parse("28%", percent=100)[0] == sp.Rational(7, 25)


def test_signs_of_their_own():
    assert parse(r"\pm1\pm2")[0] == Group(",", (3, -3))
    assert parse(r"\pm1\pm2", free_signs=True)[0] == Group(",", (3, -1, 1, -3))
    with pytest.raises(StopIteration):  # of MAX_SIGNS at most
        parse(r"\pm1" * 9, free_signs=True)


@pytest.mark.parametrize(
    "finished, texts",
    [
        (True, ["8", "-8", "(8)", "1/2", r"\frac{-1}{2}", "-(1/2)", r"1\over2", "3*10^4", "10^{-3}", "5%"]),
        (True, [r"\sqrt{4}", r"\sqrt{\sqrt{16}}", r"1\pm2", r"\sqrt{2}+1", r"2\pi", r"\arctan2", "1+2i"]),
        (
            True,
            ["x+1", "(x+1)^2", "2x+3=y", "x=5", "5=x", "x>2", "-x>2", "2<x<=5", "1,2", r"\{1,2\}", "(1+2)x"],
        ),
        (
            True,
            ["3+9-4=8", "x=3+9-4=8", "x^2+y^2=5^2", r"\frac{31}{7}\approx4.4", r"x\in[0,1]", "f(0)=1,f(1)=2"],
        ),
        (
            False,
            ["3+9-4", "(3+9-4)", "{3+9-4}", "12*13", "2^{10}", "5!", r"\binom{5}{2}", "|-5|", "-(-8)", "x-x"],
        ),
        (False, ["7.5/2.5", r"6\div2", "(3*10)^4", r"\sqrt[3]{8}", r"\sin\frac{\pi}{4}", "i^2"]),
        (False, ["3x+2x", "1+x-4", "i^3", "(1+i)^4", "(1+i)(2-i)"]),
        (False, [r"\{1,2\}\cap\{2,3\}", r"\{1,2\}\setminus\{1\}"]),
        (True, ["x+2x^2", "x+1/2", "i(2-i)", "(1+2i)/5", r"\{1\}\cup\{2\}", r"(0,3)\setminus\{1\}"]),
        (False, ["2x=6", "x+1=6", "x=2x-5", "2x+1>5", "|x|<2", "x^2=4", "x=1+2", "x>1+2", r"-x\in[0,1]"]),
        (False, ["1+1,3", "(1+1,3)", r"\{1+1\}", "[1+1,3)", "x=1+1,y=2", r"\{x|2x>4\}", r"3+9-4\approx8"]),
    ],
)
def test_what_is_left_to_work_out_or_to_solve(finished, texts):
    assert [text for text in texts if parse(text)[1] is not finished] == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "4 2",
        "2^3 5",
        "2+",
        "(1,2",
        "1)",
        "1/0",
        r"\infty+1",
        "2=3",
        "x#y",
        "5%%",
        "x_{}",
        "..5",
        r"x\in5",
        "(x,y)=5",
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
        "e^{e^{e^{e^{3}}}}",
        r"\sin(e^{e^{e^{4}}})",
        r"\exp(\exp(\exp(\exp(3))))",
        "i^" * 41 + "2",
        r"\begin{vmatrix}" + r"\\".join(["a&b&c&d&e"] * 5) + r"\end{vmatrix}",
        r"\begin{pmatrix}x&2\\3&4\end{pmatrix}^{50}",
        r"\begin{pmatrix}1&2\\3&4\end{pmatrix}^{1/2}",
        r"\cup".join(rf"[\sqrt{{{n}}},\sqrt{{{n + 1}}}]" for n in range(2, 60, 3)),
    ],
)
def test_what_cannot_be_read_or_is_too_large_raises(text):
    with pytest.raises((ValueError, TypeError)):
        parse(text)


def test_bounds_are_not_too_tight():
    assert parse("9" * 400)[0] == 10**400 - 1
    assert parse("2^{24999}")[0] == 2**24999
    assert parse("20!")[0] == 2432902008176640000
    assert parse("{" * 39 + "1" + "}" * 39)[0] == 1
    assert parse(",".join(["1"] * 60))[0] == Group(",", (sp.Integer(1),) * 60)  # side by side is not deep


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
        (r"\sqrt{x^2}", "|x|", EXACT, True),
        (r"\sqrt{x^2}", "x", EXACT, False),
        (r"\sqrt{x}\sqrt{y}", r"\sqrt{xy}", EXACT, True),  # where both are real
        (r"\lceil{x}\rceil", r"\lfloor{x}\rfloor+1", EXACT, False),  # integers
        (r"\lfloor{x/1000}\rfloor", "y-y", EXACT, False),  # large numbers
        (r"(-1)^x", r"\cos(\pi{x})", EXACT, True),  # real at integers
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
        (r"[0,1)\cup[1,2)", "[0,2)", EXACT, True),
        (r"[0,1)\cup[1,2)", "(0,2]", EXACT, False),
        ("x>2", "2x+1>5", EXACT, True),
        ("x>0,x!=2", r"(0,2)\cup(2,\infty)", EXACT, True),
        (r"x\in[0,1]", "[0,1]", EXACT, True),
        ("x>2 and x>3", "x>3", EXACT, True),
        ("x>2 and x>3", "x>2", EXACT, False),
        ("x>2 or x>3", "x>2", EXACT, True),
        ("x>2 or x>3", "x>3", EXACT, False),
        ("x=1,y=2", "y=2,x=1", EXACT, True),
        ("x=1,y=2", "x=2,y=1", EXACT, False),
        ("x=1,y=2,z=3", "x=1,y=2", EXACT, False),
        ("a=1,b=2", "a=1,c=2", EXACT, True),
        ("(a,b)=(1,2)", "(b,a)=(1,2)", EXACT, False),
        ("(a,b)=(1,2)", "b=2,a=1", EXACT, True),
        ("a=b=1", "a=1,b=1", EXACT, True),
        ("a>1,b>2", "a>2,b>1", EXACT, False),
    ],
)
def test_same(a, b, tolerance, expected):
    assert same(parse(a)[0], parse(b)[0], tolerance) is expected
    assert same(parse(b)[0], parse(a)[0], tolerance) is expected


@pytest.mark.parametrize(
    "answer, reference",
    [
        ("2", r"\frac{\log_2{9}}{\log_2{3}}"),  # a number that hides, exactly
        ("3", "(x+3)(x-3)-x^2+12"),
        ("1,2", "a=1,b=2"),
        ("2,1", "1,2"),
        ("b=2,a=1", "1,2"),
    ],
)
def test_same_judges_the_first_by_the_second(answer, reference):
    assert same(parse(answer)[0], parse(reference)[0])


@pytest.mark.parametrize(
    "answer, reference",
    [
        (r"\frac{\log_2{9}}{\log_2{3}}", "2"),
        ("(x+3)(x-3)-x^2+12", "3"),
        ("2,1", "a=1,b=2"),
        (r"(2,\frac{\log_2{9}}{\log_2{3}})", "(2,2)"),
    ],
)
def test_a_reference_asks_for_more(answer, reference):
    assert not same(parse(answer)[0], parse(reference)[0])
