// Runs every call of KvStoreApi and KvStoreItemApi in the npm package fastly against Steadfast.
// Requires an empty server. Started by ./run, which also installs the package.

import { accessChecks } from './access.mjs';
import { finish, section } from './checks.mjs';
import { itemChecks } from './items.mjs';
import { keyChecks } from './keys.mjs';
import { storeChecks } from './stores.mjs';

await section('stores', storeChecks);
await section('items', itemChecks);
await section('keys', keyChecks);
await section('tokens and connections', accessChecks);
finish();
