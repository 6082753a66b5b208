# Words on the screen, the same in every script. Sourced.

say() { printf '%s\n' "zerver: $*" >&2; }

# told_usage ARGS...: prints the comment at the script's top, if that was asked for; fails if not. From the top of the
# project.
told_usage() {
  [[ ${1:-} == --help || ${1:-} == -h ]] || return 1
  awk 'NR > 1 { if (!sub(/^# ?/, "")) exit; print }' "scripts/$(basename "$0")"
}

# One line that names the thing and the mend; then the end.
die() {
  say "$*"
  exit 1
}
