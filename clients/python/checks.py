"""Runs the checks of the suites for real clients.

A check is a named function. Checks run one at a time in the order of their definition, and a failed
check does not stop the run. Uses only the standard library of Python 3.10 and later.
"""

import contextlib
import signal
import sys
import time
import traceback

CHECK_SECONDS = 300

_all = []


class Failed(AssertionError):
    """Raised if a check fails."""


def check(name, only=None):
    """Registers the decorated function as a check; `only` restricts it to a client version."""

    def register(function):
        _all.append((function.__module__, name, only, function))
        return function

    return register


def equal(got, wanted, what="the result"):
    """Fails unless `got` and `wanted` are equal."""
    if got != wanted:
        raise Failed(f"{what}: expected {short(wanted)}, got {short(got)}")


def true(fact, what):
    """Fails with the message `what` unless `fact` is true."""
    if not fact:
        raise Failed(what)


def contains(text, part, what="the text"):
    """Fails unless `part` is in `text`."""
    if part not in text:
        raise Failed(f"{what}: expected {short(part)} somewhere in {short(text)}")


@contextlib.contextmanager
def about(what):
    """Adds `what` to the messages of failures in the block."""
    try:
        yield
    except Exception as error:
        raise Failed(f"with {short(what)}: {type(error).__name__}: {error}") from error


def short(value, most=600):
    """Returns the `repr` of a value, cut to `most` characters."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def run_all(context, label="", version=None):
    """Runs every registered check with `context`; returns the exit status of the suite."""
    passed, failed, heading = 0, 0, None
    signal.signal(signal.SIGALRM, _too_late)
    for module, name, only, function in _all:
        if only is not None and only != version:
            continue
        if module != heading:
            heading = module
            log(f"\n{(sys.modules[module].__doc__ or module).strip().splitlines()[0]}")
        began = time.monotonic()
        signal.alarm(CHECK_SECONDS)
        try:
            function(context)
            passed += 1
            spent = time.monotonic() - began
            log(f"  ok      {name}" + (f" ({spent:.1f} s)" if spent >= 1 else ""))
        except Exception as error:  # any exception fails the check
            failed += 1
            log(f"  FAILED  {name}")
            for line in explain(error):
                log(f"          {line}")
        finally:
            signal.alarm(0)
            context.clean_up()
    log(f"\n{label}{passed} passed, {failed} failed")
    return 0 if failed == 0 and passed > 0 else 1


def explain(error):
    """Returns the lines that describe a failure and its location."""
    if isinstance(error, Failed) and error.__cause__ is None:
        frames = traceback.extract_tb(error.__traceback__)
        frame = [f for f in frames if not f.filename.endswith("checks.py")][-1]
        return [str(error), f"({frame.filename.rsplit('/', 1)[-1]}, line {frame.lineno})"]
    text = "".join(traceback.format_exception(error))
    return [line for line in text.splitlines() if line.strip()][-24:]


def log(text):
    """Prints a line and flushes it."""
    print(text, flush=True)


def _too_late(_signal, _frame):
    raise Failed(f"timed out after {CHECK_SECONDS} s")
