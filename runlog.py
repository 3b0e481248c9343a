"""What a run tells: progress lines, metrics.jsonl, samples.jsonl and trackers. README lists the metrics."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from accelerate import Accelerator
from tqdm import tqdm

from data import Problem


def response_metrics(
    records: Sequence[tuple[float, bool, int, bool]], group_size: int
) -> dict[str, float | None]:
    """(reward, formatted, tokens, truncated) of all responses, prompt-major -> metrics; None: no mean."""

    def mean(values: Sequence[float]) -> float | None:
        return sum(values) / len(values) if values else None

    rewards, formatted, tokens, truncated = zip(*records, strict=True)
    groups = [rewards[i : i + group_size] for i in range(0, len(rewards), group_size)]
    return {
        "reward/mean": mean(rewards),
        "reward/formatted": mean(formatted),
        "response_tokens/mean": mean(tokens),
        "response_tokens/correct": mean([t for t, reward in zip(tokens, rewards, strict=True) if reward > 0]),
        "response_tokens/incorrect": mean(
            [t for t, reward in zip(tokens, rewards, strict=True) if reward == 0]
        ),
        "truncated": mean(truncated),
        "groups/all_zero": mean([max(group) == 0 for group in groups]),
        "groups/all_one": mean([min(group) == 1 for group in groups]),
    }


class RunLog:
    """What a run tells: progress lines, metrics.jsonl, samples.jsonl and the trackers. Rank 0 writes."""

    def __init__(self, folder: Path, done: int, accelerator: Accelerator):
        self.folder, self.accelerator = folder, accelerator
        self.seconds, self.steps = 0.0, 0
        self.active = accelerator.is_main_process
        if self.active:
            for name in ("metrics.jsonl", "samples.jsonl"):
                self._drop_lines_after(folder / name, done)

    @staticmethod
    def _drop_lines_after(file: Path, done: int) -> None:
        """A resumed run repeats the steps after its checkpoint: their lines, and half a line, go."""
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        whole = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= done]
        aside = file.with_suffix(".partial")
        aside.write_text("".join(whole))
        os.replace(aside, file)

    def say(self, text: str) -> None:
        if self.active:
            tqdm.write(text)

    def progress(self, metrics: dict, num_steps: int) -> None:
        """One line a step."""
        m = metrics
        keys = ("response_tokens/correct", "response_tokens/incorrect")
        right, wrong = ("-" if m[key] is None else f"{m[key]:.0f}" for key in keys)
        self.steps += 1
        self.seconds += sum(value for key, value in m.items() if key.startswith("time/"))
        each = self.seconds / self.steps
        left = tqdm.format_interval(each * (num_steps - m["step"]))
        warning = ""
        if m["groups/all_zero"] + m["groups/all_one"] > 0.95:
            warning = "  ! nearly all groups have equal rewards: there is little to learn from"
        elif m["truncated"] > 0.95:
            warning = "  ! nearly all responses are cut off: raise --max_response_tokens"
        self.say(
            f"step {m['step']:>3}/{num_steps}  reward {m['reward/mean']:.3f}  "
            f"tokens right {right} wrong {wrong}  "
            f"{m['tokens_per_second']:,.0f} tokens/s  {each:.1f} s/step  {left} left{warning}"
        )

    def write(self, metrics: dict) -> None:
        """One line of metrics.jsonl, and the trackers."""
        if self.active:
            with open(self.folder / "metrics.jsonl", "a") as file:
                file.write(json.dumps(metrics) + "\n")
        numbers = {key: value for key, value in metrics.items() if value is not None}
        self.accelerator.log(numbers, step=metrics["step"])

    def samples(self, step: int, problems: Sequence[Problem], rollouts: Sequence, rewards: Sequence[float]):
        """Lines of samples.jsonl: the first response to each of the first four questions of rank 0."""
        if not self.active:
            return
        group_size = len(rollouts) // len(problems)
        with open(self.folder / "samples.jsonl", "a") as file:
            for i, problem in enumerate(problems[:4]):
                rollout, reward = rollouts[i * group_size], rewards[i * group_size]
                sample = {"step": step, "question": problem.question, "answers": problem.answers}
                sample |= {"response": rollout.text, "reward": reward, "truncated": rollout.truncated}
                file.write(json.dumps(sample) + "\n")
