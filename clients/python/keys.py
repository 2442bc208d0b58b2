"""Checks of keys: unusual characters, lengths, and rejected keys."""

from fastly.exceptions import ApiException

from checks import about, check, equal, true
from service import explained, refused

STRANGE = [
    "a",
    "a/b",
    "a b",
    "a+b",
    "a%2Fb",
    "a%b",
    "%2F",
    "%",
    "%%",
    "x//y",
    "//",
    "/",
    "/lead",
    "trail/",
    "\u00e9\u2713",
    "\U0001f600",
    "e\u0301",
    "\u00e9",
    "a,b:@=&$",
    "!*'()",
    "[a]",
    "*",
    "\\",
    '"',
    "'",
    "..x",
    ".hidden",
    "x..",
    "...",
    "a.b",
    "~",
    "`{}<>",
    "a=b&c=d",
    "0",
    "-1",
    "null",
    "true",
    "UPPER",
    "upper",
    " lead",
    "trail ",
    "a\tb",
    "keys",
    "batch",
    "keys/keys",
    "a\x01b",
    "a\x7fb",
    "\u2028",
    "\ufeffx",
    "a\u0000b",
    "c\x1b[0m",
]

REFUSED = {
    "a line feed": "a\nb",
    "a carriage return": "a\rb",
    "a hash": "a#b",
    "a semicolon": "a;b",
    "a question mark": "a?b",
    "a caret": "a^b",
    "a bar": "a|b",
    "../ at the start": "../x",
    "/../ in the middle": "a/../b",
    "/.. at the end": "a/..",
    "./ at the start": "./x",
    "/./ in the middle": "a/./b",
    "/. at the end": "a/.",
    "a dot before a slash": "a./b",
    "the prefix of ACME challenges": ".well-known/acme-challenge/x",
    "a lone space": " ",
    "a lone NUL": "\x00",
    "a lone tab": "\t",
    "a lone U+FFFE": "\ufffe",
    "a lone U+FFFF": "\uffff",
}


@check("keys with every kind of character are written, read, listed and deleted unchanged")
def _(service):
    store_id = service.store()
    for key in STRANGE:
        with about(key):
            service.put(store_id, key, f"value of {key}")
    wanted = sorted(STRANGE, key=lambda key: key.encode())
    equal(service.keys(store_id), wanted, "the keys")
    for key in STRANGE:
        with about(key):
            equal(service.text(store_id, key), f"value of {key}".encode(), "the value")
            true(key in service.keys(store_id, prefix=key), "the key is missing from a list with the key as prefix")
            service.items.kv_store_delete_item(store_id, key)
    equal(service.keys(store_id), [], "the keys at the end")


@check("a key of 1024 bytes is accepted, and one of 1025 bytes returns 400")
def _(service):
    store_id = service.store()
    for key in ("k" * 1024, "\u00e9" * 512, "\U0001f600" * 256, "/" * 1024, "%" * 1024):
        with about(key):
            service.put(store_id, key, "value")
            equal(service.text(store_id, key), b"value", "the value")
            equal(service.keys(store_id), [key], "the keys")
            service.items.kv_store_delete_item(store_id, key)
    for key in ("k" * 1025, "\u00e9" * 512 + "k", "k" * 4000):
        with about(key):
            explained(
                refused(400, ApiException, service.put, store_id, key, "value"), "key", "1024"
            )
    equal(service.keys(store_id), [], "the keys")


@check("every call with an invalid key returns 400, names the key and changes nothing")
def _(service):
    store_id = service.store()
    service.put(store_id, "kept", "value")
    for what, key in REFUSED.items():
        with about(what):
            explained(refused(400, ApiException, service.put, store_id, key, "value"), "key")
            get, delete = service.items.kv_store_get_item, service.items.kv_store_delete_item
            explained(refused(400, ApiException, get, store_id, key), "key")
            explained(refused(400, ApiException, delete, store_id, key), "key")
            explained(refused(400, ApiException, delete, store_id, key, force=True), "key")
    equal(service.keys(store_id), ["kept"], "the keys")
    equal(service.text(store_id, "kept"), b"value", "the existing item")
