"""Pairs go out and come back the same; other tools' pairs come in; a bad file changes nothing."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backflip.data import Aid, Item, Judgement, Query
from backflip.errors import ConfigError, DataError
from backflip.store import Store
from backflip.store import interchange as interchange_module
from backflip.store.interchange import export_pairs, import_pairs, undecided_file
from backflip.store.records import UNDONE

ENDINGS = [".jsonl", ".parquet"]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10) | st.sampled_from(
    ["a\nb", "\u2028", '"', "</script>", "\x00"]
)
SHARES = st.sampled_from([None, (1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (0.25, 0.75), (0.9, 0.1)])


@st.composite
def judged(draw: st.DrawFn) -> tuple[Query, Judgement]:
    prompt = draw(TEXT)
    messages = [{"role": "user", "content": prompt}] if draw(st.booleans()) else None
    payloads = [{"tokens": draw(st.lists(st.integers(0, 9), max_size=3)), "k": k} for k in (0, 1)]
    if messages:
        payloads = [{**payload, "prompt_messages": messages} for payload in payloads]
    pair = tuple(Item(prompt, draw(TEXT), payload, draw(TEXT)) for payload in payloads)
    aids = tuple(Aid(draw(TEXT), draw(TEXT)) for _ in range(draw(st.integers(0, 2))))
    query = Query(
        pair, draw(TEXT), "compare", aids, draw(TEXT), draw(st.integers(0, 3)), draw(st.permutations([0, 1]).map(tuple))
    )
    numbers = st.floats(0, 1e10)
    return query, Judgement(
        query.id,
        draw(TEXT),
        draw(SHARES),
        draw(TEXT.filter(lambda note: note != UNDONE)),  # an event of its own, not an answer: it is not exported
        draw(numbers),
        draw(numbers),
        draw(st.none() | numbers),
        draw(st.dictionaries(TEXT, TEXT, max_size=2)),
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store.sqlite") as opened:
        yield opened


def pairs(count: int) -> list[tuple[Query, Judgement]]:
    shares = [(0.0, 1.0), (1.0, 0.0), (0.5, 0.5), None, (0.2, 0.8)]
    found: list[tuple[Query, Judgement]] = []
    for n in range(count):
        query = Query(tuple(Item(f"p{n}", f"a{n}{k}", {"t": [n, k]}) for k in (0, 1)), "Which?", order=(1, 0))
        found.append((query, Judgement(query.id, "me", shares[n % 5], note=f"n{n}", created=n / 7, seconds=n / 3)))
    return found


def put(store: Store, given: list[tuple[Query, Judgement]]) -> None:
    store.add_queries([query for query, _ in given])
    store.add_judgements([judgement for _, judgement in given])


def lines(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("ending", ENDINGS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_pairs=st.lists(judged(), max_size=5))
def test_exported_pairs_come_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, ending: str, given_pairs: list[tuple[Query, Judgement]]
) -> None:
    folder = tmp_path_factory.mktemp("pairs")
    with Store.open(folder / "one.sqlite") as one, Store.open(folder / "two.sqlite") as two:
        put(one, given_pairs)
        out = export_pairs(one, folder / f"one{ending}")
        if not given_pairs:
            assert (out.pairs, out.ties, out.could_not_judge) == (0, 0, 0)
            return
        back = import_pairs(two, folder / f"one{ending}")
        assert (back.pairs, back.ties, back.could_not_judge) == (out.pairs, out.ties, out.could_not_judge)

        def key(one: Judgement) -> str:
            return one.stored_id  # not how it is written: that depends on the order of details

        assert sorted(two.judgements()[0], key=key) == sorted(one.judgements()[0], key=key)
        wanted = {judgement.query_id for judgement in one.judgements()[0]}
        assert two.queries_by_id(wanted) == one.queries_by_id(wanted)
        assert import_pairs(two, folder / f"one{ending}").new == 0, "importing twice changes nothing"
        export_pairs(two, folder / f"two{ending}")
        for name in (f"one{ending}", f"one.undecided{ending}"):
            again = folder / name.replace("one", "two")
            assert (folder / name).exists() == again.exists()
            assert not again.exists() or lines(folder / name) == lines(again)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_row_says_what_was_preferred(store: Store, tmp_path: Path, ending: str) -> None:
    put(store, pairs(5))
    done = export_pairs(store, tmp_path / f"out{ending}")
    assert str(done) == "3 pairs, 1 ties, 1 that could not be judged"
    rows = lines(tmp_path / f"out{ending}")
    assert [(row["prompt"], row["chosen"], row["rejected"]) for row in rows] == [
        ("p0", "a01", "a00"),
        ("p1", "a10", "a11"),
        ("p4", "a41", "a40"),
    ]
    assert [row["answer"] for row in rows] == [[1.0, 0.0], [1.0, 0.0], [0.8, 0.2]]
    query = pairs(1)[0][0]
    assert rows[0]["judge"] == "me" and rows[0]["created"] == 0.0 and rows[1]["seconds"] == 1 / 3
    assert (rows[0]["query_id"], rows[0]["chosen_id"]) == (query.id, query.items[1].id)


@pytest.mark.parametrize("ending", ENDINGS)
def test_nobody_is_given_a_preference_that_was_not_stated(store: Store, tmp_path: Path, ending: str) -> None:
    put(store, pairs(5))
    path = tmp_path / f"out{ending}"
    export_pairs(store, path)
    assert undecided_file(path).name == f"out.undecided{ending}"
    rows = lines(undecided_file(path))
    assert [(row["first"], row["second"], row["answer"], row["note"]) for row in rows] == [
        ("a20", "a21", [0.5, 0.5], "n2"),
        ("a30", "a31", None, "n3"),
    ]
    assert all("chosen" not in row for row in rows)


def test_an_export_without_ties_leaves_no_old_ties_beside_it(store: Store, tmp_path: Path) -> None:
    put(store, pairs(5))
    export_pairs(store, tmp_path / "out.jsonl")
    with Store.open(tmp_path / "other.sqlite") as other:
        put(other, pairs(2))
        export_pairs(other, tmp_path / "out.jsonl")
    assert not undecided_file(tmp_path / "out.jsonl").exists()


def test_what_is_no_pair_of_texts_is_counted(store: Store, tmp_path: Path) -> None:
    one, two = Item("p", "a", {}), Item("p", "b", {})
    queries = [
        Query((one,), "how good?", "rate"),
        Query((one, two, Item("p", "c", {})), "which?", "rank"),
        Query((replace(one, media="clip"), two), "which?"),
        Query((one, Item("q", "b", {})), "which?"),
    ]
    answers = [(0.5,), (0.2, 0.3, 0.5), (1.0, 0.0), (1.0, 0.0)]
    put(store, [(query, Judgement(query.id, "me", answer)) for query, answer in zip(queries, answers, strict=True)])
    done = export_pairs(store, tmp_path / "out.jsonl")
    assert (done.pairs, done.left_out) == (0, 4) and "4 judgements of other kinds left out" in str(done)


CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
SAYS = {name: [{"role": "assistant", "content": name}] for name in ("good", "bad")}
FOREIGN: list[tuple[dict[str, Any], tuple[str, dict[str, Any]]]] = [
    ({"prompt": "Hi", "chosen": "good", "rejected": "bad", "score": 3}, ("Hi", {"prompt_text": "Hi"})),
    (
        {"prompt": CHAT, "chosen": SAYS["good"], "rejected": SAYS["bad"]},
        ("system: Be brief.\nuser: Hi", {"prompt_messages": CHAT}),
    ),
    ({"prompt": CHAT[1:], "chosen": "good", "rejected": "bad"}, ("Hi", {"prompt_messages": CHAT[1:]})),
    (
        {"chosen": CHAT + SAYS["good"], "rejected": CHAT + SAYS["bad"]},
        ("system: Be brief.\nuser: Hi", {"prompt_messages": CHAT}),
    ),
    (
        {"prompt": "Hi", "chosen": CHAT[1:] + SAYS["good"], "rejected": CHAT[1:] + SAYS["bad"]},
        ("Hi", {"prompt_messages": CHAT[1:]}),
    ),
    (
        {"chosen": "\n\nHuman: Hi\n\nAssistant:good", "rejected": "\n\nHuman: Hi\n\nAssistant:bad"},
        ("\n\nHuman: Hi\n\nAssistant:", {"prompt_text": "\n\nHuman: Hi\n\nAssistant:"}),
    ),
]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(("row", "expected"), FOREIGN)
def test_pairs_of_other_tools_are_read(
    store: Store, tmp_path: Path, ending: str, row: dict[str, Any], expected: tuple[str, dict[str, Any]]
) -> None:
    path = write(tmp_path / f"theirs{ending}", [row])
    assert import_pairs(store, path).pairs == 1
    (query,), _ = store.queries()
    (judgement,), _ = store.judgements()
    shown, payload = expected
    best = query.items[(judgement.answer or ()).index(1.0)]
    worst = query.items[(judgement.answer or ()).index(0.0)]
    assert (best.content, worst.content, best.prompt) == ("good", "bad", shown)
    assert dict(best.payload) == {**payload, "answer_text": "good"}
    assert judgement.judge == f"imported from theirs{ending}" and query.reason == "imported"
    out = tmp_path / "out.jsonl"
    export_pairs(store, out)
    (again,) = lines(out)
    assert again["prompt"] == payload.get("prompt_messages", shown)


def test_the_place_of_the_chosen_item_says_nothing(store: Store, tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(400)]
    import_pairs(store, write(tmp_path / "theirs.jsonl", rows))
    first = sum(one.answer[0] for one in store.judgements()[0] if one.answer)
    assert 150 < first < 250, "within five standard deviations of half"


def test_the_same_pair_judged_again_is_kept(store: Store, tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    path = write(tmp_path / "theirs.jsonl", [row, row, {"prompt": "p", "chosen": "b", "rejected": "a"}])
    done = import_pairs(store, path)
    assert (done.pairs, done.new) == (3, 3)
    assert sorted(query.repeat for query in store.queries()[0]) == [0, 1, 2]
    assert import_pairs(store, path).new == 0


def test_judge_time_and_weight_of_other_tools_are_kept(store: Store, tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "judge": "ann", "created": 5, "seconds": 2.5, "strength": 0.5}
    import_pairs(store, write(tmp_path / "theirs.jsonl", [row | {"question": "Which is kinder?"}]))
    (one,), _ = store.judgements()
    assert (one.judge, one.created, one.seconds, one.strength) == ("ann", 5.0, 2.5, 0.5)
    assert store.queries()[0][0].question == "Which is kinder?"


GOOD = '{"prompt": "p", "chosen": "a", "rejected": "b"}'
BAD = [
    ("{", "not JSON"),
    ("[1]", "holds list, expected an object"),
    ('{"prompt": "p", "chosen": "a"}', "has no 'rejected'"),
    ('{"prompt": "p", "chosen": "a", "rejected": "a"}', "the same text"),
    ('{"prompt": 3, "chosen": "a", "rejected": "b"}', "its prompt is int"),
    ('{"chosen": "a", "rejected": "b"}', "has no prompt"),
    ('{"prompt": "p", "chosen": "a", "rejected": "b", "seconds": -1}', "its seconds is -1"),
    ('{"prompt": "p", "chosen": "a", "rejected": "b", "judge": 7}', "its judge is 7"),
    (
        '{"prompt": [], "chosen": [{"role": "user", "content": "x"}], "rejected": "y"}',
        "by 'user', expected the assistant",
    ),
    (
        '{"chosen": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "a"}], '
        '"rejected": [{"role": "user", "content": "y"}, {"role": "assistant", "content": "b"}]}',
        "different conversations",
    ),
    ('{"prompt": [{"role": "user"}], "chosen": "a", "rejected": "b"}', "no object with role and content"),
]


@pytest.mark.parametrize(("line", "fault"), BAD)
def test_one_bad_line_is_named_and_nothing_is_imported(store: Store, tmp_path: Path, line: str, fault: str) -> None:
    path = tmp_path / "theirs.jsonl"
    path.write_text(f"{GOOD}\n\n{line}\n{GOOD}\n")
    with pytest.raises(DataError, match=rf"has 1 bad line, nothing was imported: theirs.jsonl line 3: .*{fault}"):
        import_pairs(store, path)
    assert set(store.counts().values()) == {0}


def test_all_bad_lines_are_counted_and_ten_are_shown(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "theirs.jsonl"
    path.write_bytes(b"\n".join([GOOD.encode(), b"\xff\xfe", *[b"{"] * 14]))
    with pytest.raises(DataError) as caught:
        import_pairs(store, path)
    said = str(caught.value)
    assert "15 bad lines" in said and "line 2: byte 1 is not UTF-8" in said and "line 11:" in said
    assert "line 12:" not in said and said.endswith("and 5 more") and "\n" not in said
    assert set(store.counts().values()) == {0}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_row_of_ours_that_was_changed_is_refused(store: Store, tmp_path: Path, ending: str) -> None:
    put(store, pairs(2))
    path = tmp_path / f"out{ending}"
    export_pairs(store, path)
    place = "line" if ending == ".jsonl" else "row"
    for name, value in [("chosen", "better text"), ("prompt", "other"), ("answer", [0.6, 0.4]), ("judge", "you")]:
        rows = lines(path)
        rows[1][name] = value
        changed = write(tmp_path / f"changed{ending}", rows)
        with Store.open(tmp_path / "new.sqlite") as new:
            with pytest.raises(DataError, match=f"{place} 2: it was changed since it was exported"):
                import_pairs(new, changed)
            assert set(new.counts().values()) == {0}
    rows[1]["record"] = None
    with Store.open(tmp_path / "new.sqlite") as new:
        assert import_pairs(new, write(tmp_path / f"changed{ending}", rows)).pairs == 2


def test_a_bad_file_of_ties_stops_the_import_of_the_pairs(store: Store, tmp_path: Path) -> None:
    put(store, pairs(5))
    path = tmp_path / "out.jsonl"
    export_pairs(store, path)
    undecided_file(path).write_text("{\n")
    with Store.open(tmp_path / "new.sqlite") as new:
        with pytest.raises(DataError, match=r"out.undecided.jsonl line 1: not JSON"):
            import_pairs(new, path)
        assert set(new.counts().values()) == {0}


def test_a_file_that_changes_while_it_is_read_imports_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "theirs.jsonl"
    path.write_text(f"{GOOD}\n{GOOD}\n")
    monkeypatch.setattr(interchange_module, "PAGE", 1)
    faults = interchange_module._faults

    def then_change(file: Path) -> Iterator[str]:
        yield from faults(file)
        path.write_text(f"{GOOD}\n{{\n")

    monkeypatch.setattr(interchange_module, "_faults", then_change)
    with pytest.raises(DataError, match="changed while it was read"):
        import_pairs(store, path)
    assert set(store.counts().values()) == {0}


def test_files_that_cannot_be_read_are_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected .jsonl or .ndjson or .parquet"):
        import_pairs(store, tmp_path / "pairs.csv")
    with pytest.raises(ConfigError, match=r"expected .jsonl"):
        export_pairs(store, tmp_path / "pairs.csv")
    with pytest.raises(DataError, match="no file"):
        import_pairs(store, tmp_path / "pairs.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DataError, match="holds no pairs"):
        import_pairs(store, tmp_path / "empty.jsonl")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match=r"cannot read .* as Parquet"):
        import_pairs(store, tmp_path / "broken.parquet")


def test_a_byte_order_mark_is_passed_over(store: Store, tmp_path: Path) -> None:
    (tmp_path / "theirs.jsonl").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert import_pairs(store, tmp_path / "theirs.jsonl").pairs == 1


def limited(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_full_disk_leaves_the_old_files(store: Store, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"out{ending}"
    put(store, pairs(5))
    export_pairs(store, path)
    before = {file.name: file.read_bytes() for file in tmp_path.glob("out*")}
    put(store, [(query, judgement) for query, judgement in pairs(3000)][5:])
    script = (
        "import sys; from backflip.store import Store; from backflip.store.interchange import export_pairs\n"
        "from backflip.errors import StoreError\n"
        "try: export_pairs(Store.open(sys.argv[1], 'read'), sys.argv[2])\n"
        "except StoreError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "store.sqlite"), str(path)],
        capture_output=True,
        text=True,
        preexec_fn=limited(30_000),
    )
    assert "make room" in done.stdout and done.stdout.count("\n") == 1, done.stderr
    assert {file.name: file.read_bytes() for file in tmp_path.glob("out*")} == before
    assert not list(tmp_path.glob(".out*"))
