"""Inputs that are files, folders or globs, and the columns that their folders give."""
# tests are told by their names

import os
import pickle
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayclf import storage
from rayclf.data.sources import HIVE_NULL, Source, _matches, find_sources, partitions_of
from rayclf.errors import DataError


@pytest.fixture
def tree(tmp_path):
    """A folder of data in hive folders, with files that are none."""
    names = [
        "day=2024-01-01/b.csv",
        "day=2024-01-01/a.jsonl.gz",
        "day=2024-01-02/lang=d%20e/c.parquet",
        "plain.CSV",
        "deep/er/x.jsonl.zst",
        "deep/er/y.tsv.zstd",
    ]
    for name in [*names, "README.md", "_manifest/x.csv", ".git/x.csv", "day=2024-01-01/_SUCCESS", "deep/.x.csv"]:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(name)
    return tmp_path / "in", sorted(names)


def names(place):
    return [source.name for source in find_sources(place)]


@pytest.mark.parametrize("spell", [str, lambda path: path, lambda path: f"{path}/", lambda path: f"file://{path}"])
def test_a_folder_gives_its_data_files(tree, spell):
    folder, wanted = tree
    sources = find_sources(spell(folder))
    assert [source.name for source in sources] == wanted
    assert [storage.resolve(source.path)[1] for source in sources] == [str(folder / name) for name in wanted]
    assert [source.size for source in sources] == [len(name) for name in wanted]
    assert [dict(source.partitions) for source in sources[:3]] == [
        {"day": "2024-01-01"},
        {"day": "2024-01-01"},
        {"day": "2024-01-02", "lang": "d e"},
    ]
    assert pickle.loads(pickle.dumps(sources)) == sources
    assert len(set(sources)) == len(wanted)


def test_one_file_is_named_by_itself(tree):
    folder, _ = tree
    file = folder / "day=2024-01-01" / "b.csv"
    os.utime(file, ns=(5, 5))
    assert find_sources(file) == [Source(str(file), "b.csv", 20, "5", {})]
    assert find_sources(f"file://{file}") == [Source(f"file://{file}", "b.csv", 20, "5", {})]


@pytest.mark.parametrize("scheme", ["", "file://"])
@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("day=*/*.csv", ["day=2024-01-01/b.csv"]),
        ("day=*/*", ["day=2024-01-01/a.jsonl.gz", "day=2024-01-01/b.csv", "day=2024-01-02/lang=d%20e/c.parquet"]),
        ("day=2024-01-0[2-9]", ["day=2024-01-02/lang=d%20e/c.parquet"]),
        ("day=????-01-01/[!b].*", ["day=2024-01-01/a.jsonl.gz"]),
        ("**/*.csv", ["day=2024-01-01/b.csv"]),
        ("deep/**", ["er/x.jsonl.zst", "er/y.tsv.zstd"]),
        ("*.CSV", ["plain.CSV"]),
    ],
)
def test_globs(tree, pattern, wanted, scheme, monkeypatch):
    folder, _ = tree
    assert names(f"{scheme}{folder}/{pattern}") == wanted
    if not scheme:
        monkeypatch.chdir(folder)
        assert names(pattern) == wanted
        assert all(os.path.exists(source.path) for source in find_sources(pattern))


def test_a_literal_name_wins_over_the_glob(tmp_path):
    for name in ("x[1].csv", "x1.csv", "what?.csv", "d*/x.csv", "dd/x.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("a,b")
    assert names(f"{tmp_path}/x[1].csv") == ["x[1].csv"]
    assert names(f"file://{tmp_path}/x[1].csv") == ["x[1].csv"]
    assert names(f"file://{tmp_path}/what?.csv") == ["what?.csv"]
    assert [source.path for source in find_sources(f"{tmp_path}/d*")] == [f"{tmp_path}/d*/x.csv"]
    (tmp_path / "x[1].csv").unlink()
    assert names(f"{tmp_path}/x[1].csv") == ["x1.csv"]


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("absent", "no such file or folder"),
        ("absent.csv", "no such file or folder"),
        ("absent/*.csv", "the glob matches no files"),
        ("*.nothing", "the glob matches no files"),
        ("*.md", "the glob matches no data files; rayclf reads .csv"),
        ("empty", "no data files in this folder; rayclf reads .csv"),
        ("README.md", "unknown file type"),
    ],
)
def test_nothing_to_read(tree, place, told):
    folder, _ = tree
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=told) as error:
        find_sources(folder / place)
    assert str(error.value).startswith(f"{folder / place}: ")


def test_a_bucket_is_never_a_glob():
    with pytest.raises(DataError, match=r"^s3://\*\*\*@buck\*/x: a bucket's name cannot hold wildcards"):
        find_sources("s3://key:secret@buck*/x")


def test_partitions():
    assert partitions_of(f"a=1/b=x%2Fy/plain/c={HIVE_NULL}/d=/=e/f=g=h/x=1.csv") == {
        "a": "1", "b": "x/y", "c": None, "d": "", "f": "g=h"
    }  # fmt: skip
    assert partitions_of("a=1/a=2/x.csv") == {"a": "2"}


_TEXTS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)


@given(st.dictionaries(_TEXTS, _TEXTS, max_size=4))
def test_partitions_come_back(columns):
    folders = [f"{quote(key, safe='')}={quote(value, safe='')}" for key, value in columns.items()]
    assert partitions_of("/".join([*folders, "part-0.csv"])) == columns


_PARTS = st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=4)


@given(_PARTS, _PARTS)
def test_globs_without_wildcards_match_only_themselves_and_what_is_below(parts, pattern):
    assert _matches(parts, pattern) == (parts[: len(pattern)] == pattern)
    assert _matches(parts, ["**", parts[-1]])
    assert _matches(parts, ["*"] * len(parts))
    assert not _matches(parts, ["*"] * (len(parts) + 1))
