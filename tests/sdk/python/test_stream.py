"""Answers that are streamed."""

import asyncio

import openai
import pytest
from conftest import outcome, settings, simulate


def test_events(client, model):
    raw = client.responses.with_raw_response.create(model=model, input="Hello there", stream=True)
    events = list(raw.parse())
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    (completed,) = [event for event in events if event.type == "response.completed"]
    assert "Hello there" in deltas
    assert completed.response.output_text == deltas
    assert [event.sequence_number for event in events] == list(range(len(events)))
    entry = outcome(raw.headers["x-tidegate-request-id"])
    assert (entry["end"], entry["streamed"]) == ("completed", True)
    assert entry["response_id"] == completed.response.id
    assert entry["total_tokens"] == completed.response.usage.total_tokens


def test_helper(client, model):
    with client.responses.stream(model=model, input="Hello there") as stream:
        deltas = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert final.output_text == deltas and "Hello there" in deltas


def test_async(model):
    async def ask(client, question):
        stream = await client.responses.create(model=model, input=question, stream=True)
        return [event async for event in stream if event.type == "response.completed"][0].response.output_text

    async def all_at_once():
        async with openai.AsyncOpenAI(**settings()) as client:
            questions = [f"Question {number}" for number in range(20)]
            answers = await asyncio.gather(*(ask(client, question) for question in questions))
            for question, answer in zip(questions, answers, strict=True):
                assert question in answer

    asyncio.run(all_at_once())


def test_function_call(client, model):
    tool = {"type": "function", "name": "now", "parameters": {"type": "object", "properties": {}}, "strict": False}
    with client.responses.stream(model=model, input="What time is it?", tools=[tool], tool_choice="required") as stream:
        deltas = "".join(e.delta for e in stream if e.type == "response.function_call_arguments.delta")
        (call,) = [item for item in stream.get_final_response().output if item.type == "function_call"]
    assert call.name == "now" and call.arguments == deltas


@pytest.mark.parametrize("quirk", ["crlf", "comments", "bom", "tokens=500 delay=0", "line=8"])
def test_odd_streams(client, model, quirk):
    stream = client.responses.create(model=model, stream=True, **simulate(quirk))
    assert "response.completed" in [event.type for event in stream]


@pytest.mark.parametrize(
    ("directive", "last", "end"),
    [
        ("failed", "response.failed", "response_failed"),
        ("incomplete", "response.incomplete", "response_incomplete"),
        ("no-terminal", "response.output_item.done", "incomplete"),
        ("done-only", "response.done", "completed"),
    ],
)
def test_other_ends(client, model, directive, last, end):
    raw = client.responses.with_raw_response.create(model=model, stream=True, **simulate(directive))
    types = [event.type for event in raw.parse()]
    assert last in types[-2:] and "response.completed" not in types
    assert outcome(raw.headers["x-tidegate-request-id"])["end"] == end


def test_a_stream_that_breaks_raises(client, model):
    raw = client.responses.with_raw_response.create(model=model, stream=True, **simulate("cut at=4"))
    seen = []
    with pytest.raises(openai.APIConnectionError):
        for event in raw.parse():
            seen.append(event.type)
    assert len(seen) == 4
    assert outcome(raw.headers["x-tidegate-request-id"])["end"] == "upstream_broken"


def test_a_client_that_stops_in_mid_stream(client, model):
    raw = client.responses.with_raw_response.create(model=model, stream=True, **simulate("tokens=1000 delay=20"))
    stream = raw.parse()
    for _, event in zip(range(8), stream):
        assert event.type != "response.completed"
    stream.close()
    entry = outcome(raw.headers["x-tidegate-request-id"])
    assert entry["end"] == "client_gone"
    # The test asked for 1000 events of 20 ms each.
    assert entry["took_ms"] < 5000


def test_a_client_that_leaves_after_the_terminal_event(client, model):
    raw = client.responses.with_raw_response.create(model=model, input="Hello", stream=True)
    stream = raw.parse()
    for event in stream:
        if event.type == "response.completed":
            break
    stream.close()
    assert outcome(raw.headers["x-tidegate-request-id"])["end"] == "completed"
