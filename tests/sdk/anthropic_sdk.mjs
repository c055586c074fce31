// The official Anthropic SDK for TypeScript against the gateway. Environment: see runner.mjs.

import assert from "node:assert/strict";
import { BASE_URL, BODY_LIMIT, DIRECT, KEY, LIMITED_KEY, PREFIX, TEXT, atOnce, collect, gateway, limited, load, main, raises, rateLimits, test, toldToWait, versionOf, waitsAsTold, wire } from "./runner.mjs";

const { default: Anthropic } = load("@anthropic-ai/sdk");
const ROOT = DIRECT ? BASE_URL : `${BASE_URL}/anthropic`;

function client(options = {}) {
  wire.clear();
  return new Anthropic({ apiKey: KEY, baseURL: ROOT, maxRetries: 0, timeout: 20_000, fetch: wire.fetch, ...options });
}

const ask = { max_tokens: 64, messages: [{ role: "user", content: "Say hello." }] };
const input_schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [{ name: "weather", input_schema }];
const say = (model = "claude-test", body = {}, options = {}, c = client()) => c.messages.create({ model, ...ask, ...body }, options);

function statusError(error, status, type, code, passed = false) {
  assert.equal(error.status, status);
  if (DIRECT) return;
  assert.ok(error.requestID, "no request id");
  assert.match(error.headers.get("content-type"), /^application\/json/);
  assert.equal(error.headers.get("x-request-id"), error.requestID);
  assert.equal(error.error.type, "error");
  // A provider's own error keeps its body.
  if (!passed) assert.equal(error.error.request_id, error.requestID);
  assert.ok(error.error.error.message, "no message");
  if (type) assert.equal(error.error.error.type, type);
  if (code) assert.equal(error.error.error.details.error_code, code);
}

// Messages

test("messages", async () => {
  const answer = await say();
  assert.equal(answer.model, "claude-test");
  assert.equal(answer.content[0].text, TEXT);
  assert.deepEqual([answer.usage.input_tokens, answer.usage.output_tokens], [11, 7]);
  assert.ok(answer._request_id, "no request-id");
});

gateway("messages at the root", async () => {
  assert.equal((await say("claude-test", {}, {}, client({ baseURL: BASE_URL }))).content[0].text, TEXT);
});

test("both credentials", async () => {
  const bearer = client({ apiKey: null, authToken: KEY });
  assert.equal((await say("claude-test", {}, {}, bearer)).content[0].text, TEXT);
  const old = { headers: { "X-Api-Key": KEY, Authorization: null } };
  assert.equal((await say("claude-test", {}, old)).content[0].text, TEXT);
  const { headers } = wire.requests.at(-1);
  assert.deepEqual([headers.get("authorization"), headers.get("x-api-key")], [null, KEY]);
});

test("messages stream", async () => {
  const events = await collect(say("claude-test", { stream: true }));
  const kinds = events.map((event) => event.type);
  assert.deepEqual([kinds[0], kinds.at(-2), kinds.at(-1)], ["message_start", "message_delta", "message_stop"]);
  assert.equal(events.map((event) => event.delta?.text ?? "").join(""), TEXT);
  assert.equal(events.at(-2).usage.output_tokens, 7);
});

test("messages stream helper", async () => {
  const final = await client().messages.stream({ model: "claude-test", ...ask }).finalMessage();
  assert.equal(final.content[0].text, TEXT);
  assert.deepEqual([final.usage.input_tokens, final.usage.output_tokens, final.stop_reason], [11, 7, "end_turn"]);
});

test("messages stream at once", async () => {
  const times = [];
  for await (const _ of await say(PREFIX + "slow", { stream: true })) times.push(performance.now());
  assert.ok(times.at(-1) - times[0] > 300, "the stream was held back");
});

test("messages tools", async () => {
  const answer = await say("claude-test", { tools });
  assert.equal(answer.stop_reason, "tool_use");
  assert.deepEqual([answer.content[0].name, answer.content[0].input], ["weather", { city: "Paris" }]);
});

test("messages tools stream", async () => {
  const final = await client().messages.stream({ model: "claude-test", ...ask, tools }).finalMessage();
  assert.deepEqual([final.content[0].name, final.content[0].input], ["weather", { city: "Paris" }]);
});

test("count tokens", async () => {
  const { messages } = ask;
  assert.equal((await client().messages.countTokens({ model: "claude-test", messages })).input_tokens, 11);
});

gateway("renamed model", async () => {
  const model = PREFIX + "renamed";
  assert.equal((await say(model)).model, model);
  assert.equal((await collect(say(model, { stream: true })))[0].message.model, model);
});

// Forwarding

test("beta and version are forwarded", async () => {
  const betas = ["first-2025-01-01", "second-2025-02-02"];
  const answer = await client().beta.messages.create({ model: PREFIX + "echo", ...ask, betas });
  const seen = JSON.parse(answer.content[0].text);
  const headers = Object.fromEntries(seen.headers.map(([name, value]) => [name.toLowerCase(), value]));
  const sent = wire.requests.at(-1);
  assert.equal(seen.path.split("?")[1] ?? "", sent.url.search.replace("?", ""));
  assert.match(sent.headers.get("anthropic-beta"), /first-2025-01-01/);
  for (const name of ["anthropic-beta", "anthropic-version"]) assert.equal(headers[name], sent.headers.get(name), name);
  if (!DIRECT) assert.ok(!answer.content[0].text.includes(KEY), "the client's key reached the provider");
});

test("beta query is forwarded", async () => {
  const answer = await say(PREFIX + "echo", {}, { query: { beta: "true" } });
  const seen = JSON.parse(answer.content[0].text);
  assert.ok(seen.path.endsWith("/v1/messages?beta=true"), seen.path);
});

test("retry count is forwarded", async () => {
  // The provider answers 500 until a request says that it is a retry.
  const answer = await say(PREFIX + "flaky", {}, {}, client({ maxRetries: 2 }));
  assert.equal(answer.content[0].text, TEXT);
  assert.deepEqual(wire.requests.map((request) => request.headers.get("x-stainless-retry-count")), ["0", "1"]);
});

// Models

test("models list", async () => {
  for (const query of [{}, { limit: 1000 }]) {
    const names = [];
    for await (const model of client().models.list(query)) {
      assert.ok(model.display_name && model.created_at && model.type === "model", JSON.stringify(model));
      names.push(model.id);
      assert.ok(names.length < 1000 && wire.requests.length < 5, "endless paging");
    }
    assert.ok(names.includes("claude-test"), String(names));
    assert.equal(wire.requests.length, 1);
    if (!DIRECT) assert.ok(!names.includes("forbidden-model"));
  }
});

test("models retrieve", async () => {
  assert.equal((await client().models.retrieve("claude-test")).id, "claude-test");
});

// Errors

gateway("400: missing model", async () => {
  const error = await raises(Anthropic.BadRequestError, () => client().post("/v1/messages", { body: ask }));
  statusError(error, 400, "invalid_request_error", "missing_required_parameter");
});

test("400 of the provider", async () => {
  const error = await raises(Anthropic.BadRequestError, () => say(PREFIX + "status-400"));
  statusError(error, 400, "invalid_request_error", undefined, true);
  assert.match(error.message, /scripted status 400/);
});

gateway("401: missing key", async () => {
  const none = { headers: { Authorization: null, "X-Api-Key": null } };
  const error = await raises(Anthropic.AuthenticationError, () => say("claude-test", {}, none));
  statusError(error, 401, "authentication_error", "missing_api_key");
});

gateway("401: wrong key", async () => {
  const c = client({ apiKey: "sk-" + "0".repeat(43) });
  const error = await raises(Anthropic.AuthenticationError, () => say("claude-test", {}, {}, c));
  statusError(error, 401, "authentication_error", "invalid_api_key");
});

gateway("403: model not allowed", async () => {
  const error = await raises(Anthropic.PermissionDeniedError, () => say("forbidden-model"));
  statusError(error, 403, "permission_error", "model_not_allowed");
});

gateway("404: unknown model", async () => {
  const error = await raises(Anthropic.NotFoundError, () => say("no-such-model"));
  statusError(error, 404, "not_found_error", "model_not_found");
});

gateway("413: body too large", async () => {
  const large = [{ role: "user", content: "x".repeat(BODY_LIMIT * 2) }];
  const error = await raises(Anthropic.APIError, () => say("claude-test", { messages: large }));
  statusError(error, 413, "request_too_large", "request_too_large");
});

test("429 of the provider", async () => {
  const error = await raises(Anthropic.RateLimitError, () => say(PREFIX + "status-429"));
  statusError(error, 429, "rate_limit_error", "upstream_rate_limited");
  const wait = Number(error.headers.get("retry-after"));
  assert.ok(wait >= 1 && wait <= 7, `Retry-After: ${wait}`);
});

test("500 of the provider", async () => {
  const error = await raises(Anthropic.InternalServerError, () => say(PREFIX + "status-500"));
  statusError(error, DIRECT ? 500 : 502, "api_error", "upstream_error");
});

gateway("503: preview, not retried", async () => {
  const c = client({ maxRetries: 2 });
  const error = await raises(Anthropic.InternalServerError, () => say("preview-model", {}, {}, c));
  statusError(error, 503, "api_error", "model_preview");
  assert.equal(error.headers.get("x-should-retry"), "false");
  assert.equal(wire.requests.length, 1);
});

gateway("504: the provider stalls", async () => {
  statusError(await raises(Anthropic.InternalServerError, () => say(PREFIX + "stall")), 504, "timeout_error", "upstream_timeout");
});

gateway("error in mid-stream", async () => {
  for (const model of ["cut", "cut-clean"]) {
    const events = [];
    const error = await raises(Anthropic.APIError, async () => {
      for await (const event of await say(PREFIX + model, { stream: true })) events.push(event);
    });
    assert.ok(!(error instanceof Anthropic.APIConnectionError), `${model}: a connection error`);
    assert.match(JSON.stringify(error.error) ?? error.message, /"message"/, `${model}: an empty error`);
    assert.ok(events.length > 0, `${model}: nothing before the error`);
    const helper = () => client().messages.stream({ model: PREFIX + model, ...ask }).finalMessage();
    await raises(Anthropic.AnthropicError, helper);
  }
});

// Rate limits

const patient = (options = {}) => client({ apiKey: LIMITED_KEY, maxRetries: 2, ...options });

function limits(headers) {
  rateLimits(headers, { limit: "x-ratelimit-limit", remaining: "x-ratelimit-remaining", reset: "x-ratelimit-reset" });
  const name = "anthropic-ratelimit-requests";
  rateLimits(headers, { limit: `${name}-limit`, remaining: `${name}-remaining`, reset: `${name}-reset` });
}

limited("rate limit: waits as told", async () => {
  const c = patient();
  await waitsAsTold(async () => assert.equal((await say("claude-test", {}, {}, c)).content[0].text, TEXT));
  assert.deepEqual(wire.requests.map((request) => request.headers.get("x-stainless-retry-count")), ["0", "1"]);
});

limited("rate limit: throws", async () => {
  const c = patient();
  const impatient = () => say("claude-test", {}, { maxRetries: 0 }, c).catch((error) => error);
  const error = await atOnce(() => say("claude-test", {}, {}, c), impatient);
  assert.ok(error instanceof Anthropic.RateLimitError, `not refused: ${error.message ?? "an answer"}`);
  statusError(error, 429, "rate_limit_error", "rate_limit_exceeded");
  toldToWait(error.headers);
  limits(error.headers);
});

limited("rate limit: headers", async () => {
  assert.equal((await say("claude-test", {}, {}, patient())).content[0].text, TEXT);
  limits(wire.responses.at(-1).headers);
  const events = await collect(say("claude-test", { stream: true }, {}, patient()));
  assert.equal(events.map((event) => event.delta?.text ?? "").join(""), TEXT);
  assert.match(wire.responses.at(-1).headers.get("content-type"), /^text\/event-stream/);
  limits(wire.responses.at(-1).headers);
  await say("claude-test", {}, {}, patient({ baseURL: BASE_URL })); // the mount of the other SDK
  limits(wire.responses.at(-1).headers);
});

await main(`anthropic-typescript ${versionOf("@anthropic-ai/sdk")}`);
