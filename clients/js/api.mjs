// Points the client under test at the server by means of a plugin, and provides helpers that convert the
// client's responses and errors to a common form.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { join } from 'node:path';

// The package is installed in the state directory, not next to this file.
const require = createRequire(join(process.env.CLIENTS_STATE, 'package.json'));

// This variable would override the token that a check sets.
delete process.env.FASTLY_API_TOKEN;

export const Fastly = require('fastly');
export const BASE = process.env.STEADFAST_URL.replace(/\/+$/, '');
export const TOKEN = process.env.STEADFAST_TOKEN;
export const MIB = 1024 * 1024;

const HOSTED = 'https://api.fastly.com';

/** A plugin that sends every request to the server under test instead of the hosted service. */
function redirect(request) {
  request.url = request.url.replace(HOSTED, BASE);
  return request;
}

/** Points a client object at the server. */
export function point(apiClient, token) {
  apiClient.plugins = [redirect];
  if (token !== undefined) {
    apiClient.authenticate(token);
  }
  return apiClient;
}

/** Creates a separate client object, with the given token or without a token. */
export function freshClient(token) {
  return point(new Fastly.ApiClient(), token);
}

// Most checks use the shared instance, as the package's documentation does.
point(Fastly.ApiClient.instance, TOKEN);
export const stores = new Fastly.KvStoreApi();
export const items = new Fastly.KvStoreItemApi();

/** Awaits a ...WithHttpInfo call. Returns an error response instead of throwing it. */
export async function outcome(call) {
  try {
    const { data, response } = await call;
    return { status: response.status, data, headers: response.headers, body: response.body };
  } catch (failure) {
    if (failure?.status === undefined) {
      throw failure?.error ?? failure;
    }
    const { status, body, response } = failure;
    return { status, body, headers: response.headers, text: response.text };
  }
}

/** Asserts that a call fails with this status and, except for 412, with a JSON error body. */
export async function refused(call, status) {
  const answer = await outcome(call);
  const body = Buffer.isBuffer(answer.body) ? answer.body.toString() : answer.text;
  assert.equal(answer.status, status, `status (body: ${body})`);
  if (status === 412) {
    assert.equal(answer.headers['content-length'], '0', 'a 412 has an empty body');
    assert.equal(answer.headers['content-type'], undefined, 'a 412 has no Content-Type');
    return undefined;
  }
  assert.equal(answer.headers['content-type'], 'application/json');
  const problem = Buffer.isBuffer(answer.body) ? JSON.parse(body) : answer.body;
  assert.equal(typeof problem.msg, 'string', 'msg');
  assert.equal(typeof problem.title, 'string', 'title');
  assert.equal(typeof problem.detail, 'string', 'detail');
  assert.equal(problem.status, status, 'status in the body');
  assert.ok(!('errors' in problem), 'the error body has no errors field');
  return problem;
}

/** Asserts that a call fails with a 4xx. */
export async function refusedSomehow(call) {
  const { status } = await outcome(call);
  assert.ok(status >= 400 && status < 500, `expected a 4xx, got ${status}`);
}

/** Creates a store and returns its id. */
export async function newStore(name, location) {
  const answer = await stores.kvStoreCreate({ location, kv_store_request_create: { name } });
  return answer.id;
}

export function put(store_id, key, body, options = {}) {
  return items.kvStoreUpsertItemWithHttpInfo({ store_id, key, body, ...options });
}

export function get(store_id, key) {
  return items.kvStoreGetItemWithHttpInfo({ store_id, key });
}

export function del(store_id, key, options = {}) {
  return items.kvStoreDeleteItemWithHttpInfo({ store_id, key, ...options });
}

/** Returns the value as a Buffer; fails if the item does not exist. */
export async function valueOf(store_id, key) {
  const { data } = await get(store_id, key);
  assert.ok(Buffer.isBuffer(data), 'the client returns a value as a Buffer');
  return data;
}

export async function generationOf(store_id, key) {
  const { response } = await get(store_id, key);
  const text = response.headers.generation;
  assert.match(text ?? '', /^[1-9][0-9]*$/, 'Generation is a decimal number');
  const number = Number(text);
  assert.ok(Number.isSafeInteger(number), 'the generation is a safe integer in JavaScript');
  return number;
}

/** Returns all keys of a store, and the number of keys on each page. */
export async function allKeys(store_id, options = {}) {
  const keys = [];
  const pages = [];
  let cursor;
  do {
    const { data, meta } = await items.kvStoreListItemKeys({ store_id, cursor, ...options });
    keys.push(...data);
    pages.push(data.length);
    assert.ok(pages.length < 1000, 'paging terminates');
    cursor = meta.next_cursor;
    assert.ok(cursor === undefined || cursor.length > 0, 'next_cursor is absent or not empty');
  } while (cursor !== undefined);
  return { keys, pages };
}

/** Calls `work` for each entry, with up to `width` calls at a time. */
export async function eachOf(list, work, width = 16) {
  let next = 0;
  const worker = async () => {
    while (next < list.length) {
      const index = next;
      next += 1;
      await work(list[index], index);
    }
  };
  await Promise.all(Array.from({ length: width }, worker));
}

export function byBytes(left, right) {
  return Buffer.compare(Buffer.from(left), Buffer.from(right));
}

export function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
