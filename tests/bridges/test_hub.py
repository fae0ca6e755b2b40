"""Pushes to the Hub, against a local server that answers as its documented API does."""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import huggingface_hub.constants
import huggingface_hub.utils._http
import pytest
import torch

import interp
from interp import InterpError, Project, Recipe
from interp.bridges.hub import push_export
from interp.core.files import write_json
from interp.editing import export_streamed

TOKEN = "hf_" + "x" * 34
RECIPE = Recipe([("writers", Project(torch.eye(32)[:1]))])


class Hub(ThreadingHTTPServer):
    """A Hub with one repository: `files` by path. `fault` makes the last path of a request fail with a status."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Requests)
        self.files, self.objects, self.private, self.commits = {".gitattributes": b""}, {}, None, []
        self.fault: tuple[str, int] | None = None
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Requests(BaseHTTPRequestHandler):
    def log_message(self, *words):
        pass

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, value, status=200, headers=()):
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in (("Content-Length", str(len(data))), *headers):
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)

    def handle_one(self):
        hub, body, path = self.server, self.body(), self.path.partition("?")[0]
        if hub.fault and hub.fault[0] in path:
            if hub.fault[1] == 0:
                self.connection.shutdown(2)
                return None
            return self.answer({"error": "no"}, hub.fault[1], [("Retry-After", "7")] if hub.fault[1] == 429 else [])
        if not path.startswith("/upload/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer({"error": "no token"}, 401)
        if path == "/api/repos/create":
            hub.private = json.loads(body).get("visibility")
            return self.answer({"url": f"{hub.url}/me/edited", "id": "me/edited", "name": "me/edited"})
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = ["lfs" if name.endswith((".safetensors", ".gguf")) else "regular" for name in names]
            files = zip(names, modes, strict=True)
            return self.answer({"files": [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in files]})
        if path.endswith("/objects/batch"):
            wanted = json.loads(body)["objects"]
            upload = [o | {"actions": {"upload": {"href": f"{hub.url}/upload/{o['oid']}"}}} for o in wanted]
            return self.answer({"transfer": "basic", "objects": upload})
        if path.startswith("/upload/"):
            assert hashlib.sha256(body).hexdigest() == path.removeprefix("/upload/")
            hub.objects[path.removeprefix("/upload/")] = body
            return self.answer({})
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    hub.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.files[value["path"]] = hub.objects[value["oid"]]
                elif line["key"] == "deletedFile":
                    del hub.files[value["path"]]
                else:
                    hub.commits.append(value["summary"])
            answer = {"commitUrl": f"{hub.url}/me/edited/commit/1", "commitOid": "1" * 40, "pullRequestUrl": None}
            return self.answer(answer)
        siblings = [{"rfilename": name} for name in sorted(hub.files)]
        return self.answer({"id": "me/edited", "modelId": "me/edited", "sha": "1" * 40, "siblings": siblings})

    do_GET = do_POST = do_PUT = handle_one


@contextmanager
def serving(monkeypatch) -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)  # which is not HTTP
    impatient = SimpleNamespace(**vars(time) | {"sleep": lambda seconds: None})
    monkeypatch.setattr(huggingface_hub.utils._http, "time", impatient)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()


@pytest.fixture
def hub(monkeypatch):
    with serving(monkeypatch) as server:
        yield server


@pytest.fixture(scope="module")
def exported(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "edited"
    interp.export(RECIPE, tiny("llama"), folder)
    return folder


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_folder_arrives_whole_in_one_private_commit_without_the_token(hub, exported, capsys):
    shown = push_export(exported, "me/edited", dry_run=True)
    assert (hub.commits, hub.private) == ([], None), "a dry run sends nothing"
    pushed = push_export(exported, "me/edited")
    assert contents(exported) == {name: data for name, data in hub.files.items() if name != ".gitattributes"}
    assert (len(hub.commits), hub.private) == (1, "private")
    assert pushed.files == shown.files == tuple(sorted(contents(exported)))
    assert pushed.nbytes == sum(map(len, contents(exported).values()))
    assert pushed.url.endswith("/commit/1")
    assert shown.url == ""
    written = b"".join(hub.files.values()) + "".join([*hub.commits, *capsys.readouterr(), str(pushed)]).encode()
    assert TOKEN.encode() not in written
    with pytest.raises(InterpError, match=r"holds \d+ files already; overwrite=True"):
        push_export(exported, "me/edited")
    hub.files["model-00001-of-00002.safetensors"] = b"of an earlier export"
    push_export(exported, "me/edited", overwrite=True)
    assert "model-00001-of-00002.safetensors" not in hub.files
    assert len(hub.commits) == 2


@pytest.mark.parametrize(
    ("where", "status", "problem"),
    [
        ("/", 401, r"refused \(HTTP 401\): there is no token, or it is not valid; hf auth login"),
        ("/commit/", 403, r"HTTP 403\): the token may not write there"),
        ("/preupload/", 429, r"HTTP 429\): too many requests; try again later in 7 s"),
        ("/upload/", 0, "can't be reached"),
        ("/commit/", 0, "can't be reached"),
    ],
)
def test_what_the_hub_refuses_and_a_lost_connection_leave_it_as_it_was(hub, exported, where, status, problem):
    hub.fault = where, status
    with pytest.raises(InterpError, match=problem) as raised:
        push_export(exported, "me/edited")
    assert ("no file was changed" if status else "as it was, or has the whole commit") in str(raised.value)
    assert TOKEN not in str(raised.value)
    assert (hub.files, hub.commits) == ({".gitattributes": b""}, [])
    hub.fault = None
    push_export(exported, "me/edited")
    assert len(hub.commits) == 1, "control: it is sent once the fault is over"


def test_nothing_is_sent_that_is_not_certified_or_was_changed(hub, exported, tiny, tmp_path):
    export_streamed(RECIPE, tiny("llama"), tmp_path / "streamed")
    with pytest.raises(InterpError, match="no certificate, so it is not sent"):
        push_export(tmp_path / "streamed", "me/edited")
    with pytest.raises(InterpError, match=r"no interp_manifest\.json"):
        push_export(tmp_path, "me/edited")
    interp.export(RECIPE, tiny("llama"), tmp_path / "off")
    manifest = interp.editing.ExportManifest.at(tmp_path / "off")
    values = json.loads((tmp_path / "off" / "interp_certificate.json").read_text())
    values["fold"]["off"] = 0.5
    write_json(tmp_path / "off" / "interp_certificate.json", values)
    with pytest.raises(InterpError, match="changed after the export"):
        push_export(tmp_path / "off", "me/edited")
    files = {name: digest for name, digest in manifest.files.items() if name != "interp_certificate.json"}
    (tmp_path / "off" / "interp_manifest.json").unlink()
    manifest.model_copy(update={"files": files}).sealed(tmp_path / "off")
    with pytest.raises(InterpError, match=r"certificate does not hold \(a writer is off by 5\.0e-01"):
        push_export(tmp_path / "off", "me/edited")
    hub.files["weights.bin"] = b"of somebody"
    with pytest.raises(InterpError, match="choose another, since no export is in it"):
        push_export(exported, "me/edited", overwrite=True)
    assert hub.commits == []


def test_the_command_line_pushes_after_the_certificate_and_says_what_it_would_send(hub, tiny, tmp_path, run):
    tiny("llama").hf.save_pretrained(tmp_path / "model")
    tiny("llama").tokenizer.save_pretrained(tmp_path / "model")
    RECIPE.save(tmp_path / "recipe")
    words = ["export", tmp_path / "model", "--recipe", tmp_path / "recipe", "--push", "me/edited"]
    code, said, _ = run(*words, "--dry-run")
    assert code == 0
    assert "me/edited" in said
    assert hub.commits == []
    code, said, _ = run(*words, "--out", tmp_path / "edited", "--json")
    assert code == 0
    assert json.loads(said)["pushed"].endswith("/commit/1")
    assert json.loads(said)["source"] == str(tmp_path / "model")
    assert len(hub.commits) == 1
    code, _, problem = run(*words, "--out", tmp_path / "again", "--streamed")
    assert code == 2
    assert "push is for exports that are certified" in problem
