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
import unicodedata
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

BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:(?P<brace>\{)|(?<=\s)(?P<word>(?=\S*[0-9]|\w(?!\w))[^\s${}\\]+))")
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # `\{` is not one
# As in: put the answer into \boxed{}, or into \boxed{\text{your answer}}.
EMPTY = re.compile(
    r"(?:[\s.…?_$~{}]|\\(?:[ ,;:!]|(?:[lc]?dots|q?quad|text)(?![a-z]))|(?:the|your|final|answer|here)\b)*"
)
# What joins boxes to one answer. Without a comma or a word the last box gives the same answer again.
GAP = r"(?:[\s$~]|\\[()\[\],;\\ ]|\\q?quad)*"
NAMED = rf"([A-Za-z])(?:_\{{?[0-9]\}}?)?\s*={GAP}"  # x = \boxed{{2}} or x = \boxed{{3}}
JOINT = rf"{GAP}(?:(?:[,;]{GAP})?(?:\\text\s*\{{\s*(?:and|or)\s*\}}|and|or)|[,;]){GAP}(?:{NAMED})?"
JOINT, NAMED = re.compile(JOINT), re.compile(NAMED + "$")


def box_at(text: str, start: int) -> tuple[str | None, int]:
    """(content, end) of the box that starts there; the content is None if it has none or is cut off."""
    box = BOX.match(text, start)
    if not box or not box["brace"]:
        return (box["word"], box.end()) if box else (None, start)
    depth = 0
    for brace in BRACE.finditer(text, box.end()):
        if brace[0] == "}" and depth == 0:
            return text[box.end() : brace.start()], brace.end()
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
    return None, len(text)


def last_boxes(text: str) -> list[str]:
    """The last box with something in it, after those joined to it: \\boxed{2} and \\boxed{3} are ["2", "3"].

    [""] if all boxes are empty, [] if there is none or the last is cut off. \\fbox and `\\boxed 7` count.
    """
    boxes, empty, at = [], [], 0
    for start in reversed([found.start() for found in re.finditer(r"\\(?:boxed|fbox)", text)]):
        content, end = box_at(text, start)
        if content is None and end == start:
            continue  # the word alone
        joint, named = JOINT.fullmatch(text, end, at), NAMED.search(text[max(start - 20, 0) : start])
        if content is None or (boxes and not (joint and joint[1] in (None, named and named[1]))):
            break
        if EMPTY.fullmatch(content):
            empty = [""]
        else:
            boxes.append(content)
            at = start
    return boxes[::-1] or empty


def extract_boxed(text: str) -> str | None:
    """The content of the last \\boxed or \\fbox with content in it, None without one or if it is cut off."""
    return next(reversed(last_boxes(text)), None)


def extract_answer_tag(text: str) -> str | None:
    """The text between <answer> and </answer>, None unless </think> comes just before."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    if start < 0 or not text[:start].rstrip().endswith("</think>"):
        return None
    return text[start + len("<answer>") : end]


def extract(response: str, answer_format: AnswerFormat) -> list[str] | None:
    """The boxes that are the answer, or what the answer tag holds; None where the format is not kept."""
    if answer_format == "boxed":
        return last_boxes(response) or None
    answer = extract_answer_tag(response)
    return None if answer is None else last_boxes(answer) or [answer]


INSIDE = r"[(\[{][^()\[\]{}]*[)\]}]"  # brackets that hold no others


def given_for(boxes: list[str], truth: str) -> str:
    """Several boxes together answer a list, such as `2, 3`; for anything else the last one counts."""
    if len(boxes) == 1 or plain_number(truth.strip(" $")) is not None:
        return boxes[-1]
    bare = re.sub(r"\\(?:[{}]|[lr]brace)", "", truth)  # a set is a list too
    outside = re.sub(INSIDE, "", re.sub(INSIDE, "", bare))
    is_list = re.search("[,;]", outside) or re.search(r"\b(?:and|or)\b|\\pm(?![a-z])|±", truth)
    return ", ".join(boxes) if is_list else boxes[-1]


# ---- Normalization: one spelling for what is written in many ways ----

# LaTeX, and the characters that stand for it. A space will end the command's name: `2πx` is `2\pi x`.
UNICODE = r"""- −‐‑‒–—―⁃; \times ×; \cdot ·⋅∙•∗; \div ÷; / ⁄∕; : ∶; ' ′’‘; " “”„«»; \dots …; | ∣∥
\approx ≈≃; = ≡; \le ≤⩽≦; \ge ≥⩾≧; \ne ≠; \infty ∞; \cup ∪; \cap ∩; \in ∈; \setminus ∖; \emptyset ∅⌀
\land ∧; \lor ∨; \pm ±; \mp ∓; \sqrt √; \sqrt[3] ∛; ^\circ °∘˚º; \angle ∠; \triangle △; \mathbb{R} ℝ
\mathbb{Z} ℤ; \mathbb{N} ℕ; \mathbb{Q} ℚ; ( ⟨〈; ) ⟩〉; \lfloor ⌊; \rfloor ⌋; \lceil ⌈; \rceil ⌉; \$ €£¥₹₩₽
\text{cents} ¢; \AA Å; \Delta ∆; \Rightarrow ⇒⟹; \therefore ∴; \checkmark ✓✔✅; , 、; . 。"""
CHARACTERS = {ord(c): f"{pair[0]} " for pair in map(str.split, re.split("; |\n", UNICODE)) for c in pair[1]}
GREEK = """alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma
sigma tau upsilon phi chi psi omega"""
CHARACTERS |= {ord("α") + i: rf"\{name} " for i, name in enumerate(GREEK.split())}
CHARACTERS |= {ord("Α") + i: rf"\{name.title()} " for i, name in enumerate(GREEK.split())}

# Commands, without their backslash, to what replaces them. A space keeps 8 and 9 apart in 8\left.9\right.
IGNORED = """left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr
bf it rm sf tt sl em cal mathstrut strut ensuremath tiny scriptsize footnotesize small
normalsize large Large LARGE huge Huge textstyle scriptstyle nolimits nonumber notag smash mathop mathord
mathrel centering bfseries quad qquad thinspace enspace displaystyle limits hfill checkmark"""
COMMANDS = dict.fromkeys([*",;:> \n!()[]", *IGNORED.split()], " ")
COMMANDS |= {"%": "%", "$": r"\text{dollars}", "degree": r"^\circ ", "colon": ":"}
FONTS = "bf it rm normal sf tt up".split()
COMMANDS |= {kind + font: r"\text" for kind in ("text", "math") for font in FONTS}
COMMANDS |= dict.fromkeys("boldsymbol bm pmb underline emph mbox hbox".split(), r"\text")
COMMANDS |= dict.fromkeys(["dbinom", "tbinom"], r"\binom")
COMMANDS |= dict.fromkeys(["dfrac", "tfrac", "cfrac", "nicefrac", "sfrac"], r"\frac")
COMMANDS |= {"lbrace": r"\{", "rbrace": r"\}", "lbrack": "[", "rbrack": "]", "langle": "(", "rangle": ")"}
COMMANDS |= dict.fromkeys(["lvert", "rvert", "lVert", "rVert", "Vert", "|"], "|")

# Words for a factor of the number before them, and for a whole answer.
FACTORS = dict(dozen=12, hundred=100, thousand=10**3, million=10**6, billion=10**9, trillion=10**12)
PHRASES = {
    r"(?:there (?:is|are) )?no (?:real )?(?:solutions?|roots?)(?: exists?)?|(?:the )?empty set": r"\emptyset",
    r"(?:the set of )?(?:all |any )?real(?:s| numbers?)": r"\mathbb{R}",
}


def repeating(found: re.Match[str]) -> str:
    """0.1\\overline{6}, 0.1(6) and 0.1666... as a fraction."""
    once, again = (found[1] or "0") + found[2], found[found.lastindex]
    return rf"\frac{{{int(once + again) - int(once)}}}{{{'9' * len(again)}{'0' * len(found[2])}}}"


def multiplied(found: re.Match[str]) -> str:
    """`2.5 million` as 2500000."""
    value = Fraction(found[1].replace(",", "")) * FACTORS[found[3]]
    return f"{value.numerator}{found[2] or ' '}" if value.denominator == 1 else found[0]


def chinese(found: re.Match[str]) -> str:
    """The unit of 5平方厘米 as `\\text{cm}^2`."""
    unit = found[2].translate(str.maketrans({"厘": "c", "千": "k", "毫": "m", "米": "m", "天": "day"}))
    return rf"\text{{{unit}}}" + {"平方": "^2", "立方": "^3", None: ""}[found[1]]


LEAD = r"(?:the )?(?:final |correct )?answer\b(?: is\b)?:?|(?:ans|total):"
LEAD += r"|(?:about|around|roughly|nearly|approximately|thus|hence|therefore)\b,?"
PRIMES = r"(?: ?\\prime(?![a-z]))+"
BEFORE, STARS, WORDS = r"(^|[=,:;({]|\b(?:and|or)\b)", r"\*{1,3}", r"\\text ?\{([^{}]*)\}"
ALONE = r"(?![0-9/]| [0-9]| ?\\frac)"  # 1 000 is one number, 1 100/200 a mixed one
COUNTED = r"([0-9]{1,3}(?:,[0-9]{3})+|[0-9]+(?:\.[0-9]+)?)"
# (pattern, what replaces it), in this order.
REWRITES = [
    (r"(?<=[0-9])(?:\\[,;:! ]|,\\!|\{,\}|~|\\thinspace|') *(?=[0-9]{3}(?![0-9]))", ""),  # 1{,}000 is 1000
    (r"(?<!\\)\\\\(?=[dt]?frac|sqrt|text|circ|pi\b|cdot|times|left|right|infty|%)", r"\\"),  # escaped twice
    (r"\\left\s*\\\{\s*(\\begin.*\\end\{\w+\})\s*\\right\s*\.", r"\1"),
    (r"(?:\\\\\s*(?:\[[-.0-9]+ ?[a-z]{2}\])?\s*)+", r"\\\\ "),  # one end of a row
    (r"\\(?:left|right)\s*\.", " "),  # an invisible bracket
    # Colours and spaces, fonts, and names that are written as text.
    (r"\\(?:(?:text)?color(?:box)?|[hv]space|[hv]?phantom|tag|label)\*?\s*\{[^{}]*\}", " "),
    (r"\\(?:[hm]skip|m?kern)\s*[-0-9.]+\s*[a-z]{2}", " "),
    (r"\{\s*\\(?:rm|bf|it|sf|tt|sl|em)\s+([^{}]*)\}", r"\\text{\1}"),
    (r"\\operatorname\*?\s*\{\s*([A-Za-z]+)\s*\}", r"\\\1 "),
    (r"\\([A-Za-z]+|.)", lambda found: COMMANDS.get(found[1], found[0])),
    (r"[\s~$]+", " "),
    (r"^ ?(?:Rs|USD?)\b[. ]*(?=(?:\\text\{dollars\} ?)?[0-9])", ""),
    # Markdown's **5**, and quotes.
    (rf"{BEFORE} ?(?:{STARS}([^*]+){STARS}|__?([^_]+)__?)(?= |$|[,.;:)}}])", r"\1 \2\3"),
    (rf"(?i)^( ?\\text ?\{{)? ?(?:{LEAD}) ?", r"\1"),
    (r"^ ?(?:\"|``?|')([^\"'`]*)(?:\"|''?|`)[ .]*$", r"\1"),
    (r"\^ ?\{(-?[0-9])\}(?= ?\})", r"^\1"),  # braces round an exponent in \text{m s^{-1}}
    (r"\\text ?(?!\{(?:[^{}\\]|\\cdot)*\})", ""),  # around mathematics
    (rf"\\frac ?\{{ ?{WORDS} ?\}} ?\{{ ?{WORDS} ?(\^\{{?[0-9]\}}?)? ?\}}", r"\\text{\1/\2}\3"),
    (r"(?<![0-9])([0-9]*)\.([0-9]{0,9}?)([0-9]{1,9}?)\3{2,} ?(?:\.\.\.+|\\[lc]?dots)", repeating),
    (r"(\.[0-9]+ ?)(?:\.\.\.+|\\[lc]?dots) ?$", r"\1"),  # 3.14... is a decimal
    (r"\.\.\.+", r"\\dots "),
    (r"(?<![A-Za-z])\(([0-9]+)\) ?_", r"\1_"),  # (52)_8
    (r"(?i)(?<=:\d\d) ?(\\text ?\{ ?)?([ap])\.? ?m\b\.?(?(1)\})", lambda found: f" {found[2]}M".upper()),
    (r"(?<=[0-9])\^ ?(?:o(?![a-z])|\{ ?(?:o|\\text ?\{ ?o ?\}) ?\})", r"^\\circ "),
    (r"(?<=[0-9]) ?(?:[xX]|\\text ?\{ ?[xX] ?\}) ?(?=10 ?\^)", r"\\times "),
    (r"(?<![0-9])([0-9]*)\.([0-9]*)(?:\\(?:overline|bar|dot) ?\{?([0-9]+)\}?|\(([0-9]+)\))", repeating),
    (rf"(?<![0-9.,^_])[1-9][0-9]{{0,2}}(?: [0-9]{{3}})+{ALONE}", lambda found: found[0].replace(" ", "")),
    (rf"(?<![0-9.]){COUNTED} ?(\\text ?\{{)? ?({'|'.join(FACTORS)})s?\b", multiplied),
    (r"\\text ?\{ ?\}", " "),
    (r"(?<=[0-9}]) ?\((?:\\text ?\{ ?([A-Za-z]+) ?\}|([a-z]{4,}))\)$", r"\\text{\1\2}"),  # 12 (hours)
    (r"(?<=[0-9}]) ?[元个人岁种次本只]$", ""),
    (r"(?<=[0-9}]) ?(平方|立方)?([厘千毫]?米|天)$", chinese),
    (r"& ?(?=[=<>])", ""),  # in `aligned`
    (r" ?\((\\approx|=) ?([^()]+)\)$", r"\1 \2"),  # 1/3 (\approx 0.333)
    (r"^ ?\\(?:approx|sim(?= ?[-.0-9])|Rightarrow|implies|therefore)(?![a-z])", ""),
    (r"^([^:,;()=]+):([^:,;()=]+):([^:,;()=]+)$", r"(\1:\2,\2:\3)"),  # 1:2:3 as two ratios
    (r"\\mathbb ([A-Z])", r"\\mathbb{\1}"),
    (rf"(?<=[A-Za-z)}}])\^ ?(?:{PRIMES}|\{{{PRIMES} ?\}})", lambda found: "'" * found[0].count("prime")),
    (r"(?<=[A-Za-z])(\^(?:[0-9]|\{[^{}]*\}))(_(?:\w|\{[^{}]*\}))", r"\2\1"),  # x^2_1 is x_1^2
    (r"(\\\{ ?[A-Za-z](?: ?\\in ?\\mathbb\{[A-Z]\})?) ?:", r"\1|"),  # {x : x > 0}
    (r"(?<![A-Za-z\\])C ?\( ?([0-9a-z]+) ?, ?([0-9a-z]+) ?\)", r"\\binom{\1}{\2}"),
    (r"\\(frac|binom) ?([0-9])", r"\\\1{\2}"),  # \frac12 is \frac{1}{2}, in two steps
    (r"(\\(?:frac|binom) ?\{[^{}]*\}) ?([0-9])", r"\1{\2}"),
]
REWRITES = [(re.compile(pattern, re.DOTALL), to) for pattern, to in REWRITES]


def without_unicode(text: str) -> str:
    """LaTeX for the characters that stand for it; full-width ones become plain."""

    def plain(text: str) -> str:
        return unicodedata.normalize("NFKC", text)

    text = "".join(c for c in text if unicodedata.category(c) != "Cf")  # invisible
    text = re.sub("[⁰ⁱ⁴-⁾ⁿ¹²³]+", lambda found: f"^{{{plain(found[0])}}}", text)
    text = re.sub("[₀-₎ₐ-ₜ]+", lambda found: f"_{{{plain(found[0])}}}", text)
    text = re.sub("[¼-¾⅐-⅞]", lambda found: r"\frac{{{}}}{{{}}}".format(*plain(found[0]).split("⁄")), text)
    return plain(text.translate(CHARACTERS)).translate(CHARACTERS).replace("^^", "^")


def normalize(text: str) -> str:
    """`text` without marks that do not change its meaning; "" where it is too long to be an answer."""
    if len(text) <= MAX_CHARS and not text.isascii():
        text = without_unicode(text)
    if len(text) > MAX_CHARS:
        return ""
    if text.isdigit():  # nothing to do, and the most frequent answer
        return text
    for pattern, to in REWRITES:
        text = pattern.sub(to, text)
    text = text.lstrip(" ,;:=").rstrip(" .,;:")
    text = re.sub(r"^\{([^{},]*(?:\\text ?\{[^{}]*\}(?:\^[0-9])?)?)\}$", r"\1", text)
    # All but `\text{six}`, as `six` is a product.
    text = re.sub(r"^\\text ?\{(?![A-Za-z][a-z]{2}\})([^{}]*)\}$", r"\1", text).rstrip(" .,")
    # Only a space between words or numbers means something: `1 1/2`, and `2, 345` is no 2,345.
    text = re.sub(r"(?<![0-9A-Za-z,]) | (?![0-9A-Za-z])", "", text)
    for phrase, latex in PHRASES.items():
        text = latex if re.fullmatch(phrase, text, re.IGNORECASE) else text
    return text


# Names of a unit, the first for all of them; then words that stand with units.
UNITS = """degree deg; meter m metre; centimeter cm; millimeter mm; kilometer km; inch in inches;
foot feet ft; yard yd; mile mi; second s sec; minute min; hour h hr; day; week; month; year yr; gram g;
kilogram kg; pound lb; milligram mg; ounce oz; ton; liter l L; milliliter ml mL; gallon gal; quart; cup;
nanometer nm; ohm Omega; kilojoule kJ; kilocalorie kcal; electronvolt eV;
dollar USD; cent; euro; way; newton N; joule J; watt W; volt V; pascal Pa; hertz Hz; kelvin K; mole mol;
radian rad; erg; mph; piece; unit; point; person people; student; page; percent pct percentage;
of each; th st nd rd"""
UNIT_NAMES = {name: group.split()[0] for group in UNITS.split(";") for name in group.split()}
POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3, "": 1}
UNIT = re.compile(
    r"""
      (?P<a>\{)?\^(?P<b>\{)?\\circ\ ?(?(b)\})(?(a)\}) (?:\ ?(?:\\text\{[CF]\}|[CF](?![A-Za-z])))?  # 5^\circ C
    | (?<=[0-9]) (?: \^\{(?P<c>\\text\{)?(?:th|st|nd|rd)(?(c)\})\} | (?:th|st|nd|rd)(?![A-Za-z]) )  # 12^{th}
    | (?:\\pmod | \((?:\\?b?mod|\\text\{mod\})) \ ?\{?(?P<modulus>[0-9]+)\}?\)? $
    | (?:/|\\cdot\ ?)? \\text\ ?\{[^{}]*\}                      # \text{cm}, /\text{s}
      (?:\^\{?-?[0-9]\}?)?                                      # ^2, ^{-3}
    | (?:(?<=[0-9})])|(?<=\\pi))\ ?    # bare, after a number: 10 cm, 15 m/s
      (?:[A-Za-z]{3,}|[ckm]m|kg|ft|sq|(?<=[ }])Hz|(?<=\ )(?:eV|kJ|[A-Za-z](?=/))) (?:\ [A-Za-z]{2,})*
      (?:\^\{?-?[0-9]\}?)?
      (?:/[A-Za-z]+(?:\^\{?-?[0-9]\}?)?)? (?![A-Za-z(^_])
    """,
    re.VERBOSE,
)
SYMBOL = r"([A-Za-z]|nm)| ?\{?(\\mu ?[gmsAFCVWHLNJ]|\\Omega|\\AA|M(?=_))(?:_\{?(\\odot)\}?)?\}?"
SYMBOL = re.compile(rf"(?<=[0-9}})])(?: {SYMBOL})(\^\{{?[0-9]\}}?)?$")  # 10 m, 10\mu m
# Up to a place in the argument of a sine: outside brackets a sum ends it.
TRIGONOMETRY = r"(?<![A-Za-z])(?:sin|cos|tan|tg|cot|ctg|sec|csc)(?![a-z])"
TRIGONOMETRY = re.compile(TRIGONOMETRY + r"(?:[^-+=,(){}]|[({][^(){}]*[)}]?)*$")
# One factor of a unit: (/), (square), name, (^2), (squared).
FACTOR = r"(?: ?(/|per ))? ?(?:(square|sq|cubic|cu) )?([A-Za-z]+)(?:\^(-?[0-9])| (squared|cubed))?"
# Words after a number that change it. After any others it is a number of something: 5 apples.
NOT_NOUNS = """or and to than less more fewer greater least most over under below above about minus plus mod
base by divided multiplied factorial half halves third quarter lakh crore score gross except excluding
doubled tripled halved added subtracted increased decreased reduced one two three four five six seven eight
nine ten twice negative positive not no if when for with only infinity inf pi theta alpha beta gamma lambda
sigma phi omega sqrt sin cos tan log ln"""
ORDINAL = re.compile(r"(?:four|fif|six|seven|eigh|nin|ten|elf|teen|tie|dred|sand|llion)ths?\b|llions?\b")
NOT_NOUNS = {*NOT_NOUNS.split(), *FACTORS, *POWERS}


def is_noun(words: str) -> bool:
    no_noun = any({word, word.removesuffix("s")} & NOT_NOUNS for word in words.lower().split())
    noun = re.fullmatch(r"[A-Za-z]{2,}(?: [A-Za-z]+)*", words)
    return bool(noun) and not no_noun and not ORDINAL.search(words.lower())


def is_count(text: str) -> bool:
    number = text.rpartition("=")[2].removeprefix(r"\text{dollars}")
    return plain_number(number) is not None or bool(COUNT.fullmatch(number))


def split_units(text: str) -> tuple[str, set[str]]:
    """A normalized text without units, and these with their powers; other words may mean much and stay."""
    units: set[str] = set()

    def drop(found: re.Match[str]) -> str:
        if "circ" in found[0] and TRIGONOMETRY.search(text, 0, found.start()):
            return r"\frac{\pi}{180}"
        if "circ" in found[0] or found["modulus"]:
            units.add(found["modulus"] or "degree^1")
            return " "
        words, names = re.sub(r"\\text|\\cdot|[\\{}]", "", found[0]).replace(".", " ").strip(), set()
        for per, before, word, power, after in re.findall(FACTOR, words):
            name = UNIT_NAMES.get(word) or UNIT_NAMES.get(word.lower().removesuffix("s"))
            names.add(name and f"{name}^{'-' * bool(per)}{power or POWERS[before or after]}")
        if None in names or not names:
            if found.end() < len(text) or not is_noun(words) or not is_count(text[: found.start()]):
                return found[0]
            names = {words.lower().removesuffix("s")}
        units.update(names - {"of^1"})
        return "%" if "percent^1" in names else " "

    number = UNIT.sub(drop, text).strip() or text
    return number, units | {"percent^1"} if "%" in number else units


# ---- Comparison, the cheap part first ----

DECIMAL = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?"
NUMBER = re.compile(rf"{DECIMAL}|[+-]?[0-9]+/0*[1-9][0-9]*")
THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])[^,]*")  # 1,234\pi, but not 1,234,5
TWO_NUMBERS = re.compile(r"[+-]?[0-9]{3}(?:,[1-9][0-9]{2})+(?![0-9,])")
MIXED = re.compile(
    r"(?<![0-9.^_])([0-9]+) ?(?:\\frac\{([0-9]+)\}\{([0-9]+)\}|(?<= )([0-9]+)/([0-9]+))(?P<more>\+[0-9]+$)?"
)
# A number of something, perhaps still to be worked out.
COUNT = re.compile(r"(?:[-+0-9 ./{}()^%]|\\(?:frac|sqrt|pi|times|cdot)(?![a-z]))+")
# A choice: (C), C), Option C, and (C) 12, but not `A, C`.
OPTION = r"(?i:(?:the )?(?:correct )?(?:option|choice)(?: is)?:? ?)?"
REST = r"(?P<rest>(?<=[).:]) ?(?!(?:or|and|not)(?![a-z]))(?!.*\b[A-J]\b).+)?"
CHOICE = re.compile(OPTION + r"(?:\(([A-J])\)|([A-J])[).:]?)" + REST)


def choice(text: str) -> tuple[str, str]:
    """("C", "12") of `(C) 12`."""
    found = CHOICE.fullmatch(text)
    return (found[1] or found[2], (found["rest"] or "").strip()) if found else ("", "")


def plain_number(text: str) -> Fraction | None:
    """The value of a text that is one number or fraction, else None."""
    if THOUSANDS.fullmatch(text):
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
    words, right_words = (re.sub(r"\\text ?|[{}]", "", text) for text in (given, truth))
    if words.lower() == right_words.lower() and re.fullmatch(r"[A-Za-z ]*[a-z]{2}[A-Za-z ]*", right_words):
        return True
    (letter, rest), (other, other_rest) = choice(words), choice(right_words)
    if letter and letter == other:
        return rest == other_rest or not (rest and other_rest)
    (given, given_units), (truth, truth_units) = split_units(given), split_units(truth)
    both = given_units & truth_units
    more = both in (given_units, truth_units) and both & {"dollar^1", "percent^1"}  # a 5% increase is 5%
    if given_units and truth_units and given_units != truth_units and not more:
        return False
    a, b = plain_number(given), plain_number(truth)
    if a is None or b is None:
        return None
    # Integers are equal or not; decimals that differ may be rounded, see TOLERANCE in mathexpr.py.
    rounded = a != b and a.denominator > 1 and b.denominator > 1 and "." in given + truth
    return None if rounded else a == b


def spellings(text: str, is_reference: bool = False) -> list[str]:
    """Ways to read a text: "5,120" is one number or two; as a reference one, and "125,200" still both.

    A mixed number becomes a fraction.
    """

    def as_fraction(found: re.Match[str]) -> str:
        above, below = int(found[2] or found[4]), int(found[3] or found[5])
        whole = int(found[1]) + int(found["more"] or 0)  # public graders take 1 1/2 + 3 as worked out
        return f"({whole * below + above}/{below})" if 0 < above < below else found[0]

    text = MIXED.sub(as_fraction, text)
    if not THOUSANDS.fullmatch(text):
        return [text]
    number = text.replace(",", "")
    return [number] if is_reference and not TWO_NUMBERS.match(text) else [text, number]


def same_way_round(given: str, truth: str) -> tuple[str, str]:
    """Two equations, one of them turned if that puts a side they share on the same side: `y=x` and `x=y`."""
    (left, *right), (other, *other_right) = given.split("="), truth.split("=")
    if len(right) == len(other_right) == 1 and left != other:
        if right == [other]:
            given = f"{other}={left}"
        elif other_right == [left]:
            truth = f"{left}={other}"
    return given, truth


def answers_match(given: str, truth: str) -> bool:
    """Whether two answers mean the same. Never raises, but may take long: see VerifierPool."""
    try:
        given, truth = normalize(given), normalize(truth)
        if is_count(split_units(truth)[0]):  # elsewhere `5 m` may be a product
            given = SYMBOL.sub(r"\\text{\1\2\3}\4", given)
        quick = quick_match(given, truth)
        if quick is not None:
            return quick
        given, truth = same_way_round(given, truth)
        letter, rest = choice(re.sub(r"^\\text\{([^{}]*)\}", r"\1", given))
        given = rest if rest and letter not in truth else given
        # The same said twice: `3/4 or 75%`, `3/4 (0.75)`
        parts = re.split(r"\(?\\text\{or\}|\(?\bor\b|\((?=[^()]*[.%][^()]*\)$)", given)
        parts = [part[:-1] if part.count(")") > part.count("(") else part for part in parts]
        names = {part.rpartition("=")[0].strip() for part in parts} - {""}
        if len(parts) > 1 >= len(names) and all(answers_match(part, truth) for part in parts):
            return True
        # Not at the top: a parent that leaves this to its workers never pays half a second for sympy.
        from mathexpr import TOLERANCE, parse, same

        given, truth = split_units(given)[0], split_units(truth)[0]
        percents = [1]
        if ("%" in given) != ("%" in truth):  # 28% is 28 or 0.28, but (3,-2%) is not (3,-2)
            parts = re.split(r",|\\text\{(?:and|or)\}", given if "%" in given else truth)
            percents = [100, 1] if all(re.search(r"%\W*$", part) for part in parts) else [100]
        free_signs = (False, True) if r"\pm" in given + truth else (False,)  # of (\pm 1, \pm 2): two, or four
        for percent, free, a, b in product(percents, free_signs, spellings(given), spellings(truth, True)):
            (x, x_finished), (y, y_finished) = parse(a, percent, free), parse(b, percent, free)
            if (x_finished or not y_finished) and same(x, y, TOLERANCE[("." in a) + ("." in b)]):
                return True
    except Exception:  # sympy's are of many kinds, and what it can't handle is not the reference answer
        pass
    return False


def verify(response: str, answers: Sequence[str], answer_format: AnswerFormat) -> Verdict:
    """Correct if any of the reference answers matches. No time limit: see VerifierPool."""
    boxes = extract(response, answer_format)
    if boxes is None:
        return Verdict(formatted=False, correct=False)
    return Verdict(
        formatted=True, correct=any(answers_match(given_for(boxes, truth), truth) for truth in answers)
    )


# ---- Processes ----


class VerifierPool:
    """`num_workers` processes and a spare. An answer that takes over `timeout_s`, or kills one, is wrong."""

    def __init__(self, num_workers: int, timeout_s: float = 1.0):
        if num_workers < 1 or timeout_s <= 0:
            raise ValueError(f"num_workers {num_workers} must be at least 1, timeout_s {timeout_s} above 0")
        self.timeout_s = timeout_s
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
            boxes = extract(response, answer_format)
            pairs = [(given_for(boxes, truth), truth) for truth in truths] if boxes else []
            quick = [quick_match(normalize(given), normalize(truth)) for given, truth in pairs]
            verdicts.append(Verdict(boxes is not None, True in quick))
            if None in quick and True not in quick:
                slow[index] = self.threads.submit(self._ask, json.dumps(pairs))
        for index, verdict in slow.items():
            verdicts[index] = verdict.result()
        return verdicts

    def _start(self) -> subprocess.Popen:
        # A fresh interpreter that runs `work` below. Not multiprocessing's spawn: that imports the parent's
        # main script (train.py, so torch and vLLM) into every worker, and unpickles what a worker sends.
        command = [sys.executable, os.path.abspath(__file__), str(self.timeout_s)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, bufsize=0, process_group=0, **pipes)  # no Ctrl-C while it starts

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
    """A worker: "r" out when ready, a line [[given, reference], ...] in, "1" or "0" out.

    If the parent is killed, it ends by end of file when idle, and when busy by an alarm with no handler,
    which stops C code too.
    """
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    # A launcher sends these to all processes of a rank; the parent ends this one.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    import mathexpr  # noqa: F401, before the first answer, so that none pays for the import of sympy

    os.write(1, b"r")
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_REAL, timeout_s + 0.5)
        correct = any(answers_match(given, truth) for given, truth in json.loads(line))
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(1, b"1r" if correct else b"0r")


if __name__ == "__main__":
    work(float(sys.argv[1]))
