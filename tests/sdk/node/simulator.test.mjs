// The simulator itself, without a gateway: the state that it keeps, by the SDK's own calls, and for one account only.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { collect } from "./stack.mjs";

const PROVIDERS = { "/dmxapi/v1": "gpt-5-mini", "/modelverse/v1": "gpt-4o", "/acedata/openai": "gpt-4.1" };

for (const [base, model] of Object.entries(PROVIDERS)) {
  const account = (name) =>
    new OpenAI({ baseURL: process.env.SIMULATOR_URL + base, apiKey: `${name}.secret`, maxRetries: 0, timeout: 20_000 });
  const ours = account("ours");
  const theirs = account("theirs");
  const create = (more, client = ours) => client.responses.create({ model, input: "Hello", ...more });

  test(`${base}: a chain and its items`, async () => {
    let previous;
    for (let turn = 1; turn <= 5; turn++) {
      previous = await create({ input: `word ${turn}`, previous_response_id: previous?.id });
    }
    assert.match(previous.output_text, /account ours\. I remember 4 turns: word 1; word 2; word 3; word 4\./);
    await assert.rejects(create({ previous_response_id: previous.id }, theirs), OpenAI.BadRequestError);
    const items = await collect(ours.responses.inputItems.list(previous.id, { limit: 2, order: "asc" }));
    assert.deepEqual(items.map((item) => item.role), [...Array(4).fill(["user", "assistant"]).flat(), "user"]);
    await ours.responses.delete(previous.id);
    await assert.rejects(ours.responses.retrieve(previous.id), OpenAI.NotFoundError);
  });

  test(`${base}: in the background`, async () => {
    const made = await create({ background: true });
    const statuses = [made.status];
    for (let look = 0; look < 2; look++) statuses.push((await ours.responses.retrieve(made.id)).status);
    assert.deepEqual(statuses, ["queued", "in_progress", "completed"]);
    const endless = await create({ background: true, metadata: { simulate: "polls=1000000" } });
    assert.equal((await ours.responses.cancel(endless.id)).status, "cancelled");
  });

  test(`${base}: a broken stream goes on`, async () => {
    const seen = [];
    const stream = await create({ stream: true, background: true, metadata: { simulate: "cut at=8" } });
    await assert.rejects(async () => {
      for await (const event of stream) seen.push(event);
    });
    const from = { stream: true, starting_after: seen.at(-1).sequence_number };
    const rest = await collect(await ours.responses.retrieve(seen[0].response.id, from));
    assert.deepEqual([...seen, ...rest].map((event) => event.sequence_number), [...seen, ...rest].map((_, n) => n));
    assert.ok(rest.some((event) => event.type === "response.completed"));
  });

  test(`${base}: a conversation`, async () => {
    const { id } = await ours.conversations.create({ metadata: { a: "b" } });
    for (const input of ["one", "two"]) await create({ input, conversation: id });
    assert.match((await create({ conversation: { id } })).output_text, /I remember 2 turns: one; two\./);
    const items = await collect(ours.conversations.items.list(id, { limit: 4 }));
    assert.equal(items.length, 6);
    await ours.conversations.items.delete(items[0].id, { conversation_id: id });
    await assert.rejects(theirs.conversations.retrieve(id), OpenAI.NotFoundError);
    assert.equal((await ours.conversations.delete(id)).deleted, true);
  });

  test(`${base}: sealed reasoning, compaction, counting`, async () => {
    const ask = { store: false, include: ["reasoning.encrypted_content"] };
    const input = [{ role: "user", content: "one" }];
    input.push(...(await create({ ...ask, input })).output, { role: "user", content: "two" });
    assert.match((await create({ ...ask, input })).output_text, /I opened 1 sealed item, the last of turn 1\./);
    await assert.rejects(create({ ...ask, input }, theirs), (error) => error.code === "invalid_encrypted_content");
    const compacted = await ours.responses.compact({ model, input });
    const counted = await ours.responses.inputTokens.count({ model, input });
    assert.equal(compacted.usage.input_tokens, counted.input_tokens);
    const after = await create({ input: [...compacted.output, { role: "user", content: "three" }] });
    assert.match(after.output_text, /I opened 1 sealed item, the last of turn 2\./);
  });

  test(`${base}: a chat and an embedding`, async () => {
    const ask = { model, messages: [{ role: "user", content: "Hello" }] };
    const whole = await ours.chat.completions.create(ask);
    const chunks = await collect(
      await ours.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } }),
    );
    const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
    assert.equal(text, whole.choices[0].message.content);
    assert.deepEqual(chunks.at(-1).usage, whole.usage);
    const { data } = await ours.embeddings.create({ model: "text-embedding-3-small", input: "one" });
    assert.equal(data[0].embedding.length, 16);
  });
}
