# The parts of scripts/test that have to do with tests. Sourced, after setup.sh and parts.sh.

tests_run=0

# What makes pytest run several tests of a target at a time, one a line: for whole folders whose tests mostly wait for
# servers and processes. Each of its workers has servers of its own; how many there are is told in tests/conftest.py.
# What the user gives comes later and has the last word: -n0, say.
several_at_a_time() {
  case $1 in
    tests/contract | tests/integration | tests/ops | tests/chaos) printf '%s\n' --numprocesses=auto --dist=worksteal ;;
  esac
}

# run_tests NAME VENV TARGET [PYTEST ARGS...]
run_tests() {
  local name=$1 venv=$2 target=$3 report several
  shift 3
  report=$(mktemp)
  mapfile -t several < <(several_at_a_time "$target")
  part "$name" run_pytest "$venv" "$target" --junitxml="$report" "${several[@]}" "$@"
  if [[ $(head -c 2000 "$report") =~ errors=\"([0-9]+)\"\ failures=\"([0-9]+)\"\ skipped=\"([0-9]+)\"\ tests=\"([0-9]+)\" ]]; then
    local skipped=${BASH_REMATCH[3]} tests=${BASH_REMATCH[4]}
    parts[-1]+=": $tests tests, $((BASH_REMATCH[1] + BASH_REMATCH[2])) failed, $skipped skipped"
    tests_run=$((tests_run + tests))
    if [[ $skipped -gt 0 ]]; then remark "$skipped of $name did not run: the reasons stand under its \"short test summary\""; fi
  fi
  rm -f "$report"
}

# Each test has its own bound, from setup.cfg; this one is for an interpreter that hangs before or after them.
run_pytest() {
  local venv=$1 status=0 limit=20m soak_minutes=${SOAK_MINUTES:-0}
  shift
  if [[ -n ${CHAOS_LONG:-} ]]; then
    # Beside whatever SOAK_MINUTES asks for, of which the whole minutes are counted.
    limit=$((180 + ${soak_minutes%.*}))m
    set -- --timeout=1800 "$@"
  fi
  timeout --foreground --kill-after=30 "$limit" "$venv/bin/python" -m pytest "$@" || status=$?
  # 5: nothing was selected. A folder may be empty, or have nothing for -k; scripts/test fails when all are so.
  [[ $status -eq 5 ]] || return "$status"
}

# Known vulnerabilities of locked packages: a remark, and no failure, since what others find out changes no line of ours.
audit_packages() {
  local said
  if said=$(scripts/audit 2>&1); then return 0; fi
  printf '\n── audit\n%s\n' "$said"
  remark "$(tail -n 1 <<<"$said") (scripts/audit)"
}

# The tests start RabbitMQ and PostgreSQL themselves, privately; here they only have to be on the disk.
install_servers() {
  local missing=() tools=()
  # One of another root, if RABBITMQ_ROOT names it, is there or the tests say that it is not.
  [[ -n ${RABBITMQ_ROOT:-} ]] || compgen -G '/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server' >/dev/null ||
    missing+=(rabbitmq-server)
  compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || missing+=(postgresql)
  [[ -x /usr/sbin/pgbouncer ]] || missing+=(pgbouncer)
  command -v puppet >/dev/null || missing+=(puppet)
  [[ -x /usr/sbin/nagios4 ]] || missing+=(nagios4-core)
  command -v promtool >/dev/null || missing+=(prometheus)
  # For systemd-analyze, which runs nothing: into containers, and not onto a machine that begins with another init.
  command -v systemd-analyze >/dev/null || [[ -e /sbin/init ]] || tools+=(systemd)
  if [[ ${#missing[@]} -eq 0 && ${#tools[@]} -eq 0 ]]; then return 0; fi
  if debian_install "${missing[@]}" "${tools[@]}"; then
    if [[ ${#missing[@]} -gt 0 ]]; then debian_keep_down "${missing[@]}"; fi
  else
    remark "${missing[*]} ${tools[*]} missing and not installed (apt-get install ${missing[*]} ${tools[*]}): tests that need them do not run"
  fi
}

# The lock gives Django 6 to Python 3.12 and newer and 5.2 to older ones, so the other line of Django takes an interpreter
# from the other side.
test_other_django() {
  local python version venv
  if ! python=$(other_python); then
    remark "ONLY ONE LINE OF DJANGO TESTED, $(django_of .venv): no other Python is here (wanted: python3.11 for 5.2, or python3.12 and newer for 6)"
    return 0
  fi
  version=$("$python" -c 'import sys; print("".join(map(str, sys.version_info[:2])))')
  venv=.venv-py$version
  part "set-up of $venv" set_up "$venv" "$python"
  if [[ ! -f $venv/stamp ]]; then return 0; fi
  # And what is of Django's own tasks, which one line has and the other has as a package of its own.
  for target in unit contract integration/test_django_tasks.py; do
    if [[ -e tests/$target ]]; then run_tests "$target on $(django_of "$venv")" "$venv" "tests/$target" "$@"; fi
  done
}

django_of() {
  "$1/bin/python" -c 'import sys, django; print("Django", django.__version__, "and Python", sys.version.split()[0])'
}

other_python() {
  local wanted=(3.14 3.13 3.12) version python
  if .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 12))'; then wanted=(3.11); fi
  for version in "${wanted[@]}"; do
    # pyenv puts names on PATH that do not run unless chosen, and keeps the interpreters here.
    for python in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/"python$version"; do
      if "$python" -c 'import ensurepip, sqlite3, ssl, venv' 2>/dev/null; then
        command -v "$python"
        return 0
      fi
    done
  done
  return 1
}
