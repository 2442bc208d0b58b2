// Checks of keys: unusual keys, rejected keys, and key lists.

import assert from 'node:assert/strict';
import { check } from './checks.mjs';
import {
  allKeys, outcome, byBytes, del, eachOf, get, items, newStore, put, refused, refusedSomehow, stores,
  valueOf,
} from './api.mjs';

const ODD = [
  'a/b', 'a b', 'a+b', 'a%2Fb', 'a%252Fb', 'x//y', '/x', 'x/', '//', 'é✓', '日本語', '😀',
  'a:b@c=&$,', "!*'()", '*', '[a]', '{id}', '~', '%', '%2', '%zz', '%2e%2e', '"', "'", '\\', 'a\\b',
  '<&>', '..x', '.hidden', 'a.', 'a..', 'a.b/c.d', '...', ' a', 'a ', 'a\tb', 'a\u0001b',
  'a\u007fb', 'a\u0085b', 'a\u00a0b', 'a\u2028b', 'a\ufeffb', 'keys', 'batch', 'A', 'a', '0',
  'null', '__proto__', 'e\u0301', '\u00e9', 'k'.repeat(1024), '✓'.repeat(341),
];

const ILLEGAL = [
  'a#b', 'a;b', 'a?b', 'a^b', 'a|b', 'a\rb', 'a\nb', './a', '../a', 'a/./b', 'a/../b', 'a./b',
  'a../b', 'a/.', 'a/..', '.well-known/acme-challenge', '.well-known/acme-challenge/token',
  ' ', '\t', '\u0000', '\u0001', '\ufffe', '\uffff', 'k'.repeat(1025), `${'✓'.repeat(341)}kk`,
];

// Keys that the client turns into the path of the list or of the store itself.
const COLLAPSING = ['.', '..', ''];

export async function keyChecks() {
  await oddKeyChecks();
  await refusedKeyChecks();
  await listChecks();
  await cursorChecks();
}

async function oddKeyChecks() {
  const store_id = await newStore('js odd keys');

  await check(`${ODD.length} unusual keys are stored as separate items`, async () => {
    for (const [index, key] of ODD.entries()) {
      await put(store_id, key, `value ${index}`);
    }
    for (const [index, key] of ODD.entries()) {
      const value = await valueOf(store_id, key);
      assert.equal(value.toString(), `value ${index}`, JSON.stringify(key));
    }
  });

  await check('a list returns all unusual keys unchanged and in byte order', async () => {
    const { keys } = await allKeys(store_id);
    assert.deepEqual(keys, [...ODD].sort(byBytes));
  });

  await check('a list page can end with any of the unusual keys', async () => {
    const { keys } = await allKeys(store_id, { limit: 1 });
    assert.deepEqual(keys, [...ODD].sort(byBytes));
  });

  await check('each unusual key can be used as a literal prefix', async () => {
    for (const prefix of ODD) {
      const { keys } = await allKeys(store_id, { prefix });
      const wanted = ODD.filter((key) => key.startsWith(prefix)).sort(byBytes);
      assert.deepEqual(keys, wanted, JSON.stringify(prefix));
    }
  });

  await check('deleting an unusual key deletes only that key', async () => {
    const left = [...ODD].sort(byBytes);
    for (const key of ODD) {
      await items.kvStoreDeleteItem({ store_id, key });
      left.splice(left.indexOf(key), 1);
      assert.deepEqual((await allKeys(store_id)).keys, left, JSON.stringify(key));
    }
  });
}

async function refusedKeyChecks() {
  const store_id = await newStore('js refused keys');
  const kept = ['a', 'a/b', 'keep', 'x'];
  for (const key of kept) {
    await put(store_id, key, `value of ${key}`);
  }

  async function nothingIsLost() {
    const { name } = await stores.kvStoreGet({ store_id });
    assert.equal(name, 'js refused keys');
    assert.deepEqual((await allKeys(store_id)).keys, kept);
    for (const key of kept) {
      assert.equal((await valueOf(store_id, key)).toString(), `value of ${key}`);
    }
  }

  for (const key of COLLAPSING) {
    const shown = JSON.stringify(key);
    await check(`every call with the key ${shown} is rejected and deletes nothing`, async () => {
      await refusedSomehow(put(store_id, key, 'x'));
      await refusedSomehow(put(store_id, key, '{"name":"js renamed"}'));
      await refusedSomehow(get(store_id, key));
      await refusedSomehow(del(store_id, key));
      await refusedSomehow(del(store_id, key, { force: true }));
      await nothingIsLost();
    });
  }

  await check('deleting a key that becomes another path does not delete an empty store', async () => {
    const empty = await newStore('js empty store');
    for (const key of COLLAPSING) {
      await refusedSomehow(del(empty, key));
      await refusedSomehow(del(empty, key, { force: true }));
    }
    assert.equal((await stores.kvStoreGet({ store_id: empty })).name, 'js empty store');
  });

  await check(`${ILLEGAL.length} invalid keys return 400`, async () => {
    for (const key of ILLEGAL) {
      try {
        await refused(put(store_id, key, 'x'), 400);
        await refused(get(store_id, key), 400);
        await refused(del(store_id, key, { force: true }), 400);
      } catch (error) {
        throw new Error(`${JSON.stringify(key.slice(0, 40))}: ${error.message}`);
      }
    }
    await nothingIsLost();
  });
}

async function listChecks() {
  const store_id = await newStore('js lists');
  const list = (options) => outcome(items.kvStoreListItemKeysWithHttpInfo({ store_id, ...options }));

  await check('the list of an empty store has an empty array, limit 1000 and no cursor', async () => {
    const { status, body, headers } = await list({});
    assert.equal(status, 200);
    assert.equal(headers['content-type'], 'application/json');
    assert.deepEqual(body, { data: [], meta: { limit: 1000 } });
  });

  await check('a prefix selects keys and is echoed; without a match the list is empty', async () => {
    for (const key of ['apple', 'banana', 'bandana', 'cherry']) {
      await put(store_id, key, 'v');
    }
    assert.deepEqual((await list({ prefix: 'ba' })).body, {
      data: ['banana', 'bandana'], meta: { limit: 1000, prefix: 'ba' },
    });
    assert.deepEqual((await list({ prefix: 'z' })).body.data, []);
    assert.deepEqual((await list({ prefix: '' })).body.data.length, 4);
  });

  await check('consistency is echoed if it is eventual, but not if it is strong', async () => {
    assert.deepEqual((await list({ consistency: 'strong' })).body.meta, { limit: 1000 });
    const eventual = await list({ consistency: 'eventual' });
    assert.deepEqual(eventual.body.meta, { limit: 1000, consistency: 'eventual' });
  });

  await check('the cursor equals the recorded cursor and returns the remaining keys', async () => {
    for (const key of ['batch-1', 'batch-2', 'batch-3']) {
      await put(store_id, key, 'v');
    }
    const options = { prefix: 'batch', limit: 2 };
    const first = await list(options);
    assert.deepEqual(first.body, {
      data: ['batch-1', 'batch-2'],
      meta: { limit: 2, next_cursor: 'CgdiYXRjaC0y', prefix: 'batch' },
    });
    await items.kvStoreDeleteItem({ store_id, key: 'batch-2' });
    const second = await list({ ...options, cursor: first.data.meta.next_cursor });
    assert.deepEqual(second.body, { data: ['batch-3'], meta: { limit: 2, prefix: 'batch' } });
  });

  await check('the client gets the same responses with its cache disabled', async () => {
    const { apiClient } = items;
    apiClient.cache = false;
    try {
      assert.deepEqual((await list({ prefix: 'ba', limit: 1 })).body.data, ['banana']);
    } finally {
      apiClient.cache = true;
    }
  });

  await check('an invalid limit, cursor or consistency returns 400', async () => {
    const page = (options) => items.kvStoreListItemKeysWithHttpInfo({ store_id, ...options });
    for (const limit of [0, -1, 'ten', 1.5, '']) {
      await refused(page({ limit }), 400);
    }
    for (const cursor of ['?', 'not base64!', 'AAAA', 'CgdiYXRjaA==']) {
      await refused(page({ cursor }), 400);
    }
    await refused(page({ consistency: 'weak' }), 400);
    assert.equal((await list({ limit: 5000 })).body.meta.limit, 1000);
  });

  await check('listing the keys of an unknown store returns 404', async () => {
    const other = '0000000000000000000000';
    await refused(items.kvStoreListItemKeysWithHttpInfo({ store_id: other }), 404);
  });
}

async function cursorChecks() {
  const store_id = await newStore('js many keys');
  const many = Array.from({ length: 2500 }, (_, index) => `many/${index} ✓`);
  const sorted = [...many].sort(byBytes);

  await check('2500 keys are listed in pages of 1000, 1000 and 500', async () => {
    await eachOf(many, (key) => put(store_id, key, key));
    const { keys, pages } = await allKeys(store_id);
    assert.deepEqual(pages, [1000, 1000, 500]);
    assert.deepEqual(keys, sorted);
  });

  await check('a page that ends with the last key has no cursor', async () => {
    const { pages } = await allKeys(store_id, { limit: 500 });
    assert.deepEqual(pages, [500, 500, 500, 500, 500]);
  });

  await check('a prefix applies to every page, with either consistency', async () => {
    const prefix = 'many/1';
    const wanted = sorted.filter((key) => key.startsWith(prefix));
    for (const consistency of ['strong', 'eventual']) {
      const { keys, pages } = await allKeys(store_id, { prefix, consistency, limit: 300 });
      assert.deepEqual(keys, wanted);
      assert.equal(pages.length, Math.ceil(wanted.length / 300));
    }
  });

  await check('deleting page by page lists every key once, and then the store can be deleted', async () => {
    let cursor;
    const met = [];
    do {
      const { data, meta } = await items.kvStoreListItemKeys({ store_id, cursor, limit: 700 });
      await eachOf(data, (key) => items.kvStoreDeleteItem({ store_id, key }));
      met.push(...data);
      cursor = meta.next_cursor;
    } while (cursor !== undefined && met.length <= many.length);
    assert.deepEqual(met, sorted);
    const { status } = await outcome(stores.kvStoreDeleteWithHttpInfo({ store_id }));
    assert.equal(status, 204);
  });
}
