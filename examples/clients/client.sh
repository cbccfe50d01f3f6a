#!/usr/bin/env bash
# A client of the chat's text protocol: it sends the lines of its standard input, and prints the lines of the room.
#
#     ./client.sh localhost:8989 Mina dev
set -euo pipefail
if [ $# -ne 3 ]; then
  echo "usage: client.sh HOST:PORT NAME ROOM" >&2
  exit 2
fi
json() { printf '"%s"' "$(printf %s "$1" | sed 's/[\\"]/\\&/g')"; }

# -N ends the stream when the input ends: the server still processes everything, and then ends its stream too.
{ printf '{"name": %s, "room": %s}\n' "$(json "$2")" "$(json "$3")" && cat; } | nc -N "${1%:*}" "${1##*:}"
