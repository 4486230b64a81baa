"""The simulator itself, without a gateway: its state has the shapes that the SDK knows, and belongs to one account."""

import json
import os
import secrets
import urllib.request

import openai
import pytest
from openai.types.conversations import Conversation
from openai.types.responses import CompactedResponse, Response

SIMULATOR = os.environ["SIMULATOR_URL"]
PROVIDERS = {"/dmxapi/v1": "gpt-5-mini", "/modelverse/v1": "gpt-4o", "/acedata/openai": "gpt-4.1"}


def account(base, name):
    return openai.OpenAI(base_url=SIMULATOR + base, api_key=f"{name}.{secrets.token_hex(4)}", max_retries=0, timeout=20)


class Provider:
    """One provider, as two of its accounts see it."""

    def __init__(self, base):
        self.model = PROVIDERS[base]
        self.ours, self.theirs = account(base, "ours"), account(base, "theirs")
        self.same = account(base, "ours")

    def create(self, words="", client=None, **arguments):
        metadata = {"simulate": words} if words else {}
        client = client or self.ours
        return client.responses.create(**{"model": self.model, "input": "Hello", "metadata": metadata, **arguments})


@pytest.fixture(params=PROVIDERS)
def provider(request):
    return Provider(request.param)


def valid(model, kind=Response):
    """The object, checked strictly by the SDK's own types. The added field is in no documentation of the three providers."""
    fields = model.to_dict()
    if fields.get("usage"):
        fields["usage"]["input_tokens_details"]["cache_write_tokens"] = 0
    kind.model_validate(fields)
    return model


def test_chain(provider):
    previous = None
    for turn in range(1, 6):
        # A changed key stays in its account.
        client = provider.same if turn == 3 else provider.ours
        answer = provider.create(client=client, input=f"word {turn}", previous_response_id=previous)
        assert ("I remember" in answer.output_text) == (turn > 1)
        previous = valid(answer).id
    assert "account ours. I remember 4 turns: word 1; word 2; word 3; word 4." in answer.output_text
    with pytest.raises(openai.BadRequestError) as caught:
        provider.create(client=provider.theirs, previous_response_id=previous)
    assert caught.value.code == "previous_response_not_found"


def test_retrieve_and_delete(provider):
    made = provider.create()
    assert valid(provider.ours.responses.retrieve(made.id)).to_dict() == made.to_dict()
    for call in (provider.theirs.responses.retrieve, provider.theirs.responses.delete, provider.theirs.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            call(made.id)
    provider.ours.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        provider.ours.responses.retrieve(made.id)


def test_background_poll_and_cancel(provider):
    made = provider.create("polls=3", background=True)
    statuses = [valid(made).status, *(provider.ours.responses.retrieve(made.id).status for _ in range(3))]
    assert statuses == ["queued", "in_progress", "in_progress", "completed"]
    endless = provider.create("polls=1000000", background=True)
    assert provider.ours.responses.cancel(endless.id).status == "cancelled"
    assert provider.ours.responses.retrieve(endless.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError):
        provider.ours.responses.cancel(provider.create().id)


def test_resume_a_broken_stream(provider):
    seen = []
    with pytest.raises(openai.APIConnectionError):
        for event in provider.create("cut at=8", stream=True, background=True):
            seen.append(event)
    last = seen[-1].sequence_number
    rest = list(provider.ours.responses.retrieve(seen[0].response.id, stream=True, starting_after=last))
    assert [event.sequence_number for event in [*seen, *rest]] == list(range(len(seen) + len(rest)))
    (end,) = [event for event in rest if event.type == "response.completed"]
    words = "".join(event.delta for event in [*seen, *rest] if event.type == "response.output_text.delta")
    assert end.response.output_text == words
    with pytest.raises(openai.NotFoundError):
        provider.theirs.responses.retrieve(end.response.id, stream=True)


def test_input_items(provider):
    first = provider.create(input="zero")
    made = provider.create(input=[{"role": "user", "content": str(n)} for n in range(1, 8)], previous_response_id=first.id)
    items = provider.ours.responses.input_items
    # The SDK reads page after page by itself.
    texts = [item.content[0].text for item in items.list(made.id, limit=2, order="asc", include=["message.output_text.logprobs"])]
    assert (texts[0], texts[2:]) == ("zero", [str(n) for n in range(1, 8)])
    newest = [item.content[0].text for item in items.list(made.id, limit=4)]
    assert newest == texts[::-1]


def test_conversation(provider):
    conversations = provider.ours.conversations
    made = conversations.create(metadata={"a": "b"}, items=[{"type": "message", "role": "user", "content": "zero"}])
    assert valid(made, Conversation).metadata == {"a": "b"}
    assert conversations.update(made.id, metadata={"c": "d"}).metadata == {"c": "d"}
    for turn in (1, 2):
        answer = provider.create(input=f"word {turn}", conversation=made.id)
    assert "I remember 2 turns: zero; word 1." in answer.output_text
    items = list(conversations.items.list(made.id, limit=2, order="asc"))
    assert [item.role for item in items] == ["user", "user", "assistant", "user", "assistant"]
    added = conversations.items.create(made.id, items=[{"type": "message", "role": "user", "content": "more"}])
    assert conversations.items.retrieve(added.first_id, conversation_id=made.id).content[0].text == "more"
    assert conversations.items.delete(added.first_id, conversation_id=made.id).id == made.id
    for call in (conversations.retrieve, provider.theirs.conversations.retrieve):
        if call == conversations.retrieve:
            assert conversations.delete(made.id).deleted
        with pytest.raises(openai.NotFoundError):
            call(made.id)
    with pytest.raises(openai.NotFoundError):
        provider.create(conversation=made.id)


def test_sealed_reasoning_without_storing(provider):
    ask = {"store": False, "include": ["reasoning.encrypted_content"], "reasoning": {"effort": "low"}}
    turns = []
    for turn in range(1, 6):
        turns.append({"role": "user", "content": f"word {turn}"})
        answer = provider.create(input=turns, **ask)
        turns += [item.to_dict() for item in valid(answer).output]
    assert "I opened 4 sealed items, the last of turn 4." in answer.output_text
    with pytest.raises(openai.BadRequestError) as caught:
        provider.create(client=provider.theirs, input=turns, **ask)
    assert caught.value.code == "invalid_encrypted_content"


def test_item_references(provider):
    made = provider.create(reasoning={"effort": "low"})
    thought, message = made.output
    reference = {"type": "item_reference", "id": message.id}
    assert provider.create(input=[reference, {"role": "user", "content": "And?"}]).output_text.endswith("You said: And?")
    for item in (reference, {"type": "reasoning", "id": thought.id, "summary": []}):
        with pytest.raises(openai.NotFoundError) as caught:
            provider.create(client=provider.theirs, input=[item])
        assert f"Item with id '{item['id']}' not found" in caught.value.message


def test_compaction_and_counting(provider):
    first = provider.create(input="one")
    counted = provider.ours.responses.input_tokens.count(model=provider.model, input="two", previous_response_id=first.id)
    compacted = provider.ours.responses.compact(model=provider.model, input="two", previous_response_id=first.id)
    assert compacted.usage.input_tokens == counted.input_tokens > first.usage.total_tokens
    assert isinstance(compacted, CompactedResponse) and compacted.object == "response.compaction"
    assert [item.type for item in compacted.output] == ["message", "message", "compaction"]
    # In the SDK, the type of a user's message in a compaction is the type of an answer's message.
    turns = [*(item.to_dict(warnings=False) for item in compacted.output), {"role": "user", "content": "three"}]
    assert "I opened 1 sealed item, the last of turn 2." in provider.create(input=turns).output_text
    with pytest.raises(openai.BadRequestError):
        provider.create(client=provider.theirs, input=turns)


def test_chat(provider):
    ask = {"model": provider.model, "messages": [{"role": "user", "content": "Hello"}]}
    whole = provider.ours.chat.completions.create(**ask)
    text = whole.choices[0].message.content
    assert "account ours" in text and text.endswith("You said: Hello") and whole.usage.total_tokens > 0
    chunks = list(provider.ours.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
    assert chunks[-1].usage == whole.usage
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool = {"type": "function", "function": {"name": "weather", "parameters": parameters}}
    with provider.ours.chat.completions.stream(**ask, tools=[tool], tool_choice="required") as stream:
        (call,) = stream.get_final_completion().choices[0].message.tool_calls
    assert json.loads(call.function.arguments)["city"]
    with pytest.raises(openai.NotFoundError):
        provider.ours.chat.completions.create(**{**ask, "model": "nothing-like-it"})


def test_embeddings(provider):
    # By default, the SDK asks for base64.
    ask = {"model": "text-embedding-3-small", "input": ["one", "two", "one"], "dimensions": 8}
    packed, plain = (provider.ours.embeddings.create(**ask, **more) for more in ({}, {"encoding_format": "float"}))
    vectors = [entry.embedding for entry in packed.data]
    assert vectors == [entry.embedding for entry in plain.data]
    assert len(vectors[0]) == 8 and vectors[0] == vectors[2] != vectors[1] and packed.usage.prompt_tokens == 3


def test_received_requests_are_listed(provider):
    marker = secrets.token_hex(8)
    provider.create(client=provider.theirs, input=marker)
    with urllib.request.urlopen(f"{SIMULATOR}/simulator/received?account=theirs") as answer:
        entries = [entry for entry in json.load(answer)["data"] if marker in (entry["body"] or "")]
    (entry,) = entries
    assert (entry["method"], entry["path"]) == ("POST", "/responses")
    assert entry["headers"]["user-agent"].startswith("OpenAI/Python") and "authorization" not in entry["headers"]
