"""Checks of authentication: tokens, endpoints and the account commands."""

from checks import about, check, contains, equal, true
from command import TOKEN, URL, unfolded

INVALID = "Provided credentials are missing or invalid"


@check("whoami prints the token's user")
def _(fastly):
    true("@" in fastly.ok("whoami").out, "no login name in the output of whoami")
    output = fastly.ok("whoami", "--verbose").out
    for part in ("Customer ID: ", "User ID: ", "Token ID: ", "Token scope: global"):
        contains(output, part, "the output of whoami --verbose")


@check("auth-token describe prints the token")
def _(fastly):
    output = fastly.run("auth-token", "describe")
    equal(output.status, 0, f"the status of {output}")
    for part in ("ID: ", "Name: ", "Scope: global", "Created at: "):
        contains(output.out, part, "the output of auth-token describe")
    output = fastly.json("auth-token", "describe")
    scope = (output["Scope"], output["ExpiresAt"], output["Services"])
    equal(scope, ("global", None, []), "the token")
    true(output["TokenID"] and output["UserID"] and output["CreatedAt"], f"incomplete: {output}")


@check("every command with a wrong token fails and prints the CLI's hint about tokens")
def _(fastly):
    store_id = fastly.store()
    for command in (
        ("whoami",),
        ("auth-token", "describe"),
        ("kv-store", "list"),
        ("kv-store", "create", "--name", "Never"),
        ("kv-store", "describe", "--store-id", store_id),
        ("kv-store", "delete", "--store-id", store_id),
        ("kv-store-entry", "list", "--store-id", store_id),
        ("kv-store-entry", "create", "--store-id", store_id, "--key", "k", "--value", "v"),
        ("kv-store-entry", "get", "--store-id", store_id, "--key", "k"),
        ("kv-store-entry", "delete", "--store-id", store_id, "--key", "k"),
    ):
        with about(command):
            expected = (INVALID, "incorrect, or expired Fastly API token")
            result = fastly.refused(expected, *command, FASTLY_API_TOKEN="a-wrong-token-0123456789")
            true(TOKEN not in result.err + result.out, "the output contains the valid token")
    equal(fastly.keys(store_id), [], "the keys")


@check("a long batch with a wrong token is rejected and writes nothing")
def _(fastly):
    store_id = fastly.store()
    line = '{"key":"k","value":"' + "QUJD" * 100_000 + '"}\n'
    path = fastly.folder() / "batch"
    path.write_text(line * 20)
    command = ("kv-store-entry", "create", "--store-id", store_id, "--file", str(path))
    fastly.refused(INVALID, *command, FASTLY_API_TOKEN="a-wrong-token-0123456789")
    equal(fastly.keys(store_id), [], "the keys")


@check("the endpoints can be set by flags alone")
def _(fastly):
    nothing = {
        "FASTLY_API_ENDPOINT": None,
        "FASTLY_ACCOUNT_ENDPOINT": None,
        "FASTLY_API_TOKEN": None,
    }
    flags = ("--api", URL, "--account", URL, "--token", TOKEN)
    true("Data" in fastly.json("kv-store", "list", *flags, **nothing), "the output has no Data")


@check("the endpoints can be set in the CLI's configuration file")
def _(fastly):
    home = fastly.folder()
    folder = home / ".config" / "fastly"
    folder.mkdir(parents=True)
    lines = f'api_endpoint = "{URL}"\naccount_endpoint = "{URL}"\n'
    version = fastly.ok("version").out.split("version v")[1].split()[0]
    text = f'config_version = 6\n[fastly]\n{lines}[cli]\nversion = "{version}"\n'
    (folder / "config.toml").write_text(text)
    nothing = {"FASTLY_API_ENDPOINT": None, "FASTLY_ACCOUNT_ENDPOINT": None}
    true("Data" in fastly.json("kv-store", "list", HOME=home, **nothing), "the output has no Data")


@check("a token can be stored under a name, shown, and selected by its name")
def _(fastly):
    own = {"HOME": fastly.folder(), "FASTLY_API_TOKEN": None}
    contains(
        fastly.ok("auth", "add", "mine", "--api-token", TOKEN, **own).out, 'Token "mine" added'
    )
    shown = fastly.ok("auth", "show", "mine", **own).out
    for part in ("Account ID: ", "API token scope: global", "API token ID: "):
        contains(shown, part, "the output of auth show")
    true("Data" in fastly.json("kv-store", "list", "--token", "mine", **own), "the output has no Data")
    true("@" in fastly.ok("whoami", **own).out, "the stored default token is not used")


@check("a wrong token cannot be stored")
def _(fastly):
    own = {"HOME": fastly.folder(), "FASTLY_API_TOKEN": None}
    result = fastly.run("auth", "add", "bad", "--api-token", "a-wrong-token-0123456789", **own)
    true(result.status == 1, f"the wrong token was accepted: {result}")
    contains(unfolded(fastly.ok("auth", "list", **own).out), "No tokens stored")


@check("the root token cannot be revoked and keeps working")
def _(fastly):
    own = {"HOME": fastly.folder(), "FASTLY_API_TOKEN": None}
    fastly.ok("auth", "add", "mine", "--api-token", TOKEN, **own)
    fastly.refused("403 Forbidden", "auth", "revoke", "--name", "mine", "--auto-yes", **own)
    fastly.refused("403 Forbidden", "auth", "revoke", "--current", "--auto-yes")
    fastly.ok("whoami")
