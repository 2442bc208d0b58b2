"""Checks of items: values, metadata, generations, write modes and time to live."""

import email.utils
import time

from fastly.exceptions import ApiException, ApiTypeError, NotFoundException

from checks import Failed, about, check, contains, equal, true
from service import ROOT, explained, refused

MIB = 1024 * 1024
LIMIT = 25 * MIB
MISSING = "0000000000000000000000"


@check("a write returns 200 with an empty body")
def _(service):
    nothing, status, headers = service.put(service.store(), "key", "value")
    equal((nothing, status), (None, 200), "the response")
    equal(headers.get("content-length"), "0", "the Content-Length")
    true("content-type" not in headers, "the response has a Content-Type")


@check("a read returns the value and all headers of an item")
def _(service):
    store_id = service.store()
    before = time.time()
    service.put(store_id, "key", "twelve bytes", metadata="some words")
    value, status, headers = service.items.kv_store_get_item(
        store_id, "key", _return_http_data_only=False
    )
    equal((value, status), ("twelve bytes", 200), "the response")
    for name, wanted in {
        "content-type": "application/octet-stream",
        "content-length": "12",
        "stored-content-length": "12",
        "metadata": "some words",
        "cache-control": "no-store",
        "pragma": "no-cache",
    }.items():
        equal(headers.get(name), wanted, name)
    for name in ("etag", "content-encoding", "transfer-encoding"):
        true(name not in headers, f"the response has a header {name}")
    generation = headers["generation"]
    true(generation.isdigit() and len(generation) == 16, f"the generation {generation}")
    seconds = int(generation) / 1e6
    true(before - 2 <= seconds <= time.time() + 2, f"the generation {generation} is not the time")
    modified = email.utils.parsedate_to_datetime(headers["last-modified"]).timestamp()
    equal(modified, int(generation) // 1_000_000, "last-modified in seconds")


@check("an item without metadata has an empty metadata header")
def _(service):
    store_id = service.store()
    service.put(store_id, "key", "value")
    equal(service.raw(store_id, "key")[1].get("metadata"), "", "the metadata header")


@check("text of every kind round-trips")
def _(service):
    store_id = service.store()
    values = [
        "hello",
        " ",
        "  two spaces  ",
        "\n",
        "line\r\nline\n",
        "\ttab",
        "tab\t",
        "\x00",
        "a\x00b\x01\x7f",
        "ümläut ☃ 😀",
        "\ufeffmark",
        "key=value&other=1",
        "a" * 10,
        "--boundary",
        "%2F+%00",
        "x" * 100_000,
        "é" * 50_001,
    ]
    for value in values:
        with about(value[:40]):
            service.put(store_id, "text", value)
            equal(service.text(store_id, "text"), value.encode(), "the bytes")
            equal(service.items.kv_store_get_item(store_id, "text"), value, "the parsed value")


@check("values that look like JSON are stored unchanged, although the client parses them")
def _(service):
    store_id = service.store()
    for value in ("123", '{"a":1}', "true", "null", "[1, 2]", "1e5"):
        with about(value):
            service.put(store_id, "json", value)
            equal(service.text(store_id, "json"), value.encode(), "the bytes")
            try:
                service.items.kv_store_get_item(store_id, "json")
            except ApiTypeError:
                pass
            else:
                raise Failed("the client returned a value that looks like JSON without parsing it")
    service.put(store_id, "json", '"quoted"')
    equal(service.text(store_id, "json"), b'"quoted"', "the bytes of a JSON string")
    equal(
        service.items.kv_store_get_item(store_id, "json"), "quoted", "the decoded value"
    )


@check("an empty string is sent as two quotes, and these two bytes are stored")
def _(service):
    store_id = service.store()
    service.put(store_id, "empty", "")
    value, headers = service.raw(store_id, "empty")
    equal((value, headers["content-length"]), (b'""', "2"), "the value")


@check("the raw mode of the client returns binary values unchanged")
def _(service):
    store_id = service.store()
    value = bytes(range(256)) * 3
    equal(service.http("PUT", f"{ROOT}/{store_id}/keys/bytes", value).status, 200, "the status")
    equal(service.text(store_id, "bytes"), value, "the bytes")
    try:
        service.items.kv_store_get_item(store_id, "bytes")
    except UnicodeDecodeError:
        pass
    else:
        raise Failed("the client returned a binary value without decoding it")


@check("a value of 25 MiB is stored; one byte more returns 413 and changes nothing")
def _(service):
    store_id = service.store()
    service.put(store_id, "big", "x" * LIMIT)
    equal(len(service.text(store_id, "big")), LIMIT, "the length")
    for round_ in range(3):  # the response must arrive even though the client is still sending
        with about(f"round {round_}"):
            error = refused(413, ApiException, service.put, store_id, "big", "y" * (LIMIT + 1))
            explained(error)
    value = service.text(store_id, "big")
    true(len(value) == LIMIT and value.count(b"x") == LIMIT, "the value was changed")


@check("an append that would exceed 25 MiB returns 413 and changes nothing")
def _(service):
    store_id = service.store()
    service.put(store_id, "big", "x" * LIMIT)
    generation = service.generation(store_id, "big")
    for option in ("append", "prepend"):
        with about(option):
            refused(413, ApiException, service.put, store_id, "big", "y", **{option: True})
    equal(service.generation(store_id, "big"), generation, "the generation")
    equal(len(service.text(store_id, "big")), LIMIT, "the length")


@check("each write increases the generation, even if it only changes the metadata")
def _(service):
    store_id = service.store()
    seen = []
    for options in ({}, {}, {"metadata": "m"}, {"metadata": "n"}, {"append": True}, {}):
        service.put(store_id, "key", "value", **options)
        seen.append(service.generation(store_id, "key"))
        equal(service.generation(store_id, "key"), seen[-1], "the generation on a second read")
    service.items.kv_store_delete_item(store_id, "key")
    service.put(store_id, "key", "value", add=True)
    seen.append(service.generation(store_id, "key"))
    equal(seen, sorted(set(seen)), "the generations")
    true(seen[-1] < 2**53, "JavaScript cannot represent the generation")


@check("metadata round-trips byte for byte, including Latin-1 letters")
def _(service):
    store_id = service.store()
    for metadata in (
        "plain",
        "a=b; c=d, e",
        '{"json": [1, "two"]}',
        "in  ner",
        "h\xe9llo \xff \xa0.",
        "tab\tinside",
        "m" * 2000,
        "\xe9" * 2000,
    ):
        with about(metadata):
            service.put(store_id, "key", "value", metadata=metadata)
            value, headers = service.raw(store_id, "key")
            equal(headers["metadata"], metadata, "the metadata")
            equal(value, b"value", "the value")


@check("metadata of more than 2000 bytes returns 400 and changes nothing")
def _(service):
    store_id = service.store()
    service.put(store_id, "key", "value", metadata="kept")
    for length in (2001, 4000):
        with about(length):
            call = (service.put, store_id, "key", "other")
            explained(refused(400, ApiException, *call, metadata="m" * length), "metadata")
    value, headers = service.raw(store_id, "key")
    equal((value, headers["metadata"]), (b"value", "kept"), "the item")


@check("the client rejects metadata that contains a line break or is not Latin-1")
def _(service):
    store_id = service.store()
    for metadata in ("snow \u2603", "two\nlines", "two\r\nlines: x"):
        with about(metadata):
            try:
                service.put(store_id, "key", "value", metadata=metadata)
            except (UnicodeEncodeError, ValueError):
                continue
            raise Failed("the client sent the metadata")
    equal(service.keys(store_id), [], "the keys")


@check("overwriting replaces the value and metadata; omitted or empty metadata clears it")
def _(service):
    store_id = service.store()
    for options in ({}, {"metadata": ""}, {"add": False, "append": False, "prepend": False}):
        with about(options):
            service.put(store_id, "key", "longer than after", metadata="before")
            service.put(store_id, "key", "after", **options)
            value, headers = service.raw(store_id, "key")
            equal((value, headers["metadata"]), (b"after", ""), "the item")


@check("add creates an item; on an existing key it returns 412 without a body")
def _(service):
    store_id = service.store()
    equal(service.put(store_id, "key", "first", add=True, metadata="m")[1], 200, "the status")
    generation = service.generation(store_id, "key")
    empty_412(refused(412, ApiException, service.put, store_id, "key", "second", add=True))
    value, headers = service.raw(store_id, "key")
    equal(
        (value, headers["metadata"], int(headers["generation"])), (b"first", "m", generation), "the item"
    )
    service.put(store_id, "key", "third", add=False)
    equal(service.text(store_id, "key"), b"third", "the value after add=False")
    service.items.kv_store_delete_item(store_id, "key")
    service.put(store_id, "key", "fourth", add=True)
    equal(service.text(store_id, "key"), b"fourth", "the value added after a delete")


def empty_412(error):
    """Checks that a 412 response has no body."""
    equal(error.body, "", "the body of a 412")
    equal(error.headers.get("content-length"), "0", "the Content-Length of a 412")
    true("content-type" not in error.headers, "the 412 has a Content-Type")


@check("append and prepend extend the value, or create the item if it does not exist")
def _(service):
    store_id = service.store()
    service.put(store_id, "key", "b", append=True)
    equal(service.text(store_id, "key"), b"b", "the value created by append")
    service.put(store_id, "key", "c", append=True, prepend=False)
    service.put(store_id, "key", "a", prepend=True, append=False)
    equal(service.text(store_id, "key"), b"abc", "the value")
    service.put(store_id, "other", "p", prepend=True)
    equal(service.text(store_id, "other"), b"p", "the value created by prepend")
    service.put(store_id, "key", "plain", append=False, prepend=False)
    equal(service.text(store_id, "key"), b"plain", "the value after append=False")
    service.put(store_id, "cut", "\u00e9".encode().decode("latin-1")[:1])
    service.put(store_id, "cut", "x", append=True)
    equal(service.text(store_id, "cut"), "\u00c3x".encode(), "the value after the append")


@check("append and prepend drop the existing metadata and time to live")
def _(service):
    store_id = service.store()
    for option in ("append", "prepend"):
        with about(option):
            service.put(store_id, option, "x", metadata="meta", time_to_live_sec=2)
            service.put(store_id, option, "y", **{option: True})
            equal(service.raw(store_id, option)[1]["metadata"], "", "the metadata")
            service.put(store_id, option, "z", metadata="new", **{option: True})
            equal(service.raw(store_id, option)[1]["metadata"], "new", "the metadata of the append or prepend")
    time.sleep(2.3)
    equal(service.text(store_id, "append"), b"xyz", "the appended item, after its original expiry time")
    equal(service.text(store_id, "prepend"), b"zyx", "the prepended item, after its original expiry time")


@check("an append can set a time to live for an item that had none")
def _(service):
    store_id = service.store()
    service.put(store_id, "key", "x")
    service.put(store_id, "key", "y", append=True, time_to_live_sec=3)
    equal(service.text(store_id, "key"), b"xy", "the value before the expiry")
    time.sleep(3.1)
    refused(404, NotFoundException, service.items.kv_store_get_item, store_id, "key")


@check("any two of add, append and prepend return 400 and change nothing")
def _(service):
    store_id = service.store()
    for first, second in (("add", "append"), ("append", "prepend"), ("add", "prepend")):
        with about((first, second)):
            options = {first: True, second: True}
            explained(refused(400, ApiException, service.put, store_id, "key", "v", **options))
    equal(service.keys(store_id), [], "the keys")


@check("background_fetch has no effect on the response or the stored value")
def _(service):
    store_id = service.store()
    for number, background in enumerate((True, False, True)):
        equal(service.put(store_id, "key", f"v{number}", background_fetch=background)[1], 200, "status")
        equal(service.text(store_id, "key"), f"v{number}".encode(), "the value")


@check("an item exists until it expires, and is absent everywhere immediately afterwards")
def _(service):
    store_id = service.store()
    service.put(store_id, "short", "lived", time_to_live_sec=2)
    service.put(store_id, "shown", "lives", time_to_live_sec=60)
    written = time.monotonic()
    equal(service.text(store_id, "short"), b"lived", "the value before the expiry")
    equal(service.keys(store_id), ["short", "shown"], "the keys before the expiry")
    refused(412, ApiException, service.put, store_id, "short", "again", add=True)
    time.sleep(max(0, 2.05 - (time.monotonic() - written)))
    error = refused(404, NotFoundException, service.items.kv_store_get_item, store_id, "short")
    explained(error)
    equal(service.keys(store_id), ["shown"], "the keys after the expiry")
    equal(service.text(store_id, "shown"), b"lives", "the value of the item that has not expired")
    equal(service.put(store_id, "short", "new", add=True)[1], 200, "the status of an add after the expiry")
    equal(service.text(store_id, "short"), b"new", "the value after the add")


@check("overwriting removes the old time to live, and sets a new one if the request contains it")
def _(service):
    store_id = service.store()
    for key in ("lifted", "renewed"):
        service.put(store_id, key, "old", time_to_live_sec=1)
    service.put(store_id, "lifted", "new")
    service.put(store_id, "renewed", "new", time_to_live_sec=60)
    time.sleep(1.2)
    equal(service.keys(store_id), ["lifted", "renewed"], "the keys")


@check("deleting an item that has just expired returns 204, or 412 with a generation condition")
def _(service):
    store_id = service.store()
    service.put(store_id, "plain", "x", time_to_live_sec=3)
    service.put(store_id, "compared", "x", time_to_live_sec=3)
    generation = service.generation(store_id, "compared")
    time.sleep(3.1)
    delete = service.items.kv_store_delete_item
    equal(delete(store_id, "plain", _return_http_data_only=False)[1], 204, "the status")
    empty_412(
        refused(412, ApiException, delete, store_id, "compared", if_generation_match=generation)
    )


@check("a time to live that is zero, negative or too large returns 400 and changes nothing")
def _(service):
    store_id = service.store()
    for ttl in (0, -1, 2**32, 2**64):
        with about(ttl):
            call = (service.put, store_id, "key", "v")
            explained(refused(400, ApiException, *call, time_to_live_sec=ttl), "time_to_live_sec")
    equal(service.keys(store_id), [], "the keys")
    equal(service.put(store_id, "key", "v", time_to_live_sec=2**32 - 1)[1], 200, "the status with the longest time to live")
    equal(service.text(store_id, "key"), b"v", "the value")


@check("every item call with an unknown store returns 404")
def _(service):
    calls = service.items
    for call in (
        lambda: calls.kv_store_get_item(MISSING, "key"),
        lambda: calls.kv_store_upsert_item(MISSING, "key", body="v"),
        lambda: calls.kv_store_delete_item(MISSING, "key"),
        lambda: calls.kv_store_delete_item(MISSING, "key", force=True),
        lambda: calls.kv_store_list_item_keys(MISSING),
    ):
        explained(refused(404, NotFoundException, call))


@check("a missing item returns 404 with a body, both in normal and in raw mode")
def _(service):
    store_id = service.store()
    error = refused(404, NotFoundException, service.items.kv_store_get_item, store_id, "nope")
    explained(error)
    contains(error.body, "Record not found", "the body")
    try:
        service.raw(store_id, "nope")
    except NotFoundException as raised:
        equal(raised.status, 404, "the status")
    else:
        raise Failed("the client returned a value for a missing item")


@check("the same key in two stores refers to two different items")
def _(service):
    one, two = service.store(), service.store()
    service.put(one, "key", "one")
    service.put(two, "key", "two")
    service.items.kv_store_delete_item(one, "key")
    equal(service.text(two, "key"), b"two", "the other store's item")
