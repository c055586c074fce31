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
/** The gateway keeps rate limits: their headers are expected. */
export const RATE_LIMITS = Boolean(env.RATE_LIMITS);
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
export const test = (name, run) => tests.push({ name, run });
/** A test of what only the gateway does. */
export const gateway = (name, run) => tests.push({ name, run, gateway: true });

/** What went over the wire since `clear`: pass `wire.fetch` to the SDK. */
export const wire = {
  requests: [],
  responses: [],
  clear() {
    this.requests = [];
    this.responses = [];
  },
  async fetch(url, init) {
    wire.requests.push({ url: new URL(url), headers: new Headers(init?.headers), body: init?.body });
    const response = await fetch(url, init);
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

export async function main(title) {
  let failures = 0;
  console.log(`# ${title}, node ${process.version}, ${BASE_URL}${DIRECT ? " (direct)" : ""}`);
  for (const { name, run, gateway } of tests) {
    if (!name.includes(ONLY)) continue;
    if (gateway && DIRECT) {
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
