# Runs the parts of a check one after the other, all of them whichever fails, and sums up. Sourced.

parts=()
failed_parts=0

# Since 1970. In some languages the fraction begins with a comma.
microseconds() { printf '%s' "${EPOCHREALTIME/[.,]/}"; }

# part NAME COMMAND...: runs it and remembers how it went.
part() {
  local name=$1 start=$(microseconds) status=0 took
  shift
  printf '\n── %s\n' "$name"
  "$@" || status=$?
  took=$((($(microseconds) - start) / 100000))
  took="$((took / 10)).$((took % 10)) s"
  if [[ $status -eq 0 ]]; then
    parts+=("ok    $name, $took")
  else
    parts+=("FAIL  $name, $took (exit $status)")
    failed_parts=$((failed_parts + 1))
  fi
}

# What is worth a line in the summary though nothing failed.
remark() { parts+=("note  $*"); }

# Prints how every part went; fails if any did.
summary() {
  printf '\n── summary\n'
  printf '%s\n' "${parts[@]}"
  [[ $failed_parts -eq 0 ]]
}
