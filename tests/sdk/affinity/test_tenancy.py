"""State belongs to the key that made it and to its group. For every other key it looks as if it had never existed."""

import asyncio
import secrets
from types import SimpleNamespace

import openai
import pytest
from gateway import where

SEALED = {"include": ["reasoning.encrypted_content"], "reasoning": {"effort": "low"}}


def user(text):
    return {"role": "user", "content": text}


def invented(known):
    """An id of the same form that never existed."""
    kind, digits = known.split("_")
    return f"{kind}_{secrets.token_hex(len(digits))[: len(digits)]}"


async def made(gateway, name):
    """Creates state of every kind with one key, and returns the ids."""
    calls = gateway.by(name)
    response = await gateway.say(name, input=f"What {name} said.", **SEALED)
    conversation = await calls.conversations.create(items=[{"type": "message", "role": "user", "content": f"Of {name}."}])
    background = await gateway.say(name, background=True, metadata={"simulate": "polls=1000000"})
    (item,) = (await calls.conversations.items.list(conversation.id)).data
    thought, message = response.output
    return SimpleNamespace(
        response=response.id,
        background=background.id,
        conversation=conversation.id,
        item=item.id,
        message=message.id,
        thought=thought.id,
    )


def by_id(client, ids):
    """Every call with an id in its path. The calls that delete everything come last."""
    responses, conversations, items = client.responses, client.conversations, client.conversations.items
    message = {"type": "message", "role": "user", "content": "more"}
    return {
        "retrieve": responses.retrieve(ids.response),
        "retrieve, included": responses.retrieve(ids.response, include=["reasoning.encrypted_content"]),
        "resume": responses.retrieve(ids.response, stream=True, starting_after=2),
        "cancel": responses.cancel(ids.background),
        "input_items": listed(responses.input_items.list(ids.response)),
        "input_items, paged": listed(responses.input_items.list(ids.response, limit=1, order="asc")),
        "conversation": conversations.retrieve(ids.conversation),
        "update": conversations.update(ids.conversation, metadata={}),
        "items": listed(items.list(ids.conversation)),
        "add items": items.create(ids.conversation, items=[message]),
        "item": items.retrieve(ids.item, conversation_id=ids.conversation),
        "delete item": items.delete(ids.item, conversation_id=ids.conversation),
        "delete conversation": conversations.delete(ids.conversation),
        "delete": responses.delete(ids.response),
    }


def by_reference(client, ids):
    """Every place of a request that could name an id."""
    calls = client.responses
    references = {
        "previous": {"previous_response_id": ids.response},
        "conversation": {"conversation": ids.conversation},
        "conversation, an object": {"conversation": {"id": ids.conversation}},
        "reference": {"input": [{"type": "item_reference", "id": ids.message}, user("And?")]},
        "reference, short": {"input": [{"id": ids.message}, user("And?")]},
        "reference into a conversation": {"input": [{"type": "item_reference", "id": ids.item}, user("And?")]},
        "reasoning that is not sealed": {"input": [{"type": "reasoning", "id": ids.thought, "summary": []}, user("And?")]},
    }
    made = {}
    for name, more in references.items():
        arguments = {"model": "pool", "input": "And?", **more}
        made[f"create: {name}"] = calls.create(**arguments)
        made[f"stream: {name}"] = calls.create(**arguments, stream=True)
        made[f"background: {name}"] = calls.create(**arguments, background=True)
        made[f"count: {name}"] = calls.input_tokens.count(**arguments)
        if "conversation" not in more:
            made[f"compact: {name}"] = calls.compact(**arguments)
        if "previous_response_id" not in more and "conversation" not in more:
            made[f"items: {name}"] = client.conversations.create(items=more["input"][:1])
    return made


async def listed(pages):
    return [item async for item in pages]


# The parts that differ between two equal answers.
OF_ITS_OWN = {"x-request-id", "x-tidegate-request-id", "date"}


async def errors(calls):
    """The errors of calls that are all refused, as the client sees them, byte for byte."""
    found = {}
    for name, call in calls.items():
        with pytest.raises(openai.APIStatusError) as caught:
            await call
            pytest.fail(f"{name} was not refused")
        error = caught.value
        headers = sorted((key, value) for key, value in error.response.headers.items() if key not in OF_ITS_OWN)
        found[name] = (type(error), error.status_code, error.code, error.param, error.response.content, headers)
    return found


def nobodys(ids):
    return SimpleNamespace(**{name: invented(known) for name, known in vars(ids).items()})


@pytest.mark.parametrize("calls", [by_id, by_reference])
@pytest.mark.parametrize("stranger", ["dora", "emil"])
async def test_state_of_another_owner_looks_as_if_it_never_existed(gateway, calls, stranger):
    # The other key owns state, too. Otherwise it would be refused because it never made anything.
    await made(gateway, stranger)
    theirs = await made(gateway, "anna")
    client = gateway.by(stranger)
    refused = await errors(calls(client, theirs))
    assert refused == await errors(calls(client, nobodys(theirs)))
    for name, (kind, status, code, _, content, _) in refused.items():
        expected = (openai.BadRequestError, 400) if "previous" in name else (openai.NotFoundError, 404)
        assert (kind, status) == expected, name
        assert "previous" not in name or code == "previous_response_not_found"
        assert not [known for known in vars(theirs).values() if known.encode() in content], name
    # All of the state still exists.
    owner = gateway.by("anna")
    assert (await owner.responses.retrieve(theirs.response)).id == theirs.response
    assert (await owner.responses.retrieve(theirs.background)).status == "in_progress"
    assert (await owner.conversations.retrieve(theirs.conversation)).id == theirs.conversation
    assert [item.id for item in (await owner.conversations.items.list(theirs.conversation)).data] == [theirs.item]


async def test_another_owners_item_is_unknown_in_an_own_conversation(gateway):
    ours, theirs = await made(gateway, "dora"), await made(gateway, "anna")

    def calls(item):
        items = gateway.by("dora").conversations.items
        message = {"type": "item_reference", "id": item}
        return {
            "item": items.retrieve(item, conversation_id=ours.conversation),
            "delete item": items.delete(item, conversation_id=ours.conversation),
            "add items": items.create(ours.conversation, items=[message]),
        }

    # Providers name the unknown item in the error, so the ids are masked.
    def masked(found, item):
        return {name: (*rest, content.replace(item.encode(), b"ID")) for name, (*rest, content, _) in found.items()}

    for item in (theirs.item, theirs.message):
        other = invented(item)
        refused = await errors(calls(item))
        assert masked(refused, item) == masked(await errors(calls(other)), other)
        assert {entry[0] for entry in refused.values()} == {openai.NotFoundError}


async def test_keys_of_one_group_share_state(gateway):
    async def told(call):
        answer = await call
        if isinstance(answer, openai.AsyncStream):
            assert "response.completed" in [event.type async for event in answer]

    for maker, other in [("anna", "ben"), ("ben", "anna")]:
        ids = await made(gateway, maker)
        await asyncio.gather(*(told(call) for call in by_reference(gateway.by(other), ids).values()))
        for name, call in by_id(gateway.by(other), ids).items():
            if name == "resume":
                # The provider refuses it because the response was not made as a stream: so the request arrived there.
                with pytest.raises(openai.BadRequestError, match="created with `stream`"):
                    await call
            else:
                await call
        with pytest.raises(openai.NotFoundError):
            await gateway.by(maker).responses.retrieve(ids.response)


async def test_encrypted_content_of_any_key_goes_to_its_account(gateway):
    # Keys rotate, and a session continues with the next key. The content can only be decrypted by its account, and a client that
    # has it has read it.
    for nth in range(6):
        place, answer = await gateway.begin(nth, "anna", store=False, **SEALED)
        said = [*(item.to_dict() for item in answer.output), user("And?")]
        answer = await gateway.say("dora", input=said, store=False, **SEALED)
        assert where(answer) == place and "I opened 1 sealed item" in answer.output_text


async def test_whole_items_with_another_owners_ids_go_up(gateway):
    # Codex gives its own messages ids of its own, which no provider knows. Such an id is not looked up.
    theirs = await made(gateway, "anna")
    places = set()
    for known in [theirs.item, invented(theirs.item)] * 12:
        said = {"type": "message", "id": known, "role": "user", "content": [{"type": "input_text", "text": "Hello"}]}
        answer = await gateway.say("emil", input=[said])
        assert answer.output_text.endswith("You said: Hello")
        places.add(where(answer))
    assert len(places) > 1


async def test_state_at_a_provider_that_the_key_may_not_use_is_lost(gateway):
    # carl may use one provider only. State that his group made elsewhere is lost to him, which is another error than unknown.
    _, answer = await gateway.begin(0, "anna")
    with pytest.raises(openai.APIStatusError) as caught:
        await gateway.say("carl", previous_response_id=answer.id)
    assert caught.value.code == "state_lost"
    assert caught.value.response.headers["x-should-retry"] == "false"
