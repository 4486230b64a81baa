// The exception that a program gets, and its fields.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { MODELS, client, outcome, simulate } from "./stack.mjs";

// The error of a request.
async function refused(more, options) {
  const error = await client(options)
    .responses.create({ model: "smart", input: "Hello", ...more })
    .then(() => assert.fail("no error"), (error) => error);
  assert.ok(error instanceof OpenAI.APIError, String(error));
  return error;
}

const OURS = [
  ["a wrong key", {}, { apiKey: "tg-other" }, 401, "invalid_api_key", OpenAI.AuthenticationError],
  ["an unknown model", { model: "nothing-like-it" }, {}, 404, "model_not_found", OpenAI.NotFoundError],
  ["a model of a wrong type", { model: 7 }, {}, 400, "invalid_model", OpenAI.BadRequestError],
  ["a body that is too large", { input: "x".repeat(2 << 20) }, {}, 413, "request_too_large", OpenAI.APIError],
  ["our credential", { model: "refusing/gpt-4o" }, {}, 502, "upstream_auth", OpenAI.InternalServerError],
  ["an upstream that is away", { model: "away/gpt-4o" }, {}, 502, "upstream_unreachable", OpenAI.InternalServerError],
  ["a redirect", simulate("redirect"), {}, 502, "upstream_bad_answer", OpenAI.InternalServerError],
  ["a page", simulate("html=200"), {}, 502, "upstream_bad_answer", OpenAI.InternalServerError],
];
for (const [name, more, options, status, code, kind] of OURS) {
  test(`ours: ${name}`, async () => {
    const error = await refused(more, options);
    assert.ok(error instanceof kind);
    assert.deepEqual([error.status, error.code], [status, code]);
    assert.deepEqual(Object.keys(error.error).sort(), ["code", "message", "param", "type"]);
    assert.equal(error.requestID, error.headers.get("x-request-id"));
    assert.equal((await outcome(error.headers.get("x-tidegate-request-id"))).problem, code);
  });
}

const THEIRS = [
  [400, OpenAI.BadRequestError],
  [404, OpenAI.NotFoundError],
  [409, OpenAI.ConflictError],
  [422, OpenAI.UnprocessableEntityError],
  [429, OpenAI.RateLimitError],
  [500, OpenAI.InternalServerError],
  [503, OpenAI.InternalServerError],
];
for (const model of MODELS) {
  for (const [status, kind] of THEIRS) {
    test(`${model}: ${status}`, async () => {
      const error = await refused({ model, ...simulate(`error=${status} retry-after=7`) });
      assert.ok(error instanceof kind);
      assert.equal(error.status, status);
      assert.equal(error.headers.get("retry-after"), "7");
      assert.ok(error.requestID);
    });
  }
}
