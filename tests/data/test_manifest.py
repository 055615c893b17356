"""The table of patches, as written by the tool and as edited by hand."""

import hashlib
import io
import re

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histocli.data.manifest import (
    COLUMNS,
    SUBSET_COLUMNS,
    UNLABELLED,
    Row,
    hash_file,
    is_subset,
    open_row_writer,
    read_manifest,
    write_manifest,
)
from histocli.errors import HistoError
from histocli.files.tables import read_columns, read_table

TEXT = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    [
        "a,b",
        'a "b"',
        '"',
        "a\nb",
        "a\r\nb",
        "a\rb",
        ";",
        "007",
        "1e5",
        "NaN",
        "NA",
        "None",
        "ä é 中",
        " a ",
        "\ufeffa",
        "#",
    ]
)
ROWS = st.lists(
    st.builds(
        Row,
        id=TEXT.filter(bool),
        label=st.sampled_from([0, 1, None]),
        slide=TEXT,
        hospital=TEXT,
        split=st.sampled_from(["", "train", "test"]),
        sha1=st.just("0" * 40),
        min=st.integers(0, 255),
        max=st.integers(0, 255),
    ),
    unique_by=lambda row: (row.id, row.split),
    max_size=6,
)


def rows_of(frame):
    return [Row(*row) for row in frame.itertuples(index=False)]


@given(ROWS)
@settings(max_examples=100, deadline=None)
def test_rows_are_read_back_as_they_were_written(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "rows.csv"
    with open_row_writer(path) as writer:
        writer.writerows(rows)
    frame = read_manifest(path, COLUMNS)
    assert rows_of(frame) == [row._replace(label=UNLABELLED if row.label is None else row.label) for row in rows]
    assert [str(frame[name].dtype) for name in ("label", "min", "max")] == ["int64"] * 3


@given(ROWS)
@settings(max_examples=30, deadline=None)
def test_a_table_is_read_back_as_it_was_written(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "frame.csv"
    records = [(*row[:5], "data", i) for i, row in enumerate(rows)]
    frame = pd.DataFrame(records, columns=list(SUBSET_COLUMNS))
    frame["label"] = frame["label"].astype("float").fillna(UNLABELLED).astype("int64")
    write_manifest(path, frame)
    again = read_manifest(path, SUBSET_COLUMNS)
    assert list(again.itertuples(index=False, name=None)) == list(frame.itertuples(index=False, name=None))
    first = path.read_bytes()
    write_manifest(path, again)
    assert path.read_bytes() == first


def test_the_file_is_plain_csv(tmp_path):
    path = tmp_path / "m.csv"
    with open_row_writer(path) as writer:
        writer.writerow(Row("a,b", None, "s", "", "train", "f" * 40, 3, 250))
    header = b"id,label,slide,hospital,split,sha1,min,max\n"
    assert path.read_bytes() == header + b'"a,b",,s,,train,' + b"f" * 40 + b",3,250\n"
    assert hash_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def written(tmp_path, text):
    path = tmp_path / "m.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        "id,label\n007,1\n1e5,0\nNA,\n",
        "id,label\n007,1\n1e5,0\nNA,",
        "\ufeffid,label\n007,1\n1e5,0\nNA,\n",
        "id;label\r\n007;1\r\n1e5;0\r\nNA;\r\n",
        '\ufeffid;label;note\r\n"007";"1";"a,b"\r\n1e5;0;\r\nNA;;x\r\n',
        "id,label\r007,1\r1e5,0\rNA,\r",
        "id,label\n007,1.0\n1e5,0.0\nNA,\n",
        "id,label\n007, 1 \n1e5,0\nNA,  \n",
        "note,label,more,id\nx,1,,007\n,0,,1e5\n,,,NA\n",
        " id , label \n007,1\n1e5,0\nNA,\n",
        "id,label\n\n007,1\n\n\n1e5,0\nNA,\n\n",
        "id,label,,\n007,1,,\n1e5,0,,\nNA,,,\n,,,\n",
        "id,label\n007,1,,\n1e5,0\nNA,,\n",
    ],
    ids=str,
)
def test_tables_saved_by_spreadsheets_are_read_correctly(tmp_path, text):
    frame = read_manifest(written(tmp_path, text))
    assert frame["id"].tolist() == ["007", "1e5", "NA"]
    assert frame["label"].tolist() == [1, 0, UNLABELLED]


def test_a_subset_that_a_spreadsheet_saved_is_still_a_subset(tmp_path):
    for header in ("id,index", "id;index", "id\tindex", '\ufeff"id", "index"'):
        assert is_subset(written(tmp_path, f"{header}\r\n"))
    assert not is_subset(written(tmp_path, "id,label\nindex,1\n"))
    assert not is_subset(tmp_path / "missing.csv")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "line 1: there is no column 'id'"),
        ("\n\n", "line 1: there is no column 'id'"),
        ("name,label\na,1\n", "line 1: there is no column 'id'"),
        ("id,class\na,1\n", "line 1: there is no column 'label'"),
        ("id,label,label\na,1,0\n", "line 1: there are two columns 'label'"),
        ("id,label\na,1\nb,2\n", "line 3, column label: '2' is not 0, 1 or empty"),
        ("id,label\na,1\nb,nan\n", "line 3, column label: 'nan' is not 0, 1 or empty"),
        ("id;label\na;1\nb;0,5\n", "line 3, column label: '0,5' is not 0, 1 or empty"),
        ("id,label\na,1\nb,-1\n", "line 3, column label: '-1' is not 0, 1 or empty"),
        ("id,label\na,1\n,0\n", "line 3, column id: '' is empty"),
        ("id,label\na,1\nb,0\na,1\n", "line 4, column id: 'a' occurs twice"),
        ("id,label,split\na,1,x\na,1,y\na,1,x\n", "line 4, column id: 'a' occurs twice"),
        ("id,label,min\na,1,3\nb,1,3.5\n", "line 3, column min: '3.5' is not a whole number"),
        ("id,label,max\na,1,\n", "line 2, column max: '' is not a whole number"),
        ("id,label,index\na,1,0\nb,1,-1\n", "line 3, column index: '-1' is not a whole number"),
        ("id,label,index\na,1,0\nb,1,0\n", "line 3, column index: '0' occurs twice"),
        ("id,label\na,1\nb\n", "line 3: this line has 1 field, but line 1 names 2 columns"),
        ("id,label\na,1\nb,c,1\n", "line 3: this line has 3 fields, but line 1 names 2 columns"),
        ("id,label\na,1,x\nb,1,x\n", "line 2: this line has 3 fields, but line 1 names 2 columns"),
        ('id,label\na,1\n"b,1\nc,0\n', "line 3: a quote is not closed"),
        ('id,label\na,1\n"b"b,1\n', "line 3: there is text after a quote is closed"),
        # lines are counted as an editor counts them, whatever is before
        ("id,label\n\n\na,1\n\nb,2\n", "line 6, column label: '2' is not 0, 1 or empty"),
        ('id,label,note\na,1,"two\nlines"\nb,2,\n', "line 4, column label: '2' is not 0, 1 or empty"),
        (
            'id,label,note\r\na,1,"two\r\nlines"\r\n\r\nb,2,"x\r\ny"\r\n',
            "line 5, column label: '2' is not 0, 1 or empty",
        ),
        ('id,label,note\na,1,"two\n\nlines"\nb\n', "line 5: this line has 1 field, but line 1 names 3 columns"),
        ('"id\n",label\na,1\nb,7\n', "line 4, column label: '7' is not 0, 1 or empty"),
        (b"id,label\na,1\n\xff\xfe,0\n", "not UTF-8 text"),
        ("id,label\na,1\n".encode("utf-16"), "not UTF-8 text"),
        (f"id,label\na,1\n{'x' * 140_000},0\n", "line 3: a field has more than 131,072 characters"),
    ],
)
def test_an_unreadable_manifest_is_an_error_with_its_line(tmp_path, text, where):
    path = written(tmp_path, text)
    with pytest.raises(HistoError, match=re.escape(where)) as raised:
        read_manifest(path)
    assert str(raised.value).startswith(str(path))
    assert raised.value.hint


def test_an_id_may_be_in_two_splits(tmp_path):
    frame = read_manifest(written(tmp_path, "id,label,split\na,1,valid\na,0,test\n"))
    assert frame["label"].tolist() == [1, 0]


def test_required_columns_are_required(tmp_path):
    with pytest.raises(HistoError, match="line 1: there is no column 'slide'"):
        read_manifest(written(tmp_path, "id,label\na,1\n"), COLUMNS)


def test_an_empty_table_has_no_rows(tmp_path):
    assert len(read_manifest(written(tmp_path, "id,label,min\n"))) == 0


def test_for_a_missing_manifest_the_hint_is_the_command_that_writes_it(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(HistoError, match="there is no manifest") as raised:
            read_manifest(path)
        assert "histo download" in raised.value.hint


def test_a_failure_while_writing_leaves_the_old_table(tmp_path):
    path = written(tmp_path, "id,label\na,1\n")

    def write():
        with open_row_writer(path) as writer:
            writer.writerow(["half"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_text() == "id,label\na,1\n"
    assert list(tmp_path.iterdir()) == [path]


@given(st.binary(max_size=60) | st.text('id,label;"01\n\r x', max_size=60).map(str.encode), st.booleans())
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_read_or_refused_with_one_error(tmp_path_factory, data, headed):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(b"id,label\n" * headed + data)
    try:
        frame = read_manifest(path)
    except HistoError as error:
        assert str(path) in str(error)  # noqa: PT017 - both ends are right
    else:
        assert set(frame["label"]) <= {0, 1, UNLABELLED}
        assert all(frame["id"])


PIECES = st.sampled_from(["a", "b ", " ", "1", ",", ";", '"', '""', "\n", "\r\n", "\r", "é", "\0"])


@given(st.sampled_from(["", "\ufeff"]), st.lists(PIECES, max_size=40).map("".join))
@settings(max_examples=400, deadline=None)
def test_reading_by_column_and_by_row_gives_the_same_table(mark, text):
    """The fast and the strict way to read a table give the same columns and the same errors."""

    def open_text():
        return io.TextIOWrapper(io.BytesIO((mark + text).encode()), "utf-8-sig", newline="")

    def columns():
        return read_columns(open_text(), "t")

    def rows():
        names, lines = read_table(open_text(), "t")
        fields = [row[: len(names)] for _, row in lines]
        return {name: [row[i] for row in fields] for i, name in enumerate(names) if name}

    assert outcome(columns) == outcome(rows)


@pytest.mark.parametrize("start", ["\n", " \r\n\n"])
def test_lines_without_a_text_before_the_names_of_the_columns_are_skipped(start):
    assert read_columns(io.StringIO(start + "a;b\n1;2\n", newline=""), "t") == {"a": ["1"], "b": ["2"]}


def outcome(read):
    try:
        return read()
    except HistoError as error:
        return str(error)
