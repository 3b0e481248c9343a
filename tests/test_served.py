import json
import threading
import time

import pytest
from stub_server import completion, stub_server

from analysis import served
from analysis.served import Response, Server, ServerError, sample, takes_token_ids


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(served, "WAIT_S", 0.001)


def server_at(stub, concurrency: int = 4) -> Server:
    return Server(stub.url, "NO_SUCH_KEY", timeout_s=0.3, concurrency=concurrency)


def draw(stub, file, prompts=("p0", "p1"), n=2, temperature=1.0, concurrency=4, stop=()):
    return sample(server_at(stub, concurrency), "m", prompts, n, temperature, 9, stop, seed=0, file=file)


def test_responses_are_prompt_major_and_carry_length_and_truncation(tmp_path):
    def answer(body, i):
        return completion(f"to {body['prompt']}", "length" if body["prompt"] == [7, 8] else "stop", tokens=5)

    with stub_server(answer) as stub:
        responses = draw(stub, tmp_path / "a", prompts=["p0", [7, 8]])
    assert responses == [Response("to p0", 5, False)] * 2 + [Response("to [7, 8]", 5, True)] * 2


def test_every_setting_is_sent_since_servers_have_defaults_of_their_own(tmp_path):
    with stub_server(lambda body, i: completion()) as stub:
        draw(stub, tmp_path / "a", prompts=["p"], stop=["</answer>"])
        draw(stub, tmp_path / "b", prompts=["p"], n=1, temperature=0.0)
    first, second, greedy = stub.requests
    assert first["seed"] != second["seed"] and "seed" not in greedy and "stop" not in greedy
    common = {"model": "m", "prompt": "p", "max_tokens": 9, "top_p": 1.0, "top_k": -1, "min_p": 0.0}
    common |= {"repetition_penalty": 1.0}
    assert common | {"temperature": 0.0} == greedy
    stop = {"stop": ["</answer>"], "include_stop_str_in_output": True, "no_stop_trim": True}
    assert first == common | stop | {"temperature": 1.0, "seed": first["seed"]}


WORTH_ANOTHER_TRY = {
    "too many requests": (429, b'{"error": {"message": "slow down"}}'),
    "server error": (500, b"oops"),
    "bad gateway": (502, b"<html>"),
    "hang": "hang",
    "connection closed": "close",
    "broken JSON": (200, b'{"choices": ['),
    "broken UTF-8": (200, b'{"choices": "\xff\xff"}'),
    "not an object": [],
    "no choices": {"choices": [], "usage": {"completion_tokens": 3}},
    "no text": {"choices": [{"finish_reason": "stop"}], "usage": {"completion_tokens": 3}},
    "text of another kind": completion(text=[1]),
    "no finish reason": {"choices": [{"text": "a"}], "usage": {"completion_tokens": 3}},
    "no usage": {"choices": [{"text": "a", "finish_reason": "stop"}]},
}


def test_a_failure_that_may_pass_is_tried_again(tmp_path):
    seen = []

    def answer(body, i):
        seen.append(body["prompt"])
        return WORTH_ANOTHER_TRY[seen[-1]] if seen.count(seen[-1]) <= 2 else completion(seen[-1])

    with stub_server(answer) as stub:
        responses = draw(stub, tmp_path / "a", prompts=list(WORTH_ANOTHER_TRY), n=1, concurrency=99)
    assert responses == [Response(name, 3, False) for name in WORTH_ANOTHER_TRY]
    assert all(seen.count(name) == 3 for name in WORTH_ANOTHER_TRY)


@pytest.mark.parametrize("failure", [(429, b"{}"), (200, b"{")])
def test_a_failure_that_stays_ends_in_one_sentence_after_all_tries(tmp_path, failure):
    with stub_server(lambda body, i: failure) as stub:
        with pytest.raises(ServerError, match=rf"^{stub.url}/: \w+, .* {served.TRIES} times over$") as error:
            draw(stub, tmp_path / "a", prompts=["p"], n=1)
    assert len(stub.requests) == served.TRIES and "\n" not in str(error.value)


@pytest.mark.parametrize("status", [400, 401])
def test_a_refusal_is_not_tried_again(tmp_path, status):
    with stub_server(lambda body, i: (status, b'{"error": {"message": "no such model"}}')) as stub:
        with pytest.raises(ServerError, match="no such model"):
            draw(stub, tmp_path / "a", prompts=["p"], n=1)
    assert len(stub.requests) == 1


def test_nobody_at_the_address(tmp_path):
    with pytest.raises(ServerError, match="^http://127.0.0.1:9/v1/: APIConnectionError, Connection error"):
        sample(Server("http://127.0.0.1:9/v1", "X", 1, 1), "m", ["p"], 1, 0.0, 9, [], 0, file=tmp_path / "a")


def test_after_an_interruption_only_what_is_missing_is_asked(tmp_path):
    """The tenth request kills the first call; its file is then torn, as by a full disk, in its last line."""
    file, prompts = tmp_path / "a", [f"p{i}" for i in range(20)]
    refusal = (401, b"{}")
    with stub_server(lambda body, i: completion(body["prompt"]) if i < 9 else refusal) as stub:
        with pytest.raises(ServerError):
            draw(stub, file, prompts, n=1, concurrency=1)
    whole = file.read_bytes()
    assert whole.count(b"\n") == 9
    file.write_bytes(whole[:-20])
    with stub_server(lambda body, i: completion(body["prompt"])) as stub:
        responses = draw(stub, file, prompts, n=1)
        assert sorted(body["prompt"] for body in stub.requests) == sorted(prompts[8:])
        assert [response.text for response in responses] == prompts
        assert draw(stub, file, prompts, n=1) == responses and len(stub.requests) == 12
    entries = [line for line in file.read_text().split("\n") if line]
    assert sum(line.endswith("}") for line in entries) == 20  # and the torn one


def test_no_more_requests_under_way_than_allowed(tmp_path):
    under_way, most, lock = [0], [0], threading.Lock()

    def count(change):
        with lock:
            under_way[0] += change
            most[0] = max(most[0], under_way[0])

    with stub_server(lambda body, i: completion()) as stub:
        answer_post = stub.RequestHandlerClass.do_POST

        def counted(handler):
            count(+1)
            time.sleep(0.02)
            count(-1)  # before the reply, so that the next request cannot overtake it
            answer_post(handler)

        stub.RequestHandlerClass.do_POST = counted
        draw(stub, tmp_path / "a", [str(i) for i in range(30)], n=1, concurrency=3)
    assert 1 <= most[0] <= 3 and len(stub.requests) == 30


def test_token_ids_where_the_server_takes_them_else_text(tmp_path):
    refuses_ids = lambda body, i: (400, b"{}") if isinstance(body["prompt"], list) else completion()  # noqa: E731
    with stub_server(refuses_ids) as stub:
        assert not takes_token_ids(server_at(stub), "m", [1, 2], "text", file=tmp_path / "a")
        assert [body["prompt"] for body in stub.requests] == [[1, 2], "text"]
    with stub_server(lambda body, i: completion()) as stub:
        assert takes_token_ids(server_at(stub), "m", [1, 2], "text", file=tmp_path / "b")
        assert not takes_token_ids(server_at(stub), "m", [], "text", file=tmp_path / "b")
    with stub_server(lambda body, i: (404, b'{"error": {"message": "no model m"}}')) as stub:
        with pytest.raises(ServerError, match="no model m"):
            takes_token_ids(server_at(stub), "m", [1, 2], "text", file=tmp_path / "c")
        assert len(stub.requests) == 1


def test_the_key_is_sent_and_kept_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_KEY", "sk-secret")
    with stub_server(lambda body, i: completion()) as stub:
        server = Server(stub.url, "TEST_KEY", 1, 1)
        sample(server, "m", ["p"], 1, 0.0, 9, [], 0, file=tmp_path / "a")
    assert stub.headers[0]["Authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in (tmp_path / "a").read_text() + repr(server)


HOSTILE = ["\0", "\ud800 lone", "x" * 3_000_000, "\u2028\x85\n\r", "%s{0}$(reboot)", '"}\n{"key": "']


def test_hostile_text_is_kept_as_it_is(tmp_path):
    with stub_server(lambda body, i: completion(HOSTILE[int(body["prompt"])])) as stub:
        prompts = [str(i) for i in range(len(HOSTILE))]
        first = draw(stub, tmp_path / "a", prompts, n=1)
        again = draw(stub, tmp_path / "a", prompts, n=1)
    assert [response.text for response in first] == HOSTILE
    assert again == first and len(stub.requests) == len(HOSTILE)
    assert all(json.loads(line) for line in (tmp_path / "a").read_text().splitlines())
