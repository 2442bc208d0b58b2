// Checks of tokens, and of many calls on one connection.

import assert from 'node:assert/strict';
import http from 'node:http';
import { check } from './checks.mjs';
import { Fastly, TOKEN, outcome, freshClient, newStore, refused } from './api.mjs';

/** Returns both APIs with a separate client object. */
function apis(client) {
  return { stores: new Fastly.KvStoreApi(client), items: new Fastly.KvStoreItemApi(client) };
}

async function allRefused({ stores, items }, store_id) {
  const kv_store_request_create = { name: 'js stranger' };
  const item = { store_id, key: 'k' };
  for (const call of [
    () => stores.kvStoreListWithHttpInfo(),
    () => stores.kvStoreCreateWithHttpInfo({ kv_store_request_create }),
    () => stores.kvStoreGetWithHttpInfo({ store_id }),
    () => stores.kvStoreDeleteWithHttpInfo({ store_id }),
    () => items.kvStoreListItemKeysWithHttpInfo({ store_id }),
    () => items.kvStoreGetItemWithHttpInfo(item),
    () => items.kvStoreUpsertItemWithHttpInfo({ ...item, body: 'x' }),
    () => items.kvStoreDeleteItemWithHttpInfo(item),
  ]) {
    await refused(call(), 401);
  }
}

export async function accessChecks() {
  const store_id = await newStore('js access');

  await check('every call without a token returns 401', async () => {
    await allRefused(apis(freshClient()), store_id);
  });

  await check('every call with a wrong, truncated or extended token returns 401', async () => {
    for (const token of ['wrong', `${TOKEN}x`, TOKEN.slice(0, -1)]) {
      await allRefused(apis(freshClient(token)), store_id);
    }
  });

  await check('the client takes the token from FASTLY_API_TOKEN', async () => {
    process.env.FASTLY_API_TOKEN = TOKEN;
    try {
      const { stores } = apis(freshClient());
      assert.equal((await stores.kvStoreGet({ store_id })).name, 'js access');
    } finally {
      delete process.env.FASTLY_API_TOKEN;
    }
  });

  await check('one persistent connection serves every kind of response', async () => {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    const client = freshClient(TOKEN);
    client.requestAgent = agent;
    const used = new Set();
    agent.on('free', (socket) => used.add(socket));
    try {
      const { stores, items } = apis(client);
      const item = { store_id, key: 'kept' };
      for (let round = 0; round < 20; round += 1) {
        await items.kvStoreUpsertItem({ ...item, body: `round ${round}` });
        const { data } = await items.kvStoreGetItemWithHttpInfo(item);
        assert.equal(data.toString(), `round ${round}`);
        await refused(items.kvStoreUpsertItemWithHttpInfo({ ...item, add: true, body: 'x' }), 412);
        const deleted = await outcome(items.kvStoreDeleteItemWithHttpInfo(item));
        assert.equal(deleted.status, 204);
        await refused(items.kvStoreGetItemWithHttpInfo(item), 404);
        assert.equal((await stores.kvStoreGet({ store_id })).name, 'js access');
      }
      assert.equal(used.size, 1, 'the number of connections');
    } finally {
      agent.destroy();
    }
  });
}
