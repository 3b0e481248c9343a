"""Every analysis of the paper on any model: benchmarks, templates, pass@k, answering, self-reflection.

    python eval.py --model runs/mine/model --data arithmetic                             greedy
    python eval.py --model M --data aime amc --template none,r1,qwen_math,four_shot      Table 1
    python eval.py --model M --data math500 --n 8 --temperature 0.2,0.6,1.0              Fig. 3, middle
    python eval.py --model M --data aime --n 64 --temperature 0.6 --top_p 0.95           avg, pass and maj@64
    python eval.py --model NAME --base_url http://host:8000/v1 --data aime               a served model
    python eval.py --regrade runs/eval/responses.jsonl --judge_model gpt-4o-mini         Fig. 3 and 15

Two halves: responses of every template x temperature x set go to <output_dir>/responses.jsonl, sampled here
or by a server or taken from such a file; then that file is analysed into a table and report.json, without a
model (a judge's answers come over the network, see analysis/judge.py). train.py calls `evaluate`.

A response counts as right by its text, also where the token budget cut it off after its answer, as in the
paper's own evaluation; the reward of training is 0 for those.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, product
from pathlib import Path

from run.environment import CORES

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from analysis import judge, served
from analysis.report import Record, analyse, by_group, markdown, read_records, summarize
from analysis.report import pass_at_k as pass_at_k  # for those who import it from here
from analysis.served import Response, Server, ServerError
from analysis.settings import EvalConfig, Plan, check, prepare, provenance
from data import Problem, reference_warnings
from learner import compute_dtype
from rollout import EngineFailed, Sampler
from run.flags import Flags, one_sentence, try_hub
from run.ranks import ends_at_once, start_accelerator
from templates import TEMPLATES, apply_template
from verify import VerifierPool

CHUNK = 8192  # responses sampled at once: token ids take some 100 KB for each at 3000 tokens


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
    graded = [record | {"formatted": v.formatted, "correct": v.correct} for record, v in pairs]
    changed = sum(old != new for old, new in zip(group, graded, strict=True))
    print(f"{group[0]['set']}, {group[0]['template']}: {changed} of {len(group)} verdicts have changed")
    return graded


# ---- The command line ----


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


@ends_at_once()
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
    again = "start again"
    if c.model:
        again += f"; what was done by then is in {folder / 'responses.partial'}, which --regrade takes"
    if c.base_url:
        again = f"to go on, start again with the same flags and --output_dir {folder}"
    try:
        with VerifierPool(num_workers=min(CORES, 16)) as verifier:
            if c.regrade:
                groups = (regrade(verifier, group) for group, _ in by_group(read_records(Path(c.regrade))))
            elif c.base_url:
                source = served_source(c, plan, folder / "served.jsonl")
                groups = sampled(plan, c.n, source, verifier)
            else:
                groups = sampled(plan, c.n, local_source(c, plan), verifier)
            write_responses(groups, folder / "responses.jsonl")
        again = f"to go on: --regrade {folder / 'responses.jsonl'}, the judge's flags, --output_dir {folder}"
        if state.is_main_process:
            write_report(c, plan, folder)
    except (ServerError, EngineFailed, OSError, KeyboardInterrupt) as error:
        reason = " ".join(str(error).split()) or "interrupted"
        sys.exit(f"eval.py: {reason}; {again}")


if __name__ == "__main__":
    main()
