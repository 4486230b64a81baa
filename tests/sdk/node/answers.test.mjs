// Answers, streamed and not.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { GATEWAY, MODELS, client, collect, outcome, simulate } from "./stack.mjs";

const PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
const WEATHER = {
  type: "function",
  name: "weather",
  strict: true,
  parameters: {
    type: "object",
    properties: { city: { type: "string" } },
    required: ["city"],
    additionalProperties: false,
  },
};

const deltas = (events, type) => events.filter((e) => e.type === type).map((e) => e.delta).join("");

for (const model of MODELS) {
  test(`${model}: create`, async () => {
    const { data, response } = await client().responses.create({ model, input: "Grüße, 世界 🌍" }).withResponse();
    assert.match(data.output_text, /Grüße, 世界 🌍/);
    assert.equal(data.status, "completed");
    const entry = await outcome(response.headers.get("x-tidegate-request-id"));
    assert.deepEqual([entry.end, entry.total_tokens], ["completed", data.usage.total_tokens]);
    // The provider's id, which its support needs, and Tidegate's own, which is in its log.
    assert.equal(data._request_id, response.headers.get("x-request-id"));
    assert.equal(entry.upstream_request_id, data._request_id);
  });

  test(`${model}: stream`, async () => {
    const { data, response } = await client()
      .responses.create({ model, input: "Hello there", stream: true })
      .withResponse();
    const events = await collect(data);
    const text = deltas(events, "response.output_text.delta");
    const completed = events.find((event) => event.type === "response.completed").response;
    assert.match(text, /Hello there/);
    assert.equal(completed.output[0].content[0].text, text);
    const entry = await outcome(response.headers.get("x-tidegate-request-id"));
    assert.deepEqual([entry.end, entry.response_id], ["completed", completed.id]);
  });

  test(`${model}: the stream helper`, async () => {
    const stream = client().responses.stream({ model, input: "Hello there" });
    let text = "";
    stream.on("response.output_text.delta", (event) => (text += event.delta));
    if (model.startsWith("modelverse/")) {
      // The helper refuses event types that it does not know, such as this provider's `response.done`. Tidegate passes them
      // unchanged all the same.
      await assert.rejects(stream.finalResponse(), /response\.done|unknown|snapshot/i);
    } else {
      assert.equal((await stream.finalResponse()).output_text, text);
    }
    assert.match(text, /Hello there/);
  });

  test(`${model}: a function call and its result`, async () => {
    const question = { role: "user", content: "Weather in Paris?" };
    const first = await client().responses.create({
      model,
      input: [question],
      tools: [WEATHER],
      tool_choice: { type: "function", name: "weather" },
    });
    const call = first.output.find((item) => item.type === "function_call");
    assert.equal(typeof JSON.parse(call.arguments).city, "string");
    const result = { type: "function_call_output", call_id: call.call_id, output: '{"celsius": 21}' };
    const second = await client().responses.create({
      model,
      input: [question, ...first.output, result],
      tools: [WEATHER],
    });
    assert.match(second.output_text, /21/);
  });

  test(`${model}: structured output`, async () => {
    const schema = {
      type: "object",
      properties: { name: { type: "string" }, participants: { type: "array", items: { type: "string" } } },
      required: ["name", "participants"],
      additionalProperties: false,
    };
    const answer = await client().responses.parse({
      model,
      input: "Alice and Bob go to a fair.",
      text: { format: { type: "json_schema", name: "event", strict: true, schema } },
    });
    assert.ok(Array.isArray(answer.output_parsed.participants));
  });

  test(`${model}: images`, async () => {
    const images = [`data:image/png;base64,${PNG}`, "https://example.com/a.png"].map((url) => ({
      type: "input_image",
      image_url: url,
      detail: "auto",
    }));
    const content = [{ type: "input_text", text: "What is this?" }, ...images];
    const answer = await client().responses.create({ model, input: [{ role: "user", content }] });
    assert.match(answer.output_text, /2 images/);
    assert.match(answer.output_text, new RegExp(String(Buffer.from(PNG, "base64").length)));
  });

  test(`${model}: a stream that breaks`, async () => {
    const stream = await client().responses.create({ model, stream: true, ...simulate("cut at=4") });
    const seen = [];
    await assert.rejects(async () => {
      for await (const event of stream) seen.push(event.type);
    }, /terminated/);
    assert.equal(seen.length, 4);
  });

  test(`${model}: a client that stops in mid-stream`, async () => {
    const { data, response } = await client()
      .responses.create({ model, stream: true, ...simulate("tokens=1000 delay=20") })
      .withResponse();
    let seen = 0;
    for await (const _ of data) if (++seen === 8) break;
    const entry = await outcome(response.headers.get("x-tidegate-request-id"));
    assert.equal(entry.end, "client_gone");
  });
}

test("many concurrent requests", async () => {
  const openai = client();
  const questions = Array.from({ length: 50 }, (_, number) => `Question ${number}.`);
  const answers = await Promise.all(questions.map((input) => openai.responses.create({ model: "smart", input })));
  answers.forEach((answer, number) => assert.ok(answer.output_text.includes(questions[number])));
});

test("without /v1 in the base URL", async () => {
  const answer = await client({ baseURL: GATEWAY }).responses.create({ model: "smart", input: "Hello" });
  assert.equal(answer.model, "gpt-5.2-pro");
});

test("models", async () => {
  const openai = client();
  const ids = (await collect(await openai.models.list())).map((model) => model.id);
  assert.deepEqual(ids, ["smart", "team/gpt-4o:fast"]);
  assert.equal((await openai.models.retrieve("team/gpt-4o:fast")).id, "team/gpt-4o:fast");
  await assert.rejects(openai.models.retrieve("nothing-like-it"), OpenAI.NotFoundError);
});
