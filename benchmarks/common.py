"""What several benchmarks share: shapes of models, and measuring by turns."""

import statistics
import time
from collections.abc import Callable

LLAMA_135M = dict(  # SmolLM2's
    vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
    num_key_value_heads=3, max_position_embeddings=2048, tie_word_embeddings=True,
)  # fmt: skip
QWEN_0_5B = dict(
    vocab_size=151_936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
    num_attention_heads=14, num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=True,
)  # fmt: skip
QWEN_1_5B = dict(
    vocab_size=151_936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28,
    num_attention_heads=12, num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=True,
)  # fmt: skip
QWEN_7B = dict(
    vocab_size=152_064, hidden_size=3584, intermediate_size=18_944, num_hidden_layers=28,
    num_attention_heads=28, num_key_value_heads=4,
)  # fmt: skip


def compare(ours: Callable[[], int], bare: Callable[[], int], rounds: int) -> dict[str, float]:
    """Medians of the tokens a second that both make, and of their ratio, by turns, after a warm-up."""
    rates: dict[Callable, list[float]] = {ours: [], bare: []}
    for turn in range(rounds + 1):
        for make in (ours, bare) if turn % 2 else (bare, ours):
            started = time.perf_counter()
            tokens = make()
            rates[make].append(tokens / (time.perf_counter() - started))
    ratios = [a / b for a, b in zip(rates[ours][1:], rates[bare][1:], strict=True)]
    return {
        "tokens_per_second": statistics.median(rates[ours][1:]),
        "bare_tokens_per_second": statistics.median(rates[bare][1:]),
        "ratio": statistics.median(ratios),
    }
