"""Object stores for tests: what a store at a URL holds, one that several processes share, and one that breaks."""

import os
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


class SharedObjects(LocalFileSystem):
    """Objects in a folder that processes share, `objects:///folder/store`: replaced, or created, in one step."""

    protocol = "objects"

    @classmethod
    def _strip_protocol(cls, path):
        return LocalFileSystem._strip_protocol(str(path).replace("objects://", "file://"))

    def pipe_file(self, path, value, mode="overwrite", **_):
        self._replace(path, value, mode)

    def put_file(self, lpath, rpath, mode="overwrite", **_):
        self._replace(rpath, Path(lpath).read_bytes(), mode)

    def _replace(self, path, value, mode):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        part = Path(path).parents[1] / f"part-{os.getpid()}"
        part.write_bytes(value)
        if mode == "create":
            try:
                os.link(part, path)
            finally:
                part.unlink()
        os.replace(part, path) if mode != "create" else None


fsspec.register_implementation("objects", SharedObjects, clobber=True)


def contents(place):
    """The bytes of each file of a store, in a folder or at a URL."""
    if "://" not in str(place):
        return {file.name: file.read_bytes() for file in Path(place).iterdir()}
    fs, path = fsspec.url_to_fs(str(place))
    fs.invalidate_cache()
    return {file.rpartition("/")[2]: fs.cat_file(file) for file in fs.find(path)}


class Breaking:
    """A file system whose requests of some kinds are counted, and raise what they are told to."""

    def __init__(self, monkeypatch, system, kinds=("pipe_file", "put_file", "rm_file")):
        self.requests, self.rule = [], lambda number: None
        for kind in kinds:
            monkeypatch.setattr(system, kind, self._counted(kind, getattr(system, kind)))

    def _counted(self, kind, plain):
        def request(fs, *args, **options):
            self.requests.append((kind, args[-1] if kind == "put_file" else args[0]))
            problem = self.rule(len(self.requests))
            if problem is not None and not getattr(problem, "late", False):
                raise problem
            answer = plain(fs, *args, **options)
            if problem is not None:
                raise problem
            return answer

        return request

    def kill_at(self, step, late):
        """From this request on, none comes through; if `late`, it does itself."""
        self.requests.clear()

        def rule(number):
            if number < step:
                return None
            problem = Killed()
            problem.late = late and number == step
            return problem

        self.rule = rule

    def mend(self):
        """All requests come through again."""
        self.requests.clear()
        self.rule = lambda number: None
