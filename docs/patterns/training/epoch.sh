#!/bin/sh
# One epoch: goes on from the checkpoint before, and leaves one that only this epoch's key opens.
#   epoch.sh NUMBER     the key is open as file $TALLY_KEY_FD; DATASET is a file in memory
set -eu
cat "$DATASET" > "$MEMORY/checkpoint-$1"                   # here the training would be
cat > "epoch-$1.yaml" <<END
schema: tallystick/artifact-recipe/v1
name: checkpoint
version: "$1"
images: [{name: trainer, versions: [1.0.0]}]
artifacts:
  - {name: checkpoint, kind: checkpoint, file: $MEMORY/checkpoint-$1, key: trainer/checkpoint/epoch-0000$1}
END
tally artifact encrypt "epoch-$1.yaml" --policy policy.yaml \
  --key "trainer/checkpoint/epoch-0000$1=/proc/self/fd/$TALLY_KEY_FD" -o "checkpoint-$1"
rm "$MEMORY/checkpoint-$1"
