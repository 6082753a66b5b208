# Installing Debian packages where the user may. Sourced, after say.sh.

# Prints what must stand before apt-get: nothing for root, sudo where it asks for no password. Fails where neither is so.
root_prefix() {
  if [[ $(id -u) -eq 0 ]]; then
    return 0
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    echo sudo -n
  else
    return 1
  fi
}

# Asks only where somebody sits at a terminal; a script that runs by itself has been told to go ahead.
agreed_to_install() {
  [[ -t 0 && -t 2 && ${CI:-} != true ]] || return 0
  local answer
  read -r -p "zerver: install $* with apt-get? [Y/n] " answer
  [[ ${answer:-y} == [yY]* ]]
}

# debian_install PACKAGE...: fails when they cannot be installed or are not wanted. Runs in a subshell of its own, for
# the trap.
debian_install() (
  command -v apt-get >/dev/null || exit 1
  prefix=$(root_prefix) || exit 1
  agreed_to_install "$@" || exit 1
  say "installing $* with apt-get"
  as_root() { $prefix env DEBIAN_FRONTEND=noninteractive "$@"; }

  # Debian's packages start their daemons, unless this file says no. Ours run privately, on free ports.
  policy=/usr/sbin/policy-rc.d
  if ! { [[ -x $policy ]] && grep -qx 'exit 101' $policy; }; then
    trap 'as_root rm -f $policy; [[ ! -e $policy.kept ]] || as_root mv $policy.kept $policy' EXIT
    trap 'exit 130' INT TERM
    [[ ! -e $policy ]] || as_root mv $policy $policy.kept
    printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
    as_root chmod 755 $policy
  fi

  install() { as_root apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=120 "$@" >/dev/null; }
  # Package lists are missing on a fresh image and stale on an old one.
  { compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null && install "$@"; } ||
    { as_root apt-get update -qq >&2 && install "$@"; }
)

# debian_keep_down SERVICE...: what was installed for its programs alone does not start with the machine either.
debian_keep_down() {
  if command -v systemctl >/dev/null; then
    $(root_prefix) systemctl disable --quiet "$@" >&2 || say "$* may start with this machine: see systemctl disable"
  fi
}
