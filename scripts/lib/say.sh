# Words on the screen, the same in every script. Sourced.

say() { printf '%s\n' "zerver: $*" >&2; }

# One line that names the thing and the mend; then the end.
die() {
  say "$*"
  exit 1
}
