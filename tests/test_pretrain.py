import json
import random
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from conftest import random_qwen2
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import AutoModelForCausalLM, AutoTokenizer

import learner
import pretrain
from learner import prepare_policy
from miniature.arithmetic import Chain, in_test_split
from miniature.tiny_base import arithmetic_corpus, work
from pretrain import pack, train_next_token

CHAIN = Chain(3, (("+", 9), ("-", 4)))


CPU = torch.device("cpu")


def test_work_without_slips_is_right():
    assert work(CHAIN, random.Random(0), slip_rate=0.0) == ("3+9=12, 12-4=8.", 8)


def test_a_slip_is_carried_on():
    text, total = work(CHAIN, random.Random(0), slip_rate=1.0)
    first, second = (int(n) for n in re.findall(r"=(-?\d+)", text))
    assert abs(first - 12) == 1 and abs(second - (first - 4)) == 1 and total == second
    assert text == f"3+9={first}, {first}-4={second}."


def test_no_test_question_is_in_the_corpus_and_all_behaviours_are():
    pairs = arithmetic_corpus(3000, seed=1)
    assert pairs == arithmetic_corpus(3000, seed=1) != arithmetic_corpus(3000, seed=2)
    asked = [q for question, response in pairs for q in re.findall(r"What is [^?]*\?", question + response)]
    assert len(asked) > 3000 and not any(in_test_split(question) for question in asked)
    shares = {
        "ask": sum("\\boxed" not in r for _, r in pairs),
        "ramble": sum("Wait" in r for _, r in pairs),
        "work": sum("=" in r and "Wait" not in r for _, r in pairs),
        "at once": sum(r.startswith(" \\boxed") for _, r in pairs),
    }
    assert sum(shares.values()) == 3000 and min(shares.values()) > 300
    for _, response in pairs:
        if "=" in response:  # the boxed answer is the last result of the working
            assert re.search(r"\\boxed\{(.*)\}", response)[1] == re.findall(r"=(-?\d+)", response)[-1]


def test_tokenizer_splits_digits_and_loses_nothing(tokenizer):
    text = "What is 12 - 345? é \\boxed{-333}<|im_end|>"
    tokens = tokenizer.tokenize(text)
    assert all(len(re.findall(r"\d", token)) <= 1 for token in tokens) and tokens[-1] == "<|im_end|>"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer) < 512


def test_rows_are_the_stream_of_texts_without_gaps(tokenizer):
    pairs = [("ab?", " c"), ("d?", " efg")]
    stream, targets = [], []
    for question, response in pairs:
        q, r = tokenizer.encode(question), tokenizer.encode(response)
        stream += [*q, *r, tokenizer.eos_token_id]
        targets += [False] * len(q) + [True] * (len(r) + 1)
    ids, is_target = pack(pairs, tokenizer, 4, learn_questions=False)
    assert ids.shape == ((len(stream) - 1) // 4, 5)
    for row in range(len(ids)):
        assert ids[row].tolist() == stream[row * 4 : row * 4 + 5]
        assert is_target[row].tolist() == targets[row * 4 : row * 4 + 5]
    assert pack(pairs, tokenizer, 4, learn_questions=True)[1].all()
    with pytest.raises(ValueError, match="fewer than one row of 4096"):
        pack(pairs, tokenizer, 4096, learn_questions=True)


def test_one_update_follows_cross_entropy_over_the_targets(tokenizer, monkeypatch):
    monkeypatch.setattr(learner, "compute_dtype", lambda: torch.float32)
    model = random_qwen2(tokenizer, tied=True)
    ids, is_target = pack(arithmetic_corpus(30, 0), tokenizer, 32, learn_questions=False)
    ids, is_target = ids[:4], is_target[:4]
    labels = ids[:, 1:].masked_fill(~is_target[:, 1:], -100)
    logits = model(input_ids=ids[:, :-1]).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    loss = train_next_token(
        prepare_policy(model),
        ids,
        is_target,
        epochs=1,
        batch_rows=4,
        lr=1e-3,
        seed=0,
        accelerator=Accelerator(cpu=True),
    )
    assert loss == pytest.approx(expected.item(), rel=1e-5)


def test_each_target_weighs_the_same_in_any_micro_batch_and_on_any_rank(tokenizer, monkeypatch):
    """One gradient: in one go, row by row, and as the mean of two ranks of unlike numbers of targets."""
    monkeypatch.setattr(learner, "compute_dtype", lambda: torch.float32)
    ids, is_target = pack(arithmetic_corpus(30, 0), tokenizer, 32, learn_questions=False)
    ids, is_target, gradients = ids[:4], is_target[:4], []
    order = torch.randperm(4, generator=torch.Generator().manual_seed(0))
    assert is_target[order[::2], 1:].sum() != is_target[order[1::2], 1:].sum()

    def keep(parameters, max_norm):
        gradients.append(torch.cat([p.grad.flatten() for p in parameters]))

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", keep)
    for world, rank, at_once in [(1, 0, 16384), (1, 0, 32), (2, 0, 16384), (2, 1, 32)]:
        monkeypatch.setattr(pretrain, "MICRO_BATCH_TOKENS", at_once)
        ranks = SimpleNamespace(num_processes=world, process_index=rank, device=CPU, is_main_process=False)
        policy = prepare_policy(random_qwen2(tokenizer, tied=True))
        train_next_token(policy, ids, is_target, epochs=1, batch_rows=4, lr=1.0, seed=0, accelerator=ranks)
    whole, by_row, first, second = gradients
    torch.testing.assert_close(by_row, whole)
    torch.testing.assert_close((first + second) / 2, whole)


def test_no_update_keeps_the_last_gradient_and_the_learning_rate_rises_and_falls(tokenizer, monkeypatch):
    """40 updates on the same rows, so slow that the weights stay as they are."""
    monkeypatch.setattr(learner, "compute_dtype", lambda: torch.float32)
    ids, is_target = pack(arithmetic_corpus(30, 0), tokenizer, 32, learn_questions=False)
    gradients, norms, rates = [], [], []

    def keep(parameters, max_norm):
        gradients.append(torch.cat([p.grad.flatten() for p in parameters]))
        norms.append(max_norm)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", keep)
    hook = register_optimizer_step_pre_hook(lambda adamw, *_: rates.append(adamw.param_groups[0]["lr"]))
    ranks = SimpleNamespace(num_processes=1, process_index=0, device=CPU, is_main_process=False)
    policy, how = prepare_policy(random_qwen2(tokenizer, tied=True)), dict(batch_rows=4, lr=1e-30, seed=0)
    try:
        train_next_token(policy, ids[:4], is_target[:4], epochs=40, **how, accelerator=ranks)
    finally:
        hook.remove()
    torch.testing.assert_close(gradients[1], gradients[0])
    assert set(norms) == {1.0}
    assert [rate / 1e-30 for rate in (*rates[:2], rates[20])] == pytest.approx([0.5, 1, 0.5])


def test_training_lowers_the_loss(tokenizer):
    ids, is_target = pack(arithmetic_corpus(400, 0), tokenizer, 32, learn_questions=False)
    policy = prepare_policy(random_qwen2(tokenizer, tied=True))
    options = dict(batch_rows=16, seed=0, accelerator=Accelerator(cpu=True))
    first = train_next_token(policy, ids[:16], is_target[:16], epochs=1, lr=1e-9, **options)
    assert train_next_token(policy, ids, is_target, epochs=4, lr=3e-3, **options) < first / 2


def continue_from(checkpoint, monkeypatch, tmp_path, rows, *more):
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = ["--model", checkpoint, "--data", str(file), "--output_dir", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["pretrain.py", *args, "--row_tokens", "32", "--batch_rows", "4", *more])
    pretrain.main()


def test_continual_pretraining_learns_whole_texts(checkpoint, monkeypatch, tmp_path, capsys):
    rows = [{"problem": "What is 1 + 1?", "solution": "It is two. #### 2", "answer": "2"}] * 20
    continue_from(checkpoint, monkeypatch, tmp_path, rows, "--epochs", "40", "--lr", "1e-2")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    prompt = tokenizer("What is 1 + 1?\n", return_tensors="pt")
    told = model.generate(**prompt, max_new_tokens=20, do_sample=False)
    assert tokenizer.decode(told[0], skip_special_tokens=True) == "What is 1 + 1?\nIt is two. #### 2"


def test_the_question_of_a_chat_is_its_users(tmp_path):
    file = tmp_path / "chats.jsonl"
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 1 + 1?"}]
    file.write_text(json.dumps({"messages": chat, "solution": "It is two."}))
    assert pretrain.read_texts(str(file), None, None) == [("What is 1 + 1?\n", "It is two.")]


@pytest.mark.parametrize(
    "rows,more,message",
    [
        (
            [{"problem": "a", "solution": ""}],
            [],
            "texts.jsonl, row 1: solution is '', and should be a worked",
        ),
        (
            [{"problem": "a", "solution": 42}],
            [],
            "texts.jsonl, row 1: solution is 42, and should be a worked",
        ),
        (
            [{"problem": " ", "solution": "b"}],
            [],
            "texts.jsonl, row 1: problem is ' ', and should be the text",
        ),
        ([{"text": "a"}], [], "set --question_column"),
        ([{"problem": "a", "solution": "b"}], ["--model", "./none"], "model './none' is no folder"),
        ([{"problem": "a", "solution": "b"}], [], "fewer than one row of 32"),
        ([], ["--learning_rate", "1"], "--learning_rate is no flag: did you mean --lr?"),
        ([], ["--epochs", "0"], "epochs is 0, and must be above 0"),
        ([], ["--row_tokens", "-1"], "row_tokens is -1, and must be above 0"),
        ([], ["--output_dir="], "--output_dir is empty"),
        ([], ["--output_dir", "."], " is there already: take a new folder, or move that one away"),
        ([], ["--output_dir", "texts.jsonl"], "texts.jsonl is there already"),
        ([], ["--output_dir", "/proc/out"], "/proc/tmp"),
        ([], ["--row_tokens", "512"], "row_tokens 512 is over the context of"),
    ],
)
def test_bad_input(checkpoint, monkeypatch, tmp_path, capsys, rows, more, message):
    monkeypatch.setattr("pretrain.load_policy", lambda *_, **__: pytest.fail("a model was loaded"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        continue_from(checkpoint, monkeypatch, tmp_path, rows, *more)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("pretrain.py: ") and message in error and error.count("\n") == 1
    assert (tmp_path / "texts.jsonl").exists()


@pytest.mark.parametrize("taken", ["out", "out.partial"])
def test_no_folder_is_written_over(taken, tmp_path):
    pretrain.check_output(str(tmp_path / "new" / "out"))
    (tmp_path / taken).mkdir()
    pretrain.check_output(str(tmp_path / "out"))
    (tmp_path / taken / "thesis.txt").touch()
    with pytest.raises(ValueError, match=f"^output_dir {tmp_path / taken} is there already: take a new"):
        pretrain.check_output(str(tmp_path / "out"))


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda tokenizer: tokenizer.add_tokens([f"<new{i}>" for i in range(9)]), "token '<new8>' is number"),
        (lambda tokenizer: setattr(tokenizer, "eos_token", None), "the tokenizer names no end token"),
    ],
)
def test_a_tokenizer_that_does_not_fit(change, message, checkpoint, monkeypatch, tmp_path, capsys):
    shutil.copytree(checkpoint, tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    change(tokenizer)
    tokenizer.save_pretrained(tmp_path / "base")
    rows = [{"problem": "a", "solution": "<new8>"}] * 40
    test_bad_input(str(tmp_path / "base"), monkeypatch, tmp_path, capsys, rows, [], message)
