"""Checks with more than a thousand keys: paging, delete --all and delete --prefix."""

import json

from checks import check, contains, equal, true

NUMBER = 2500
KEYS = [f"{'even' if number % 2 == 0 else 'odd'}/{number:05}" for number in range(NUMBER)]


def filled(fastly):
    """Creates a store with 2,500 keys; returns its id."""
    store_id = fastly.store("Many")
    path = fastly.folder() / "batch"
    path.write_text("".join(json.dumps({"key": key, "value": "aGk="}) + "\n" for key in KEYS))
    fastly.entry("create", store_id, "--file", str(path))
    return store_id


@check("every form of the list returns all 2,500 keys in order")
def _(fastly):
    store_id = filled(fastly)
    wanted = sorted(KEYS)
    equal(fastly.keys(store_id), wanted, "the keys")
    output = fastly.entry("list", store_id).out
    equal(output.split()[-NUMBER:], wanted, "the printed keys")
    equal(fastly.keys(store_id, "--consistency", "strong"), wanted, "the strong list")
    odd = [key for key in wanted if key.startswith("odd/")]
    equal(fastly.keys(store_id, "--prefix", "odd/"), odd, "the keys with the prefix")


@check("delete --prefix deletes the keys with the prefix and no others")
def _(fastly):
    store_id = filled(fastly)
    output = fastly.entry("delete", store_id, "--prefix", "odd/", "--auto-yes").out
    contains(output, f"SUCCESS: Deleted {NUMBER // 2} keys from KV Store", "the output")
    left = sorted(key for key in KEYS if key.startswith("even/"))
    equal(fastly.keys(store_id), left, "the remaining keys")
    output = fastly.entry("delete", store_id, "--prefix", "odd/", "--auto-yes").out
    contains(output, "Deleted keys: 0", "the second output")


@check("delete --all deletes all keys, 100 at a time")
def _(fastly):
    store_id = filled(fastly)
    output = fastly.entry("delete", store_id, "--all", "--auto-yes").out
    contains(output, f"Deleted keys: {NUMBER}", "the output")
    contains(output, f"SUCCESS: Deleted all keys from KV Store '{store_id}'", "the output")
    equal(fastly.keys(store_id), [], "the remaining keys")
    fastly.ok("kv-store", "delete", "--store-id", store_id)


@check("delete --all works with --concurrency and --max-errors, and on an empty store")
def _(fastly):
    store_id = filled(fastly)
    limits = ("--concurrency", "7", "--max-errors", "1")
    output = fastly.entry("delete", store_id, "--all", "--auto-yes", *limits).out
    contains(output, f"Deleted keys: {NUMBER}", "the output")
    output = fastly.entry("delete", store_id, "--all", "--auto-yes").out
    contains(output, "Deleted keys: 0", "the second output")


@check("kv-store delete --all empties and deletes a store of 2,500 keys")
def _(fastly):
    store_id = filled(fastly)
    output = fastly.ok("kv-store", "delete", "--store-id", store_id, "--all", "--auto-yes").out
    contains(output, f"Deleted keys: {NUMBER}", "the output")
    contains(output, f"SUCCESS: Deleted KV Store '{store_id}'", "the output")
    fastly.refused("404 Not Found", "kv-store", "describe", "--store-id", store_id)


@check("delete --all and --prefix delete nothing without confirmation")
def _(fastly):
    store_id = fastly.store()
    fastly.entry("create", store_id, "--key", "a", "--value", "v")
    for which in (("--all",), ("--prefix", "a")):
        for answer in (b"", b"n\n"):
            command = ("kv-store-entry", "delete", "--store-id", store_id, *which)
            output = fastly.run(*command, stdin=answer)
            true("SUCCESS" not in output.out, f"keys were deleted: {output}")
    equal(fastly.keys(store_id), ["a"], "the keys")
