// Loaded before the publisher with NODE_OPTIONS=--import. Redirects requests for the hosted API to
// STEADFAST_URL, and logs each request with its status as a line of JSON in the file STEADFAST_LOG.
//
// The URL is replaced when the publisher constructs a Request. If the Request were copied instead, a body
// of known length would be sent with chunked encoding, unlike in the publisher's own requests.

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
      throw new Error(`the publisher sent a request to an unexpected URL: ${address}`);
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
