#!/bin/sh
# The appliance's one program: it keeps the time of its last round in its data directory.
set -eu
while :; do
    date -u +%FT%TZ >/opt/appliance/data/last-round
    sleep 60
done
