#!/usr/bin/env bash
# Fetch Apache Kafka for the tests from Maven Central, once, and print the folder that its jars lie in. Needs a JDK 17
# or newer and Maven. The jars lie outside the repository, in ~/.cache/lookback (XDG_CACHE_HOME/lookback).
# With --there: fetch nothing; print the folder if it is complete, else fail.
set -euo pipefail
cd "$(dirname "$0")"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/lookback
folder=$cache/kafka-$(cksum < pom.xml | cut -d ' ' -f 1)
if [ ! -e "$folder/complete" ]; then
    if [ "${1:-}" = --there ]; then exit 1; fi
    for program in java mvn; do
        if ! command -v "$program" >/dev/null; then
            echo "kafka.sh: no $program found; install a JDK 17 and Maven (Debian: apt install openjdk-17-jre-headless maven)" >&2
            exit 1
        fi
    done
    mkdir -p "$cache"
    scratch=$(mktemp -d "$cache/.kafka-XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    mvn -q -B -f pom.xml dependency:copy-dependencies -DoutputDirectory="$scratch/libs" -DincludeScope=runtime >&2
    touch "$scratch/complete"
    mv -T "$scratch" "$folder" || [ -e "$folder/complete" ]
fi
echo "$folder"
