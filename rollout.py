"""Rollouts: a vLLM engine inside the trainer's process, and the tensors that its responses become.

One process holds both the learner and the engine: weights go over in memory, and nothing has to be kept in
step over a network. The same lines run on GPU and on CPU; what is for one of them only is marked.
"""

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor

from run.ranks import this_rank, world_size

MIN_TEMPERATURE = 0.01  # vLLM samples at this where it is asked for less


@dataclass(frozen=True)
class Rollout:
    """One prompt and one sampled response."""

    prompt_ids: list[int]
    response_ids: list[int]  # with the end token, where one was sampled: stopping is learned too
    text: str  # the response as text, stop strings kept, special tokens left out
    sampler_logprobs: list[float]  # nats, of each response token under the sampling distribution
    truncated: bool  # the token budget ran out; a stop string or the end token is a proper end


class Batch(NamedTuple):
    """Tensors [B, T]. At position t the model has read input_ids[:, :t+1] and predicts labels[:, t]."""

    input_ids: Tensor
    labels: Tensor
    response_mask: Tensor  # bool: labels that belong to a response
    sampler_logprobs: Tensor  # float32, 0 outside the mask


def collate(rollouts: Sequence[Rollout], device: torch.device | str = "cpu") -> Batch:
    """Right-pad prompt + response and shift by one: the only such shift in the project.

    prompt [5, 6], response [7, 8] -> input_ids [5, 6, 7], labels [6, 7, 8], response_mask [0, 1, 1].
    """
    width = max((len(r.prompt_ids) + len(r.response_ids) - 1 for r in rollouts), default=1)
    # 0 as padding is an ordinary token: only the mask says what counts.
    ids = torch.zeros(len(rollouts), width + 1, dtype=torch.long)
    mask = torch.zeros(len(rollouts), width, dtype=torch.bool)
    sampler_logprobs = torch.zeros(len(rollouts), width)
    for row, r in enumerate(rollouts):
        start, end = len(r.prompt_ids), len(r.prompt_ids) + len(r.response_ids)
        ids[row, :end] = torch.tensor(r.prompt_ids + r.response_ids)
        mask[row, start - 1 : end - 1] = True
        sampler_logprobs[row, start - 1 : end - 1] = torch.tensor(r.sampler_logprobs)
    batch = Batch(ids[:, :-1], ids[:, 1:], mask, sampler_logprobs)
    return Batch(*(tensor.to(device) for tensor in batch))


class EngineFailed(RuntimeError):
    """vLLM raised an error, which this one names. The engine is of no use any more."""


class Sampler:
    """A vLLM engine with the learner's weights.

    Args:
        model: checkpoint folder or Hub id; the architecture stays, `load_weights` replaces the weights.
        max_model_len: prompt and response together, in tokens.
        seed: of the engine's own start; sampling takes a seed at each call.
        memory: GPU: share of the GPU's memory (0 to 1) for weights and KV cache. CPU: GiB of KV cache.
        tensor_parallel: neighbouring ranks that share one engine, each with its slice of the weights. They
            call every method together, and each gets the answers to its own prompts.
    """

    def __init__(
        self,
        model: str,
        *,
        max_model_len: int,
        dtype: torch.dtype,
        memory: float,
        sleep: bool = False,
        seed: int = 0,
        tensor_parallel: int = 1,
    ):
        # In this process, so that weights can be handed over without copies through another one.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        on_gpu = torch.cuda.is_available()
        if not on_gpu:
            # Left alone, vLLM pins every thread of this process, the learner's too, to cores of its choice.
            os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
            # Small functions of vLLM's are compiled where they are defined, which takes a C++ compiler.
            os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
        # Its notes at start and at each hand-over would bury the run's own lines; errors still show.
        os.environ["VLLM_LOGGING_LEVEL"] = (os.environ.get("VLLM_LOGGING_LEVEL") or "ERROR").upper()
        logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])
        warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")
        from vllm import LLM, SamplingParams

        self._sampling_params, self.dtype = SamplingParams, dtype
        self._tensor_parallel, self._max_model_len = tensor_parallel, max_model_len
        self._can_sleep = sleep and on_gpu
        room = {"kv_cache_memory_bytes": int(memory * 2**30)}
        if on_gpu:
            room = {"gpu_memory_utilization": memory}
        # Started once: vLLM ends an engine by destroying the process group, which is the learner's too.
        self._llm = LLM(
            model=model,
            dtype=str(dtype).removeprefix("torch."),
            max_model_len=max_model_len,
            seed=seed,
            enforce_eager=not on_gpu,  # on CPU compiling takes a minute and gains nothing
            enable_sleep_mode=self._can_sleep,
            # The log-probs of what was sampled: after the temperature, as the learner computes them.
            logprobs_mode="processed_logprobs",
            use_tqdm_on_load=False,
            tensor_parallel_size=tensor_parallel,
            # Under a launcher the ranks are the engines' workers too, beside the learner's process group.
            distributed_executor_backend="external_launcher" if world_size() > 1 else None,
            **room,
        )

    def sample(
        self,
        prompts: Sequence[list[int]],
        n: int,
        temperature: float,
        max_response_tokens: int,
        stop: Sequence[str],
        seed: int,
        progress: bool = False,
        logprobs: bool = True,
        top_p: float = 1.0,
    ) -> list[Rollout]:
        """`n` responses a prompt, prompt-major: i*n .. i*n+n-1 answer prompts[i]. Temperature 0: greedy.

        Without logprobs sampler_logprobs is empty, and sampling a small model takes a quarter less time.

        A response ends where prompt and response reach max_model_len, as truncated; a prompt must be shorter.

        Repeatable: the same weights, prompts and seed give the same responses. The seed is the global one, of
        torch for the CPU's sampler and of numpy, from which vLLM on GPUs draws a seed a request. (vLLM's own
        seeds a request fail on CPU where a prompt's prefill is split over two scheduler steps.)
        """
        params = self._sampling_params(
            n=n,
            temperature=temperature,
            top_p=top_p,
            max_tokens=max_response_tokens,
            stop=list(stop),
            include_stop_str_in_output=True,
            # Without stop strings nobody waits for the text: decoded below, at once, and much faster.
            detokenize=bool(stop),
            logprobs=0 if logprobs else None,  # 0: of the sampled token alone
            flat_logprobs=True,  # as plain lists
        )
        prompts_and_seeds, mine = self._of_engine([(ids, seed) for ids in prompts])
        if not prompts_and_seeds:
            return []
        seed = prompts_and_seeds[0][1]  # the same on all ranks of the engine
        torch.manual_seed(seed)
        np.random.seed(seed)
        # Keys and values that an earlier call left behind were rounded in another batch than a resumed run's.
        self._llm.reset_prefix_cache()
        inputs = [{"prompt_token_ids": ids} for ids, _ in prompts_and_seeds]
        outputs = self._generate(inputs, params, progress)[mine]
        if not stop:
            self._decode([response for output in outputs for response in output.outputs])
        return [
            Rollout(
                prompt_ids=prompt_ids,
                response_ids=list(response.token_ids),
                text=response.text,
                sampler_logprobs=list(response.logprobs.logprobs) if logprobs else [],
                truncated=response.finish_reason == "length",
            )
            for prompt_ids, output in zip(prompts, outputs, strict=True)
            for response in output.outputs
        ]

    def load_weights(self, named_tensors: Iterator[tuple[str, Tensor]]) -> None:
        """Take over the learner's weights, one tensor at a time, under the checkpoint's names.

        GPU: wakes the engine, its weights' memory before they come and its KV cache's after.
        """
        if self._can_sleep:
            torch.cuda.empty_cache()  # what the learner's activations took goes back to the engine
            self._llm.wake_up(tags=["weights"])
        weights = ((name, tensor.to(self.dtype)) for name, tensor in named_tensors)
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        # vLLM would go on answering from keys and values that the old weights computed.
        self._llm.reset_prefix_cache()
        if self._can_sleep:
            self._llm.wake_up(tags=["kv_cache"])

    def logprobs(self, rollout: Rollout) -> list[float]:
        """The engine's own log-probs of a given response at temperature 1, in nats.

        Without the last token's where the response fills max_model_len: vLLM wants room for one token more.
        """
        params = self._sampling_params(max_tokens=1, temperature=1.0, prompt_logprobs=0, flat_logprobs=True)
        ids = (rollout.prompt_ids + rollout.response_ids)[: self._max_model_len - 1]
        inputs, mine = self._of_engine([{"prompt_token_ids": ids}])
        (output,) = self._generate(inputs, params)[mine]
        return [output.prompt_logprobs[t][ids[t]].logprob for t in range(len(rollout.prompt_ids), len(ids))]

    def _generate(self, inputs: list[dict], params, progress: bool = False) -> list:
        try:
            return self._llm.generate(inputs, params, use_tqdm=progress)
        except Exception as error:  # whatever an engine may die of
            raise EngineFailed(f"{type(error).__name__}: {error}") from error

    def _decode(self, responses: list) -> None:
        """Give vLLM's responses their texts, of all tokens but special ones, to the letter."""
        texts = self._llm.get_tokenizer().batch_decode(
            [response.token_ids for response in responses],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        for response, text in zip(responses, texts, strict=True):
            response.text = text

    def _of_engine(self, items: list) -> tuple[list, slice]:
        """The items of all ranks that share this engine, in one order for all, and where this rank's are."""
        if self._tensor_parallel == 1:
            return items, slice(None)
        place = this_rank() % self._tensor_parallel
        first = this_rank() - place
        of_ranks = gather_object([items])[first : first + self._tensor_parallel]
        start = sum(len(of_rank) for of_rank in of_ranks[:place])
        return [item for of_rank in of_ranks for item in of_rank], slice(start, start + len(items))

    def sleep(self) -> None:
        """GPU: give the engine's memory to the learner until `load_weights`. CPU: nothing."""
        if self._can_sleep:
            self._llm.sleep(level=2)
