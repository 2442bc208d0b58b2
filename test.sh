#!/usr/bin/env bash
# Runs all checks: formatting, lints, documentation, tests, fuzzing, and real clients against the
# release binary.
#   ./test.sh            everything
#   ./test.sh rust       without PostgreSQL, fuzzing and real clients (no C++, Python or Node needed)
set -euo pipefail
cd "$(dirname "$0")"

what=${1:-all}
case "$what" in
all | rust) ;;
*)
    echo "usage: ./test.sh [all|rust]" >&2
    exit 2
    ;;
esac

start=$SECONDS
step() { printf '\n== %s (at %d s)\n' "$1" $((SECONDS - start)); }

step "formatting: cargo fmt --check"
cargo fmt --all --check
step "lints: cargo clippy (builds the dependencies first; minutes on a fresh machine)"
cargo clippy --quiet --all-targets -- -D warnings
step "documentation: cargo doc"
RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps --document-private-items
step "release binary: cargo build --release"
cargo build --quiet --release
export STEADFAST_BIN="$PWD/target/release/steadfast"
"$STEADFAST_BIN" --version
step "tests: unit, engine contract, model, black-box, crash and power loss (on the release binary)"
if [ "$what" = all ]; then
    tests/postgres/run cargo test --quiet
else
    cargo test --quiet
fi
if [ "$what" = all ]; then
    step "cluster checker: planted violations (run tests/cluster/run for a real cluster)"
    tests/cluster/run --planted
    step "fuzzing: 3 s per target (fuzz/run 600 for longer)"
    fuzz/run 3
    step "real clients (installed in target/clients on the first run)"
    clients/run
fi
step "all checks passed"
