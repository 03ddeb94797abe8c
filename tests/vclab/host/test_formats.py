"""Formats of events as this and other kernels describe them."""

from __future__ import annotations

import numpy as np
import pytest

from vclab.errors import HostError
from vclab.host.formats import event_format, page_bytes

COMMON = """\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;
"""
TEXT = f"""name: mm_page_free
ID: 652
format:
{COMMON}
\tfield:unsigned long pfn;\toffset:8;\tsize:8;\tsigned:0;
\tfield:unsigned int order;\toffset:16;\tsize:4;\tsigned:0;
\tfield:int migratetype;\toffset:20;\tsize:4;\tsigned:1;
\tfield:char name[8];\toffset:24;\tsize:8;\tsigned:0;
\tfield:__data_loc char[] label;\toffset:32;\tsize:4;\tsigned:0;
\tfield:int far;\toffset:56;\tsize:4;\tsigned:1;

print fmt: "pfn=%lx", REC->pfn
"""
HEADER = """\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;
\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;
\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;
\tfield: char data;\toffset:16;\tsize:4080;\tsigned:0;
"""


def test_numbers_and_offsets_are_read() -> None:
    form = event_format("kmem/mm_page_free", TEXT)
    assert form.number == 652
    assert set(form.fields) == {"pfn", "order", "migratetype", "label"}  # no arrays, none of the process
    assert (form.fields["order"].offset, form.fields["order"].size, form.fields["order"].signed) == (16, 4, False)
    words = np.array([[2**64 - 1, 7 | (2**32 - 1) << 32, 0, 0, 0, 0]], np.uint64)
    assert [form.field(name).of(words).tolist() for name in ("pfn", "order", "migratetype")] == [[-1], [7], [-1]]


def test_fields_that_moved_are_found_where_they_are() -> None:
    moved = TEXT.replace("offset:16;", "offset:28;").replace("offset:20;", "offset:33;")
    form = event_format("kmem/mm_page_free", moved)
    words = np.array([[0, 0, 9 << 32, 0, 0, 0]], np.uint64)
    assert form.field("order").of(words).tolist() == [9]
    with pytest.raises(HostError, match="no field migratetype"):
        form.field("migratetype")  # across two words: no kernel packs so


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ID: 7",
        TEXT.replace("ID: 652", "ID: 65536"),
        TEXT.replace("offset:0;", "offset:1;"),
        TEXT.replace("offset:4;", "offset:8;"),
    ],
)
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(HostError, match="kmem/mm_page_free"):
        event_format("kmem/mm_page_free", text)


def test_size_of_a_page() -> None:
    assert page_bytes(HEADER) == 4096
    assert page_bytes(HEADER.replace("4080", "65520")) == 65536
    for other in ("", HEADER.replace("size:8", "size:4", 2), HEADER.replace("offset:16", "offset:12")):
        with pytest.raises(HostError, match="header_page"):
            page_bytes(other)
