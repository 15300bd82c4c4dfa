#!/bin/sh
# Installs clang with its sanitizers, libFuzzer and OpenMP, and valgrind, where they are missing and
# may be installed; says how where they may not.
set -e
works() { # whether clang++ compiles, links and runs a program with a sanitizer and OpenMP
  command -v valgrind > /dev/null || return 1
  program=$(mktemp)
  echo 'int main() { return 0; }' |
    clang++ -x c++ -fsanitize=address -fopenmp -o "$program" - 2> /dev/null && "$program"
  status=$?
  rm -f "$program"
  return $status
}
if works; then exit 0; fi
echo "clang with its sanitizers, or valgrind, is missing: installing the system packages"
if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
  apt-get update -qq
  apt-get install -qq -y --no-install-recommends clang libomp-dev valgrind > /dev/null
  version=$(clang++ -dumpversion | cut -d. -f1)
  if apt-cache show "libclang-rt-$version-dev" > /dev/null 2>&1; then # a package of its own
    apt-get install -qq -y --no-install-recommends "libclang-rt-$version-dev" > /dev/null
  fi
  works && exit 0
fi
echo "clang could not be installed from here. Run, on Debian 12:" >&2
echo "  sudo apt-get install clang libclang-rt-14-dev libomp-dev valgrind" >&2
exit 1
