// Checks of KvStoreApi: create, list, get and delete.

import assert from 'node:assert/strict';
import { check } from './checks.mjs';
import { Fastly, outcome, items, newStore, put, refused, stores, valueOf } from './api.mjs';

const NOWHERE = '0000000000000000000000';

function create(body, location) {
  return stores.kvStoreCreateWithHttpInfo({ location, kv_store_request_create: body });
}

export async function storeChecks() {
  await check('create returns 201 with id, name and two dates, in that order', async () => {
    const { status, data, body, headers } = await outcome(create({ name: 'Js Störe 1' }));
    assert.equal(status, 201);
    assert.match(data.id, /^[0-9a-z]{22}$/);
    assert.equal(data.name, 'Js Störe 1');
    assert.deepEqual(Object.keys(body), ['id', 'name', 'created_at', 'updated_at']);
    assert.match(body.created_at, /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$/);
    assert.equal(body.updated_at, body.created_at);
    assert.equal(headers['content-type'], 'application/json');
  });

  await check('create accepts an instance of the model class in the package', async () => {
    const model = new Fastly.KvStoreRequestCreate('js by model');
    const data = await stores.kvStoreCreate({ kv_store_request_create: model });
    assert.equal(data.name, 'js by model');
  });

  await check('create accepts each location and does not return it', async () => {
    for (const location of ['US', 'EU', 'ASIA', 'AUS']) {
      const { status, body } = await outcome(create({ name: `js in ${location}` }, location));
      assert.equal(status, 201, location);
      assert.ok(!('location' in body));
    }
    await refused(create({ name: 'js on the moon' }, 'MOON'), 400);
  });

  await check('an existing name returns 400', async () => {
    const problem = await refused(create({ name: 'js by model' }), 400);
    assert.match(problem.detail, /already exists/);
  });

  await check('an invalid name or a missing body returns 400', async () => {
    for (const name of ['', 'a'.repeat(256), 'a\nb', 'a\u0000b', 7, null, ['a']]) {
      await refused(create({ name }), 400);
    }
    await refused(create({}), 400);
    await refused(create(undefined), 400);
  });

  await check('names with punctuation or 255 characters are accepted', async () => {
    const punctuation = 'js~`!@#$%^&*()=+[]{};:\'"<>,./?';
    for (const name of [punctuation, `js${'é'.repeat(253)}`]) {
      const id = await newStore(name);
      const data = await stores.kvStoreGet({ store_id: id });
      assert.equal(data.name, name);
    }
  });

  await check('get returns the same store as create, and an unknown id returns 404', async () => {
    const created = await outcome(create({ name: 'js described' }));
    const seen = await outcome(stores.kvStoreGetWithHttpInfo({ store_id: created.data.id }));
    assert.equal(seen.status, 200);
    assert.deepEqual(seen.body, created.body);
    for (const store_id of [NOWHERE, 'x', 'a b', 'é', `${created.data.id}0`, '%']) {
      await refused(stores.kvStoreGetWithHttpInfo({ store_id }), 404);
    }
  });

  await check('list returns every store, the limit 1000 and the total', async () => {
    const { data, body } = await outcome(stores.kvStoreListWithHttpInfo());
    assert.deepEqual(Object.keys(body), ['data', 'meta']);
    assert.equal(data.meta.limit, 1000);
    assert.equal(body.meta.total, data.data.length);
    assert.ok(!('next_cursor' in body.meta), 'the last page has no cursor');
    const names = data.data.map((store) => store.name);
    assert.ok(names.includes('js by model') && names.includes('js described'));
    assert.equal(new Set(data.data.map((store) => store.id)).size, names.length);
  });

  await check('list is ordered by name with ASCII letters in upper case', async () => {
    const wanted = ['zz js-store', 'ZZ jsStoreA', 'zz js_store'];
    for (const name of [...wanted].reverse()) {
      await newStore(name);
    }
    const { data } = await stores.kvStoreList();
    const names = data.map((store) => store.name).filter((name) => /^zz js/i.test(name));
    assert.deepEqual(names, wanted);
  });

  await check('pages with limit and cursor contain each store once, and the last page has no cursor', async () => {
    const whole = (await stores.kvStoreList()).data.map((store) => store.id);
    for (const limit of [1, 4, whole.length - 1, whole.length, whole.length + 1]) {
      const paged = [];
      let cursor;
      do {
        const answer = await outcome(stores.kvStoreListWithHttpInfo({ limit, cursor }));
        assert.equal(answer.body.meta.limit, limit);
        assert.equal(answer.body.meta.total, whole.length);
        paged.push(...answer.data.data.map((store) => store.id));
        cursor = answer.data.meta.next_cursor;
        assert.equal('next_cursor' in answer.body.meta, paged.length < whole.length);
      } while (cursor !== undefined && paged.length <= whole.length);
      assert.deepEqual(paged, whole, `limit ${limit}`);
    }
  });

  await check('list by name returns only a store with exactly that name', async () => {
    const one = await outcome(stores.kvStoreListWithHttpInfo({ name: 'js described' }));
    assert.deepEqual(one.data.data.map((store) => store.name), ['js described']);
    assert.equal(one.body.meta.total, 1);
    for (const name of ['js describe', 'JS described', 'js described ']) {
      const none = await outcome(stores.kvStoreListWithHttpInfo({ name }));
      assert.equal(none.status, 200);
      assert.deepEqual(none.body.data, []);
      assert.equal(none.body.meta.total, 0);
    }
  });

  await check('an invalid list limit or cursor returns 400', async () => {
    for (const limit of [0, -1, 'ten', 1.5]) {
      await refused(stores.kvStoreListWithHttpInfo({ limit }), 400);
    }
    await refused(stores.kvStoreListWithHttpInfo({ cursor: 'not base64!' }), 400);
    const { body } = await outcome(stores.kvStoreListWithHttpInfo({ limit: 5000 }));
    assert.equal(body.meta.limit, 1000);
  });

  await check('delete returns 409 for a store with items, 204 for an empty store, and then 404', async () => {
    const store_id = await newStore('js to be deleted');
    await put(store_id, 'k', 'v');
    await refused(stores.kvStoreDeleteWithHttpInfo({ store_id }), 409);
    assert.equal((await valueOf(store_id, 'k')).toString(), 'v');
    await items.kvStoreDeleteItem({ store_id, key: 'k' });
    const deleted = await outcome(stores.kvStoreDeleteWithHttpInfo({ store_id }));
    assert.equal(deleted.status, 204);
    assert.equal(deleted.headers['content-length'], undefined);
    await refused(stores.kvStoreDeleteWithHttpInfo({ store_id }), 404);
    await refused(stores.kvStoreGetWithHttpInfo({ store_id }), 404);
    await refused(put(store_id, 'k', 'v'), 404);
  });
}
