"""The settings of train.py: flags, the paper's recipes, what cannot work, and what a run would need."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import broadcast_object_list

from learner import compute_dtype
from loss import ALGOS
from rollout import MIN_TEMPERATURE
from run.base_model import check_model, empty_model
from run.flags import Flags, check_numbers, flag
from run.memory import (
    CPU_MICRO_BATCH,
    GB,
    LARGEST_MICRO_BATCH,
    MACHINES,
    check_disk,
    check_memory,
    fitting_micro_batch,
    longest_row,
    memory_table,
)
from templates import TEMPLATES

TINY_BASE = "models/tiny-base"  # made on first use
BENCHMARKS = ["aime", "amc", "math500", "minerva", "olympiad"]

TINY = dict(
    model=TINY_BASE, data="arithmetic", template="none", eval_data=["arithmetic"], num_steps=100,
    prompts_per_step=32, max_prompt_tokens=64, max_response_tokens=128, lr=6e-5,
    eval_every=20, save_every=20, attn_implementation="eager",
)  # fmt: skip
LARGE = dict(
    gradient_checkpointing=True
)  # as in the authors' scripts; a micro-batch of the 7B takes 113 GB without
RECIPES = {
    "tiny": TINY,
    "oat-zero-7b": dict(model="Qwen/Qwen2.5-Math-7B", data="math_lvl3to5", template="qwen_math", **LARGE),
    "oat-zero-1.5b": dict(model="Qwen/Qwen2.5-Math-1.5B", data="math12k", template="r1", **LARGE),
    "oat-zero-3b": dict(model="lkevinzc/Llama-3.2-3B-NuminaQA", data="math12k", template="r1", **LARGE),
    "figure5": dict(model="Qwen/Qwen2.5-1.5B", data="math12k", template="r1", **LARGE),
    # Not the paper's: for one small GPU. GSM8K by its own splits, so that its test questions are not seen.
    "gsm8k-0.5b": dict(
        model="Qwen/Qwen2.5-0.5B",
        data="openai/gsm8k:main",
        template="qwen_math",
        num_steps=200,
        prompts_per_step=32,
        minibatch_size=64,
        max_prompt_tokens=512,
        max_response_tokens=1024,
        micro_batch_tokens=8192,
        eval_data=["openai/gsm8k:main"],
        engine_memory=0.5,
        **LARGE,
    ),
}
# recipe -> number of GPUs -> how many GB each must have, by memory.py's plan; the best recipe first.
SMALLEST_GPU = {
    "oat-zero-7b": {2: 143, 4: 72, 8: 36},
    "oat-zero-1.5b": {1: 58, 2: 29, 4: 15},
    "gsm8k-0.5b": {1: 15},
}


def default_recipe(num_gpus: int, gpu_gb: float) -> str:
    """The paper's 7B where it fits, else the largest that does; tiny without a GPU, or on a small one."""
    for recipe, smallest in SMALLEST_GPU.items():
        if any(num_gpus >= gpus and gpu_gb >= size for gpus, size in smallest.items()):
            return recipe
    return "tiny"


def gpu_bytes() -> int | None:
    """Memory of this rank's GPU, None where there is none."""
    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(int(os.environ.get("LOCAL_RANK") or 0)).total_memory


@dataclass
class Config:
    """The defaults are Table 6 of the paper, but for num_steps. Recipes set others; a flag overrides both."""

    recipe: str = flag("tiny", "named defaults", choices=RECIPES)
    algo: str = flag("drgrpo", "sets both terms by which GRPO and Dr. GRPO differ", choices=ALGOS)
    model: str = flag("", "base model: checkpoint folder or Hub id")
    data: str = flag("", "questions to train on: a name, file, folder or Hub id, see data.py")
    data_dir: str | None = flag(None, "folder with the paper's sets; default: download and cache")
    question_column: str | None = flag(None, "column of questions, in --data and where --eval_data has it")
    answer_column: str | None = flag(None, "column of reference answers, in the same sets")
    template: str = flag("none", "prompt template, see templates.py", choices=TEMPLATES)
    output_dir: str | None = flag(None, "run folder; default: runs/<recipe>-<algo>-<time>")

    num_steps: int = flag(500, "sampling rounds")
    prompts_per_step: int = flag(128, "questions a step, over all ranks")
    group_size: int = flag(8, "responses a question")
    max_prompt_tokens: int = flag(1024, "questions with longer prompts are left out")
    max_response_tokens: int = flag(3000, "budget; a response that runs out of it gets reward 0")
    temperature: float = flag(1.0, "of sampling, and of the learner's log-probs")

    minibatch_size: int = flag(128, "responses an optimizer update, over all ranks")
    micro_batch_tokens: int | None = flag(
        None, "most tokens of a rank's forward and backward, padding included; default: what fits the memory"
    )
    lr: float = flag(1e-6, "learning rate of AdamW, constant")
    clip_eps: float = flag(0.2, "the ratio is clipped to 1 +- this (Eq. 2)")
    max_grad_norm: float = flag(1.0, "gradients of a larger norm are scaled down to it")
    clip_eps_high: float | None = flag(None, "clip-higher: another eps for the upper side")
    importance_cap: float | None = flag(None, "weigh tokens by learner / sampler probability, at most this")
    beta: float = flag(0.0, "weight of a KL term towards the initial model, per token (Eq. 1)")
    mask_truncated: bool = flag(False, "leave responses cut off by the budget out of the loss")
    skip_equal_groups: bool = flag(False, "do not compute groups of equal rewards; the gradient is the same")
    share_prompts: bool = flag(False, "compute a group's prompt once: for prompts as long as responses")
    gradient_checkpointing: bool = flag(False, "recompute activations: less memory, a third more compute")
    attn_implementation: str = flag("sdpa", "attention of transformers: sdpa, eager, flash_attention_2")

    eval_data: list[str] = flag(BENCHMARKS, "sets to evaluate on, greedily")
    eval_every: int = flag(16, "steps between evaluations; also at the start and the end. 0: none at all")
    eval_limit: int | None = flag(None, "first questions of each evaluation set only")
    save_every: int = flag(16, "steps between checkpoints; there is one after the last step too")
    keep_checkpoints: int = flag(2, "newest checkpoints to keep; the most accurate one stays too")
    seed: int = flag(0, "of the questions' order, sampling, shuffling, and the tiny base where it is made")
    resume: bool = flag(False, "go on with the run in --output_dir from its newest checkpoint")
    allow_config_change: bool = flag(False, "with --resume: let flags change that change the training")
    dry_run: bool = flag(False, "print the settings, the batch arithmetic and the memory needed, and stop")
    engine_memory: float | None = flag(None, "vLLM's share of a GPU (0.6), or GiB of KV cache on CPU (1)")
    replicas: int = flag(1, "copies of the sharded learner: as many as machines, if each can hold one")
    tensor_parallel: int = flag(1, "ranks that share one vLLM engine, for models too large for one GPU")
    report_to: str = flag("none", "a tracker of accelerate", choices=["none", *LOGGER_TYPE_TO_CLASS])


NOT_THE_POLICY = (
    "training samples from the policy itself: where sampling leaves tokens out or moves them, the ratio of "
    "Eq. 2 is biased; set --temperature, or evaluate with eval.py --top_p"
)
REFUSED = dict.fromkeys(["top_p", "top_k", "min_p", "repetition_penalty"], NOT_THE_POLICY)


def parse_config(args: Sequence[str]) -> Config:
    """Flags over the recipe over the defaults; with --resume, flags over the settings of the run itself."""
    usage = "train.py [--recipe NAME] [--algo NAME] [--flag value ...]   (-h lists all flags)"
    parser = Flags(Config, usage)
    ranks = int(os.environ.get("WORLD_SIZE") or 1)
    parser.set_defaults(recipe=default_recipe(ranks, (gpu_bytes() or 0) / GB))
    named, _ = parser.parse_known_args(args)
    parser.set_defaults(**RECIPES[named.recipe])
    if named.resume:
        if not named.output_dir:
            raise ValueError("resume: which run? set output_dir to its folder")
        saved = saved_settings(named.output_dir)
        kept = [name for name in vars(Config()) if name in saved and name not in OF_ONE_CALL]
        parser.set_defaults(**{name: saved[name] for name in kept})
    return parser.read(args, REFUSED)


def saved_settings(output_dir: str) -> dict:
    """config.json of a run, {} where there is none yet."""
    file = Path(output_dir).expanduser() / "config.json"
    try:
        return json.loads(file.read_text()) if file.exists() else {}
    except ValueError as error:
        raise ValueError(f"resume: {file} cannot be read: {error}") from None


def holds_something(folder: Path) -> bool:
    """Whether a run, or anything else, left more in a folder than a start that failed does."""
    left = folder.iterdir() if folder.exists() else ()
    return any(path.is_dir() or path.stat().st_size for path in left if path.name not in OF_A_START)


OF_A_START = ["lock", "config.json", "config.json.partial"]
OF_ONE_CALL = ["output_dir", "resume", "allow_config_change", "dry_run"]
# What else may differ when a run is resumed: the goal stays the same. With tensor_parallel, as on another
# number of ranks, the samples are others; with the rest a step differs by rounding at most.
FREE = """num_steps data_dir eval_data eval_every eval_limit save_every keep_checkpoints report_to
    engine_memory tensor_parallel replicas micro_batch_tokens gradient_checkpointing attn_implementation
    skip_equal_groups""".split()


def check_changes(c: Config) -> list[str]:
    """A line for each flag that differs from the run that is resumed.

    ValueError if one of them changes the training, unless --allow_config_change.
    """
    if not c.resume:
        return []
    saved = saved_settings(c.output_dir)
    if not saved:
        return [f"resume: {c.output_dir} holds no run yet, so this is its start"]
    changes = {
        name: f"{name}: {saved[name]} before, now {value}"
        for name, value in vars(c).items()
        if name in saved and name not in OF_ONE_CALL and saved[name] != value
    }
    forbidden = [line for name, line in changes.items() if name not in FREE]
    if forbidden and not c.allow_config_change:
        raise ValueError(f"resume: {'; '.join(forbidden)}. To train on so, add --allow_config_change")
    return [f"resume: {line}" for line in changes.values()]


def check_questions(c: Config, questions: str) -> None:
    """ValueError if a run is resumed on other questions, unless --allow_config_change: see `checksum`."""
    before = saved_settings(c.output_dir).get("questions", questions) if c.resume else questions
    if before != questions and not c.allow_config_change:
        raise ValueError(
            f"resume: {c.data} holds other questions than before. To train on so, add --allow_config_change"
        )


def check_batches(c: Config, world_size: int) -> None:
    """ValueError for a step that cannot be cut into groups, minibatches and rows."""
    if c.group_size < 2:
        raise ValueError(
            "group_size is 1: a response is compared with others of its group, so set at least 2"
        )
    for name in ("prompts_per_step", "minibatch_size"):
        if getattr(c, name) % world_size:
            raise ValueError(f"{name} {getattr(c, name)} is not a multiple of the {world_size} ranks")
    for name in ("tensor_parallel", "replicas"):
        if world_size % getattr(c, name):
            raise ValueError(f"{name} {getattr(c, name)} does not divide the {world_size} ranks")
    responses = c.prompts_per_step * c.group_size
    if responses % c.minibatch_size:
        raise ValueError(
            f"minibatch_size {c.minibatch_size} does not divide the {responses} responses of a step "
            f"(prompts_per_step {c.prompts_per_step} x group_size {c.group_size})"
        )
    if c.micro_batch_tokens and c.micro_batch_tokens < longest_row(c):
        row = f"a group's {c.group_size} responses" if c.share_prompts else "one full response"
        raise ValueError(
            f"micro_batch_tokens {c.micro_batch_tokens} does not hold {row}: {longest_row(c)}, "
            f"of max_prompt_tokens {c.max_prompt_tokens} and max_response_tokens {c.max_response_tokens}"
        )
    if c.share_prompts and (c.minibatch_size % c.group_size or c.attn_implementation != "sdpa"):
        raise ValueError(
            f"share_prompts with minibatch_size {c.minibatch_size}, group_size {c.group_size} and "
            f"attn_implementation {c.attn_implementation}: it takes minibatches of whole groups, and sdpa"
        )


def check(c: Config, world_size: int) -> None:
    """ValueError for settings that cannot work, before anything loads."""
    check_numbers(c, may_be_zero=["eval_every"])
    if c.temperature < MIN_TEMPERATURE:
        raise ValueError(f"temperature {c.temperature} is below {MIN_TEMPERATURE}, the engine's smallest")
    if c.beta > 0 and c.skip_equal_groups:
        raise ValueError(
            f"beta {c.beta} with skip_equal_groups: above 0 groups of equal rewards have a gradient too"
        )
    check_batches(c, world_size)
    if c.report_to not in ("none", *get_available_trackers()):
        raise ValueError(f"report_to {c.report_to}: install that package first, or leave the flag out")
    if c.output_dir and not c.resume and holds_something(Path(c.output_dir)):
        raise ValueError(f"output_dir {c.output_dir} holds another run: take a new folder, or add --resume")
    if c.resume and not saved_settings(c.output_dir) and holds_something(Path(c.output_dir)):
        raise ValueError(
            f"resume: output_dir {c.output_dir} is no run, it has no config.json but other files"
        )
    if c.model == TINY_BASE and not os.path.isdir(c.model):
        c.micro_batch_tokens = c.micro_batch_tokens or max(longest_row(c), CPU_MICRO_BATCH)
        return  # it will be made
    context = check_model(c.model)
    if c.max_response_tokens >= context:
        raise ValueError(
            f"max_response_tokens {c.max_response_tokens} is over the context of {c.model}, {context} tokens"
        )
    try:
        model = empty_model(c.model, c.attn_implementation)
    except ImportError as error:
        raise ValueError(f"attn_implementation {c.attn_implementation}: {error}") from None
    windows = getattr(model.config, "layer_types", None) or [getattr(model.config, "sliding_window", None)]
    if c.share_prompts and set(windows) - {"full_attention", None}:
        raise ValueError(f"share_prompts: {c.model} sees a window of its text, whose mask is not made here")
    heads = model.config.num_attention_heads
    if heads % c.tensor_parallel:
        raise ValueError(f"tensor_parallel {c.tensor_parallel} does not divide {heads} attention heads")
    if not c.micro_batch_tokens and (gpu_bytes() or c.model == TINY_BASE or not c.dry_run):
        fitting = fitting_micro_batch(c, model, gpu_bytes(), world_size, compute_dtype())
        (c.micro_batch_tokens,) = broadcast_object_list([fitting])  # all ranks cut alike
    if PartialState().is_main_process and not c.dry_run:  # what other ranks see may differ a little
        here = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
        check_memory(c, model, engine_share(c), gpu_bytes(), compute_dtype(), world_size, here)
        check_disk(c, model, Path(c.output_dir or "runs"))


def engine_share(c: Config) -> float:
    """Of a GPU's memory where there is one, else GiB of KV cache."""
    return c.engine_memory or (0.6 if torch.cuda.is_available() else 1.0)


def plan(c: Config, world_size: int, num_questions: int) -> str:
    """The batch arithmetic of a run, in words."""
    responses = c.prompts_per_step * c.group_size
    each = c.minibatch_size // world_size  # responses a rank and update
    rows = -(-each // c.group_size) if c.share_prompts else each
    fit = c.micro_batch_tokens // longest_row(c)
    return (
        f"{c.algo} on {c.model} with {num_questions} questions of {c.data}, template {c.template}, "
        f"{world_size} rank{'s' * (world_size > 1)}, {compute_dtype()}\n"
        f"a step: {c.prompts_per_step} questions x {c.group_size} = {responses} responses, "
        f"{responses // c.minibatch_size} updates of {c.minibatch_size}; "
        f"an epoch: {num_questions / c.prompts_per_step:.1f} steps; "
        f"{c.num_steps} steps: {c.num_steps * c.prompts_per_step / num_questions:.2f} epochs\n"
        f"a rank: {c.prompts_per_step // world_size} questions a step, {each} responses an update, "
        f"in {-(-rows // fit)} micro-batches of {c.micro_batch_tokens} tokens if all are of full length"
    )


def dry_run(c: Config, world_size: int, num_questions: int) -> str:
    """Settings, batch arithmetic, and memory by part on some machines, on this one first if it has a GPU.

    Without a GPU a laptop asks on behalf of as many as the recipe is for.
    """
    settings, here = json.dumps(asdict(c), indent=2), gpu_bytes()
    if c.model == TINY_BASE:
        return f"{settings}\n{plan(c, world_size, num_questions)}"
    gpus = world_size if here or world_size > 1 else max(SMALLEST_GPU.get(c.recipe, {8: 0}))
    c = replace(c, micro_batch_tokens=c.micro_batch_tokens or LARGEST_MICRO_BATCH // 2)
    machines = [*([(gpus, round(here / GB), c.replicas)] if here else []), *MACHINES]
    table = memory_table(c, empty_model(c.model), c.engine_memory or 0.6, machines)
    return f"{settings}\n{plan(c, gpus, num_questions)}\n{table}"
