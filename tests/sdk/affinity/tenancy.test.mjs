// State belongs to the key that made it and to its group. For every other key it looks as if it had never existed.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, before, test } from "node:test";
import OpenAI from "openai";
import { Gateway, collect, where } from "./gateway.mjs";

const SEALED = { include: ["reasoning.encrypted_content"], reasoning: { effort: "low" } };

const gateway = new Gateway("tenancy-node");
before(() => gateway.start());
after(async () => assert.equal(await gateway.end("SIGTERM"), 0));

const user = (text) => ({ role: "user", content: text });
const message = (text) => ({ type: "message", ...user(text) });
const reference = (id) => ({ type: "item_reference", id });

// An id of the same form that never existed.
const invented = (known) => {
  const [kind, digits] = known.split("_");
  return `${kind}_${randomBytes(digits.length).toString("hex").slice(0, digits.length)}`;
};
const nobodys = (ids) => Object.fromEntries(Object.entries(ids).map(([name, known]) => [name, invented(known)]));

// Creates state of every kind with one key, and returns the ids.
async function made(name) {
  const calls = gateway.by(name);
  const response = await gateway.say(name, { input: `What ${name} said.`, ...SEALED });
  const conversation = await calls.conversations.create({ items: [message(`Of ${name}.`)] });
  const background = await gateway.say(name, { background: true, metadata: { simulate: "polls=1000000" } });
  const [item] = (await calls.conversations.items.list(conversation.id)).data;
  const [thought, said] = response.output;
  const all = { response, background, conversation, item, message: said, thought };
  return Object.fromEntries(Object.entries(all).map(([what, { id }]) => [what, id]));
}

// Every call with an id in its path. The calls that delete everything come last.
const byId = ({ responses, conversations }, ids) => {
  const inside = { conversation_id: ids.conversation };
  return {
    retrieve: () => responses.retrieve(ids.response),
    "retrieve, included": () => responses.retrieve(ids.response, { include: ["reasoning.encrypted_content"] }),
    resume: () => responses.retrieve(ids.response, { stream: true, starting_after: 2 }),
    cancel: () => responses.cancel(ids.background),
    "input items": () => collect(responses.inputItems.list(ids.response)),
    "input items, paged": () => collect(responses.inputItems.list(ids.response, { limit: 1, order: "asc" })),
    conversation: () => conversations.retrieve(ids.conversation),
    update: () => conversations.update(ids.conversation, { metadata: {} }),
    items: () => collect(conversations.items.list(ids.conversation)),
    "add items": () => conversations.items.create(ids.conversation, { items: [message("more")] }),
    item: () => conversations.items.retrieve(ids.item, inside),
    "delete item": () => conversations.items.delete(ids.item, inside),
    "delete conversation": () => conversations.delete(ids.conversation),
    delete: () => responses.delete(ids.response),
  };
};

// Every place of a request that could name an id.
const byReference = ({ responses, conversations }, ids) => {
  const references = {
    previous: { previous_response_id: ids.response },
    conversation: { conversation: ids.conversation },
    "conversation, an object": { conversation: { id: ids.conversation } },
    reference: { input: [reference(ids.message), user("And?")] },
    "reference, short": { input: [{ id: ids.message }, user("And?")] },
    "reference into a conversation": { input: [reference(ids.item), user("And?")] },
    "reasoning that is not sealed": { input: [{ type: "reasoning", id: ids.thought, summary: [] }, user("And?")] },
  };
  const calls = {};
  for (const [name, more] of Object.entries(references)) {
    const body = { model: "pool", input: "And?", ...more };
    calls[`create: ${name}`] = () => responses.create(body);
    calls[`stream: ${name}`] = async () => collect(await responses.create({ ...body, stream: true }));
    calls[`background: ${name}`] = () => responses.create({ ...body, background: true });
    calls[`count: ${name}`] = () => responses.inputTokens.count(body);
    if (!more.conversation) calls[`compact: ${name}`] = () => responses.compact(body);
    if (more.input) calls[`items: ${name}`] = () => conversations.create({ items: more.input.slice(0, 1) });
  }
  return calls;
};

// The parts that differ between two equal answers.
const OF_ITS_OWN = ["x-request-id", "x-tidegate-request-id", "date"];

// The errors of calls that are all refused, as the client sees them.
async function errors(calls) {
  const found = {};
  for (const [name, call] of Object.entries(calls)) {
    const error = await call().then(
      () => assert.fail(`${name} was not refused`),
      (error) => error,
    );
    assert.ok(error instanceof OpenAI.APIError, `${name}: ${error.stack}`);
    const headers = [...error.headers].filter(([header]) => !OF_ITS_OWN.includes(header));
    const { status, message, error: body, code, param, type } = error;
    found[name] = { kind: error.constructor.name, status, message, body, code, param, type, headers };
  }
  return found;
}

for (const [what, calls] of Object.entries({ byId, byReference })) {
  test(`${what}: another owner's state looks as if it never existed`, async () => {
    // The other key owns state, too. Otherwise it would be refused because it never made anything.
    await made("dora");
    const theirs = await made("anna");
    const client = gateway.by("dora");
    const refused = await errors(calls(client, theirs));
    assert.deepEqual(refused, await errors(calls(client, nobodys(theirs))));
    for (const [name, { kind, status, body, code }] of Object.entries(refused)) {
      const expected = name.includes("previous") ? ["BadRequestError", 400] : ["NotFoundError", 404];
      assert.deepEqual([kind, status], expected, name);
      if (status === 400) assert.equal(code, "previous_response_not_found");
      assert.ok(!Object.values(theirs).some((id) => JSON.stringify(body).includes(id)), name);
    }
    // All of the state still exists.
    const { responses, conversations } = gateway.by("anna");
    assert.equal((await responses.retrieve(theirs.response)).id, theirs.response);
    assert.equal((await responses.retrieve(theirs.background)).status, "in_progress");
    const items = await collect(conversations.items.list(theirs.conversation));
    assert.deepEqual(items.map((item) => item.id), [theirs.item]);
  });
}

test("keys of one group share state", async () => {
  for (const [maker, other] of [["anna", "ben"], ["ben", "anna"]]) {
    const ids = await made(maker);
    await Promise.all(Object.values(byReference(gateway.by(other), ids)).map((call) => call()));
    for (const [name, call] of Object.entries(byId(gateway.by(other), ids))) {
      // The provider refuses it because the response was not made as a stream: so the request arrived there.
      if (name === "resume") await assert.rejects(call, /created with `stream`/);
      else await call();
    }
    await assert.rejects(gateway.by(maker).responses.retrieve(ids.response), OpenAI.NotFoundError);
  }
});

test("encrypted content of any key goes to its account", async () => {
  // Keys rotate, and a session continues with the next key. The content can only be decrypted by its account, and a client that
  // has it has read it.
  for (let nth = 0; nth < 6; nth++) {
    const [place, answer] = await gateway.begin(nth, "anna", { store: false, ...SEALED });
    const input = [...answer.output, user("And?")];
    const next = await gateway.say("dora", { input, store: false, ...SEALED });
    assert.equal(where(next), place);
    assert.ok(next.output_text.includes("I opened 1 sealed item"));
  }
});
