# Defines a function that creates a Python virtual environment for a suite. Source this file.
#
#   install_python NAME WHAT VENV REQUIREMENTS
#
# NAME is the name of the suite, and WHAT describes the packages; messages contain both. VENV is the directory
# of the environment, and REQUIREMENTS is a file for pip. Does nothing if the packages are already installed.
install_python() {
  local name=$1 what=$2 venv=$3 wanted=$4
  if cmp -s "$wanted" "$venv/installed.txt"; then
    echo "$name: $what is already installed"
    return
  fi
  echo "$name: installing $what with pip (a few seconds)"
  rm -rf "$venv"
  if ! python3 -m venv "$venv" 2>"$CLIENTS_STATE/venv.log"; then
    # Debian packages the venv module separately.
    rm -rf "$venv"
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
      echo "$name: installing python3-venv with apt-get"
      apt-get update -qq
      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        python3-venv >/dev/null
      python3 -m venv "$venv"
    else
      cat "$CLIENTS_STATE/venv.log" >&2
      echo "$name: cannot create a virtual environment: install python3-venv and run this script again" >&2
      exit 1
    fi
  fi
  "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$wanted"
  cp "$wanted" "$venv/installed.txt"
}
