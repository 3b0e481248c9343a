"""R1-Zero-like training: GRPO and Dr. GRPO (arXiv 2503.20783) with a rule-based verifier as reward.

    python train.py                                       the tiny recipe where there is no GPU
    accelerate launch train.py --algo drgrpo              the paper's minimalist recipe on all GPUs
    accelerate launch train.py --recipe figure5 --algo grpo --dry_run

A step: sample G responses to each question, verify them, compare them within their group, update the policy
on the responses in minibatches, hand the new weights to the sampler. The mathematics is in loss.py. What a
textbook PPO has and this has not: a value network (the group's mean is the baseline), a KL term (a rule-based
verifier is not fooled far from the base model, as a learned reward is), several passes over the responses.
"""

import contextlib
import gc
import random
import signal
import sys
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path

from run.environment import CORES

import torch
from accelerate import Accelerator
from transformers.utils.logging import disable_progress_bar

from analysis.report import summarize
from data import Problem
from eval import by_set, evaluate
from learner import (
    NotFinite,
    Policy,
    autocast,
    checkpoint_weights,
    compute_dtype,
    load_policy,
    reshard,
    save_model,
    update,
)
from loss import ALGOS, group_advantages
from rollout import EngineFailed, Rollout, Sampler, collate
from run.base_model import read_config
from run.checkpoint import Saver, code_version, load_checkpoint
from run.flags import one_sentence
from run.log import RunLog
from run.ranks import ends_at_once, start_accelerator
from run.settings import Config, engine_share, parse_config
from run.signals import ENGINE_FAILED, NOT_FINITE, StopSignal, sample_or_stop
from run.start import open_run, prepare
from templates import TEMPLATES
from verify import VerifierPool


def derived_seed(*parts: int | str) -> int:
    """A 31-bit seed for each purpose: no two steps, ranks or purposes share a stream of random numbers."""
    return random.Random("/".join(map(str, parts))).getrandbits(31)


def questions_of_step(step: int, per_step: int, num_questions: int, seed: int) -> list[int]:
    """Indices of a step's questions; each epoch is a new permutation. Pure, so resuming needs no state."""
    positions = range(step * per_step, (step + 1) * per_step)
    orders = {}
    for epoch in {position // num_questions for position in positions}:
        orders[epoch] = list(range(num_questions))
        random.Random(derived_seed(seed, "questions", epoch)).shuffle(orders[epoch])
    return [orders[position // num_questions][position % num_questions] for position in positions]


def hand_over(
    policy: Policy, sampler: Sampler, probe: Rollout, device: torch.device, limit: float = 0.2
) -> None:
    """Give the sampler the policy's weights, and compare the two on one response, best a long one.

    RuntimeError when their log-probs differ by more than `limit` nats a token on average: weights that did
    not arrive whole would mean sampling from another policy than the one that learns. Rounding to bf16 gives
    up to some 0.05, by a model as unsure as SmolLM2-135M is on mathematics.
    """
    batch = collate([probe], device)
    with torch.no_grad(), autocast(device):
        learner = policy(batch.input_ids, batch.labels, batch.response_mask)[0][batch.response_mask].cpu()
    reshard(policy)  # before the engine takes its memory back
    sampler.load_weights(checkpoint_weights(policy, sampler.dtype))
    engine = torch.tensor(sampler.logprobs(probe))
    learner = learner[: len(engine)]
    gap = (engine - learner).abs().mean().item()
    if not gap <= limit:
        raise RuntimeError(
            f"after the hand-over the sampler gives a response {engine.mean():.4f} nats a token, the learner "
            f"{learner.mean():.4f} (mean gap {gap:.4f}, at most {limit}): the weights did not arrive"
        )


def evaluate_sets(
    c: Config, step: int, sampler: Sampler, tokenizer, verifier: VerifierPool, eval_sets: dict, say: Callable
) -> dict[str, float]:
    """Greedy evaluation on each set -> eval/<set>/<metric>."""
    if not eval_sets:
        return {}
    metrics, problems = {}, list(chain.from_iterable(eval_sets.values()))
    settings = dict(template=c.template, max_response_tokens=c.max_response_tokens)
    _, records = evaluate(sampler, tokenizer, verifier, problems, **settings)
    for name, of_set in by_set(eval_sets, records):
        result = summarize(of_set, n=1)
        metrics |= {f"eval/{name}/{key}": value for key, value in result.items()}
        accuracy = f"{result['accuracy']:.3f} on {name} ({len(of_set)} questions)"
        say(f"step {step:>3}: greedy accuracy {accuracy}")
    return metrics


def train(
    c: Config,
    accelerator: Accelerator,
    tokenizer,
    problems: list[Problem],
    prompts: list[list[int]],
    eval_sets: dict[str, list[Problem]],
    max_model_len: int,
) -> None:
    """Run the steps of a checked config, from the first or after the newest checkpoint."""
    device, rank, world_size = accelerator.device, accelerator.process_index, accelerator.num_processes
    folder, template, algo = Path(c.output_dir), TEMPLATES[c.template], ALGOS[c.algo]
    with one_sentence("train.py"):  # weights on the Hub are looked at as they load
        policy = load_policy(c.model, device, c.attn_implementation, c.gradient_checkpointing, c.replicas)
    optimizer = torch.optim.AdamW(
        policy.parameters(), lr=c.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )
    reference = None
    if c.beta > 0:
        reference = load_policy(c.model, device, c.attn_implementation, replicas=c.replicas)
    state = load_checkpoint(folder, policy, optimizer, accelerator.print) if c.resume else None
    done = state["step"] if state else 0
    log = RunLog(folder, done if state else -1, accelerator)
    if state and state["world_size"] != world_size:
        log.say(f"saved by {state['world_size']} ranks, now {world_size}: the same questions, other samples")
    if state and state["code"] != code_version():
        log.say("the scripts have changed since the checkpoint was saved")
    verifier = VerifierPool(num_workers=min(CORES, 16))
    sampler = Sampler(
        c.model,
        max_model_len=max_model_len,
        dtype=compute_dtype(),
        memory=engine_share(c),
        sleep=True,
        seed=c.seed,
        tensor_parallel=c.tensor_parallel,
    )
    stop, saver = StopSignal(), Saver(c, policy, optimizer, log.say, saved_at=state and done)

    def sample(step: int | str, prompts: list[list[int]], n: int) -> list[Rollout]:
        seed = derived_seed(c.seed, "sample", step, rank)
        return sampler.sample(prompts, n, c.temperature, c.max_response_tokens, template.stop, seed)

    def evaluate_all(step: int) -> dict[str, float]:
        return evaluate_sets(c, step, sampler, tokenizer, verifier, eval_sets, log.say)

    # The engine has read the same checkpoint, but a resumed policy has moved on; and a hand-over that fails
    # should do so at once.
    (probe,) = sample("probe", prompts[:1], n=1)
    sampler.sleep()
    hand_over(policy, sampler, probe, device)
    gc.freeze()  # all that is loaded by now stays: Python need not look through it again and again
    if not state:
        log.write({"step": 0, **evaluate_all(0)})

    log.lap("start")
    for step in range(done, c.num_steps):
        log.lap("rest")
        # Sample G responses to each of this rank's questions with the current weights.
        chosen = questions_of_step(step, c.prompts_per_step, len(problems), c.seed)[rank::world_size]
        attempt = partial(sample, step, [prompts[i] for i in chosen], c.group_size)
        rollouts, failure, stopped = sample_or_stop(attempt, stop, c.tensor_parallel)
        if failure:
            saver.save(step, {})
            raise EngineFailed(failure)
        if stopped:
            if not saver.save(step, {}):
                sys.exit(f"train.py: stopped after step {step}, and it could not be saved")
            log.say(f"stopped after step {step}; go on with: --output_dir {folder} --resume")
            break
        log.lap("sample")

        # Verify: reward 1 for a right final answer, 0 for any other and for a response cut off by the budget.
        answers = [problems[i].answers for i in chosen for _ in range(c.group_size)]
        verdicts = verifier.verify_all([r.text for r in rollouts], answers, template.answer_format)
        correct = [v.correct and not r.truncated for v, r in zip(verdicts, rollouts, strict=True)]
        rewards = torch.tensor(correct, dtype=torch.float32)  # [N]
        log.lap("verify")

        # Compare within groups, while they are still in order; then learn.
        advantages = group_advantages(rewards, c.group_size, scale_by_std=algo.scale_by_std)  # [N]
        sampler.sleep()
        seed = derived_seed(c.seed, "shuffle", step)
        try:
            learned = update(policy, optimizer, rollouts, advantages, c, device, seed, reference)
        except NotFinite as error:
            kept = log.keep_rollouts(f"not_finite_step_{step + 1}_rank_{rank}.jsonl", error.rollouts)
            raise NotFinite(f"step {step + 1}, {error}; responses: {kept}", error.rollouts) from None
        log.lap("update")

        # Hand over, with a check. A response of a few tokens could miss the limit by rounding alone.
        hand_over(policy, sampler, max(rollouts, key=lambda r: len(r.response_ids)), device)
        log.lap("sync")

        # Log, evaluate, save.
        metrics = log.step(step + 1, c, rollouts, verdicts, rewards.tolist(), learned)
        due = c.eval_every and (step + 1) % c.eval_every == 0
        evaluated = evaluate_all(step + 1) if due or step + 1 == c.num_steps else {}
        log.write(metrics | evaluated)
        log.samples(step + 1, [problems[i] for i in chosen], rollouts, rewards.tolist(), tokenizer.decode)
        saver.after(step + 1, evaluated)

    if stop.agreed() in (0, signal.SIGINT):  # whoever takes the machine away does not wait for it
        try:
            save_model(policy, tokenizer, folder / "model", read_config(c.model).dtype)
        except OSError as error:
            sys.exit(f"train.py: no model is written: {error}; once there is room: --resume")
        log.say(f"the trained model is in {folder / 'model'}")
        log.say(f"see the run: python -m analysis.view {folder}")
    else:
        log.say(f"no model is written; to write it: --output_dir {folder} --resume")
    verifier.close()


@ends_at_once()
def main() -> None:
    """Flags to a run. What cannot work ends in one sentence and exit code 2, before a model loads."""
    disable_progress_bar()  # of transformers, for each load and save
    with one_sentence("train.py"):
        config = parse_config(sys.argv[1:])
        accelerator = start_accelerator()
        prepared = prepare(config, accelerator)
        if prepared is None:
            return
        held = open_run(config, accelerator, prepared[1])
        if config.report_to != "none":
            accelerator = start_accelerator(log_with=config.report_to, project_dir=config.output_dir)
            try:
                accelerator.init_trackers("r1-zero")
            except Exception as error:  # each tracker has its own
                raise ValueError(f"report_to {config.report_to} cannot start: {error}") from None
    try:
        train(config, accelerator, *prepared)
    except NotFinite as error:
        print(f"train.py: {error}", file=sys.stderr)
        sys.exit(NOT_FINITE)
    except EngineFailed as error:
        again = f"to go on: --output_dir {config.output_dir} --resume"
        print(f"train.py: the engine failed: {error}; {again}", file=sys.stderr)
        sys.exit(ENGINE_FAILED)
    for tracker in accelerator.trackers:
        with contextlib.suppress(Exception):  # each has its own, and the run is whole without it
            tracker.finish()
    if held:
        held.close()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("train.py: interrupted")
