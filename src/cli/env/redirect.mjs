// Loaded before a Node.js program. Redirects requests for the hosted API to STEADFAST_URL and leaves
// other requests unchanged.
//
// For fetch, the URL is replaced when a Request is constructed, because copying a Request would
// send its body with chunked encoding. For https, which most other clients use, the request options
// are replaced. Requests of the undici package go through the global dispatcher of Node.js, where
// the origin is replaced. Requests over HTTP/2, or through a dispatcher that the program creates
// itself, are not redirected.

import http from 'node:http';
import https from 'node:https';
import { syncBuiltinESMExports } from 'node:module';

const HOSTED = 'api.fastly.com';
const base = new URL(process.env.STEADFAST_URL);

const redirect = (address) => {
  const text = address instanceof URL ? address.href : address;
  if (typeof text !== 'string') return address;
  const match = /^https:\/\/api\.fastly\.com(?::443)?(?=[/?#]|$)/i.exec(text);
  return match ? base.origin + text.slice(match[0].length) : address;
};

const OriginalRequest = globalThis.Request;
const originalFetch = globalThis.fetch;
globalThis.Request = class Request extends OriginalRequest {
  constructor(input, init) {
    super(redirect(input), init);
  }
};
globalThis.fetch = (input, init) => originalFetch(redirect(input), init);

// Reading globalThis.Request above has created the global dispatcher.
const dispatcher = globalThis[Symbol.for('undici.globalDispatcher.1')];
const dispatch = dispatcher?.dispatch.bind(dispatcher);
if (dispatch) {
  dispatcher.dispatch = (options, handler) =>
    dispatch({ ...options, origin: redirect(options.origin) }, handler);
}

const original = { http: http.request, https: https.request };
const request = (first, ...rest) => {
  const hasUrl = typeof first === 'string' || first instanceof URL;
  const [url, [options, callback]] = hasUrl
    ? [new URL(redirect(first)), typeof rest[0] === 'function' ? [{}, rest[0]] : rest]
    : [null, [first, rest[0]]];
  const host = options?.hostname ?? options?.host?.replace(/:\d+$/, '') ?? url?.hostname;
  const hosted = host === HOSTED || url?.origin === base.origin;
  if (!hosted) return original.https(first, ...rest);
  const path = options?.path ?? (url ? url.pathname + url.search : '/');
  const { agent, ...otherOptions } = options ?? {};
  const target = { ...otherOptions, path, protocol: base.protocol, host: base.hostname };
  target.hostname = base.hostname.replace(/^\[|\]$/g, '');
  target.port = base.port || (base.protocol === 'https:' ? 443 : 80);
  target.method = options?.method ?? 'GET';
  if (base.protocol === 'https:' && agent) target.agent = agent;
  return original[base.protocol.slice(0, -1)](target, callback);
};
https.request = request;
https.get = (...args) => {
  const sent = request(...args);
  sent.end();
  return sent;
};
syncBuiltinESMExports();
