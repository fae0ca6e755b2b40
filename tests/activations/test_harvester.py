"""A harvest stores what the model computes, survives being killed, and never mixes two settings."""

import copy
import itertools
import json
import random
import resource
import signal
from pathlib import Path

import memory
import processes
import pytest
import tiny_models
import torch
from tiny_models import at_layer

import interp
from interp.activations import harvester
from interp.activations.harvester import harvest
from interp.activations.store import Store
from interp.core.errors import InterpError
from interp.core.files import lock_folder
from interp.models.hooked import HookedModel

SITES = ["resid_post.0", "z.1", "mlp_out.1"]
SETTINGS = {"context": 16, "batch_size": 4, "shard_tokens": 64}


@pytest.fixture(scope="module")
def corpus():
    draw = random.Random(0)
    return [" ".join(f"w{draw.randint(4, 127)}" for _ in range(draw.randint(0, 14))) for _ in range(32)]


class Killed(Exception):
    pass


class _Counter:
    """A transform that counts the forward passes."""

    calls = 0

    def __call__(self, x):
        self.calls += 1


def _killed_after(passes, problem=Killed):
    """A transform that lets a number of forward passes by and then raises."""
    left = [passes]

    def transform(x):
        left[0] -= 1
        if left[0] < 0:
            raise problem

    return transform


def _bytes(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_store_holds_what_capture_gives_document_by_document(tiny, corpus, tmp_path, architecture):
    model = tiny(architecture)
    store = harvest(model, corpus, SITES, tmp_path / "store", **SETTINGS)
    assert len(store.manifest.shards) > 3
    for number in (0, 7, 31):
        ids = torch.tensor([1, *model.tokenizer(corpus[number], add_special_tokens=False)["input_ids"]])
        mine = store.document == number
        assert torch.equal(store.ids[mine], ids.int())
        assert torch.equal(store.position[mine], torch.arange(len(ids)).int())
        alone = model.capture(ids, SITES)
        for site in SITES:
            assert torch.allclose(store.read(site)[mine], alone[site][0].flatten(1), atol=1e-5)


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0), ("bfloat16", 2**-8), ("float16", 2**-10)])
def test_activations_are_rounded_to_the_type_asked_for(tiny, corpus, tmp_path, dtype, error):
    exact = harvest(tiny("llama"), corpus, "resid_post.0", tmp_path / "exact", **SETTINGS).read("resid_post.0")
    store = harvest(tiny("llama"), corpus, "resid_post.0", tmp_path / "store", dtype=dtype, **SETTINGS)
    stored = store.read("resid_post.0")
    assert stored.dtype == getattr(torch, dtype)
    assert ((stored.float() - exact).abs() <= error * exact.abs() + 1e-7).all()


def test_whole_numbers_take_a_quarter_of_the_room_and_say_what_they_lost(tiny, corpus, tmp_path):
    exact = harvest(tiny("llama"), corpus, SITES, tmp_path / "exact", **SETTINGS)
    store = harvest(tiny("llama"), corpus, SITES, tmp_path / "store", dtype="int8", **SETTINGS)
    for site in SITES:
        x, stored = exact.read(site), store.read(site)
        assert stored.dtype == torch.float32
        assert ((stored - x).abs() <= x.abs().amax(1, keepdim=True) / 254 + 1e-7).all()
        for shard, plain in zip(store.manifest.shards, exact.manifest.shards, strict=True):
            assert 0 < shard.statistics[site].rounding < 0.01
            assert plain.statistics[site].rounding == 0
        assert store.mean_norm(site) == pytest.approx(float(x.norm(dim=1).mean()), rel=1e-5)
        epoch = torch.cat(list(store.batches(site, 10, seed=0, epochs=1)))
        assert float(epoch.sum()) == pytest.approx(float(stored.sum()), abs=1e-2)
    sizes = {}
    for name in ("store", "exact"):
        sizes[name] = sum(file.stat().st_size for file in (tmp_path / name).glob("*.safetensors"))
    assert sizes["store"] < 0.5 * sizes["exact"], "ids, documents and positions take their room too"


def test_a_second_harvest_into_one_folder_is_refused(tiny, corpus, tmp_path):
    model, out, refused = tiny("llama"), tmp_path / "store", []

    def meanwhile(x):
        if out.exists() and not refused:
            refused.append(None)
            with pytest.raises(InterpError, match="another process is harvesting into it"):
                harvest(tiny("llama", 0), corpus, SITES, out, **SETTINGS)

    with at_layer(model, 0, meanwhile):
        store = harvest(model, corpus, SITES, out, **SETTINGS)
    assert refused
    assert len(store) == len(harvest(model, corpus, SITES, tmp_path / "alone", **SETTINGS))


def test_a_batch_that_does_not_fit_is_halved(tiny, corpus, tmp_path, capsys):
    model = tiny("llama")

    def small_memory(x):
        if len(x) > 1:
            raise torch.OutOfMemoryError

    with at_layer(model, 0, small_memory):
        store = harvest(model, corpus, SITES, tmp_path / "store", **SETTINGS)
    plain = harvest(model, corpus, SITES, tmp_path / "plain", **SETTINGS)
    for site in SITES:
        torch.testing.assert_close(store.read(site), plain.read(site), atol=1e-5, rtol=1e-5)
    assert "4 rows do not fit into memory; trying 2" in capsys.readouterr().err


def test_bos_comes_first_or_not_at_all(tiny, corpus, tmp_path):
    with_bos = harvest(tiny("llama"), corpus, "embed", tmp_path / "with", **SETTINGS)
    without = harvest(tiny("llama"), corpus, "embed", tmp_path / "without", bos_first=False, **SETTINGS)
    assert (with_bos.ids == 1).sum() == with_bos.manifest.documents == len(corpus)
    assert not (without.ids == 1).any()
    assert without.manifest.settings.harvest.bos_first is False


def test_rows_of_their_own_hold_the_same_activations(tiny, corpus, tmp_path):
    """BLOOM's documents would leak into each other in one row."""
    model = tiny("bloom")
    store = harvest(model, corpus, "resid_post.2", tmp_path / "store", **SETTINGS)
    mine = store.document == 7
    alone = model.capture(store.ids[mine].long(), "resid_post.2")["resid_post.2"][0]
    torch.testing.assert_close(store.read("resid_post.2")[mine], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("passes", [2, 3, 5])
def test_a_killed_harvest_continues_to_the_same_bytes(tiny, corpus, tmp_path, passes):
    model = tiny("llama")
    harvest(model, corpus, SITES, tmp_path / "whole", **SETTINGS)
    cut = tmp_path / "cut"
    with pytest.raises(Killed), at_layer(model, 0, _killed_after(passes)):
        harvest(model, corpus, SITES, cut, **SETTINGS)
    with pytest.raises(InterpError, match="did not finish; run it again with the same settings"):
        Store.open(cut)
    kept = {file.name: file.stat().st_mtime_ns for file in cut.glob("*.safetensors")}
    # What a killed writer leaves behind.
    (cut / f".shard-{len(kept):05}.safetensors").write_bytes(b"half a shard")
    (cut / ".manifest.partial.json.123").write_text("{")
    (cut / ".tmpAb3d").write_bytes(b"safetensors' own")
    (cut / "shard-00099.safetensors").write_bytes(b"of an append that was given up")
    harvest(model, corpus, SITES, cut, **SETTINGS)
    assert _bytes(cut) == _bytes(tmp_path / "whole")
    assert kept == {name: (cut / name).stat().st_mtime_ns for name in kept}


_CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import tiny_models
from interp.activations import _growing_shard
from interp.activations.harvester import harvest
signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores it
folder, model = Path(sys.argv[2]), tiny_models.build("llama")
texts = (folder / "texts").read_text().split("\\n")

def interrupt(x):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGINT)

for dtype, _growing_shard.PIECE_SECONDS in (("float32", 30), ("int8", 0)):
    interrupts = 0
    for _ in range(40):
        left = [4]
        try:
            with tiny_models.at_layer(model, 0, interrupt):
                harvest(model, texts, ["resid_post.0", "z.1"], folder / dtype, context=16, batch_size=2, dtype=dtype)
            break
        except KeyboardInterrupt:
            assert (folder / dtype / "manifest.partial.json").exists()
            interrupts += 1
    print(interrupts, "interrupts")
"""


def test_ctrl_c_in_the_first_shard_leaves_what_the_same_call_continues(tiny, corpus, tmp_path):
    """All rows are one shard, and each call is interrupted at its third batch: what goes on is what pieces keep."""
    (tmp_path / "texts").write_text("\n".join(corpus))
    printed = processes.run(_CHILD, Path(tiny_models.__file__).parent, tmp_path)
    hint = f"interp: interrupted; the same call continues the harvest into {tmp_path / 'int8'}"
    assert printed.count(hint) >= 4
    assert "0 interrupts" not in printed.splitlines()
    for dtype in ("float32", "int8"):
        options = {"context": 16, "batch_size": 2, "dtype": dtype}
        whole = harvest(tiny("llama"), corpus, ["resid_post.0", "z.1"], tmp_path / "whole" / dtype, **options)
        assert len(whole.manifest.shards) == 1
        assert _bytes(tmp_path / dtype) == _bytes(whole.folder)


def test_ctrl_c_while_a_batch_is_copied_counts_it_not_at_all(tiny, corpus, tmp_path, monkeypatch):
    """Of a batch some tensors are in their place, and others are not."""
    model, options, calls = tiny("llama"), {"context": 16, "batch_size": 2}, itertools.count(1)
    whole, copied = harvest(model, corpus, SITES, tmp_path / "whole", **options), torch.Tensor.__setitem__

    def interrupted(x, place, value):
        copied(x, place, value)
        if x.dtype == torch.float32 and x.ndim == 2 and isinstance(place, slice) and next(calls) == 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(torch.Tensor, "__setitem__", interrupted)
        harvest(model, corpus, SITES, tmp_path / "cut", **options)
    assert len(list((tmp_path / "cut").glob(".shard-*"))) == 1, "control: the two batches before it are kept"
    (tmp_path / "cut" / ".manifest.partial.json.4000001").write_text("{")
    harvest(model, corpus, SITES, tmp_path / "cut", **options)
    assert _bytes(tmp_path / "cut") == _bytes(whole.folder)


def test_a_kill_before_the_first_record_leaves_what_is_continued(tiny, corpus, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / ".manifest.partial.json.4000001").write_text("{")
    harvest(tiny("llama"), corpus, SITES, tmp_path / "store", **SETTINGS)
    assert not list((tmp_path / "store").glob(".*"))


def test_pieces_of_other_settings_or_texts_are_not_read(tiny, corpus, tmp_path):
    model, options = tiny("llama"), {"context": 16, "batch_size": 2}
    for number, (texts, changed) in enumerate([(corpus[1:], {}), (corpus, {"dtype": "float16"}), (corpus, {})]):
        cut, whole = tmp_path / f"cut{number}", tmp_path / f"whole{number}"
        with pytest.raises(KeyboardInterrupt), at_layer(model, 0, _killed_after(4, KeyboardInterrupt)):
            harvest(model, corpus, SITES, cut, **options)
        assert list(cut.glob(".shard-*"))
        with at_layer(model, 0, counted := _Counter()):
            harvest(model, texts, SITES, cut, **options | changed)
        harvest(model, texts, SITES, whole, **options | changed)
        assert _bytes(cut) == _bytes(whole)
        rows = -(-len(Store.open(whole)) // 16)
        assert (counted.calls < rows / 2) == (number == 2), "control: those of the same harvest are read"


def test_several_processes_write_the_same_store(tmp_path):
    organism, texts = interp.load("organism"), list(interp.organism.corpus(40))
    options = {"context": 16, "shard_tokens": 128, "dtype": "int8"}
    one, two = (harvest(organism, texts, "resid_post.1", tmp_path / f"{n}", workers=n, **options) for n in (1, 2))
    assert _bytes(one.folder) == _bytes(two.folder)
    assert len(one.manifest.shards) > 4, "control: more than two a process"


def test_of_several_processes_that_are_wrong_nothing_is_left(tiny, corpus, tmp_path):
    for workers, problem in ((2, "a worker loads the model from its files: "), (0, "workers is 0")):
        with pytest.raises(InterpError, match=problem):
            harvest(tiny("llama"), corpus, SITES, tmp_path / "store", workers=workers, **SETTINGS)
        assert not list(tmp_path.iterdir())


def test_a_cluster_does_not_write_into_an_object_store(tiny, corpus):
    with pytest.raises(InterpError, match="a Ray cluster, whose machines write into one folder; give a local path"):
        harvest(tiny("llama"), corpus, SITES, "memory://store", workers="auto", **SETTINGS)


def test_a_shard_that_the_manifest_does_not_name_yet_is_not_computed_again(tiny, corpus, tmp_path, monkeypatch):
    def ahead(open_, work, items, *_):
        writer = open_()
        pairs = [(item, work(writer, item)) for item in items]
        yield from pairs[:2]
        raise Killed

    model, cut = tiny("llama"), tmp_path / "cut"
    whole = harvest(model, corpus, SITES, tmp_path / "whole", **SETTINGS)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(harvester, "map_in_order", ahead)
        harvest(model, corpus, SITES, cut, **SETTINGS)
    assert len(json.loads((cut / "manifest.partial.json").read_text())["parts"][0]["shards"]) == 2
    damaged = cut / whole.manifest.shards[3].name
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    with at_layer(model, 0, counted := _Counter()):
        assert _bytes(harvest(model, corpus, SITES, cut, **SETTINGS).folder) == _bytes(whole.folder)
    assert counted.calls == 2, "the widths of the sites, and control: the damaged shard of one batch"


def test_overwriting_starts_anew_and_removes_stores_only(tiny, corpus, tmp_path):
    model = tiny("llama")
    first = harvest(model, corpus, SITES, tmp_path / "store", **SETTINGS)
    (first.folder / "notes.txt").write_text("mine")
    with pytest.raises(InterpError, match="start anew with overwrite=True"):
        harvest(model, corpus, "embed", first.folder, **SETTINGS)
    whole = _bytes(harvest(model, corpus, "embed", tmp_path / "other", **SETTINGS).folder)
    for _ in range(2):
        harvest(model, corpus, "embed", first.folder, overwrite=True, **SETTINGS)
        assert _bytes(first.folder) == whole | {"notes.txt": b"mine"}
    with pytest.raises(InterpError, match="the corpus is empty"):
        harvest(model, [], "embed", first.folder, overwrite=True, **SETTINGS)
    with (
        lock_folder(first.folder, ""),
        pytest.raises(InterpError, match="another process is harvesting into it"),
    ):
        harvest(model, corpus, SITES, first.folder, overwrite=True, **SETTINGS)
    assert _bytes(first.folder) == whole | {"notes.txt": b"mine"}, "what fails at once removes nothing"
    for name in ("thesis.txt", "manifest.json"):
        (tmp_path / name.split(".")[0]).mkdir()
        (tmp_path / name.split(".")[0] / name).write_text("{}")
        with pytest.raises(InterpError, match=r"not an activation store|manifest.json: settings is missing"):
            harvest(model, corpus, SITES, tmp_path / name.split(".")[0], overwrite=True, **SETTINGS)
        assert (tmp_path / name.split(".")[0] / name).read_text() == "{}"
    with pytest.raises(InterpError, match="leave one of them out"):
        harvest(model, corpus, SITES, first.folder, overwrite=True, append=True, **SETTINGS)


def test_an_overwriting_harvest_that_is_stopped_is_continued(tiny, corpus, tmp_path):
    model = tiny("llama")
    harvest(model, corpus, "embed", tmp_path / "store", **SETTINGS)
    with pytest.raises(Killed), at_layer(model, 0, _killed_after(4)):
        harvest(model, corpus, SITES, tmp_path / "store", overwrite=True, **SETTINGS)
    harvest(model, corpus, SITES, tmp_path / "store", **SETTINGS)
    whole = harvest(model, corpus, SITES, tmp_path / "whole", **SETTINGS)
    assert _bytes(tmp_path / "store") == _bytes(whole.folder)


def test_a_finished_harvest_is_opened_without_running_the_model(tiny, corpus, tmp_path, capsys):
    model = tiny("llama")
    harvest(model, corpus, SITES, tmp_path / "store", **SETTINGS)
    # One pass finds the widths of the sites; a second would be work done twice.
    with at_layer(model, 0, _killed_after(1)):
        again = harvest(model, corpus, SITES, tmp_path / "store", **SETTINGS)
    assert len(again) == len(Store.open(tmp_path / "store"))
    assert "interp: opened the finished harvest in" in capsys.readouterr().err


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": 8}, r"context was 16 and is now 8"),
        ({"dtype": "bfloat16"}, r"dtype was 'float32' and is now 'bfloat16'"),
        ({"sites": ["resid_post.0"]}, r"sites\.z\.1 was 32 and is now None"),
        ({"texts": ["w4 w5 w6"]}, "text_digest"),
        ({"tokens": 100}, "tokens was None and is now 100"),
        ({"seed": 1}, "model.digest"),
    ],
)
def test_other_settings_are_refused_by_name(tiny, corpus, tmp_path, finished, change, message):
    call = {"texts": corpus, "sites": SITES, "seed": 0} | SETTINGS

    def run(texts, sites, seed, **settings):
        return harvest(tiny("llama", seed), texts, sites, tmp_path / "store", **settings)

    if finished:
        run(**call)
    else:
        with pytest.raises(Killed), at_layer(tiny("llama", 0), 0, _killed_after(3)):
            run(**call)
    before = _bytes(tmp_path / "store")
    with pytest.raises(InterpError, match=message):
        run(**call | change)
    assert _bytes(tmp_path / "store") == before


def test_a_shard_damaged_before_the_continuation_is_named(tiny, corpus, tmp_path):
    model = tiny("llama")
    with pytest.raises(Killed), at_layer(model, 0, _killed_after(4)):
        harvest(model, corpus, SITES, tmp_path / "store", **SETTINGS)
    shard = tmp_path / "store" / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(InterpError, match=r"shard-00000\.safetensors: damaged"):
        harvest(model, corpus, SITES, tmp_path / "store", **SETTINGS)


def test_an_endless_corpus_is_read_up_to_its_tokens(tiny, tmp_path):
    endless = (f"w{4 + number % 100} w5" for number in iter(int, 1))
    store = harvest(tiny("llama"), endless, "embed", tmp_path / "store", tokens=100, context=16)
    assert len(store) == 100
    assert store.manifest.documents == 34


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "int4"}, "dtype"),
        ({"tokens": 0}, "tokens"),
        ({"batch_size": 0}, "batch_size"),
        ({"context": 65, "shard_tokens": 65}, "context is 65 but the model's is 64"),
        ({"shard_tokens": 15}, "shard_tokens is 15; expected at least one row, 16 tokens"),
        ({"shard_token": 64}, "harvest: unknown key 'shard_token'; did you mean shard_tokens?"),
        ({"sites": "resid_post.9"}, "unknown site"),
        ({"texts": []}, "the corpus is empty"),
        ({"texts": "nowhere.jsonl"}, "no such file"),
    ],
)
def test_bad_settings_leave_nothing_behind(tiny, corpus, tmp_path, change, message):
    call = {"texts": corpus, "sites": SITES} | SETTINGS | change
    with pytest.raises(InterpError, match=message):
        harvest(tiny("llama"), out=tmp_path / "store", **call)
    assert not (tmp_path / "store").exists()


def test_a_full_disk_is_named_and_the_harvest_goes_on_when_there_is_room(tiny, corpus, tmp_path):
    model, room = tiny("llama"), resource.getrlimit(resource.RLIMIT_FSIZE)
    harvest(model, corpus, SITES, tmp_path / "whole", **SETTINGS)
    cut = tmp_path / "cut"
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # No file may grow beyond this: to a writer as if the disk were full.
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, room[1]))
        with pytest.raises(InterpError, match=r"shard-00000\.safetensors: writing failed .* run again to continue"):
            harvest(model, corpus, SITES, cut, **SETTINGS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, room)
        signal.signal(signal.SIGXFSZ, handler)
    assert {file.name for file in cut.iterdir()} == {"manifest.partial.json"}
    harvest(model, corpus, SITES, cut, **SETTINGS)
    assert _bytes(cut) == _bytes(tmp_path / "whole")


def test_a_recipe_is_not_harvested_as_the_plain_model(tiny, corpus, tmp_path):
    model = tiny("llama")
    with (
        model.hooked([("mlp_out.1", lambda x: 0 * x)]),
        pytest.raises(InterpError, match="leave the hooked block first"),
    ):
        harvest(model, corpus, SITES, tmp_path / "store", **SETTINGS)
    assert not (tmp_path / "store").exists()


def test_other_files_in_the_folder_are_left_alone(tiny, corpus, tmp_path):
    store = harvest(tiny("llama"), corpus, SITES, tmp_path / "store", **SETTINGS)
    (store.folder / ".gitignore").write_text("*")
    (store.folder / ".ipynb_checkpoints").mkdir()
    harvest(tiny("llama"), corpus, SITES, store.folder, **SETTINGS)
    harvest(tiny("llama"), ["w9 w8"], SITES, store.folder, append=True, **SETTINGS)
    assert (store.folder / ".gitignore").exists()
    assert (store.folder / ".ipynb_checkpoints").exists()


def test_a_bad_record_met_on_the_way_can_be_passed_over(tiny, tmp_path, capsys):
    lines = [json.dumps({"text": f"w{4 + number % 90} w5 w6 w7 w8"}) for number in range(90)]
    broken = [*lines[:80], "{", json.dumps({"text": [{"role": "user", "content": "w5"}]}), *lines[80:]]
    for name, content in (("good.jsonl", lines), ("bad.jsonl", broken)):
        (tmp_path / name).write_text("\n".join(content))
    with pytest.raises(InterpError, match=r"line 81: not valid JSON .*skip_bad ignores it"):
        harvest(tiny("llama"), tmp_path / "bad.jsonl", "embed", tmp_path / "cut", **SETTINGS)
    store = harvest(tiny("llama"), tmp_path / "bad.jsonl", "embed", tmp_path / "cut", skip_bad=True, **SETTINGS)
    assert "ignored 2 bad records" in capsys.readouterr().err
    assert len(store) == len(harvest(tiny("llama"), tmp_path / "good.jsonl", "embed", tmp_path / "ok", **SETTINGS))
    chat = [[{"role": "user", "content": "w5"}]]
    with pytest.raises(InterpError, match=r"document 0: .*no chat template"):
        harvest(tiny("llama"), chat, "embed", tmp_path / "chat", **SETTINGS)


def test_a_folder_of_something_else_is_left_alone(tiny, corpus, tmp_path):
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(InterpError, match="is not an activation store"):
        harvest(tiny("llama"), corpus, SITES, tmp_path, **SETTINGS)
    assert _bytes(tmp_path) == {"thesis.txt": b"all of it"}


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), "float32"), (1e6, "float16")])
def test_activations_that_a_type_cannot_hold_are_refused(tiny, corpus, tmp_path, value, dtype):
    model = tiny("llama")
    with (
        at_layer(model, 0, lambda x: torch.full_like(x, value)),
        pytest.raises(InterpError, match=rf"resid_post\.0 has NaN or infinite .* as {dtype}"),
    ):
        harvest(model, corpus, "resid_post.0", tmp_path / "store", dtype=dtype, **SETTINGS)
    assert not (tmp_path / "store").exists()
    harvest(model, corpus, "resid_post.0", tmp_path / "store", **SETTINGS)


def test_each_token_leads_back_to_its_characters(tiny, corpus, tmp_path):
    store = harvest(tiny("llama"), corpus, "embed", tmp_path / "store", **SETTINGS)
    words = tiny("llama").tokenizer
    for token, number, (begin, end) in zip(store.ids, store.document, store.characters.tolist(), strict=True):
        expected = corpus[number][begin:end] if end else "<s>"
        assert words.decode([int(token)]) == expected


def test_long_documents_are_split_and_counted(tiny, tmp_path):
    long = " ".join(f"w{4 + number % 100}" for number in range(40))
    store = harvest(tiny("llama"), ["w4", long, "w5 w6", long], "embed", tmp_path / "store", **SETTINGS)
    assert store.manifest.shards[-1].split == 2
    mine = store.document == 1
    assert store.position[mine].tolist() == [*range(16), *range(16), *range(9)]
    begin, end = store.characters[mine][16].tolist()
    assert long[begin:end] == long.split()[15]


@pytest.mark.parametrize("keep", ["inner", "assistant"])
def test_a_filter_keeps_its_tokens_and_their_activations(tiny, corpus, tmp_path, keep):
    model = tiny("llama")
    talking = HookedModel(model.hf, copy.deepcopy(model.tokenizer))
    talking.tokenizer.chat_template = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}" + (
        "{% if add_generation_prompt %}assistant {% endif %}"
    )
    chats = [[{"role": "user", "content": "w9 w8"}, {"role": "assistant", "content": f"w7 {text}"}] for text in corpus]
    everything = harvest(talking, chats, SITES, tmp_path / "all", **SETTINGS)
    store = harvest(talking, chats, SITES, tmp_path / keep, keep=keep, **SETTINGS)
    spoken = everything.characters[:, 0] >= len("user w9 w8 assistant ")
    kept = everything.position > 0 if keep == "inner" else spoken
    assert 0 < kept.sum() < len(everything)
    assert torch.equal(store.ids, everything.ids[kept])
    assert torch.equal(store.document, everything.document[kept])
    for site in SITES:
        assert torch.equal(store.read(site), everything.read(site)[kept])
    with pytest.raises(InterpError, match="keep='assistant' keeps no token of this corpus"):
        harvest(model, corpus, SITES, tmp_path / "none", keep="assistant", **SETTINGS)
    assert not (tmp_path / "none").exists()


def test_text_can_be_appended_once(tiny, corpus, tmp_path):
    model, out = tiny("llama"), tmp_path / "store"
    first, second = corpus[:20], corpus[20:] * 8
    harvest(model, first, SITES, out, **SETTINGS)
    one, two = (harvest(model, part, SITES, tmp_path / part[0], **SETTINGS) for part in (first, second))
    both = harvest(model, second, SITES, out, append=True, **SETTINGS)
    assert len(both) == len(one) + len(two)
    assert torch.equal(both.document, torch.cat([one.document, two.document + 20]))
    for site in SITES:
        assert torch.equal(both.read(site), torch.cat([one.read(site), two.read(site)]))
    before = _bytes(out)
    for text, append in ((second, True), (first, True), (first, False)):
        assert len(harvest(model, text, SITES, out, append=append, **SETTINGS)) == len(both)
    with pytest.raises(InterpError, match="a harvest of another text"):
        harvest(model, second, SITES, out, **SETTINGS)
    with pytest.raises(InterpError, match="dtype was 'float32' and is now 'bfloat16'"):
        harvest(model, ["w4 w5"], SITES, out, append=True, dtype="bfloat16", **SETTINGS)
    with pytest.raises(InterpError, match=r"with the same beginning .* only new text to append"):
        harvest(model, [*second, "w4 w5"], SITES, out, append=True, **SETTINGS)
    with pytest.raises(InterpError, match="tokens was None and is now 9000"):
        harvest(model, second, SITES, out, append=True, tokens=9000, **SETTINGS)
    assert _bytes(out) == before
    fresh = harvest(model, first, SITES, tmp_path / "fresh", append=True, **SETTINGS)
    assert len(fresh) == len(one)


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_an_interrupted_append_leaves_the_store_and_continues(tiny, corpus, tmp_path, passes):
    model = tiny("llama")
    for name in ("whole", "cut"):
        harvest(model, corpus[:10], SITES, tmp_path / name, **SETTINGS)
    harvest(model, corpus[10:], SITES, tmp_path / "whole", append=True, **SETTINGS)
    cut = tmp_path / "cut"
    before = Store.open(cut)
    with pytest.raises(Killed), at_layer(model, 0, _killed_after(passes)):
        harvest(model, corpus[10:], SITES, cut, append=True, **SETTINGS)
    after = Store.open(cut)
    assert len(after) == len(before)
    assert torch.equal(after.read(SITES[0]), before.read(SITES[0]))
    if (cut / "manifest.partial.json").exists():
        with pytest.raises(InterpError, match="an unfinished harvest of another text; finish that first"):
            harvest(model, ["w4 w5"], SITES, cut, append=True, **SETTINGS)
    harvest(model, corpus[10:], SITES, cut, append=True, **SETTINGS)
    assert _bytes(cut) == _bytes(tmp_path / "whole")


def test_a_process_killed_at_any_moment_leaves_what_can_be_continued(tmp_path, monkeypatch):
    """SIGKILL, which nothing can catch; `experiments/benchmarks/durability.py` does it ten times."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "experiments" / "benchmarks")
    import durability

    kills, equal = durability.killed(tmp_path, kills=2, tokens=40_000, sites=["resid_post.5"])
    assert kills > 0
    assert equal


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_memory_is_that_of_a_batch_and_a_shard(tiny, tmp_path, dtype):
    """Control: batches that are joined, and a shard that is held while the next one is computed, take 3.7 shards."""
    model, draw = tiny("llama"), random.Random(0)
    texts = [" ".join(f"w{draw.randint(4, 127)}" for _ in range(60)) for _ in range(600)]
    settings = {"context": 64, "batch_size": 4, "dtype": dtype, "shard_tokens": 64 * 200}
    harvest(model, texts[:8], model.sites, tmp_path / "warm", **settings)
    taken = memory.peak(lambda: harvest(model, texts, model.sites, tmp_path / "store", **settings))
    shard = max(file.stat().st_size for file in (tmp_path / "store").glob("*.safetensors"))
    assert len(list((tmp_path / "store").glob("*.safetensors"))) == 3
    assert shard > 12e6
    assert taken < 1.25 * shard
