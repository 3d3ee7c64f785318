"""From a file to a `Constitution`: inheritance is resolved, and every error keeps its place.

All that is wrong with a file, and with the files it extends, is reported at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from os.path import isfile, realpath  # unlike Path's, these never raise
from pathlib import Path

from pydantic import ValidationError

from rlaif.constitution.explaining import explain
from rlaif.constitution.schema import Constitution
from rlaif.documents import (
    DocumentError,
    Mapping,
    Mark,
    Node,
    Problem,
    Sequence,
    Text,
    data,
    did_you_mean,
    parse,
    quote,
    read,
)

SUFFIXES = (".yaml", ".yml")


def load(path: str | Path) -> Constitution:
    """Read a constitution from a YAML file and whatever it extends.

    Raises:
        DocumentError: it cannot be used; a ConfigError that lists every problem with its place.
    """
    loader = _Loader()
    root = loader.resolve(Path(path), chain=())
    return loader.validated(root)


def loads(text: str, path: str | Path = "<text>") -> Constitution:
    """As `load`, for text at hand; `path` names it in messages, and `extends` starts from there."""
    loader = _Loader()
    root = parse(text, Path(path), loader.problems)
    if root is not None:
        root = loader.extended(root, chain=(Path(path),))
    return loader.validated(root)


@dataclass(slots=True)
class _Loader:
    """One call of `load`: the problems so far, and the ids that were inherited."""

    problems: list[Problem] = field(default_factory=list)
    inherited: set[str] = field(default_factory=set)

    def resolve(self, path: Path, chain: tuple[Path, ...]) -> Mapping | None:
        """The tree of a file with everything that it inherits."""
        root = read(path, self.problems)
        return None if root is None else self.extended(root, (*chain, path))

    def extended(self, root: Mapping, chain: tuple[Path, ...]) -> Mapping:
        """A tree merged over the one it extends, without `extends` and `drop`."""
        self.check_ids(root)
        extends, drop = root.entries.get("extends"), root.entries.get("drop")
        own = {key: node for key, node in root.entries.items() if key not in ("extends", "drop")}
        tree = Mapping(root.mark, own, root.keys)
        if extends is None:
            if drop is not None:
                what = "`drop` without `extends` drops nothing"
                self.note(root.keys["drop"], what, "delete the principle itself")
            return tree
        if parent := self.parent(extends, chain):
            self.merge(tree, parent, drop)
        return tree

    def parent(self, extends: Node, chain: tuple[Path, ...]) -> Mapping | None:
        """The resolved tree of the file that `extends` names, or None and a problem."""
        name = extends.value if isinstance(extends, Text) else None
        if not name or "://" in name or name.startswith("/") or not name.endswith(SUFFIXES):
            shown = f" ({quote(name)})" if name else ""
            what = f"`extends`{shown} is not a relative path to a .yaml file"
            return self.note(
                extends.mark, what, "write `extends: other.yaml`, from this file's folder"
            )
        path = chain[-1].parent / name
        if realpath(path) in map(realpath, chain):
            circle = " -> ".join(link.name for link in (*chain, path))
            return self.note(extends.mark, f"`extends` goes in a circle: {circle}", "cut it")
        if not isfile(path):
            what = f"`extends` names {quote(name)}, and there is no file {quote(str(path))}"
            return self.note(extends.mark, what, "correct the path, from this file's folder")
        return self.resolve(path, chain)

    def merge(self, tree: Mapping, parent: Mapping, drop: Node | None) -> None:
        """Put what is inherited under what the tree says itself."""
        inherited = {id: node for node in parent.items("principles") if (id := _id(node))}
        self.inherited |= set(inherited)
        dropped = self.dropped(drop, set(inherited))
        own = tree.entries.get("principles")
        if own is None or isinstance(own, Sequence):
            mark = own.mark if own else parent.entries.get("principles", tree).mark
            mine = {id: node for node in tree.items("principles") if (id := _id(node))}
            kept = [
                _over(mine[id], node) if (id := _id(node)) in mine else node
                for node in parent.items("principles")
                if _id(node) not in dropped
            ]
            new = [node for node in tree.items("principles") if _id(node) not in inherited]
            again = [mine[id] for id in dropped & set(mine)]
            tree.entries["principles"] = Sequence(mark, kept + again + new)
            tree.keys.setdefault("principles", mark)
        self.merge_examples(tree, parent, dropped)

    def merge_examples(self, tree: Mapping, parent: Mapping, dropped: set[str]) -> None:
        """Each kind of example that the tree does not give is inherited."""
        theirs, ours = parent.entries.get("examples"), tree.entries.get("examples")
        if not isinstance(theirs, Mapping) or not (ours is None or isinstance(ours, Mapping)):
            return
        merged = ours or Mapping(theirs.mark)
        for kind, node in theirs.entries.items():
            if isinstance(node, Sequence):
                kept = [e for e in node.items if _principle(e) not in dropped]
                merged.entries.setdefault(kind, Sequence(node.mark, kept))
                merged.keys.setdefault(kind, node.mark)
        tree.entries["examples"] = merged
        tree.keys.setdefault("examples", merged.mark)

    def dropped(self, drop: Node | None, inherited: set[str]) -> set[str]:
        """The ids under `drop`, less those that are unknown."""
        if drop is None:
            return set()
        listed = drop.items if isinstance(drop, Sequence) else [drop]
        for node in listed:
            if not isinstance(node, Text) or node.value not in inherited:
                name = node.value if isinstance(node, Text) and node.value else ""
                what = f"`drop` names {quote(name)}, which is not inherited"
                self.note(node.mark, what, did_you_mean(name, inherited) or "list inherited ids")
        return {node.value for node in listed if isinstance(node, Text) and node.value in inherited}

    def check_ids(self, root: Mapping) -> None:
        """Two principles of one file may not share an id."""
        seen: dict[str, Mark] = {}
        for node in root.items("principles"):
            if isinstance(node, Mapping) and (id := _id(node)):
                if id in seen:
                    what = f"the principle {quote(id)} is here twice; first on line {seen[id].line}"
                    self.note(node.entries["id"].mark, what, "rename or remove one of the two")
                seen.setdefault(id, node.entries["id"].mark)

    def validated(self, root: Mapping | None) -> Constitution:
        """The constitution that a tree holds, or every problem found so far and now."""
        constitution = None
        if root is not None:
            self.check_examples(root)
            try:
                constitution = Constitution.model_validate(data(root))
            except ValidationError as error:
                self.problems += explain(error, root, self.inherited, noted=bool(self.problems))
        if constitution is None or self.problems:
            raise DocumentError(sorted(set(self.problems), key=_in_file_order))
        return constitution

    def check_examples(self, root: Mapping) -> None:
        """Every example names a principle that there is."""
        if not isinstance(root.entries.get("principles"), Sequence):
            return  # which is what is wrong
        ids = {id for node in root.items("principles") if (id := _id(node))}
        examples = root.entries.get("examples")
        for kind in ("critique", "prefer"):
            for node in examples.items(kind) if isinstance(examples, Mapping) else ():
                if (name := _principle(node)) and name not in ids and isinstance(node, Mapping):
                    what = f"no principle is called {quote(name)}"
                    remedy = did_you_mean(name, ids) or "name one of the principles"
                    self.note(node.entries["principle"].mark, what, remedy)

    def note(self, mark: Mark, what: str, remedy: str) -> None:
        self.problems.append(Problem(mark, what, remedy))


def _in_file_order(problem: Problem) -> tuple[str, int, int]:
    return str(problem.mark.path), problem.mark.line, problem.mark.column


def _id(node: Node) -> str | None:
    return node.text("id") if isinstance(node, Mapping) else None


def _principle(node: Node) -> str | None:
    return node.text("principle") if isinstance(node, Mapping) else None


def _over(own: Node, inherited: Node) -> Node:
    """An inherited principle with the keys that this file gives it."""
    if not (isinstance(own, Mapping) and isinstance(inherited, Mapping)):
        return own
    return Mapping(own.mark, inherited.entries | own.entries, inherited.keys | own.keys)
