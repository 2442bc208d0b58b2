// Loaded before a Node.js tool: what it means for the hosted API goes to STEADFAST_URL instead. All
// else goes where it always went.
//
// fetch is redirected where a Request is made, not by copying a Request into another: a copy would
// send a body of known length in chunks. http and https are redirected by their options, which is
// what most other clients end in.

import http from 'node:http';
import https from 'node:https';
import { syncBuiltinESMExports } from 'node:module';

const HOSTED = 'api.fastly.com';
const base = new URL(process.env.STEADFAST_URL);

const moved = (address) => {
  const text = address instanceof URL ? address.href : address;
  if (typeof text !== 'string') return address;
  const match = /^https:\/\/api\.fastly\.com(?::443)?(?=[/?#]|$)/i.exec(text);
  return match ? base.origin + text.slice(match[0].length) : address;
};

const PlainRequest = globalThis.Request;
const plainFetch = globalThis.fetch;
globalThis.Request = class Request extends PlainRequest {
  constructor(input, init) {
    super(moved(input), init);
  }
};
globalThis.fetch = (input, init) => plainFetch(moved(input), init);

const plain = { http: http.request, https: https.request };
const request = (first, ...rest) => {
  const given = typeof first === 'string' || first instanceof URL;
  const [url, [options, callback]] = given
    ? [new URL(moved(first)), typeof rest[0] === 'function' ? [{}, rest[0]] : rest]
    : [null, [first, rest[0]]];
  const host = options?.hostname ?? options?.host?.replace(/:\d+$/, '') ?? url?.hostname;
  const hosted = host === HOSTED || url?.origin === base.origin;
  if (!hosted) return plain.https(first, ...rest);
  const path = options?.path ?? (url ? url.pathname + url.search : '/');
  const { agent, ...kept } = options ?? {};
  const target = { ...kept, path, protocol: base.protocol, host: base.hostname };
  target.hostname = base.hostname.replace(/^\[|\]$/g, '');
  target.port = base.port || (base.protocol === 'https:' ? 443 : 80);
  target.method = options?.method ?? 'GET';
  if (base.protocol === 'https:' && agent) target.agent = agent;
  return plain[base.protocol.slice(0, -1)](target, callback);
};
https.request = request;
https.get = (...args) => {
  const sent = request(...args);
  sent.end();
  return sent;
};
syncBuiltinESMExports();
