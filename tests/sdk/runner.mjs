// What the SDK scripts for Node share: settings from the environment, and a runner of plain functions.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const env = process.env;
/** The gateway's address; KEY is a key that it knows. */
export const BASE_URL = (env.BASE_URL ?? "http://127.0.0.1:8080").replace(/\/$/, "");
export const KEY = env.KEY ?? "sk-test";
/** Straight to the scripted provider, without a gateway: tests of the gateway's own doing are left out. */
export const DIRECT = Boolean(env.DIRECT);
/** Before the names of the scenario models, for a gateway that has them twice, once per provider protocol. */
export const PREFIX = env.SCENARIO_PREFIX ?? "";
/** `limits.body` of the gateway under test. */
export const BODY_LIMIT = Number(env.BODY_LIMIT ?? 1 << 20);
/** A second key, of a plan of 60 requests a minute and a burst of one: one request a second. */
export const LIMITED_KEY = env.LIMITED_KEY ?? "";
const ONLY = env.ONLY ?? "";

// What tests/support/provider answers.
export const TEXT = "Hello from the provider.";
export const SPEECH = Buffer.from(Array.from({ length: 8192 }, (_, i) => (i * 7 + Math.floor(i / 256)) % 256));

// The SDKs would take keys and addresses from here.
for (const name of Object.keys(env)) if (/^(OPENAI|ANTHROPIC)_/.test(name)) delete env[name];

const here = dirname(fileURLToPath(import.meta.url));
const installed = resolve(env.TOLLGATE_SDK_DIR ?? join(here, "../../target/sdk"), "node");
/** Loads a package from where setup.sh has put it. */
export const load = createRequire(join(installed, "package.json"));
export const versionOf = (name) => load(`./node_modules/${name}/package.json`).version;

const tests = [];
export const test = (name, run) => tests.push({ name, run, applies: true });
/** A test of what only the gateway does. */
export const gateway = (name, run) => tests.push({ name, run, applies: !DIRECT });
/** A test of what the gateway does with LIMITED_KEY. */
export const limited = (name, run) => tests.push({ name, run, applies: Boolean(LIMITED_KEY) && !DIRECT });

/** What went over the wire since `clear`, and when: pass `wire.fetch` to the SDK. */
export const wire = {
  requests: [],
  responses: [],
  sent: [],
  received: [],
  clear() {
    this.requests = [];
    this.responses = [];
    this.sent = [];
    this.received = [];
  },
  async fetch(url, init) {
    wire.requests.push({ url: new URL(url), headers: new Headers(init?.headers), body: init?.body });
    wire.sent.push(performance.now());
    const response = await fetch(url, init);
    wire.received.push(performance.now());
    wire.responses.push(response);
    return response;
  },
};

/** Asserts that the call fails with this kind of error, and answers the error. */
export async function raises(kind, run) {
  let error;
  try {
    await run();
  } catch (caught) {
    error = caught;
  }
  assert.ok(error, `expected ${kind.name}, nothing was thrown`);
  assert.ok(error instanceof kind, `expected ${kind.name}, got ${error.constructor.name}: ${error.message}`);
  return error;
}

export async function collect(stream) {
  const items = [];
  for await (const item of await stream) items.push(item);
  return items;
}

// Rate limits

/** What `second` gives right after `first`: within the second in which LIMITED_KEY has no other request. */
export async function atOnce(first, second) {
  for (let nth = 0; nth < 5; nth += 1) {
    await first();
    const taken = wire.sent.at(-1);
    wire.clear();
    const result = await second();
    // On a machine so slow that a second has passed, the other request was there by right.
    if (wire.responses[0].status === 429 || wire.received[0] - taken < 1000) return result;
  }
  throw new Error("never two calls within a second");
}

/** `call` succeeds twice in a row, for the SDK waits in between as long as the refusal says. */
export async function waitsAsTold(call) {
  await atOnce(call, call);
  // An SDK that waits by its own measure (half a second) is refused twice.
  assert.deepEqual(wire.responses.map((response) => response.status), [429, 200]);
  const told = toldToWait(wire.responses[0].headers);
  const waited = wire.sent[1] - wire.received[0];
  assert.ok(waited >= told - 10, `told to wait ${told} ms, waited ${waited}`); // timers may be early
}

/** The milliseconds that a refusal for the rate says, in both ways of saying it. */
export function toldToWait(headers) {
  const wait = integer(headers, "retry-after-ms");
  assert.ok(wait > 0 && wait <= 1000, `retry-after-ms: ${wait}`);
  assert.equal(headers.get("retry-after"), "1");
  return wait;
}

/** The three headers of one dialect; `readReset` gives how many seconds off a reset is. */
export function rateLimits(headers, { limit, remaining, reset }, readReset = secondsAhead) {
  assert.equal(integer(headers, limit), 60, limit);
  assert.ok(integer(headers, remaining) <= 1, `${remaining}: ${headers.get(remaining)}`);
  const ahead = readReset(headers.get(reset) ?? "");
  // Full again within a second. Wide enough for any machine, and too narrow for a mistaken unit or zone.
  assert.ok(ahead > -60 && ahead < 60, `${reset}: ${headers.get(reset)}`);
}

function integer(headers, name) {
  assert.match(headers.get(name) ?? "", /^\d+$/, name);
  return Number(headers.get(name));
}

/** How far off a time of RFC 3339 is, which is ISO 8601 too. */
function secondsAhead(text) {
  assert.match(text, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/);
  return (Date.parse(text) - Date.now()) / 1000;
}

export async function main(title) {
  let failures = 0;
  console.log(`# ${title}, node ${process.version}, ${BASE_URL}${DIRECT ? " (direct)" : ""}`);
  for (const { name, run, applies } of tests) {
    if (!name.includes(ONLY)) continue;
    if (!applies) {
      console.log(`skip ${name}`);
      continue;
    }
    const start = performance.now();
    try {
      await run();
      console.log(`ok ${name} (${((performance.now() - start) / 1000).toFixed(2)} s)`);
    } catch (error) {
      failures += 1;
      const line = /_sdk\.mjs:(\d+)/.exec(error.stack ?? "")?.[1];
      console.log(`FAIL ${name}: line ${line}: ${String(error?.message ?? error).replaceAll("\n", " ")}`);
    }
  }
  console.log(`# ${failures} failed`);
  // Not left to the event loop: a stalled connection would keep the process.
  process.exit(failures ? 1 : 0);
}
