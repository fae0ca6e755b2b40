"""Corpora: every kind gives the same documents, and what is wrong is named with its place."""

import json

import pyarrow
import pytest
from pyarrow import parquet

from interp.core.errors import InterpError
from interp.data.corpora import Digest, documents, texts

DOCUMENTS = ["first", "second\nline", "drei – ü"]


@pytest.fixture
def folder(tmp_path):
    """The documents as each kind, in a folder and one below it."""
    lines = [json.dumps({"text": text, "other": text.upper()}) for text in DOCUMENTS]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    parquet.write_table(pyarrow.table({"text": DOCUMENTS}), tmp_path / "b.parquet")
    (tmp_path / "deeper").mkdir()
    for number, text in enumerate(DOCUMENTS):
        (tmp_path / "deeper" / f"{number}.txt").write_text(text, encoding="utf-8")
    (tmp_path / "notes.md").write_text("not a document")
    return tmp_path


@pytest.mark.parametrize("source", ["a.jsonl", "b.parquet", "deeper", "deeper/*.txt", "dee*"])
def test_every_kind_gives_the_documents(folder, source):
    assert list(texts(folder / source)) == list(texts(str(folder / source))) == DOCUMENTS


def test_a_folder_is_all_its_files_in_order(folder):
    assert list(texts(folder)) == DOCUMENTS * 3


def test_texts_in_memory_pass_through_lazily():
    endless = (str(number) for number in iter(int, 1))
    assert next(texts(endless)) == "0"
    assert list(texts(DOCUMENTS)) == DOCUMENTS


def test_another_field(folder):
    assert list(texts(folder / "a.jsonl", field="other")) == [text.upper() for text in DOCUMENTS]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b'{"text": "a"}\n{"text": \n', r"line 2: not valid JSON"),
        (
            "x.jsonl",
            b'{"text": "a"}\n\n{"txt": "b"}\n',
            r"line 3: no field 'text'; choose one with field; did you mean txt",
        ),
        (
            "x.jsonl",
            b'{"text": "a"}\n{"text": "\xff"}\n',
            r"line 2: not UTF-8 \(invalid start byte at byte 10\)",
        ),
        ("x.jsonl", b'["a"]\n', "line 1: expected a JSON object"),
        ("x.jsonl", b'{"text": 3}\n', "line 1: expected text, got int"),
        ("x.jsonl", b'{"text": "a\\ud800"}\n', "line 1: half a surrogate pair at character 1"),
        ("x.jsonl", b"\n\n", "is empty; expected at least one document"),
        ("x.txt", b"\xffabc", "not UTF-8"),
        ("x.parquet", b"no parquet", "not a parquet file"),
        ("x.csv", b"text\na\n", "unknown kind '.csv'; expected .jsonl"),
    ],
)
def test_broken_files_are_named_with_the_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InterpError, match=message) as caught:
        list(texts(tmp_path / name))
    assert name in str(caught.value)


def test_a_parquet_column_and_row_are_named(tmp_path):
    parquet.write_table(pyarrow.table({"body": ["a", None]}), tmp_path / "x.parquet")
    with pytest.raises(InterpError, match=r"no column 'text'; choose one with field; known: body"):
        list(texts(tmp_path / "x.parquet"))
    with pytest.raises(InterpError, match="row 2: expected text, got NoneType"):
        list(texts(tmp_path / "x.parquet", field="body"))


def test_missing_paths_raise_at_once_with_the_nearest(folder):
    with pytest.raises(InterpError, match=r"no such file or folder; .*did you mean a\.jsonl"):
        texts(folder / "aa.jsonl")
    with pytest.raises(InterpError, match=r"no \.jsonl, \.parquet, \.txt files"):
        texts(folder / "*.pdf")
    with pytest.raises(InterpError, match="the corpus is empty"):
        list(texts([]))


def digest(documents):
    counted = Digest()
    for document in documents:
        counted.update(document)
    return counted.hex


def test_the_digest_sees_text_order_and_boundaries():
    different = [["ab", "c"], ["a", "bc"], ["c", "ab"], ["abc"], ["ab", "c", ""]]
    assert len({digest(documents) for documents in different}) == len(different)
    assert digest(iter(["ab", "c"])) == digest(["ab", "c"])


def test_bad_records_are_passed_over_and_counted_on_request(tmp_path, capsys):
    file = tmp_path / "mixed.jsonl"
    file.write_bytes(b'{"text": "one"}\n{broken\n{"txet": "two"}\n\xff\n{"text": 3}\n{"text": "four"}\n')
    with pytest.raises(InterpError, match="line 2: not valid JSON"):
        list(texts(file))
    assert list(texts(file, skip_bad=True)) == ["one", "four"]
    assert "ignored 4 bad records" in capsys.readouterr().err


CHAT = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]


@pytest.mark.parametrize("ending", ["gz", "xz", "bz2"])
def test_compressed_files_are_read(folder, ending):
    import fsspec

    for name in ("a.jsonl", "deeper/2.txt"):
        with fsspec.open(folder / f"{name}.{ending}", "wb", compression="infer") as file:
            file.write((folder / name).read_bytes())
    assert list(texts(folder / f"a.jsonl.{ending}")) == DOCUMENTS
    assert list(texts(folder / f"deeper/*.{ending}")) == DOCUMENTS[2:]
    cut = folder / f"a.jsonl.{ending}"
    cut.write_bytes(cut.read_bytes()[:-20])
    with pytest.raises(InterpError, match=rf"a\.jsonl\.{ending}: cannot be read"):
        list(texts(cut))


def test_urls_of_any_file_system_are_read(folder):
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ("a.jsonl", "b.parquet", "deeper/0.txt"):
        memory.pipe(f"/corpus/{name}", (folder / name).read_bytes())
    assert list(texts("memory://corpus/a.jsonl")) == DOCUMENTS
    assert list(texts("memory://corpus/*.parquet")) == DOCUMENTS
    assert list(texts("memory://corpus")) == [*DOCUMENTS * 2, DOCUMENTS[0]]
    assert list(texts(f"file://{folder}/a.jsonl")) == DOCUMENTS
    with pytest.raises(InterpError, match=r"no such file or folder; .*did you mean a\.jsonl"):
        texts("memory://corpus/aa.jsonl")
    with pytest.raises(InterpError, match="cannot be listed"):
        texts("nonsense://corpus/a.jsonl")


def test_hugging_face_datasets_are_read(folder, tmp_path):
    import datasets

    rows = datasets.Dataset.from_dict({"text": DOCUMENTS, "chat": [CHAT] * 3})
    assert list(texts(rows)) == list(texts(rows.to_iterable_dataset())) == DOCUMENTS
    assert list(documents(rows, field="chat")) == [CHAT] * 3
    rows.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(tmp_path / "splits")
    assert list(texts(f"hf:{tmp_path}/saved")) == DOCUMENTS
    assert list(texts(f"hf:{tmp_path}/splits")) == DOCUMENTS
    assert list(texts(f"hf:{tmp_path}/splits::test")) == DOCUMENTS[:1]
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "train.jsonl").write_bytes((folder / "a.jsonl").read_bytes())
    assert list(texts(f"hf:{tmp_path}/files")) == DOCUMENTS
    with pytest.raises(InterpError, match="no split 'dev'; known: train, test"):
        list(texts(f"hf:{tmp_path}/splits::dev"))
    with pytest.raises(InterpError, match=r"give it as hf:"):
        texts(tmp_path / "saved")
    with pytest.raises(InterpError, match=r"dataset 'hf:nobody/nothing' can't be read"):
        list(texts("hf:nobody/nothing"))


def test_conversations_are_documents(tmp_path):
    file = tmp_path / "chats.jsonl"
    file.write_text(json.dumps({"messages": CHAT}) + "\n" + json.dumps({"messages": "plain"}) + "\n")
    parquet.write_table(pyarrow.table({"messages": [CHAT]}), tmp_path / "chats.parquet")
    assert list(documents(file, field="messages")) == [CHAT, "plain"]
    assert list(documents(tmp_path / "chats.parquet", field="messages")) == [CHAT]
    assert list(documents([CHAT, {"text": CHAT}, "plain"])) == [CHAT, CHAT, "plain"]
    with pytest.raises(InterpError, match="a conversation where text is expected"):
        list(texts(file, field="messages"))
    with pytest.raises(InterpError, match=r"no field 'text'; .*messages"):
        list(documents(file))
    for turn in ({"role": "user"}, {"role": "robot", "content": "x"}, "hello", {"role": "user", "content": 3}):
        with pytest.raises(InterpError, match=r"document 0.*(is not a message|expected text)"):
            list(documents(iter([[turn]])))


def test_a_conversation_has_a_digest_of_its_own():
    assert len({digest([CHAT]), digest(["good day"]), digest([CHAT[:1]]), digest([CHAT, CHAT])}) == 4


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_text("one", encoding="utf-8-sig")
    (tmp_path / "b.jsonl").write_text('{"text": "two"}\n', encoding="utf-8-sig")
    assert list(texts(tmp_path)) == ["one", "two"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"train": ["a"], "test": ["b"]}, "a corpus that maps train, test; give one of its values"),
        ("", "no path"),
        ("hf:name:config:train:more", "more parts than hf:NAME:CONFIG:SPLIT"),
        (CHAT, "a conversation is a list of messages"),
        (iter([[]]), "a conversation without messages"),
    ],
)
def test_what_is_no_corpus_is_refused(source, message):
    with pytest.raises(InterpError, match=message):
        list(documents(source))


def test_damaged_parquet_and_foreign_archives_are_named(folder):
    content = bytearray((folder / "b.parquet").read_bytes())
    content[8:24] = b"\xff" * 16
    (folder / "b.parquet").write_bytes(content)
    with pytest.raises(InterpError, match=r"b\.parquet"):
        list(texts(folder / "b.parquet"))
    (folder / "c.jsonl.zip").write_bytes(b"junk")
    with pytest.raises(InterpError, match=r"unknown kind '\.zip'"):
        texts(folder / "c.jsonl.zip")


def test_further_keys_of_a_message_are_kept():
    called = [{"role": "assistant", "content": None, "tool_calls": [{"name": "look"}]}]
    assert list(documents([called])) == [[called[0] | {"content": ""}]]
