"""Points the client at the server under test, and provides helpers for all checks in this suite."""

import base64
import datetime
import itertools
import json
import os
from urllib.parse import quote

import fastly
import urllib3
from fastly.api import kv_store_api, kv_store_item_api

from checks import Failed, equal, true

URL = os.environ["STEADFAST_URL"]
TOKEN = os.environ["STEADFAST_TOKEN"]
ROOT = "/resources/stores/kv"


class Service:
    """Wraps the two APIs of one client version, and adds helpers."""

    def __init__(self, version):
        self.version = version
        self.configuration = fastly.Configuration(host=URL)
        self.configuration.api_key["token"] = TOKEN
        self.client = fastly.ApiClient(self.configuration)
        self.stores = kv_store_api.KvStoreApi(self.client)
        self.items = kv_store_item_api.KvStoreItemApi(self.client)
        self.pool = urllib3.PoolManager(maxsize=8, retries=False)
        self._names = itertools.count(1)
        self._stores = []

    def with_token(self, token):
        """Returns the two APIs with another token, or without a token if it is None."""
        configuration = fastly.Configuration(host=URL)
        if token is not None:
            configuration.api_key["token"] = token
        client = fastly.ApiClient(configuration)
        return kv_store_api.KvStoreApi(client), kv_store_item_api.KvStoreItemApi(client)

    def name(self, word="Store"):
        """Returns a store name that no other check uses."""
        return f"{word} {self.version} {next(self._names)}"

    def create(self, name, **options):
        """Calls kv_store_create, whose argument and model have different names in the two versions."""
        if self.version == "8.0.0":
            from fastly.model.kv_store_request_create import KvStoreRequestCreate

            options["kv_store_request_create"] = KvStoreRequestCreate(name=name)
        else:
            from fastly.model import kv_store_request_create_or_update as module

            model = module.KvStoreRequestCreateOrUpdate(name=name)
            options["kv_store_request_create_or_update"] = model
        return self.track(self.stores.kv_store_create(**options))

    def rename(self, store_id, name, **options):
        """Calls kv_store_put, which 8.0.0 does not have."""
        from fastly.model.kv_store_request_create_or_update import KvStoreRequestCreateOrUpdate

        model = KvStoreRequestCreateOrUpdate(name=name)
        return self.stores.kv_store_put(
            store_id, kv_store_request_create_or_update=model, **options
        )

    def track(self, response):
        """Registers a created store for deletion after the check."""
        details = response[0] if isinstance(response, tuple) else response
        self._stores.append(details.id)
        return response

    def store(self, word="Store"):
        """Creates an empty store; returns its id."""
        return self.create(self.name(word)).id

    def put(self, store_id, key, body, **options):
        """Calls kv_store_upsert_item; also returns the status and headers of the response."""
        return self.items.kv_store_upsert_item(
            store_id, key, body=body, _return_http_data_only=False, **options
        )

    def raw(self, store_id, key):
        """Calls kv_store_get_item without parsing the value; returns its bytes and the headers."""
        response = self.items.kv_store_get_item(store_id, key, _preload_content=False)
        value = response.read()
        response.release_conn()
        return value, response.headers

    def text(self, store_id, key):
        """Returns the value of an item as bytes."""
        return self.raw(store_id, key)[0]

    def generation(self, store_id, key):
        """Returns the generation of an item, in the type that kv_store_upsert_item expects."""
        return int(self.raw(store_id, key)[1]["generation"])

    def keys(self, store_id, **options):
        """Returns the keys on one page."""
        return self.items.kv_store_list_item_keys(store_id, **options).data

    def all_keys(self, store_id, **options):
        """Returns the keys on all pages, in order, and the number of pages."""
        keys, pages, cursor = [], 0, None
        while True:
            more = {} if cursor is None else {"cursor": cursor}
            page = self.items.kv_store_list_item_keys(store_id, **options, **more)
            keys += page.data
            pages += 1
            true(pages <= 5000, "paging does not end")
            cursor = page.meta.get("next_cursor")
            if cursor is None:
                return keys, pages

    def fill(self, store_id, keys, value=b"v"):
        """Writes many items with the batch endpoint, which this client does not support."""
        encoded = base64.b64encode(value).decode()
        lines = "".join(json.dumps({"key": key, "value": encoded}) + "\n" for key in keys)
        response = self.http("PUT", f"{ROOT}/{store_id}/batch", lines.encode())
        equal(response.status, 200, "the status of a batch")

    def http(self, method, path, body=None, headers=None):
        """Sends a request that the client cannot send."""
        sent = {"Fastly-Key": TOKEN, **(headers or {})}
        return self.pool.request(method, URL + path, body=body, headers=sent)

    def clean_up(self):
        """Removes the stores that the check created."""
        created, self._stores = self._stores, []
        for store_id in created:
            path = f"{ROOT}/{store_id}"
            while True:
                page = self.http("GET", f"{path}/keys")
                if page.status != 200 or not page.json()["data"]:
                    break
                for key in page.json()["data"]:
                    quoted = quote(key, safe="")
                    self.http("DELETE", f"{path}/keys/{quoted}?force=true")
            self.http("DELETE", path)


def refused(status, kind, call, *arguments, **options):
    """Makes a call that must raise `kind` with `status`; returns the exception."""
    try:
        response = call(*arguments, **options)
    except fastly.ApiException as error:
        equal(error.status, status, f"the status (body {error.body!r})")
        true(type(error) is kind, f"expected {kind.__name__}, got {type(error).__name__}")
        return error
    raise Failed(f"expected status {status}, but the call succeeded with {response!r}")


def explained(error, *words):
    """Checks that an error has a problem body whose detail contains `words`."""
    equal(error.headers.get("content-type"), "application/json", "the error's content type")
    body = json.loads(error.body)
    for field in ("msg", "title", "detail"):
        true(isinstance(body.get(field), str) and body[field], f"no {field} in {error.body}")
    equal(body.get("status"), error.status, "the status in the body")
    true("errors" not in body, f"an errors field in {error.body}")
    for word in words:
        true(word.lower() in body["detail"].lower(), f"the detail does not contain {word!r}: {error.body}")


def when(stamp):
    """Converts the date of a store to a datetime: 8.0.0 returns dates parsed, and 15.0.0 as text."""
    if isinstance(stamp, datetime.datetime):
        return stamp.replace(tzinfo=None)
    return datetime.datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S")


def utc_now():
    """Returns the current time in UTC without a time zone, like the dates of stores."""
    return datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
