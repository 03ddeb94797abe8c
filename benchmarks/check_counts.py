"""Hold the model's exact counts against those on record: ``python -m benchmarks.check_counts``.

Exits 1 with a line for each count that differs. A change that is meant is recorded with ``--update``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.counts import SCENARIOS, Counts

RECORD = Path(__file__).with_name("expected_counts.json")


def differences(expected: dict[str, Counts], found: dict[str, Counts]) -> Iterator[str]:
    """Yield a line for each count that is not as expected, missing or new."""
    for scenario in dict.fromkeys([*expected, *found]):
        before, now = expected.get(scenario, {}), found.get(scenario, {})
        for count in dict.fromkeys([*before, *now]):
            if before.get(count) != now.get(count):
                yield f"{scenario}, {count}: expected {before.get(count)}, counted {now.get(count)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, compare or record, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.check_counts", description=__doc__.split("\n")[0])
    parser.add_argument("--update", action="store_true", help=f"write the counts to {RECORD.name}")
    options = parser.parse_args(arguments)
    found = {name: scenario() for name, scenario in SCENARIOS.items()}
    total = sum(map(len, found.values()))
    if options.update:
        RECORD.write_text(json.dumps(found, indent=2) + "\n")
        print(f"recorded {total} counts of {len(found)} scenarios")
        return 0
    wrong = list(differences(json.loads(RECORD.read_text()), found))
    for line in wrong:
        print(line)
    if wrong:
        print(f"{len(wrong)} counts differ; if that is meant, run python -m benchmarks.check_counts --update")
        return 1
    print(f"{total} counts of {len(found)} scenarios are as on record")
    return 0


if __name__ == "__main__":
    sys.exit(main())
