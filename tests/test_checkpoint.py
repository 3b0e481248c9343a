"""Checkpoints are whole or are not there, and going on from one is going on."""

import io
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import ROOT, free_port, make_rollout, on_cpu, random_qwen2, settings

import learner
from learner import full_tensor, prepare_policy, update
from loss import group_advantages
from run import checkpoint
from run.checkpoint import load_checkpoint, save_checkpoint
from run.start import lock

CPU = torch.device("cpu")
ROLLOUTS = [make_rollout([5, 6, 7 + i], [20 + i, 21, 22][: 1 + i % 3]) for i in range(8)]


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setattr(learner, "compute_dtype", lambda: torch.float32)


def start(tokenizer):
    policy = prepare_policy(random_qwen2(tokenizer, tied=True))
    return policy, torch.optim.AdamW(policy.parameters(), lr=1e-2)


def one_step(policy, optimizer, seed):
    rank, ranks = checkpoint.this_rank(), checkpoint.world_size()
    advantages = group_advantages(torch.tensor([0.0, 1, 1, 0, 0, 1, 0, 1]), 2, scale_by_std=False)
    config = settings(minibatch_size=8)
    update(policy, optimizer, ROLLOUTS[rank::ranks], advantages[rank::ranks], config, CPU, seed)


def save(folder, step, policy, optimizer, keep=2, accuracy=None):
    save_checkpoint(folder, {"step": step, "accuracy": accuracy, "seed": 3}, policy, optimizer, keep)


def names(folder) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def refuse(text):
    pytest.fail(f"unexpected: {text}")


def same_weights(ours, theirs) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_going_on_is_bit_for_bit(tokenizer, tmp_path):
    policy, optimizer = start(tokenizer)
    for step in (1, 2):
        one_step(policy, optimizer, step)
        save(tmp_path, step, policy, optimizer)
    one_step(policy, optimizer, 3)
    resumed, other = start(tokenizer)
    state = load_checkpoint(tmp_path, resumed, other, refuse)
    assert state["step"] == 2 and state["seed"] == 3
    one_step(resumed, other, 3)
    assert same_weights(resumed, policy)


def test_the_learning_rate_is_the_flags(tokenizer, tmp_path):
    policy, optimizer = start(tokenizer)
    one_step(policy, optimizer, 1)
    save(tmp_path, 1, policy, optimizer)
    other = torch.optim.AdamW(policy.parameters(), lr=5e-5)
    load_checkpoint(tmp_path, policy, other, refuse)
    assert other.param_groups[0]["lr"] == 5e-5
    moments, theirs = other.state_dict()["state"][0], optimizer.state_dict()["state"][0]
    assert torch.equal(moments["exp_avg"], theirs["exp_avg"]) and moments["step"] == 1


def test_without_a_checkpoint_there_is_nothing_to_load(tokenizer, tmp_path):
    policy, optimizer = start(tokenizer)
    assert load_checkpoint(tmp_path, policy, optimizer, refuse) is None
    (tmp_path / "checkpoints" / "step_3.partial").mkdir(parents=True)  # a crash in the middle of a save
    assert load_checkpoint(tmp_path, policy, optimizer, refuse) is None
    save(tmp_path, 1, policy, optimizer)
    assert names(tmp_path) == ["step_1"]  # and the next save clears it away


def test_the_newest_and_the_best_are_kept(tokenizer, tmp_path):
    policy, optimizer = start(tokenizer)
    for step, accuracy in enumerate([0.5, 0.9, None, 0.7, None, 0.8], start=1):
        save(tmp_path, step, policy, optimizer, keep=2, accuracy=accuracy)
    assert names(tmp_path) == ["step_2", "step_5", "step_6"]
    save(tmp_path, 10, policy, optimizer, keep=1, accuracy=0.95)
    assert names(tmp_path) == ["step_10"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")
def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tokenizer, tmp_path, monkeypatch):
    """state.json is whole when it is flushed; then comes the rename, and the flush of the folder above."""
    policy, optimizer = start(tokenizer)
    calls, real_fsync, real_replace = [], os.fsync, os.replace

    def fsync(file):
        path = Path(os.readlink(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}"))
        whole = path.name != "state.json" or json.loads(path.read_text())["step"] == 1
        calls.append(("fsync", path.name, whole))
        real_fsync(file)

    def replace(old, new):
        calls.append(("replace", Path(old).name, Path(new).name))
        real_replace(old, new)

    monkeypatch.setattr(checkpoint.os, "fsync", fsync)
    monkeypatch.setattr(checkpoint.os, "replace", replace)
    save(tmp_path, 1, policy, optimizer)
    assert ("fsync", "__0_0.distcp", True) in calls
    assert calls[-3:] == [
        ("fsync", "state.json", True),
        ("replace", "step_1.partial", "step_1"),
        ("fsync", "checkpoints", True),
    ]


def test_a_step_can_be_saved_twice_and_over_what_a_crash_left(tokenizer, tmp_path):
    policy, optimizer = start(tokenizer)
    left = tmp_path / "checkpoints" / "step_2.partial"
    left.mkdir(parents=True)
    (left / "garbage").write_text("of a save that was killed")
    for _ in range(2):
        one_step(policy, optimizer, 1)
        save(tmp_path, 2, policy, optimizer)
    assert names(tmp_path) == ["step_2"] and not (tmp_path / "checkpoints" / "step_2" / "garbage").exists()
    resumed, other = start(tokenizer)
    load_checkpoint(tmp_path, resumed, other, refuse)
    assert same_weights(resumed, policy)


@pytest.mark.parametrize("at_fault", [0, 1])
def test_what_fails_on_one_rank_fails_on_all(at_fault, monkeypatch):
    """This process is rank 0 of two."""

    def gather(outcomes, own):
        outcomes[:] = [own, ("b", "OSError: full" if at_fault else None)]

    def act():
        if not at_fault:
            raise OSError("full")

    monkeypatch.setattr(checkpoint.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(checkpoint.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(checkpoint.dist, "all_gather_object", gather)
    with pytest.raises(OSError, match="OSError: full"):
        checkpoint._together(act)


def test_ranks_share_the_files_out(monkeypatch):
    monkeypatch.setattr(checkpoint, "world_size", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(checkpoint, "this_rank", lambda rank=rank: rank)
        shares.append(checkpoint._share(list("edcba")))
    assert shares == [["a", "d"], ["b", "e"], ["c"]]


def test_the_codes_version_is_of_what_the_scripts_say(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "CODE", tmp_path)
    (tmp_path / "run").mkdir()
    versions = []
    for text in ("1", "2", "1"):
        (tmp_path / "a.py").write_text("0")
        (tmp_path / "run" / "b.py").write_text(text)
        versions.append(checkpoint.code_version())
    assert versions[0] == versions[2] != versions[1] and len(versions[0]) == 16


def truncate(file: Path):
    os.truncate(file, file.stat().st_size // 2)


def flip_a_bit(file: Path):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    "damage,file,message",
    [
        (truncate, "__0_0.distcp", "__0_0.distcp has changed"),
        (flip_a_bit, "__0_0.distcp", "__0_0.distcp has changed"),
        (flip_a_bit, ".metadata", ".metadata has changed"),
        (Path.unlink, "__0_0.distcp", "__0_0.distcp is missing"),
        (truncate, "state.json", "state.json: "),
        (Path.unlink, "state.json", "state.json: "),
    ],
)
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(damage, file, message, tokenizer, tmp_path):
    policy, optimizer = start(tokenizer)
    save(tmp_path, 1, policy, optimizer)
    one_step(policy, optimizer, 1)
    save(tmp_path, 2, policy, optimizer)
    damage(tmp_path / "checkpoints" / "step_2" / file)
    said = []
    assert load_checkpoint(tmp_path, policy, optimizer, said.append)["step"] == 1
    assert len(said) == 1 and message in said[0] and "the one before is used" in said[0]
    assert names(tmp_path) == ["step_1", "step_2.damaged"]
    assert same_weights(policy, start(tokenizer)[0])
    one_step(policy, optimizer, 1)  # and once more: the place aside is taken
    save(tmp_path, 2, policy, optimizer)
    damage(tmp_path / "checkpoints" / "step_2" / file)
    assert load_checkpoint(tmp_path, policy, optimizer, said.append)["step"] == 1
    assert names(tmp_path) == ["step_1", "step_2.damaged"]
    truncate(tmp_path / "checkpoints" / "step_1" / "__0_0.distcp")
    with pytest.raises(ValueError, match="none of the checkpoints in"):
        load_checkpoint(tmp_path, policy, optimizer, said.append)


@pytest.mark.parametrize("damage", [truncate, Path.unlink])
def test_an_old_checkpoint_that_is_damaged_is_dropped_like_others(damage, tokenizer, tmp_path):
    policy, optimizer = start(tokenizer)
    save(tmp_path, 1, policy, optimizer, accuracy=0.9)
    damage(tmp_path / "checkpoints" / "step_1" / "state.json")
    for step in (2, 3):
        save(tmp_path, step, policy, optimizer)
    assert names(tmp_path) == ["step_2", "step_3"]


def test_an_old_checkpoint_that_cannot_be_dropped_stops_no_save(tokenizer, tmp_path, monkeypatch):
    def drop(*_):
        raise PermissionError("of another user")

    monkeypatch.setattr(checkpoint, "_drop_old", drop)
    policy, optimizer = start(tokenizer)
    save(tmp_path, 1, policy, optimizer)
    assert names(tmp_path) == ["step_1"]


def test_a_full_disk_leaves_the_old_checkpoint(tokenizer, tmp_path):
    """The operating system refuses to write more than 20 kB to any file, as a full disk would."""
    policy, optimizer = start(tokenizer)
    save(tmp_path, 1, policy, optimizer)
    usual, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, usual[1]))
    try:
        with pytest.raises(OSError):
            save(tmp_path, 2, policy, optimizer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        signal.signal(signal.SIGXFSZ, handler)
    assert names(tmp_path) == ["step_1"]
    save(tmp_path, 3, policy, optimizer)
    assert load_checkpoint(tmp_path, policy, optimizer, refuse)["step"] == 3


class Attack:
    def __reduce__(self):
        return os.mkdir, ("attacked",)


def test_reading_a_checkpoint_runs_no_code(tokenizer, tmp_path, monkeypatch):
    """Whoever made the folder made its checksums too, so these protect from accidents only."""
    monkeypatch.chdir(tmp_path)
    policy, optimizer = start(tokenizer)
    save(tmp_path, 1, policy, optimizer)
    folder = tmp_path / "checkpoints" / "step_1"
    (folder / ".metadata").write_bytes(pickle.dumps(Attack()))
    state = json.loads((folder / "state.json").read_text())
    state["files"][".metadata"] = checkpoint._checksum(folder / ".metadata")
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(BaseException, match="must not name posix.mkdir"):
        load_checkpoint(tmp_path, policy, optimizer, refuse)
    assert not Path("attacked").exists()


def test_a_run_folder_has_one_run(tmp_path):
    other = "import sys; from pathlib import Path; from run.start import lock; lock(Path(sys.argv[1]))"
    held = lock(tmp_path)
    second = [sys.executable, "-c", other, str(tmp_path)]
    refused = subprocess.run(second, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 1 and f"is in use by another run: process {os.getpid()} on" in refused.stderr
    held.close()
    subprocess.run(second, cwd=ROOT, check=True)
    with lock(tmp_path):
        assert (tmp_path / "lock").read_text().count("process") == 1


# Ranks


def rank_main(rank: int, ranks: int, port: int, folder: str, tokenizer, act) -> None:
    learner.compute_dtype = lambda: torch.float32
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank)}
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    act(Path(folder), tokenizer)
    dist.destroy_process_group()


def whole_state(policy, optimizer) -> dict[str, torch.Tensor]:
    """Weights and moments, gathered."""
    parts = checkpoint._tensors(policy, optimizer)
    return {f"{part}.{name}": full_tensor(t).clone() for part in parts for name, t in parts[part].items()}


def save_on_ranks(folder: Path, tokenizer):
    policy, optimizer = start(tokenizer)
    one_step(policy, optimizer, 1)
    save(folder, 1, policy, optimizer)
    torch.save(whole_state(policy, optimizer), folder / f"saved-{dist.get_rank()}.pt")


def resume_on_ranks(folder: Path, tokenizer):
    policy, optimizer = start(tokenizer)
    load_checkpoint(folder, policy, optimizer, print)
    torch.save(whole_state(policy, optimizer), folder / f"resumed-{dist.get_rank()}.pt")
    one_step(policy, optimizer, 2)  # and it can be gone on from


@pytest.mark.slow
@on_cpu
def test_a_checkpoint_of_two_ranks_is_read_by_one_and_by_four(tokenizer, tmp_path):
    mp.spawn(rank_main, (2, free_port(), str(tmp_path), tokenizer, save_on_ranks), nprocs=2)
    mp.spawn(rank_main, (4, free_port(), str(tmp_path), tokenizer, resume_on_ranks), nprocs=4)
    policy, optimizer = start(tokenizer)
    load_checkpoint(tmp_path, policy, optimizer, refuse)
    saved = torch.load(tmp_path / "saved-0.pt")
    assert any(name.endswith("exp_avg_sq") and tensor.any() for name, tensor in saved.items())
    for resumed in (whole_state(policy, optimizer), torch.load(tmp_path / "resumed-3.pt")):
        assert resumed.keys() == saved.keys()
        assert all(torch.equal(tensor, saved[name]) for name, tensor in resumed.items())


class Get:
    """Pickled as by Python 3.11.2: a call of getattr."""

    def __init__(self, *arguments):
        self.arguments = arguments

    def __reduce__(self):
        return getattr, self.arguments


def test_a_member_of_an_enum_is_read_as_older_pythons_write_it_and_no_other_attribute():
    from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING

    def read(value):
        return checkpoint._Unpickler(io.BytesIO(pickle.dumps(value))).load()

    assert read(Get(_MEM_FORMAT_ENCODING, "TORCH_CHANNELS_LAST")) is _MEM_FORMAT_ENCODING.TORCH_CHANNELS_LAST
    with pytest.raises(KeyError):
        read(Get(_MEM_FORMAT_ENCODING, "__init__"))
    with pytest.raises(pickle.UnpicklingError, match="must not take numel of <class 'torch.Size'>"):
        read(Get(torch.Size, "numel"))


def test_paths_are_read_as_python_3_13_calls_them():
    text = pickle.dumps(Path("/a/b"), protocol=2).replace(b"cpathlib\n", b"cpathlib._local\n")
    assert b"pathlib._local" in text or sys.version_info >= (3, 13)
    assert checkpoint._Unpickler(io.BytesIO(text)).load() == Path("/a/b")
