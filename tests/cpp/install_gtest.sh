#!/bin/sh
# Installs GoogleTest where it is missing and may be installed; says how where it may not.
set -e
if [ -f /usr/include/gtest/gtest.h ]; then exit 0; fi
echo "GoogleTest is missing: installing the system package libgtest-dev"
if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
  apt-get update -qq && apt-get install -qq -y libgtest-dev > /dev/null && exit 0
fi
echo "GoogleTest could not be installed from here. Run: sudo apt-get install libgtest-dev" >&2
exit 1
