"""Checks of stores: create, list, describe and delete."""

import json
import re

from checks import about, check, contains, equal, true
from command import one

MISSING = "0000000000000000000000"
FIELDS = ["CreatedAt", "Name", "StoreID", "UpdatedAt"]


@check("create prints the name and the id of the new store")
def _(fastly):
    name = fastly.name()
    output = fastly.ok("kv-store", "create", "--name", name).out
    found = re.search(rf"SUCCESS: Created KV Store '{name}' \(([0-9a-z]{{22}})\)", output)
    true(found, f"the output of create: {output}")
    store_id = fastly.track(found[1])
    output = fastly.ok("kv-store", "describe", "--store-id", store_id).out
    for part in (f"ID: {store_id}\n", f"Name: {name}\n", "Created (UTC): ", "Last edited (UTC): "):
        contains(output, part, "the output of describe")


@check("create --json and describe --json print the same store, for every location")
def _(fastly):
    for location in (None, "US", "EU", "ASIA", "AUS"):
        with about(location):
            where = ("--location", location) if location else ()
            name = fastly.name("Located")
            created = fastly.json("kv-store", "create", "--name", name, *where)
            fastly.track(created["StoreID"])
            equal((sorted(created), created["Name"]), (FIELDS, name), "the new store")
            output = fastly.json("kv-store", "describe", "--store-id", created["StoreID"])
            equal(output, created, "the described store")
            output = fastly.json("kv-store", "get", "--store-id", created["StoreID"])
            equal(output, created, "the store printed by the alias get")


@check("names with non-ASCII letters, spaces and punctuation round-trip")
def _(fastly):
    signs = "A~`!@#$%^&*()=+[]{};:'\"<>,./?|\\"
    for name in ("Söre ☃ 😀", signs, "b" * 255, "ö".join("C" * 128)):
        with about(name):
            created = fastly.json("kv-store", "create", "--name", name)
            store_id = fastly.track(created["StoreID"])
            output = fastly.json("kv-store", "describe", "--store-id", store_id)
            equal(output["Name"], name, "the name")


@check("an existing name is rejected with an error that contains the name")
def _(fastly):
    name = fastly.name()
    created = fastly.json("kv-store", "create", "--name", name)
    fastly.track(created["StoreID"])
    expected = ("400 Bad Request", f"store with name '{name}' already exists")
    fastly.refused(expected, "kv-store", "create", "--name", name)
    fastly.refused(expected, "kv-store", "create", "--name", name, "--json")
    listed = fastly.json("kv-store", "list")["Data"]
    equal(
        one([s for s in listed if s["Name"] == name], "the stores")["StoreID"],
        created["StoreID"],
        "id",
    )


@check("an invalid name is rejected with an error that mentions the name")
def _(fastly):
    for name in ("a\nb", "c" * 256):
        with about(name):
            fastly.refused(("400 Bad Request", "name"), "kv-store", "create", "--name", name)


@check("list prints every store as text, with --verbose and with --json")
def _(fastly):
    ids = [fastly.store("Listed") for _ in range(3)]
    text = fastly.ok("kv-store", "list").out
    verbose = fastly.ok("kv-store", "list", "--verbose").out
    listed = fastly.json("kv-store", "list")
    for store_id in ids:
        contains(text, f"ID: {store_id}\n", "the list")
        contains(verbose, f"ID: {store_id}\n", "the verbose list")
        found = one(
            [s for s in listed["Data"] if s["StoreID"] == store_id], "the stores with this id"
        )
        equal(found, fastly.json("kv-store", "describe", "--store-id", store_id), "the store")
    meta = {"limit": "1000", "total": str(len(listed["Data"]))}
    equal(listed["Meta"], meta, "meta")


@check("every command reports an unknown store as not found")
def _(fastly):
    for store_id in (MISSING, "nosuch", "a b", "%2e%2e"):
        of_it = ("--store-id", store_id)
        for command in (
            ("kv-store", "describe", *of_it),
            ("kv-store", "delete", *of_it),
            ("kv-store-entry", "list", *of_it),
            ("kv-store-entry", "list", *of_it, "--json"),
            ("kv-store-entry", "get", *of_it, "--key", "k"),
            ("kv-store-entry", "describe", *of_it, "--key", "k"),
            ("kv-store-entry", "create", *of_it, "--key", "k", "--value", "v"),
            ("kv-store-entry", "delete", *of_it, "--key", "k"),
            ("kv-store-entry", "delete", *of_it, "--key", "k", "--force"),
            ("kv-store-entry", "create", *of_it, "--stdin"),
        ):
            with about(command):
                fastly.refused("404 Not Found", *command, stdin=b'{"key":"k","value":"aGk="}\n')


@check("delete removes an empty store, but not a store with entries")
def _(fastly):
    store_id = fastly.store()
    fastly.entry("create", store_id, "--key", "last", "--value", "one")
    command = ("kv-store", "delete", "--store-id", store_id)
    fastly.refused("409 Conflict", *command)
    fastly.refused("409 Conflict", *command, "--json")
    equal(fastly.value(store_id, "last"), b"one", "the entry")
    fastly.entry("delete", store_id, "--key", "last")
    contains(fastly.ok(*command).out, f"SUCCESS: Deleted KV Store '{store_id}'")
    fastly.refused("404 Not Found", *command)
    store_id = fastly.store()
    output = fastly.json("kv-store", "delete", "--store-id", store_id)
    equal(output, {"id": store_id, "deleted": True}, "the output of delete --json")


@check("delete --all empties and deletes a store, with --auto-yes or a confirmation")
def _(fastly):
    for answer in ((("--auto-yes",), b""), ((), b"y\n")):
        store_id = fastly.store()
        for number in range(5):
            fastly.entry("create", store_id, "--key", f"k{number}", "--value", "v")
        command = ("kv-store", "delete", "--store-id", store_id, "--all")
        output = fastly.ok(*command, *answer[0], stdin=answer[1]).out
        contains(output, "Deleted keys: 5", "the output")
        contains(output, f"SUCCESS: Deleted KV Store '{store_id}'", "the output")
        fastly.refused("404 Not Found", "kv-store", "describe", "--store-id", store_id)


@check("delete with a store id that contains dots or slashes deletes nothing")
def _(fastly):
    store_id = fastly.store()
    before = fastly.json("kv-store", "list")["Meta"]["total"]
    for wrong in (".", "..", f"{store_id}/", f"{store_id}/keys", f"x/../{store_id}"):
        with about(wrong):
            fastly.refused("the Fastly API returned 4", "kv-store", "delete", "--store-id", wrong)
    equal(fastly.json("kv-store", "list")["Meta"]["total"], before, "the number of stores")
    fastly.ok("kv-store", "describe", "--store-id", store_id)


@check("list follows cursors to print more than a thousand stores; --json prints only the first page")
def _(fastly):
    ids = []
    for number in range(1005):
        body = json.dumps({"name": f"many {number:04}"}).encode()
        status, answer = fastly.http("POST", "/resources/stores/kv", body)
        equal(status, 201, "the status of a creation")
        ids.append(json.loads(answer)["id"])
    try:
        listed = re.findall(r"^ID: (\S+)$", fastly.ok("kv-store", "list").out, re.MULTILINE)
        equal([store_id for store_id in listed if store_id in set(ids)], ids, "the stores listed")
        equal(len(listed), len(set(listed)), "the number of distinct stores")
        page = fastly.json("kv-store", "list")
        equal(len(page["Data"]), 1000, "the number of stores on the first page")
        equal(page["Meta"]["total"], str(len(listed)), "the total")
        true(page["Meta"].get("next_cursor"), "the first page has no cursor")
    finally:
        for store_id in ids:
            fastly.http("DELETE", f"/resources/stores/kv/{store_id}")
