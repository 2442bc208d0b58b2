"""Runs all checks in this directory with the Fastly CLI."""

import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "python"))  # the shared runner
sys.path.insert(0, str(HERE))

from checks import run_all, log  # noqa: E402


def main():
    """Loads the checks in the order in which they run, and runs them."""
    from command import Fastly

    fastly = Fastly()
    log(fastly.ok("version").out.splitlines()[0])
    import account  # noqa: F401
    import stores  # noqa: F401
    import entries  # noqa: F401
    import files  # noqa: F401
    import many  # noqa: F401

    try:
        return run_all(fastly)
    finally:
        fastly.close()


if __name__ == "__main__":
    sys.exit(main())
