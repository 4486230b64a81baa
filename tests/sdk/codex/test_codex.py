"""`codex exec` through the gateway to the simulated providers."""

import json
import os
import urllib.error
import urllib.request

import pytest
from conftest import GATEWAY, KEY, OTHER_KEY, offered

# One model of each personality: named events, `response.done`, data-only frames.
MODELS = ["dmxapi/gpt-5-mini", "modelverse/gpt-4o", "acedata/gpt-4.1"]
# Commands run without Codex's own sandbox, which a container without user namespaces cannot provide.
NO_SANDBOX = "--dangerously-bypass-approvals-and-sandbox"


def completed(run):
    assert (run.code, run.errors) == (0, []), (run.events, run.stderr)
    (turn,) = run.of("turn.completed")
    return turn["usage"]


@pytest.mark.parametrize("model", MODELS)
def test_message(codex, relay, model):
    run = codex.run("Say hello, 潮水", model=model)
    usage = completed(run)
    assert run.text.endswith("You said: Say hello, 潮水")
    assert usage["input_tokens"] > 1000 and usage["reasoning_output_tokens"] == 64

    (sent,), (got,) = relay.requests(), run.upstream()
    assert (sent.method, sent.target, got["path"], got["query"]) == ("POST", "/v1/responses", "/responses", None)
    # Only the name of the model changed.
    upstream, name = model.split("/")
    ours, theirs = f'"model":"{model}"'.encode(), f'"model":"{name}"'.encode()
    assert got["provider"] == upstream and sent.body.startswith(b"{" + ours)
    assert got["body"].encode() == sent.body.replace(ours, theirs, 1)

    # Allowed headers go up unchanged. The other ones stay here.
    passing = ["originator", "session-id", "thread-id", "user-agent", "x-client-request-id", "accept", "content-type"]
    passing += [name for name in sent.headers if name.startswith("x-codex-")]
    assert len(passing) > 9
    assert {name: got["headers"].get(name) for name in passing} == {name: sent.headers[name] for name in passing}
    assert set(got["headers"]) == {*passing, "accept-encoding", "content-length", "host"}
    assert got["headers"]["accept-encoding"] == "identity"
    assert KEY not in json.dumps(got) and sent.headers["authorization"] == f"Bearer {KEY}"


def test_a_configured_model_name(codex):
    run = codex.run("Say hello", model="smart")
    completed(run)
    assert json.loads(run.upstream()[0]["body"])["model"] == "gpt-5.2-pro"
    # Codex compares the header `openai-model` with the requested name, and warns of a difference.
    assert "rerouted" not in json.dumps(run.events) + run.stderr and "flagged" not in json.dumps(run.events)


@pytest.mark.parametrize("model", MODELS)
def test_shell_call(codex, model):
    call = 'simulate: call=exec_command arguments={"cmd":"echo\\u0020tide-$((40+2))"}'
    run = codex.run(f"Run it.\n{call}", NO_SANDBOX, model=model)
    completed(run)
    (command,) = run.items("command_execution")
    assert (command["exit_code"], command["aggregated_output"]) == (0, "tide-42\n")
    assert "The function answered:" in run.text and "tide-42" in run.text
    # The second request of the turn sends back what the first answer gave: the encrypted reasoning and the turn state.
    first, second = run.upstream()
    assert "I opened 1 sealed item" in run.text
    assert "x-codex-turn-state" not in first["headers"] and second["headers"]["x-codex-turn-state"].startswith("gAAAAAB")
    said, *made, result = json.loads(second["body"])["input"][-4:]
    assert [item["type"] for item in made] == ["reasoning", "function_call"]
    assert [item["id"][:3] for item in made] == ["rs_", "fc_"]
    # Codex's own messages have ids of its own, which no provider knows.
    assert (result["type"], result["id"][:4], result["id"].count("-")) == ("function_call_output", "fco_", 4)
    assert (said["type"], said["id"][:4], said["id"].count("-")) == ("message", "msg_", 4)


def test_resumed_session(codex):
    first = codex.run("The first thing.")
    completed(first)
    second = codex.resume(first, "The second thing.")
    completed(second)
    assert second.thread == first.thread
    assert "I opened 1 sealed item" in second.text and second.text.endswith("You said: The second thing.")
    sent = second.upstream()
    assert len(sent) == 2 and "x-codex-turn-state" not in sent[1]["headers"]
    assert "The first thing." in sent[1]["body"] and first.text in sent[1]["body"]


def test_a_resumed_session_goes_to_its_account(codex):
    first = codex.run("The first thing.", model="modelverse/gpt-4o")
    completed(first)
    # By this model name, the turn would go to another account, which cannot decrypt its reasoning.
    second = codex.resume(first, "The second thing.", model="gpt-4o")
    # Codex warns only of the other name.
    assert second.code == 0 and all("recorded with model" in error for error in second.errors), second.events
    assert "I opened 1 sealed item" in second.text and second.text.endswith("You said: The second thing.")
    assert [entry["provider"] for entry in second.upstream()] == ["modelverse", "modelverse"]


def test_codex_offers_models():
    assert len(offered()) > 5, offered()


@pytest.mark.parametrize("model", offered())
def test_each_model_that_codex_offers(codex, model):
    """Newer models get items of new types, each with an id that Codex made. Two keys share two accounts."""
    for key in (KEY, OTHER_KEY):
        first = codex.run("The first thing.", model=model, key=key)
        completed(first)
        second = codex.resume(first, "The second thing.", model=model, key=key)
        completed(second)
        assert second.thread == first.thread and second.text.endswith("You said: The second thing.")
        # The encrypted content of the first turn was decrypted: it went back to its account.
        assert "I opened 1 sealed item" in second.text
        for entry in second.upstream():
            assert all("id" in item for item in json.loads(entry["body"])["input"]), entry["body"]


@pytest.mark.parametrize("name", ["gateway", "OpenAI"])
def test_compaction(codex, name):
    first = codex.run("Remember the tide.", name=name)
    completed(first)
    # The first turn used more tokens than this, so that the second begins with a compaction.
    second = codex.resume(first, "And then?", "-c", "model_auto_compact_token_limit=1000", name=name)
    completed(second)
    _, compaction, after = (json.loads(entry["body"])["input"] for entry in second.upstream())
    if name == "OpenAI":
        # The provider is asked for one encrypted item that holds everything.
        assert compaction[-1] == {"type": "compaction_trigger"}
        (sealed,) = [item for item in after if item["type"] == "compaction"]
        assert sealed["encrypted_content"].startswith("gAAAAAB")
        assert "I opened 1 sealed item" in second.text
    else:
        # The model is asked for a summary, which the next request contains.
        assert compaction[-1]["role"] == "user" and "sealed" not in second.text
        assert not [item for item in after if item["type"] == "reasoning"]
        assert "summary" in json.dumps(after[-2])
    assert second.text.endswith("You said: And then?")


def test_wrong_key(codex, relay):
    run = codex.run("Say hello", key="tg-nobodys")
    assert (run.code, run.upstream()) == (1, [])
    (failed,) = run.of("turn.failed")
    assert "401" in failed["error"]["message"] and "Incorrect API key provided" in failed["error"]["message"]
    assert "tg-nobodys" not in json.dumps(run.events)
    # Codex treats a wrong key as a temporary failure: operators who count failures must know that.
    assert len(relay.requests()) == 6


def refused(key, model):
    """Sends requests until the gateway's own 429."""
    body = json.dumps({"model": model, "input": "Hello"}).encode()
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    with pytest.raises(urllib.error.HTTPError) as caught:
        for _ in range(40):
            urllib.request.urlopen(urllib.request.Request(f"{GATEWAY}/v1/responses", body, headers)).close()
    assert caught.value.code == 429
    return caught.value.headers


def test_codex_waits_for_the_gateways_rate_limit(codex, relay):
    # The key's limit is 30 requests per minute.
    key = os.environ["TIDEGATE_SLOW_KEY"]
    wait = int(refused(key, "smart")["retry-after"])
    run = codex.run("Say hello", key=key)
    assert run.code == 0 and run.text.endswith("You said: Say hello"), run.events
    assert len(run.upstream()) == 1 and len(relay.requests()) >= 2
    assert relay.connections[0].got.startswith(b"HTTP/1.1 429 ")
    assert 1 <= wait <= 3 and run.seconds > wait - 1


def test_codex_does_not_retry_an_empty_account(codex, relay):
    run = codex.run("Say hello\nsimulate: error=insufficient_quota")
    assert run.code == 1 and "Quota exceeded" in run.of("turn.failed")[0]["error"]["message"]
    assert (len(relay.requests()), len(run.upstream())) == (1, 1)


def test_codex_does_not_retry_a_spent_budget(codex, relay):
    key = os.environ["TIDEGATE_POOR_KEY"]
    assert "retry-after" not in refused(key, "acedata/gpt-4.1")
    run = codex.run("Say hello", model="acedata/gpt-4.1", key=key)
    assert run.code == 1 and "Quota exceeded" in run.of("turn.failed")[0]["error"]["message"]
    assert (len(relay.requests()), run.upstream()) == (1, [])


@pytest.mark.parametrize("model", MODELS)
def test_codex_retries_a_cut_stream(codex, model):
    run = codex.run("Say hello\nsimulate: cut times=1", model=model)
    assert run.code == 0 and run.text.endswith("You said: Say hello"), run.events
    # Codex noticed the break, and reported it.
    (error,) = run.errors
    assert "stream disconnected before completion" in error
    first, second = run.upstream()
    # The answer is whole, except for the order of its announcements.
    assert json.loads(first["body"]) == json.loads(second["body"])


def test_a_stream_that_is_always_cut_fails_visibly(codex):
    run = codex.run("Say hello\nsimulate: cut", provider='env_key="GATEWAY_KEY",stream_max_retries=1')
    assert run.code == 1 and len(run.upstream()) == 2
    assert "stream disconnected" in run.of("turn.failed")[0]["error"]["message"]


def test_zstd_bodies_and_the_list_of_models(codex, relay):
    # Codex compresses bodies for a ChatGPT login and a provider of exactly this name.
    codex.log_in()
    run = codex.run("Say hello", name="OpenAI", provider="requires_openai_auth=true")
    completed(run)
    assert run.text.endswith("You said: Say hello")
    sent = [request for request in relay.requests() if request.method == "POST" and request.target == "/v1/responses"]
    assert len(sent) == 1 and sent[0].headers["content-encoding"] == "zstd"
    assert sent[0].body.startswith(b"\x28\xb5\x2f\xfd")
    (got,) = run.upstream()
    assert "content-encoding" not in got["headers"] and "chatgpt-account-id" not in got["headers"]
    assert got["body"].startswith('{"model":"gpt-5-mini"') and got["body_length"] > 2 * len(sent[0].body)
    # With that login, Codex requests the list of models with its version, rejects the plain list, and uses its own.
    lists = [request for request in relay.requests() if request.target.startswith("/v1/models?client_version=")]
    assert lists
    answers = []
    for target in ("/v1/models", lists[0].target):
        request = urllib.request.Request(GATEWAY + target, headers={"authorization": f"Bearer {KEY}"})
        with urllib.request.urlopen(request) as answer:
            answers.append(json.load(answer))
    assert answers[0] == answers[1] and set(answers[0]) == {"object", "data"}


def test_the_built_in_provider_with_the_gateways_address(codex, relay):
    run = codex.run("Say hello", built_in=True)
    completed(run)
    assert run.text.endswith("You said: Say hello")
    # Codex tries a WebSocket first. The refusal is the one that it accepts without a warning.
    requests = relay.requests()
    assert [request.method for request in requests] == ["GET", "POST"]
    assert requests[0].headers["upgrade"] == "websocket"
    assert relay.connections[0].got.startswith(b"HTTP/1.1 426 ")
    assert "Reconnecting" not in json.dumps(run.events) and len(run.upstream()) == 1
