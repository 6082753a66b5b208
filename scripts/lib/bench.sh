# What scripts/bench needs beside the project's own environment. Sourced, after setup.sh.

PEERS_LOCK=requirements/bench.txt
PEERS_VENV=.venv-bench
LIMIT=var/bench/limit

# The peers live apart: what they need is no business of the project's lock.
set_up_peers() {
  local told
  told=$({ sha256sum $PEERS_LOCK && .venv/bin/python -VV && pwd -P; } | sha256sum)
  if [[ -x $PEERS_VENV/bin/python && -f $PEERS_VENV/stamp && $(<$PEERS_VENV/stamp) == "$told" ]]; then return 0; fi
  (
    flock 9
    say "setting up $PEERS_VENV with the peers (the first time takes a minute)"
    # As set_up does: uv reads neither pip's certificates nor its index.
    if [[ -n ${PIP_CERT:-} ]]; then export SSL_CERT_FILE=${SSL_CERT_FILE:-$PIP_CERT}; fi
    if [[ -n ${PIP_INDEX_URL:-} ]]; then export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}; fi
    # The interpreter of the project, so that all are measured on the same. Made anew: where it stands is written into it.
    rm -rf $PEERS_VENV
    .venv/bin/python -m venv --without-pip $PEERS_VENV || die "$PEERS_VENV could not be made: see above"
    .venv/bin/uv --quiet pip sync --no-config --require-hashes --python $PEERS_VENV/bin/python $PEERS_LOCK ||
      die "the packages of $PEERS_LOCK could not be installed: see above, mend the network, and start again"
    printf '%s\n' "$told" >$PEERS_VENV/stamp
  ) 9>$PEERS_VENV.lock
}

# Of the servers that tests want, these two; the bench starts them itself, privately.
install_measured_servers() {
  local missing=()
  [[ -n ${RABBITMQ_ROOT:-} ]] || compgen -G '/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server' >/dev/null ||
    missing+=(rabbitmq-server)
  compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || missing+=(postgresql)
  if [[ ${#missing[@]} -eq 0 ]]; then return 0; fi
  debian_install "${missing[@]}" || die "${missing[*]} missing and not installed (apt-get install ${missing[*]})"
  debian_keep_down "${missing[@]}"
}

# The programs in C that show what the broker can give. Without a compiler or librabbitmq they are missing from the
# result, which says so.
build_limit() {
  local program
  if ! can_build_limit && ! { debian_install gcc libc6-dev librabbitmq-dev && can_build_limit; }; then
    say "gcc or librabbitmq-dev is missing and was not installed: \"C\", the limit, will not be measured"
    rm -rf $LIMIT
    return 0
  fi
  mkdir -p $LIMIT
  for program in publish consume; do
    gcc -O2 -Wall -Wextra -o $LIMIT/$program tests/bench/limit/$program.c tests/bench/limit/common.c -lrabbitmq ||
      die "tests/bench/limit/$program.c does not compile: see above"
  done
}

can_build_limit() {
  command -v gcc >/dev/null && echo '#include <amqp.h>' | gcc -E - >/dev/null 2>&1
}
