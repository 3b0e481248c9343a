"""What eval.py adds to the engine under it: two claims of README, measured in one run.

    python -m benchmarks.eval                        on the tiny base (python pretrain.py makes it)

throughput: response tokens per second of `evaluate`, from questions to verdicts and metrics, over those of a
bare vllm.LLM.generate with the same prompts and settings, on one engine, in turns. A tiny model is the
hardest case: the engine takes least time. grading: its share of `evaluate`. Prints one JSON line last.
"""

import argparse
import json
import os
import statistics
import time

import run.environment  # noqa: F401

from benchmarks.common import compare


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="models/tiny-base")
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    from accelerate import PartialState
    from transformers import AutoTokenizer

    from data import load_problems
    from eval import evaluate
    from learner import compute_dtype
    from rollout import Sampler
    from verify import VerifierPool

    PartialState(cpu=True)
    problems = load_problems("arithmetic", "test", limit=args.questions)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    sampler = Sampler(args.model, max_model_len=192, dtype=compute_dtype(), memory=2.0)
    from vllm import SamplingParams  # after Sampler has set up vLLM

    verifier = VerifierPool(num_workers=os.cpu_count())
    grading, whole, verify_all = [], [], verifier.verify_all

    def timed(*inputs):
        started = time.perf_counter()
        verdicts = verify_all(*inputs)
        grading.append(time.perf_counter() - started)
        return verdicts

    verifier.verify_all = timed

    def ours() -> int:
        started = time.perf_counter()
        settings = dict(template="none", n=args.n, temperature=1.0, max_response_tokens=128)
        _, records = evaluate(sampler, tokenizer, verifier, problems, **settings)
        whole.append(time.perf_counter() - started)
        return sum(record["response_tokens"] for record in records)

    def bare() -> int:
        inputs = [{"prompt_token_ids": tokenizer.encode(problem.question)} for problem in problems]
        params = SamplingParams(n=args.n, max_tokens=128)
        outputs = sampler._llm.generate(inputs, params, use_tqdm=False)
        return sum(len(response.token_ids) for output in outputs for response in output.outputs)

    result = compare(ours, bare, args.rounds)
    verifier.close()
    result["grading"] = statistics.median(grading) / statistics.median(whole)
    print(json.dumps({"questions": args.questions, "n": args.n} | result))


if __name__ == "__main__":
    main()
