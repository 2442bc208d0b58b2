// Defines the published site and the configuration of the publisher, and runs the publisher.

import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, extname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const STATE = process.env.CLIENTS_STATE;
const PACKAGE = join(STATE, 'node_modules/@fastly/compute-js-static-publish');
const PRELOAD = join(dirname(fileURLToPath(import.meta.url)), 'redirect.mjs');
const LOG = join(STATE, 'exchanges.ndjson');
const RUN_LIMIT_MS = 100_000;
const MIB = 1024 * 1024;

export const APP = join(STATE, 'app');
export const STORE_NAME = 'site content';
// Contains a space, which the publisher encodes as %20 for the first page of a list and as + for the next.
export const PUBLISH_ID = 'my site';

/** The publisher splits larger files into chunks of this size. */
export const CHUNK = 20 * MIB;

const TYPES = {
  '.html': 'text/html',
  '.css': 'text/css',
  '.js': 'application/javascript',
  '.txt': 'text/plain',
  '.svg': 'image/svg+xml',
  '.png': 'image/png',
  '.jpg': 'image/jpeg',
};
const COMPRESSED = new Set(['.html', '.css', '.js', '.txt', '.svg']);

/** Returns pseudorandom bytes, which are the same in every run. */
function noise(length, seed) {
  const blocks = [];
  for (let index = 0; index * 64 < length; index += 1) {
    blocks.push(createHash('sha512').update(`${seed} ${index}`).digest());
  }
  return Buffer.concat(blocks).subarray(0, length);
}

export function sha256(bytes) {
  return createHash('sha256').update(bytes).digest('hex');
}

function page(title) {
  return Buffer.from(`<!doctype html><title>${title}</title>\n<p>${title}, read.</p>\n`.repeat(20));
}

/** The content of each file, by its path in the site. */
export const files = new Map([
  ['/index.html', page('Home')],
  ['/404.html', page('Not here')],
  ['/about us.html', page('About us')],
  ['/über/straße & more.html', page('Straße')],
  ['/assets/style.css', Buffer.from('body { margin: 0; color: #222 }\n'.repeat(50))],
  ['/assets/copy of style.css', Buffer.from('body { margin: 0; color: #222 }\n'.repeat(50))],
  ['/assets/app.js', Buffer.from('console.log("published");\n'.repeat(40))],
  ['/assets/logo.svg', Buffer.from('<svg xmlns="http://www.w3.org/2000/svg"></svg>\n')],
  ['/assets/pixel.png', Buffer.from(Array.from({ length: 2048 }, (_, index) => index % 256))],
  ['/photos/a big one.jpg', noise(MIB + MIB / 2 + 1, 'photo')],
  ['/downloads/huge.bin', noise(CHUNK + MIB, 'huge')],
  ['/empty.txt', Buffer.alloc(0)],
  ['/empty.bin', Buffer.alloc(0)],
  ['/.well-known/security.txt', Buffer.from('Contact: mailto:someone@example.com\n')],
]);

export function typeOf(path) {
  return TYPES[extname(path)] ?? 'application/octet-stream';
}

/** Returns the variants that the publisher creates for a file. */
export function variantsOf(path) {
  return COMPRESSED.has(extname(path)) ? ['original', 'br', 'gzip'] : ['original'];
}

/** Returns the key of a variant of a file in the store. */
export function assetKey(bytes, variant = 'original') {
  const key = `${PUBLISH_ID}_files_sha256_${sha256(bytes)}`;
  return variant === 'original' ? key : `${key}_${variant}`;
}

/** Returns the keys of all variants of these files, without duplicates. */
export function assetKeys(entries) {
  const keys = entries.flatMap(
    ([path, bytes]) => variantsOf(path).map((variant) => assetKey(bytes, variant)),
  );
  return [...new Set(keys)].sort();
}

function write(path, bytes) {
  const target = join(APP, path);
  mkdirSync(dirname(target), { recursive: true });
  writeFileSync(target, bytes);
}

export function writeFile(path, bytes) {
  files.set(path, bytes);
  write(`public${path}`, bytes);
}

/** Creates a new application directory, like the publisher's scaffolding. */
export function makeApp() {
  rmSync(APP, { recursive: true, force: true });
  const rc = {
    kvStoreName: STORE_NAME,
    publishId: PUBLISH_ID,
    defaultCollectionName: 'live',
    staticPublisherWorkingDir: './static-publisher',
  };
  const content = {
    rootDir: './public',
    server: { spaFile: null, notFoundPageFile: '/404.html', autoIndex: ['index.html'] },
  };
  write('package.json', '{ "type": "module", "private": true }\n');
  write('fastly.toml', 'manifest_version = 3\nservice_id = "0123456789abcdefABCDEF"\n');
  write('static-publish.rc.js', `export default ${JSON.stringify(rc)};\n`);
  write('publish-content.config.js', `export default ${JSON.stringify(content)};\n`);
  write('public/.hidden', 'files that begin with a dot are not published');
  for (const [path, bytes] of files) {
    write(`public${path}`, bytes);
  }
}

/**
 * Runs one publisher command; returns its exit code, output and exchanges. `steadfast env`
 * redirects with its own module, which logs no exchanges.
 */
export async function publisher(
  args,
  { token = process.env.STEADFAST_TOKEN, byEnv = false } = {},
) {
  rmSync(LOG, { force: true });
  const plain = [process.execPath, join(PACKAGE, 'build/cli/index.js'), ...args];
  const [program, ...rest] = byEnv ? [process.env.STEADFAST_BIN, 'env', '--', ...plain] : plain;
  const redirect = { NODE_OPTIONS: `--import=${pathToFileURL(PRELOAD)}`, STEADFAST_LOG: LOG };
  const env = {
    ...process.env,
    FASTLY_API_TOKEN: token,
    ...(byEnv ? { FASTLY_API_ENDPOINT: process.env.STEADFAST_URL } : redirect),
  };
  const child = spawn(program, rest, {
    cwd: APP, env, stdio: ['ignore', 'pipe', 'pipe'], timeout: RUN_LIMIT_MS,
  });
  let output = '';
  const collect = (text) => {
    output += text;
    // The publisher would wait a minute and retry. A retry counts as a failure.
    if (text.includes('retryable error')) {
      child.kill('SIGKILL');
    }
  };
  child.stdout.setEncoding('utf8').on('data', collect);
  child.stderr.setEncoding('utf8').on('data', collect);
  const stop = () => {
    child.kill('SIGKILL');
    process.exit(1);
  };
  process.once('SIGTERM', stop).once('SIGINT', stop);
  const code = await new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', resolve);
  });
  process.removeListener('SIGTERM', stop).removeListener('SIGINT', stop);
  const log = existsSync(LOG) ? readFileSync(LOG, 'utf8').trimEnd().split('\n') : [];
  const exchanges = log.filter(Boolean).map((line) => JSON.parse(line));
  return { code, output, exchanges };
}

/** Runs a publisher command that must succeed without failures, retries or warnings about the API. */
export async function publisherMust(...args) {
  return mustHaveDone(args, await publisher(args));
}

/** Runs a publisher command with `steadfast env --`; the command must meet the same conditions. */
export async function publisherByEnvMust(...args) {
  return mustHaveDone(args, await publisher(args, { byEnv: true }));
}

function mustHaveDone(args, result) {
  const tail = result.output.split('\n').slice(-25).join('\n');
  if (result.code !== 0 || /❌|‼️|Failed:|Attempt /u.test(result.output)) {
    throw new Error(`"${args.join(' ')}" exited with status ${result.code}:\n${tail}`);
  }
  return result;
}
