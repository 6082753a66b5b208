# Runs the parts of a check one after the other, all of them whichever fails, and sums up. Sourced.

parts=()
failed_parts=0

# part NAME COMMAND...: runs it and remembers how it went.
part() {
  local name=$1 start=$SECONDS status=0
  shift
  printf '\n── %s\n' "$name"
  "$@" || status=$?
  if [[ $status -eq 0 ]]; then
    parts+=("ok    $name, $((SECONDS - start)) s")
  else
    parts+=("FAIL  $name, $((SECONDS - start)) s (exit $status)")
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
