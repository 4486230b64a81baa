"""Answers that are not streamed."""

import asyncio
import base64

import openai
from conftest import GATEWAY, outcome, settings
from pydantic import BaseModel

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "Weather of a city",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


def test_text(client, model):
    answer = client.responses.create(model=model, input="Grüße, 世界 🌍", instructions="Be short.", temperature=0.5)
    assert "Grüße, 世界 🌍" in answer.output_text
    assert answer.status == "completed"
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens > 0


def test_a_configured_model_name_reaches_the_provider_as_the_providers_name(client):
    raw = client.responses.with_raw_response.create(model="smart", input="Hello")
    assert raw.parse().model == "gpt-5.2-pro"
    entry = outcome(raw.headers["x-tidegate-request-id"])
    assert (entry["model"], entry["upstream_model"]) == ("smart", "gpt-5.2-pro")
    assert (entry["end"], entry["status"], entry["key"]) == ("completed", 200, "everything")
    assert entry["total_tokens"] == raw.parse().usage.total_tokens


def test_without_v1_in_the_base_url():
    with openai.OpenAI(**settings(base_url=GATEWAY)) as client:
        assert client.responses.create(model="smart", input="Hello").output_text


def test_async(model):
    async def ask():
        async with openai.AsyncOpenAI(**settings()) as client:
            questions = [f"Question {number}" for number in range(20)]
            answers = await asyncio.gather(*(client.responses.create(model=model, input=q) for q in questions))
            for question, answer in zip(questions, answers, strict=True):
                assert question in answer.output_text

    asyncio.run(ask())


def test_function_call_and_its_result(client, model):
    first = client.responses.create(
        model=model, input="Weather in Paris?", tools=[WEATHER], tool_choice={"type": "function", "name": "weather"}
    )
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert call.name == "weather"
    result = {"type": "function_call_output", "call_id": call.call_id, "output": '{"celsius": 21}'}
    question = {"role": "user", "content": "Weather in Paris?"}
    second = client.responses.create(
        model=model, input=[question, *(item.to_dict() for item in first.output), result], tools=[WEATHER]
    )
    assert "21" in second.output_text


class Event(BaseModel):
    name: str
    participants: list[str]


def test_structured_output(client, model):
    answer = client.responses.parse(model=model, input="Alice and Bob go to a fair.", text_format=Event)
    assert isinstance(answer.output_parsed, Event)


def test_images(client, model):
    data = "data:image/png;base64," + base64.b64encode(PNG).decode()
    images = [{"type": "input_image", "image_url": url, "detail": "auto"} for url in (data, "https://example.com/a.png")]
    content = [{"type": "input_text", "text": "What is this?"}, *images]
    answer = client.responses.create(model=model, input=[{"role": "user", "content": content}])
    # The simulator reports the number of images, and the size of the one that the request contains.
    assert "2 images" in answer.output_text and str(len(PNG)) in answer.output_text


def test_encrypted_reasoning_is_sent_back_and_accepted(client, model):
    ask = {"model": model, "store": False, "include": ["reasoning.encrypted_content"], "reasoning": {"effort": "low"}}
    first = client.responses.create(input="Think.", **ask)
    (thought,) = [item for item in first.output if item.type == "reasoning"]
    assert thought.encrypted_content
    turn = [{"role": "user", "content": "Think."}, *(item.to_dict() for item in first.output)]
    second = client.responses.create(input=[*turn, {"role": "user", "content": "Go on."}], **ask)
    assert "Go on." in second.output_text


def test_unknown_fields_go_up_and_come_back(client, model):
    answer = client.responses.create(model=model, input="Hello", extra_body={"x_new": {"a": 1}}, metadata={"team": "a"})
    assert answer.metadata == {"team": "a"}
