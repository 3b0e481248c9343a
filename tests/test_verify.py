import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.hostile import HOSTILE
from miniature.arithmetic import arithmetic_problems
from verify import VerifierPool, answers_match, extract_answer_tag, extract_boxed, normalize, verify, work

CASES = ROOT.parent / "shared" / "data" / "verify_dev.jsonl"

# (given, truth, expected), by what makes them equal or not. A row is added for every mistake that is found.
TABLE = {
    "same text": [
        ("42", "42", True),
        (" 42 ", "42\n", True),
        ("$42$", "42", True),
        (r"\(42\)", r"\[42\]", True),
        ("two lines", r"\text{two lines}", True),
        (r"\textbf{A}", "A", True),
        ("Friday", r"\text{Sunday}", False),
        ("yes", "Yes", True),
        ("B", "A", False),
        ("ab", "ba", True),  # a product
        ("even", "neve", False),  # a word
        ("", "", False),
        ("", "0", False),
        (" $ $ ", "0", False),
        ("42 or so", "42", False),
    ],
    "numbers": [
        ("42.", "42", True),
        ("42.0", "42", True),
        (".5", "0.5", True),
        ("-.5", "-0.50", True),
        ("+7", "7", True),
        ("007", "7", True),
        ("5.001", "5", False),
        ("4.9999999999", "5", False),
        ("-3", "3", False),
        ("1e3", "1000", True),
        (r"3.2 \times 10^{-4}", "0.00032", True),
        (r"3.2\cdot10^{-4}", "3.2e-4", True),
        ("3.89e-10", "3.61e-10", False),
        ("3.2e-4", "3.2e-5", False),
        (r"2 × 10^(-10)", r"2 \times 10^{-10}", True),
        (r"0.\overline{3}", r"0.\overline{3}", True),
        ("16386.18", "16386.17", False),
        ("12345678901234567891", "12345678901234567890", False),
        ("4 2", "42", False),
        ("4_2", "42", False),
        ("1e999999999", "1", False),
    ],
    "thousands": [
        ("1,234", "1234", True),
        ("12,345,678.5", "12345678.5", True),
        (r"1,\!234", "1234", True),
        ("1{,}234", "1234", True),
        (r"1\,234", "1234", True),
        (r"\frac{1}{20,\!000}", "0.00005", True),
        (r"1,234\pi", r"1234\pi", True),
        ("1,23", "123", False),
        ("1,2345", "12345", False),
        ("1, 234", "1234", False),
        ("(1,234)", "1234", False),
        ("100,200", "200, 100", True),  # also a list
    ],
    "fractions": [
        (r"\dfrac{3}{4}", r"\tfrac34", True),
        ("3/4", r"\frac{3}{4}", True),
        ("6/8", r"\frac{3}{4}", True),
        ("0.75", r"\frac{3}{4}", True),
        (r"-\frac{1}{2}", r"\frac{-1}{2}", True),
        (r"\frac 3 8", "0.375", True),
        (r"\frac{98}5", "19.6", True),
        (r"\frac1{72}", "1/72", True),
        ("4/3", "3/4", False),
        (r"\frac{3}{5}", r"\frac{3}{4}", False),
        ("1/0", "1/0 ", True),  # the same text
        ("1/0", "2/0", False),
        ("0.333333", "1/3", True),
        ("0.33", "1/3", False),
        (r"1\frac{4}{5}", "1.8", True),
        ("1 1/2", "1.5", True),
        ("1 1/2", "11/2", False),
        ("1 5/2", "7/2", False),  # no mixed number: the fraction is over 1
        ("8 = 8.05", "8", False),
        (r"8 \approx 8.05", "8", True),
        (r"-3\frac12", "-3.5", True),
        (r"918\frac{1}{2}", "9181/2", False),
    ],
    "roots, powers, functions": [
        (r"\sqrt{8}", r"2\sqrt2", True),
        (r"\frac{1}{\sqrt{3}}", r"\frac{\sqrt3}{3}", True),
        (r"5 \cdot 2^{2/3}", r"5\sqrt[3]{4}", True),
        ("3*sqrt(5)/7", r"\frac{3\sqrt{5}}{7}", True),
        (r"\sqrt{8}", r"2\sqrt3", False),
        (r"2^{20} \cdot 3^{10}", "12^{10}", True),
        (r"\frac{1}{2006!}", r"\frac{1}{2004!}", False),
        (r"\frac{\ln 2}{\ln 3}", r"\log_3 2", True),
        (r"\sin^2 x", r"(\sin x)^2", True),
        (r"\tan^{-1} x", r"\arctan x", True),
        (r"\sin 2x", r"2 \sin x \cos x", True),
        (r"\sin 2x", r"2 \sin x", False),
        (r"2\pi", r"6.283185307", True),
        (r"\frac{\pi}{4}", r"\frac{\pi}{3}", False),
    ],
    "algebra": [
        ("(x+1)^2", "x^2+2x+1", True),
        ("y^2+2y+1", "x^2+2x+1", False),
        ("x+2", "x+1", False),
        ("-x+3", "3 - x", True),
        (r"\frac{x}{7}+\frac27", r"\frac{x+2}{7}", True),
        ("e^{2x}", "e^x", False),
        ("1+2i", "i(2-i)", True),
        ("1-2i", "1+2i", False),
        (r"m_1 g", r"g m_{1}", True),
        ("m_1 g", "m_2 g", False),
        (r"10x\sqrt{21x}", r"10\sqrt{21}x^{3/2}", True),
        (r"\sqrt{x^2}", "|x|", True),
        (r"\sqrt{x^2}", "x", False),
        (r"\frac{3+11(-1)^n}{2}", "1.5+5.5(-1)^n", True),
        ("f(0)", "0", False),
    ],
    "lists, tuples, sets": [
        ("1, 2", "2,1", True),
        (r"1 \text{ and } 2", "1,2", True),
        (r"1, 2, \text{ and } 3", "1,2,3", True),
        ("3 or 4", "3", False),
        ("3", "3, 4", False),
        ("1, 1, 2", "1, 2", False),
        ("1, 2, 2", "1, 1, 2", False),
        (r"\{1,2\}", r"\{2,1\}", True),
        (r"\{2,1\}", "1,2", True),
        (r"\{5\}", "5", True),
        ("(1,2)", "(1, 2)", True),
        ("(2,1)", "(1,2)", False),
        ("(1,2,3)", "(1,3,2)", False),
        ("[1,2,3]", "(1,2,3)", True),
        ("(1,2)", "12", False),
        ("[]", "0", False),
        ("(1,3),(2,4)", "(1,4)", False),
        (r"1 \pm \sqrt{2}", r"1-\sqrt2, 1+\sqrt2", True),
        (r"\{1\pm\sqrt{5},-2\}", r"\{-2, 1+\sqrt{5}, 1-\sqrt{5}\}", True),
        (r"1 \pm \sqrt{2}", r"1+\sqrt2", False),
        (r"\emptyset", r"\varnothing", True),
        ("p=5,q=2;p=7,q=2", "(5,2),(7,2)", True),
        ("7,2; 5,2", "(5,2),(7,2)", True),
        ("p=5,q=2;p=7,q=2", "(5,2),(7,3)", False),
        ("2,5; 2,7", "(5,2),(7,2)", False),
        ("1; 2; 3", "3,2,1", True),
        ("(1;2)", "(1,2)", True),
    ],
    "intervals and inequalities": [
        (r"(-\infty, 3)", "x < 3", True),
        ("x > 3", r"(3, \infty)", True),
        ("x < 3", "x > 3", False),
        ("-x > -1", "x < 1", True),
        (r"3 < \lambda \leq 4", "(3,4]", True),
        ("[-3,2]", "(-3,2)", False),
        ("[-77,77)", "[-77,77]", False),
        (r"x \ne 3", r"(-\infty,3)\cup(3,\infty)", True),
        (r"\ne 5", "5", False),
        (r"x \in [0,1]", "[0,1]", True),
        (r"(3,4)\cup[0,1]", r"[0,1]\cup(3,4)", True),
        (r"[0,1]\cup(3,4)", r"[0,1)\cup(3,4)", False),
        (r"a \le -2 \text{ or } a = 1", r"(-\infty,-2]\cup\{1\}", True),
        (r"x > 1 \text{ and } x < 3", "(1,3)", True),
        (r"\{x | x > 0\}", r"(0,\infty)", True),
        (r"\{x | x<2\} - \{1\}", r"(-\infty,1)\cup(1,2)", True),
        ("-[0,1)", "1", False),
        ("(5,-5)", "(7,3)", False),
        (r"1/\infty", "0", False),
        (r"\infty", r"\infty", True),
        (r"-\infty", r"\infty", False),
    ],
    "equations and prefixes": [
        ("x=5", "5", True),
        ("5", "x=5", True),
        ("5=x", "5", True),
        ("f(x) = 2x+3", "2x + 3", True),
        ("y = 2x + 3", "f(x)=2x+3", True),
        ("x = 1", "y = 1", False),
        ("(p,q)=(3,2)", "(3,2)", True),
        ("x=2, x=-3", "-3, 2", True),
        (r"|AB| = 1", "1", True),
        (r"\frac{NO}{BO}=\frac{1}{2}", "0.5", True),
        ("2x+z=1", "1", False),
        ("2+2=4", "4", True),
        ("2+2=5", "5", False),
        ("1=2=3", "3", False),
        (r"\frac{31031}{7776} \approx 3.99", r"\frac{31031}{7776}", True),
        (r"x \approx 11", "11", True),
        ("2x+4y-3=0", r"y=-\frac12 x+\frac34", True),
        ("-34x+45y=1", "34x-45y=-1", True),
        ("2x+4y-3=0", "2x+4y+3=0", False),
    ],
    "matrices and vectors": [
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}", True),
        (r"\begin{pmatrix}1&3\\2&4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", False),
        (r"\begin{pmatrix}1\\-0.5\end{pmatrix}", r"\begin{pmatrix}1\\-1/2\end{pmatrix}", True),
        (r"(-7,16,5)", r"\begin{pmatrix}-7\\16\\5\end{pmatrix}", True),
        (r"\begin{pmatrix}1&0\\0&1\end{pmatrix}+\begin{pmatrix}1&2\\3&4\end{pmatrix}",
         r"\begin{pmatrix}2&2\\3&5\end{pmatrix}", True),
    ],
    "units, degrees, percent, money, ratios": [
        (r"5 \text{ cm}", "5", True),
        (r"5 \text{ cm}^2", "5", True),
        ("10 cm^2", "10", True),
        (r"5 \text{ cm}", r"5 \text{ centimeters}", True),
        (r"5 \text{ cm}", r"5 \text{ m}", False),
        (r"865 \mbox{ inches}^2", "865", True),
        (r"3 \text{ or more}", "3", False),
        (r"3 \text{ thousand}", "3", False),
        (r"16\text{ daps}", "16", True),  # of no unit that is known
        (r"6.4 \times 10^{16} \text{ cm}^{-3}", "6.4e16", True),
        (r"5\text{ feet }3\text{ inches}", "53", False),
        (r"90^\circ", "90", True),
        (r"90^{\circ}", r"90 \text{ degrees}", True),
        (r"12^{\mathrm{th}}", "12", True),
        (r"\$50", "50", True),
        (r"28\%", "28", True),
        (r"28\%", "0.28", True),
        ("28 percent", r"28\%", True),
        (r"\frac12\%", "0.005", True),
        (r"0.28\%", r"28\%", False),
        (r"28.0000001\%", r"28\%", False),
        ("5:8", r"\frac58", True),
        ("5:6", "5:8", False),
    ],
    "other bases": [
        ("52_8", "52_{8}", True),
        ("22_8", "52_8", False),
        ("24", "24_{10}", True),
        (r"1011_2", "11", False),  # asked for in base 2
    ],
}  # fmt: skip
ROWS = [(*row, why) for why, rows in TABLE.items() for row in rows]

# (answer, reference), right and wrong. These are not symmetric: an answer has to be worked out and solved.
RIGHT = {
    "names tell which value is which": [
        ("v=9,u=4", "u=4,v=9"), ("u=4 and v=9", "u=4,v=9"), ("u=4,v=9", "(u,v)=(4,9)"),
        ("(v,u)=(9,4)", "(u,v)=(4,9)"), ("4,9", "u=4,v=9"), ("(4,9)", "u=4,v=9"), ("v=9,u=4", "4,9"),
        ("u=4,v=9", "(4,9)"), ("f(2)=2, f(1)=3", "f(1)=3, f(2)=2"),
        (r"P=40^\circ, Q=50^\circ", r"\angle P=40, \angle Q=50"), ("w=3,l=5", "width=3,length=5"),
        ("y=2x", "f(x)=2x"), ("x=2,x=-3", "x=-3,x=2"), ("x=3,y=4;x=1,y=2", "x=1,y=2;x=3,y=4"),
        ("x=3,y=4 or x=1,y=2", "(1,2),(3,4)"), ("y>2,x>1", "x>1,y>2"),
        ("(x,y)=(1,2) or (3,4)", "(1,2),(3,4)"), ("AB=3 and BC=4", "BC=4, AB=3"),
        (r"\begin{cases}u=4\\v=9\end{cases}", "v=9,u=4"),
        (r"\begin{aligned}u &= 4\\v & = 9\end{aligned}", "u=4,v=9"), ("x=y=z=1/3", r"x=y=z=\frac{1}{3}"),
        ("x=0.5,y=0.5,z=0.5", "x=y=z=1/2"), ("c=x=y=z", "x=y=z=c"), ("5", "x=y=z=5"), ("x=y=z=5", "5"),
        ("(1/2,1/2,1/2)", "x=y=z=0.5"),
    ],
    "numbers to be worked out": [
        ("3+9-4=8", "8"), ("8=3+9-4", "8"), ("x=3+9-4=8", "8"), (r"\binom{5}{2}=10", "10"), ("8", "8.0"),
        ("16/2", "8"), ("5/1", "5"), (r"3\times10^4", "30000"), ("3e4", "30000"), ("10^{6}", "1000000"),
        ("10^{-3}", "0.001"), ("1*10^{3}", "1000"), (r"1.2\cdot10^{-3}", "0.0012"), (r"\frac{-1}{2}", "-0.5"),
        ("-(1/2)", "-0.5"), (r"\frac{5}{-2}", "-2.5"), ("((5))", "5"), ("[5]", "5"), (r"1\frac12", "1.5"),
        (r"150\%", "1.5"), ("6:3", "2"), (r"\sqrt{4}", "2"), ("1024", "2^{10}"), ("2^{10}", "2^{10}"),
        ("120", "5!"), ("10", r"\binom{5}{2}"), ("2", r"\sqrt[3]{8}"), ("-4", "-2^2"), ("512", "2^3^2"),
        ("3", r"\log_2 8"), ("3", "|{-3}|"), ("3", r"\left\lfloor 3.7\right\rfloor"), ("2", r"17 \bmod 5"),
        ("5", r"\max(2, 5)"), ("0", "x-x"), (r"2^{20}\cdot3^{10}", "12^{10}"),
        (r"\frac{\sqrt2}{2}", r"\frac{1}{\sqrt2}"), (r"2\sqrt3", r"\sqrt{12}"),
        (r"\sqrt{2+\sqrt3}", r"\frac{\sqrt6+\sqrt2}{2}"), (r"\frac{1+\sqrt5}{4}", r"\cos\frac{\pi}{5}"),
        (r"2\pi", "6.283185307"), ("x^2+y^2=5^2", "x^2+y^2=25"),
    ],
    "equations and inequalities to be solved": [
        ("x=5", "5"), ("5=x", "x=5"), ("x>2", r"(2,\infty)"), ("2<x", r"(2,\infty)"), (r"2<x\le5", "(2,5]"),
        (r"2<x<\infty", r"(2,\infty)"), ("-x>-1", "x<1"), (r"x=2 \text{ or } x=3", "2,3"),
        (r"x<-1\text{ or }x>1", r"(-\infty,-1)\cup(1,\infty)"),
        (r"x \ge 2, x \neq 3", r"[2,3)\cup(3,\infty)"), ("x>2", "2x+1>5"), ("2x+1>5", "2x+1>5"),
        ("2x=4", "4x=8"), (r"[-2,-1]\cup[1,2]", r"1\le|z|\le 2"), ("y-2x=3", "y=2x+3"), ("x>2, x<5", "(2,5)"),
        ("x-y=0,x+y=2", "2x+2y=4,x-y=0"), ("2x-y+3=0", "y=2x+3"), (r"\{x\in\mathbb{R}|x>2\}", r"(2,\infty)"),
    ],
    "both sides of zero": [
        ("|x|", r"\sqrt{x^2}"), ("|7-x|", "|x-7|"), (r"\max(x,-x)", "|x|"),
        (r"\frac{x+|x|}{2}", r"\max(x,0)"), (r"\lceil x\rceil", r"-\lfloor -x\rfloor"),
        (r"\sqrt{x}\sqrt{y}", r"\sqrt{xy}"), (r"\ln x+\ln y", r"\ln(xy)"), (r"\ln x^3", r"3\ln x"),
        ("x^{3/2}", r"x\sqrt{x}"), (r"\sqrt{x-5}\sqrt{x-7}", r"\sqrt{(x-5)(x-7)}"),
        (r"\frac{1}{\sqrt{-x}}", "(-x)^{-1/2}"), (r"2\arcsin\sqrt a", r"\arccos(1-2a)"),
        ("(-1)^n", r"\cos(\pi n)"), (r"\frac{n(n-1)}{2}", r"\binom{n}{2}"), ("n(n-1)!", "n!"),
        (r"\max(x,y)+\min(x,y)", "x+y"), ("6", r"\gcd(12,18)"), ("36", r"\operatorname{lcm}(12,18)"),
        (r"\ln|x|", r"\ln x"), ("x^3", "x^3"),
    ],
    "powers of units": [
        (r"5\text{ m}^2", "5"), ("5", r"5\text{ m}^2"), (r"5\text{ m}^2", r"5\text{ square meters}"),
        (r"5\text{ m}²", r"5\text{ m}^{2}"), (r"5\text{ meters squared}", r"5\text{ m}^2"),
        (r"5\text{ cubic cm}", r"5\text{ cm}^3"), (r"5\text{ cu ft}", r"5\text{ ft}^3"),
        (r"5\text{ sq. ft.}", r"5\text{ ft}^2"), (r"5\text{ m/s}", r"5\text{ meters per second}"),
        (r"5\text{ m}\text{s}^{-1}", r"5\text{ m/s}"), (r"5\ \mathrm{m^2}", r"5\text{ m}^2"),
        (r"5\text{ N}\cdot\text{m}", "5"), (r"5\text{ N}\cdot\text{m}", r"5\text{ N m}"),
    ],
    "markdown and quotes": [
        ("**73**", "73"), ("*73*", "73"), ("***73***", "73"), ("__73__", "73"), ("_73_", "73"),
        ("**$73$**", "73"), ("$**73**$", "73"), ("**73.**", "73"), ("x = **5**", "5"), ("**x = 5**", "5"),
        ("*x* = 5", "x=5"), ("**2** and **3**", "2,3"), ("**(1,2)**", "(1,2)"), ("**5 apples**", "5"),
        ('"73"', "73"), (' "73" ', "73"), ("“73”", "73"), ("'73'", "73"), ("``73''", "73"), ("`73`", "73"),
        ('"C"', "C"), ("2**3x", "8x"),
    ],
    "decimals that repeat": [
        (r"0.\overline{3}", "1/3"), ("0.(3)", "1/3"), (r"0.1\overline{6}", "1/6"), ("0.1(6)", r"\frac16"),
        (r"0.\bar{3}", "1/3"), (r"0.\dot3", "1/3"), (r"-0.\overline{3}", "-1/3"),
        (r"1.\overline{142857}", "8/7"), (r".\overline{3}", "0.(3)"), (r"0.\overline{3}", "0.33333333"),
        ("3.14159...", "3.14159"),
    ],
    "vectors and matrices": [
        (r"\langle 1,2\rangle", "(1,2)"), ("⟨1,2⟩", "(1,2)"),
        ("(1,2)^T", r"\begin{pmatrix}1\\2\end{pmatrix}"), (r"(1,2)^\top", "(1,2)"),
        (r"(1,2)^{\mathsf T}", "(1,2)"), (r"(1,2)^{\mathrm{T}}", "(1,2)"),
        (r"\begin{pmatrix}1&2\end{pmatrix}^T", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"\begin{pmatrix}1&3\\2&4\end{pmatrix}^T", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
        (r"\begin{pmatrix}1\\2\\\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"\begin{pmatrix}1&2\\3&4\\ \end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
        (r"\left(\begin{array}{c}1\\2\end{array}\right)", "(1,2)"),
        (r"\det\begin{pmatrix}1&2\\3&x\end{pmatrix}", "x-6"),
        (r"\begin{vmatrix}1&2\\3&x\end{vmatrix}", "x-6"),
        (r"\left|\begin{array}{cc}1&2\\3&x\end{array}\right|", "x-6"),
        ("-2", r"\begin{vmatrix}1&2\\3&4\end{vmatrix}"),
    ],
    "notation for bars, binomials, fractions, functions": [
        (r"\lvert x\rvert", "|x|"), (r"\left\lvert x\right\rvert", "|x|"), (r"\lVert x\rVert", "|x|"),
        (r"{5 \choose 2}", r"\binom52"), (r"5\choose2", r"\binom{5}{2}"), ("C(5,2)", r"\binom52"),
        ("10", r"{5 \choose 2}"), ("10", "C(5,2)"), (r"\dbinom{n}{2}", "C(n,2)"),
        (r"\tbinom n2", r"\binom{n}{2}"), (r"1\over2", "1/2"), (r"{1 \over \sqrt2}", r"\frac{\sqrt2}{2}"),
        (r"{x+1\over 2}", r"\frac{x+1}{2}"), (r"\nicefrac12", "0.5"), (r"\sfrac{1}{2}", "0.5"),
        (r"\operatorname{arctan} 2", r"\arctan 2"), (r"\operatorname{arctan}(x)", r"\arctan x"),
        (r"\mathrm{ln} 2", r"\ln 2"), (r"\text{sin}(x)", r"\sin x"), (r"\mathrm{e}^{x}", "e^x"),
        (r"\lg 2", r"\log_{10} 2"), (r"\tg x", r"\tan x"), (r"2 \pmod 5", "2"), ("2", r"2 \pmod 5"),
        (r"2 \pmod{5}", r"2 \pmod 5"), ("2 (mod 5)", r"2\pmod{5}"), (r"x\equiv 2 \pmod 5", "2"),
        (r"1,2,\dots,n", r"1, 2, \ldots, n"), ("1,2,...,n", r"1,2,\dots,n"),
        (r"\{1,2,\dots,n\}", r"1,2,\cdots,n"), (r"\mathbb R", r"\mathbb{R}"),
        (r"\lbrace 1,2\rbrace", r"\{1,2\}"), (r"\approx 3.14", "3.14"), ("2:4:6", "1:2:3"), ("4th", "4"),
        ("3rd", "3"),
    ],
    "fonts, colours, spaces": [
        (r"\boldsymbol{1,080}", "1080"), (r"\textbf{10\text{ cm}^2}", "10"),
        (r"\boldsymbol{5}", "5"), (r"\bm{5}", "5"), (r"{\bf 5}", "5"), (r"\mathit{5}", "5"),
        (r"\textcolor{red}{5}", "5"), (r"\color{red}5", "5"), (r"{\color{red} 5}", "5"),
        (r"\colorbox{yellow}{5}", "5"), (r"\underline{5}", "5"), (r"\large 5", "5"), (r"{\large 5}", "5"),
        (r"5\hspace{2mm}", "5"), (r"\hskip 3mm 5", "5"), (r"\phantom{1}5", "5"), (r"\ensuremath{5}", "5"),
        (r"\mathsf{5}", "5"), (r"\emph{5}", "5"), (r"\boldsymbol{\frac{1}{2}}", "0.5"),
        (r"\mathbf{\frac12}", "0.5"), (r"\textcolor{blue}{\frac{1}{2}}", "0.5"),
        (r"\underline{\text{odd}}", "odd"), (r"\boldsymbol{x+1}", "x+1"), (r"{\it x}+1", "x+1"),
        (r"\bm{\mathrm{A}}", "A"), (r"{\rm A}", "A"), (r"{\em A}", "A"), (r"5~{\rm cm}", r"5\text{ cm}"),
        (r"(\boldsymbol{1},\textcolor{red}{2})", "(1,2)"), (r"\boldsymbol{12}\sqrt{3}", r"12\sqrt3"),
    ],
    "signs that are independent": [
        (r"(\pm 1,0,\pm 2)", "(1,0,2),(1,0,-2),(-1,0,2),(-1,0,-2)"),
        ("(1,0,2),(1,0,-2),(-1,0,2),(-1,0,-2)", r"(\pm 1,0,\pm 2)"),
        (r"(\pm a,0,\pm b)", "(a,0,b),(a,0,-b),(-a,0,b),(-a,0,-b)"), (r"(\pm1,\pm1)", "(1,1),(-1,-1)"),
        (r"(\pm1,\mp1)", "(1,-1),(-1,1)"), (r"\{\pm1,\pm2\}", "1,-1,2,-2"),
        (r"\pm1\pm\sqrt2", r"1+\sqrt2,1-\sqrt2,-1+\sqrt2,-1-\sqrt2"), (r"2\pm5", "7,-3"),
    ],
    "spaces in thousands": [
        ("1 000", "1000"), ("12 345 678", "12345678"), ("1\u2009000", "1000"), ("1\u202f000", "1000"),
        ("1\u00a0000", "1000"), (r"1\ 000", "1000"), (r"1\;000", "1000"), ("$1~000$", "1000"),
        ("-1 000", "-1000"), ("1 234.5", "1234.5"), ("1'000'000", "1000000"), ("1 100/200", "1.5"),
        ("10 1/2", "10.5"),
    ],
    "unicode": [
        ("x⁴", "x^4"), ("x¹⁰", "x^{10}"), ("xⁿ⁺¹", "x^{n+1}"), ("10⁻⁵", "0.00001"), ("2×10⁴", "20000"),
        ("x₁+x₂", "x_1+x_2"), ("a₁₀", "a_{10}"), ("½", "1/2"), ("2½", "5/2"), ("−½", "-0.5"), ("⅞", "7/8"),
        ("3⁄4", "3/4"), ("４２", "42"), ("（１，２）", "(1,2)"), ("［１，２］", "[1,2]"),
        ("ｙ＝２ｘ", "y=2x"), ("‑5", "-5"),
        ("–5", "-5"), ("—5", "-5"), ("－5", "-5"), ("﹣5", "-5"), ("α+β", r"\alpha+\beta"),
        ("λ²", r"\lambda^2"), ("Ω", r"\Omega"), ("φ", r"\phi"), ("∅", r"\emptyset"), ("ℝ", r"\mathbb{R}"),
        ("x∈ℝ", r"\mathbb{R}"), ("90∘", "90"), ("90^∘", "90"), ("90˚", "90"), ("∠P=40", r"\angle P=40"),
        ("€50", "50"), ("50€", "50"), ("£50", "50"), ("¥50", "50"), ("√12", "2√3"), ("√(x+1)", r"\sqrt{x+1}"),
        ("⌊x⌋", r"\lfloor x\rfloor"), ("(−∞,3)", "x<3"), ("x≠3", r"x\ne3"), ("5％", r"5\%"), ("5：8", "5:8"),
        ("2、3", "2,3"), ("5。", "5"), ("\u200b5", "5"),
    ],
    "number and noun": [
        (r"5\text{ apples}", "5"), ("5 apples", "5"), (r"5\text{ times}", "5"), ("5", r"5\text{ apples}"),
        (r"12\text{ red balls}", "12"), (r"x=5\text{ apples}", "5"), ("1,234 apples", "1234"),
        (r"\frac12\text{ pizzas}", "0.5"), ("1 1/2 pizzas", "1.5"), (r"2\sqrt3\text{ pizzas}", r"\sqrt{12}"),
        (r"3\times10^4\text{ people in all}", "30000"), ("5 Apple", r"5\text{ apples}"),
        (r"17\text{ any text}", "17"), (r"5\text{ million}", "5000000"), ("2.5 billion", "2500000000"),
        ("3 trillion", "3e12"), ("3 thousand", "3000"), ("1,500 thousand", "1500000"),
        ("2, 3 million", "2, 3000000"), (r"3 \text{ hundred}", "300"), ("2 dozen", "24"),
        (r"\$5\text{ million dollars}", "5,000,000"), ("5000000", "5 million"), ("2 to 3", "2:3"),
        (r"2\text{ to }3", r"\frac23"),
    ],
    "phrases and choices": [
        (r"\text{no solution}", r"\emptyset"), (r"\text{No solutions}", r"\varnothing"),
        ("there is no real solution", r"\{\}"), (r"\text{all real numbers}", r"\mathbb{R}"),
        ("All real numbers", r"(-\infty,\infty)"), (r"x\in\mathbb{R}", r"\text{all real numbers}"),
        (r"\text{(C) }12", "C"), ("Option C", "C"), ("option (C)", "C"), ("the answer is C", "C"),
        ("C)", "C"), ("C.", "C"), ("(C)", "C"), ("C", r"\text{(C)}"), (r"\textbf{(C)}\ 12", "C"),
        ("C: 12", "C"), ("C. 12", "C"), ("C", r"\text{(C) }12"), ("(C) 12", r"\text{(C) }12"),
    ],
    "commas in numbers": [
        ("1,000.5", "1000.5"), ("-1,234", "-1234"), ("1,000,5", "1,000,5"), ("1,000,2,000", "2,000,1,000"),
        (r"1,234\pi", r"1234\pi"), ("1,000,500", "1000500"), (r"1,234\text{ cm}", "1234"),
        ("1,000^2", "1000^2"),
    ],
    "marks between digits": [
        (r"8\hspace{1cm}", "8"), (r"8\left.\right.", "8"), (r"x\hspace{1cm}y", "xy"), (r"\$5", "5"),
        (r"5\text{ dollars}", r"\$5"), (r"\frac{8}{9}\left.\right.", "8/9"), (r"5\text{ cents}", "5"),
        (r"5\%", "5"),
    ],
    "letters": [
        ("V=IR", "V=RI"), ("R C", "RC"), ("ab", "ba"), ("2ab", "2ba"), (r"\text{DAC}", "DAC"), ("II", "II"),
        (r"\text{six}", "six"), ("DAC", r"\text{DAC}"), ("xy", "yx"), ("2AB", "2BA"), ("AB+BC", "BC+AB"),
        (r"\text{abc}", "abc"), (r"\frac{AB}{2}", r"\frac12 AB"), ("ACB, DAC", "DAC,ACB"),
    ],
    "a number after a factor": [
        ("(n+1)2^n", r"(n+1)\cdot2^n"), ("n2^{n-1}", r"n\cdot 2^{n-1}"), ("2^{10}3^5", r"2^{10}\cdot3^5"),
        (r"\frac12 3^n", r"\frac{3^n}{2}"), (r"\pi 2^5", r"32\pi"), (r"\sqrt{3}2", r"2\sqrt3"),
        (r"\frac{100!}{50!50!}", r"\binom{100}{50}"), ("$(n-2) 2^{n}+1$", "$(n-2) 2^{n}+1$"),
        ("(n-2)2^n+1", "$(n-2) 2^{n}+1$"), (r"(1+2)\frac{x}{2}", r"\frac{3x}{2}"), (r"\sin x 2", r"\sin 2x"),
    ],
    "x as a times sign": [
        ("3 x 10^8", "3e8"), ("1.5x10^8", r"1.5\times10^8"), ("3X10^8", "3e8"), (r"3 \text{ x } 10^8", "3e8"),
        ("3 x 10^{-8}", "3e-8"), (r"2 x 10^8\text{ m/s}", "2e8"), ("3x", "3x"),
    ],
    "like terms, sets and complex numbers to be worked out": [
        (r"\sqrt{242}", r"11\sqrt2"), ("32i", "(1+i)^{10}"), ("(1+i)^{10}", "(1+i)^{10}"), ("2i+1", "1+2i"),
        (r"\frac{1+2i}{5}", r"\frac15+\frac25 i"), (r"\frac{1}{5}(1+2i)", r"\frac15+\frac25 i"), ("-i", "-i"),
        ("i(2-i)", "1+2i"), ("6i/5", r"\frac{6i}{5}"), (r"\{1\}\cup\{2\}", r"\{1,2\}"),
        (r"\mathbb{R}\setminus\{1\}", r"(-\infty,1)\cup(1,\infty)"), ("2(x+1)", "2x+2"),
        ("(x+1)(x-1)", "x^2-1"), ("x+2x^2", "x(1+2x)"), ("x+1/2+y", "y+x+0.5"), (r"\sqrt{3}i", r"i\sqrt3"),
        ("5x", "3x+2x"), ("n^2+n-1+n", "n^2+n-1+n"),
    ],
    "quantities left of an equals sign": [
        ("f(n)=1", "f(x)=1"), ("y=2x", "f(x)=2x"), (r"|\vec{v}|=5", "5"),
        (r"\text{Area of }\triangle ABC=36", "[ABC]=36"), ("f(-2)=36", "36"), (r"f(\pi)=5", "5"),
        ("f(1/2)=36", "36"), ("f(f(2))=5", "5"), (r"(f\circ g)(2)=5", "5"),
        (r"f^{-1}(x)=\frac{x-1}{2}", r"\frac{x-1}{2}"), ("|z|=5", "5"), (r"\sin\theta=\frac35", "3/5"),
        ("P(A|B)=0.5", "1/2"), (r"P(A\cap B)=\frac12", "1/2"), (r"P(X \ge 2)=\frac12", "1/2"),
        ("E[X]=36", "36"), (r"\mathbb{E}[X]=36", "36"), ("[ABC]=36", "36"), (r"\frac{dy}{dx}=2x", "2x"),
        (r"\overrightarrow{AB}=(1,2)", "(1,2)"), ("AB:CD=3:5", "3:5"),
        (r"\text{Area of }\triangle ABC=36", "36"), ("36", "f(-2)=36"), ("5", "|z|=5"),
        ("x^2+y^2=5^2", "x^2+y^2=25"), (r"\sin \theta=\frac35", r"\sin\theta=0.6"),
        ("f(x+1)=2x", "f(x+1)=2x"), (r"\cos A=\frac12", "1/2"), (r"\angle ABC=40^\circ", "40"),
        ("f'(2)=3", "3"), ("f(2x)=4x", "4x"),
    ],
    "sets with a colon": [
        (r"\{x : x > 0\}", "x>0"), (r"\{x\in\mathbb{R}:x\ge3\}", r"[3,\infty)"), (r"\{x\colon x>0\}", "x>0"),
        (r"\{x\mid x>0\}", r"(0,\infty)"), (r"\{x : x > 0\}", r"\{x | x>0\}"),
        (r"\{x \in \mathbb{R} : x \neq 1\}", r"(-\infty,1)\cup(1,\infty)"), (r"\{x: -1<x<2\}", "(-1,2)"),
    ],
    "cases and rows": [
        (r"\left\{\begin{array}{l}x=1\\y=2\end{array}\right.", "(1,2)"),
        (r"\begin{cases}x=1\\y=2\end{cases}", "(1,2)"), (r"\begin{pmatrix}1\\[6pt]2\end{pmatrix}", "(1,2)"),
        (r"\begin{pmatrix}1&2\cr 3&4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
        (r"\begin{pmatrix} 1 & 2 \\ \\ 3 & 4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
        (r"f(x)=\begin{cases}x&x\ge0\\-x&x<0\end{cases}", r"f(x)=\begin{cases}x,&x\geq0\\-x,&x<0\end{cases}"),
        (r"\begin{cases}x&\text{if }x\ge0\\-x&\text{if }x<0\end{cases}",
         r"\begin{cases}x,&x\geq0\\-x,&x<0\end{cases}"),
        (r"\begin{cases}x, & \text{if } x\ge0,\\-x, & \text{if } x<0.\end{cases}",
         r"\begin{cases}x&x\geq0\\-x&x<0\end{cases}"),
        (r"\begin{pmatrix}1\\[2mm]2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    ],
    "degrees": [
        (r"\frac{45^{o}}{2}", "22.5"), (r"\frac{15^{th}}{2}", "7.5"), ("45^{o}", "45"), ("45^o", r"45^\circ"),
        (r"45\degree", r"45^\circ"), (r"45^{\text{o}}", "45"), (r"45\text{°}", "45"), ("45°C", "45"),
        ("45℃", r"45^\circ"), (r"45^\circ C", "45"), (r"45^{\circ}\text{C}", "45"), ("45°", r"45^{\circ}"),
        (r"45^\circ\text{F}", "45"),
    ],
    "units in a line": [
        ("15 km/h", "15"), ("15 m/s", r"15\text{ m/s}"), ("15 miles/hour", "15"), ("15 m^2", "15"),
        ("15 m²", "15"), ("15 sq ft", "15"), (r"12\pi cm^2", r"12\pi"), (r"25\pi cubic feet", r"25\pi"),
        (r"15 \frac{\text{m}}{\text{s}}", "15"), (r"15\ \mathrm{m\cdot s^{-1}}", r"15\text{ m/s}"),
        (r"15\% \text{ increase}", r"15\%"), (r"\$3\text{ per pound}", r"\$3"),
        (r"\$40\text{ total}", r"\$40"), (r"\text{No}", "no"), ("No", r"\text{No}"),
        ("Rs. 15", "15"), ("US$15", "15"), ("USD 15", "15"),
        ("15^{th}", "15"), ("15 km/h", r"15\text{ km/h}"), (r"15\text{ km}/\text{h}", "15 km/h"),
        ("15 m/s^2", r"15\text{ m/s}^2"), ("15 mph", "15"), ("15 m", r"15\text{ m}"),
        ("15 m^2", r"15\text{ m}^2"), ("2 g", "2g"), ("2g", "2 g"), ("15 cm", "15"), ("15 g", "15"),
        (r"15\ \mathrm{m/s}", "15 m/s"),
    ],
    "dots after digits that repeat": [
        ("0.333...", "1/3"), (r"0.333\ldots", r"\frac13"), ("0.1666...", "1/6"),
        ("0.142857142857142857...", "1/7"), ("3.14159...", "3.14159"), (r"1.\overline{3}", "4/3"),
        ("1/3", "0.333..."), ("2.666...", "8/3"), ("0.333...", "0.333..."), (r"0.090909\dots", "1/11"),
    ],
    "bases, infinity, times, chains": [
        (r"\text{8:30 p.m.}", "8:30 PM"), (r"1001_{\text{two}}", "1001_2"), ("(1001)_2", "1001_2"),
        ("1001_2", "1001_{two}"), ("(-oo,2)", r"(-\infty,2)"), ("(-inf,2)", "x<2"), ("8:30 p.m.", "8:30 PM"),
        ("C>B>A", "A<B<C"), ("8:30 p.m.", r"8:30\text{ p.m.}"), ("8:30 PM", r"8:30\text{ p.m.}"),
        ("A<B<C", "C>B>A"), (r"2 \ge x > 1", "(1,2]"), ("[3,oo)", r"[3,\infty)"),
        (r"1001_{\text{two}}", r"1001_{\text{two}}"),
    ],
    "answer as a word": [
        (r"\text{The answer is } 42", "42"), ("The answer is 42.", "42"), ("Answer: 42", "42"),
        ("The final answer is $42$.", "42"), ("answer: C", "C"), ("final answer: x=5", "5"),
        (r"\textbf{Answer: }42", "42"), ("the answer is 2, 3", "2,3"), ("**Answer:** 42", "42"),
        ("the answer is: (1,2)", "(1,2)"),
    ],
    "zeros and small terms": [
        ("(a+b-c)(a+b+c)", "(a+b)^2-c^2"), ("(y-2x)(y+x)", "y^2-yx-2x^2"), ("(b-3a)(b+a)", "b^2-2ab-3a^2"),
        (r"\sqrt{2}(x+16)", r"\sqrt2 x+16\sqrt2"), ("|x-16|", r"\sqrt{(x-16)^2}"),
        ("(x-y)(x-z)(y-z)", "x^2y-x^2z-xy^2+xz^2+y^2z-yz^2"), ("e^{50}+1", "1+e^{50}"),
        (r"3^{100}\sqrt2+5", r"5+3^{100}\sqrt{2}"), ("2^{100}x+1", "1+x2^{100}"),
    ],
    "names up to `and`, `or` and closing brackets": [
        (r"f(x)=x \text{ and } f(x)=-x", "$f(x)=x,f(x)=-x$"), ("x=a or x=b", "x=a,x=b"),
        ("x=b or x=a", "x=a,x=b"),
        (r"x<a \text{ or } x>b", "x<a, x>b"), (r"f(n)=n \text{ and } g(n)=1", "$f(n)=n$, $g(n)=1$"),
        (r"\boldsymbol{M=2^{N-2}+1}", "$M=2^{N-2}+1$"), (r"{X_{d}=125-1.25 P}", "X_{d}=125-1.25 P"),
        (r"\frac{x}{A}+\frac{y}{B}=1", r"\frac{x}{A}+\frac{y}{B}-1=0"),
        (r"y=\frac{x}{AB}", r"\frac{x}{AB}=y"),
        (r"\frac{v}{LC}+u=\frac{w}{LC}", r"u+\frac{v}{L C}=\frac{w}{L C}"), ("{x=2}", "2"),
        ("the note=5", "5"),
    ],
    "chains of what is no number": [
        ("x^2-1=(x-1)(x+1)", "x^2-1"), (r"\frac{n(n+1)}{2}=\frac{n^2+n}{2}", r"\frac{n(n+1)}{2}"),
        (r"\binom{2n}{n}=\frac{(2n)!}{n!^2}", r"\binom{2n}{n}"), ("(2,3)=(2,3)", "(2,3)"), ("2x+x=3x", "3x"),
        ("(x+1)^2=x^2+2x+1=x(x+2)+1", "x^2+2x+1"), (r"\{1,2\}=\{2,1\}", "1,2"), ("x^2-1", "x^2-1=(x-1)(x+1)"),
    ],
    "the same said twice": [
        (r"\frac34 \text{ or } 0.75", "3/4"), (r"\frac{3}{4} \text{ or } 75\%", "3/4"),
        (r"\frac34 (0.75)", "3/4"),
        ("0.75 (75%)", "3/4"), ("x=3/4 or x=0.75", "3/4"), ("2x or x+x=2x", "2x"), ("2,3 or 3,2", "2,3"),
        (r"\frac34, or 0.75", "0.75"), (r"\frac{1}{3} (\approx 0.333)", "1/3"), ("3/4 (or 0.75)", "3/4"),
        ("3/4 (= 0.75)", "3/4"),
    ],
    "equations with their sides swapped": [
        ("y=x", "x=y"), ("BC=AB", "AB=BC"), ("SRMC=MR", "MR=SRMC"),
        (r"2\theta=\tan\theta", r"\tan \theta = 2\theta"),
        ("n^2=f(n)", "$f(n)=n^{2}$"), ("E=mc^2", "mc^2=E"), ("V=IR", "IR=V"), ("c^2m=E", "E=mc^2"),
        (r"\frac{2}{R}=I", r"I=\frac{2}{R}"), ("3=x", "x=3"),
    ],
    "symbols of units": [
        (r"5\ \mu m", "5"), (r"5\ \text{μm}", "5"), (r"900\ \Omega", "900"), (r"5\text{ Å}", "5"),
        ("10.1 nm", "10.1"),
        (r"5\text{ kJ/mol}", "5"), (r"2.78\,M_\odot", "2.78"), (r"2.78\,M_{\odot}", "2.78"),
        (r"5\,\frac{\text{kg}}{\text{m}^3}", "5"), (r"4.4677 \times 10^{14}", r"4.4677 \times 10^{14} Hz"),
        ("15000", r"15000 \text{ kcal m}^{-2} \text{yr}^{-1}"), ("12 (hours)", "12"),
        (r"12\ (\text{cm})", "12"),
        ("18元", "18"), ("18 厘米", "18"), ("18个", "18"), (r"2m\mu", r"2\mu m"),
    ],
    "words and marks before a number": [
        ("about 5", "5"), (r"\text{approximately } 1.07", "1.07"), (r"\sim 1.07", "1.07"),
        (r"\text{Total: } 5", "5"),
        ("Ans: 5", "5"), ("Thus, x = 5", "5"), ("roughly 5", "5"), (r"\Rightarrow 5", "5"), ("∴ 5", "5"),
        (r"\therefore x=5", "5"), ("5 ✓", "5"),
        (r"5 \checkmark", "5"), (r"\textbf{(C) } 12", "12"), ("(C) 12", "12"), (r"(C)\ \frac{1}{2}", "0.5"),
        ("C. 12", "12"), ("Answer: (C) 12 cm", "12"), ("(C)(x+1)", "C(x+1)"),
    ],
    "roots of negative numbers, degrees in functions": [
        ("-2", r"\sqrt[3]{-8}"), (r"\sqrt[3]{-2}", r"-\sqrt[3]{2}"), ("-3", r"\sqrt[5]{-243}"),
        (r"2i", r"\sqrt{-4}"),
        (r"\sin70^\circ", r"\cos 20^\circ"), (r"\sin(70^\circ)", r"\cos(20^\circ)"),
        ("1/2", r"\sin 30^\circ"),
        (r"2\sin 10^\circ\cos 10^\circ", r"\sin 20^\circ"), (r"\frac{\sqrt3}{2}", r"\sin 60^{\circ}"),
        (r"\tan\theta=1, \theta=45^\circ", r"\tan\theta=1, \theta=45"),
    ],
    "marks in the wrong place": [
        (r"(5\%,6\%)", "(5,6)"), (r"5\% \text{ and } 6\%", "5,6"), (r"\frac52\%", "2.5"), ("x_{a}", "x_a"),
        ("5.", "5"),
        (r"x\in\{5\}", "5"), (r"x \in \mathbb{Z}", r"\mathbb{Z}"), ("(x,y)=(5,6)", "(5,6)"),
        ("f(x,y)=5", "5"),
        (r"\text{(C) orange}", r"\text{(C)}"),
    ],
    "words that change a number": [
        ("5 months", "5"), ("5 stones", "5"), ("5 paths", "5"),
    ],
    "spellings of names": [
        (r"M_\odot+1", r"1+M_{\odot}"), (r"x_\alpha+1", r"1+x_{\alpha}"),
        (r"T_\text{max}+1", r"1+T_{\text{max}}"),
        (r"\frac{\dot{x}_{0}}{\omega}", r"\dot{x}_{0}/\omega"), (r"\vec{v}_1+1", r"1+\vec{v}_{1}"),
        (r"\varphi", r"\phi"), (r"2\varepsilon+1", r"1+2\epsilon"), ("x_1^2+1", "1+x^2_1"),
        ("x_{12}^{2}", "x^{2}_{12}"),
        ("f'", r"f^{\prime}"), ("y''+y=0", r"y^{\prime\prime}+y=0"), (r"\log_3^2 x", r"\log^2_3 x"),
        (r"0.003^{\prime\prime}", r"0.003^{\prime \prime}"), ("10^(-3)", "0.001"), ("10**(-3)", "10^{-3}"),
    ],
    "LaTeX escaped twice": [
        (r"\\frac{1}{2}", r"\frac{1}{2}"), (r"90^\\circ", "90"), (r"5\\%", "5"), (r"\\text{A}", "A"),
        (r"2\\sqrt{3}", r"\sqrt{12}"), (r"\\left(1, 2\\right)", "(1,2)"), (r"3 \\times 10^4", "30000"),
        (r"\begin{pmatrix}1\\\frac12\end{pmatrix}", "(1,1/2)"),
        (r"\begin{pmatrix}1\\\sqrt{3}\end{pmatrix}", r"(1,\sqrt3)"),
    ],
    "what a derivative, ratio or sine is": [
        (r"\frac{dy}{dx}=2x", "dy/dx=2x"), ("2x", r"\frac{dy}{dx}=2x"), ("y'=2x", r"\frac{dy}{dx}=2x"),
        (r"\frac{AB}{CD}=\frac12", "AB:CD=1:2"), ("1:2", r"\frac{AB}{CD}=\frac12"),
        ("1/2", r"\sin\theta=\frac12"),
        ("x=5", "t=5"),
    ],
    "near misses of the kinds above": [
        ("10,100", "10, 100"), ("25,100", r"\{25,100\}"), ("3,125", "3, 125"), ("16,256", "x=16, x=256"),
        ("-5,100", "-5, 100"), ("0, 120", "0,120"), ("sin 10°", r"\sin 10^\circ"),
        ("cos 20°", r"\cos 20^\circ"), ("5米", r"5\text{ m}"), ("5平方厘米", r"5\text{ cm}^2"),
        (r"\tg 20^\circ", r"\tan 20^\circ"), (r"\sin x+45^\circ", r"45^\circ+\sin x"),
        (r"2\cos 40^\circ + 30^\circ", r"30^\circ+2\cos 40^\circ"),
        (r"y^{\prime 2}+1", r"1+y^{\prime 2}"), ("2(x+1) or 2x+2", "2x+2"),
    ],
}  # fmt: skip
WRONG = {
    "names tell which value is which": [
        ("u=4, v=9", "u=9, v=4"), ("f(1)=3, f(2)=2", "f(1)=2, f(2)=3"),
        (r"\angle P=40, \angle Q=50", r"\angle P=50, \angle Q=40"), ("PQ=7, QR=5", "PQ=5, QR=7"),
        ("f(n)=1, g(n)=n", "f(n)=n, g(n)=1"), ("u=4; v=9", "u=9; v=4"), ("u=4 and v=9", "u=9 and v=4"),
        (r"u=4 \text{ and } v=9", r"u=9 \text{ and } v=4"), ("a_{1}=2,a_{2}=3", "a_1=3,a_2=2"),
        (r"\text{width}=3, \text{length}=5", r"\text{width}=5, \text{length}=3"),
        ("sum=3, product=5", "sum=5, product=3"), ("max=3,min=5", "max=5,min=3"),
        (r"\text{side length}=3,\text{area}=9", r"\text{side length}=9,\text{area}=3"),
        ("v=4,u=9", "u=4,v=9"), (r"\{u=4, v=9\}", r"\{u=9, v=4\}"), ("[u=4, v=9]", "[u=9, v=4]"),
        ("(u,v)=(4,9)", "(v,u)=(4,9)"), ("(9,4)", "u=4,v=9"), ("9,4", "u=4,v=9"), ("x>1,y>2", "x>2,y>1"),
        (r"x\in[0,1],y\in[2,3]", r"x\in[2,3],y\in[0,1]"), ("x=1,y=2;x=3,y=4", "x=1,y=4;x=3,y=2"),
        ("x=1,y=2 or x=3,y=4", "x=1,y=4 or x=3,y=2"), ("x=1,y=2", "x=1,z=2"), ("u=4", "u=4,v=9"),
        ("u=4,v=9,w=1", "u=4,v=9"), (r"u\approx4,v\approx9", r"u\approx9,v\approx4"),
        ("|AB|=7,|CD|=5", "|AB|=5,|CD|=7"), (r"\begin{cases}u=4\\v=9\end{cases}", "u=9,v=4"),
        (r"\vec{u}=(1,2),\vec{v}=(3,4)", r"\vec{u}=(3,4),\vec{v}=(1,2)"),
        ("f'(1)=3,f(1)=2", "f'(1)=2,f(1)=3"), ("x=y=z=5", "x=y=z=6"), ("x=y=5,z=6", "x=y=z=5"),
        ("6", "x=y=z=5"), ("x=5,y=5", "5"), ("5", "x=5,y=5"), (r"u=\log_4 8,v=1", "u=1.5,v=1"),
    ],
    "numbers to be worked out": [
        ("3+9-4", "8"), (r"12\cdot13", "156"), ("(3+9-4)", "8"), ("{3+9-4}", "8"), ("[3+9-4]", "8"),
        (r"\{3+9-4\}", "8"), ("|3+9-4|", "8"), ("(3)+(9)-(4)", "8"), ("x=3+9-4", "8"), ("f(x)=3+9-4", "8"),
        ("3+9-4 = ?", "8"), ("3+9-4=9", "8"), (r"3+9-4\approx 8", "8"), ("3+9−4", "8"), ("３+９-４", "8"),
        ("**3+9-4**", "8"), (r"\text{3+9-4}", "8"), (r"\boxed{3+9-4}", "8"), ("3+9-4 apples", "8"),
        (r"3+9-4\text{ dollars}", "8"), (r"3 \text{ plus } 9 \text{ minus } 4", "8"), ("8+0", "8"),
        ("8*1", "8"), ("8^1", "8"), ("-(-8)", "8"), ("--8", "8"), ("8+x-x", "8"), ("8x/x", "8"),
        (r"8\sin^2x+8\cos^2x", "8"), (r"\frac{3+9-4}{1}", "8"), ("12*13", "156"), ("12×13", "156"),
        ("12 x 13", "156"), ("(12)(13)", "156"), ("12 times 13", "156"), ("2^{10}", "1024"), ("32^2", "1024"),
        ("10^3", "1000"), ("5!", "120"), (r"\binom52", "10"), (r"\sqrt[3]{8}", "2"), ("8^{1/3}", "2"),
        (r"\log_2 8", "3"), (r"\log_4 8", "1.5"), (r"e^{\ln 8}", "8"), ("|-5|", "5"),
        (r"\lfloor3.7\rfloor", "3"), (r"17\bmod5", "2"), (r"\max(2,5)", "5"), (r"\gcd(12,18)", "6"),
        (r"\cos 0", "1"), (r"\sin\frac{\pi}{4}", r"\frac{\sqrt2}{2}"), ("i^2", "-1"),
        (r"\sqrt2\cdot\sqrt2", "2"), (r"\frac12+\frac13", r"\frac56"), ("0.5+0.25", "0.75"),
        (r"50\%+25\%", "0.75"), (r"6\div2", "3"), ("6÷2", "3"), ("7.5/2.5", "3"),
        (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", "-2"), ("(3+9-4, 2)", "(8,2)"), ("2, 3+5", "2, 8"),
        ("(1+1,5)", "(2,5)"), ("x=1+1,y=2", "x=2,y=2"),
        (r"\begin{pmatrix}1+1\\3\end{pmatrix}", r"\begin{pmatrix}2\\3\end{pmatrix}"), ("x-x", "0"),
        ("-2^2", "-4"),
    ],
    "equations and inequalities to be solved": [
        ("2x+1>5", r"(2,\infty)"), ("4x=20", "x=5"), ("4x=20", "5"), ("-x=-5", "x=5"),
        ("x>2, x<5", r"\mathbb{R}"), ("x-5=0", "x=5"), ("x+1=6", "x=5"), ("x/5=1", "x=5"), ("5=2x-5", "x=5"),
        ("x=2x-5", "x=5"), ("3x-2<7", "x<3"), ("-2x<-4", "x>2"), ("x>1+1", "x>2"), ("x^2<4", "(-2,2)"),
        ("|x|<2", "(-2,2)"), (r"|x-1|\le2", "[-1,3]"), ("1<2x+1<5", "(0,2)"), ("2x>4,x<5", "(2,5)"),
        (r"\{x|2x+1>5\}", r"(2,\infty)"), ("2x+1>5", r"x\in(2,\infty)"),
        (r"1\le|z|\le 2", r"[-2,-1]\cup[1,2]"), ("x^2=4", "x=2,x=-2"), ("(x-2)(x-3)=0", r"\{2,3\}"),
        ("x+y=3,x-y=1", "x=2,y=1"), ("2^x=8", "x=3"), (r"\sqrt{x}>2", r"(4,\infty)"),
    ],
    "both sides of zero": [
        ("x", "|x|"), ("7-x", "|x-7|"), ("1", r"\frac{|x|}{x}"), ("x", r"\max(x,0)"),
        (r"\arcsin(\sin x)", "x"), (r"\lceil x\rceil", r"\lfloor x\rfloor+1"), (r"\sqrt{x^2}", "x"),
        (r"\sqrt{(x-3)^2}", "x-3"), (r"\sqrt{a^2-2ab+b^2}", "b-a"), (r"\sqrt{x^2y^2}", "xy"),
        ("(x^2)^{3/2}", "x^3"), ("x^2", "x|x|"), ("|x-10000|", "10000-x"), (r"\min(x,5)", "x"),
        (r"\max(x,1000)", "1000"), (r"\max(a,b)", "a"), (r"\max(x,y)", "y"), (r"\lfloor x\rfloor", "x-1/2"),
        (r"\lfloor 2x\rfloor", r"2\lfloor x\rfloor"), (r"\lfloor x/1000\rfloor", "0"),
        (r"\operatorname{sgn}(x)", "1"), (r"\arctan(\tan x)", "x"), ("|x+y|", "x+y"),
        (r"|\sin x|", r"\sin x"), ("(-1)^n", "1"), ("1", r"\gcd(m,n)"), ("mn", r"\operatorname{lcm}(m,n)"),
        (r"\sqrt{1-\sin^2x}", r"\cos x"), ("e^{|x|}", "e^x"),
    ],
    "powers of units": [
        (r"5\text{ m}^2", r"5\text{ m}"), (r"5\text{ m}²", r"5\text{ m}"), (r"5\text{ m}", r"5\text{ m}^{2}"),
        (r"5\text{ square meters}", r"5\text{ meters}"), (r"5\text{ cubic meters}", r"5\text{ m}^2"),
        ("10 cm^2", "10 cm"), ("5 cm²", "5 cm"), (r"5\text{ sq ft}", r"5\text{ ft}"),
        (r"5\text{ meters squared}", r"5\text{ meters}"), (r"5\ \mathrm{m}^2", r"5\ \mathrm{m}"),
        (r"5\text{ m^2}", r"5\text{ m}"), (r"5\text{ m/s}", r"5\text{ m/s}^2"),
        (r"5\text{ km per hour}", r"5\text{ km}"), (r"5\text{ s}^{-1}", r"5\text{ s}"),
        ("20 square units", "20 units"),
    ],
    "markdown and quotes": [
        ("**73**", "74"), ("*7*3", "73"), ("7**3", "73"), ('"73', "74"), ("f'", "f"),
    ],
    "decimals that repeat": [
        (r"0.\overline{3}", "0.3"), ("0.(3)", "0"), ("0.(3)", "0.3"),
        (r"0.\overline{34}", r"0.3\overline{4}"), (r"0.\overline{3}", r"0.\overline{4}"),
    ],
    "vectors and matrices": [
        (r"\langle1,2\rangle", "(2,1)"), ("(1,2)^T", "(2,1)"),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}^T", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
        (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
        (r"\begin{vmatrix}1&2\\3&x\end{vmatrix}", "x+6"),
    ],
    "notation for bars, binomials, fractions, functions": [
        (r"1\over2", "2"), (r"\nicefrac12", "2"), (r"{5\choose2}", r"\binom54"), (r"\lg 2", r"\ln 2"),
        (r"\lvert x\rvert", "x"), (r"2 \pmod 5", r"2 \pmod 7"), (r"3 \pmod 5", "2"),
        (r"1,3,\dots,n", r"1,2,\dots,n"), ("1,2,3,...", "1,2,3"), (r"1,2,\dots,n", "1,2,n"),
        ("1:1:6", "1:2:3"), ("4th", "3"),
    ],
    "fonts, colours, spaces": [
        (r"\textcolor{red}{5}", "6"), (r"\phantom{5}", "5"), (r"\hspace{5mm}", "5"),
        (r"\boldsymbol{5}", "55"),
    ],
    "signs that are independent": [
        (r"(\pm1,\pm2)", "(1,2)"), (r"(\pm1,\pm2)", "(1,2),(-1,2)"), (r"\pm2", "2"),
        (r"(\pm1,\mp1)", "(1,1),(-1,-1)"),
    ],
    "spaces in thousands": [
        ("1 2", "12"), ("1 00", "100"), ("1 0000", "10000"), ("2020 100", "2020100"), ("1, 000", "1000"),
    ],
    "unicode": [
        ("５", "6"), ("½", "2"), ("2½", "1"), ("x⁴", "x^3"), ("x⁴", "4x"), ("5²", "52"), ("2⁻³", "8"),
        ("x₂", "2x"), ("x₁", "x_2"), ("∅", "0"), ("٤٢", "42"), ("−5", "5"),
    ],
    "number and noun": [
        (r"5\text{ or }6", "5"), (r"5\text{ and }6", "5"), (r"5\text{ million}", "5"), ("5 dozen", "5"),
        (r"2\text{ to }3", "2"), (r"2\text{ to }3", "3:2"), (r"5\text{ less}", "5"), ("5 more", "5"),
        ("5 or more", "5"), (r"5\text{ at least}", "5"), ("5 percent less", "5"), ("5 squared", "5"),
        ("5 factorial", "5"), ("5 tenths", "5"), (r"5\text{ half}", "5"), ("5 pi", "5"), ("5x", "5"),
        (r"5\text{ x}", "5"), (r"5\text{ apples}", "6"), (r"5\text{ apples}", r"5\text{ oranges}"),
        (r"5\text{ apples}", r"5\text{ cm}"), ("5 apples and 3 oranges", "5"), ("5 apples 6", "5"),
    ],
    "phrases and choices": [
        (r"\text{no solution}", "0"), ("no", r"\emptyset"), ("no solution", "x=0"), ("all real numbers", "0"),
        (r"\text{all real numbers except }0", r"\mathbb{R}"), ("D", "C"), ("(D) 12", "C"), ("A, C", "C"),
        ("C and D", "C"), ("C D", "C"), ("CD", "C"), ("not C", "C"), ("A) 1 B) 2 C) 3", "C"),
        ("(C) 12 (D) 13", "C"), ("(C) 12", r"\text{(C) }13"),
    ],
    "commas in numbers": [
        ("1,000,5", "10005"), ("5,00", "5,000"), ("55,0", "55,000"), ("5,0000", "5,000"), ("0, 55", "55,000"),
        ("(5,0)", "5,000"), (r"\{5,0\}", "5,000"), ("5 and 120", "5,120"), ("1, 234", "1,234"),
        ("10, 0, 0", "10,000,000"), ("100, 0", "100,000"), ("100, 20", "100,020"), ("1,234,5", "12345"),
        ("1,000,2,000", "10002000"), ("100,200,30", "10020030"),
        ("12345", "1,234,5"), ("1,000,2,000", "1000,2001"),
    ],
    "marks between digits": [
        (r"8\hspace{1cm}9", "89"), (r"8\color{red}9", "89"), ("8$9", "89"), (r"8\left.9\right.", "89"),
        (r"8\big9", "89"), (r"8\,9", "89"), (r"\$5", r"5\text{ cents}"), (r"5\%", r"5\text{ dollars}"),
        (r"8\!9", "89"), (r"1\kern 2em 2", "12"), (r"8\phantom{1}9", "89"), (r"8\(9", "89"),
    ],
    "letters": [
        ("DAC", "CAD"), ("BCA", "ABC"), ("IV", "VI"), ("XI", "IX"), ("-1", "II"), ("-1", r"\text{II}"),
        (r"\text{add}", r"\text{dad}"), (r"\text{xis}", r"\text{six}"), (r"\text{XI}", r"\text{IX}"),
        ("BA", "AB"), ("IV,II", "VI,II"), ("A, CB", "A, BC"),
    ],
    "a number after a factor": [
        ("4 2", "42"), ("4 2", "8"), ("4 2", "6"), ("x 2 3", "6x"), ("2^3 4", "32"), ("(4)2", "42"),
        (r"1 2\pi", r"2\pi"), ("x2", "x^2"), ("3! 2", "12"), ("(2)3", "6"), (r"\frac12 3", "1.5"),
    ],
    "x as a times sign": [
        ("12 x 13", "156"), ("3x10", "30"), ("3x^8", "3e8"), ("3 x 10^8", "3e9"), ("x10^8", "10^8"),
        ("300000000", "3y10^8"),
    ],
    "like terms, sets and complex numbers to be worked out": [
        (r"3\sqrt2+\sqrt2", r"4\sqrt2"), (r"[0,2]\cap[1,3]", "[1,2]"), ("(1+i)^{10}", "32i"),
        ("i^{2023}", "-i"), (r"\frac{-3+4i}{1+2i}", "1+2i"), (r"\{1,2\}\cap\{2,3\}", r"\{2\}"),
        (r"\{1,2,3\}\setminus\{2\}", r"\{1,3\}"), ("3x+2x", "5x"), ("19x+1-4x-81", "15x-80"),
        ("(1+2i)(3-i)", "5+5i"), ("i^3", "-i"), ("2i+3i", "5i"), ("(1+2i)+(3-i)", "4+i"),
    ],
    "quantities left of an equals sign": [
        ("f(x+1)=2x", "f(x)=2x"), ("f(1)=3", "f(2)=3"), ("P(A)=0.5", r"P(A\cap B)=0.5"),
        ("f'(x)=2x", "f(x)=2x"), ("|x|=5", "5"), ("|z|<5", "5"), ("a(x+1)=6", "6"), ("f(x)>2", "2"),
        ("2x+z=1", "1"), ("x^2+y^2=25", "25"), ("m+n=25", "25"), ("xy=6", "6"), ("2x=6", "6"), ("2x=6", "3"),
        ("f(-2)=36", "35"), ("-x=5", "5"), ("x/2=5", "5"), ("x-1=5", "5"), ("2+2=5", "5"),
        ("f(1)=3,f(-2)=2", "f(1)=2,f(-2)=3"), ("x^2=4", "4"), ("|x|<2", "2"), ("|x-1|=5", "5"),
        ("m(a-b)=6", "6"), ("x(x+1)=6", "6"), ("AB:CD=3:5", "5:3"), ("(x+1)(x-2)=5", "5"), ("2(3)=5", "5"),
        (r"\frac{x}{2}=5", "5"), (r"\sqrt{x}=5", "5"), ("x!=6", "6"), ("2x=5", "5"), ("e^x=5", "5"),
        (r"\log x=5", "5"), ("xy=6", "x=6"), ("P(3)=4", "5"), (r"\sin x=1", r"x=\frac{\pi}{2}"),
        (r"5\sin x=3", "3"), ("|x|=5", r"\pm5"), ("(f(1),f(2))=(3,4)", "(4,3)"),
    ],
    "sets with a colon": [
        (r"\{x : x > 0\}", "x<0"), (r"\{x : 2\}", "x/2"), (r"\{x:2x>4\}", "x>2"), (r"\{x/ 1\}", "1"),
    ],
    "cases and rows": [
        (r"\begin{cases}x&x\ge0\\-x&x<0\end{cases}", r"\begin{cases}x&x>0\\-x&x\le0\end{cases}"),
        (r"\begin{cases}x&x\ge0\\-x&x<0\end{cases}", r"\begin{cases}x&x<0\\-x&x\ge0\end{cases}"),
        (r"\begin{pmatrix}1\\[6pt]2\end{pmatrix}", "(2,1)"),
        (r"\begin{pmatrix}1&2\cr3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"),
        (r"\left\{\begin{array}{l}x=1\\y=2\end{array}\right.", "(2,1)"),
    ],
    "degrees": [
        ("45^{o}", "46"), ("45^{0}", "45"), ("x^o", "x"), ("45^{o}", r"45\text{ cm}"), ("45C", "45"),
        ("45^o5", "455"),
    ],
    "units in a line": [
        ("15 m^2", r"15\text{ m}"), ("2", "2 g"), ("15g", "15"),
        (r"15\% \text{ increase}", r"15\% \text{ decrease}"), ("15 km/h", r"15\text{ m/s}"),
        ("15 m^2", r"15\text{ m}"), ("15 m²", "15 m^3"), ("15 m/s", "15 km/h"), ("15 sq ft", "15 ft"),
        (r"15\ \mathrm{m\cdot s^{-1}}", r"15\text{ m}"), ("15m", "15"), ("15m^2", "15"), ("15 x/y", "15"),
        ("15a/b", "15"), ("Rs. 15", "16"), ("15^{th}", "16"), ("m^2", "2"), ("15^{t}", "15"),
        (r"15\% \text{ increase}", "15.5"), ("15h", "15"), ("15 m + 2", "17"), ("2 s^2", "2s"),
        ("15 n", "15"),
    ],
    "dots after digits that repeat": [
        ("0.33...", "1/3"), ("0.333", "1/3"), ("0.3...", "1/3"), ("0.333...", "1/4"), ("1.414...", r"\sqrt2"),
        ("0.3334...", "1/3"),
    ],
    "bases, infinity, times, chains": [
        (r"1001_{\text{two}}", "1001_3"), ("(1001)_2", "9"), ("(1001)_2", "1001"), ("(-oo,2)", "(-oo,3)"),
        ("8:30 p.m.", "8:30 AM"), ("C>B>A", "A>B>C"), ("C>B>A", "C<B<A"), ("8:30 p.m.", "8:31 p.m."),
        ("A<B<C", "A<C<B"), ("a<b", "b<a"), ("C>B>A", r"A\le B\le C"),
    ],
    "answer as a word": [
        ("The answer is not 42", "42"), ("Answer: 41", "42"), ("The answer is", "42"), ("Answer: C", "D"),
        ("The answer is 42 or 43", "42"), ("answers 42", "42"),
    ],
    "zeros and small terms": [
        ("(a+b-c)(a+b-c)", "(a+b)^2-c^2"), ("(a+b-c)(a+b+2c)", "(a+b)^2-c^2"), ("|x-16|", "x-16"),
        ("x", "x-16"),
        ("10^{-130}x", "0"), ("e^{50}+1", "e^{50}"), (r"3^{100}\sqrt2", r"3^{100}\sqrt2+5"),
        ("2^{100}x+1", "2^{100}x+2"), (r"\sqrt{2}+10^{-16}", r"\sqrt2"), (r"3^{200}\pi+1", r"3^{200}\pi"),
        (r"2^{100}x+y", r"2^{100}x+2y"),
    ],
    "names up to `and`, `or` and closing brackets": [
        (r"x=t \text{ or } x=5", "5"), ("a=b or c=5", "5"), ("k=n or k=3", "3"), (r"\text{not }x=5", "5"),
        ("not x<5", "x<5"), ("x=a and x=b", "b"), ("x=a or x=b", "x=a,x=c"), ("{x=2", "2"), ("x=2}", "2"),
        (r"\frac{x}{A}+\frac{y}{B}=1", r"\frac{x}{A}+\frac{y}{B}+1=0"),
        (r"y=\frac{x}{AB}", r"y=\frac{x}{AC}"),
    ],
    "chains of what is no number": [
        ("x^2-1=(x-1)(x+2)", "x^2-1"), ("x^2-1=(x-1)(x+1)=0", "x^2-1"), ("(2,3)=(3,2)", "(2,3)"),
        ("x^2+1=2x^2", "x^2+1"), ("3x+2x", "5x"), ("8=9-x", "8"), ("x=y", "x+1=y+1=z"), ("2x=x+x=4", "4"),
    ],
    "the same said twice": [
        ("3/4 or 0.76", "3/4"), (r"\frac34 (0.76)", "3/4"), ("x=5 or y=5", "5"), ("3 or 4", "4"),
        ("5 (5.1)", "5"),
        ("2(1.5)", "2"), ("2,3 or 2,4", "2,3"), ("3/4 or", "3/4"), ("3+9-4 or 8", "8"),
        (r"\frac{1}{3} (\approx 0.4)", "1/3"), ("3/4 (or 0.76)", "3/4"), ("3/4 (= 0.76)", "3/4"),
    ],
    "equations with their sides swapped": [
        ("y=x", "x=z"), ("y=x", "y"), ("b=a", "c=b"), ("n^2=f(n)", "f(n)=n^3"), ("y=2x", "x=2y"),
        ("c^2=E", "E=mc^2"),
    ],
    "symbols of units": [
        (r"5\Omega", "6"), (r"5\ \Omega", r"5\text{ m}"), (r"5\mu", "5"), (r"5\mu m g", "5"), ("10 nx", "10"),
        ("12 (hours)", r"12\text{ minutes}"), ("12(x)", "12"), ("12(abc)", "12"), ("18万", "18"),
        ("18个", "19"),
        (r"5\,\frac{\text{kg}}{\text{m}^3}", r"5\,\frac{\text{kg}}{\text{m}^2}"), ("5M", "5"),
    ],
    "words and marks before a number": [
        ("about 5", "6"), ("about 5 or 6", "5"), ("Total: 5", "6"), (r"\Rightarrow 6", "5"), ("✓", "5"),
        ("(C) 12", "13"), ("(C) 12 or 13", "12"), ("(C) not 12", "12"), ("(K) 12", "12"), ("(12) 5", "5"),
        ("(C) 12 (D) 13", "12"), ("not about 5", "5"),
    ],
    "roots of negative numbers, degrees in functions": [
        ("2", r"\sqrt[3]{-8}"), (r"\sqrt[3]{-8}", "-2"), (r"\sqrt[4]{-16}", "-2"),
        (r"\cos 20", r"\cos 20^\circ"),
        (r"\cos 20^\circ", r"\cos 20"), (r"\sin 30^\circ", "1/2"), (r"\sin70^\circ", r"\sin 20^\circ"),
    ],
    "marks in the wrong place": [
        ("5%%", "5"), ("50%%", "0.005"), (r"5\%\%", r"5\%"), ("5_{}", "5"), ("x_{}", "x"), ("..5", "0.5"),
        ("(x,y)=5", "5"), (r"x \in 5", "5"), (r"4a^3 \%+ a^2", "4a^3 + a^2"), (r"(3,-2\%,-9)", "(3,-2,-9)"),
        (r"5\%x", "5x"), (r"\text{(C) } \text{ or } 7", r"\text{(C)}"), ("(C) not 7", "(C)"),
    ],
    "words that change a number": [
        ("5 sixths", "5"), ("5 eighths", "5"), ("5 twelfths", "5"), ("5 millionths", "5"), ("5 lakh", "5"),
        ("5 crore", "5"), ("5 score", "5"), ("5 gross", "5"), ("5 quadrillion", "5"), ("5 except one", "5"),
        ("5 doubled", "5"), ("5 added one", "5"), ("5 seventeenths", "5"), ("5 twentieths", "5"),
        ("5 halved", "5"),
        (r"5\text{ septillion}", "5"), ("5 fourths", "5"), ("5 hundredths", "5"),
    ],
    "spellings of names": [
        (r"M_\odot+1", r"1+M_{\oplus}"), (r"T_\text{max}", r"T_\text{min}"), (r"\vec{v}_1", r"\vec{v}_2"),
        (r"\dot{x}_{0}", r"\dot{x}"), (r"\varphi", r"\psi"), ("x_1^2", "x_2^1"), ("f'", "f''"),
        ("f'", r"f^{\prime\prime}"),
        ("10^(-3)", "0.01"), ("10^(3)", "1000"),
    ],
    "LaTeX escaped twice": [
        (r"\\frac{1}{2}", "2"), (r"\begin{pmatrix}1\\\frac12\end{pmatrix}", "(1/2,1)"), (r"5\\6", "30"),
    ],
    "what a derivative, ratio or sine is": [
        (r"\frac{dx}{dy}=2x", r"\frac{dy}{dx}=2x"), (r"\frac{dt}{dx}=kx-a", r"\frac{dx}{dt} = kx - a"),
        (r"\sin x=2\theta", r"\tan \theta = 2\theta"), (r"\cos\theta=\frac35", r"\sin\theta=\frac35"),
        ("y=2x", r"\frac{dy}{dx}=2x"), (r"\frac{CD}{AB}=\frac12", r"\frac{AB}{CD}=\frac12"),
        ("CD:AB=3:5", "AB:CD=3:5"), ("y'=2x", r"\frac{dx}{dy}=2x"), (r"\cos x=2x", "y'=2x"),
        (r"\cos A=\frac12", r"\cos B=\frac12"), (r"\frac{AB}{CD}=\frac12", "AB:CD=2:1"),
    ],
    "near misses of the kinds above": [
        ("120", "0,120"), ("e^{-2023}", "e^{-2024}"), ("0", "e^{-2024}"),
        (r"\frac{\pi}{3^{301}}", r"\frac{\pi}{3^{300}}"),
        (r"\frac{x}{3^{300}}", r"\frac{x}{3^{301}}"), (r"\frac{x}{10^{130}}", r"\frac{y}{10^{130}}"),
        ("p", r"\sim p"), (r"p \lor q", r"\sim p \lor q"), ("5千米", "5米"), ("5 cm", "5米"),
        ("5平方米", "5米"), ("5天", "5 hours"), (r"5\mu x", "5"), ("2(x+1) or 2x+3", "2x+2"),
    ],
}  # fmt: skip
JUDGED = [
    (*row, expected, kind)
    for rows, expected in ((RIGHT, True), (WRONG, False))
    for kind in rows
    for row in rows[kind]
]


@pytest.mark.parametrize("answer, truth, expected, why", ROWS)
def test_answers_match(answer, truth, expected, why):
    assert answers_match(answer, truth) is expected
    assert answers_match(truth, answer) is expected, "equality is symmetric"


@pytest.mark.parametrize("answer, truth, expected, kind", JUDGED)
def test_kinds(answer, truth, expected, kind):
    assert answers_match(answer, truth) is expected
    assert answers_match(truth, truth), "a reference is its own answer"


def test_no_string_reaches_a_parser_of_sympy(monkeypatch):
    """A comparison of a sympy object with a tuple once called sympify, which evaluates strings."""
    import sympy.parsing.sympy_parser as sympy_parser

    answers_match("x+1", "x+2")  # imports sympy
    reached = []

    def refuse(*args, **kwargs):
        reached.append(args)  # answers_match swallows what is raised
        raise AssertionError(f"parsed {args[0]!r}")

    monkeypatch.setattr(sympy_parser, "parse_expr", refuse)
    for answer, truth, expected, _ in ROWS + JUDGED:
        assert answers_match(answer, truth) is expected
    assert reached == []


@pytest.mark.parametrize(
    "text, expected",
    [
        (r"so \boxed{7}.", "7"),
        (r"\boxed{1} and \boxed{2}", "2"),
        (r"\boxed{1}, then \fbox{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{1\right.}", r"\left\{1\right."),
        (r"\boxed 7", "7"),
        (r"$\boxed 7$", "7"),
        (r"\boxed {7}", "7"),
        (r"\boxed{}", ""),
        (r"\boxed{73}, as \boxed{} wants it", "73"),
        (r"\boxed{73}, as \boxed{...} wants it", "73"),
        (r"\boxed{73} in a \boxed", "73"),
        (r"\boxed{73} in \boxed{\text{your answer}} or \boxed{\,{}~}", "73"),
        (r"\boxed{73}, or \boxed{\{\}}", r"\{\}"),
        (r"\boxed{73}, in \boxed form.", "73"),
        (r"\boxed{x}, not \boxed 3x", "3x"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed{\emptyset}", r"\emptyset"),
        (r"\boxed{1} and \boxed{2", None),
        (r"\boxed{}" * 20_000, ""),
        (r"\boxed{1}, " * 20_000, "1"),
        ("no box", None),
        ("", None),
        (r"\boxed", None),
        (r"\boxed{" * 50_000, None),
        ("x" * 200_000, None),
    ],
)
def test_extract_boxed(text, expected):
    assert extract_boxed(text) == expected


@pytest.mark.parametrize(
    "text, expected",
    [
        ("thinking </think> <answer> 7 </answer>", " 7 "),
        ("thinking</think><answer>7</answer>", "7"),
        ("thinking</think>\n\n\t<answer>7</answer>", "7"),
        ("</think> so <answer>7</answer>", None),
        ("</think> <answer>6</answer> No: </think> <answer>7</answer>", "7"),
        ("<answer>7</answer> </think>", None),
        ("thinking <answer>7</answer>", None),
        ("</think> <answer>7", None),
        ("</answer> </think> <answer>", None),
        ("</think><answer>" * 20_000, None),
        ("</think>" + " " * 200_000, None),
    ],
)
def test_extract_answer_tag(text, expected):
    assert extract_answer_tag(text) == expected


def test_verify():
    assert verify(r"\boxed{1/2}", ("0.5",), "boxed") == (True, True, False)
    assert verify(r"\boxed{2}", ("1", "2"), "boxed").correct, "any reference will do"
    assert verify(r"\boxed{3}", ("1", "2"), "boxed") == (True, False, False)
    assert verify(r"\boxed{}", ("",), "boxed") == (True, False, False)
    assert verify("7", ("7",), "boxed") == (False, False, False)
    assert verify(r"</think> <answer>7</answer>", ("7",), "answer_tag") == (True, True, False)
    assert verify(r"</think> <answer>It is \boxed{7}.</answer>", ("7",), "answer_tag").correct
    assert verify("</think> <answer></answer>", ("7",), "answer_tag") == (True, False, False)
    assert verify(r"</think> <answer>**7**</answer>", ("7",), "answer_tag").correct
    assert verify(r"</think> <answer>\boxed{2} and \boxed{3}</answer>", ("2,3",), "answer_tag").correct
    assert not verify(r"\boxed{7} </think> <answer>8</answer>", ("7",), "answer_tag").correct
    assert not verify(r"\boxed{7}", ("7",), "answer_tag").formatted


@pytest.mark.parametrize(
    "response, truth, expected",
    [
        (r"\boxed{2} and \boxed{3}", "2, 3", True),
        (r"$\boxed{2}$ and $\boxed{3}$.", "3,2", True),
        (r"\boxed{2}, \boxed{3}, and \boxed{5}", "2,3,5", True),
        (r"\(\boxed{2}\) or \(\boxed{3}\)", r"2 \text{ or } 3", True),
        (r"\boxed{2}\text{ and }\boxed{3}", "2,3", True),
        (r"\boxed{x=2}, \boxed{x=3}", "x=3, x=2", True),
        (r"\boxed{7} is wrong. So \boxed{2} and \boxed{3}", "2,3", True),
        ("\\boxed{2,3}\n\n\\boxed{2,3}", "2,3", True),  # said again
        (r"\boxed{2} and \boxed{3}", "3", True),  # the last box, as graders label it
        (r"\boxed{2} and \boxed{3}", "2", False),
        (r"\boxed{1}, \boxed{2} and \boxed{3}", "2,3", False),  # no list of guesses
        (r"\boxed{2} and \boxed{3}", "2,3,4", False),
        (r"\boxed{10} and then \boxed{42}", "10,42", False),
        (r"\boxed{5} and \boxed{1,000}", "1,000", True),
        (r"\boxed{8} and \boxed{(1,2)}", "(1,2)", True),
        (r"\boxed{1+\sqrt{19}} and \boxed{1-\sqrt{19}}", r"1 \pm \sqrt{19}", True),
        (r"\boxed{-2}, \boxed{1+\sqrt5}, and \boxed{1-\sqrt5}", r"\{1\pm\sqrt{5},-2\}", True),
        (r"\boxed{2}\text{ and }\boxed{3}", r"\{2,3\}", True),
        (r"\boxed{2}, \boxed{3}", r"\left\{ 3, 2 \right\}", True),
        (r"x = \boxed{2} or x = \boxed{3}", "2,3", True),
        (r"\(x_1=\boxed{2}\), \(x_2=\boxed{3}\)", "2,3", True),
        (r"x = \boxed{2} or y = \boxed{3}", "2,3", False),
        (r"\boxed{2} or x = \boxed{3}", "2,3", False),
        (r"x = \boxed{2} or x = \boxed{3}", "3", True),  # the last, as above
        (r"\boxed{2} and \boxed{3}", r"\{3\}", True),
        (r"\boxed{2} and \boxed{3}", r"\pm 2", False),
        (r"\boxed{1}, \boxed{2} and \boxed{3}", r"\{2,3\}", False),
    ],
)
def test_several_boxes(response, truth, expected, pool):
    assert verify(response, (truth,), "boxed").correct is expected
    assert pool.verify_all([response], [(truth,)], "boxed")[0].correct is expected


def test_the_arithmetic_task_is_not_answered_by_its_question():
    for problem in arithmetic_problems(count=40, seed=3):
        question = problem.question.removeprefix("What is ").removesuffix("?")
        (truth,) = problem.answers
        wrong = [question, f"{question} = ?", f"({question})", f"x = {question}", f"\\text{{{question}}}"]
        wrong += [question.replace(" ", ""), question.replace("-", "−"), f"**{question}**", f"{{{question}}}"]
        wrong += [f"{question} + 0", f"\\frac{{{question}}}{{1}}", f"{question} apples", problem.question]
        assert [answer for answer in wrong if answers_match(answer, truth)] == []
        assert answers_match(f"{question} = {truth}", truth) and answers_match(truth, truth)


LATEX = st.text(alphabet="0123456789.,+-*/^_=<>()[]{}|!%& \\xyefi", max_size=30)
PIECES = r"\frac \sqrt \pm \cup \infty \text{cm} \begin{pmatrix} \end{pmatrix} \in \{ \} x".split()
PIECES += [*"12^_=<,;+-|!%{}()[]"]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(LATEX | st.lists(st.sampled_from(PIECES), max_size=14).map(" ".join), LATEX)
def test_never_raises_and_equals_itself(text, other):
    assert answers_match(text, text) is (normalize(text) != "")
    assert answers_match(text, other) in (True, False)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(max_size=200))
def test_any_text_is_handled(text):
    assert answers_match(text, "42") in (True, False)
    assert verify(text, ("42",), "boxed").correct is False or "boxed" in text


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(-(10**30), 10**30), st.integers(1, 9))
def test_integers_compare_exactly(number, difference):
    assert answers_match(f"{number}.0", f"{number:,}")
    assert not answers_match(str(number + difference), str(number))
    assert not answers_match(f"{number}+{difference}", str(number))


@pytest.mark.skipif(not CASES.exists(), reason="the labelled cases are not here")
def test_labelled_cases():
    cases = [json.loads(line) for line in CASES.read_text().splitlines()]
    golds = {case["gold"] for case in cases if case["category"] == "identity"}
    assert [gold for gold in golds if not answers_match(gold, gold)] == []
    for prefix, bound in (("rewrite/", 0.005), ("corrupt/", 0.0005)):
        chosen = [case for case in cases if case["category"].startswith(prefix)]
        wrong = [case for case in chosen if answers_match(case["answer"], case["gold"]) != case["expected"]]
        answers = [case for case in wrong if case["form"] == "answer"]
        assert len(answers) <= bound * len(chosen), answers


@pytest.fixture(scope="module")
def pool():
    with VerifierPool(1) as pool:
        yield pool


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_answers(kind, pool, tmp_path):
    canary = tmp_path / "canary"
    answer = HOSTILE[kind].replace("{canary!r}", repr(str(canary))).replace("{canary}", str(canary))
    pool.verify_all([r"\boxed{x+1}"], [("1+y",)], "boxed")  # waits until a worker is ready
    start = time.monotonic()
    (verdict,) = pool.verify_all([rf"\boxed{{{answer}}}"], [("42",)], "boxed")
    assert time.monotonic() - start < 3 * pool.timeout_s, (
        "an answer may hold a worker for timeout_s, no longer"
    )
    assert not verdict.correct
    assert not canary.exists()
    assert pool.verify_all([r"\boxed{x+1}"], [("1+x",)], "boxed") == [(True, True, False)], "the pool lives"


class StandInPool(VerifierPool):
    def _start(self):
        command = [sys.executable, ROOT / "tests" / "stub_worker.py", str(self.timeout_s)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, bufsize=0, **pipes)


def test_a_hung_or_dead_worker_costs_one_answer():
    """With a pool of two, two hung answers once made every later one time out."""
    answers = ["hang", "good", "die", "hang", "good", "overflow", "good", "bad"]
    with StandInPool(2, timeout_s=1.0) as pool:
        verdicts = pool.verify_all(
            [rf"\boxed{{{a}}}" for a in answers], [("good x",) for _ in answers], "boxed"
        )
        assert [v.timed_out for v in verdicts] == [a in ("hang", "die", "overflow") for a in answers]
        assert not any(verdict.correct for verdict in verdicts)


def test_a_worker_limits_its_memory_and_each_answers_time(monkeypatch):
    """The alarm is set for an answer and off between answers, or it would end an idle worker."""
    calls = []
    monkeypatch.setattr(resource, "setrlimit", lambda *limit: calls.append(("limit", limit[1])))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(signal, "setitimer", lambda _, seconds: calls.append(("alarm", seconds)))
    monkeypatch.setattr(os, "write", lambda _, data: calls.append(("write", data)))
    lines = [json.dumps([["x+1", "2"], ["x+1", "1+x"]]) + "\n", json.dumps([["x", "y"]]) + "\n"]
    monkeypatch.setattr(sys, "stdin", lines)
    work(2.0)
    assert calls == [
        ("limit", (2**31, 2**31)),
        ("write", b"r"),
        *[("alarm", 2.5), ("alarm", 0), ("write", b"1r")],
        *[("alarm", 2.5), ("alarm", 0), ("write", b"0r")],
    ]


def test_workers_ignore_what_a_launcher_sends_to_all_processes_of_a_rank():
    answers = [(f"x + {i}", (f"{i} + x",)) for i in range(8)]
    responses, references = [f"\\boxed{{{given}}}" for given, _ in answers], [truths for _, truths in answers]
    with VerifierPool(2, timeout_s=10.0) as pool:
        assert all(verdict.correct for verdict in pool.verify_all(responses, references, "boxed"))
        workers = [pool.workers.get() for _ in range(3)]
        for worker in workers:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                worker.send_signal(number)
            pool.workers.put(worker)
        assert all(verdict.correct for verdict in pool.verify_all(responses, references, "boxed"))
        assert all(worker.poll() is None for worker in workers)


def test_workers_are_no_part_of_what_a_terminal_interrupts():
    with VerifierPool(1) as pool:
        worker = pool.workers.get()
        assert os.getpgid(worker.pid) == worker.pid != os.getpgrp()
        pool.workers.put(worker)


def test_pool_keeps_order_and_accepts_any_reference():
    responses = [rf"\boxed{{x+{i}}}" for i in range(50)]
    answers = [("y", f"{i}+x") if i % 3 else ("z", "y") for i in range(50)]
    with VerifierPool(2, timeout_s=10.0) as pool:  # a busy machine may need more than a second
        verdicts = pool.verify_all(responses, answers, "boxed")
        assert [verdict.correct for verdict in verdicts] == [bool(i % 3) for i in range(50)]
        assert not any(verdict.timed_out for verdict in verdicts)
        assert pool.verify_all([], [], "boxed") == []
        assert pool.verify_all([r"\boxed{x+1}"], [("1+x", "y+1")], "boxed")[0].correct  # not the last one
        # One reference is refused by its text alone, the other needs mathematics.
        assert pool.verify_all([r"\boxed{5\text{ m}}"], [(r"5\text{ s}", r"\sqrt{25}")], "boxed")[0].correct
        empty = "</think> <answer></answer>"
        assert pool.verify_all([empty], [("7",)], "answer_tag") == [(True, False, False)]
        assert [v.correct for v in pool.verify_all(["", r"\boxed{7}"], [("7",)] * 2, "boxed")] == [
            False,
            True,
        ]
        with pytest.raises(ValueError, match="2 responses but 1"):
            pool.verify_all(["a", "b"], [("a",)], "boxed")


def test_a_worker_that_died_while_idle_costs_one_answer():
    with VerifierPool(1, timeout_s=10.0) as pool:
        workers = [pool.workers.get() for _ in range(2)]
        for worker in workers:
            select.select([worker.stdout], [], [], 60)  # it is ready
            worker.kill()
            worker.wait()
            pool.workers.put(worker)
        verdicts = [pool.verify_all([r"\boxed{x+1}"], [("1+x",)], "boxed")[0] for _ in range(3)]
        assert verdicts == [(True, False, True), (True, False, True), (True, True, False)]


def test_workers_that_cannot_start_end_the_run_and_a_closed_pool_leaves_none():
    class Dead(VerifierPool):
        def _start(self):
            return subprocess.Popen(["true"], bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    with Dead(1) as pool, pytest.raises(RuntimeError, match="did not start"):
        pool.verify_all([r"\boxed{x+1}"], [("1+x",)], "boxed")
    with VerifierPool(1) as pool:
        workers = [pool.workers.get() for _ in range(2)]
        for worker in workers:
            pool.workers.put(worker)
    assert all(worker.poll() is not None for worker in workers)


def test_pool_refuses_nonsense():
    with pytest.raises(ValueError, match="num_workers 0"):
        VerifierPool(0)
    with pytest.raises(ValueError, match="timeout_s 0"):
        VerifierPool(1, timeout_s=0)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("busy", [False, True])
def test_no_process_outlives_a_killed_parent(busy):
    script = f"""
import sys, threading, time
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from test_verify import StandInPool
pool = StandInPool(1, timeout_s=1.0)
pool.verify_all(["\\\\boxed{{a+b}}"], [("b+c",)], "boxed")
workers = [pool.workers.get() for _ in range(2)]
for worker in workers: pool.workers.put(worker)
print(*[worker.pid for worker in workers], flush=True)
if {busy}: pool.verify_all(["\\\\boxed{{hang}}"] * 9, [("b+c",)] * 9, "boxed")
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2 and all(alive(pid) for pid in workers)
    time.sleep(0.2)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in workers)


def test_import_is_light():
    heavy = ["mathexpr", "sympy", "torch", "numpy", "multiprocessing"]
    code = f"import sys, verify; assert not set({heavy}) & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_workers_start_from_any_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with VerifierPool(1, timeout_s=10.0) as pool:
        assert pool.verify_all([r"\boxed{a+b}"], [("b+a",)], "boxed") == [(True, True, False)]


@pytest.mark.parametrize("name", ["verify.py", "mathexpr.py"])
def test_nothing_in_the_files_evaluates_text(name):
    code = (ROOT / name).read_text().split('"""', 2)[2].replace("evalf(", "")
    for evaluates in ("eval(", "exec(", "sympify(", "parse_expr", "lambdify", "parse_latex", "sp.S("):
        assert evaluates not in code
