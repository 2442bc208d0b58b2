// Checks of KvStoreItemApi: upsert, get and delete, with all options.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { check } from './checks.mjs';
import {
  MIB, allKeys, outcome, del, eachOf, generationOf, get, items, newStore, put, refused, sleep, stores,
  valueOf,
} from './api.mjs';

const NOWHERE = '0000000000000000000000';
const U32 = 2 ** 32;

let store_id;

async function metadataOf(key) {
  const { response } = await get(store_id, key);
  const { metadata } = response.headers;
  assert.notEqual(metadata, undefined, 'the Metadata header is present even when empty');
  return metadata;
}

async function textOf(key) {
  return (await valueOf(store_id, key)).toString();
}

export async function itemChecks() {
  store_id = await newStore('js items');
  await valueChecks();
  await metadataChecks();
  await modeChecks();
  await generationChecks();
  await lifetimeChecks();
  await deleteChecks();
  await raceChecks();
}

async function valueChecks() {
  await check('a value with all 256 bytes round-trips', async () => {
    const bytes = Buffer.from(Array.from({ length: 1024 }, (_, index) => index % 256));
    const answer = await outcome(put(store_id, 'bytes', bytes));
    assert.equal(answer.status, 200);
    assert.equal(answer.headers['content-length'], '0');
    assert.equal(answer.headers['content-type'], undefined);
    assert.deepEqual(await valueOf(store_id, 'bytes'), bytes);
  });

  await check('text, JSON text and line endings round-trip', async () => {
    for (const text of ['plain', 'é✓😀', '{"a":[1]}', '"q"', 'null', ' \r\n\t', '\u0000']) {
      await items.kvStoreUpsertItem({ store_id, key: 'text', body: text });
      const value = await items.kvStoreGetItem({ store_id, key: 'text' });
      assert.equal(value.toString(), text);
    }
  });

  await check('an empty string, an empty Buffer and a missing body are stored as an empty value', async () => {
    for (const body of ['', Buffer.alloc(0), undefined]) {
      await put(store_id, 'empty', 'full');
      await put(store_id, 'empty', body);
      const { data, response } = await get(store_id, 'empty');
      assert.equal(data.length, 0);
      assert.equal(response.headers['content-length'], '0');
      assert.equal(response.headers['stored-content-length'], '0');
    }
  });

  await check('get returns the content type, lengths, generation, metadata and modification time', async () => {
    const before = Math.floor(Date.now() / 1000);
    await put(store_id, 'described', 'twelve bytes', { metadata: 'meta' });
    const { data, response } = await get(store_id, 'described');
    const { headers } = response;
    assert.equal(data.toString(), 'twelve bytes');
    assert.equal(headers['content-type'], 'application/octet-stream');
    assert.equal(headers['content-length'], '12');
    assert.equal(headers['stored-content-length'], '12');
    assert.equal(headers['content-encoding'], undefined);
    assert.equal(headers.metadata, 'meta');
    assert.match(headers.generation, /^\d{16}$/);
    const modified = Date.parse(headers['last-modified']) / 1000;
    assert.equal(Math.floor(Number(headers.generation) / 1_000_000), modified);
    assert.ok(modified >= before && modified <= Date.now() / 1000 + 1);
  });

  await check('a value of exactly 25 MiB is stored; one byte more returns 413 and changes nothing', async () => {
    const big = Buffer.alloc(25 * MIB, 'steadfast');
    const sum = createHash('sha256').update(big).digest('hex');
    await put(store_id, 'big', big);
    await refused(put(store_id, 'big', Buffer.concat([big, Buffer.from('x')])), 413);
    await refused(put(store_id, 'big', 'x', { append: true }), 413);
    const back = await valueOf(store_id, 'big');
    assert.equal(back.length, big.length);
    assert.equal(createHash('sha256').update(back).digest('hex'), sum);
    await items.kvStoreDeleteItem({ store_id, key: 'big' });
  });

  await check('an unknown key and an unknown store return 404', async () => {
    await refused(get(store_id, 'nowhere'), 404);
    await refused(get(NOWHERE, 'k'), 404);
    await refused(put(NOWHERE, 'k', 'v'), 404);
    await refused(del(NOWHERE, 'k', { force: true }), 404);
  });

  await check('the client rejects a call without its required parameters', async () => {
    for (const call of [
      () => items.kvStoreGetItem({ store_id }),
      () => items.kvStoreUpsertItem({ key: 'k' }),
      () => items.kvStoreDeleteItem({}),
      () => items.kvStoreListItemKeys({}),
      () => stores.kvStoreGet({}),
    ]) {
      assert.throws(call, /Missing the required parameter/);
    }
  });
}

async function metadataChecks() {
  // If the body is a Buffer, Node.js encodes the headers in Latin-1. If it is a string, Node.js encodes the
  // headers together with the body in UTF-8.
  await check('metadata round-trips; Latin-1 and UTF-8 bytes are stored as sent', async () => {
    const utf8 = Buffer.from('é✓').toString('latin1');
    for (const metadata of ['meta', '{"a":1,"b":"c d"}', 'é', utf8, 'a\tb', '"', '%20+']) {
      await put(store_id, 'meta', Buffer.from('v'), { metadata });
      assert.equal(await metadataOf('meta'), metadata);
    }
    await put(store_id, 'meta', 'text', { metadata: 'é' });
    assert.equal(await metadataOf('meta'), Buffer.from('é').toString('latin1'));
  });

  await check('a write with omitted or empty metadata clears the metadata', async () => {
    for (const metadata of [undefined, '']) {
      await put(store_id, 'meta', 'v', { metadata: 'old' });
      await put(store_id, 'meta', 'v', { metadata });
      assert.equal(await metadataOf('meta'), '');
    }
  });

  await check('2000 bytes of metadata are stored; 2001 return 400', async () => {
    const most = 'm'.repeat(2000);
    await put(store_id, 'meta', 'v', { metadata: most });
    assert.equal(await metadataOf('meta'), most);
    await refused(put(store_id, 'meta', 'w', { metadata: `${most}m` }), 400);
    assert.equal(await textOf('meta'), 'v');
  });
}

async function modeChecks() {
  await check('add creates a new key and rejects an existing one with 412', async () => {
    await put(store_id, 'added', 'first', { add: true });
    await refused(put(store_id, 'added', 'second', { add: true }), 412);
    assert.equal(await textOf('added'), 'first');
  });

  await check('append and prepend extend a value or create it', async () => {
    await put(store_id, 'joined', 'b', { append: true });
    await put(store_id, 'joined', Buffer.from([0xff, 0x00]), { append: true });
    await put(store_id, 'joined', 'a', { prepend: true });
    const wanted = Buffer.from([0x61, 0x62, 0xff, 0x00]);
    assert.deepEqual(await valueOf(store_id, 'joined'), wanted);
    await put(store_id, 'joined first', 'x', { prepend: true });
    assert.equal(await textOf('joined first'), 'x');
  });

  await check('append and prepend drop the existing metadata and time to live', async () => {
    for (const mode of ['append', 'prepend']) {
      await put(store_id, 'joined', 'v', { metadata: 'meta', time_to_live_sec: 2 });
      await put(store_id, 'joined', 'w', { [mode]: true });
      assert.equal(await metadataOf('joined'), '');
      await sleep(2050);
      assert.equal((await textOf('joined')).length, 2);
    }
  });

  await check('modes set to false have no effect; background_fetch is accepted', async () => {
    const none = { add: false, append: false, prepend: false, background_fetch: false };
    await put(store_id, 'plain', 'one', none);
    await put(store_id, 'plain', 'two', none);
    await put(store_id, 'plain', 'three', { background_fetch: true });
    assert.equal(await textOf('plain'), 'three');
  });

  await check('two modes at once and non-boolean values return 400', async () => {
    for (const options of [
      { add: true, append: true }, { add: true, prepend: true }, { append: true, prepend: true },
      { add: 'maybe' }, { append: 2 }, { prepend: '' }, { background_fetch: 'yes' },
    ]) {
      await refused(put(store_id, 'plain', 'x', options), 400);
    }
    assert.equal(await textOf('plain'), 'three');
  });
}

async function generationChecks() {
  await check('each write of the value or the metadata increases the generation', async () => {
    let last = 0;
    for (const options of [{}, {}, { metadata: 'm' }, { append: true }, { prepend: true }]) {
      await put(store_id, 'gen', 'v', options);
      const now = await generationOf(store_id, 'gen');
      assert.ok(now > last, `${now} after ${last}`);
      last = now;
    }
    await items.kvStoreDeleteItem({ store_id, key: 'gen' });
    await put(store_id, 'gen', 'v');
    assert.ok((await generationOf(store_id, 'gen')) > last, 'the generation also increases after a delete and a new write');
  });

  await check('a write with a different if_generation_match returns 412 and changes nothing', async () => {
    const old = await generationOf(store_id, 'gen');
    await put(store_id, 'gen', 'new', { if_generation_match: old });
    await refused(put(store_id, 'gen', 'newer', { if_generation_match: old }), 412);
    await refused(put(store_id, 'gen', 'x', { if_generation_match: old, append: true }), 412);
    assert.equal(await textOf('gen'), 'new');
  });

  await check('if_generation_match on a missing key returns 412, except for 0', async () => {
    await refused(put(store_id, 'gen none', 'v', { if_generation_match: 17 }), 412);
    await refused(get(store_id, 'gen none'), 404);
    await put(store_id, 'gen none', 'v', { if_generation_match: 0 });
    await refused(put(store_id, 'gen none', 'w', { if_generation_match: 0 }), 412);
    assert.equal(await textOf('gen none'), 'v');
  });

  await check('add with if_generation_match requires both conditions to hold', async () => {
    const options = { add: true, if_generation_match: await generationOf(store_id, 'gen') };
    await refused(put(store_id, 'gen', 'x', options), 412);
    await put(store_id, 'gen both', 'v', { add: true, if_generation_match: 0 });
    assert.equal(await textOf('gen both'), 'v');
  });

  await check('a non-numeric generation returns 400', async () => {
    for (const if_generation_match of ['abc', -1, '', '1 2', 1.5]) {
      await refused(put(store_id, 'gen', 'x', { if_generation_match }), 400);
      await refused(del(store_id, 'gen', { if_generation_match }), 400);
    }
    assert.equal(await textOf('gen'), 'new');
  });
}

async function lifetimeChecks() {
  await check('an item exists until it expires and is then absent everywhere', async () => {
    const prefix = 'ttl';
    await put(store_id, 'ttl kept', 'v', { time_to_live_sec: 3600 });
    await put(store_id, 'ttl replaced', 'v', { time_to_live_sec: 1 });
    await put(store_id, 'ttl replaced', 'w');
    for (const key of ['ttl read', 'ttl added', 'ttl compared', 'ttl deleted']) {
      await put(store_id, key, 'v', { time_to_live_sec: 3 });
    }
    const generation = await generationOf(store_id, 'ttl compared');
    assert.equal((await allKeys(store_id, { prefix })).keys.length, 6);
    await sleep(3050);
    await refused(get(store_id, 'ttl read'), 404);
    const left = ['ttl kept', 'ttl replaced'];
    assert.deepEqual((await allKeys(store_id, { prefix })).keys, left);
    await put(store_id, 'ttl added', 'anew', { add: true });
    assert.equal(await textOf('ttl added'), 'anew');
    await refused(put(store_id, 'ttl compared', 'x', { if_generation_match: generation }), 412);
    assert.equal((await outcome(del(store_id, 'ttl deleted'))).status, 204);
    await refused(get(store_id, 'ttl deleted'), 404);
  });

  await check('a store whose items have all expired can be deleted', async () => {
    const other = await newStore('js expiring');
    await put(other, 'k', 'v', { time_to_live_sec: 2 });
    await refused(stores.kvStoreDeleteWithHttpInfo({ store_id: other }), 409);
    await sleep(2050);
    const { status } = await outcome(stores.kvStoreDeleteWithHttpInfo({ store_id: other }));
    assert.equal(status, 204);
  });

  await check('a time to live of 1 to 2^32-1 is accepted, and any other value returns 400', async () => {
    await put(store_id, 'long', 'v', { time_to_live_sec: U32 - 1 });
    for (const time_to_live_sec of [0, -1, U32, 'soon', 1.5, '']) {
      await refused(put(store_id, 'long', 'x', { time_to_live_sec }), 400);
    }
    assert.equal(await textOf('long'), 'v');
  });
}

async function deleteChecks() {
  await check('delete returns 204 without a body; a second delete returns 404, or 204 with force', async () => {
    await put(store_id, 'del', 'v');
    const deleted = await outcome(del(store_id, 'del'));
    assert.equal(deleted.status, 204);
    assert.equal(deleted.data, null);
    assert.equal(deleted.headers['content-length'], undefined);
    await refused(del(store_id, 'del'), 404);
    await refused(del(store_id, 'del', { force: false }), 404);
    assert.equal((await outcome(del(store_id, 'del', { force: true }))).status, 204);
    await refused(get(store_id, 'del'), 404);
  });

  await check('delete with if_generation_match deletes only an item with that generation', async () => {
    await put(store_id, 'del', 'v');
    const generation = await generationOf(store_id, 'del');
    const other = { if_generation_match: generation - 1 };
    await refused(del(store_id, 'del', other), 412);
    await refused(del(store_id, 'del', { ...other, force: true }), 412);
    assert.equal(await textOf('del'), 'v');
    const { status } = await outcome(del(store_id, 'del', { if_generation_match: generation }));
    assert.equal(status, 204);
    await refused(del(store_id, 'del', { if_generation_match: generation }), 404);
    const forced = del(store_id, 'del', { if_generation_match: generation, force: true });
    assert.equal((await outcome(forced)).status, 204);
  });

  await check('a non-boolean force returns 400', async () => {
    await put(store_id, 'del', 'v');
    for (const force of ['perhaps', '', 2]) {
      await refused(del(store_id, 'del', { force }), 400);
    }
    assert.equal(await textOf('del'), 'v');
  });
}

async function raceChecks() {
  await check('exactly one of 16 concurrent adds succeeds, and its value is stored', async () => {
    const racers = Array.from({ length: 16 }, (_, index) => `racer ${index}`);
    const answers = await Promise.all(
      racers.map((value) => outcome(put(store_id, 'race', value, { add: true }))),
    );
    const won = answers.flatMap(({ status }, index) => (status === 200 ? [racers[index]] : []));
    assert.equal(won.length, 1);
    assert.ok(answers.every(({ status }) => status === 200 || status === 412));
    assert.equal(await textOf('race'), won[0]);
  });

  await check('16 clients that append 20 times each lose no write', async () => {
    const letters = [...'abcdefghijklmnop'];
    await Promise.all(letters.map(async (letter) => {
      for (let round = 0; round < 20; round += 1) {
        await put(store_id, 'log', letter, { append: true });
      }
    }));
    const log = await textOf('log');
    assert.equal(log.length, 16 * 20);
    for (const letter of letters) {
      assert.equal(log.split(letter).length - 1, 20, letter);
    }
  });

  await check('8 clients that increment a counter with if_generation_match lose no update', async () => {
    await put(store_id, 'count', '0');
    await eachOf(Array.from({ length: 80 }), async () => {
      for (let attempt = 0; ; attempt += 1) {
        assert.ok(attempt < 1000, 'the conditional write succeeds within 1000 attempts');
        const { data, response } = await get(store_id, 'count');
        const if_generation_match = Number(response.headers.generation);
        const next = String(Number(data.toString()) + 1);
        const { status } = await outcome(put(store_id, 'count', next, { if_generation_match }));
        if (status === 200) {
          return;
        }
        assert.equal(status, 412);
      }
    }, 8);
    assert.equal(await textOf('count'), '80');
  });
}
