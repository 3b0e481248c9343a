"""Accuracy of a model on question sets, by the rule-based verifier.

    python eval.py --model runs/mine/model --data arithmetic --template none                greedy
    python eval.py --model Qwen/Qwen2.5-Math-7B --data aime --n 32 --temperature 1    32 samples a question

Prints one line a set, and writes every response to <output_dir>/<set>.jsonl and the metrics to metrics.json.
train.py calls `evaluate` on the model that it is training.
"""

import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import AutoTokenizer, HfArgumentParser

from data import Problem, load_problems
from learner import check_model, compute_dtype
from templates import TEMPLATES, apply_template
from verify import VerifierPool


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that at least one of k samples is right, without bias from n samples with c right.

    1 - C(n-c, k) / C(n, k) (Chen et al., 2021). ValueError unless 0 <= c <= n and 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} of {n} samples with {c} right: need 0 <= c <= n and 1 <= k <= n")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


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
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Sample n responses a problem and verify them -> metrics, and one record a response, problem-major.

    Ranks share the problems out and each returns the whole.
    """
    state = PartialState()
    mine = range(state.process_index, len(problems), state.num_processes)
    prompts = [tokenizer.encode(apply_template(template, problems[i].question)) for i in mine]
    rollouts = sampler.sample(
        prompts,
        n,
        temperature,
        max_response_tokens,
        TEMPLATES[template].stop,
        seed=seed + state.process_index,
        progress=progress,
    )
    indices = [i for i in mine for _ in range(n)]
    verdicts = verifier.verify_all(
        [rollout.text for rollout in rollouts],
        [problems[i].answers for i in indices],
        TEMPLATES[template].answer_format,
    )
    records = [
        {
            "problem": i,
            "level": problems[i].level,
            "question": problems[i].question,
            "answers": problems[i].answers,
            "response": rollout.text,
            "formatted": verdict.formatted,
            "correct": verdict.correct,
            "truncated": rollout.truncated,
            "response_tokens": len(rollout.response_ids),
        }
        for i, rollout, verdict in zip(indices, rollouts, verdicts, strict=True)
    ]
    records = sorted(gather_object(records), key=lambda record: record["problem"])
    return summarize(records, n), records


def summarize(records: Sequence[dict[str, Any]], n: int) -> dict[str, float]:
    """Metrics of problem-major records, n a problem.

    accuracy (with n > 1 the avg@n) and its standard error over problems, pass@n, mean length in tokens, and
    the shares of formatted and of truncated responses.
    """
    right = [sum(r["correct"] for r in records[i : i + n]) for i in range(0, len(records), n)]
    rates = [c / n for c in right]
    accuracy = sum(rates) / len(rates)
    variance = sum((rate - accuracy) ** 2 for rate in rates) / max(1, len(rates) - 1)
    return {
        "accuracy": accuracy,
        "accuracy_stderr": math.sqrt(variance / len(rates)),
        f"pass@{n}": sum(pass_at_k(n, c, n) for c in right) / len(right),
        "formatted": sum(r["formatted"] for r in records) / len(records),
        "truncated": sum(r["truncated"] for r in records) / len(records),
        "response_tokens": sum(r["response_tokens"] for r in records) / len(records),
    }


@dataclass
class EvalConfig:
    model: str = field(metadata={"help": "checkpoint folder or Hub id"})
    data: list[str] = field(default_factory=lambda: ["arithmetic"], metadata={"help": "question sets"})
    data_dir: str | None = field(default=None, metadata={"help": "folder with the paper's sets"})
    template: str = field(default="none", metadata={"choices": list(TEMPLATES)})
    n: int = field(default=1, metadata={"help": "responses a question"})
    temperature: float = field(default=0.0, metadata={"help": "0 is greedy"})
    max_response_tokens: int | None = field(
        default=None, metadata={"help": "3000, or what the context leaves"}
    )
    limit: int | None = field(default=None, metadata={"help": "first questions of each set only"})
    memory: float | None = field(
        default=None, metadata={"help": "GPU: share of its memory; CPU: GiB of KV cache"}
    )
    seed: int = 0
    output_dir: str | None = field(default=None, metadata={"help": "where responses and metrics go"})


def main() -> None:
    parser = HfArgumentParser(
        EvalConfig, usage="eval.py --model MODEL [--flag value ...]   (-h lists all flags)"
    )
    (config,) = parser.parse_args_into_dataclasses()
    state = PartialState(cpu=not torch.cuda.is_available())
    try:
        sets, tokenizer, budget, longest = prepare(config)
    except (ValueError, OSError) as error:
        print(f"eval.py: {error}", file=sys.stderr)
        sys.exit(2)

    from rollout import Sampler

    sampler = Sampler(
        config.model,
        max_model_len=longest + budget,
        dtype=compute_dtype(),
        memory=config.memory or (0.85 if torch.cuda.is_available() else 2.0),
    )
    folder = Path(config.output_dir or f"runs/eval-{time.strftime('%Y%m%d-%H%M%S')}")
    folder.mkdir(parents=True, exist_ok=True)
    report = {}
    with VerifierPool(num_workers=max(1, (os.cpu_count() or 1) // state.num_processes)) as verifier:
        for name, problems in sets.items():
            report[name], records = evaluate(
                sampler,
                tokenizer,
                verifier,
                problems,
                template=config.template,
                n=config.n,
                temperature=config.temperature,
                max_response_tokens=budget,
                seed=config.seed,
                progress=state.is_main_process and sys.stderr.isatty(),
            )
            if not state.is_main_process:
                continue
            file = folder / f"{Path(name).name}.jsonl"
            file.write_text("".join(json.dumps(record) + "\n" for record in records))
            numbers = "  ".join(f"{key} {value:.4g}" for key, value in report[name].items())
            print(f"{name}: {len(problems)} questions  {numbers}  -> {file}")
    if state.is_main_process:
        (folder / "metrics.json").write_text(
            json.dumps({"config": asdict(config), **report}, indent=2) + "\n"
        )


def prepare(config: EvalConfig) -> tuple[dict[str, list[Problem]], Any, int, int]:
    """Check the flags -> question sets, tokenizer, response budget and longest prompt, both in tokens.

    ValueError or OSError for anything that cannot work, before the engine starts.
    """
    if config.n < 1 or config.temperature < 0 or (config.n > 1 and config.temperature == 0):
        raise ValueError(
            f"n {config.n} at temperature {config.temperature}: several samples need a temperature above 0"
        )
    sets = {
        name: load_problems(name, "test", data_dir=config.data_dir, limit=config.limit)
        for name in config.data
    }
    context = check_model(config.model)
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    prompts = [apply_template(config.template, problem.question) for ps in sets.values() for problem in ps]
    longest = max(len(ids) for ids in tokenizer(prompts)["input_ids"])
    budget = config.max_response_tokens or min(3000, context - longest)
    if budget < 1 or longest + budget > context:
        raise ValueError(
            f"the longest prompt has {longest} tokens, and with max_response_tokens {budget} it is over the "
            f"model's context of {context}: set max_response_tokens to {context - longest} or less"
        )
    return sets, tokenizer, budget, longest


if __name__ == "__main__":
    main()
