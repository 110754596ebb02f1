"""Closing line of the suite from meson's testlog.json: one count a test program."""
import json
import sys

counts = {"OK": 0, "EXPECTEDFAIL": 0, "SKIP": 0}
failed = 0
with open(sys.argv[1], encoding="utf-8") as log:
    for line in log:
        result = json.loads(line)["result"]
        if result in counts:
            counts[result] += 1
        else:
            failed += 1
print(f"{counts['OK'] + counts['EXPECTEDFAIL']} passed, {failed} failed, {counts['SKIP']} skipped")
