"""Runs all checks in this directory with one version of the client. Usage: suite.py VERSION"""

import importlib.metadata
import sys

from checks import run_all, log

VERSION = sys.argv[1]


def main():
    """Loads the checks in the order in which they run, and runs them."""
    installed = importlib.metadata.version("fastly")
    if installed != VERSION:
        log(f"fastly {installed} is installed instead of {VERSION}")
        return 1
    import examples  # noqa: F401
    import stores  # noqa: F401
    import items  # noqa: F401
    import conditions  # noqa: F401
    import keys  # noqa: F401
    import listing  # noqa: F401
    import hazards  # noqa: F401
    import access  # noqa: F401
    from service import Service

    return run_all(Service(VERSION), label=f"fastly {VERSION}: ", version=VERSION)


if __name__ == "__main__":
    sys.exit(main())
