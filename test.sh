#!/usr/bin/env bash
# Runs every check: style, lints, documents, tests, and the real clients against the release binary.
#   ./test.sh            everything
#   ./test.sh rust       without PostgreSQL, fuzzing and the real clients (no C++, Python or Node needed)
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
step "documents: cargo doc"
RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps --document-private-items
step "the release binary: cargo build --release"
cargo build --quiet --release
export STEADFAST_BIN="$PWD/target/release/steadfast"
"$STEADFAST_BIN" --version
step "tests: unit, engines, semantics, model, black box and crashes (on the release binary)"
if [ "$what" = all ]; then
    tests/postgres/run cargo test --quiet
else
    cargo test --quiet
fi
if [ "$what" = all ]; then
    step "the check of the cluster's checker (tests/cluster/run tries a whole cluster, on demand)"
    tests/cluster/run --planted
    step "fuzzing, a few seconds for each target (fuzz/run 600 for more)"
    fuzz/run 3
    step "real clients (installed below target/clients on the first run)"
    clients/run
fi
step "all checks passed"
