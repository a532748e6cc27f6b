#!/bin/sh
# Makes the buckets that are missing. Run after each start: as soon as the server answers, and before it counts as started.
attempts=60
for bucket in $BUCKETS; do
  until echo "s3.bucket.create -name $bucket" | weed shell -master=127.0.0.1:9333 2>&1 | grep -qE "created bucket|already exists"; do
    attempts=$((attempts - 1))
    [ "$attempts" -gt 0 ] || { echo "bucket $bucket could not be made within a minute"; exit 1; }
    sleep 1
  done
done
