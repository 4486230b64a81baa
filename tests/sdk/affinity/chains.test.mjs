// An answer leaves state in one of six accounts: the next request that needs the state goes to that account.
//
// All stories run at once, so that their turns are interleaved over all accounts. A story waits for the others at each `yield`.
// When all of them wait, Tidegate is stopped or killed, and started again.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import OpenAI from "openai";
import { Gateway, collect, where } from "./gateway.mjs";

const SEALED = { store: false, include: ["reasoning.encrypted_content"], reasoning: { effort: "low" } };

const gateway = new Gateway("chains-node");
before(() => gateway.start());
after(async () => assert.equal(await gateway.end("SIGTERM"), 0));

const user = (text) => ({ role: "user", content: text });
const reference = (id) => ({ type: "item_reference", id });
const plural = (count) => (count === 1 ? "" : "s");
const unknown = (call) => assert.rejects(call, OpenAI.NotFoundError);

// Checks that the provider knows these turns and got the last one.
const remembers = (answer, turns) => {
  const known = turns.slice(0, -1);
  const words = ` I remember ${known.length} turn${plural(known.length)}: ${known.join("; ")}. You said: ${turns.at(-1)}`;
  assert.ok(answer.output_text.includes(words), `${answer.output_text}\nis to have\n${words}`);
};

// Five turns, each with the id of the turn before.
async function* chain(nth) {
  const stream = Math.floor(nth / 6) % 2 === 1;
  // In the other half, two keys of one group alternate.
  const name = (turn) => (nth < 12 || turn % 2 === 0 ? "anna" : "ben");
  const turns = [1, 2, 3, 4, 5].map((turn) => `chain ${nth} turn ${turn}`);
  let [place, answer] = await gateway.begin(nth, name(0), { input: turns[0], stream });
  for (let turn = 1; turn < 5; turn++) {
    if (turn % 2 === 0) yield;
    answer = await gateway.say(name(turn), { input: turns[turn], previous_response_id: answer.id, stream });
    assert.equal(where(answer), place);
    remembers(answer, turns.slice(0, turn + 1));
  }
  const calls = gateway.by("ben").responses;
  // The SDK reads page after page by itself.
  const items = await collect(calls.inputItems.list(answer.id, { limit: 2, order: "asc" }));
  assert.deepEqual(items.filter((item) => item.role === "user").map((item) => item.content[0].text), turns);
  assert.equal((await calls.retrieve(answer.id)).output_text, answer.output_text);
  const counted = await calls.inputTokens.count({ model: "pool", input: "Hello", previous_response_id: answer.id });
  assert.ok(counted.input_tokens > answer.usage.input_tokens);
  await calls.delete(answer.id);
  await unknown(calls.retrieve(answer.id));
}

// Five turns that the provider does not store: the client sends the encrypted reasoning of all earlier turns.
async function* stateless(nth) {
  const input = [user(`stateless ${nth}`)];
  let [place, answer] = await gateway.begin(nth, "anna", { input, ...SEALED });
  for (let turn = 1; turn < 5; turn++) {
    if (turn % 2 === 0) yield;
    input.push(...answer.output, user(`turn ${turn + 1}`));
    answer = await gateway.say("anna", { input, stream: turn % 2 === 1, ...SEALED });
    assert.equal(where(answer), place);
    const words = ` I opened ${turn} sealed item${plural(turn)}, the last of turn ${turn}. You said: turn ${turn + 1}`;
    assert.ok(answer.output_text.includes(words), answer.output_text);
  }
}

// A background response that is polled until it is complete, and then continued.
async function* polled(nth) {
  const input = `background ${nth}`;
  const background = { background: true, metadata: { simulate: "polls=4" } };
  const made = await gateway.by("anna").responses.create({ model: "pool", input, ...background });
  assert.equal(made.status, "queued");
  for (let look = 1; look <= 4; look++) {
    const { status } = await gateway.by("ben").responses.retrieve(made.id);
    // Tidegate polls the response too, after some seconds: on a slow machine it is complete before the fourth look.
    assert.ok(status === "completed" || (status === "in_progress" && look < 4), status);
    if (look < 3) yield;
  }
  const place = where(await gateway.by("anna").responses.retrieve(made.id));
  const answer = await gateway.say("anna", { input: "And?", previous_response_id: made.id });
  assert.equal(where(answer), place);
  remembers(answer, [input, "And?"]);
}

// A background response that is cancelled.
async function* cancelled(nth) {
  const endless = { background: true, metadata: { simulate: "polls=1000000" } };
  const made = await gateway.by("anna").responses.create({ model: "pool", input: `endless ${nth}`, ...endless });
  yield;
  assert.equal((await gateway.by("anna").responses.cancel(made.id)).status, "cancelled");
  yield;
  const calls = gateway.by("anna").responses;
  assert.equal((await calls.retrieve(made.id)).status, "cancelled");
  await calls.delete(made.id);
  await unknown(calls.cancel(made.id));
}

// A background stream that breaks, or that its client leaves, and that is resumed.
async function* resumed(nth) {
  const breaks = nth % 2 === 0;
  const more = { stream: true, background: true, metadata: breaks ? { simulate: "cut at=8" } : {} };
  const input = `resumed ${nth}`;
  const seen = [];
  const events = await gateway.by("anna").responses.create({ model: "pool", input, ...more });
  const read = async () => {
    for await (const event of events) if (seen.push(event) === 8 && !breaks) break;
  };
  await (breaks ? assert.rejects(read()) : read());
  assert.equal(seen.length, 8);
  yield;
  const { id } = seen[0].response;
  const from = { stream: true, starting_after: seen.at(-1).sequence_number };
  const everything = [...seen, ...(await collect(await gateway.by("anna").responses.retrieve(id, from)))];
  assert.deepEqual(everything.map((event) => event.sequence_number), everything.map((_, number) => number));
  const { response } = everything.find((event) => event.type === "response.completed");
  const text = everything.filter((event) => event.type === "response.output_text.delta").map((event) => event.delta).join("");
  assert.equal(response.output.at(-1).content[0].text, text);
  yield;
  const answer = await gateway.say("ben", { input: "And?", previous_response_id: id });
  assert.equal(where(answer), where({ output_text: text }));
  remembers(answer, [input, "And?"]);
}

// The next turn starts while the answer that it continues is still being streamed.
async function* early(nth) {
  const turns = [`early ${nth}`, "And?"];
  const slow = { stream: true, metadata: { simulate: "delay=20" } };
  const events = await gateway.by("anna").responses.create({ model: "pool", input: turns[0], ...slow });
  let answer;
  let text = "";
  for await (const event of events) {
    answer ??= await gateway.say("ben", { input: turns[1], previous_response_id: event.response.id });
    if (event.type === "response.output_text.done") text = event.text;
  }
  remembers(answer, turns);
  assert.equal(where(answer), where({ output_text: text }));
  yield;
  yield;
  const last = await gateway.say("anna", { input: "More?", previous_response_id: answer.id });
  remembers(last, [...turns, "More?"]);
}

// The turns of a conversation, which is created by a request without a model.
async function* conversation(nth) {
  const [maker, title] = nth % 2 ? ["carl", "ModelVerse"] : ["anna", "Ace Data Cloud"];
  const turns = [`conversation ${nth}`, "word 1", "word 2", "word 3"];
  const first = { type: "message", role: "user", content: turns[0] };
  const { id } = await gateway.by(maker).conversations.create({ metadata: { a: "b" }, items: [first] });
  const places = new Set();
  for (const [turn, name] of [[1, "anna"], [2, "ben"], [3, "anna"]]) {
    const given = turn === 2 ? { id } : id;
    const answer = await gateway.say(name, { input: turns[turn], conversation: given, stream: turn === 2 });
    places.add(where(answer));
    remembers(answer, turns.slice(0, turn + 1));
    if (turn < 3) yield;
  }
  assert.equal(places.size, 1);
  const [place] = places;
  assert.ok(place.startsWith(title), place);
  const { conversations } = gateway.by("ben");
  const items = await collect(conversations.items.list(id, { limit: 2, order: "asc" }));
  assert.deepEqual(items.map((item) => item.role), ["user", ...Array(3).fill(["user", "assistant"]).flat()]);
  const added = await conversations.items.create(id, { items: [{ type: "message", role: "user", content: "more" }] });
  const item = await conversations.items.retrieve(added.first_id, { conversation_id: id });
  assert.equal(item.content[0].text, "more");
  for (const known of [items.at(-1).id, added.first_id]) {
    assert.equal(where(await gateway.say("anna", { input: [reference(known), user("And?")] })), place);
  }
  assert.equal((await conversations.items.delete(added.first_id, { conversation_id: id })).id, id);
  await unknown(conversations.items.retrieve(added.first_id, { conversation_id: id }));
  assert.deepEqual((await conversations.update(id, { metadata: { c: "d" } })).metadata, { c: "d" });
  assert.deepEqual((await conversations.retrieve(id)).metadata, { c: "d" });
  assert.equal((await conversations.delete(id)).deleted, true);
  await unknown(conversations.retrieve(id));
  await unknown(gateway.say("anna", { conversation: id }));
}

// Two turns that are compacted into one encrypted item, which the next turn continues.
async function* compacted(nth) {
  let [place, answer] = await gateway.begin(nth, "anna", { input: `compacted ${nth}` });
  answer = await gateway.say("anna", { input: "word 2", previous_response_id: answer.id });
  const { responses } = gateway.by("anna");
  const small = await responses.compact({ model: "pool", input: [user("word 3")], previous_response_id: answer.id });
  assert.deepEqual(small.output.map((item) => item.type), ["message", "message", "message", "compaction"]);
  const input = [...small.output];
  for (const turn of [4, 5]) {
    yield;
    input.push(user(`word ${turn}`));
    answer = await gateway.say(nth % 2 ? "ben" : "anna", { input });
    assert.equal(where(answer), place);
    assert.ok(answer.output_text.includes(` I opened 1 sealed item, the last of turn 3. You said: word ${turn}`));
    input.push(...answer.output);
  }
  const smaller = await gateway.by("anna").responses.compact({ model: "pool", input });
  assert.equal(smaller.output.at(-1).type, "compaction");
}

// Single items of an answer, by their ids: as a reference, as the short form of a reference, and as reasoning without its
// encrypted content.
async function* referred(nth) {
  const [place, answer] = await gateway.begin(nth, "anna", { input: `referred ${nth}`, reasoning: { effort: "low" } });
  const [thought, message] = answer.output;
  for (const name of ["anna", "ben"]) {
    yield;
    for (const item of [reference(message.id), { id: message.id }, { type: "reasoning", id: thought.id, summary: [] }]) {
      const answer = await gateway.say(name, { input: [item, user("And?")] });
      assert.equal(where(answer), place);
      assert.ok(answer.output_text.endsWith("You said: And?"));
    }
  }
}

// Runs all stories at once. Whenever all of them wait, the next function of `between` runs.
async function play(stories, ...between) {
  const failures = [];
  for (const happens of [...between, null]) {
    const names = Object.keys(stories);
    const results = await Promise.allSettled(names.map((name) => stories[name].next()));
    results.forEach(({ status, reason }, at) => {
      if (status === "rejected") {
        failures.push(`${names[at]}: ${reason.stack}`);
        delete stories[names[at]];
      }
    });
    await happens?.();
  }
  assert.equal(failures.length, 0, failures.join("\n"));
}

test("chains", async () => {
  const restarted = async () => {
    assert.equal(await gateway.end("SIGTERM"), 0);
    await gateway.start();
  };
  const crashed = async () => {
    // The promise: no id is lost whose answer is older than the time of a write.
    await gateway.written();
    assert.equal(await gateway.end("SIGKILL"), "SIGKILL");
    await gateway.start();
  };
  const stories = {};
  const tell = (count, ...all) => {
    for (const told of all) for (let nth = 0; nth < count; nth++) stories[`${told.name} ${nth}`] = told(nth);
  };
  tell(24, chain);
  tell(12, stateless, polled, cancelled, resumed, early, conversation, compacted, referred);
  await play(stories, restarted, crashed);

  // Only the one account got requests, by any of its credentials.
  const asked = gateway.requests().map(({ attempts }) => (attempts.includes(";") ? attempts : attempts.split(" ")[0]));
  const credentials = ["dmxapi", "modelverse", "acedata"].flatMap((upstream) => [`${upstream}/NORTH`, `${upstream}/SOUTH`]);
  assert.deepEqual([...new Set(asked)].sort(), [...credentials, "modelverse/SOUTH_2"].sort());
});
