"""Run every campaign: ``python -m tests.campaigns [--share 1.0] [--seed 1]``. Exits with 1 on any disagreement."""

from __future__ import annotations

import subprocess
import sys

CAMPAIGNS = ("pagetable_unicorn", "tlb", "mmu", "mutations")


def main(arguments: list[str]) -> int:
    """Run each campaign in a process of its own with the arguments given; return 0 if all agree."""
    failed = 0
    for name in CAMPAIGNS:
        print(f"== {name}", flush=True)
        done = subprocess.run([sys.executable, "-m", f"tests.campaigns.{name}", *arguments], check=False)
        failed += done.returncode != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
