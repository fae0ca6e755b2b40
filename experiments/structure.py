"""The shape of the package: sizes, names with two homes, import cycles, tests and examples that are missing.

    python experiments/structure.py [--root DIR] [--json FILE]

Reads the syntax trees under `DIR/interp` and `DIR/tests` and imports nothing, so that it runs on any checkout.
tests/experiments/test_structure.py holds this checkout to bounds on most of these figures.
"""

import argparse
import ast
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "interp"
END_TO_END = ("pipeline", "cli", "experiments", "notebooks", "docs", "faults")  # folders of tests that mirror no module
SMALL_LINES = 60
MOST_LINES = 400
MOST_PARAMETERS = 12

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef
DEFINITIONS = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef


@dataclass(frozen=True)
class Spread:
    """Median, 90th percentile and largest of some counts."""

    median: float
    p90: float
    largest: float

    @classmethod
    def of(cls, counts: Iterable[int]) -> "Spread":
        """Of counts that need not be sorted; all zero when there are none."""
        ordered = sorted(counts)
        if not ordered:
            return cls(0, 0, 0)
        return cls(statistics.median(ordered), ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))], ordered[-1])

    def __str__(self) -> str:
        return f"median {self.median:g}, p90 {self.p90:g}, max {self.largest:g}"


class Module:
    """One source file: its dotted name, its syntax tree and its lines."""

    def __init__(self, path: Path, root: Path) -> None:
        parts = path.relative_to(root).with_suffix("").parts
        self.path = path
        self.is_package = path.stem == "__init__"
        self.name = ".".join(parts[:-1] if self.is_package else parts)
        self.folder = ".".join(parts[:-1])
        self.lines = path.read_text(encoding="utf-8").splitlines()
        self.tree = ast.parse("\n".join(self.lines))

    @property
    def stem(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    @property
    def is_public(self) -> bool:
        """Whether the file's name says that other folders may use it."""
        return not self.is_package and not self.stem.startswith("_")

    @cached_property
    def functions(self) -> list[Function]:
        """All functions and methods, nested ones too."""
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]

    @cached_property
    def definitions(self) -> dict[str, Definition]:
        """Classes and functions at the top of the file, by name."""
        return {node.name: node for node in self.tree.body if isinstance(node, DEFINITIONS)}

    @cached_property
    def code_lines(self) -> set[int]:
        """Numbers of the lines that are neither blank, nor a comment, nor part of a docstring."""
        filled = {n for n, line in enumerate(self.lines, 1) if line.strip() and not line.strip().startswith("#")}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Module | Definition) and (text := docstring_node(node)):
                filled -= set(range(text.lineno, (text.end_lineno or text.lineno) + 1))
        return filled


def docstring_node(node: ast.Module | Definition) -> ast.Expr | None:
    """The statement that is a docstring, or None."""
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return first
    return None


def parameters(function: Function) -> int:
    """How many parameters a function has, `self` and `cls` apart."""
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    variadic = sum(a is not None for a in (arguments.vararg, arguments.kwarg))
    return len([name for name in names if name not in ("self", "cls")]) + variadic


class Tree:
    """All modules of a checkout's package, and the files of its tests."""

    def __init__(self, root: Path) -> None:
        self.root = root
        files = sorted((root / PACKAGE).rglob("*.py"))
        self.modules = {m.name: m for m in (Module(path, root) for path in files)}
        self.files = [m for m in self.modules.values() if not m.is_package]

    @cached_property
    def stubs(self) -> dict[str, dict[str, str]]:
        """Per package the names that its `__init__.pyi` (or `__init__.py`) re-exports, and where each comes from."""
        stubs = {}
        for module in (m for m in self.modules.values() if m.is_package):
            stub = module.path.with_suffix(".pyi")
            tree = ast.parse(stub.read_text(encoding="utf-8")) if stub.exists() else module.tree
            package = module.name.split(".")
            stubs[module.name] = {
                alias.asname or alias.name: f"{absolute(node, package)}.{alias.name}"
                for node in tree.body
                if isinstance(node, ast.ImportFrom)
                for alias in node.names
            }
        return stubs

    def home(self, dotted: str) -> str | None:
        """The module that an imported dotted name comes from, re-exports followed; None outside the package."""
        while dotted not in self.modules and "." in dotted:
            parent, _, name = dotted.rpartition(".")
            source = self.stubs.get(parent, {}).get(name)
            if source and source != dotted:
                return self.home(source)
            dotted = parent
        return dotted if dotted in self.modules else None

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """Which modules each one imports, at the top, in functions and for type checking alike."""
        edges = {}
        for module in self.modules.values():
            package = (module.name if module.is_package else module.folder).split(".")
            targets = {self.home(name) for name in imported_names(module.tree, package)}
            edges[module.name] = {target for target in targets if target} - {module.name}
        return edges

    @property
    def cycles(self) -> list[list[str]]:
        """Groups of modules that import each other, directly or through others."""
        return [sorted(group) for group in components(self.imports) if len(group) > 1]

    @property
    def folders(self) -> dict[str, int]:
        """Modules per folder, `__init__` apart."""
        counts: dict[str, int] = defaultdict(int)
        for module in self.files:
            counts[module.folder] += 1
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    @property
    def small(self) -> dict[str, str]:
        """Modules under 60 lines that one other module imports, and that module; re-exports are no importers."""
        users: dict[str, set[str]] = defaultdict(set)
        for name, targets in self.imports.items():
            for target in targets if not self.modules[name].is_package else ():
                users[target].add(name)
        short = [module.name for module in self.files if len(module.lines) < SMALL_LINES]
        return {name: next(iter(users[name])) for name in short if len(users[name]) == 1}

    @property
    def homes(self) -> dict[str, list[str]]:
        """Public classes and functions that two or more modules define."""
        homes: dict[str, list[str]] = defaultdict(list)
        for module in self.modules.values():
            for name in module.definitions:
                if not name.startswith("_"):
                    homes[name].append(module.name)
        return {name: where for name, where in sorted(homes.items()) if len(where) > 1}

    def is_class(self, name: str) -> bool:
        """Whether any module defines a class of this name."""
        return any(isinstance(module.definitions.get(name), ast.ClassDef) for module in self.modules.values())

    @property
    def long_signatures(self) -> dict[str, int]:
        """Functions of more than 12 parameters."""
        counts = {f"{m.name}.{f.name}": parameters(f) for m in self.modules.values() for f in m.functions}
        return {name: count for name, count in counts.items() if count > MOST_PARAMETERS}

    @property
    def exported(self) -> dict[str, Definition]:
        """What users import from the package or a stage: each exported class and function, by its home."""
        exported = {}
        for package, names in self.stubs.items():
            for name in names:
                home = self.home(f"{package}.{name}")
                definition = self.modules[home].definitions.get(name) if home else None
                if definition and not name.startswith("_"):
                    exported[f"{home}.{name}"] = definition
        return dict(sorted(exported.items()))

    @property
    def without_example(self) -> list[str]:
        """Exported names whose docstring, or any method's of theirs, shows no example that a test would run."""
        return [name for name, definition in self.exported.items() if not has_example(definition)]

    @cached_property
    def test_files(self) -> list[Path]:
        """The tests' files, relative to the folder of tests."""
        folder = self.root / "tests"
        return sorted(path.relative_to(folder) for path in folder.rglob("test_*.py"))

    @property
    def without_test(self) -> list[str]:
        """Public modules that have no `tests/<folder>/test_<module>.py`; the tests of the command line are its own."""
        present = {str(path) for path in self.test_files}
        missing = []
        for module in (m for m in self.files if m.is_public):
            path = module.path.relative_to(self.root / PACKAGE)
            if str(path.with_name(f"test_{path.name}")) not in present:
                missing.append(module.name)
        return missing

    @property
    def without_module(self) -> list[str]:
        """Test files that no module has the name of, end-to-end ones apart."""
        unpaired = []
        for path in self.test_files:
            name = path.stem.removeprefix("test_")
            folder = self.root / PACKAGE / path.parent
            homes = folder / f"{name}.py", folder / f"_{name}.py", folder / name / "__init__.py"
            if path.parts[0] not in END_TO_END and not any(home.exists() for home in homes):
                unpaired.append(str(path))
        return unpaired


def absolute(node: ast.ImportFrom, package: list[str]) -> str:
    """The dotted module of a `from … import`, made absolute from the package that it stands in."""
    if not node.level:
        return node.module or ""
    above = package[: len(package) - node.level + 1]
    return ".".join([*above, node.module] if node.module else above)


def imported_names(tree: ast.Module, package: list[str]) -> Iterator[str]:
    """Dotted names that a module imports, wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{absolute(node, package)}.{alias.name}" for alias in node.names)


def has_example(definition: Definition) -> bool:
    """Whether a docstring here, or of a method here, has a line that a doctest runs."""
    nodes = [definition, *(n for n in definition.body if isinstance(n, DEFINITIONS))]
    lines = [line for node in nodes for line in (ast.get_docstring(node) or "").splitlines()]
    return any(line.strip().startswith(">>>") and "doctest: +SKIP" not in line for line in lines)


def components(edges: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of a graph (Tarjan)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for target in sorted(edges[node]):
            if target not in order:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], order[target])
        if low[node] == order[node]:
            group = stack[stack.index(node) :]
            del stack[-len(group) :]
            groups.append(group)

    for node in sorted(edges):
        if node not in order:
            visit(node)
    return groups


@dataclass(frozen=True)
class Structure:
    """All figures of one tree."""

    modules: int
    folders: dict[str, int]
    module_lines: Spread
    longest_modules: dict[str, int]
    short_modules: int
    function_lines: Spread
    function_code_lines: Spread
    small_modules: dict[str, str]
    names_with_two_homes: dict[str, list[str]]
    classes_with_two_homes: int
    import_cycles: list[list[str]]
    modules_without_test: list[str]
    tests_without_module: list[str]
    exported: int
    exported_without_example: list[str]
    long_signatures: dict[str, int]
    code_lines: int

    @classmethod
    def of(cls, root: Path) -> "Structure":
        """Measure the checkout at a folder."""
        tree = Tree(root)
        modules = tree.modules.values()
        functions = [(module, function) for module in modules for function in module.functions]
        spans = [range(f.lineno, (f.end_lineno or f.lineno) + 1) for _, f in functions]
        homes = tree.homes
        return cls(
            modules=len(tree.modules),
            folders=tree.folders,
            module_lines=Spread.of(len(m.lines) for m in tree.files),
            longest_modules={m.name: len(m.lines) for m in tree.files if len(m.lines) > MOST_LINES},
            short_modules=sum(len(m.lines) < SMALL_LINES for m in tree.files),
            function_lines=Spread.of(map(len, spans)),
            function_code_lines=Spread.of(
                len(module.code_lines.intersection(span)) for (module, _), span in zip(functions, spans, strict=True)
            ),
            small_modules=tree.small,
            names_with_two_homes=homes,
            classes_with_two_homes=sum(map(tree.is_class, homes)),
            import_cycles=tree.cycles,
            modules_without_test=tree.without_test,
            tests_without_module=tree.without_module,
            exported=len(tree.exported),
            exported_without_example=tree.without_example,
            long_signatures=tree.long_signatures,
            code_lines=sum(len(m.code_lines) for m in modules),
        )

    def text(self) -> str:
        """The figures as lines, lists in full."""
        parts = [
            f"modules: {self.modules}, with __init__",
            listed("modules per folder", [f"{count:3} {folder}" for folder, count in self.folders.items()]),
            f"module lines: {self.module_lines}",
            listed("modules over 400 lines", [f"{lines} {name}" for name, lines in self.longest_modules.items()]),
            f"modules under 60 lines: {self.short_modules}",
            f"function lines: {self.function_lines}",
            f"function code lines: {self.function_code_lines}",
            listed("modules under 60 lines, with one importer", [f"{n} <- {u}" for n, u in self.small_modules.items()]),
            listed(
                f"public names with two homes ({self.classes_with_two_homes} of them classes)",
                [f"{name}: {', '.join(where)}" for name, where in self.names_with_two_homes.items()],
            ),
            listed("import cycles, type checking included", [" <-> ".join(group) for group in self.import_cycles]),
            listed("public modules without a test file", self.modules_without_test),
            listed("test files without a module", self.tests_without_module),
            listed(f"exported names without an example, of {self.exported}", self.exported_without_example),
            listed("functions over 12 parameters", [f"{count} {n}" for n, count in self.long_signatures.items()]),
            f"code lines: {self.code_lines:,}",
        ]
        return "\n".join(parts)


def listed(title: str, lines: list[str]) -> str:
    """A title with the count of its lines, and the lines below."""
    return "\n".join([f"{title}: {len(lines)}", *(f"    {line}" for line in lines)])


def main() -> None:
    """Print the figures of one checkout, and write them as JSON if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to measure (default: this one)")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    arguments = parser.parse_args()
    structure = Structure.of(arguments.root.resolve())
    print(structure.text())
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(structure), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
