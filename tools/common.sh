# shellcheck shell=bash
# What tools/test, tools/quickstart and tools/install-dependencies share. Sourced, never run.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s\n' "$*"; }

die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# Sets `as_root` to the words that run a command as root: none for root, sudo for somebody who may
# use it. Returns 1 when there is no way. sudo asks for a password on the terminal only; where
# there is no terminal it has to work without one.
find_root() {
  as_root=()
  ((EUID == 0)) && return 0
  command -v sudo >/dev/null || return 1
  as_root=(sudo)
  if ! { : </dev/tty; } 2>/dev/null; then as_root=(sudo -n); fi
  "${as_root[@]}" true 2>/dev/null
}

# configure DIRECTORY OPTION...   Makes DIRECTORY a Meson build directory with these options, or
# gives an existing one these options. A directory that an interrupted run left half made is wiped.
configure() {
  local directory=$1
  shift
  if [[ -e $directory/meson-private/coredata.dat ]]; then
    meson configure "$directory" "$@" >/dev/null && return 0
    meson setup --wipe "$directory" "$repository" "$@"
  else
    meson setup "$directory" "$repository" "$@"
  fi
}

# How `build` is configured: optimised, with the assertions on, which stay in what users run.
# shellcheck disable=SC2034 # used by those who source this file
release_options=(-Dbuildtype=release -Doptimization=2 -Db_ndebug=false)
