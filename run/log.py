"""What a run tells: progress lines, metrics.jsonl (see README.md), samples.jsonl, groups.jsonl, trackers."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm

from analysis.report import mean
from data import Problem

PARTS = ("sample", "verify", "update", "sync", "rest")  # of a step; the rest is logging, evaluation, saving
FILES = ("metrics.jsonl", "samples.jsonl", "groups.jsonl")
GROUP_TOKENS = 500  # of each response that are kept in groups.jsonl


def response_metrics(
    records: Sequence[tuple[float, bool, int, bool]], group_size: int
) -> dict[str, float | None]:
    """(reward, formatted, tokens, truncated) of all responses, prompt-major -> metrics; None: no mean."""
    rewards, formatted, tokens, truncated = zip(*records, strict=True)
    groups = [rewards[i : i + group_size] for i in range(0, len(rewards), group_size)]
    return {
        "reward/mean": mean(rewards),
        "reward/formatted": mean(formatted),
        "response_tokens/mean": mean(tokens),
        "response_tokens/correct": mean([t for reward, _, t, _ in records if reward > 0]),
        "response_tokens/incorrect": mean([t for reward, _, t, _ in records if reward == 0]),
        "truncated": mean(truncated),
        "groups/all_zero": mean([max(group) == 0 for group in groups]),
        "groups/all_one": mean([min(group) == 1 for group in groups]),
    }


def find_warnings(metrics: dict, steps_without_reward: int) -> dict[str, str]:
    """What looks wrong in a step, by name, with the likely cause."""
    found = {}
    if metrics["groups/all_zero"] + metrics["groups/all_one"] > 0.95:
        found["no_signal"] = "nearly all groups have equal rewards: there is little to learn from"
    if metrics["truncated"] > 0.95:
        found["truncated"] = "nearly all responses are cut off: raise --max_response_tokens"
    if abs(metrics["sampler_kl"]) > 0.1:
        gap = f"{metrics['sampler_kl']:.2f} nats a token"
        found["drift"] = f"sampler and learner differ by {gap}: try --importance_cap 2"
    if metrics["entropy"] < 1e-3:
        found["collapsed"] = f"the entropy is {metrics['entropy']:.1e} nats, one response is left: lower --lr"
    if steps_without_reward >= 20:
        found["no_reward"] = (
            "no response was right in 20 steps: do --template and --model match? samples.jsonl shows them"
        )
    return found


def group_record(
    step: int, problem: Problem, rollouts: Sequence, rewards: Sequence[float], decode: Callable
) -> dict:
    """A line of groups.jsonl: all responses to one question, token by token.

    Of a response its first GROUP_TOKENS tokens at most: their texts, each decoded alone (a character of
    several tokens is not readable so), and the sampler's log-probs in nats; `response_tokens` counts all.
    """
    responses = []
    for rollout, reward in zip(rollouts, rewards, strict=True):
        tokens = [decode([token]) for token in rollout.response_ids[:GROUP_TOKENS]]
        logprobs = [round(logprob, 4) for logprob in rollout.sampler_logprobs[:GROUP_TOKENS]]
        response = {"reward": reward, "truncated": rollout.truncated}
        response |= {"response_tokens": len(rollout.response_ids), "tokens": tokens, "logprobs": logprobs}
        responses.append(response)
    return {"step": step, "question": problem.question, "answers": problem.answers, "responses": responses}


def send_table(tracker, samples: Sequence[dict], step: int) -> None:
    """The samples of a step as a table, to a tracker of accelerate's that knows tables; to others nothing."""
    columns = list(samples[0])
    rows = [[", ".join(s["answers"]) if key == "answers" else s[key] for key in columns] for s in samples]
    if hasattr(tracker, "log_table"):  # wandb, clearml
        tracker.log_table("samples", columns=columns, data=rows, step=step)
    elif tracker.name == "trackio":
        import pandas
        import trackio

        table = trackio.Table(dataframe=pandas.DataFrame(rows, columns=columns))
        tracker.log({"samples": table}, step=step)


class RunLog:
    """What a run tells: progress lines, the FILES and the trackers. Rank 0 writes.

    Nothing here ends a run: what a full disk refuses is written later, and a tracker may be gone.
    """

    def __init__(self, folder: Path, done: int, accelerator: Accelerator):
        self.folder, self.accelerator = folder, accelerator
        self.seconds, self.steps = 0.0, 0
        self.times, self.lap_ended = {}, time.perf_counter()
        self.warned: set[str] = set()
        self.unwritten = dict.fromkeys(FILES, "")
        self.steps_without_reward = 0
        self.active = accelerator.is_main_process
        if self.active:
            metrics, *_ = [self._drop_after(folder / name, done) for name in FILES]
            for record in metrics:
                self._count_reward(record)

    @staticmethod
    def _drop_after(file: Path, done: int) -> list[dict]:
        """Drop the lines of steps that a resumed run repeats, and torn ones -> the records that are left."""
        kept = []
        for line in file.read_text(errors="replace").splitlines() if file.exists() else []:
            try:
                record = json.loads(line)
            except ValueError:  # torn by a crash; the step that it was of is repeated
                continue
            if record["step"] <= done:
                kept.append(record)
        aside = file.with_suffix(".partial")
        aside.write_text("".join(json.dumps(record) + "\n" for record in kept))
        os.replace(aside, file)
        return kept

    def _count_reward(self, metrics: dict) -> None:
        self.steps_without_reward = self.steps_without_reward + 1 if metrics.get("reward/mean") == 0 else 0

    def say(self, text: str) -> None:
        if self.active:
            with contextlib.suppress(OSError):  # stdout is closed, or a file on a full disk
                tqdm.write(text)

    def warn_once(self, name: str, text: str) -> None:
        if name not in self.warned:
            self.say(f"! {text}")
        self.warned.add(name)

    def lap(self, part: str) -> None:
        """A part of the step ends here: time/<part> counts from where the part before it ended."""
        now = time.perf_counter()
        self.times[f"time/{part}"], self.lap_ended = now - self.lap_ended, now

    def step(
        self,
        step: int,
        c,
        rollouts: Sequence,
        verdicts: Sequence,
        rewards: Sequence[float],
        learned: dict[str, float],
    ) -> dict:
        """The metrics of a step from all ranks, also printed. `c`: the settings of train.py."""
        records = [
            (reward, verdict.formatted, len(rollout.response_ids), rollout.truncated)
            for reward, verdict, rollout in zip(rewards, verdicts, rollouts, strict=True)
        ]
        gathered = gather_object([(records, sum(verdict.timed_out for verdict in verdicts))])
        records = [record for of_rank, _ in gathered for record in of_rank]
        times = {f"time/{part}": self.times[f"time/{part}"] for part in PARTS}
        metrics = {"step": step, **response_metrics(records, c.group_size), **learned}
        metrics |= {"verify/timeouts": sum(of_rank for _, of_rank in gathered), **times}
        seconds = sum(times.values()) - times["time/rest"]
        metrics["tokens_per_second"] = sum(tokens for _, _, tokens, _ in records) / seconds
        self.progress(metrics, c.num_steps)
        return metrics | {"warnings": self.warnings(metrics)}

    def progress(self, metrics: dict, num_steps: int) -> None:
        """One line a step, and a warning at the first step that deserves it."""
        m = metrics
        keys = ("response_tokens/correct", "response_tokens/incorrect")
        right, wrong = ("-" if m[key] is None else f"{m[key]:.0f}" for key in keys)
        self.steps += 1
        self.seconds += sum(value for key, value in m.items() if key.startswith("time/"))
        each = self.seconds / self.steps
        left = tqdm.format_interval(each * (num_steps - m["step"]))
        self.say(
            f"step {m['step']:>3}/{num_steps}  reward {m['reward/mean']:.3f}  "
            f"tokens right {right} wrong {wrong}  "
            f"{m['tokens_per_second']:,.0f} tokens/s  {each:.1f} s/step  {left} left"
        )

    def warnings(self, metrics: dict) -> list[str]:
        """The names of what looks wrong in this step; each is told once, with its likely cause."""
        self._count_reward(metrics)
        found = find_warnings(metrics, self.steps_without_reward)
        for name, text in found.items():
            self.warn_once(name, text)
        return list(found)

    def write(self, metrics: dict) -> None:
        """One line of metrics.jsonl, and the trackers."""
        if self.active:
            self._append("metrics.jsonl", json.dumps(metrics) + "\n")
        numbers = {key: value for key, value in metrics.items() if isinstance(value, int | float)}
        self._track(lambda: self.accelerator.log(numbers, step=metrics["step"]))

    def samples(
        self,
        step: int,
        problems: Sequence[Problem],
        rollouts: Sequence,
        rewards: Sequence[float],
        decode: Callable[[list[int]], str],
    ) -> None:
        """Lines of samples.jsonl: one response to each of some four questions, at least one of each rank.

        Trackers that know tables get them too. And a line of groups.jsonl, see `group_record`: the first
        question of rank 0 with its whole group. `decode` is the tokenizer's.
        """
        group_size = len(rollouts) // len(problems)
        samples = []
        for i, problem in enumerate(problems[: max(1, 4 // self.accelerator.num_processes)]):
            rollout, reward = rollouts[i * group_size], rewards[i * group_size]
            sample = {"step": step, "question": problem.question, "answers": problem.answers}
            sample |= {"response": rollout.text, "reward": reward, "truncated": rollout.truncated}
            samples.append(sample)
        samples = gather_object(samples)
        if self.active:
            self._append("samples.jsonl", "".join(json.dumps(sample) + "\n" for sample in samples))
            group = group_record(step, problems[0], rollouts[:group_size], rewards[:group_size], decode)
            self._append("groups.jsonl", json.dumps(group) + "\n")
            for tracker in self.accelerator.trackers:
                self._track(lambda tracker=tracker: send_table(tracker, samples, step))

    def _track(self, send: Callable[[], None]) -> None:
        try:
            send()
        except Exception as error:  # each tracker has its own, and none is worth a run
            self.warn_once("tracker", f"the tracker failed, and training goes on: {error!r}")

    def keep_rollouts(self, name: str, rollouts: Sequence) -> str:
        """Write responses of this rank, whole, to a file of that name in the run's folder -> its path."""
        if not rollouts:
            return "none here"
        file = self.folder / name
        try:
            file.write_text("".join(json.dumps(asdict(rollout)) + "\n" for rollout in rollouts))
        except OSError as error:
            return f"not kept, {error}"
        return str(file)

    def _append(self, name: str, text: str) -> None:
        """Add to a file, with what could not be written before; no line is ever half there."""
        self.unwritten[name] += text
        file = self.folder / name
        size = file.stat().st_size if file.exists() else 0
        try:
            with open(file, "a") as stream:
                stream.write(self.unwritten[name])
        except OSError as error:
            with contextlib.suppress(OSError):  # the file is gone, with its disk
                os.truncate(file, size)
            self.warn_once(name, f"{file} cannot be written, and training goes on: {error}")
        else:
            self.unwritten[name] = ""
