// The gateway over the pool: it can be stopped and started again with the same data, as in a restart or a crash.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import OpenAI from "openai";

// Every account, by the marks in its answers.
const TITLES = ["DMXAPI", "ModelVerse", "Ace Data Cloud"];
const PLACES = TITLES.flatMap((title) => ["north", "south"].map((name) => `${title}, ${name}`));

// The provider and the account of an answer.
export const where = ({ output_text: text }) => text.match(/^Hello from the simulated (.+), account (\w+)\./).slice(1).join(", ");

export const collect = async (stream) => {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
};

const secret = () => randomBytes(16).toString("hex");

export class Gateway {
  #process;
  #clients = {};

  constructor(name) {
    const folder = `${process.env.WORK}/${name}`;
    mkdirSync(folder);
    this.log = `${folder}/gateway.log`;
    this.config = `${folder}/tidegate.toml`;
    const pool = readFileSync(new URL("pool.toml", import.meta.url), "utf8");
    writeFileSync(this.config, pool.replaceAll("http://SIMULATOR", process.env.SIMULATOR_URL));
    this.keys = Object.fromEntries(["anna", "ben", "carl", "dora", "emil"].map((name) => [name, `tg-${secret()}`]));
    const keys = Object.entries(this.keys).map(([name, key]) => [name.toUpperCase(), key]);
    // The simulator knows an account by the part before the dot.
    const accounts = { NORTH: `north.${secret()}`, SOUTH: `south.${secret()}`, SOUTH_2: `south.${secret()}` };
    this.env = { ...process.env, TIDEGATE_DATA_DIR: `${folder}/data`, ...Object.fromEntries(keys), ...accounts };
  }

  async start() {
    const log = openSync(this.log, "a");
    const before = this.lines().length;
    this.#process = spawn(process.env.BINARY, ["serve", "--config", this.config], { env: this.env, stdio: ["ignore", log, log] });
    closeSync(log);
    let ready;
    for (const end = Date.now() + 10_000; !ready; await sleep(20)) {
      assert.ok(this.#process.exitCode === null && Date.now() < end, readFileSync(this.log, "utf8"));
      ready = this.lines().slice(before).find((line) => line.includes('"listen":"'));
    }
    const { listen, admin_listen: admin } = JSON.parse(ready);
    this.url = `http://${listen}`;
    this.admin = `http://${admin}`;
    this.#clients = {};
  }

  // Ends the gateway by this signal. Returns its exit code, or the signal.
  async end(signal) {
    const over = once(this.#process, "exit");
    this.#process.kill(signal);
    const [code, by] = await over;
    return by ?? code;
  }

  // Waits until the recorded ids are in the data folder, which takes 50 ms if the machine is not busy.
  async written() {
    for (const end = Date.now() + 1000; (await this.metric("tidegate_affinity_waiting")) !== 0; await sleep(10)) {
      assert.ok(Date.now() < end, "a second was not enough");
    }
  }

  async metric(name) {
    const text = await (await fetch(`${this.admin}/metrics`)).text();
    return Number(text.match(new RegExp(`^${name} (\\S+)$`, "m"))[1]);
  }

  lines() {
    return readFileSync(this.log, "utf8").split("\n").slice(0, -1);
  }

  // The log lines of requests that went up.
  requests() {
    return this.lines().filter((line) => line.includes('"attempts":"')).map((line) => JSON.parse(line));
  }

  // The client of one of the people in pool.toml. It makes no retry: each test sees the first answer.
  by(name) {
    const options = { baseURL: `${this.url}/v1`, apiKey: this.keys[name], maxRetries: 0, timeout: 20_000 };
    return (this.#clients[name] ??= new OpenAI(options));
  }

  // An answer of the pool, streamed or not, as a whole.
  async say(name, more) {
    // The simulator must not slow the test down.
    const metadata = more.stream ? { simulate: "delay=0" } : {};
    const answer = await this.by(name).responses.create({ model: "pool", input: "Hello", metadata, ...more });
    if (!more.stream) return answer;
    const events = await collect(answer);
    const { response } = events.find((event) => event.type === "response.completed");
    // The SDK adds this field only to whole answers.
    const text = events.filter((event) => event.type === "response.output_text.delta").map((event) => event.delta).join("");
    return { ...response, output_text: text };
  }

  // Repeats a first turn until it is at the nth account, so that each account has its share. Returns the account and the answer.
  async begin(nth, name, more) {
    const place = PLACES[nth % PLACES.length];
    for (const end = Date.now() + 20_000; Date.now() < end; ) {
      const answer = await this.say(name, more);
      if (where(answer) === place) return [place, answer];
    }
    throw new Error(`the pool never asked ${place}`);
  }
}
