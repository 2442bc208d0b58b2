// Runs @fastly/compute-js-static-publish against Steadfast: publishes a site repeatedly, and manages it
// with the commands of the publisher. Verifies the content of the store with fetch. Requires an empty
// server. Started by ./run, which also installs the package.

import assert from 'node:assert/strict';
import { brotliDecompressSync, gunzipSync } from 'node:zlib';
import { check, finish, section } from '../js/checks.mjs';
import {
  CHUNK, PUBLISH_ID, STORE_NAME, assetKey, assetKeys, files, makeApp, publisher,
  publisherByEnvMust, publisherMust, sha256, typeOf, variantsOf, writeFile,
} from './site.mjs';

const BASE = process.env.STEADFAST_URL.replace(/\/+$/, '');
const STORES = '/resources/stores/kv';
const OTHER_STORES = 1001;
const ORPHANS = 1100;

let keysPath;

/** Calls the API without a client library. */
function api(path, { headers, ...init } = {}) {
  const key = { 'Fastly-Key': process.env.STEADFAST_TOKEN };
  return fetch(BASE + path, { ...init, headers: { ...key, ...headers } });
}

async function newStore(name) {
  const body = JSON.stringify({ name });
  const response = await api(STORES, { method: 'POST', body });
  assert.equal(response.status, 201);
  return (await response.json()).id;
}

/** Returns the item in the store, or null if it does not exist. */
async function item(key) {
  const response = await api(`${keysPath}/${encodeURIComponent(key)}`);
  const bytes = Buffer.from(await response.arrayBuffer());
  if (response.status === 404) {
    return null;
  }
  assert.equal(response.status, 200, key);
  const metadata = response.headers.get('metadata');
  return { bytes, metadata, generation: response.headers.get('generation') };
}

async function jsonItem(key) {
  const found = await item(key);
  assert.ok(found, `${key} is in the store`);
  return { ...found, value: JSON.parse(found.bytes.toString()) };
}

async function allKeys() {
  const keys = [];
  const query = new URLSearchParams();
  do {
    const response = await api(`${keysPath}?${query}`);
    const { data, meta } = await response.json();
    keys.push(...data);
    query.set('cursor', meta.next_cursor ?? '');
  } while (query.get('cursor') !== '');
  return keys;
}

/** Returns the sorted keys of the requests with this method, which must all have this status. */
function keysOf(exchanges, method, status) {
  const chosen = exchanges.filter((one) => one.method === method && one.path.includes('/keys/'));
  for (const one of chosen) {
    assert.equal(one.status, status, `${method} ${one.path}`);
  }
  const names = chosen.map(({ path }) => decodeURIComponent(path.slice(keysPath.length + 1)));
  assert.equal(new Set(names).size, names.length, `no key has more than one ${method}`);
  return names.sort();
}

const CHUNK_KEYS = [`${assetKey(files.get('/downloads/huge.bin'))}_1`];
const collectionKeys = (name) => [`${PUBLISH_ID}_index_${name}`, `${PUBLISH_ID}_settings_${name}`];
const sorted = (...lists) => lists.flat().sort();

async function verifyFile(path, bytes) {
  const first = await item(assetKey(bytes));
  assert.ok(first, `${path} is in the store`);
  const rest = bytes.length > CHUNK ? (await item(`${assetKey(bytes)}_1`)).bytes : Buffer.alloc(0);
  const stored = Buffer.concat([first.bytes, rest]);
  assert.equal(sha256(stored), sha256(bytes), path);
  const metadata = JSON.parse(first.metadata);
  assert.equal(metadata.size, bytes.length);
  assert.equal(metadata.hash, sha256(bytes));
  assert.equal(metadata.numChunks, bytes.length > CHUNK ? 2 : undefined);
}

async function verifyVariant(path, bytes, variant) {
  const stored = await item(assetKey(bytes, variant));
  assert.ok(stored, `${path} is in the store as ${variant}`);
  const unpack = variant === 'br' ? brotliDecompressSync : gunzipSync;
  assert.deepEqual(unpack(stored.bytes), bytes, `${path} as ${variant}`);
  const metadata = JSON.parse(stored.metadata);
  assert.equal(metadata.contentEncoding, variant);
  assert.equal(metadata.size, stored.bytes.length);
  assert.equal(metadata.hash, sha256(stored.bytes));
}

async function verifySite() {
  for (const [path, bytes] of files) {
    await verifyFile(path, bytes);
    for (const variant of variantsOf(path).slice(1)) {
      await verifyVariant(path, bytes, variant);
    }
  }
}

async function verifyIndex(collection) {
  const { value } = await jsonItem(`${PUBLISH_ID}_index_${collection}`);
  assert.deepEqual(Object.keys(value).sort(), [...files.keys()].sort());
  for (const [path, bytes] of files) {
    assert.equal(value[path].key, `sha256:${sha256(bytes)}`, path);
    assert.equal(value[path].size, bytes.length, path);
    assert.equal(value[path].contentType, typeOf(path), path);
  }
}

async function publishChecks() {
  let generations;

  await check('the first publish checks each asset with HEAD and uploads all of them', async () => {
    const { exchanges } = await publisherMust('publish-content');
    const assets = assetKeys([...files]);
    assert.deepEqual(keysOf(exchanges, 'HEAD', 404), assets);
    const uploads = sorted(assets, CHUNK_KEYS, collectionKeys('live'));
    assert.deepEqual(keysOf(exchanges, 'PUT', 200), uploads);
    assert.deepEqual(await allKeys(), uploads);
    const lists = exchanges.filter(({ path }) => path.split('?')[0] === STORES);
    assert.equal(lists.length, 2, 'the store was found on the second page of the stores');
    assert.match(lists[1].path, /[?&]cursor=/);
  });

  await check('every file is in the store byte for byte, with its metadata', verifySite);

  await check('the index lists every file with its hash, size and type', async () => {
    await verifyIndex('live');
    const { metadata } = await jsonItem(`${PUBLISH_ID}_index_live`);
    assert.ok(Math.abs(JSON.parse(metadata).publishedTime - Date.now() / 1000) < 600);
  });

  await check('the settings are in the store, without metadata', async () => {
    const { value, metadata } = await jsonItem(`${PUBLISH_ID}_settings_live`);
    assert.equal(value.notFoundPageFile, '/404.html');
    assert.equal(metadata, '');
    generations = new Map();
    for (const key of await allKeys()) {
      generations.set(key, (await item(key)).generation);
    }
  });

  await check('the second publish finds all assets with HEAD and uploads only the index and the settings', async () => {
    const { exchanges } = await publisherMust('publish-content');
    assert.deepEqual(keysOf(exchanges, 'HEAD', 200), assetKeys([...files]));
    assert.deepEqual(keysOf(exchanges, 'PUT', 200), sorted(collectionKeys('live')));
    const live = new Set(collectionKeys('live'));
    for (const [key, before] of generations) {
      const { generation } = await item(key);
      assert.equal(generation !== before, live.has(key), `whether ${key} was rewritten`);
    }
    await verifySite();
    await verifyIndex('live');
  });

  await check('steadfast env redirects the publisher without redirect.mjs', async () => {
    const before = await item(`${PUBLISH_ID}_index_live`);
    await publisherByEnvMust('publish-content');
    const after = await item(`${PUBLISH_ID}_index_live`);
    assert.notEqual(after.generation, before.generation);
    await verifySite();
    await verifyIndex('live');
  });

  await check('a third publish uploads only one changed and one new file', async () => {
    const changed = [
      ['/index.html', Buffer.from('<!doctype html><title>Home, changed</title>\n'.repeat(30))],
      ['/neue Seite.html', Buffer.from('<!doctype html><title>New</title>\n'.repeat(30))],
    ];
    for (const [path, bytes] of changed) {
      writeFile(path, bytes);
    }
    const { exchanges } = await publisherMust('publish-content');
    const uploads = sorted(assetKeys(changed), collectionKeys('live'));
    assert.deepEqual(keysOf(exchanges, 'PUT', 200), uploads);
    await verifySite();
    await verifyIndex('live');
  });

  await check('publishing with --kv-overwrite uploads everything again', async () => {
    const { exchanges } = await publisherMust('publish-content', '--kv-overwrite');
    assert.deepEqual(keysOf(exchanges, 'HEAD', 200), []);
    const uploads = sorted(assetKeys([...files]), CHUNK_KEYS, collectionKeys('live'));
    assert.deepEqual(keysOf(exchanges, 'PUT', 200), uploads);
    await verifySite();
  });
}

async function collectionChecks() {
  const inAnHour = (seconds) => Math.abs(seconds - (Date.now() / 1000 + 3600)) < 600;
  const metadataOf = async (name) => {
    const { metadata } = await jsonItem(`${PUBLISH_ID}_index_${name}`);
    return JSON.parse(metadata);
  };

  await check('a preview is published with an expiration and shares the assets', async () => {
    const options = ['--collection-name=preview 1', '--expires-in=1h'];
    const { exchanges } = await publisherMust('publish-content', ...options);
    assert.deepEqual(keysOf(exchanges, 'PUT', 200), sorted(collectionKeys('preview 1')));
    await verifyIndex('preview 1');
    assert.ok(inAnHour((await metadataOf('preview 1')).expirationTime));
  });

  await check('collections list prints both collections, marks the default one and prints the expiration', async () => {
    const { output } = await publisherMust('collections', 'list');
    assert.match(output, /^ {2}live \*DEFAULT\*$/m);
    assert.match(output, /^ {2}preview 1$/m);
    assert.equal(output.match(/Expiration : not set/g)?.length, 1);
    assert.equal(output.match(/Published {2}: \w+/g)?.length, 2);
  });

  await check('collections promote copies one collection to another', async () => {
    const options = ['--collection-name=preview 1', '--to=staging', '--expires-never'];
    const { exchanges } = await publisherMust('collections', 'promote', ...options);
    assert.deepEqual(keysOf(exchanges, 'PUT', 200), sorted(collectionKeys('staging')));
    await verifyIndex('staging');
    assert.equal((await metadataOf('staging')).expirationTime, undefined);
    for (const [index, key] of collectionKeys('staging').entries()) {
      const source = await item(collectionKeys('preview 1')[index]);
      assert.deepEqual((await item(key)).bytes, source.bytes);
    }
  });

  await check('collections update-expiration changes only the metadata', async () => {
    const options = ['--collection-name=staging', '--expires-in=1h'];
    await publisherMust('collections', 'update-expiration', ...options);
    assert.ok(inAnHour((await metadataOf('staging')).expirationTime));
    await verifyIndex('staging');
  });

  await check('collections delete removes only the index of the collection', async () => {
    const { exchanges } = await publisherMust('collections', 'delete', '--collection-name=staging');
    const [index, settings] = collectionKeys('staging');
    assert.deepEqual(keysOf(exchanges, 'DELETE', 204), [index]);
    assert.equal(await item(index), null);
    assert.ok(await item(settings));
    await verifyIndex('live');
  });
}

async function uploadOrphans() {
  const lines = Array.from({ length: ORPHANS }, (_, index) => JSON.stringify({
    key: `${PUBLISH_ID}_files_sha256_${sha256(`orphan ${index}`)}`,
    value: Buffer.from(`orphan ${index}`).toString('base64'),
  }));
  const response = await api(keysPath.replace(/keys$/, 'batch'), {
    method: 'PUT', body: lines.join('\n'), headers: { 'Content-Type': 'application/x-ndjson' },
  });
  assert.equal(response.status, 200);
}

async function cleaningChecks() {
  // Orphans: the first index.html and the settings of the deleted collection.
  let unused;

  await check('clean --dry-run lists unused assets and deletes nothing', async () => {
    const before = await allKeys();
    const used = sorted(
      assetKeys([...files]), CHUNK_KEYS, collectionKeys('live'), collectionKeys('preview 1'),
    );
    unused = before.filter((key) => !used.includes(key));
    assert.equal(unused.length, 4);
    const { output, exchanges } = await publisherMust('clean', '--dry-run');
    assert.equal(output.match(/\[DRY RUN\]/g)?.length, unused.length);
    assert.deepEqual(keysOf(exchanges, 'DELETE', 204), []);
    assert.deepEqual(await allKeys(), before);
  });

  await check(`clean lists ${ORPHANS} orphans page by page and deletes only unused assets`, async () => {
    const before = await allKeys();
    await uploadOrphans();
    const { exchanges } = await publisherMust('clean');
    assert.equal(keysOf(exchanges, 'DELETE', 204).length, unused.length + ORPHANS);
    assert.deepEqual(await allKeys(), before.filter((key) => !unused.includes(key)));
    const pages = exchanges.filter(({ path }) => /[?&]prefix=my(\+|%20)site_files_/.test(path));
    assert.equal(pages.length, 2, 'the number of pages of assets');
    await verifySite();
  });

  await check('clean removes an expired collection on request', async () => {
    const options = ['--collection-name=old', '--expires-at=2020-01-01T00:00:00Z'];
    await publisherMust('publish-content', ...options);
    const { output } = await publisherMust('collections', 'list');
    assert.match(output, /EXPIRED/);
    await publisherMust('clean');
    assert.ok(await item(`${PUBLISH_ID}_index_old`), 'the expired collection is kept unless its deletion is requested');
    const { exchanges } = await publisherMust('clean', '--delete-expired-collections');
    assert.deepEqual(keysOf(exchanges, 'DELETE', 204), sorted(collectionKeys('old')));
    await verifySite();
    await verifyIndex('live');
    await verifyIndex('preview 1');
  });
}

async function refusalChecks() {
  await check('every command with a wrong token fails with 401 and changes nothing', async () => {
    const before = await allKeys();
    for (const args of [['collections', 'list'], ['clean'], ['publish-content']]) {
      const { code, output, exchanges } = await publisher(args, { token: 'wrong-token' });
      assert.notEqual(code, 0, args.join(' '));
      assert.match(output, /failed: 401/);
      assert.ok(exchanges.length > 0 && exchanges.every(({ status }) => status === 401));
    }
    assert.deepEqual(await allKeys(), before);
    await verifyIndex('live');
  });
}

async function prepare() {
  console.log(`  creating the site, its store, and ${OTHER_STORES} stores listed before it`);
  makeApp();
  const names = Array.from({ length: OTHER_STORES }, (_, index) => `another ${index}`);
  const worker = async () => {
    while (names.length > 0) {
      await newStore(names.pop());
    }
  };
  await Promise.all(Array.from({ length: 16 }, worker));
  keysPath = `${STORES}/${await newStore(STORE_NAME)}/keys`;
}

await section('preparing', prepare);
if (keysPath !== undefined) {
  await section('publishing', publishChecks);
  await section('collections', collectionChecks);
  await section('cleaning', cleaningChecks);
  await section('rejected requests', refusalChecks);
}
finish();
