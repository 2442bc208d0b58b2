"""Checks of generation conditions, deletes, and concurrent writers."""

import time
from concurrent.futures import ThreadPoolExecutor

from fastly.exceptions import ApiException, NotFoundException

from checks import Failed, about, check, equal, true
from service import explained, refused
from items import empty_412


@check("a write with the current generation succeeds, and one with any other generation returns 412")
def _(service):
    store_id = service.store()
    service.put(store_id, "key", "one", metadata="m")
    first = service.generation(store_id, "key")
    service.put(store_id, "key", "two", if_generation_match=first)
    second = service.generation(store_id, "key")
    true(second > first, "the generation did not increase")
    for stale in (first, second + 1, 1, 2**64 - 1):
        with about(stale):
            call = (service.put, store_id, "key", "three")
            empty_412(refused(412, ApiException, *call, if_generation_match=stale))
    equal(service.text(store_id, "key"), b"two", "the value")
    equal(service.generation(store_id, "key"), second, "the generation")


@check("a write to a missing key with a generation condition returns 412 and creates nothing")
def _(service):
    store_id = service.store()
    call = (service.put, store_id, "key", "v")
    empty_412(refused(412, ApiException, *call, if_generation_match=1795446471838982))
    equal(service.keys(store_id), [], "the keys")


@check("generation 0 requires that the key does not exist")
def _(service):
    store_id = service.store()
    service.put(store_id, "key", "first", if_generation_match=0)
    empty_412(refused(412, ApiException, service.put, store_id, "key", "x", if_generation_match=0))
    equal(service.text(store_id, "key"), b"first", "the value")


@check("add with a generation requires both conditions to hold")
def _(service):
    store_id = service.store()
    service.put(store_id, "new", "v", add=True, if_generation_match=0)
    generation = service.generation(store_id, "new")
    for number in (0, generation):
        with about(number):
            call = (service.put, store_id, "new", "x")
            empty_412(refused(412, ApiException, *call, add=True, if_generation_match=number))
    call = (service.put, store_id, "missing", "x")
    empty_412(refused(412, ApiException, *call, add=True, if_generation_match=generation))
    equal(service.keys(store_id), ["new"], "the keys")


@check("append and prepend with a generation condition return 412 if the generation does not match")
def _(service):
    store_id = service.store()
    service.put(store_id, "key", "b")
    for option, wanted in (("append", b"bc"), ("prepend", b"cbc")):
        with about(option):
            generation = service.generation(store_id, "key")
            options = {option: True}
            call = (service.put, store_id, "key", "c")
            refused(412, ApiException, *call, if_generation_match=generation - 1, **options)
            service.put(store_id, "key", "c", if_generation_match=generation, **options)
            equal(service.text(store_id, "key"), wanted, "the value")


@check("a generation that is not an unsigned 64-bit number returns 400 and changes nothing")
def _(service):
    store_id = service.store()
    service.put(store_id, "key", "kept")
    for number in (-1, 2**64, 10**30):
        with about(number):
            call = (service.put, store_id, "key", "v")
            error = refused(400, ApiException, *call, if_generation_match=number)
            explained(error, "if-generation-match")
            call = (service.items.kv_store_delete_item, store_id, "key")
            error = refused(400, ApiException, *call, if_generation_match=number)
            explained(error, "if-generation-match")
    equal(service.text(store_id, "key"), b"kept", "the value")


@check("the first delete returns 204 without a body; a second one returns 404, or 204 with force")
def _(service):
    store_id = service.store()
    delete = service.items.kv_store_delete_item
    service.put(store_id, "key", "v")
    nothing, status, headers = delete(store_id, "key", _return_http_data_only=False)
    equal((nothing, status), (None, 204), "the response")
    true("content-length" not in headers and "content-type" not in headers, f"headers {headers}")
    explained(refused(404, NotFoundException, delete, store_id, "key"))
    explained(refused(404, NotFoundException, delete, store_id, "key", force=False))
    equal(delete(store_id, "key", force=True, _return_http_data_only=False)[1], 204, "with force")
    refused(404, NotFoundException, service.items.kv_store_get_item, store_id, "key")


@check("a delete with the current generation succeeds, and one with any other generation returns 412")
def _(service):
    store_id = service.store()
    delete = service.items.kv_store_delete_item
    service.put(store_id, "key", "v")
    generation = service.generation(store_id, "key")
    for force in (False, True):
        with about(f"force {force}"):
            call = (delete, store_id, "key")
            options = {"if_generation_match": generation - 1, "force": force}
            empty_412(refused(412, ApiException, *call, **options))
    equal(service.text(store_id, "key"), b"v", "the value")
    delete(store_id, "key", if_generation_match=generation)
    refused(404, NotFoundException, delete, store_id, "key", if_generation_match=generation)
    delete(store_id, "key", if_generation_match=generation, force=True)


@check("exactly one of sixteen concurrent adds succeeds, and the others return 412")
def _(service):
    store_id = service.store()

    def add(number):
        try:
            service.put(store_id, "key", f"writer {number}", add=True)
            return number
        except ApiException as error:
            equal(error.status, 412, "the status")
            return None

    for round_ in range(5):
        with ThreadPoolExecutor(16) as pool:
            winners = [number for number in pool.map(add, range(16)) if number is not None]
        equal(len(winners), 1, f"the number of successful adds in round {round_}")
        equal(service.text(store_id, "key"), f"writer {winners[0]}".encode(), "the value")
        service.items.kv_store_delete_item(store_id, "key")


@check("sixteen threads appending twenty times each lose no write")
def _(service):
    store_id = service.store()

    def append(writer):
        for number in range(20):
            service.put(store_id, "log", f"{writer}.{number};", append=True)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(append, range(16)))
    got = service.text(store_id, "log").decode().split(";")[:-1]
    equal(len(got), 320, "the number of entries")
    for writer in range(16):
        mine = [entry for entry in got if entry.startswith(f"{writer}.")]
        equal(mine, [f"{writer}.{number}" for number in range(20)], f"the entries of writer {writer}")


@check("eight threads that increment a counter with generation conditions lose no update")
def _(service):
    store_id = service.store()
    service.put(store_id, "count", "n0")

    def count(_):
        done = 0
        tries = time.monotonic() + 60
        while done < 10:
            true(time.monotonic() < tries, "the counter was not incremented within a minute")
            value, headers = service.raw(store_id, "count")
            following = f"n{int(value[1:]) + 1}"
            generation = int(headers["generation"])
            try:
                service.put(store_id, "count", following, if_generation_match=generation)
                done += 1
            except ApiException as error:
                equal(error.status, 412, "the status")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(8)))
    equal(service.text(store_id, "count"), b"n80", "the count")


@check("the client's own threads (async_req) write and read in parallel")
def _(service):
    store_id = service.store()
    calls = service.items
    threads = [
        calls.kv_store_upsert_item(store_id, f"k{number}", body=f"v{number}", async_req=True)
        for number in range(40)
    ]
    for thread in threads:
        thread.get(timeout=60)
    threads = [calls.kv_store_get_item(store_id, f"k{n}", async_req=True) for n in range(40)]
    values = [thread.get(timeout=60) for thread in threads]
    equal(values, [f"v{number}" for number in range(40)], "the values")
    threads = [calls.kv_store_delete_item(store_id, f"k{n}", async_req=True) for n in range(40)]
    for thread in threads:
        thread.get(timeout=60)
    if service.keys(store_id):
        raise Failed("not all keys were deleted")


@check("a write that the client aborts after a timeout is stored completely or not at all")
def _(service):
    import urllib3

    store_id = service.store()
    service.put(store_id, "key", "before")
    big = "x" * (20 * 1024 * 1024)
    cut = 0
    for _ in range(3):
        try:
            service.put(store_id, "key", big, _request_timeout=(1, 0.0005))
        except (urllib3.exceptions.HTTPError, ApiException):
            cut += 1
    true(cut > 0, "no write was aborted: the timeout is too long for this machine")
    value = service.text(store_id, "key")
    true(value in (b"before", big.encode()), f"a torn value of {len(value)} bytes")
