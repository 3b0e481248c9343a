import dataclasses
import json
import math
import re
import shutil

import pytest
import torch
from conftest import make_rollout, random_qwen2, settings
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, Starcoder2Config

import learner
from learner import Policy, load_policy, prepare_policy, update
from loss import ALGOS, group_advantages
from rollout import collate
from run import base_model
from run.base_model import check_model, empty_model
from run.batches import cut_minibatches

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    """Exact comparisons need float32 compute."""
    monkeypatch.setattr(learner, "compute_dtype", lambda: torch.float32)


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def policy(request, tokenizer) -> Policy:
    return prepare_policy(random_qwen2(tokenizer, tied=request.param))


def naive_logprobs(model, prompt_ids: list[int], response_ids: list[int], temperature: float = 1.0):
    """Log-probs of one response by the textbook, with no padding and the whole vocabulary's logits."""
    logits = model(input_ids=torch.tensor([prompt_ids + response_ids])).logits[0] / temperature
    logps = torch.log_softmax(logits, dim=-1)
    places = range(len(prompt_ids) - 1, len(prompt_ids) + len(response_ids) - 1)
    return torch.stack([logps[t, token] for t, token in zip(places, response_ids, strict=True)])


ROLLOUTS = [
    make_rollout([5, 6, 7], [8, 9]),
    make_rollout([5, 6, 7], [10, 11, 12, 13, 14, 15, 16]),
    make_rollout([20, 21], [22]),
    make_rollout([20, 21], [23, 24, 25, 26]),
]
REWARDS = torch.tensor([1.0, 0.0, 0.0, 1.0])


def test_forward_equals_the_textbook_whatever_the_padding(policy):
    batch = collate(ROLLOUTS)
    logprobs, entropy = policy(batch.input_ids, batch.labels, batch.response_mask, temperature=0.7)
    for row, rollout in enumerate(ROLLOUTS):
        expected = naive_logprobs(policy.model, rollout.prompt_ids, rollout.response_ids, 0.7)
        torch.testing.assert_close(logprobs[row][batch.response_mask[row]], expected, atol=2e-6, rtol=1e-6)
    assert (logprobs[~batch.response_mask] == 0).all() and (entropy[~batch.response_mask] == 0).all()
    assert (entropy[batch.response_mask] > 0).all()


def lengths_of(rollouts) -> list[int]:
    return [len(r.prompt_ids) + len(r.response_ids) for r in rollouts]


@pytest.mark.parametrize("algo", ALGOS)
@pytest.mark.parametrize("micro_batch_tokens", [10, 20, 1000])
def test_one_update_is_one_step_along_the_textbook_gradient(policy, algo, micro_batch_tokens):
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    advantages = group_advantages(REWARDS, 2, scale_by_std=ALGOS[algo].scale_by_std)
    objective = 0.0
    for rollout, advantage in zip(ROLLOUTS, advantages.tolist(), strict=True):
        divisor = len(rollout.response_ids) if ALGOS[algo].divide_by_length else 16
        logps = naive_logprobs(policy.model, rollout.prompt_ids, rollout.response_ids)
        objective = objective + advantage * logps.sum() / divisor / len(ROLLOUTS)
    expected = torch.autograd.grad(objective, list(policy.parameters()))

    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    config = settings(algo=algo, micro_batch_tokens=micro_batch_tokens)
    metrics = update(policy, optimizer, ROLLOUTS, advantages, config, CPU, seed=0)
    for (name, after), gradient in zip(policy.named_parameters(), expected, strict=True):
        torch.testing.assert_close(after.detach() - before[name], gradient, atol=1e-6, rtol=1e-4)
    norm = math.sqrt(sum(g.square().sum().item() for g in expected))
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert metrics["clip_fraction"] == 0


def test_the_update_is_of_the_policy_at_the_sampling_temperature(policy):
    objective = 0.0
    for advantage, r in zip(ADVANTAGES.tolist(), ROLLOUTS, strict=True):
        objective = (
            objective + advantage * naive_logprobs(policy.model, r.prompt_ids, r.response_ids, 0.5).sum()
        )
    expected = torch.autograd.grad(objective / 16 / 4, list(policy.parameters()))
    assert_same(one_step(policy, ADVANTAGES, temperature=0.5)[0], expected)


def test_two_minibatches_are_two_steps_scaled_to_the_norm_and_weighed_by_the_first_policy(policy):
    """All by hand but the order of the responses: the gradient of the second does not hold the first's."""
    rollouts = [make_rollout(r.prompt_ids, r.response_ids, logprob=-5.5) for r in ROLLOUTS]
    minibatches = [chosen for ((chosen,),) in cut_minibatches(lengths_of(rollouts), 2, 1000, seed=1)]
    twin = random_qwen2_like(policy)
    with torch.no_grad():
        old = [naive_logprobs(twin, r.prompt_ids, r.response_ids) for r in rollouts]
    losses, norms = [], []
    for chosen in minibatches:
        loss = 0.0
        for i in chosen:
            ratio = (naive_logprobs(twin, rollouts[i].prompt_ids, rollouts[i].response_ids) - old[i]).exp()
            surrogate = torch.minimum(ratio * ADVANTAGES[i], ratio.clamp(0.8, 1.2) * ADVANTAGES[i])
            loss = loss - ((old[i] + 5.5).exp().clamp(max=1.5) * surrogate).sum() / 16 / 2
        gradients = torch.autograd.grad(loss, list(twin.parameters()))
        losses.append(loss.item())
        norms.append(math.sqrt(sum(g.square().sum().item() for g in gradients)))
        with torch.no_grad():
            for p, g in zip(twin.parameters(), gradients, strict=True):
                p -= 4.0 * g * min(1.0, 0.05 / norms[-1])
    assert min(norms) > 0.05
    config = settings(minibatch_size=2, max_grad_norm=0.05, importance_cap=1.5)
    optimizer = torch.optim.SGD(policy.parameters(), lr=4.0)
    metrics = update(policy, optimizer, rollouts, ADVANTAGES, config, CPU, seed=1)
    for p, q in zip(policy.parameters(), twin.parameters(), strict=True):
        # torch divides by the norm + 1e-6; and a move is four times a gradient of rounded sums
        torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-5)
    assert metrics["loss"] == pytest.approx(sum(losses) / 2, abs=1e-6)
    assert metrics["grad_norm"] == pytest.approx(sum(norms) / 2, rel=1e-4)
    assert metrics["sampler_kl"] == pytest.approx((-5.5 - torch.cat(old)).mean().item(), rel=1e-5)


@pytest.mark.parametrize("advantages", [[0.5, -0.5, -0.5, 0.5], [-0.5] * 4], ids=["mixed", "negative"])
def test_second_minibatch_is_compared_with_the_policy_of_the_steps_start(advantages, policy):
    """The first minibatch moves the ratios of the second out of a narrow clip range."""
    config = settings(minibatch_size=2, clip_eps=0.01)
    advantages = torch.tensor(advantages)
    ((first,),), ((second,),) = cut_minibatches(lengths_of(ROLLOUTS), 2, 1000, seed=1)
    with torch.no_grad():
        old = [naive_logprobs(policy.model, ROLLOUTS[i].prompt_ids, ROLLOUTS[i].response_ids) for i in second]
    metrics = update(
        policy, torch.optim.SGD(policy.parameters(), lr=0.0), ROLLOUTS, advantages, config, CPU, 1
    )
    assert metrics["clip_fraction"] == 0  # weights that stay give ratios of 1
    twin = prepare_policy(random_qwen2_like(policy))
    optimizer = torch.optim.SGD(twin.parameters(), lr=4.0)
    loss = 0.0
    for i in first:
        logps = naive_logprobs(twin.model, ROLLOUTS[i].prompt_ids, ROLLOUTS[i].response_ids)
        loss = loss - advantages[i] * logps.sum() / 16 / 2
    loss.backward()
    optimizer.step()
    clipped = 0
    with torch.no_grad():
        for i, old_logps in zip(second, old, strict=True):
            logps = naive_logprobs(twin.model, ROLLOUTS[i].prompt_ids, ROLLOUTS[i].response_ids)
            ratio = (logps - old_logps).exp()
            clipped += ((ratio > 1.01) if advantages[i] > 0 else (ratio < 0.99)).sum().item()
    tokens = sum(len(r.response_ids) for r in ROLLOUTS)
    metrics = update(
        policy, torch.optim.SGD(policy.parameters(), lr=4.0), ROLLOUTS, advantages, config, CPU, 1
    )
    assert clipped > 0
    assert metrics["clip_fraction"] == pytest.approx(clipped / tokens)


def random_qwen2_like(policy: Policy):
    twin = type(policy.model)(policy.model.config)
    twin.load_state_dict(policy.model.state_dict())
    return twin


def textbook_step(policy, coefficient_of, extra=lambda i, logps: 0.0):
    """The gradient of sum_i sum_t (coefficient * logp + extra) / 16 / 4, by the textbook forward."""
    objective = 0.0
    for i, rollout in enumerate(ROLLOUTS):
        logps = naive_logprobs(policy.model, rollout.prompt_ids, rollout.response_ids)
        objective = objective + ((coefficient_of(i, logps.detach()) * logps).sum() + extra(i, logps)) / 16 / 4
    return torch.autograd.grad(objective, list(policy.parameters()))


def one_step(policy, advantages, reference=None, rollouts=ROLLOUTS, **changes):
    """The move of the weights in one update with lr 1, and the metrics."""
    before = [p.detach().clone() for p in policy.parameters()]
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    metrics = update(policy, optimizer, rollouts, advantages, settings(**changes), CPU, 0, reference)
    return [p.detach() - old for p, old in zip(policy.parameters(), before, strict=True)], metrics


def assert_same(moves, gradients):
    for move, gradient in zip(moves, gradients, strict=True):
        torch.testing.assert_close(move, gradient, atol=1e-6, rtol=1e-4)


ADVANTAGES = group_advantages(REWARDS, 2, scale_by_std=False)


def test_importance_cap_weighs_tokens_by_learner_over_sampler(policy):
    def weighted(i, logps):  # the sampler's log-probs are all -5.5, so that some weights are capped
        return ADVANTAGES[i] * (logps + 5.5).exp().clamp(max=1.1)

    rollouts = [make_rollout(r.prompt_ids, r.response_ids, logprob=-5.5) for r in ROLLOUTS]
    expected = textbook_step(policy, weighted)
    assert_same(one_step(policy, ADVANTAGES, rollouts=rollouts, importance_cap=1.1)[0], expected)


def test_beta_pulls_towards_the_reference(policy, tokenizer):
    reference = prepare_policy(random_qwen2(tokenizer, tied=True, seed=9))
    divergences = []

    def pull(i, logps):
        with torch.no_grad():
            ref = naive_logprobs(reference.model, ROLLOUTS[i].prompt_ids, ROLLOUTS[i].response_ids)
        k3 = (ref - logps).exp() - (ref - logps) - 1
        divergences.append(k3.detach())
        return -0.3 * k3.sum()

    expected = textbook_step(policy, lambda i, logps: ADVANTAGES[i], pull)
    moves, metrics = one_step(policy, ADVANTAGES, reference, beta=0.3)
    assert_same(moves, expected)
    assert metrics["reference_kl"] == pytest.approx(torch.cat(divergences).mean().item(), rel=1e-4)


def test_the_reference_is_compared_at_the_temperature_of_the_policy(policy, tokenizer):
    reference = prepare_policy(random_qwen2(tokenizer, tied=True, seed=9))
    with torch.no_grad():
        ours, theirs = (
            torch.cat([naive_logprobs(p.model, r.prompt_ids, r.response_ids, 0.5) for r in ROLLOUTS])
            for p in (policy, reference)
        )
    _, metrics = one_step(policy, ADVANTAGES, reference, beta=0.3, temperature=0.5)
    k3 = (theirs - ours).exp() - (theirs - ours) - 1
    assert metrics["reference_kl"] == pytest.approx(k3.mean().item(), rel=1e-4)


def test_mask_truncated_leaves_a_response_out_and_the_divisor_as_it_is(policy):
    cut_off = dataclasses.replace(ROLLOUTS[1], truncated=True)
    expected = textbook_step(policy, lambda i, logps: 0.0 if i == 1 else ADVANTAGES[i])
    moves, _ = one_step(
        policy, ADVANTAGES, rollouts=[ROLLOUTS[0], cut_off, *ROLLOUTS[2:]], mask_truncated=True
    )
    assert_same(moves, expected)


def test_skipped_groups_change_nothing_but_the_work(policy, monkeypatch):
    advantages = torch.tensor([0.5, -0.5, 0.0, 0.0])
    rows = []
    monkeypatch.setattr(
        learner, "collate", lambda chosen, device: rows.append(len(chosen)) or collate(chosen)
    )
    expected = textbook_step(policy, lambda i, logps: advantages[i])
    assert_same(one_step(policy, advantages, skip_equal_groups=True)[0], expected)
    assert rows == [2]
    seen = []
    policy.register_forward_pre_hook(lambda _, inputs: seen.append((inputs[0].shape, inputs[2].any().item())))
    moves, metrics = one_step(policy, torch.zeros(4), skip_equal_groups=True)
    # The other ranks of a sharded model would wait for the forward: it takes the shortest row.
    assert seen == [((1, min(lengths_of(ROLLOUTS)) - 1), False)]
    assert all((move == 0).all() for move in moves) and metrics["loss"] == metrics["entropy"] == 0


@pytest.mark.parametrize("advantages,widened", [(ADVANTAGES, True), (torch.full((4,), -0.5), False)])
def test_clip_eps_high_widens_the_upper_side_only(advantages, widened, policy):
    """In the second minibatch: of ratios that only the upper side clips none is left, of the others all."""
    start = {name: p.detach().clone() for name, p in policy.named_parameters()}
    fractions = []
    for high in (None, 1e9):
        with torch.no_grad():
            for name, p in policy.named_parameters():
                p.copy_(start[name])
        config = settings(minibatch_size=2, clip_eps=0.01, clip_eps_high=high)
        optimizer = torch.optim.SGD(policy.parameters(), lr=4.0)
        fractions.append(
            update(policy, optimizer, ROLLOUTS, advantages, config, CPU, seed=1)["clip_fraction"]
        )
    assert fractions[0] > 0 and fractions[1] == (0 if widened else fractions[0])


def test_sampler_kl_is_the_mean_gap_of_log_probs(policy):
    metrics = update(
        policy, torch.optim.SGD(policy.parameters(), lr=0.0), ROLLOUTS, torch.zeros(4), settings(), CPU, 0
    )
    ours = torch.cat([naive_logprobs(policy.model, r.prompt_ids, r.response_ids) for r in ROLLOUTS])
    assert metrics["sampler_kl"] == pytest.approx((-1.0 - ours).mean().item(), rel=1e-5)


def test_entropy_is_the_mean_over_response_tokens(policy):
    config, entropies = settings(temperature=0.5), []
    metrics = update(
        policy, torch.optim.SGD(policy.parameters(), lr=0.0), ROLLOUTS, ADVANTAGES, config, CPU, 0
    )
    for r in ROLLOUTS:
        logits = policy.model(input_ids=torch.tensor([r.prompt_ids + r.response_ids])).logits[0]
        logps = torch.log_softmax(logits[len(r.prompt_ids) - 1 : -1] / 0.5, dim=-1)
        entropies.append(-(logps.exp() * logps).sum(dim=-1))
    assert metrics["entropy"] == pytest.approx(torch.cat(entropies).mean().item(), rel=1e-5)


def test_masked_responses_are_in_no_metric(policy):
    cut_off = dataclasses.replace(make_rollout([20, 21], [23, 24], logprob=-9.0), truncated=True)
    rollouts = [*ROLLOUTS[:3], cut_off]
    ours = [naive_logprobs(policy.model, r.prompt_ids, r.response_ids) for r in ROLLOUTS[:3]]
    _, metrics = one_step(policy, ADVANTAGES, rollouts=rollouts, mask_truncated=True)
    assert metrics["sampler_kl"] == pytest.approx((-1.0 - torch.cat(ours)).mean().item(), rel=1e-5)


def test_the_compute_is_bf16_where_the_machine_has_it_and_the_weights_stay_float32(policy, monkeypatch):
    monkeypatch.setattr(learner, "compute_dtype", lambda: torch.bfloat16)
    seen = set()
    projection = policy.model.base_model.layers[0].mlp.down_proj
    projection.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    moves, _ = one_step(policy, ADVANTAGES)
    assert seen == {torch.bfloat16} and {move.dtype for move in moves} == {torch.float32}


@pytest.mark.parametrize(
    "advantages,budget,blamed",
    [
        # One response a micro-batch, longest first, so rollout 2, the shortest, is the last of four.
        ([1.0, -1.0, float("nan"), 1.0], 1, "micro-batches [3]: losses [nan]"),
        ([float("inf")] * 4, 1000, "micro-batches [0]: losses ["),
    ],
)
def test_a_loss_that_is_not_finite_stops_before_the_weights_change(advantages, budget, blamed, policy):
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1.0)
    c = settings(micro_batch_tokens=budget)
    with pytest.raises(learner.NotFinite, match=re.escape(blamed)) as stopped:
        update(policy, optimizer, ROLLOUTS, torch.tensor(advantages), c, CPU, 0)
    assert "minibatch 0" in str(stopped.value)
    expected = [ROLLOUTS[2]] if budget == 1 else ROLLOUTS
    assert sorted(map(repr, stopped.value.rollouts)) == sorted(map(repr, expected))
    for name, p in policy.named_parameters():
        assert torch.equal(p, before[name])


def test_a_gradient_that_is_not_finite_blames_the_whole_minibatch(policy):
    losses = torch.tensor([1.0, 2.0])
    learner.stop_if_not_finite(losses, 3.0, [[0, 1], [2, 3]], 7, ROLLOUTS)
    with pytest.raises(learner.NotFinite, match=r"minibatch 7, micro-batches \[0, 1\].*norm nan") as stopped:
        learner.stop_if_not_finite(losses, math.nan, [[0, 1], [2, 3]], 7, ROLLOUTS)
    assert stopped.value.rollouts == list(ROLLOUTS)


def test_the_minibatch_of_a_loss_that_is_not_finite_is_told(policy):
    _, ((second,),) = cut_minibatches(lengths_of(ROLLOUTS), 2, 1000, seed=1)
    advantages = ADVANTAGES.clone()
    advantages[second[0]] = math.nan
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.0)
    with pytest.raises(learner.NotFinite, match="^minibatch 1, "):
        update(policy, optimizer, ROLLOUTS, advantages, settings(minibatch_size=2), CPU, 1)


def test_a_rank_without_fault_says_so(policy, monkeypatch):
    largest = learner.dist.ReduceOp.MAX
    monkeypatch.setattr(learner, "world_size", lambda: 2)
    monkeypatch.setattr(learner.dist, "all_reduce", lambda any_bad, op: any_bad.fill_(op == largest))
    with pytest.raises(learner.NotFinite, match="minibatch 7: a loss of another rank is not") as stopped:
        learner.stop_if_not_finite(torch.tensor([1.0, 2.0]), 3.0, [[0, 1], [2, 3]], 7, ROLLOUTS)
    assert stopped.value.rollouts == []


def test_a_checkpoints_dropout_is_left_out(tokenizer, tmp_path):
    """Starcoder2 drops by its own code, not by modules: two forwards with the same weights are the same."""
    shape = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    drop = dict(residual_dropout=0.5, embedding_dropout=0.5, attention_dropout=0.5)
    config = Starcoder2Config(vocab_size=len(tokenizer), num_key_value_heads=2, **shape, **drop)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    policy = learner.load_policy(str(tmp_path), CPU)
    batch = collate([make_rollout([1, 2, 3], [4, 5])])
    first, second = (policy(batch.input_ids, batch.labels, batch.response_mask)[0] for _ in range(2))
    assert policy.training and torch.equal(first, second)


def test_saved_model_opens_in_transformers_with_the_same_weights(policy, tokenizer, tmp_path):
    learner.save_model(policy, tokenizer, tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert loaded.config.tie_word_embeddings == policy.model.config.tie_word_embeddings
    saved = policy.model.state_dict()
    assert saved.keys() == loaded.state_dict().keys() and "lm_head.weight" in saved
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, saved[name])
    assert not (tmp_path / "model.partial").exists()
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as file:  # a tied head is not stored twice
        assert ("lm_head.weight" in file.keys()) != policy.model.config.tie_word_embeddings


def test_saving_in_bf16_leaves_the_learner_in_float32(policy, tokenizer, tmp_path):
    (tmp_path / "model.partial").mkdir()
    (tmp_path / "model.partial" / "left-by-a-crash").touch()
    learner.save_model(policy, tokenizer, tmp_path / "model", torch.bfloat16)
    assert not (tmp_path / "model" / "left-by-a-crash").exists()
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").dtype == torch.bfloat16
    assert policy.model.dtype == torch.float32


def test_a_model_is_saved_over_the_one_before_with_its_tokenizer(policy, tokenizer, tmp_path):
    learner.save_model(policy, tokenizer, tmp_path / "model")
    with torch.no_grad():
        policy.model.base_model.norm.weight.fill_(0.5)
    learner.save_model(policy, tokenizer, tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert (loaded.base_model.norm.weight == 0.5).all()
    assert AutoTokenizer.from_pretrained(tmp_path / "model").get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("error", [OSError, SafetensorError])
def test_a_full_disk_keeps_the_model_before_and_nothing_else(error, policy, tokenizer, tmp_path, monkeypatch):
    learner.save_model(policy, tokenizer, tmp_path / "model")

    def save_pretrained(folder, **_):
        folder.mkdir()
        (folder / "model.safetensors").write_text("half")
        raise error("No space left on device")

    monkeypatch.setattr(policy.model, "save_pretrained", save_pretrained)
    with pytest.raises(OSError, match="model.partial: No space left on device"):
        learner.save_model(policy, tokenizer, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    "own",
    [None, '{"temperature": 0.6, "top_p": 0.9}', '{"pad_token_id": -1, "eos_token_id": [0, 5]}', "no json"],
)
@pytest.mark.parametrize(
    "read", [load_policy, lambda path, _: prepare_policy(empty_model(path).to_empty(device=CPU))]
)
def test_a_saved_model_has_the_generation_config_of_its_base(own, read, checkpoint, tokenizer, tmp_path):
    """On several ranks its end tokens were lost; what transformers does not write ended without a model."""
    base = shutil.copytree(checkpoint, tmp_path / "base")
    (base / "generation_config.json").unlink()
    if own:
        (base / "generation_config.json").write_text(own)
    assert check_model(str(base)) == 256
    learner.save_model(read(str(base), CPU), tokenizer, tmp_path / "model")
    saved = tmp_path / "model" / "generation_config.json"
    assert (saved.read_text() if saved.exists() else None) == own
    AutoModelForCausalLM.from_pretrained(tmp_path / "model")


def test_a_generation_config_that_the_engine_refuses_is_one_sentence(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    (tmp_path / "generation_config.json").write_text('{"num_return_sequences": 4}')
    with pytest.raises(ValueError, match=r"^model .*: generation_config.json is refused: Greedy methods "):
        check_model(str(tmp_path))


def test_master_weights_are_float32_whatever_the_checkpoint(tokenizer, tmp_path):
    random_qwen2(tokenizer, tied=True).to(torch.bfloat16).save_pretrained(tmp_path)
    assert {p.dtype for p in load_policy(str(tmp_path), CPU).parameters()} == {torch.float32}


def test_the_sampler_is_given_every_tensor_the_tied_head_too(policy):
    named = dict(learner.checkpoint_weights(policy))
    assert named.keys() == policy.model.state_dict().keys() and "lm_head.weight" in named
    assert not any(tensor.requires_grad for tensor in named.values())


def test_gradient_checkpointing_computes_layers_twice_and_gives_the_same_gradient(checkpoint):
    gradients = []
    for recompute in (False, True):
        policy = load_policy(checkpoint, CPU, gradient_checkpointing=recompute)
        batch, forwards = collate(ROLLOUTS), []
        policy.model.base_model.layers[0].mlp.register_forward_pre_hook(lambda *_, to=forwards: to.append(1))
        policy(batch.input_ids, batch.labels, batch.response_mask)[0].sum().backward()
        gradients.append([p.grad for p in policy.parameters()])
        assert len(forwards) == 1 + recompute
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed, atol=1e-6, rtol=1e-6)


def test_model_paths(checkpoint, tmp_path):
    assert check_model(checkpoint) == 256
    for path in (str(tmp_path / "none"), "./none", "none", "a/b/c"):
        with pytest.raises(ValueError, match="is no folder, and no Hub id"):
            check_model(path)
    with pytest.raises(ValueError, match="without config.json"):
        check_model(str(tmp_path))


def test_the_context_is_the_least_that_a_config_states(checkpoint, tmp_path):
    """vLLM refuses more at its start: a second key beside max_position_embeddings gave its traceback."""
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    for length, context in [(64, 64), (1024, 256), (None, 256)]:
        (tmp_path / "config.json").write_text(json.dumps(config | {"seq_length": length}))
        assert check_model(str(tmp_path)) == context


def test_a_hub_id_that_cannot_be_read_is_one_sentence(monkeypatch):
    def fail(*_, **__):
        raise OSError("no connection\nsee the docs")

    monkeypatch.setattr(base_model.AutoConfig, "from_pretrained", fail)
    with pytest.raises(ValueError) as error:
        check_model("Qwen/Qwen2.5-Math-7B")
    assert str(error.value) == "model 'Qwen/Qwen2.5-Math-7B' cannot be read: no connection"
