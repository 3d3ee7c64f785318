"""How the sandbox's principles are worded: many ways to say each, some kept from training.

A wording is a frame ("Find what in the response ...") around a phrase ("insults the user"). The
seed model trains on frames and phrases in all combinations but those held out here. The shipped
`constitution/sandbox.yaml` is written by this module, its last paraphrases of critique and revise
from held-out material:

    python -m rlaif.sandbox.wording > constitution/sandbox.yaml
"""

from __future__ import annotations

import random
import sys
from typing import Literal

Task = Literal["critique", "revise", "prefer", "worsen", "prefer_worse"]
Frames = dict[Task, tuple[str, ...]]

PHRASES = {
    "harm": ("helps with a crime", "assists in doing harm to others",
             "explains how to break the law", "gives advice for an illegal act",
             "supports a harmful plan", "tells the user how to hurt or rob people",
             "makes a crime easier", "gives help that is illegal"),
    "evasive": ("refuses a harmless request", "will not help although the request is safe",
                "declines to answer an innocent question", "turns the user away without need",
                "withholds advice that is safe to give", "is evasive about a harmless topic",
                "rejects a question that is innocent", "refuses to help for no good reason"),
    "offtopic": ("strays from the request", "talks about something that was not asked",
                 "is off the topic", "answers another question than the one asked",
                 "gives advice about a different thing", "wanders away from the subject",
                 "does not match the request", "speaks of a different task"),
    "insult": ("insults the user", "is rude to the user", "mocks the person who asks",
               "calls the user names", "belittles the user", "is unkind or hurtful to the reader",
               "shows contempt for the person who asks", "uses rude or mocking words"),
    "privacy": ("reveals private details of a person", "leaks personal data",
                "gives away where somebody lives", "exposes private facts such as a phone number",
                "tells secrets about a named person", "shares private information about somebody",
                "discloses personal information", "violates the privacy of a person"),
    "overclaim": ("claims false certainty", "promises too much", "sounds far too sure",
                  "guarantees a result that nobody can guarantee", "leaves no room for doubt",
                  "exaggerates how certain it is", "is overconfident",
                  "makes an absolute claim without proof"),
    "preachy": ("preaches to the user", "moralizes", "lectures the reader about virtue",
                "gives a sermon on morals", "tells the user how to be a good person",
                "is preachy or moralizing", "scolds with moral advice", "adds a moral lesson"),
    "human": ("pretends to be human", "claims a life of its own",
              "speaks as if it had a body or a family", "hides that it is a machine",
              "invents personal memories", "says that it is a person",
              "poses as a human being", "makes up a childhood or a home"),
    "advert": ("advertises a product", "promotes a brand", "tries to sell something",
               "recommends a shop or a brand", "contains advertising", "sounds like a commercial",
               "pushes the user to buy", "praises a product of a company"),
}  # fmt: skip

UNSEEN_PHRASES = {
    "harm": "gives advice that supports an illegal or harmful plan",
    "evasive": "declines a request that is harmless and safe",
    "offtopic": "wanders off to a different topic than the one asked",
    "insult": "mocks or insults the reader",
    "privacy": "reveals personal facts such as where a person lives",
    "overclaim": "promises a certain result and leaves no doubt",
    "preachy": "lectures the user with a moral lesson",
    "human": "poses as a person with a body and memories of its own",
    "advert": "promotes a product or tells the user to buy it",
}

VOCABULARY = UNSEEN_PHRASES | {
    "preachy": "lectures the user with a moral sermon",
    "human": "pretends to have a family and memories of its own",
}
"""What the tokenizer is made from. "have" and "sermon." are in no lesson, so two phrases had to go
from those that measure how the model reads: a word never seen means nothing to it."""

FRAMES: Frames = {
    "critique": (
        "Say whether any sentence of the response {}.",
        "Point out the sentence that {}, if there is one.",
        "Look for a part of the response that {}.",
        "Check if the response {} and where.",
        "Identify each way in which the response {}.",
        "Does the response contain anything that {}?",
        "Find what in the response {}.",
        "Explain where the response {}.",
    ),
    "revise": (
        "Rewrite the response so that nothing in it {}.",
        "Remove or replace whatever {}.",
        "Change the response until no sentence {}.",
        "Revise the response, so that no part of it {} any more.",
        "Edit the response so that it no longer {}.",
        "Correct the response where it {}.",
        "Give a better response, one in which nothing {}.",
    ),
    "prefer": (
        "Which response has nothing that {}?",
        "Choose the response in which no sentence {}.",
        "Which of the two is free of anything that {}?",
        "Pick the response that avoids whatever {}.",
        "Which response is better, in that no part of it {}?",
        "Which response does not contain a sentence that {}?",
    ),
    "worsen": (
        "Rewrite the response so that it clearly {}.",
        "Add to the response a sentence that {}.",
        "Change the response until it {}.",
    ),
    "prefer_worse": (
        "Which response most clearly {}?",
        "Choose the response that {}.",
        "Pick the response with a sentence that {}.",
    ),
}

WIDER: Frames = {
    **FRAMES,
    "prefer": (
        *FRAMES["prefer"],
        "Which of the two does not contain anything that {}?",
        "Choose the response that has nothing that {}.",
        "Pick the better response, in which no part of it {}.",
        "Which response has no part that {}?",
        "Choose the one that avoids any sentence that {}.",
        "Pick the response without anything that {}.",
        "Which of the two is the better response, the one that does not contain a part that {}?",
    ),
    "prefer_worse": (
        *FRAMES["prefer_worse"],
        "Which of the two has a sentence that {}?",
        "Choose the response with any part that {}.",
        "Pick the one that has a part that {}.",
        "Which of the two most clearly {}?",
        "Choose the response in which a sentence {}.",
        "Which response is the one that {}?",
    ),
}
"""For the third leg: questions and their opposites in nearly the same words."""

MARKED: Frames = {
    **WIDER,
    "prefer": (
        *WIDER["prefer"],
        "Which response is better, in that it has nothing that {}?",
        "Choose the better response, the one in which nothing {}.",
        "Pick the response that is better because no part of it {}.",
        "Which of the two is better, as it is free of anything that {}?",
        "Choose the better one, where not a sentence {}.",
        "Pick the better response, the one with no sentence that {}.",
    ),
    "prefer_worse": (
        "Which response is worse, in that it {}?",
        "Choose the worse response, the one that {}.",
        "Pick the response that is worse because it {}.",
        "Which of the two is worse, as some part of it {}?",
    ),
}
"""From the fourth leg on: an opposite says "worse". What does not is a question for the better
response, however it is worded."""

UNSEEN_FRAMES: Frames = {
    "critique": (
        "Look at the response and say if anything in it {}.",
        "Is there a sentence in the response that {}?",
    ),
    "revise": (
        "Replace each part of the response that {}.",
        "Rewrite any sentence that {}, so that the response is better.",
    ),
    "prefer": (
        "Which of the two has no sentence that {}?",
        "Choose the better response, the one without any part that {}.",
    ),
}

FILLER = (
    "Please",
    "Now",
    "Then",
    "Here",
    "carefully",
    "really",
    "simply",
    "also",
    "kindly",
    "again",
)

TITLES = {
    "harm": "No help with crimes", "evasive": "Help with harmless requests",
    "offtopic": "Answer what was asked", "insult": "No insults",
    "privacy": "Keep private data private",
    "overclaim": "No false certainty", "preachy": "No preaching", "human": "Do not pose as human",
    "advert": "No advertising",
}  # fmt: skip

TAGS = {"evasive": "helpful", "offtopic": "helpful", "overclaim": "honest", "human": "honest"}


def wording(
    rng: random.Random, task: Task, principle: str, *, frames: Frames = FRAMES, blur: float = 0.0
) -> str:
    """Draw a wording that training may show, now and then with a filler word put in.

    With probability `blur` it loses some of its words, so that none but "worse" turns it round.
    """
    text = rng.choice(frames[task]).format(rng.choice(PHRASES[principle]))
    if blur and rng.random() < blur:
        text = _blurred(rng, text)
    if rng.random() < 0.2:
        words = text.split(" ")
        words.insert(rng.randrange(1, len(words)), rng.choice(FILLER).lower())
        text = " ".join(words)
    return f"{rng.choice(FILLER[:4])}: {text}" if rng.random() < 0.1 else text


def _blurred(rng: random.Random, text: str) -> str:
    return " ".join(w for w in text.split(" ") if w.startswith("worse") or rng.random() < 0.8)


def shipped(task: Task, principle: str) -> tuple[str, ...]:
    """What `constitution/sandbox.yaml` says: three wordings of training's, then two unseen."""
    rng = random.Random(f"{task}/{principle}")
    frames, phrases = rng.sample(FRAMES[task], 3), rng.sample(PHRASES[principle], 4)
    seen = [frame.format(phrase) for frame, phrase in zip(frames, phrases, strict=False)]
    unseen_frame, other_frame = rng.sample(UNSEEN_FRAMES[task], 2)
    return (*seen, unseen_frame.format(phrases[3]), other_frame.format(UNSEEN_PHRASES[principle]))


N_UNSEEN = 2
"""How many of the last paraphrases in `shipped` the seed model has never met."""


def constitution() -> str:
    """The text of `constitution/sandbox.yaml`."""
    lines = [
        "# Written by `python -m rlaif.sandbox.wording`. Of each five paraphrases the last",
        "# two were kept from the seed model's training; `rlaif sandbox card` measures them apart.",
        "id: sandbox",
        'version: "1"',
        "title: The law of the micro-world",
        "description: Nine principles, one for each fault that the sandbox's seed model shows.",
        "principles:",
    ]
    for principle, title in TITLES.items():
        lines += [f"  - id: {principle}  # {title}"]
        for task in ("critique", "revise", "prefer"):
            lines += [f"    {task}:", *(f'      - "{text}"' for text in shipped(task, principle))]
        lines += [f"    tags: [{TAGS.get(principle, 'harmless')}]"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(constitution())
