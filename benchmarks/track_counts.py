"""asv: the exact counts of :mod:`benchmarks.counts`; a step in one of these is a change of the model."""

from __future__ import annotations

from benchmarks import counts


def _track(kind: str, scenario: str, count: str) -> int:
    return counts.SCENARIOS[f"{kind} {scenario}".strip()]()[count]


class Counts:
    """What every class here has: counts by scenario, in events."""

    unit = "events"
    param_names = ("scenario", "count")


def _scenarios(kind: str) -> tuple[str, ...]:
    return tuple(name.removeprefix(f"{kind} ") for name in counts.SCENARIOS if name.startswith(f"{kind} "))


class Buddy(Counts):
    params = (_scenarios("buddy"), ("served", "split", "merge", "claim_pageblock", "steal", "free_blocks"))

    def track_count(self, scenario: str, count: str) -> int:
        return _track("buddy", scenario, count)


class Tlb(Counts):
    params = (_scenarios("tlb"), ("first_level_misses", "second_level_misses"))

    def track_count(self, scenario: str, count: str) -> int:
        return _track("tlb", scenario, count)


class Access(Counts):
    params = (
        _scenarios("access"),
        (
            *("second_level_tlb_hit", "walk", "walk_reference", "walk_cache_hit", "walk_level_1", "walk_memory"),
            *("data_level_1", "data_level_2", "data_level_3", "data_memory"),
            *("fill_conflict", "prefetch_line", "prefetch_walk", "accessed_update", "dirty_update"),
        ),
    )

    def track_count(self, scenario: str, count: str) -> int:
        return _track("access", scenario, count)


class DataCache(Counts):
    params = (_scenarios("data cache"), ("level_1", "level_2", "level_3", "level_4"))

    def track_count(self, scenario: str, count: str) -> int:
        return _track("data cache", scenario, count)


class WalkCache(Counts):
    params = (_scenarios("walk cache"), ("level_0", "level_2", "level_3", "level_4"))

    def track_count(self, scenario: str, count: str) -> int:
        return _track("walk cache", scenario, count)


class Streams(Counts):
    params = (_scenarios("stream"), ("lines", "pages"))

    def track_count(self, scenario: str, count: str) -> int:
        return _track("stream", scenario, count)


class HugeMappings(Counts):
    param_names = ("count",)
    params = ("tables", "entry_write")

    def track_count(self, count: str) -> int:
        return _track("huge mappings", "", count)


class PageTables(Counts):
    param_names = ("count",)
    params = ("tables", "entry_write")

    def track_count(self, count: str) -> int:
        return _track("page tables", "", count)


class Areas(Counts):
    param_names = ("count",)
    params = ("served", "area_step")

    def track_count(self, count: str) -> int:
        return _track("areas", "", count)


class AlignedAreas(Counts):
    param_names = ("count",)
    params = ("served", "area_step")

    def track_count(self, count: str) -> int:
        return _track("aligned areas", "", count)
