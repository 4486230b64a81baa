"""An answer leaves state in one of six accounts: the next request that needs the state goes to that account.

All stories run at once, so that their turns are interleaved over all accounts. A story waits for the others at each `yield`.
When all of them wait, Tidegate is stopped or killed, and started again.
"""

import asyncio
import itertools
import signal
import traceback

import openai
import pytest
from gateway import where

SEALED = {"store": False, "include": ["reasoning.encrypted_content"], "reasoning": {"effort": "low"}}


def user(text):
    return {"role": "user", "content": text}


def remembers(answer, turns):
    """Checks that the provider knows these turns and got the last one."""
    *before, last = turns
    plural = "" if len(before) == 1 else "s"
    words = f" I remember {len(before)} turn{plural}: {'; '.join(before)}. You said: {last}"
    assert words in answer.output_text, (answer.output_text, words)


async def unknown(call):
    with pytest.raises(openai.NotFoundError):
        await call


async def chain(gateway, nth):
    """Five turns, each with the id of the turn before."""
    stream = nth // 6 % 2 == 1
    # In the other half, two keys of one group alternate.
    names = ["anna"] * 5 if nth < 12 else ["anna", "ben", "anna", "ben", "anna"]
    turns = [f"chain {nth} turn {turn}" for turn in range(1, 6)]
    place, answer = await gateway.begin(nth, names[0], input=turns[0], stream=stream)
    for turn in range(1, 5):
        if turn in (2, 4):
            yield
        more = {"input": turns[turn], "previous_response_id": answer.id}
        answer = await gateway.say(names[turn], stream=stream, **more)
        assert where(answer) == place
        remembers(answer, turns[: turn + 1])
    calls = gateway.by("ben").responses
    # The SDK reads page after page by itself.
    items = [item async for item in calls.input_items.list(answer.id, limit=2, order="asc")]
    assert [item.content[0].text for item in items if item.role == "user"] == turns
    assert (await calls.retrieve(answer.id)).output_text == answer.output_text
    counted = await calls.input_tokens.count(model="pool", input="Hello", previous_response_id=answer.id)
    assert counted.input_tokens > answer.usage.input_tokens
    await calls.delete(answer.id)
    await unknown(calls.retrieve(answer.id))


async def stateless(gateway, nth):
    """Five turns that the provider does not store: the client sends the encrypted reasoning of all earlier turns."""
    said = [user(f"stateless {nth}")]
    place, answer = await gateway.begin(nth, "anna", input=said, **SEALED)
    for turn in range(1, 5):
        if turn in (2, 4):
            yield
        said += [*(item.to_dict() for item in answer.output), user(f"turn {turn + 1}")]
        answer = await gateway.say("anna", stream=turn % 2 == 1, input=said, **SEALED)
        assert where(answer) == place
        plural = "" if turn == 1 else "s"
        assert f" I opened {turn} sealed item{plural}, the last of turn {turn}. You said: turn {turn + 1}" in answer.output_text


async def polled(gateway, nth):
    """A background response that is polled until it is complete, and then continued."""
    calls = gateway.by("anna").responses
    text = f"background {nth}"
    made = await calls.create(model="pool", input=text, background=True, metadata={"simulate": "polls=4"})
    assert made.status == "queued"
    for look in range(1, 5):
        # Tidegate polls the response too, after some seconds: on a slow machine it is complete before the fourth look.
        status = (await gateway.by("ben").responses.retrieve(made.id)).status
        assert status == "completed" or (status == "in_progress" and look < 4)
        if look in (1, 2):
            yield
    place = where(await gateway.by("anna").responses.retrieve(made.id))
    answer = await gateway.say("anna", input="And?", previous_response_id=made.id)
    assert where(answer) == place
    remembers(answer, [text, "And?"])


async def cancelled(gateway, nth):
    """A background response that is cancelled."""
    endless = {"background": True, "metadata": {"simulate": "polls=1000000"}}
    made = await gateway.by("anna").responses.create(model="pool", input=f"endless {nth}", **endless)
    yield
    assert (await gateway.by("anna").responses.cancel(made.id)).status == "cancelled"
    yield
    calls = gateway.by("anna").responses
    assert (await calls.retrieve(made.id)).status == "cancelled"
    await calls.delete(made.id)
    await unknown(calls.cancel(made.id))


async def resumed(gateway, nth):
    """A background stream that breaks, or that its client leaves, and that is resumed."""
    breaks = nth % 2 == 0
    more = {"metadata": {"simulate": "cut at=8"}} if breaks else {}
    text = f"resumed {nth}"
    events = await gateway.by("anna").responses.create(model="pool", input=text, stream=True, background=True, **more)
    seen = []
    if breaks:
        with pytest.raises(openai.APIConnectionError):
            async for event in events:
                seen.append(event)
    else:
        async with events:
            while len(seen) < 8:
                seen.append(await anext(events))
    yield
    made, last = seen[0].response.id, seen[-1].sequence_number
    told = await gateway.by("anna").responses.retrieve(made, stream=True, starting_after=last)
    everything = [*seen, *[event async for event in told]]
    numbers = [event.sequence_number for event in everything]
    assert numbers == list(range(len(numbers))) and len(numbers) > 9
    (end,) = [event.response for event in everything if event.type == "response.completed"]
    assert end.output_text == "".join(event.delta for event in everything if event.type == "response.output_text.delta")
    yield
    answer = await gateway.say("ben", input="And?", previous_response_id=made)
    assert where(answer) == where(end)
    remembers(answer, [text, "And?"])


async def early(gateway, nth):
    """The next turn starts while the answer that it continues is still being streamed."""
    turns = [f"early {nth}", "And?"]
    slow = {"metadata": {"simulate": "delay=20"}}
    async with await gateway.by("anna").responses.create(model="pool", input=turns[0], stream=True, **slow) as events:
        first = await anext(events)
        answer = await gateway.say("ben", input=turns[1], previous_response_id=first.response.id)
        (end,) = [event.response async for event in events if event.type == "response.completed"]
    remembers(answer, turns)
    assert where(answer) == where(end)
    yield
    yield
    remembers(await gateway.say("anna", input="More?", previous_response_id=answer.id), [*turns, "More?"])


async def conversation(gateway, nth):
    """The turns of a conversation, which is created by a request without a model."""
    maker, title = ("carl", "ModelVerse") if nth % 2 else ("anna", "Ace Data Cloud")
    turns = [f"conversation {nth}", "word 1", "word 2", "word 3"]
    calls = gateway.by(maker).conversations
    made = await calls.create(metadata={"a": "b"}, items=[{"type": "message", "role": "user", "content": turns[0]}])
    places = set()
    for turn, name in enumerate(["anna", "ben", "anna"], 1):
        given = made.id if turn % 2 else {"id": made.id}
        answer = await gateway.say(name, stream=turn == 2, input=turns[turn], conversation=given)
        places.add(where(answer))
        remembers(answer, turns[: turn + 1])
        if turn < 3:
            yield
    ((provider, _),) = places
    assert provider == title
    calls = gateway.by("ben").conversations
    items = [item async for item in calls.items.list(made.id, limit=2, order="asc")]
    assert [item.role for item in items] == ["user", *["user", "assistant"] * 3]
    page = await calls.items.list(made.id, limit=3)
    assert page.has_more and page.data[0].id == items[-1].id
    added = await calls.items.create(made.id, items=[{"type": "message", "role": "user", "content": "more"}])
    assert (await calls.items.retrieve(added.first_id, conversation_id=made.id)).content[0].text == "more"
    # An item of the conversation, and an added item, can be referenced elsewhere, too.
    for known in (items[-1].id, added.first_id):
        answer = await gateway.say("anna", input=[{"type": "item_reference", "id": known}, user("And?")])
        assert where(answer) in places
    assert (await calls.items.delete(added.first_id, conversation_id=made.id)).id == made.id
    await unknown(calls.items.retrieve(added.first_id, conversation_id=made.id))
    assert (await calls.update(made.id, metadata={"c": "d"})).metadata == {"c": "d"}
    assert (await calls.retrieve(made.id)).metadata == {"c": "d"}
    assert (await calls.delete(made.id)).deleted
    await unknown(calls.retrieve(made.id))
    await unknown(gateway.by("anna").responses.create(model="pool", input="Hello", conversation=made.id))


async def compacted(gateway, nth):
    """Two turns that are compacted into one encrypted item, which the next turn continues."""
    place, answer = await gateway.begin(nth, "anna", input=f"compacted {nth}")
    answer = await gateway.say("anna", input="word 2", previous_response_id=answer.id)
    small = await gateway.by("anna").responses.compact(model="pool", input=[user("word 3")], previous_response_id=answer.id)
    assert [item.type for item in small.output] == ["message"] * 3 + ["compaction"]
    # The SDK's types do not know every field that an item of a compaction may have.
    said = [item.to_dict(warnings=False) for item in small.output]
    for turn in (4, 5):
        yield
        said.append(user(f"word {turn}"))
        answer = await gateway.say("ben" if nth % 2 else "anna", input=said)
        assert where(answer) == place
        assert f" I opened 1 sealed item, the last of turn 3. You said: word {turn}" in answer.output_text
        said += [item.to_dict() for item in answer.output]
    smaller = await gateway.by("anna").responses.compact(model="pool", input=said)
    assert smaller.output[-1].type == "compaction"


async def referred(gateway, nth):
    """Single items of an answer, by their ids."""
    place, answer = await gateway.begin(nth, "anna", input=f"referred {nth}", reasoning={"effort": "low"})
    thought, message = answer.output
    for name in ("anna", "ben"):
        yield
        # As a reference, as the short form of a reference, and as reasoning without its encrypted content.
        for item in (
            {"type": "item_reference", "id": message.id},
            {"id": message.id},
            {"type": "reasoning", "id": thought.id, "summary": []},
        ):
            answer = await gateway.say(name, input=[item, user("And?")])
            assert where(answer) == place and answer.output_text.endswith("You said: And?")


STORIES = (stateless, polled, cancelled, resumed, early, conversation, compacted, referred)


async def play(stories, *between):
    """Runs all stories at once. Whenever all of them wait, the next function of `between` runs."""
    failures = []
    for happens in (*between, None):
        results = await asyncio.gather(*(anext(story, None) for story in stories.values()), return_exceptions=True)
        for name, result in zip(list(stories), results):
            if isinstance(result, BaseException):
                failures.append(f"{name}: " + "".join(traceback.format_exception(result)))
                del stories[name]
        if happens:
            await happens()
    assert not failures, "\n".join(failures)


async def test_chains(gateway):
    async def restarted():
        assert await gateway.end(signal.SIGTERM) == 0
        gateway.start()

    async def crashed():
        # The promise: no id is lost whose answer is older than the time of a write.
        gateway.written()
        assert await gateway.end(signal.SIGKILL) == -signal.SIGKILL
        gateway.start()

    counts = {chain: 24, **dict.fromkeys(STORIES, 12)}
    stories = {f"{told.__name__} {nth}": told(gateway, nth) for told, count in counts.items() for nth in range(count)}
    await play(stories, restarted, crashed)

    # Only the one account got requests, by any of its credentials.
    attempts = [entry["attempts"] for entry in gateway.requests()]
    assert not [several for several in attempts if ";" in several]
    credentials = ["NORTH", "SOUTH"]
    expected = {f"{upstream}/{name}" for upstream, name in itertools.product(["dmxapi", "modelverse", "acedata"], credentials)}
    assert {one.split(" ")[0] for one in attempts} == expected | {"modelverse/SOUTH_2"}


async def test_state_of_two_accounts_is_refused(gateway):
    _, here = await gateway.begin(0, "anna")
    _, there = await gateway.begin(5, "anna")
    reference = {"type": "item_reference", "id": there.output[-1].id}
    with pytest.raises(openai.BadRequestError) as caught:
        await gateway.say("anna", input=[reference, user("And?")], previous_response_id=here.id)
    assert caught.value.code == "conflicting_state"
    assert here.id not in caught.value.message and there.output[-1].id not in caught.value.message
