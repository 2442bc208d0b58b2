"""Checks of key lists: order, prefixes, pages, cursors and consistency."""

import base64
import time

from fastly.exceptions import ApiException, ApiValueError, NotFoundException

from checks import Failed, about, check, equal, true
from service import ROOT, explained, refused


def meta(page):
    """Returns the meta object of a page as the server sent it."""
    return page.meta.to_dict()


@check("an empty store lists no keys")
def _(service):
    page, status, headers = service.items.kv_store_list_item_keys(
        service.store(), _return_http_data_only=False
    )
    equal((status, headers["content-type"]), (200, "application/json"), "status and type")
    equal((page.data, meta(page)), ([], {"limit": 1000}), "the list")


@check("the bodies of lists equal the recorded bodies byte for byte")
def _(service):
    store_id = service.store()
    service.fill(store_id, ["apple", "banana"])
    for options, wanted in (
        ({}, b'{"data":["apple","banana"],"meta":{"limit":1000}}'),
        ({"limit": 2}, b'{"data":["apple","banana"],"meta":{"limit":2}}'),
        ({"limit": 1}, b'{"data":["apple"],"meta":{"limit":1,"next_cursor":"CgVhcHBsZQ=="}}'),
        ({"prefix": "ba"}, b'{"data":["banana"],"meta":{"limit":1000,"prefix":"ba"}}'),
        ({"prefix": "zz"}, b'{"data":[],"meta":{"limit":1000,"prefix":"zz"}}'),
        ({"consistency": "strong"}, b'{"data":["apple","banana"],"meta":{"limit":1000}}'),
    ):
        with about(options):
            response = service.items.kv_store_list_item_keys(
                store_id, _preload_content=False, **options
            )
            equal(response.read(), wanted, "the body")
            response.release_conn()


@check("keys are listed in byte order")
def _(service):
    store_id = service.store()
    keys = [
        "c2",
        "c19",
        "c18",
        "c10",
        "c1",
        "c0",
        "C0",
        "C9",
        "b",
        "\u00e9",
        "z",
        "~",
        "_",
        "a/b",
        "a",
        "a.b",
        "\U0001f600",
        "\uff5e",
    ]
    service.fill(store_id, keys)
    equal(service.keys(store_id), sorted(keys, key=lambda key: key.encode()), "the keys")


@check("a prefix matches literally and is echoed")
def _(service):
    store_id = service.store()
    keys = ["a", "a b", "a b/c", "a+b", "a%20b", "ab", "b", "\u00e9x", "\u00e9y", "e", "a&b", "A"]
    service.fill(store_id, keys)
    for prefix in ("a", "a ", "a b", "a+", "a%", "\u00e9", "a&", "ab", "b", "A", "z", "a b/c/d"):
        with about(prefix):
            wanted = sorted((k for k in keys if k.startswith(prefix)), key=lambda key: key.encode())
            page = service.items.kv_store_list_item_keys(store_id, prefix=prefix)
            equal(page.data, wanted, "the keys")
            equal(meta(page), {"limit": 1000, "prefix": prefix}, "meta")
    page = service.items.kv_store_list_item_keys(store_id, prefix="")
    equal((len(page.data), meta(page)), (len(keys), {"limit": 1000}), "an empty prefix")


@check("a prefix and a limit can be combined, and apply to every page")
def _(service):
    store_id = service.store()
    service.fill(store_id, [f"{group}/{n:02}" for group in "abc" for n in range(11)])
    keys, pages = service.all_keys(store_id, prefix="b/", limit=4)
    equal(keys, [f"b/{number:02}" for number in range(11)], "the keys")
    equal(pages, 3, "the number of pages")


@check("consistency=eventual is echoed, strong is not, and the client rejects other values")
def _(service):
    store_id = service.store()
    service.fill(store_id, ["one", "two"])
    page = service.items.kv_store_list_item_keys(store_id, consistency="strong")
    equal((page.data, meta(page)), (["one", "two"], {"limit": 1000}), "the strong list")
    page = service.items.kv_store_list_item_keys(store_id, consistency="eventual")
    equal(meta(page), {"limit": 1000, "consistency": "eventual"}, "meta of the eventual list")
    until = time.monotonic() + 10
    while page.data != ["one", "two"]:
        true(time.monotonic() < until, f"after 10 s the eventual list is still {page.data}")
        time.sleep(0.2)
        page = service.items.kv_store_list_item_keys(store_id, consistency="eventual")
    try:
        service.items.kv_store_list_item_keys(store_id, consistency="weak")
    except ApiValueError:
        pass
    else:
        raise Failed("the client sent consistency=weak")
    for query in ("consistency=weak", "limit=0", "limit=-1", "limit=x", "limit="):
        with about(query):
            response = service.http("GET", f"{ROOT}/{store_id}/keys?{query}")
            equal(response.status, 400, "the status")


@check("cursors equal the recorded cursors byte for byte and are accepted")
def _(service):
    store_id = service.store()
    service.fill(store_id, ["batch-1", "batch-2", "batch-3", "dragonfruit", "elderberry"])
    page = service.items.kv_store_list_item_keys(store_id, limit=2)
    equal((page.data, page.meta.next_cursor), (["batch-1", "batch-2"], "CgdiYXRjaC0y"), "page one")
    page = service.items.kv_store_list_item_keys(store_id, limit=2, cursor="CgdiYXRjaC0y")
    equal(page.data, ["batch-3", "dragonfruit"], "page two")
    equal(page.meta.next_cursor, "CgtkcmFnb25mcnVpdA==", "the cursor of page two")
    page = service.items.kv_store_list_item_keys(store_id, cursor="CgtkcmFnb25mcnVpdA==")
    equal((page.data, meta(page)), (["elderberry"], {"limit": 1000}), "page three")


@check("cursors for long and unusual keys are correct and round-trip")
def _(service):
    store_id = service.store()
    keys = [
        "a" * 127,
        "b" * 128,
        "c" * 200,
        "d" * 1024,
        "o~~~",
        "o>>>",
        "p\u00fb\u00ff\u00fe",
        "q\u03ff\u07fe",
        "x",
    ]
    service.fill(store_id, keys)
    wanted = sorted(keys, key=lambda key: key.encode())
    signs = set()
    cursor = None
    for number, key in enumerate(wanted[:-1]):
        with about(key):
            options = {} if cursor is None else {"cursor": cursor}
            page = service.items.kv_store_list_item_keys(store_id, limit=1, **options)
            equal(page.data, [key], "the page")
            cursor = page.meta.next_cursor
            raw = key.encode()
            length = len(raw)
            varint = bytes([length]) if length < 128 else bytes([length & 127 | 128, length >> 7])
            equal(base64.b64decode(cursor, validate=True), b"\x0a" + varint + raw, "the cursor")
            signs |= set(cursor)
    true({"+", "/", "="} <= signs, "the cursors do not contain all of the characters +, / and =")


@check("a full last page has no cursor")
def _(service):
    store_id = service.store()
    service.fill(store_id, ["a", "b", "c", "d"])
    for limit, pages in ((4, 1), (2, 2), (1, 4), (3, 2), (5, 1)):
        with about(f"limit {limit}"):
            got = service.all_keys(store_id, limit=limit)
            equal(got, (["a", "b", "c", "d"], pages), "the keys and the number of pages")


@check("2,345 keys are listed completely and in order, in pages of 1000")
def _(service):
    store_id = service.store()
    keys = [f"key {number:05}" for number in range(2345)]
    service.fill(store_id, keys)
    equal(service.all_keys(store_id), (keys, 3), "keys and pages with the default limit")
    equal(service.all_keys(store_id, limit=1000), (keys, 3), "keys and pages with the limit 1000")
    equal(service.all_keys(store_id, limit=100), (keys, 24), "keys and pages with the limit 100")
    equal(service.all_keys(store_id, consistency="eventual")[0], keys, "the eventual list")
    page = service.items.kv_store_list_item_keys(store_id, limit=100_000)
    equal((len(page.data), page.meta.limit), (1000, 1000), "a limit above a thousand")


@check("deletes and inserts between pages cause no key to be skipped or repeated")
def _(service):
    store_id = service.store()
    keys = [f"k{number:03}" for number in range(60)]
    service.fill(store_id, keys)
    seen, cursor = [], None
    while True:
        options = {} if cursor is None else {"cursor": cursor}
        page = service.items.kv_store_list_item_keys(store_id, limit=7, **options)
        seen += page.data
        for key in page.data:  # including the last key, which the cursor contains
            service.items.kv_store_delete_item(store_id, key)
        service.put(store_id, "a new key before the cursor", "v")
        cursor = page.meta.get("next_cursor")
        if cursor is None:
            break
    equal(seen, keys, "the keys seen")
    equal(service.keys(store_id), ["a new key before the cursor"], "the remaining keys")


@check("pages skip expired keys and stay full, and only the last page may have fewer keys")
def _(service):
    store_id = service.store()
    for number in range(30):
        ttl = {} if number % 10 == 0 else {"time_to_live_sec": 1}
        service.put(store_id, f"k{number:02}", "v", **ttl)
    time.sleep(1.2)
    equal(service.all_keys(store_id, limit=1), (["k00", "k10", "k20"], 3), "the keys with the limit 1")
    equal(service.all_keys(store_id, limit=2), (["k00", "k10", "k20"], 2), "the keys with the limit 2")
    equal(service.keys(store_id), ["k00", "k10", "k20"], "the keys on a single page")


@check("a strong list reflects every write and delete acknowledged before it")
def _(service):
    store_id = service.store()
    for number in range(30):
        service.put(store_id, f"k{number}", "v")
        true(f"k{number}" in service.keys(store_id, consistency="strong"), f"k{number} is missing")
    for number in range(30):
        service.items.kv_store_delete_item(store_id, f"k{number}")
        true(f"k{number}" not in service.keys(store_id), f"k{number} is still listed")


@check("an invalid cursor returns 400 and is named in the error; the client rejects a limit of 0")
def _(service):
    store_id = service.store()
    service.fill(store_id, ["a", "b"])
    for cursor in ("cursor_example", "!!!!", "YQ", "AAAA", "Cg==", "CgVh", "CgFhYg==", "EgFh", " "):
        with about(cursor):
            call = (service.items.kv_store_list_item_keys, store_id)
            explained(refused(400, ApiException, *call, cursor=cursor), "cursor")
    equal(service.keys(store_id, cursor=""), ["a", "b"], "an empty cursor")
    try:
        service.keys(store_id, limit=0)
    except ApiValueError:
        pass
    else:
        raise Failed("the client sent a limit of 0")


@check("listing the keys of an unknown store returns 404")
def _(service):
    call = service.items.kv_store_list_item_keys
    explained(refused(404, NotFoundException, call, "0" * 22))
    explained(refused(404, NotFoundException, call, "0" * 22, prefix="a", limit=3))
