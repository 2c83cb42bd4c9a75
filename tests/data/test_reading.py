"""Parts of files, plain and packed."""
# tests are told by their names

import gzip

import pyarrow as pa
import pytest

from rayclf.data.formats import format_of
from rayclf.data.reading import decoded, is_packed, read_range
from rayclf.errors import UserError

CONTENT = bytes(range(256)) * 8192  # more than one request's buffer


@pytest.fixture(params=["x.csv", "x.csv.gz", "x.csv.zst"])
def place(request, tmp_path):
    """A plain or packed file of CONTENT."""
    data = CONTENT
    if request.param.endswith(".gz"):
        data = gzip.compress(CONTENT, 1)
    elif request.param.endswith(".zst"):
        data = pa.compress(CONTENT, "zstd", asbytes=True)
    (tmp_path / request.param).write_bytes(data)
    return str(tmp_path / request.param)


@pytest.mark.parametrize(
    ("start", "length"), [(0, 10), (7, 0), (2**20 - 3, 2**20), (len(CONTENT) - 5, 9), (len(CONTENT) + 5, 9)]
)
def test_a_range_is_that_of_the_unpacked_file(place, start, length):
    assert read_range(place, start, length) == CONTENT[start : start + length]


@pytest.mark.parametrize("name", ["absent.csv", "absent.csv.gz"])
def test_a_range_of_no_file(tmp_path, name):
    with pytest.raises(UserError, match=name):
        read_range(str(tmp_path / name), 0, 1)


def test_options_of_an_address_are_no_part_of_the_name():
    assert format_of("s3://bucket/x.jsonl.gz?region=eu-west-1") == "jsonl"
    assert [is_packed(place) for place in ("s3://b/x.gz?region=x", "s3://b/x.csv", "x.ZST")] == [True, False, True]


def test_only_the_first_part_can_have_a_byte_order_mark():
    assert decoded(b"\xef\xbb\xbfa\r\n\xff", "", first=True).readlines() == ["a\r\n", "\udcff"]
    assert decoded(b"\xef\xbb\xbfa", "", first=False).read() == "\ufeffa"
