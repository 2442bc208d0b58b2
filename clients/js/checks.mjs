// Runs named checks one at a time, in order. A failed check does not stop the run. The last line of the
// output states the numbers of passed and failed checks.

const LIMIT_MS = 120_000;

let passed = 0;
let failed = 0;

/** Runs a group of checks under a heading. An error outside a check counts as a failed check. */
export async function section(title, body) {
  console.log(`\n${title}`);
  try {
    await body();
  } catch (error) {
    fail(`error outside a check in section: ${title}`, error);
  }
}

/** Runs one check. It fails if `body` throws or exceeds the time limit. */
export async function check(name, body) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`timed out after ${LIMIT_MS / 1000} s`)), LIMIT_MS);
  });
  try {
    await Promise.race([body(), late]);
    passed += 1;
    console.log(`  ok      ${name}`);
  } catch (error) {
    fail(name, error);
  } finally {
    clearTimeout(timer);
  }
}

/** Prints how many checks passed and failed. Exits with 1 if any check failed or none passed. */
export function finish() {
  console.log(`\n${passed} passed, ${failed} failed`);
  process.exit(failed === 0 && passed > 0 ? 0 : 1);
}

function fail(name, error) {
  failed += 1;
  console.log(`  FAILED  ${name}`);
  const text = error instanceof Error ? (error.stack ?? String(error)) : describe(error);
  for (const line of text.split('\n').slice(0, 30)) {
    console.log(`          ${line}`);
  }
}

function describe(value) {
  try {
    return JSON.stringify(value) ?? String(value);
  } catch {
    return String(value);
  }
}
