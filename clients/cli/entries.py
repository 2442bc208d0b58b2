"""Checks of single entries: create, get, describe, list and delete."""

import base64

from checks import about, check, contains, equal, true
from command import unfolded

PRECONDITION = "412 Precondition Failed"


def create(store_id, key, value, *options):
    """Returns the arguments of a create command."""
    command = ("kv-store-entry", "create", "--store-id", store_id)
    return (*command, "--key", key, "--value", value, *options)


@check("get and describe return a created entry, as text and as JSON")
def _(fastly):
    store_id = fastly.store()
    output = fastly.ok(*create(store_id, "key", "some value", "--metadata", "words")).out
    equal(output.strip(), f"SUCCESS: Created key 'key' in KV Store '{store_id}'", "the output")
    equal(fastly.value(store_id, "key"), b"some value", "the value")
    output = fastly.entry("get", store_id, "--key", "key", "--json").out
    equal(output.strip(), '{"key": "c29tZSB2YWx1ZQ=="}', "the value as JSON")
    output = fastly.entry("describe", store_id, "--key", "key").out
    for part in ("Key: key\n", "Generation: ", "Metadata: words\n"):
        contains(output, part, "the output of describe")
    output = fastly.described(store_id, "key")
    equal((output["key"], output["metadata"]), ("key", "words"), "the description")
    generation = output["generation"]
    true(generation.isdigit() and int(generation) > 0, f"the generation in {output}")


@check("create --json and its alias insert behave the same")
def _(fastly):
    store_id = fastly.store()
    wanted = {"id": store_id, "key": "a/b"}
    equal(fastly.json(*create(store_id, "a/b", "v")), wanted, "the output")
    command = ("kv-store-entry", "insert", "--store-id", store_id, "--key", "c", "--value", "v")
    fastly.ok(*command)
    equal(fastly.keys(store_id), ["a/b", "c"], "the keys")


@check("values of every kind round-trip byte for byte")
def _(fastly):
    store_id = fastly.store()
    for value in (
        " ",
        "\n",
        "line\r\n",
        "ümläut ☃ 😀",
        '{"a": 1}',
        '"quoted"',
        "null",
        "x" * 100_000,
    ):
        with about(value[:40]):
            fastly.ok(*create(store_id, "key", value))
            equal(fastly.value(store_id, "key"), value.encode(), "the value")


@check("keys of every kind are written, read, listed and deleted")
def _(fastly):
    store_id = fastly.store()
    keys = [
        "a/b",
        "a b",
        "a+b",
        "a%2Fb",
        "%",
        "x//y",
        "/",
        "é✓",
        "a,b:@=&$",
        "!*'()",
        "[a]",
        "..x",
        ".hidden",
        "...",
        "~",
        "\\",
        '"',
        "trail/",
        "keys",
        "batch",
        "k" * 1024,
        "é" * 512,
    ]
    for key in keys:
        with about(key):
            fastly.ok(*create(store_id, key, f"value of {key}"))
    equal(fastly.keys(store_id), sorted(keys, key=lambda key: key.encode()), "the keys")
    for key in keys:
        with about(key):
            equal(fastly.value(store_id, key), f"value of {key}".encode(), "the value")
            equal(fastly.described(store_id, key)["key"], key, "the description")
            fastly.entry("delete", store_id, "--key", key)
    equal(fastly.keys(store_id), [], "the keys at the end")


@check("rejected keys are named in the error and change nothing")
def _(fastly):
    store_id = fastly.store()
    fastly.ok(*create(store_id, "kept", "v"))
    for key in (
        "a?b",
        "a#b",
        "a;b",
        "a^b",
        "a|b",
        "a\nb",
        "a/../b",
        "../x",
        "a/..",
        "k" * 1025,
        " ",
        ".well-known/acme-challenge/x",
    ):
        with about(key):
            expected = ("400 Bad Request", "key")
            fastly.refused(expected, *create(store_id, key, "v"))
            for action in ("get", "describe", "delete"):
                command = ("kv-store-entry", action, "--store-id", store_id, "--key", key)
                fastly.refused(expected, *command)
    equal(fastly.keys(store_id), ["kept"], "the keys")


@check("requests for the keys '.' and '..', which the CLI sends to the path of the key list, change nothing")
def _(fastly):
    for kept in ([], ["a", "b"]):
        store_id = fastly.store()
        for key in kept:
            fastly.ok(*create(store_id, key, "v"))
        for key in (".", ".."):
            with about((key, kept)):
                fastly.refused("the Fastly API returned 4", *create(store_id, key, "v"))
                delete = ("kv-store-entry", "delete", "--store-id", store_id, "--key", key)
                fastly.refused("the Fastly API returned 4", *delete)
                fastly.refused("the Fastly API returned 4", *delete, "--force")
                equal(fastly.keys(store_id), kept, "the keys")
        fastly.ok("kv-store", "describe", "--store-id", store_id)


@check("a missing key is reported as not found; delete --force succeeds")
def _(fastly):
    store_id = fastly.store()
    for action in ("get", "describe", "delete"):
        with about(action):
            command = ("kv-store-entry", action, "--store-id", store_id, "--key", "nope")
            fastly.refused("404 Not Found", *command)
            fastly.refused("404 Not Found", *command, "--json")
    output = fastly.entry("delete", store_id, "--key", "nope", "--force").out
    contains(output, "SUCCESS: Deleted key 'nope'", "the output")
    command = ("kv-store-entry", "delete", "--store-id", store_id, "--key", "x", "--force")
    output = fastly.json(*command)
    equal(output, {"key": "x", "store_id": store_id, "deleted": True}, "the output")


@check("delete removes the entry; a second delete fails")
def _(fastly):
    store_id = fastly.store()
    fastly.ok(*create(store_id, "key", "v"))
    output = fastly.entry("delete", store_id, "--key", "key").out
    equal(output.strip(), f"SUCCESS: Deleted key 'key' from KV Store '{store_id}'", "the output")
    command = ("kv-store-entry", "delete", "--store-id", store_id, "--key", "key")
    fastly.refused("404 Not Found", *command)
    equal(fastly.keys(store_id), [], "the keys")


@check("--add creates a new key and rejects an existing one")
def _(fastly):
    store_id = fastly.store()
    fastly.ok(*create(store_id, "key", "first", "--add"))
    fastly.refused(PRECONDITION, *create(store_id, "key", "second", "--add"))
    fastly.refused(PRECONDITION, *create(store_id, "key", "second", "--add", "--json"))
    equal(fastly.value(store_id, "key"), b"first", "the value")


@check("--append and --prepend extend the value and drop the metadata")
def _(fastly):
    store_id = fastly.store()
    fastly.ok(*create(store_id, "key", "b", "--append", "--metadata", "m"))
    equal(fastly.described(store_id, "key")["metadata"], "m", "the metadata")
    fastly.ok(*create(store_id, "key", "c", "--append"))
    fastly.ok(*create(store_id, "key", "a", "--prepend"))
    equal(fastly.value(store_id, "key"), b"abc", "the value")
    equal(fastly.described(store_id, "key")["metadata"], "", "the metadata")


@check("any two of --add, --append and --prepend are rejected")
def _(fastly):
    store_id = fastly.store()
    for flags in (("--add", "--append"), ("--append", "--prepend"), ("--add", "--prepend")):
        with about(flags):
            fastly.refused("400 Bad Request", *create(store_id, "key", "v", *flags))
    equal(fastly.keys(store_id), [], "the keys")


@check("--background-fetch writes the new value")
def _(fastly):
    store_id = fastly.store()
    for value in ("old", "new"):
        fastly.ok(*create(store_id, "key", value, "--background-fetch"))
        equal(fastly.value(store_id, "key"), value.encode(), "the value")


@check("UTF-8 metadata round-trips, and metadata of more than 2000 bytes is rejected")
def _(fastly):
    store_id = fastly.store()
    for metadata in ("mé✓ 😀", "m" * 2000, '{"a": [1, "b"]}'):
        with about(metadata):
            fastly.ok(*create(store_id, "key", "v", "--metadata", metadata))
            equal(fastly.described(store_id, "key")["metadata"], metadata, "the metadata")
    command = create(store_id, "key", "other", "--metadata", "m" * 2001)
    fastly.refused(("400 Bad Request", "metadata"), *command)
    equal(fastly.value(store_id, "key"), b"v", "the value")


@check("create, get and delete with --if-generation-match fail if the generation does not match")
def _(fastly):
    store_id = fastly.store()
    fastly.ok(*create(store_id, "key", "one"))
    first = fastly.described(store_id, "key")["generation"]
    fastly.ok(*create(store_id, "key", "two", "--if-generation-match", first))
    second = fastly.described(store_id, "key")["generation"]
    true(int(second) > int(first), f"the generation went from {first} to {second}")
    fastly.refused(PRECONDITION, *create(store_id, "key", "three", "--if-generation-match", first))
    fastly.refused(PRECONDITION, *create(store_id, "none", "v", "--if-generation-match", first))
    output = fastly.entry("get", store_id, "--key", "key", "--if-generation-match", second)
    equal(output.bytes, b"two", "the value read with its generation")
    of_it = ("--store-id", store_id, "--key", "key", "--if-generation-match")
    fastly.refused("generation value does not match", "kv-store-entry", "get", *of_it, first)
    fastly.refused(PRECONDITION, "kv-store-entry", "delete", *of_it, first)
    fastly.refused(PRECONDITION, "kv-store-entry", "delete", *of_it, first, "--force")
    equal(fastly.value(store_id, "key"), b"two", "the value")
    fastly.ok("kv-store-entry", "delete", *of_it, second)
    fastly.refused("404 Not Found", "kv-store-entry", "delete", *of_it, second)
    equal(fastly.keys(store_id), [], "the keys")


@check("list filters by prefix and consistency and reports an empty result")
def _(fastly):
    store_id = fastly.store()
    contains(fastly.entry("list", store_id).out, "no keys", "the list of an empty store")
    equal(fastly.keys(store_id), [], "the list of an empty store")
    for key in ("b/1", "a/1", "a/2", "a 3"):
        fastly.ok(*create(store_id, key, "v"))
    output = fastly.entry("list", store_id).out
    true(output.endswith("\na 3\na/1\na/2\nb/1\n"), f"the output of list: {output}")
    equal(fastly.keys(store_id, "--prefix", "a/"), ["a/1", "a/2"], "the keys with the prefix")
    equal(fastly.keys(store_id, "--prefix", "a "), ["a 3"], "the keys with a prefix that contains a space")
    equal(fastly.keys(store_id, "--prefix", "c"), [], "the keys with a prefix that matches no key")
    equal(fastly.keys(store_id, "--consistency", "strong"), ["a 3", "a/1", "a/2", "b/1"], "the strong list")
    true(
        set(fastly.keys(store_id, "--consistency", "eventual")) <= {"a 3", "a/1", "a/2", "b/1"},
        "the eventual list contains an unexpected key",
    )


@check("the CLI rejects invalid arguments, and nothing is written")
def _(fastly):
    store_id = fastly.store()
    command = create(store_id, "key", "v", "--if-generation-match", "abc")
    fastly.refused("invalid generation value", *command)
    fastly.refused("--key and --value are required", *create(store_id, "key", ""))
    delete = ("kv-store-entry", "delete", "--store-id", store_id)
    fastly.refused("none of --all, --prefix, or --key", *delete)
    output = unfolded(fastly.run(*create(store_id, "", "v")).err)
    contains(output, "--key and --value are required", "the error for an empty key")
    equal(fastly.keys(store_id), [], "the keys")


@check("get and describe handle a value of 25 MiB")
def _(fastly):
    store_id = fastly.store()
    folder = fastly.folder()
    value = base64.b85encode(bytes(range(256)) * 81920)[: 25 * 1024 * 1024]
    equal(len(value), 25 * 1024 * 1024, "the length of the value")
    (folder / "big").write_bytes(value)
    fastly.entry("create", store_id, "--dir", str(folder))
    for _ in range(3):  # describe requests the value, but does not read it
        equal(fastly.described(store_id, "big")["key"], "big", "the description")
    true(fastly.value(store_id, "big") == value, "the value differs")
