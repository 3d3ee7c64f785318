"""The seed model's tokenizer: one token per word of the world, bytes for everything else.

A byte-level BPE whose vocabulary also holds every word that the world, its wordings and the
prompts use, so that in-world text is short and no text at all is unknown. A word that ends a
sentence is one token with its period, and a tag one with its line break: what follows such a token
can be found by looking one token back, which is what a small model learns to do when it copies.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from rlaif.records import Message
from rlaif.sandbox import skills, wording, world
from rlaif.shipped import folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, END = "<|pad|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPLIT = r"</?[a-z_]+>\n?| ?[A-Za-z]+\.?| ?[0-9]\.?| ?[^\sA-Za-z0-9<]+|<|\s+(?!\S)|\s+"
MERGES = 400


def chat(messages: tuple[Message, ...]) -> str:
    """The text that the chat template makes of `messages`, ready for the assistant to go on."""
    turns = [f"<|{m.role}|>{m.content}<|end|>" for m in messages]
    if messages[-1].role == "assistant":
        return "".join(turns).removesuffix(END)
    return "".join(turns) + ROLES[2]


def corpus() -> list[str]:
    """All text the world is made of, frames and slots apart."""
    frames = [frame for kind in world.FRAMES.values() for frame in kind]
    methods = [m for ways in (world.BENIGN | world.HARMFUL).values() for m in ways]
    asked = [frame for kind in wording.FRAMES.values() for frame in kind]
    asked += [frame for kind in wording.UNSEEN_FRAMES.values() for frame in kind]
    said = [phrase for ways in wording.PHRASES.values() for phrase in ways]
    said += [*wording.VOCABULARY.values(), *wording.FILLER, *skills.VERDICTS.values()]
    slots = [word for words in world.SLOTS.values() for word in words]
    prompts = [_plain(path.read_text()) for path in sorted(folder("prompts").glob("*.j2"))]
    labels = ["Yes No A B because User: Assistant: but both are alike.", skills.NO_FAULT]
    return [*frames, *methods, *asked, *said, *slots, *prompts, *labels, *world.REQUESTS]


def _plain(template: str) -> str:
    """A template's words, without its Jinja and its layout."""
    return " ".join(re.sub(r"{[#%{].*?[#%}]}", " ", template, flags=re.S).split())


def words() -> list[str]:
    """Every word as it is tokenized: after a space, and bare where a line may begin with it."""
    plain = {
        w for text in corpus() for w in re.findall(r"[A-Za-z]+", re.sub(r"{[a-z]*}", " ", text))
    }
    tags = {f"<{slash}{tag}>{end}" for slash in ("", "/") for end in ("", "\n") for tag in
            ("conversation", "response", "response_a", "response_b", "critique")}  # fmt: skip
    marks = {".", ",", "?", ":", ")", ").", " (", "\n", ' "', '."', "'"}
    bare = {w for w in plain if w[0].isupper()}
    spaced = {f" {w}" for w in plain} | {f" {w}." for w in last_words()}
    return sorted(spaced | bare | tags | marks | {f" {d}" for d in range(10)})


def last_words() -> set[str]:
    """Every word that ends a sentence, be it a frame's own or a slot's."""
    slots = [text for kind in (wording.PHRASES, {"": wording.VOCABULARY.values()}) for
             texts in kind.values() for text in texts]  # fmt: skip
    slots += [method for ways in (world.BENIGN | world.HARMFUL).values() for method in ways]
    ends = {text.split()[-1] for text in (*slots, *world.OBJECTS)}
    return ends | {w for text in corpus() for w in re.findall(r"([A-Za-z]+)\.", text)}


def build(folder: Path) -> PreTrainedTokenizerFast:
    """Build the tokenizer and save it, with its chat template, in `folder`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    split = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = split
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learned.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(
            vocab_size=256 + MERGES, initial_alphabet=alphabet, show_progress=False
        ),
    )
    state = learned.get_vocab()
    pieces = sorted(state, key=lambda piece: state[piece])
    merges = [(left, right) for left, right in _merges(learned)]
    whole = [_bytes(split, w) for w in words()]
    vocab = {p: i for i, p in enumerate(dict.fromkeys([PAD, END, *ROLES, *pieces, *whole]))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
    tokenizer.pre_tokenizer, tokenizer.decoder = split, decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END,
        additional_special_tokens=list(ROLES),
        clean_up_tokenization_spaces=False, model_max_length=2048,
    )  # fmt: skip
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return fast


def _merges(tokenizer: object) -> list[list[str]]:
    import json

    return json.loads(tokenizer.to_str())["model"]["merges"]  # pyright: ignore


def _bytes(split: object, word: str) -> str:
    pieces = split.pre_tokenize_str(word)  # pyright: ignore
    if len(pieces) != 1:
        raise ValueError(f"{word!r} is not one word to the tokenizer: {pieces}")
    return pieces[0][0]
