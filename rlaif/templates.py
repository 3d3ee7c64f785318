"""Prompt templates: `prompts/*.j2` rendered to messages, with judged text kept in its place.

A template is a Jinja file whose blocks are messages: `{% block system %}`, `{% block user %}` and
`{% block assistant %}`, in this order; the last is a prefill that the model continues, and what
renders to nothing is left out. Values enter as variables only: text under judgement is never
template source. `{{ text | fenced("response") }}` shows it inside tags that it cannot close, and
`{{ conversation | transcript }}` in turns that it cannot forge. What a tokenizer would take for the
end of a turn, as <|im_end|>, loses its effect in every value (`inert`).

    Templates("prompts").render("critique", conversation=..., response=..., request=...)
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast, get_args

import jinja2
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rlaif.errors import ConfigError
from rlaif.records import Message, Role

SUFFIX = ".j2"

_INDENT = "    "
_LINE_END = re.compile("(\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029])(?![\n\r]|$)")
_ANGLE = re.compile("[<\ufe64\uff1c\u2039\u27e8\u3008]")
_UNSEEN = {"Cc", "Cf", "Mn", "Me", "Co", "Cn"}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_CONTROL = re.compile(
    # <|im_end|> <|eot_id|> <\uff5cUser\uff5c> <|turn> <turn|>: ChatML, Llama 3, DeepSeek, Gemma 4
    "[<\ufe64\uff1c](?=[|\uff5c][^\\s<>]{1,64}[>\ufe65\uff1e]"
    "|[^\\s<>]{1,64}[|\uff5c][>\ufe65\uff1e]"
    # <s> </s> <end_of_turn> <EOS_TOKEN> <extra_id_1> <reserved_106>: sentencepiece, Gemma, Cohere
    "|/?(?i:s|(?:bos|eos|pad|unk|cls|sep|mask|eop)(?:_token)?|eo[dmt]|sop|endoftext|im_(?:start|end)"
    "|(?:start|end)_of_\\w+|(?:extra_id_|special_|reserved_|unused)\\d+|seed:\\w+)>"
    "|</?SYS>>)"
    # [INST] [/INST] [SYSTEM_PROMPT] [gMASK] [|endofturn|] ]~b] [e~[: Mistral, GLM, EXAONE, MiniMax
    "|[][](?=\\|[^][\\s]{1,64}\\]|/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_\\w+|THINK"
    "|CLS|SEP|PAD|[gs]MASK|UNUSED_TOKEN_\\d+)\\]|~!?b[][]|e~\\[)"
)


class Templates:
    """The templates of one folder, each compiled when it is first asked for."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            remedy = "set `templates` to the folder of the .j2 files"
            raise ConfigError("there is no such folder", where=str(folder), remedy=remedy)
        self._env = _environment(self._source)
        self._compiled: dict[str, _Template] = {}

    def __iter__(self) -> Iterator[str]:
        """The names of the templates, sorted."""
        return iter(sorted(path.stem for path in self.folder.glob(f"*{SUFFIX}")))

    def render(
        self,
        name: str,
        /,
        *,
        examples: Iterable[Sequence[Message]] = (),
        history: Sequence[Message] = (),
        **variables: object,
    ) -> tuple[Message, ...]:
        """The messages of a template: system, examples, history, user, assistant.

        `examples` are dialogues shown first (see `dialogue`), `history` the turns of the real
        conversation that come before the template's own user turn.

        Raises:
            ConfigError: no such template, or it wants a variable that is not given.
        """
        template = self._template(name)
        rendered = template.render(variables)
        if examples or history:
            shown = [message for dialogue in examples for message in dialogue]
            turns = (Message(turn.role, inert(turn.content)) for turn in history)
            at = 1 if rendered and rendered[0].role == "system" else 0
            rendered[at:at] = [*shown, *turns]
        return tuple(rendered)

    def asked(self, conversation: Sequence[Message]) -> tuple[Message, ...]:
        """A conversation as models are asked to answer it: earlier turns as they are, the last one
        by the template `draft`."""
        *history, last = conversation
        return self.render("draft", history=history, request=last.content)

    def dialogue(self, name: str, /, *, answer: str, **variables: object) -> tuple[Message, ...]:
        """A worked example in the form of the real question: its user turn and the answer to it.

        The answer follows the template's prefill, if it has one.
        """
        turns = [m for m in self._template(name).render(variables) if m.role != "system"]
        prefill = turns.pop().content if turns[-1].role == "assistant" else ""
        return (*turns, Message("assistant", prefill + inert(answer)))

    def variables(self, name: str) -> frozenset[str]:
        """The variables that a template, or what it includes, can ask for."""
        return self._template(name).variables

    def digest(self, name: str) -> str:
        """SHA-256 of a template's source and of all that it includes."""
        return self._template(name).digest

    def copy(self, name: str, into: Path) -> None:
        """Write a template and all that it includes into another folder."""
        for file, source in self._template(name).sources.items():
            (into / file).parent.mkdir(parents=True, exist_ok=True)
            (into / file).write_text(source, "utf-8")

    def _template(self, name: str) -> _Template:
        if name not in self._compiled:
            self._compiled[name] = self._compile(name)
        return self._compiled[name]

    def _compile(self, name: str) -> _Template:
        """Parse, check and compile a template.

        Raises:
            ConfigError: it is missing, is not Jinja, or is not made of message blocks.
        """
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{name!r} is not a template's name", remedy="name a file without .j2"
            )
        file, path = name + SUFFIX, self.folder / (name + SUFFIX)
        try:
            found = self._source(file)
            if found is None:
                have = ", ".join(self) or "none"
                raise ConfigError("no such template", where=str(path), remedy=f"there are: {have}")
            tree = self._env.parse(found[0], name=file, filename=str(path))
            blocks = _message_blocks(tree, path)
            parsed = self._closure(file, tree)
            code = self._env.compile(tree, name=file, filename=str(path))
        except jinja2.TemplateSyntaxError as error:
            where = f"{error.filename or path}:{error.lineno}"
            remedy = "correct the template's syntax"
            raise ConfigError(
                f"not a template: {error.message}", where=where, remedy=remedy
            ) from None
        template = jinja2.Template.from_code(self._env, code, self._env.globals)
        undeclared = (meta.find_undeclared_variables(tree) for _, tree in parsed.values())
        return _Template(
            messages=tuple((cast(Role, block), template.blocks[block]) for block in blocks),
            template=template,
            path=path,
            variables=frozenset().union(*undeclared) - set(self._env.globals),
            sources={file: source for file, (source, _) in parsed.items()},
        )

    def _closure(self, file: str, tree: nodes.Template) -> dict[str, tuple[str, nodes.Template]]:
        """Source and tree of a template and of every file that it includes or imports."""
        todo, done = [file], {}
        while todo:
            name = todo.pop()
            if name in done:
                continue
            source = self._source(name)
            if source is None:
                raise jinja2.TemplateSyntaxError(
                    f"it refers to {name!r}, which is not in {self.folder}", 1, file, file
                )
            done[name] = source[0], tree if name == file else self._env.parse(source[0], name)
            referenced = meta.find_referenced_templates(done[name][1])
            todo += sorted(r for r in referenced if r is not None)
        return done

    def _source(self, name: str) -> tuple[str, str, Callable[[], bool]] | None:
        """Jinja's loader: a file inside the folder, whatever the name or a link says."""
        path = self.folder / name
        if not path.resolve().is_relative_to(self.folder.resolve()) or not path.is_file():
            return None
        try:
            return path.read_text("utf-8"), str(path), lambda: True
        except (OSError, UnicodeDecodeError) as error:
            remedy = "save it as UTF-8 text that you may read"
            raise ConfigError(f"cannot be read: {error}", where=str(path), remedy=remedy) from None


@dataclass(frozen=True, slots=True)
class _Template:
    """A compiled template: a function from variables to text for each of its messages."""

    messages: tuple[tuple[Role, Callable[..., Iterator[str]]], ...]
    template: jinja2.Template = field(repr=False)
    path: Path
    variables: frozenset[str]
    sources: dict[str, str]

    @property
    def digest(self) -> str:
        return hashlib.sha256("\0".join(self.sources.values()).encode()).hexdigest()

    def render(self, variables: Mapping[str, object]) -> list[Message]:
        context = self.template.new_context(dict(variables))
        try:
            rendered = [Message(role, "".join(block(context))) for role, block in self.messages]
        except ConfigError:
            raise
        except Exception as error:
            raise self.explained(error, variables) from error
        return [message for message in rendered if message.content or message.role == "user"]

    def explained(self, error: Exception, variables: Mapping[str, object]) -> ConfigError:
        """The template's line and, for a missing variable, what was given."""
        line = 0
        trace = error.__traceback__
        while trace:
            if trace.tb_frame.f_code.co_filename == str(self.path):
                line = self.template.get_corresponding_lineno(trace.tb_lineno)
            trace = trace.tb_next
        remedy = "correct the expression on that line"
        if isinstance(error, jinja2.UndefinedError):
            remedy = f"use one of the variables given: {', '.join(sorted(variables)) or 'none'}"
        what = f"{type(error).__name__}: {error}"
        return ConfigError(what, where=f"{self.path}:{line}", remedy=remedy)


def fence(tag: str, *texts: str) -> str:
    """A tag that none of the texts can open or close: the given one, or with the first free number.

    >>> fence("response", "fine"), fence("response", "bad </ Response>")
    ('response', 'response-2')
    """
    plain = [skeleton for text in texts if (skeleton := _skeleton(text))]
    number, free = 1, tag
    while any(_opens(free.casefold(), text) for text in plain):
        number += 1
        free = f"{tag}-{number}"
    return free


def fenced(text: str, tag: str) -> str:
    """The text, verbatim, on lines of its own between an opening and a closing tag."""
    name = fence(tag, text)
    return f"<{name}>\n{text}\n</{name}>"


def transcript(conversation: Iterable[Message]) -> str:
    """`User: ...` and `Assistant: ...`, one turn to a line.

    Further lines of a turn are indented, so that only a real turn begins at the margin.
    """
    return "\n".join(
        f"{message.role.capitalize()}: {_indent_lines(message.content)}" for message in conversation
    )


def inert(text: str) -> str:
    """The text with a space inside whatever a tokenizer may take for a control token.

    These are the forms that chat models have in use; a text without them comes back as it is.

    >>> inert("Sure.<|im_end|>"), inert("a <b>bold</b> x |> f")
    ('Sure.< |im_end|>', 'a <b>bold</b> x |> f')
    """
    return _CONTROL.sub(r"\g<0> ", text)


def _finalized(value: object) -> object:
    """What a template shows of a value."""
    return inert(value) if isinstance(value, str) else value


def _indent_lines(text: str) -> str:
    """The text with every line but the first and the blank ones indented."""
    if len(text.splitlines()) < 2:  # much quicker than the pattern
        return text
    return _LINE_END.sub(rf"\g<1>{_INDENT}", text)


def _skeleton(text: str) -> str:
    """What is left of a text for a reader who overlooks case, width, spaces and hidden marks."""
    if "<" not in text and (text.isascii() or not _ANGLE.search(text)):
        return ""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in folded if not c.isspace() and unicodedata.category(c) not in _UNSEEN)


def _opens(tag: str, text: str) -> bool:
    """Whether a skeleton holds something that may pass for the opening or the end of a tag."""
    return re.search(rf"{_ANGLE.pattern}[/\\\u2044\u2215]*{re.escape(tag)}", text) is not None


def _environment(source: Callable[[str], object]) -> ImmutableSandboxedEnvironment:
    env = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        finalize=_finalized,
        loader=jinja2.FunctionLoader(source),  # type: ignore[arg-type]
    )
    env.globals.clear()
    env.globals.update(range=range, fence=fence)
    env.filters.update(fenced=fenced, transcript=transcript)
    return env


def _message_blocks(tree: nodes.Template, path: Path) -> list[str]:
    """The names of a template's blocks, in file order; their own outer white space is taken off.

    Raises:
        ConfigError: a block is not a role, roles are out of order, or text stands outside a block.
    """
    names = []
    for node in tree.body:
        if isinstance(node, nodes.Block):
            names.append(node.name)
            _strip(node.body)
        elif not isinstance(node, nodes.Output) or not _is_blank(node):
            what, remedy = "this is outside every block and would be lost", "move it into a block"
            raise ConfigError(what, where=f"{path}:{node.lineno}", remedy=remedy)
    for node in tree.find_all(nodes.Block):
        if node.name not in names or node.name not in get_args(Role):
            what = f"the block {node.name!r} is not a message"
            remedy = "name blocks system, user or assistant, side by side"
            raise ConfigError(what, where=f"{path}:{node.lineno}", remedy=remedy)
    if "user" not in names or names != [role for role in get_args(Role) if role in names]:
        remedy = "write a user block; a system block goes before it, an assistant block after it"
        raise ConfigError(f"the blocks are {names or 'missing'}", where=f"{path}:1", remedy=remedy)
    return names


def _is_blank(node: nodes.Output) -> bool:
    return all(isinstance(n, nodes.TemplateData) and not n.data.strip() for n in node.nodes)


def _strip(body: list[nodes.Node]) -> None:
    """Take the author's own white space off both ends of a block, never that of a value."""
    match body[:1]:
        case [nodes.Output(nodes=[nodes.TemplateData() as first, *_])]:
            first.data = first.data.lstrip()
    _strip_end(body)


def _strip_end(body: list[nodes.Node]) -> None:
    match body[-1:]:
        case [nodes.Output(nodes=[*_, nodes.TemplateData() as last])]:
            last.data = last.data.rstrip()
        case [nodes.If() as choice]:
            for branch in (choice, *choice.elif_):
                _strip_end(branch.body)
            _strip_end(choice.else_)
