#!/bin/sh
# Debian's chromium, which the tests of the report's page drive. Without it, or the right to install it, they are skipped.
command -v chromium >/dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null && exit 0
fi
echo "no chromium: tests of the report's page are skipped (apt-get install chromium)" >&2
