"""Series from files: forms of tables, dates, gaps, and what is refused, with its place."""

import json
import tracemalloc

import numpy as np
import pytest

from subquad.data.frequency import Frequency, infer
from subquad.data.series import divided
from subquad.data.series_files import from_row, open_series
from subquad.data.series_sheet import Columns

NAN = float("nan")


def read(tmp_path, text, name="data.csv", freq=None, least=None, **columns):
    (tmp_path / name).write_text(text)
    frequency = freq and Frequency.of(freq)
    return open_series(str(tmp_path / name), Columns(**columns), frequency, least)[0]


def values(series):
    return {name: series.of(i).tolist() for i, name in enumerate(series.names)}


LONG = """item_id,timestamp,target,promo,store
b,2024-01-01 02:00:00,3,1,x
a,2024-01-01 00:00:00,1,0,x
b,2024-01-01 00:00:00,1,0,x
b,2024-01-01 01:00:00,2,1,x
a,2024-01-01 03:00:00,4,0,x
a,2024-01-01 01:00:00,,1,x
b,2024-01-01 03:00:00,,1,x
"""


def test_long_rows_in_any_order(tmp_path):
    series = read(tmp_path, LONG, known=("promo",))
    np.testing.assert_equal(values(series), {"b": [1, 2, 3], "a": [1, NAN, NAN, 4]})
    assert str(series.frequency) == "H"
    assert series.dated
    # the last row of b has no target: it is the future, whose covariates are read
    np.testing.assert_equal(series.known(0)[:, 0], [0, 1, 1, 1])
    assert str(series.stamps(0, 3, 1)[0]) == "2024-01-01T03:00:00"
    assert series.counts == {
        "steps without a row, filled as missing": 1,
        "columns left unread: store": 1,
    }
    assert "7 values, 2 of them missing" in series.says


def test_wide_rows_of_different_lengths(tmp_path):
    text = '"V1","V2","V3","V4"\n"H1","5","6",""\n"H2","","7","8"\nH3,,,\n'
    series = read(tmp_path, text, freq="H")
    assert values(series) == {"H1": [5, 6], "H2": [7, 8]}
    assert not series.dated
    assert str(series.start[1]) == "2001-01-01T01:00:00"
    assert series.counts == {"series left out without any value": 1}
    assert values(read(tmp_path, "x,1,2\ny,3,4\n")) == {"x": [1, 2], "y": [3, 4]}
    dated = read(tmp_path, "item_id,2024-01-31,2024-02-29,2024-03-31\nx,1,2,3\n")
    assert str(dated.frequency) == "M"
    assert str(dated.stamps(0, 3, 1)[0]) == "2024-04-30T00:00:00"


def test_columns_with_and_without_dates(tmp_path):
    dated = "date,u,v\n2024-01-01,1,2\n2024-01-02,3,na\n2024-01-04,5,6\n2024-01-05,7,8\n"
    series = read(tmp_path, dated)
    np.testing.assert_equal(values(series), {"u": [1, 3, NAN, 5, 7], "v": [2, NAN, NAN, 6, 8]})
    assert series.together
    assert str(series.frequency) == "D"
    assert values(read(tmp_path, dated, target=("u",)))["u"][0] == 1
    bare = read(tmp_path, "1,2\n3,4\n", freq="D")
    assert values(bare) == {"1": [1, 3], "2": [2, 4]}
    tabs = read(tmp_path, "date\tu\n2024-01-01\t1\n2024-01-02\t2\n2024-01-03\t3\n", "d.tsv")
    assert values(tabs) == {"u": [1, 2, 3]}


def test_a_test_that_goes_on_and_one_that_holds_all(tmp_path):
    (tmp_path / "train.csv").write_text("id,1,2,3,4\na,1,2,3,\nb,4,5,6,7\n")
    (tmp_path / "test.csv").write_text("id,1,2\nb,8,9\na,4,5\nc,1,1\n")
    both = f"{tmp_path / 'train.csv'},{tmp_path / 'test.csv'}"
    series, held = open_series(both, Columns(), None)
    assert values(series) == {"a": [1, 2, 3, 4, 5], "b": [4, 5, 6, 7, 8, 9]}
    assert held.tolist() == [2, 2]
    assert series.counts == {"series left out that are only in the test": 1}
    (tmp_path / "test.csv").write_text("id,1,2\nb,8,9\n")
    with pytest.raises(ValueError, match=r"test\.csv has no series 'a', and train\.csv has"):
        open_series(both, Columns(), None)


def test_a_test_that_begins_with_blanks_does_not_slip(tmp_path):
    (tmp_path / "train.csv").write_text("id,1,2,3\na,1,2,3\n")
    (tmp_path / "test.csv").write_text("id,1,2,3\na,,,6\n")
    both = f"{tmp_path / 'train.csv'},{tmp_path / 'test.csv'}"
    for frequency in (None, Frequency.of("H")):
        series, held = open_series(both, Columns(), frequency)
        np.testing.assert_equal(values(series), {"a": [1, 2, 3, NAN, NAN, 6]})
        assert held.tolist() == [3]


def test_a_dated_test_brings_covariates_and_their_future(tmp_path):
    days = [f"2024-01-0{i}" for i in range(1, 10)]
    rows = [f"a,{t},{i if i < 7 else ''},{10 * i}\n" for i, t in enumerate(days)]
    head = "item_id,timestamp,target,promo\n"
    (tmp_path / "train.csv").write_text(head + "".join(rows[:4]))
    for first in (0, 4, 5):  # all from the beginning, what goes on, and that with a gap
        (tmp_path / "test.csv").write_text(head + "".join(rows[first:]))
        both = f"{tmp_path / 'train.csv'},{tmp_path / 'test.csv'}"
        series, held = open_series(both, Columns(known=("promo",)), None)
        gap = [NAN] if first == 5 else [4]
        np.testing.assert_equal(values(series), {"a": [0, 1, 2, 3, *gap, 5, 6]})
        assert held.tolist() == [3]
        promo = [0, 10, 20, 30, NAN if first == 5 else 40, 50, 60, 70, 80]
        np.testing.assert_equal(series.known(0)[:, 0], promo)
    (tmp_path / "test.csv").write_text(head + "".join(rows[2:]))
    with pytest.raises(ValueError, match=r"begins at 2024-01-03T00:00:00, and that of .* 4 steps"):
        open_series(both, Columns(known=("promo",)), None)


def test_a_row_of_json(tmp_path):
    hours, told = Frequency.of("H"), Columns(known=("promo",))
    row = {"target": [None, 2, "3"], "promo": [9, 1, 0, 1], "start": "2024-01-01 05:00"}
    series = from_row(row, told, hours, None)
    assert values(series) == {"series": [2, 3]}
    assert str(series.start[0]) == "2024-01-01T06:00:00"
    assert series.known(0)[:, 0].tolist() == [1, 0, 1]
    assert series.dated
    assert not from_row({**row, "promo": [1] * 3}, told, None, None).dated  # no step is known
    for wrong, says in [
        ({"target": [10**400]}, r"line 1, column 'target\[0\]': 10{59}\.\.\. is too large"),
        ({"target": 1}, "a row wants a list target"),
        ({"promo": None}, "a row wants a list promo; this one has target, promo, start"),
        ({"promo": [1]}, "promo has 1 values and the target 3"),
        ({"rain": [1]}, "a row has rain, and this run reads start, item_id, target, promo"),
    ]:
        with pytest.raises(ValueError, match=says):
            from_row({**row, **wrong}, told, hours, None)


def test_gluonts_folder(tmp_path):
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
    (tmp_path / "metadata.json").write_text(json.dumps({"freq": "1H", "prediction_length": 2}))
    start = {"start": "2024-01-01 00:00", "item_id": "T1"}
    train = json.dumps({**start, "target": [1, "NaN", 3], "feat_static_cat": [0]})
    (tmp_path / "train" / "data.json").write_text(train + "\n")
    rolls = [json.dumps({**start, "target": [1, None, 3, 4, 5, 6][:n]}) for n in (5, 6)]
    (tmp_path / "test" / "data.json").write_text("\n".join(rolls) + "\n")
    series, held = open_series(str(tmp_path), Columns(), None)
    np.testing.assert_equal(values(series), {"T1": [1, NAN, 3, 4, 5, 6]})
    assert held.tolist() == [3]
    assert series.counts == {"entries of feat_static_cat left unread": 1}
    with pytest.raises(ValueError, match=r"metadata\.json says H, and D is asked for"):
        open_series(str(tmp_path), Columns(), Frequency.of("D"))
    (tmp_path / "train" / "data.json").rename(tmp_path / "train" / "data.jsonl")
    assert len(open_series(str(tmp_path), Columns(), None)[0]) == 1
    for wrong in ('{"start": "2024-01-01"}', '{"start": "2024-01-01", "target": "12"}'):
        (tmp_path / "train" / "data.json").write_text(wrong + "\n")
        with pytest.raises(ValueError, match=r"data\.json line 1 is no series with start and tar"):
            open_series(str(tmp_path), Columns(), None)


def gluonts_folder(tmp_path, train, test):
    (tmp_path / "metadata.json").write_text(json.dumps({"freq": "H"}))
    for part, rows in (("train", train), ("test", test)):
        (tmp_path / part).mkdir(exist_ok=True)
        rows = [{"start": "2024-01-01", **row} for row in rows]
        (tmp_path / part / "data.json").write_text("\n".join(map(json.dumps, rows)))
    return str(tmp_path)


def test_gluonts_without_names_takes_no_values_of_another_series(tmp_path):
    one, two = {"target": [1, 2, None, 4]}, {"target": [10, 20, 30]}
    after = [{"target": row["target"] + [5] * n} for row in (one, two) for n in (1, 2)]
    with pytest.raises(ValueError, match=r"4 entries without item_id in test and 2 in train"):
        open_series(gluonts_folder(tmp_path, [one, two], after), Columns(), None)
    series, held = open_series(gluonts_folder(tmp_path, [one, two], after[1:3]), Columns(), None)
    np.testing.assert_equal(values(series), {"0": [1, 2, NAN, 4, 5, 5], "1": [10, 20, 30, 5]})
    assert held.tolist() == [2, 1]
    swapped = gluonts_folder(tmp_path, [one, two], after[3:0:-2])
    with pytest.raises(ValueError, match=r"'0' of .* at 2024-01-01 00:00:00 it has 10, not 1"):
        open_series(swapped, Columns(), None)
    filled = [{"target": [1, 2, 3, 4, 5]}, after[2]]  # what was missing in training is told
    with pytest.raises(ValueError, match=r"at 2024-01-01 02:00:00 it has 3, not nan"):
        open_series(gluonts_folder(tmp_path, [one, two], filled), Columns(), None)


def test_a_dated_test_that_holds_other_values_is_refused(tmp_path):
    (tmp_path / "train.csv").write_text(HOURS)
    both = f"{tmp_path / 'train.csv'},{tmp_path / 'test.csv'}"
    (tmp_path / "test.csv").write_text(HOURS + "2024-01-01 03:00,4\n")
    assert values(open_series(both, Columns(), None)[0]) == {"u": [1, 2, 3, 4]}
    (tmp_path / "test.csv").write_text(HOURS.replace(",2\n", ",-2\n") + "2024-01-01 03:00,4\n")
    with pytest.raises(ValueError, match=r"holds that of train.csv, but other .* it has -2, not 2"):
        open_series(both, Columns(), None)


def parquet_file(tmp_path, table):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(table), tmp_path / "d.parquet", row_group_size=2)
    return tmp_path / "d.parquet"


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    utc = np.arange("2024-01-01T00", "2024-01-01T04", dtype="M8[h]").astype("M8[ns]")
    zone = pyarrow.array(utc).cast(pyarrow.timestamp("us", "UTC"))
    kinds = {
        "text": ["2024-01-01", "2024-01-01T01:00", "2024-01-01T02:00", "2024-01-01T03:00"],
        "nanoseconds": pyarrow.array(utc),
        "zoned": zone.cast(pyarrow.timestamp("us", "Europe/Berlin")),
    }
    names = pyarrow.array(["a", "a", "a", "a"]).dictionary_encode()
    for kind, stamps in kinds.items():
        table = {"item_id": names, "timestamp": stamps, "target": [1.0, None, 3.0, 4.0]}
        series, _ = open_series(str(parquet_file(tmp_path, table)), Columns(), None)
        np.testing.assert_equal(values(series), {"a": [1, NAN, 3, 4]}, kind)
        assert (str(series.frequency), str(series.start[0])) == ("H", "2024-01-01T00:00:00")


def test_parquet_of_a_pandas_index_of_dates(tmp_path):
    """It writes the index after the columns, under a name of its own if it has none."""
    pyarrow = pytest.importorskip("pyarrow")
    days = pyarrow.array(np.arange("2024-01-01", "2024-01-06", dtype="M8[D]"))
    table = {"u": [1, 2, 3, 4, 5], "v": [6.0, 7, 8, 9, 10], "__index_level_0__": days}
    series, _ = open_series(str(parquet_file(tmp_path, table)), Columns(), None)
    assert values(series) == {"u": [1, 2, 3, 4, 5], "v": [6, 7, 8, 9, 10]}
    assert series.together
    assert str(series.frequency) == "D"


def test_parquet_of_a_pandas_index_of_numbers(tmp_path):
    """As a frame has it of which rows were left out: neither a series nor a value of one."""
    days, index = ["2024-01-01", "2024-01-02", "2024-01-03"], "__index_level_0__"
    table = {"date": days, "u": [1, 2, 3], index: [3, 0, 7]}
    series, _ = open_series(str(parquet_file(tmp_path, table)), Columns(), None)
    assert values(series) == {"u": [1, 2, 3]}
    assert series.counts == {f"columns left unread: {index}": 1}
    # beside a column called date an index of dates is left unread too
    series, _ = open_series(str(parquet_file(tmp_path, {**table, index: days})), Columns(), None)
    assert values(series) == {"u": [1, 2, 3]}
    wide = {"id": ["a", "b"], "V1": [1, 2], "V2": [3, 4], index: [5, 9]}
    series, _ = open_series(str(parquet_file(tmp_path, wide)), Columns(), None)
    assert values(series) == {"a": [1, 3], "b": [2, 4]}
    asked, _ = open_series(str(parquet_file(tmp_path, table)), Columns(target=(index,)), None)
    assert values(asked) == {index: [3, 0, 7]}


@pytest.mark.parametrize(
    ("freq", "first"), [("M", "2020-11-01"), ("D", "2020-11-15"), ("Y-DEC", "2020-01-01")]
)
def test_parquet_of_periods(tmp_path, freq, first):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    index = pandas.period_range("2020-11-15", periods=4, freq=freq)
    pandas.DataFrame({"u": [1, 2, 3, 4]}, index=index).to_parquet(tmp_path / "d.parquet")
    series, _ = open_series(str(tmp_path / "d.parquet"), Columns(), None)
    assert values(series) == {"u": [1, 2, 3, 4]}
    assert (str(series.frequency), str(series.start[0])) == (freq[0], f"{first}T00:00:00")
    odd = pandas.period_range("2020-11-15", periods=4, freq="W-SUN")
    pandas.DataFrame({"u": [1, 2, 3, 4]}, index=odd).to_parquet(tmp_path / "d.parquet")
    with pytest.raises(ValueError, match=r"has periods of W-SUN in column '__index_level_0__'"):
        open_series(str(tmp_path / "d.parquet"), Columns(), None)


def test_parquet_that_is_damaged_or_wrong_names_its_place(tmp_path):
    stamps = ["2024-01-01", "2024-01-02", "2024-01-03"]
    file = parquet_file(tmp_path, {"timestamp": stamps, "target": [1.0, float("inf"), 3.0]})
    with pytest.raises(ValueError, match=r"d.parquet line 3, column 'target': inf is too large"):
        open_series(str(file), Columns(), None)
    whole = file.read_bytes()
    for damaged in (whole[:40], whole[:4] + b"\xff" * 60 + whole[64:]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"d\.parquet is damaged"):
            open_series(str(file), Columns(), None)


def test_parquet_says_how_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pip install 'subquad\[series\]', or write it as .csv"):
        read(tmp_path, "x", "d.parquet")


HOURS = "date,u\n2024-01-01 00:00,1\n2024-01-01 01:00,2\n2024-01-01 02:00,3\n"
WRONG = [
    (HOURS.replace("01-01 01", "13-01 01"), {}, r"line 3, column 'date': '2024-13-01 01:00' is no"),
    (HOURS + "2024-01-01 01:00,9\n", {}, r"line 5, column 'date': 2024-01-01 01:00:00 stands in l"),
    (HOURS + "2024-01-01 02:30,9\n", {}, r"line 5, column 'date': .* is no multiple of H after"),
    (HOURS + "2924-01-01 02:00,9\n", {}, r"line 5, column 'date': .* is one of them wrong"),
    (HOURS + "2024-01-01 03:00,9,9\n", {}, r"line 5 has 3 cells, not 2"),
    (HOURS.replace(",2\n", ",two\n"), {}, r"line 3, column 'u': 'two' is no number"),
    (HOURS.replace(",2\n", ",inf\n"), {}, r"line 3, column 'u': 'inf' is too large"),
    (HOURS.replace("01:00,", "00:00:00.5,"), {}, r"line 3, .*0:00.5' has a part of a second, and"),
    ("month,u\n1,5\n2,6\n3,7\n", {}, r"line 2, column 'month': '1' is no date; write it as 2016"),
    ("Month,u\nJan,5\nFeb,6\n", {}, r"line 2, column 'Month': 'Jan' is no date"),
    ("year,month\n2020,1\n2021,2\n2022,3\n", {}, r"no column that is a series; its .* year, mon"),
    ("id,month,y\na,1,5\na,2,6\n", {}, r"line 2, column 'month': '1' is no date"),
    ("id,2016-01,2016-02,2016-13\na,1,2,3\n", {}, r"line 1, column '2016-13': '2016-13' is no da"),
    (HOURS.replace(",2\n", ",-2\n"), {"least": 0.0}, r"line 3, column 'u': '-2' is no count"),
    (HOURS, {"freq": "D"}, r"the dates of .* are H apart, and D is asked for"),
    (HOURS, {"target": ("w",)}, r"has no column 'w'; its columns are date, u"),
    (HOURS, {"known": ("w",)}, r"has no column 'w'"),
    (HOURS.replace(",1", ",").replace(",2", ",").replace(",3", ","), {}, r"holds no series with a"),
    ("a,1,2\na,3,4\n", {}, r"two series called 'a'"),
    (
        "date,u\n2024-01-01,1\n",
        {},
        r"1 dates do not tell how often values come; say it with --freq",
    ),
    (
        "item_id,timestamp,amount\na,2024-01-01,1\n",
        {"layout": "long"},
        r"wants one column with the",
    ),
    ("id,V1,V2\na,1\nb,1,2,3\n", {}, r"line 3 has 4 cells and the first line 3"),
    ("a,1,2\n", {"known": ("w",)}, r"a row per series, which holds no covariates"),
    (
        LONG.replace("a,2024-01-01 01", ",2024-01-01 01"),
        {},
        r"line 7, column 'item_id': a series has",
    ),
    ("id,V1,V2\na,1,2\n ,1,2\n", {}, r"line 3, column 'id': a series has no name"),
    (LONG.replace("promo,", "target,"), {}, r"has 2 columns 'target'; each wants its own name"),
    (
        LONG,
        {"known": ("target",)},
        r"column 'target' is asked for twice; what is forecast is no cov",
    ),
    (LONG, {"known": ("promo",), "late": ("promo",)}, r"column 'promo' is asked for twice"),
    (HOURS, {"target": ("u",), "known": ("u",)}, r"column 'u' is asked for twice"),
    (HOURS, {"item": "shop"}, r"read as a column per series; leave --task.item shop out"),
    ("id,V1,V2\na,1,2\n", {"target": ("a",)}, r"read as a row per series, its name first; leave"),
    ("id,V1,V2\na,1,2\n", {"item": "name"}, r"read as a row per series, its name first; leave"),
    (HOURS.replace(",", ";"), {}, r"line 1 is one cell, 'date;u': cells stand between commas"),
    ("date,u\n", {}, r"names columns, and has no rows of values"),
]


@pytest.mark.parametrize(("text", "how", "says"), WRONG, ids=range(len(WRONG)))
def test_bad_input_names_its_place(tmp_path, text, how, says):
    with pytest.raises(ValueError, match=says):
        read(tmp_path, text, **how)


def test_columns_of_other_names_make_a_long_table(tmp_path):
    """As soon as one names series and another has dates, a row is a value: dates may come again."""
    other = LONG.replace("target", "sold")
    wanted = {"b": [1, 2, 3], "a": [1, NAN, NAN, 4]}
    np.testing.assert_equal(values(read(tmp_path, other, target=("sold",))), wanted)
    other = other.replace("item_id,timestamp", "shop,hour")
    told = {"item": "shop", "time": "hour", "target": ("sold",)}
    np.testing.assert_equal(values(read(tmp_path, other, **told)), wanted)
    with pytest.raises(ValueError, match=r"wants one column .* say --task\.layout columns"):
        read(tmp_path, LONG.replace("target", "sold"))
    # the first column of a wide table may be named
    assert values(read(tmp_path, "V1,V2,V3\na,1,2\n", item="V1")) == {"a": [1, 2]}


def test_a_column_without_a_name_is_no_series(tmp_path):
    """As pandas writes an index of numbers."""
    text = ",date,u\n0,2024-01-01,5\n1,2024-01-02,6\n2,2024-01-03,7\n"
    series = read(tmp_path, text)
    assert values(series) == {"u": [5, 6, 7]}
    assert series.counts == {"columns left unread: (no name)": 1}
    # but it may hold the dates
    assert values(read(tmp_path, ",u\n2024-01-01,5\n2024-01-02,6\n2024-01-03,7\n")) == {
        "u": [5, 6, 7]
    }


def test_months_and_years_are_dates_and_no_series(tmp_path):
    months = [f"{1949 + i // 12}-{1 + i % 12:02}" for i in range(30)]
    wide = ",".join(["id", *months]) + "\n" + ",".join(["u", *"1" * 30]) + "\n"
    texts = [
        "Month,u\n" + "".join(f"{m},1\n" for m in months),
        "item_id,month,target\n" + "".join(f"u,{m.replace('-', '/')},1\n" for m in months),
        wide,
    ]
    for text in texts:
        series = read(tmp_path, text)
        assert values(series) == {"u": [1] * 30}
        assert (str(series.frequency), series.dated) == ("M", True)
        assert str(series.stamps(0, 30, 1)[0]) == "1951-07-01T00:00:00"
    years = read(tmp_path, "Year,u\n1960,1\n1961,2\n1962,3\n1963,4\n")
    assert values(years) == {"u": [1, 2, 3, 4]}
    assert (str(years.frequency), str(years.start[0])) == ("Y", "1960-01-01T00:00:00")
    # beside a date its parts are no series, unless somebody says so
    parts = HOURS.replace("\n", ",1\n").replace("u,1", "u,hour")
    series = read(tmp_path, parts)
    assert values(series) == {"u": [1, 2, 3]}
    assert series.counts == {"columns left unread: hour": 1}
    assert values(read(tmp_path, parts, target=("hour",))) == {"hour": [1, 1, 1]}
    assert read(tmp_path, parts, known=("hour",)).known(0)[:, 0].tolist() == [1, 1, 1]


def test_months_go_on_at_their_day_and_at_their_ends_only_if_all_do(tmp_path):
    starts = {"28": "2015-02-28", "30": "2015-02-28", "31": "2015-02-28"}
    for day, first in starts.items():
        months = np.arange("2015-02", "2016-01", dtype="M8[M]")
        ends = (months + 1).astype("M8[D]") - 1
        dates = np.minimum(months.astype("M8[D]") + (int(day) - 1), ends)
        assert str(dates[0]) == first
        text = "date,u,late\n" + "".join(f"{d},1,{1 if i else ''}\n" for i, d in enumerate(dates))
        text += "2016-04-30,1,1\n" if day == "31" else ""
        series = read(tmp_path, text)
        ahead = [str(t)[:10] for t in series.stamps(0, 11, 3)]
        february = "2016-02-28" if day == "28" else "2016-02-29"
        assert ahead == [f"2016-01-{day}", february, f"2016-03-{day}"]
        # a series that begins a month later stands on the same day
        assert [str(t)[:10] for t in series.stamps(1, 10, 3)] == ahead
        kept = series.only([1], "gone")
        assert [str(t)[:10] for t in kept.stamps(0, 10, 3)] == ahead
    # of a long table each series has a day of its own
    rows = [f"{name},{m}-{day},1\n" for name, day in (("a", 28), ("b", 15)) for m in months]
    long = read(tmp_path, "item_id,timestamp,target\n" + "".join(rows))
    assert [str(long.stamps(i, 11, 1)[0])[:10] for i in (0, 1)] == ["2016-01-28", "2016-01-15"]


def test_a_horizon_longer_than_the_data(tmp_path):
    series = read(tmp_path, "a,1,2,3,4,5,6\nb,1,2,3\n", freq="H")
    kept, parts = divided(series, 2, None)
    assert kept.names == ["a"]
    assert (parts.train[0], parts.valid[0], parts.test[0]) == (2, 4, 6)
    assert kept.counts == {"series left out, too short for the horizon": 1}
    assert list(parts.origins(0, 2, 1, "test")) == [4]
    with pytest.raises(ValueError, match=r"horizon of 3: the longest, a, has 6 values, and train,"):
        divided(series, 3, None)
    split, parts = divided(series, 1, None, (2, 1, 2))
    assert split.names == ["a"]
    assert split.counts["values after the split, not used"] == 1
    assert list(parts.origins(0, 1, 1, "test")) == [4, 3]


@pytest.mark.parametrize(
    ("name", "shown", "season"),
    [("15min", "15min", 96), ("60T", "H", 24), ("7D", "W", 52), ("QS", "Q", 4), ("YE", "Y", 1)],
)
def test_frequencies(name, shown, season):
    found = Frequency.of(name)
    assert (str(found), found.season) == (shown, season)
    start = np.datetime64("2023-12-29T00:00:00", "s")
    stamps = found.stamps(start, 0, 40)
    assert infer(stamps) == found
    assert found.places(start, stamps).tolist() == list(range(40))
    assert np.isfinite(found.features(stamps)).all()
    assert found.features(stamps).shape == (40, len(found.calendar))


def test_thousands_of_series_take_four_bytes_a_value(tmp_path):
    line = ",".join("1234.5" for _ in range(100))
    (tmp_path / "many.csv").write_text("".join(f"s{i},{line}\n" for i in range(2000)))
    tracemalloc.start()
    series, _ = open_series(str(tmp_path / "many.csv"), Columns(), None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(series) == 2000
    assert series.values.nbytes == 4 * 200_000
    # arrays grow by an eighth, in a copy; names, starts and one row come on top
    assert peak < 3 * series.values.nbytes + 1_000_000


def test_working_days_are_days_without_weekends():
    stamps = Frequency.of("B").stamps(np.datetime64("2024-01-01T00:00:00", "s"), 0, 30)
    assert infer(stamps) == Frequency.of("B")
    with pytest.raises(ValueError, match="there is no frequency 'fortnight'"):
        Frequency.of("fortnight")


def test_working_days_and_months_meet_their_steps_alone():
    start = np.datetime64("2024-01-05T09:00:00", "s")  # a Friday
    days = ["2024-01-05T09", "2024-01-06T09", "2024-01-08T09", "2024-01-08T10", "2024-01-04T09"]
    stamps = np.asarray(days, "M8[s]")
    assert Frequency.of("B").places(start, stamps).tolist() == [0, -1, 1, -1, -1]
    assert Frequency.of("2B").places(start, stamps).tolist() == [0, -1, -1, -1, -1]
    months = np.asarray(["2024-01-31", "2024-02-28", "2024-04-02"], "M8[s]")
    assert Frequency.of("M").places(start, months).tolist() == [0, 1, 3]
    assert Frequency.of("Q").places(start, months).tolist() == [0, -1, 1]


def test_a_slip_of_a_century_takes_no_memory():
    stamps = np.asarray(["2024-01-01T00:00:00", "2124-01-01T00:00:01"], "M8[s]")
    tracemalloc.start()
    places = Frequency.of("s").places(stamps[0], stamps)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert places[1] == (stamps[1] - stamps[0]).astype(int) > 3e9
    assert peak < 100_000


def test_periods_of_whole_weeks_are_no_months():
    weeks = np.datetime64("2024-01-01T00:00:00") + np.arange(12) * np.timedelta64(28, "D")
    gap = np.delete(weeks, 5)  # steps of 28 and of 56 days
    assert str(infer(gap)) == "4W"
    months = Frequency.of("M").stamps(np.datetime64("2023-01-31T00:00:00"), 0, 12)
    assert str(infer(np.delete(months, 5))) == "M"


def test_what_is_asked_for_holds_if_most_dates_are_a_step_apart(tmp_path):
    start = np.datetime64("2024-01-01T00:00:00")
    for freq, asked, agree in [
        ("13W", "13W", True),  # would be taken for quarters
        ("B", "D", True),
        ("D", "B", False),
        ("H", "30min", False),
        ("H", "2H", False),
    ]:
        stamps = Frequency.of(freq).stamps(start, 0, 12)
        text = "date,u\n" + "".join(f"{t},1\n" for t in stamps)
        if agree:
            assert str(read(tmp_path, text, freq=asked).frequency) == asked
        else:
            with pytest.raises(ValueError, match=f"are {freq} apart, and {asked} is asked for"):
                read(tmp_path, text, freq=asked)


def test_zones_become_utc_and_local_clocks_that_turn_back_are_refused(tmp_path):
    zoned = "date,u\n" + "".join(
        f"2024-10-27T{local},{i}\n"
        for i, local in enumerate(["01:00+02:00", "02:00+02:00", "02:00+01:00", "03:00+01:00"])
    )
    series = read(tmp_path, zoned)
    assert values(series) == {"u": [0, 1, 2, 3]}
    assert str(series.start[0]) == "2024-10-26T23:00:00"
    bare = zoned.replace("+01:00", ":00").replace("+02:00", ":00")
    with pytest.raises(ValueError, match=r"line 4, .*2024-10-27 02:00:00 stands in line 3 alread"):
        read(tmp_path, bare)
    # in spring an hour is missing, and is counted
    spring = "date,u\n2024-03-31 00:00,1\n2024-03-31 01:00,2\n2024-03-31 03:00,4\n"
    spring += "2024-03-31 04:00,5\n"
    series = read(tmp_path, spring)
    np.testing.assert_equal(values(series), {"u": [1, 2, NAN, 4, 5]})
    assert series.counts == {"steps without a row, filled as missing": 1}
