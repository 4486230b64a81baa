// The processes that `run` started, and clients for them.
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import OpenAI from "openai";

export const GATEWAY = process.env.GATEWAY_URL;

// One model of each personality of the simulator, addressed directly, so that the test decides which one answers.
export const MODELS = ["dmxapi/gpt-5-mini", "dmxapi/gpt-5.2-pro", "modelverse/gpt-4o", "acedata/gpt-4.1"];

// No retry: each test sees the first answer.
export const client = (more = {}) =>
  new OpenAI({ baseURL: `${GATEWAY}/v1`, apiKey: process.env.TIDEGATE_KEY, maxRetries: 0, timeout: 20_000, ...more });

// Arguments of `create` that ask the simulator for this behaviour (docs/simulator.md).
export const simulate = (words) => ({ input: "Hello", metadata: { simulate: words } });

// All elements of an iterable.
export const collect = async (stream) => {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
};

// The gateway's log line about a request, which it writes at the end of the request.
export async function outcome(requestId, within = 2000) {
  for (const end = Date.now() + within; Date.now() < end; await sleep(10)) {
    for (const line of readFileSync(process.env.GATEWAY_LOG, "utf8").split("\n")) {
      if (line.includes(requestId) && JSON.parse(line).id === requestId) return JSON.parse(line);
    }
  }
  throw new Error(`no log line about ${requestId} within ${within} ms`);
}
