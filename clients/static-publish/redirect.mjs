// Loaded before the publisher with NODE_OPTIONS=--import: redirects requests for the hosted API
// to STEADFAST_URL and logs each exchange as a line of JSON in the file STEADFAST_LOG.
//
// The URL is replaced when the publisher constructs its Request, not by copying the Request: a
// copy would send a body of known length in chunks, which the publisher does not do.

import { appendFileSync } from 'node:fs';

const HOSTED = 'https://api.fastly.com/';
const BASE = `${process.env.STEADFAST_URL.replace(/\/+$/, '')}/`;
const LOG = process.env.STEADFAST_LOG;

const PlainRequest = globalThis.Request;
const plainFetch = globalThis.fetch;

globalThis.Request = class extends PlainRequest {
  constructor(input, init) {
    const address = String(input);
    if (!address.startsWith(HOSTED)) {
      throw new Error(`the publisher requested ${address}`);
    }
    super(BASE + address.slice(HOSTED.length), init);
  }
};

globalThis.fetch = async (request) => {
  const response = await plainFetch(request);
  if (LOG) {
    const { method } = request;
    const path = request.url.slice(BASE.length - 1);
    appendFileSync(LOG, `${JSON.stringify({ method, path, status: response.status })}\n`);
  }
  return response;
};
