// The official OpenAI SDK for Node against the gateway. Environment: see runner.mjs.

import assert from "node:assert/strict";
import { BASE_URL, BODY_LIMIT, DIRECT, KEY, LIMITED_KEY, PREFIX, SPEECH, TEXT, atOnce, collect, gateway, limited, load, main, raises, rateLimits, test, toldToWait, versionOf, waitsAsTold, wire } from "./runner.mjs";

const { default: OpenAI, toFile } = load("openai");

function client(options = {}) {
  wire.clear();
  return new OpenAI({ apiKey: KEY, baseURL: `${BASE_URL}/v1`, maxRetries: 0, timeout: 20_000, fetch: wire.fetch, ...options });
}

const messages = [{ role: "user", content: "Say hello." }];
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [{ type: "function", function: { name: "weather", parameters } }];
const say = (model = "gpt-test", body = {}, options = {}, c = client()) =>
  c.chat.completions.create({ model, messages, ...body }, options);

function statusError(error, status, code, type, param) {
  assert.equal(error.status, status);
  if (DIRECT) return;
  assert.ok(error.requestID, "no request id");
  assert.ok(error.message && error.type, "no message or type");
  assert.match(error.headers.get("content-type"), /^application\/json/);
  assert.equal(error.headers.get("request-id"), error.requestID);
  if (code) assert.equal(error.code, code);
  if (type) assert.equal(error.type, type);
  if (param) assert.equal(error.param, param);
}

// Chat

test("chat", async () => {
  const answer = await say();
  assert.equal(answer.object, "chat.completion");
  assert.equal(answer.model, "gpt-test");
  assert.equal(answer.choices[0].message.content, TEXT);
  assert.equal(answer.usage.total_tokens, 18);
  assert.ok(answer._request_id, "no x-request-id");
});

test("chat stream", async () => {
  const chunks = await collect(say("gpt-test", { stream: true }));
  assert.ok(chunks.every((chunk) => chunk.choices[0] && chunk.model === "gpt-test"), "a chunk without a choice");
  assert.equal(chunks.map((chunk) => chunk.choices[0].delta.content ?? "").join(""), TEXT);
  assert.equal(chunks.at(-1).choices[0].finish_reason, "stop");
  const { headers } = wire.responses.at(-1);
  assert.match(headers.get("content-type"), /^text\/event-stream/);
  if (!DIRECT) assert.ok(headers.get("x-request-id"), "no x-request-id on a stream");
});

test("chat stream usage", async () => {
  const chunks = await collect(say("gpt-test", { stream: true, stream_options: { include_usage: true } }));
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.equal(chunks.at(-1).usage.total_tokens, 18);
  assert.ok(chunks.slice(0, -1).every((chunk) => chunk.choices.length === 1));
});

test("chat stream helper", async () => {
  const final = await client().chat.completions.stream({ model: "gpt-test", messages }).finalChatCompletion();
  assert.equal(final.choices[0].message.content, TEXT);
});

test("chat stream at once", async () => {
  const times = [];
  for await (const _ of await say(PREFIX + "slow", { stream: true })) times.push(performance.now());
  assert.ok(times.at(-1) - times[0] > 300, "the stream was held back");
});

test("chat stream left by the client", async () => {
  const c = client();
  for await (const _ of await say(PREFIX + "slow", { stream: true }, {}, c)) break;
  assert.equal((await say("gpt-test", {}, {}, c)).choices[0].message.content, TEXT);
});

test("chat tools", async () => {
  const [choice] = (await say("gpt-test", { tools })).choices;
  assert.equal(choice.finish_reason, "tool_calls");
  assert.equal(choice.message.tool_calls[0].function.name, "weather");
  assert.deepEqual(JSON.parse(choice.message.tool_calls[0].function.arguments), { city: "Paris" });
});

test("chat tools stream", async () => {
  const final = await client().chat.completions.stream({ model: "gpt-test", messages, tools }).finalChatCompletion();
  const call = final.choices[0].message.tool_calls[0];
  assert.equal(call.function.name, "weather");
  assert.deepEqual(JSON.parse(call.function.arguments), { city: "Paris" });
});

gateway("renamed model", async () => {
  assert.equal((await say("renamed")).model, "renamed");
  const chunks = await collect(say("renamed", { stream: true }));
  assert.ok(chunks.every((chunk) => chunk.model === "renamed"));
});

// Other operations

test("embeddings, base64 by default", async () => {
  const answer = await client().embeddings.create({ model: "embed-test", input: ["a", "b"] });
  assert.equal(JSON.parse(wire.requests.at(-1).body).encoding_format, "base64");
  assert.deepEqual(answer.data.map((entry) => Array.from(entry.embedding)), [[0.5, -0.25, 0.125, 0], [0.5, -0.25, 0.125, 1]]);
});

test("embeddings, float", async () => {
  const answer = await client().embeddings.create({ model: "embed-test", input: "a", encoding_format: "float" });
  assert.deepEqual(answer.data[0].embedding, [0.5, -0.25, 0.125, 0]);
});

test("images generate", async () => {
  const answer = await client().images.generate({ model: "image-test", prompt: "a gate" });
  assert.equal(Buffer.from(answer.data[0].b64_json, "base64").toString(), "image 0");
});

test("images edit", async () => {
  const image = await toFile(Buffer.alloc(600, 1), "gate.png", { type: "image/png" });
  const answer = await client().images.edit({ image, prompt: "a gate", model: "image-test" });
  assert.equal(Buffer.from(answer.data[0].b64_json, "base64").toString(), "image 0");
});

test("audio speech", async () => {
  const answer = await client().audio.speech.create({ model: "speech-test", voice: "alloy", input: "hello" });
  assert.equal(answer.headers.get("content-type"), "audio/mpeg");
  assert.ok(SPEECH.equals(Buffer.from(await answer.arrayBuffer())), "the bytes differ");
});

test("audio transcriptions, file before model", async () => {
  const file = await toFile(Buffer.alloc(256_000, 7), "voice.mp3", { type: "audio/mpeg" });
  const answer = await client().audio.transcriptions.create({ file, model: "transcribe-test" });
  assert.equal(answer.text, `${TEXT} 256000 bytes.`);
  const { body } = wire.requests.at(-1);
  assert.ok(body instanceof FormData, `sent as ${body?.constructor?.name}`);
  assert.deepEqual([...body.keys()], ["file", "model"]);
});

test("audio transcriptions stream", async () => {
  const file = await toFile(Buffer.from("abc"), "v.mp3", { type: "audio/mpeg" });
  const events = await collect(client().audio.transcriptions.create({ file, model: "transcribe-test", stream: true }));
  assert.deepEqual(events.map((event) => event.type), ["transcript.text.delta", "transcript.text.done"]);
});

test("responses", async () => {
  const answer = await client().responses.create({ model: "gpt-test", input: "hi" });
  assert.equal(answer.output_text, TEXT);
  assert.equal(answer.usage.total_tokens, 18);
});

test("responses stream", async () => {
  const events = await collect(client().responses.create({ model: "gpt-test", input: "hi", stream: true }));
  const kinds = events.map((event) => event.type);
  assert.equal(kinds[0], "response.created");
  assert.ok(kinds.includes("response.output_item.done"));
  assert.equal(kinds.at(-1), "response.completed");
  assert.deepEqual(events.map((event) => event.sequence_number), events.map((_, i) => i));
});

test("moderations", async () => {
  assert.equal((await client().moderations.create({ model: "gpt-test", input: "hi" })).results[0].flagged, false);
});

test("models list", async () => {
  const names = [];
  for await (const model of client().models.list()) {
    names.push(model.id);
    assert.ok(names.length < 1000, "endless paging");
  }
  assert.ok(names.includes("gpt-test"), String(names));
  assert.equal(wire.requests.length, 1);
  if (!DIRECT) assert.ok(!names.includes("forbidden-model"));
});

test("models retrieve", async () => {
  assert.equal((await client().models.retrieve("gpt-test")).id, "gpt-test");
});

// Errors

gateway("400: missing model", async () => {
  const error = await raises(OpenAI.BadRequestError, () => client().post("/chat/completions", { body: { messages } }));
  statusError(error, 400, "missing_required_parameter", "invalid_request_error", "model");
});

test("400 of the provider", async () => {
  const error = await raises(OpenAI.BadRequestError, () => say(PREFIX + "status-400"));
  statusError(error, 400);
  assert.match(error.message, /scripted status 400/);
});

gateway("401: missing key", async () => {
  const error = await raises(OpenAI.AuthenticationError, () => say("gpt-test", {}, { headers: { Authorization: null } }));
  assert.equal(wire.requests.at(-1).headers.get("authorization"), null);
  statusError(error, 401, "missing_api_key", "invalid_request_error");
});

gateway("401: wrong key", async () => {
  const c = client({ apiKey: "sk-" + "0".repeat(43) });
  statusError(await raises(OpenAI.AuthenticationError, () => say("gpt-test", {}, {}, c)), 401, "invalid_api_key", "invalid_request_error");
});

gateway("403: model not allowed", async () => {
  const error = await raises(OpenAI.PermissionDeniedError, () => say("forbidden-model"));
  statusError(error, 403, "model_not_allowed", "invalid_request_error", "model");
});

gateway("404: unknown model", async () => {
  const error = await raises(OpenAI.NotFoundError, () => say("no-such-model"));
  statusError(error, 404, "model_not_found", "invalid_request_error", "model");
});

gateway("413: body too large", async () => {
  const large = [{ role: "user", content: "x".repeat(BODY_LIMIT * 2) }];
  const error = await raises(OpenAI.APIError, () => client().chat.completions.create({ model: "gpt-test", messages: large }));
  statusError(error, 413, "request_too_large", "invalid_request_error");
});

test("429 of the provider", async () => {
  const error = await raises(OpenAI.RateLimitError, () => say(PREFIX + "status-429"));
  statusError(error, 429, "upstream_rate_limited", "rate_limit_error");
  const wait = Number(error.headers.get("retry-after"));
  assert.ok(wait >= 1 && wait <= 7, `Retry-After: ${wait}`);
});

test("500 of the provider", async () => {
  const error = await raises(OpenAI.InternalServerError, () => say(PREFIX + "status-500"));
  statusError(error, DIRECT ? 500 : 502, "upstream_error", "upstream_error");
});

gateway("503: preview, not retried", async () => {
  const c = client({ maxRetries: 2 });
  const error = await raises(OpenAI.InternalServerError, () => say("preview-model", {}, {}, c));
  statusError(error, 503, "model_preview", "model_unavailable");
  assert.equal(error.headers.get("x-should-retry"), "false");
  assert.equal(wire.requests.length, 1);
});

gateway("504: the provider stalls", async () => {
  statusError(await raises(OpenAI.InternalServerError, () => say(PREFIX + "stall")), 504, "upstream_timeout", "upstream_error");
});

gateway("error in mid-stream", async () => {
  for (const model of ["cut", "cut-clean"]) {
    const chunks = [];
    const error = await raises(OpenAI.APIError, async () => {
      for await (const chunk of await say(PREFIX + model, { stream: true })) chunks.push(chunk);
    });
    assert.ok(!(error instanceof OpenAI.APIConnectionError), `${model}: a connection error`);
    assert.ok(error.error?.message, `${model}: an empty error`);
    assert.ok(chunks.length > 0, `${model}: nothing before the error`);
  }
});

gateway("error in mid-stream, responses", async () => {
  const events = await collect(client().responses.create({ model: PREFIX + "cut", input: "hi", stream: true }));
  assert.equal(events.at(-1).type, "response.failed");
});

// Forwarding

test("retry count is forwarded", async () => {
  // The provider answers 500 until a request says that it is a retry.
  const answer = await say(PREFIX + "flaky", {}, {}, client({ maxRetries: 2 }));
  assert.equal(answer.choices[0].message.content, TEXT);
  assert.deepEqual(wire.requests.map((request) => request.headers.get("x-stainless-retry-count")), ["0", "1"]);
});

test("echo", async () => {
  const answer = await say(PREFIX + "echo", { unknown: { field: [1, 2.5, null] } }, { query: { trace: "1" } });
  const seen = JSON.parse(answer.choices[0].message.content);
  assert.deepEqual(seen.body.unknown, { field: [1, 2.5, null] });
  assert.ok(seen.path.endsWith("/chat/completions?trace=1"), seen.path);
  if (!DIRECT) assert.ok(!answer.choices[0].message.content.includes(KEY), "the client's key reached the provider");
});

// Rate limits

const patient = () => client({ apiKey: LIMITED_KEY, maxRetries: 2 });

function limits(headers) {
  rateLimits(headers, { limit: "x-ratelimit-limit", remaining: "x-ratelimit-remaining", reset: "x-ratelimit-reset" });
  const names = { limit: "x-ratelimit-limit-requests", remaining: "x-ratelimit-remaining-requests", reset: "x-ratelimit-reset-requests" };
  rateLimits(headers, names, duration);
}

/** The seconds of `6m0s`, `1s` or `120ms`. */
function duration(text) {
  const parts = /^(?=.)(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?$/.exec(text);
  assert.ok(parts, `not a duration: ${text}`);
  const [hours, minutes, seconds, milliseconds] = parts.slice(1).map((part) => Number(part ?? 0));
  return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000;
}

limited("rate limit: waits as told", async () => {
  const c = patient();
  await waitsAsTold(async () => assert.equal((await say("gpt-test", {}, {}, c)).choices[0].message.content, TEXT));
  assert.deepEqual(wire.requests.map((request) => request.headers.get("x-stainless-retry-count")), ["0", "1"]);
});

limited("rate limit: throws", async () => {
  const c = patient();
  const impatient = () => say("gpt-test", {}, { maxRetries: 0 }, c).catch((error) => error);
  const error = await atOnce(() => say("gpt-test", {}, {}, c), impatient);
  assert.ok(error instanceof OpenAI.RateLimitError, `not refused: ${error.message ?? "an answer"}`);
  statusError(error, 429, "rate_limit_exceeded", "rate_limit_error");
  toldToWait(error.headers);
  limits(error.headers);
});

limited("rate limit: headers", async () => {
  assert.equal((await say("gpt-test", {}, {}, patient())).choices[0].message.content, TEXT);
  limits(wire.responses.at(-1).headers);
  const chunks = await collect(say("gpt-test", { stream: true }, {}, patient()));
  assert.equal(chunks.map((chunk) => chunk.choices[0].delta.content ?? "").join(""), TEXT);
  assert.match(wire.responses.at(-1).headers.get("content-type"), /^text\/event-stream/);
  limits(wire.responses.at(-1).headers);
});

await main(`openai-node ${versionOf("openai")}`);
