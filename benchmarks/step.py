"""A whole training step beside TRL's, on a CPU: sampling, reward, update, hand-over.

    pip install trl==1.16.0
    python -m benchmarks.step                     on the tiny base (python pretrain.py makes it)

Both run Dr. GRPO from the same base on the same questions: 32 x 8 responses of at most 128 tokens, two
updates of 128, the same verifier as reward. TRL's GRPOTrainer generates with transformers, as it does where
vLLM is not asked for; a batch of ROWS is one update. They take turns in one process, a step each.
Prints one JSON line last: medians of 10 steps.
"""

import gc
import json
import statistics
import tempfile
import time

import run.environment  # noqa: F401

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from data import load_problems
from learner import compute_dtype, load_policy, update
from loss import group_advantages
from rollout import Sampler
from run.base_model import load_tokenizer
from run.memory import CPU_MICRO_BATCH
from run.settings import TINY_BASE, parse_config
from train import derived_seed, hand_over
from verify import VerifierPool

ROUNDS, WARM_UP, ROWS = 10, 2, 128
LIMIT = 3.0  # TRL's seconds / ours


class Ours:
    """The steps of train.py's loop, without its log."""

    def __init__(self, c, problems, verifier):
        self.c, self.verifier, self.steps, self.seconds, self.rewards = c, verifier, 0, [], []
        self.problems, tokenizer = problems, load_tokenizer(c.model)
        self.prompts = tokenizer([p.question for p in problems])["input_ids"]
        self.device = torch.device("cpu")
        self.policy = load_policy(c.model, self.device, c.attn_implementation)
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters(), lr=c.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        )
        longest = c.max_prompt_tokens + c.max_response_tokens
        self.sampler = Sampler(c.model, max_model_len=longest, dtype=compute_dtype(), memory=1.0)
        gc.freeze()

    def step(self) -> None:
        c, started = self.c, time.perf_counter()
        of_step = slice(self.steps * c.prompts_per_step, (self.steps + 1) * c.prompts_per_step)
        seed = derived_seed(0, "sample", self.steps)
        rollouts = self.sampler.sample(
            self.prompts[of_step], c.group_size, c.temperature, c.max_response_tokens, (), seed
        )
        answers = [p.answers for p in self.problems[of_step] for _ in range(c.group_size)]
        verdicts = self.verifier.verify_all([r.text for r in rollouts], answers, "boxed")
        rewards = torch.tensor([float(v.correct) for v in verdicts])
        advantages = group_advantages(rewards, c.group_size, scale_by_std=False)
        update(self.policy, self.optimizer, rollouts, advantages, c, self.device, self.steps)
        hand_over(self.policy, self.sampler, max(rollouts, key=lambda r: len(r.response_ids)), self.device)
        self.steps += 1
        self.seconds.append(time.perf_counter() - started)
        self.rewards.append(rewards.mean().item())


class TakingTurns(TrainerCallback):
    """After each of TRL's rounds, which is two of its optimizer steps, a step of ours."""

    def __init__(self, ours: Ours):
        self.ours, self.seconds, self.since = ours, [], None

    def on_step_begin(self, args, state, control, **_):
        if self.since is None:  # without the start of the first generation, so the first round is left out
            self.since = time.perf_counter()

    def on_step_end(self, args, state, control, **_):
        if state.global_step % 2 == 0:
            self.seconds.append(time.perf_counter() - self.since)
            self.ours.step()
            self.since = time.perf_counter()


def main() -> None:
    c = parse_config(["--recipe", "tiny"])
    c.micro_batch_tokens = CPU_MICRO_BATCH
    problems = load_problems("arithmetic")[: (ROUNDS + WARM_UP) * c.prompts_per_step]
    answer_of = {problem.question: problem.answers for problem in problems}
    with VerifierPool(num_workers=1) as verifier, tempfile.TemporaryDirectory() as folder:
        ours = Ours(c, problems, verifier)
        turns, rewards = TakingTurns(ours), []

        def reward(prompts, completions, **_) -> list[float]:
            verdicts = verifier.verify_all(completions, [answer_of[prompt] for prompt in prompts], "boxed")
            rewards.append(sum(v.correct for v in verdicts) / len(verdicts))
            return [float(v.correct) for v in verdicts]

        config = GRPOConfig(
            folder, loss_type="dr_grpo", scale_rewards="none", beta=0.0, learning_rate=c.lr, temperature=1.0,
            lr_scheduler_type="constant", num_generations=c.group_size,
            max_completion_length=c.max_response_tokens, per_device_train_batch_size=ROWS,
            gradient_accumulation_steps=128 // ROWS, steps_per_generation=256 // ROWS,
            max_steps=2 * (ROUNDS + WARM_UP), shuffle_dataset=False, bf16=compute_dtype() == torch.bfloat16,
            use_cpu=True, report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True,
            gradient_checkpointing=False,
        )  # fmt: skip
        model = AutoModelForCausalLM.from_pretrained(
            TINY_BASE, dtype=torch.float32, attn_implementation="eager"
        )
        questions = Dataset.from_dict({"prompt": [problem.question for problem in problems]})
        tokenizer = load_tokenizer(TINY_BASE)
        GRPOTrainer(model, reward, config, questions, processing_class=tokenizer, callbacks=[turns]).train()
    theirs, mine = (statistics.median(seconds[WARM_UP:]) for seconds in (turns.seconds, ours.seconds))
    result = {"benchmark": "step", "ours_seconds": mine, "trl_seconds": theirs, "ratio": theirs / mine}
    result |= {"our_reward": statistics.mean(ours.rewards), "trl_reward": statistics.mean(rewards)}
    print(json.dumps(result | {"limit": LIMIT, "ok": theirs / mine >= LIMIT}))


if __name__ == "__main__":
    main()
