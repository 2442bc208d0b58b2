"""Checks of commands that write many entries: --dir, --file and --stdin."""

import base64
import json
import os
import time

from checks import about, check, contains, equal, true
from command import unfolded

MIB = 1024 * 1024
TTL_SECS = 3  # time to live of an item that expires during a check


def line(key, value, **fields):
    """Returns a line of a batch."""
    encoded = base64.b64encode(value.encode()).decode()
    return json.dumps({"key": key, "value": encoded, **fields}) + "\n"


def batch(store_id, *options):
    """Returns the arguments of a batch command."""
    return ("kv-store-entry", "create", "--store-id", store_id, *options)


@check("--dir uploads every file under its name, including an empty one")
def _(fastly):
    store_id, folder = fastly.store(), fastly.folder()
    files = {
        "one": b"1",
        "empty": b"",
        "two words": b"2",
        "größe ✓": b"3",
        "a+b%2F": b"4",
        "binary": bytes(range(256)) * 40,
        "big": os.urandom(3_000_000),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / ".hidden").write_bytes(b"not wanted")
    (folder / "folder").mkdir()
    (folder / "folder" / "inner").write_bytes(b"not wanted")
    output = fastly.entry("create", store_id, "--dir", str(folder)).out
    contains(output, f"SUCCESS: Inserted {len(files)} keys into KV Store", "the output")
    equal(sorted(fastly.keys(store_id)), sorted(files), "the keys")
    for name, content in files.items():
        with about(name):
            true(fastly.value(store_id, name) == content, "the value differs")


@check("--dir with a single empty file stores an empty value")
def _(fastly):
    store_id, folder = fastly.store(), fastly.folder()
    (folder / "empty").write_bytes(b"")
    fastly.entry("create", store_id, "--dir", str(folder))
    equal(fastly.value(store_id, "empty"), b"", "the value")
    equal(fastly.described(store_id, "empty")["key"], "empty", "the description")
    # An upload of an empty file also replaces an existing value.
    (folder / "empty").write_bytes(b"no longer")
    fastly.entry("create", store_id, "--dir", str(folder))
    equal(fastly.value(store_id, "empty"), b"no longer", "the value")
    (folder / "empty").write_bytes(b"")
    fastly.entry("create", store_id, "--dir", str(folder))
    equal(fastly.value(store_id, "empty"), b"", "the value")


@check("--dir-allow-hidden uploads hidden files too")
def _(fastly):
    store_id, folder = fastly.store(), fastly.folder()
    for name in (".hidden", "plain"):
        (folder / name).write_bytes(b"x")
    fastly.entry("create", store_id, "--dir", str(folder), "--dir-allow-hidden")
    equal(fastly.keys(store_id), [".hidden", "plain"], "the keys")


@check("--dir uploads 300 files, by default 50 at a time, and one at a time on request")
def _(fastly):
    store_id, folder = fastly.store(), fastly.folder()
    names = [f"file {number:03}" for number in range(300)]
    for name in names:
        (folder / name).write_text(f"content of {name}")
    fastly.entry("create", store_id, "--dir", str(folder))
    equal(fastly.keys(store_id), names, "the keys")
    for name in names[::50]:
        equal(fastly.value(store_id, name), f"content of {name}".encode(), "a value")
    fastly.entry("create", store_id, "--dir", str(folder), "--dir-concurrency", "1")
    equal(fastly.keys(store_id), names, "the keys")


@check("--dir names the rejected files and stores the others")
def _(fastly):
    store_id, folder = fastly.store(), fastly.folder()
    for name in ("fine", "also fine", "a#b", "what?"):
        (folder / name).write_bytes(b"x")
    expected = "failed to process all the provided files"
    result = fastly.refused(expected, *batch(store_id, "--dir", str(folder)))
    # The number of processed files is not checked: the CLI waits for its uploads, but not until they
    # are counted (wg.Done precedes the send to `processed` in pkg/commands/kvstoreentry/create.go).
    for part in ("of 4 files", "a#b", "what?", "400 - Bad Request", "key must not"):
        contains(result.out, part, "the output")
    equal(result.out.count("File: "), 2, "the number of rejected files in the output")
    equal(fastly.keys(store_id), ["also fine", "fine"], "the keys")


@check("--dir reports 413 for a file over 25 MiB")
def _(fastly):
    store_id, folder = fastly.store(), fastly.folder()
    (folder / "fine").write_bytes(b"x")
    for name in ("huge 1", "huge 2", "huge 3"):
        (folder / name).write_bytes(bytes(25 * MIB + 1))
    expected = "failed to process all the provided files"
    result = fastly.refused(expected, *batch(store_id, "--dir", str(folder)))
    equal(result.out.count("413 - Request Entity Too Large"), 3, f"the number of 413s: {result}")
    equal(fastly.keys(store_id), ["fine"], "the keys")


@check("--file writes a batch with metadata and time to live")
def _(fastly):
    store_id = fastly.store()
    path = fastly.folder() / "batch"
    path.write_text(
        line("plain", "one")
        + line("tagged", "two", metadata="mé✓", background_fetch=True)
        + line("short", "three", time_to_live_sec=TTL_SECS)
        + line("strange ☃/%2F", "four", unknown_field=[1])
        + line("empty", "")
    )
    began = time.monotonic()
    output = fastly.ok(*batch(store_id, "--file", str(path))).out
    equal(output.strip(), "SUCCESS: Inserted keys into KV Store", "the output")
    written = time.monotonic()
    keys = fastly.keys(store_id)
    if time.monotonic() - began < TTL_SECS:  # on a slow machine, the item may have expired
        equal(keys, ["empty", "plain", "short", "strange ☃/%2F", "tagged"], "the keys")
    equal(fastly.value(store_id, "tagged"), b"two", "the value")
    equal(fastly.described(store_id, "tagged")["metadata"], "mé✓", "the metadata")
    equal(fastly.value(store_id, "strange ☃/%2F"), b"four", "the value")
    equal(fastly.value(store_id, "empty"), b"", "the empty value")
    time.sleep(max(0, TTL_SECS + 0.1 - (time.monotonic() - written)))
    equal(fastly.keys(store_id), ["empty", "plain", "strange ☃/%2F", "tagged"], "the keys after the expiry")
    output = fastly.json(*batch(store_id, "--file", str(path)))
    equal(output, {"success": True}, "the output of --json")


@check("--stdin writes a batch with blank lines, indented lines and no final line break")
def _(fastly):
    store_id = fastly.store()
    text = line("a", "1") + "\n   \n    " + line("b", "2") + "\r\n" + line("a", "3").strip()
    fastly.ok(*batch(store_id, "--stdin"), stdin=text.encode())
    equal(fastly.keys(store_id), ["a", "b"], "the keys")
    equal(fastly.value(store_id, "a"), b"3", "the value of the later line")
    output = fastly.json(*batch(store_id, "--stdin"), stdin=line("c", "4").encode())
    equal(output, {"success": True}, "the output of --json")
    fastly.ok(*batch(store_id, "--stdin"), stdin=b"")
    equal(fastly.keys(store_id), ["a", "b", "c"], "the keys")


BAD = line("good 1", "v") + '{"key":"bad","value":"!!"}\nno json\n' + line("good 2", "v")


@check("a batch with invalid lines fails, reports their indexes and stores the valid lines")
def _(fastly):
    path = fastly.folder() / "batch"
    path.write_text(BAD)
    for options, stdin in ((("--file", str(path)), b""), (("--stdin",), BAD.encode())):
        with about(options[0]):
            store_id = fastly.store()
            result = fastly.refused("400 Bad Request", *batch(store_id, *options), stdin=stdin)
            for part in ("error at index: 1", "error at index: 2", "Code: 400", "base64"):
                contains(unfolded(result.out), part, "the output")
            good = [part for part in ("index: 0", "index: 3") if part in result.out]
            equal(good, [], "the valid lines that were reported as errors")
            equal(fastly.keys(store_id), ["good 1", "good 2"], "the keys")


@check("with --json, a batch also reports its invalid lines")
def _(fastly):
    store_id = fastly.store()
    output = fastly.json(*batch(store_id, "--stdin"), stdin=BAD.encode())
    equal(output["success"], False, "success")
    equal(
        [error["title"] for error in output["errors"]],
        ["error at index: 1", "error at index: 2"],
        "the errors",
    )
    equal({error["code"] for error in output["errors"]}, {"400"}, "the codes of the errors")
    true(all(error["detail"] for error in output["errors"]), "an error has no detail")


@check("every kind of invalid line is rejected and changes nothing")
def _(fastly):
    store_id = fastly.store()
    encoded = "aGk="
    for bad in (
        "[]",
        "null",
        '"text"',
        "{}",
        '{"key":"k"}',
        '{"value":"aGk="}',
        '{"key":1,"value":"aGk="}',
        f'{{"key":"","value":"{encoded}"}}',
        f'{{"key":"a#b","value":"{encoded}"}}',
        f'{{"key":"..","value":"{encoded}"}}',
        f'{{"key":"{"k" * 1025}","value":"{encoded}"}}',
        f'{{"key":"k","value":"{encoded}","metadata":"two\\nlines"}}',
        f'{{"key":"k","value":"{encoded}","metadata":"{"m" * 2001}"}}',
        f'{{"key":"k","value":"{encoded}","time_to_live_sec":0}}',
        f'{{"key":"k","value":"{encoded}","time_to_live_sec":-1}}',
        f'{{"key":"k","value":"{encoded}","time_to_live_sec":"x"}}',
        f'{{"key":"k","value":"{encoded}"',
        "\x00",
    ):
        with about(bad):
            output = fastly.json(*batch(store_id, "--stdin"), stdin=bad.encode() + b"\n")
            equal(output["success"], False, "success")
            equal(output["errors"][0]["title"], "error at index: 0", "the line")
    equal(fastly.keys(store_id), [], "the keys")


@check("a batch with one value above 25 MiB reports 413 for that line only")
def _(fastly):
    store_id = fastly.store()
    path = fastly.folder() / "batch"
    path.write_text(line("one", "v") + line("huge", "x" * (25 * MIB + 1)) + line("two", "v"))
    command = batch(store_id, "--file", str(path))
    result = fastly.refused("413 Request Entity Too Large", *command)
    for part in ("error at index: 1", "Code: 413"):
        contains(unfolded(result.out), part, "the output")
    equal(fastly.keys(store_id), ["one", "two"], "the keys")


@check("a batch of 600 lines with 60 MB, more than the maximum size of a value, is written")
def _(fastly):
    store_id = fastly.store()
    path = fastly.folder() / "batch"
    text = "0123456789" * 7500
    with path.open("w") as file:
        for number in range(600):
            file.write(line(f"k{number:03}", f"{number:03}{text}"))
    true(path.stat().st_size > 60_000_000, "the batch in this check is smaller than 60 MB")
    fastly.ok(*batch(store_id, "--file", str(path)))
    equal(len(fastly.keys(store_id)), 600, "the number of keys")
    for number in (0, 299, 599):
        value = fastly.value(store_id, f"k{number:03}")
        equal(value, f"{number:03}{text}".encode(), f"value {number}")
