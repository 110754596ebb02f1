"""Prints gcovr's summary by folder, or of files whose names begin with one of the patterns."""
import json
import sys

summary, patterns = sys.argv[1], sys.argv[2:]
totals = {}
for file in json.load(open(summary))["files"]:
    name = file["filename"]
    if patterns and not name.startswith(tuple(patterns)):
        continue
    for key in ([name] if patterns else ["/".join(name.split("/")[:2]), "all"]):
        t = totals.setdefault(key, [0, 0, 0, 0])
        for i, field in enumerate(("line_covered", "line_total", "branch_covered", "branch_total")):
            t[i] += file[field]
print(f"{'':34} {'lines':>14} {'branches':>16}")
for key, (lines, all_lines, branches, all_branches) in sorted(totals.items(), key=lambda kv: (kv[0] == "all", kv[0])):
    percent = lambda n, of: f"{100 * n / of:5.1f}% of {of:5}" if of else "none"
    print(f"{key:34} {percent(lines, all_lines)} {percent(branches, all_branches)}")
