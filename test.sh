#!/usr/bin/env bash
# Runs all checks: formatting, lints, documentation, tests, fuzzing, and real clients against the
# release binary.
#   ./test.sh            runs all checks
#   ./test.sh rust       skips PostgreSQL, fuzzing and real clients (needs no C++ compiler, Python or Node.js)
set -euo pipefail
cd "$(dirname "$0")"

scope=${1:-all}
case "$scope" in
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
step "lints: cargo clippy (takes minutes on the first run, which builds the dependencies)"
cargo clippy --quiet --all-targets -- -D warnings
step "documentation: cargo doc"
RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps --document-private-items
step "release binary: cargo build --release"
cargo build --quiet --release
export STEADFAST_BIN="$PWD/target/release/steadfast"
"$STEADFAST_BIN" --version
step "tests: cargo test (black-box, crash and power-loss tests use the release binary)"
if [ "$scope" = all ]; then
    tests/postgres/run cargo test --quiet
else
    cargo test --quiet
fi
if [ "$scope" = all ]; then
    step "cluster checker: planted violations (tests/cluster/run tests a real cluster)"
    tests/cluster/run --planted
    step "fuzzing: 3 s per target (use fuzz/run 600 for a longer run)"
    fuzz/run 3
    step "real clients (the first run installs them in target/clients)"
    clients/run
fi
step "all checks passed"
