"""The operators of the installed FlagGems, read from its files: importing it needs a device.

FlagGems registers the pairs of `_FULL_CONFIG` in `flag_gems/__init__.py` (aten key, function) with torch; functions of
`flag_gems.fused` are called by name. On a vendor's chip, functions of `runtime/backend/_<vendor>/{ops,fused}` replace
those of the same name (`runtime.replace_customized_ops`: on NVIDIA only those of the architecture), and those that
`CUSTOMIZED_UNUSED_OPS` names are not registered (`runtime.register.Register`; on NVIDIA they are).
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from flagrelease.errors import PreflightError, UnknownNameError

KNOWN_VERSION = "5.0.2"
"""The version of FlagGems whose tables this was written for."""

_KINDS = ("ops", "fused")
_REPLACES_BY_ARCHITECTURE = "nvidia"


@dataclass(frozen=True)
class Override:
    """A vendor's own implementation of an operator."""

    vendor: str
    module: str
    """Below `flag_gems`, as in `runtime.backend._metax.ops.mm`."""
    condition: str | None = None
    """On which of the vendor's devices: an architecture's folder, or FlagGems' own expression."""


@dataclass(frozen=True)
class Operator:
    """A function of FlagGems that stands in for aten operators (`aten`), or is called by name (`fused`)."""

    name: str
    kind: Literal["aten", "fused"]
    keys: tuple[str, ...]
    """Keys of aten that it is registered for, such as `add.Tensor`; none for a fused one."""
    module: str | None
    """Below `flag_gems`, as in `ops.add`; None where the table names a function that is imported nowhere we read."""
    conditions: tuple[str, ...] = ()
    """FlagGems' own conditions of its keys, such as a version of torch."""
    overrides: tuple[Override, ...] = ()
    unused_by: tuple[str, ...] = ()
    """Vendors on whose chips it is not registered."""


@dataclass(frozen=True)
class Catalogue:
    """What one FlagGems holds."""

    version: str
    path: Path
    vendors: tuple[str, ...]
    operators: tuple[Operator, ...]
    """By name."""
    notes: tuple[str, ...]
    """What could not be read, and what follows from it."""

    def of_vendor(self, vendor: str) -> Catalogue:
        """What is used on the vendor's chips, with the overrides of that vendor alone.

        Raises UnknownNameError.
        """
        if vendor not in self.vendors:
            raise UnknownNameError(
                f"FlagGems {self.version} knows no vendor {vendor}", remedy=f"one of: {', '.join(self.vendors)}"
            )
        used = (
            replace(each, overrides=tuple(own for own in each.overrides if own.vendor == vendor), unused_by=())
            for each in self.operators
            if vendor not in each.unused_by
        )
        return replace(self, operators=tuple(used))


def read_catalogue(package: Path, version: str) -> Catalogue:
    """The operators of the package folder `flag_gems` of that version.

    Raises PreflightError where its table of operators is not there.
    """
    main = _tree(package / "__init__.py")
    table = _table(main) if main else None
    if table is None:
        raise PreflightError(
            f"FlagGems {version} in {package} has no table _FULL_CONFIG of (key, function) in __init__.py",
            remedy=f"flag-gems=={KNOWN_VERSION} is known to be read; of another version, report its layout",
        )
    notes = []
    if version != KNOWN_VERSION:
        notes.append(f"FlagGems {version} is installed, and {KNOWN_VERSION} is known: what has moved is not seen")
    if table.unread:
        notes.append(f"{table.unread} entries of _FULL_CONFIG are no pair of a text and a name, and are left out")
    places = {kind: _imported(package / kind, f"{kind}.") for kind in _KINDS}
    notes += [f"{kind}/__init__.py cannot be read: modules are unknown" for kind, found in places.items() if not found]
    modules = {name: module for kind in reversed(_KINDS) for name, module, _ in places[kind]}
    operators = {
        name: Operator(name, "aten", tuple(table.keys[name]), modules.get(name), tuple(table.conditions.get(name, ())))
        for name in table.keys
    }
    fused = _exported(package / "fused")
    operators |= {name: Operator(name, "fused", (), modules.get(name)) for name in fused if name not in operators}
    lost = sorted(name for name, each in operators.items() if each.module is None)
    if lost:
        notes.append(f"imported neither by ops nor by fused: {', '.join(lost)}")
    return _with_vendors(Catalogue(version, package, (), tuple(operators.values()), tuple(notes)))


def _with_vendors(plain: Catalogue) -> Catalogue:
    backends = plain.path / "runtime" / "backend"
    # A folder that the list of vendors lacks (`_arm` in 5.0.2) cannot be chosen.
    listed = _vendor_names(_tree(plain.path / "runtime" / "common.py"))
    found = sorted(path for path in backends.glob("_[a-z]*") if path.is_dir())
    folders = [path for path in found if not listed or path.name.removeprefix("_") in listed]
    notes = plain.notes if folders else (*plain.notes, "runtime/backend holds no vendors: overrides are unknown")
    overrides: dict[str, list[Override]] = {}
    unused: dict[str, list[str]] = {}
    for folder in folders:
        vendor = folder.name.removeprefix("_")
        for name, own in _overrides(folder, vendor):
            known = overrides.setdefault(name, [])
            known += [own] if own not in known else []
        if vendor != _REPLACES_BY_ARCHITECTURE:
            for name in _texts(_tree(folder / "__init__.py"), "CUSTOMIZED_UNUSED_OPS"):
                unused.setdefault(name, []).append(vendor)
    full = (
        replace(each, overrides=tuple(overrides.get(each.name, ())), unused_by=tuple(unused.get(each.name, ())))
        for each in sorted(plain.operators, key=lambda each: each.name)
    )
    vendors = tuple(folder.name.removeprefix("_") for folder in folders)
    return replace(plain, vendors=vendors, operators=tuple(full), notes=notes)


def _overrides(folder: Path, vendor: str) -> Iterator[tuple[str, Override]]:
    plain = () if vendor == _REPLACES_BY_ARCHITECTURE else _KINDS
    places: list[tuple[Path, str | None]] = [(folder / kind, None) for kind in plain]
    # Other folders of a vendor are architectures, where they hold operators.
    places += [(inner / "ops", inner.name) for inner in sorted(folder.iterdir()) if (inner / "ops").is_dir()]
    for place, architecture in places:
        prefix = ".".join(place.relative_to(folder.parents[2]).parts) + "."
        for name, module, condition in _imported(place, prefix):
            conditions = [each for each in (architecture, condition) if each]
            yield name, Override(vendor, module, " and ".join(conditions) or None)


@dataclass(frozen=True)
class _Table:
    keys: dict[str, list[str]]
    conditions: dict[str, list[str]]
    unread: int


def _table(tree: ast.Module) -> _Table | None:
    """`_FULL_CONFIG` by function."""
    value = _assigned(tree, "_FULL_CONFIG")
    if not isinstance(value, (ast.Tuple, ast.List)):
        return None
    keys: dict[str, list[str]] = {}
    conditions: dict[str, list[str]] = {}
    unread = 0
    for entry in value.elts:
        match entry:
            case ast.Tuple(elts=[ast.Constant(value=str(key)), ast.Name(id=name), *rest]):
                keys.setdefault(name, []).append(key)
                if rest:
                    said = ast.unparse(rest[0]).removeprefix("lambda: ")
                    conditions.setdefault(name, []).append(f"{key}: {said}")
            case _:
                unread += 1
    return _Table(keys, conditions, unread) if keys else None


def _tree(file: Path) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            # Their files are not ours to warn about.
            warnings.simplefilter("ignore", SyntaxWarning)
            return ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None


def _assigned(tree: ast.Module, name: str) -> ast.expr | None:
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=found)], value=value) if found == name:
                return value
    return None


def _texts(tree: ast.Module | None, name: str) -> list[str]:
    """The texts of the tuple or list that is assigned to the name."""
    value = _assigned(tree, name) if tree else None
    elements = value.elts if isinstance(value, (ast.Tuple, ast.List)) else []
    return [each.value for each in elements if isinstance(each, ast.Constant) and isinstance(each.value, str)]


def _vendor_names(tree: ast.Module | None) -> set[str]:
    """Members of the enumeration `vendors`."""
    for node in tree.body if tree else []:
        if isinstance(node, ast.ClassDef) and node.name == "vendors":
            assigned = [inner.targets[0] for inner in node.body if isinstance(inner, ast.Assign)]
            return {target.id.lower() for target in assigned if isinstance(target, ast.Name)}
    return set()


def _exported(folder: Path) -> list[str]:
    """What a package gives away: `__all__`, or what it imports."""
    return _texts(_tree(folder / "__init__.py"), "__all__") or [name for name, _, _ in _imported(folder, "")]


def _imported(folder: Path, prefix: str) -> list[tuple[str, str, str | None]]:
    """Names that the package imports from its own modules: (name, module below `flag_gems`, condition)."""
    tree = _tree(folder / "__init__.py")
    return list(_imports(tree.body, prefix, None)) if tree else []


def _imports(body: list[ast.stmt], prefix: str, condition: str | None) -> Iterator[tuple[str, str, str | None]]:
    for node in body:
        if isinstance(node, ast.If):
            said = f"({ast.unparse(node.test)})" if isinstance(node.test, ast.BoolOp) else ast.unparse(node.test)
            joined = f"{condition} and {said}" if condition else said
            yield from _imports(node.body, prefix, joined)
            yield from _imports(node.orelse, prefix, f"not ({joined})")
        elif isinstance(node, ast.ImportFrom) and node.module:
            own = node.module.removeprefix("flag_gems.") if node.level == 0 else prefix + node.module
            if node.level <= 1 and own.startswith(prefix):
                yield from ((alias.asname or alias.name, own, condition) for alias in node.names)
