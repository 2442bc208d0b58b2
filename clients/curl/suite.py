"""Runs all checks in this directory with curl."""

import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "python"))  # the shared runner
sys.path.insert(0, str(HERE))

from checks import run_all, log  # noqa: E402


def main():
    """Loads the checks in the order in which they run, and runs them."""
    from shell import Shell

    shell = Shell()
    log(shell.version())
    import stores  # noqa: F401
    import items  # noqa: F401
    import uploads  # noqa: F401
    import paths  # noqa: F401
    import batches  # noqa: F401
    import account  # noqa: F401

    try:
        return run_all(shell)
    finally:
        shell.close()


if __name__ == "__main__":
    sys.exit(main())
