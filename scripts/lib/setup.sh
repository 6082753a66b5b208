# Makes a virtual environment that holds what requirements/dev.txt locks, and the project itself. Sourced, from the top
# of the project.
# shellcheck source-path=SCRIPTDIR
source scripts/lib/say.sh
source scripts/lib/debian.sh

LOCK=requirements/dev.txt

# set_up VENV PYTHON: makes VENV with PYTHON, or brings it up to date. Costs a few milliseconds when there is nothing to do.
set_up() {
  local venv=$1 python=$2
  if is_set_up "$venv"; then return 0; fi
  # Two scripts started at once take turns; the second finds the work done.
  (
    flock 9
    is_set_up "$venv" || build "$venv" "$python"
  ) 9>"$venv.lock"
}

# What the environment was made from, by content; the place too, for it is written into its scripts.
stamp() {
  { sha256sum $LOCK setup.cfg pyproject.toml scripts/lib/setup.sh && "$1/bin/python" -VV && pwd -P; } 2>/dev/null | sha256sum
}

is_set_up() {
  [[ -x $1/bin/python && -f $1/stamp && $(<"$1/stamp") == "$(stamp "$1")" ]]
}

build() {
  local venv=$1 python=$2
  say "setting up $venv (the first time takes a minute)"
  rm -f "$venv/stamp"
  # An environment whose interpreter is gone, or that came here as a copy of another, is made anew.
  { grep -qF "$(pwd -P)/$venv/bin/" "$venv/bin/pip" && "$venv/bin/pip" --version; } >/dev/null 2>&1 ||
    make_venv "$venv" "$python"
  install_lock "$venv"
  stamp "$venv" >"$venv/stamp"
}

make_venv() {
  local venv=$1 python=$2
  command -v "$python" >/dev/null || die "$python is not on PATH: install Python 3.11 or newer"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "$("$python" -V) is too old: put Python 3.11 or newer first on PATH as python3"
  # Debian keeps half of venv in a package of its own.
  "$python" -c 'import venv, ensurepip' 2>/dev/null || debian_install python3-venv ||
    die "$python cannot make virtual environments: install Debian's python3-venv (apt-get install python3-venv)"
  rm -rf "$venv"
  "$python" -m venv "$venv" || die "$python -m venv $venv failed: see above"
}

install_lock() {
  local venv=$1 pip=("$1/bin/python" -m pip --quiet --disable-pip-version-check)
  # uv reads neither pip's certificates nor its index; where only pip has been told, pass it on.
  if [[ -n ${PIP_CERT:-} ]]; then export SSL_CERT_FILE=${SSL_CERT_FILE:-$PIP_CERT}; fi
  if [[ -n ${PIP_INDEX_URL:-} ]]; then export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}; fi

  # The project goes in as editable, rather than being found by luck of the working directory: so pytest finds the plugin by the
  # entry point by which our users' pytest finds it. --no-build-isolation, because setuptools is in the lock.
  if locked_uv | "${pip[@]}" install --require-hashes --no-deps -r /dev/stdin &&
    uv_in "$venv" sync --require-hashes $LOCK && uv_in "$venv" install --no-deps --no-build-isolation -e .; then
    return 0
  fi
  # A proxy, a mirror or a certificate that pip knows how to use and uv does not.
  say "uv could not install; trying with pip"
  if ! { "${pip[@]}" install --require-hashes -r $LOCK && "${pip[@]}" install --no-deps --no-build-isolation -e .; }; then
    die "the packages of $LOCK could not be installed: see above, mend the network or pip's settings, and start again"
  fi
}

# uv as the lock pins it, with its hashes: what pip needs to begin with.
locked_uv() {
  awk '/^[^ #]/ { wanted = /^uv==/ } wanted' $LOCK
}

uv_in() {
  local venv=$1 verb=$2
  shift 2
  "$venv/bin/uv" --quiet pip "$verb" --no-config --python "$venv/bin/python" "$@"
}
