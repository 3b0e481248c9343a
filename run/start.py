"""The start of a run: what is checked and read before a model loads, and the folder that it takes."""

import fcntl
import importlib.metadata
import json
import os
import socket
import time
from dataclasses import asdict
from pathlib import Path

from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list

from data import Problem, checksum, load_problems, reference_warnings
from miniature.tiny_base import make_tiny_base
from run.base_model import context_of, encode, load_tokenizer, read_config
from run.flags import try_hub, try_writing
from run.memory import check_engine
from run.settings import TINY_BASE, Config, check, check_changes, check_questions, dry_run, plan
from templates import apply_template


def prepare(c: Config, accelerator: Accelerator) -> tuple | None:
    """What `train` takes, all but the weights read and checked. None for --dry_run, which prints its plan."""
    to_be_made = c.model == TINY_BASE and not os.path.isdir(c.model)
    evaluated = c.eval_data if c.eval_every else []
    try_hub([c.data, *evaluated, *([] if to_be_made else [c.model])])
    check_engine()
    check(c, accelerator.num_processes)
    for line in check_changes(c):
        accelerator.print(line)
    columns = dict(question_column=c.question_column, answer_column=c.answer_column)
    problems = load_problems(c.data, data_dir=c.data_dir, **columns)
    options = dict(data_dir=c.data_dir, limit=c.eval_limit, or_usual=True, **columns)
    eval_sets = {name: load_problems(name, "test", **options) for name in evaluated}
    for line in reference_warnings(eval_sets | {f"{c.data} (to train on)": problems}):
        accelerator.print(line)
    describe = dry_run if c.dry_run else plan
    if to_be_made:
        accelerator.print(describe(c, accelerator.num_processes, len(problems)))
        if c.dry_run:
            return None
        accelerator.print(f"The tiny base model is made first, once, in {TINY_BASE}")
        for parent in (Path(TINY_BASE).parent, Path(c.output_dir or "runs/new").parent):
            try_writing(parent)
        make_tiny_base(TINY_BASE, accelerator, seed=c.seed)
        accelerator.wait_for_everyone()  # rank 0 writes it
    tokenizer = load_tokenizer(c.model)
    problems, prompts, max_model_len = encode_questions(c, tokenizer, problems, eval_sets)
    if not to_be_made:
        accelerator.print(describe(c, accelerator.num_processes, len(problems)))
    return None if c.dry_run else (tokenizer, problems, prompts, eval_sets, max_model_len)


def encode_questions(
    c: Config, tokenizer, problems: list[Problem], eval_sets: dict[str, list[Problem]]
) -> tuple[list[Problem], list[list[int]], int]:
    """Problems whose prompts fit the limit, those prompts as ids, and the engine's context in tokens.

    A response that the model's context leaves less room than the budget ends there, as truncated. ValueError
    if too few problems are left, or if an evaluation prompt leaves no room at all.
    """

    config = read_config(c.model)
    context, vocab_size = context_of(config), config.vocab_size

    def prompts(some: list[Problem]) -> list[list[int]]:
        return encode(
            tokenizer, [apply_template(c.template, problem.question) for problem in some], vocab_size
        )

    pairs = list(zip(problems, prompts(problems), strict=True))
    # Room for two tokens: of a response that fills the context, the hand-over's check does not see the last.
    longest = min(c.max_prompt_tokens, context - 2)
    kept = [(problem, ids) for problem, ids in pairs if len(ids) <= longest]
    limit = f"max_prompt_tokens {c.max_prompt_tokens}"
    if longest < c.max_prompt_tokens:
        limit = f"what the context of {c.model}, {context} tokens, can take"
    if len(kept) < c.prompts_per_step:
        raise ValueError(
            f"{len(kept)} of {len(pairs)} questions of {c.data} are within {limit}, fewer than "
            f"prompts_per_step {c.prompts_per_step}"
        )
    say = PartialState().print
    if len(kept) < len(pairs):
        say(f"{len(pairs) - len(kept)} of {len(pairs)} questions are left out: over {limit}")
    lengths = {name: [len(ids) for ids in prompts(some)] for name, some in eval_sets.items()}
    for name, of_set in lengths.items():
        if max(of_set) >= context:
            raise ValueError(
                f"a prompt of {name} has {max(of_set)} tokens, and the context of {c.model} is {context}"
            )
    lengths[c.data] = lengths.get(c.data, []) + [len(ids) for _, ids in kept]
    for name, of_set in lengths.items():
        if cut := sum(length + c.max_response_tokens > context for length in of_set):
            say(f"{cut} prompts of {name} leave less than max_response_tokens of the context, {context}")
    needed = max(max(of_set) for of_set in lengths.values()) + max(2, c.max_response_tokens)
    return [problem for problem, _ in kept], [ids for _, ids in kept], min(needed, context)


def open_run(config: Config, accelerator: Accelerator, problems: list[Problem]):
    """The run's folder, locked, with config.json in it -> what holds the lock. ValueError if it is taken."""
    if config.output_dir is None:
        now = [f"runs/{config.recipe}-{config.algo}-{time.strftime('%Y%m%d-%H%M%S')}"]
        (config.output_dir,) = broadcast_object_list(now)  # rank 0's clock for all
    folder, held, errors = Path(config.output_dir), None, [None]
    if accelerator.is_main_process:
        try:
            held = lock(folder)
            questions = checksum(problems)
            check_questions(config, questions)
            packages = ("torch", "transformers", "accelerate")
            versions = {name: importlib.metadata.version(name) for name in packages}
            settings = json.dumps(asdict(config) | {"questions": questions, "versions": versions}, indent=2)
            (folder / "config.json.partial").write_text(settings + "\n")
            os.replace(folder / "config.json.partial", folder / "config.json")
        except (ValueError, OSError) as error:
            errors = [str(error)]
    (error,) = broadcast_object_list(errors)
    if error:
        raise ValueError(error)
    return held


def lock(folder: Path):
    """Take the run folder for this process, as long as the returned file is open. ValueError if it is taken.

    The operating system lets go of it however the process ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / "lock", "a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise ValueError(f"output_dir {folder} is in use by another run: {file.read().strip()}") from None
    except OSError as error:  # a file system without locks
        print(f"output_dir {folder} cannot be locked ({error}): see that no other run uses it", flush=True)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file
