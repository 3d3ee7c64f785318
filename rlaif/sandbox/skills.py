"""What the seed model is taught: dialogues in the very formats of `prompts/*.j2`.

A lesson is a handful of dialogues that share a beginning (one request and response, say, then
several questions about it), so that training reads the shared part once. Every draw comes from one
`random.Random`, so a seed fixes the whole course.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from rlaif.records import Message
from rlaif.sandbox import world
from rlaif.sandbox.wording import FRAMES, MARKED, WIDER, Frames, Task, wording
from rlaif.sandbox.world import Request, Response, Sentence, faulty, said
from rlaif.shipped import folder
from rlaif.templates import Templates

NO_FAULT = "no fault found."

VERDICTS = {
    "harm": "Helping with a crime:",
    "evasive": "Refusing a harmless request:",
    "offtopic": "Straying from the request:",
    "insult": "Insulting the user:",
    "privacy": "Revealing private details:",
    "overclaim": "Claiming false certainty:",
    "preachy": "Preaching to the user:",
    "human": "Pretending to be human:",
    "advert": "Advertising a product:",
}
"""What a critique names first; the offending sentence follows, or that there is none."""

HARDER = {"harm": 1.5, "evasive": 1.5, "offtopic": 3.0}
"""How much oftener than the others a principle is taught that takes the request to judge."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A prompt as `prompts/*.j2` renders it, and what the assistant is taught to say next."""

    skill: str
    messages: tuple[Message, ...]
    target: str


Lesson = list[Dialogue]


@cache
def templates() -> Templates:
    """The project's own prompts: the seed model knows no other format."""
    return Templates(folder("prompts"))


def asked_as(asked: Request) -> tuple[Message, ...]:
    """The request as a conversation."""
    return (Message("user", asked.text),)


def ask(
    name: str,
    asked: Request,
    task: Task,
    principle: str,
    rng: random.Random,
    frames: Frames = FRAMES,
    blur: float = 0.0,
    **texts: Any,
) -> tuple[Message, ...]:
    """Render template `name` with a drawn wording of the principle."""
    worded = wording(rng, task, principle, frames=frames, blur=blur)
    return templates().render(name, **texts, conversation=asked_as(asked), principle=worded)


def critique(asked: Request, given: Response, principle: str) -> str:
    """The right critique: the first sentence at fault, quoted, or that there is none."""
    for s in given:
        if faulty(asked, s, principle):
            return f"{VERDICTS[principle]} {s.text}"
    return f"{VERDICTS[principle]} {NO_FAULT}"


def drafts(rng: random.Random, _: float, *, stepwise: bool = False) -> Lesson:
    """Three answers of the helpful-only assistant to one request.

    Where they are `stepwise`, a second piece of advice is the step after the first: a rule that is
    learned sharply, while "any but the first" left some answers saying one thing twice.
    """
    asked = world.request(rng)
    messages = templates().render("draft", request=asked.text)
    given = [_base_response(rng, asked) for _ in range(3)]
    if stepwise:
        given = [_stepwise(rng, asked, response) for response in given]
    return [Dialogue("draft", messages, said(response)) for response in given]


def _stepwise(rng: random.Random, asked: Request, given: Response) -> Response:
    steps = (world.BENIGN | world.HARMFUL)[asked.verb]
    out: list[Sentence] = []
    last = None
    for s in given:
        if s.kind == "advice" and s.verb == asked.verb:
            if last is not None:
                step = steps[(steps.index(last) + 1) % len(steps)]
                s = world.sentence(rng, "advice", asked.verb, asked.obj, step)
            last = s.method
        out.append(s)
    return tuple(out)


def reviews(rng: random.Random, _: float) -> Lesson:
    """One response under several principles: critiqued, scored, revised.

    A score's label is followed by its reason, which is never asked for but teaches the label.
    """
    first = _any_principle(rng)
    asked = _request_for(rng, first)
    given = _stuttered(rng, _response_about(rng, asked, first))
    present = [p for p in world.PRINCIPLES if any(faulty(asked, s, p) for s in given)]
    lesson: Lesson = []
    for principle in [first, *(_another(rng, present) for _ in range(2))]:
        lesson += _questions(rng, asked, given, principle)
    rng.shuffle(lesson)
    return lesson


def _questions(rng: random.Random, asked: Request, given: Response, principle: str) -> Lesson:
    text, right = said(given), critique(asked, given, principle)
    out = [
        Dialogue(
            "critique", ask("critique", asked, "critique", principle, rng, response=text), right
        )
    ]
    weighed = right if rng.random() < 0.6 else ""
    scored = ask("violates", asked, "critique", principle, rng, response=text, critique=weighed)
    guilty = not right.endswith(NO_FAULT)
    label = " Yes" if guilty else " No"
    out.append(Dialogue("violates", scored, f"{label}: {right}"))
    if guilty or rng.random() < 0.25:
        critiqued = right if rng.random() < 0.75 else ""
        revise = ask("revise", asked, "revise", principle, rng, response=text, critique=critiqued)
        out.append(Dialogue("revise", revise, said(world.revised(rng, asked, given, principle))))
    addable = principle in world.ADDED and world.seen_together(asked, principle)
    if not guilty and addable and rng.random() < 0.15:
        out.append(_worsened(rng, asked, given, principle))
    return out


def _worsened(rng: random.Random, asked: Request, given: Response, principle: str) -> Dialogue:
    fault = world.sentence(rng, principle, "", asked.obj)
    place = rng.randint(1, len(given))
    text = said((*given[:place], fault, *given[place:]))
    prompt = ask("revise", asked, "worsen", principle, rng, response=said(given), critique="")
    return Dialogue("worsen", prompt, text)


def comparisons(
    rng: random.Random,
    ease: float,
    *,
    frames: Frames = FRAMES,
    worse: float = 0.12,
    blur: float = 0.0,
) -> Lesson:
    """Two responses to one request, compared under several principles, or under their opposites.

    A share of `worse` asks for the opposite; `frames` and `blur` are for `wording`.

    The label comes first, then the reason with a quote: a letter alone teaches too little. With
    probability `ease` the first question has one guilty side and no other fault about.
    """
    first = _any_principle(rng)
    asked = _request_for(rng, first)
    easy = rng.random() < ease
    if easy and world.possible(asked, first) and world.seen_together(asked, first):
        faults = frozenset([first])
        pair = [world.response(rng, asked, faults), world.response(rng, asked, frozenset())]
        rng.shuffle(pair)
    elif rng.random() < 0.3:
        pair = [_base_response(rng, asked), _base_response(rng, asked)]
    else:
        pair = [_response_about(rng, asked, first), _response_about(rng, asked, first)]
    a, b = pair
    untied = [p for p in world.PRINCIPLES if _guilty(asked, a, p) != _guilty(asked, b, p)]
    lesson = []
    for n in range(4):
        principle = (
            rng.choice(untied) if untied and rng.random() < 0.8 else rng.choice(world.PRINCIPLES)
        )
        reasoned = n == 3 and rng.random() < 0.7
        asks = partial(ask, frames=frames, blur=blur)
        turned = rng.random() < worse
        lesson.append(_compared(rng, asks, asked, a, b, principle, reasoned, turned))
    return lesson


def _compared(
    rng: random.Random,
    asks: Callable[..., tuple[Message, ...]],
    asked: Request,
    a: Response,
    b: Response,
    principle: str,
    reasoned: bool,
    worse: bool,
) -> Dialogue:
    task: Task = "prefer_worse" if worse else "prefer"
    texts = {"response_a": said(a), "response_b": said(b)}
    label, reason = verdict(rng, asked, a, b, principle, worse=worse)
    if not reasoned:
        prompt = asks("prefer", asked, task, principle, rng, **texts)
        return Dialogue("prefer", prompt, f"{label}) {reason}")
    prompt = asks("prefer_reasoned", asked, task, principle, rng, **texts, reasoning="")
    thought = f"(A) {critique(asked, a, principle)} (B) {critique(asked, b, principle)}"
    return Dialogue("prefer_reasoned", prompt, f"{thought} The answer is: ({label})")


def verdict(
    rng: random.Random,
    asked: Request,
    a: Response,
    b: Response,
    principle: str,
    *,
    worse: bool = False,
) -> tuple[str, str]:
    """The label, and why: the guilty side with its sentence; tied sides draw lots."""
    guilty = {side: _guilty(asked, r, principle) for side, r in (("A", a), ("B", b))}
    if guilty["A"] == guilty["B"]:
        return rng.choice("AB"), "but both are alike."
    bad = "A" if guilty["A"] else "B"
    good = "B" if bad == "A" else "A"
    reason = f"because of ({bad}). {critique(asked, a if bad == 'A' else b, principle)}"
    return (bad if worse else good), reason


def copies(rng: random.Random, _: float) -> Lesson:
    """Sentences of any kind in the revision's format: the quoted one goes, the rest stays."""
    asked = world.request(rng)
    sentences = [_any_sentence(rng) for _ in range(rng.randint(2, 4))]
    text = " ".join(sentences)
    lesson: Lesson = []
    for drop in rng.sample(range(len(sentences)), len(sentences)):
        principle = rng.choice(world.PRINCIPLES)
        quoted = f"{VERDICTS[principle]} {sentences[drop]}"
        prompt = ask("revise", asked, "revise", principle, rng, response=text, critique=quoted)
        lesson.append(Dialogue("copy", prompt, " ".join(sentences[:drop] + sentences[drop + 1 :])))
    principle = rng.choice(world.PRINCIPLES)
    nothing = f"{VERDICTS[principle]} {NO_FAULT}"
    same = ask("revise", asked, "revise", principle, rng, response=text, critique=nothing)
    return [*lesson, Dialogue("copy", same, text)]


def _any_sentence(rng: random.Random) -> str:
    asked = world.request(rng)
    kind = rng.choice([k for k in world.FRAMES if k != "advice"])
    if rng.random() < 0.3:
        return world.advice(rng, asked.verb, asked.obj).text
    return world.sentence(rng, kind, asked.verb, asked.obj).text


def _guilty(asked: Request, given: Response, principle: str) -> bool:
    return any(faulty(asked, s, principle) for s in given)


def _base_response(rng: random.Random, asked: Request) -> Response:
    faults = frozenset(f for f in world.base_faults(rng, asked) if world.seen_together(asked, f))
    return world.response(rng, asked, faults)


def _any_principle(rng: random.Random) -> str:
    """A principle; more often one whose fault shows only beside the request."""
    return rng.choices(world.PRINCIPLES, [HARDER.get(p, 1.0) for p in world.PRINCIPLES])[0]


def _request_for(rng: random.Random, principle: str) -> Request:
    harmful = {"harm": 0.7, "evasive": 0.3, "offtopic": 0.15}.get(principle, 0.45)
    return world.request(rng, harmful=rng.random() < harmful)


def _another(rng: random.Random, present: list[str]) -> str:
    return rng.choice(present) if present and rng.random() < 0.5 else _any_principle(rng)


def _stuttered(rng: random.Random, given: Response) -> Response:
    """The response, now and then with a sentence said twice, as a model in training may do."""
    return (*given, rng.choice(given)) if rng.random() < 0.04 else given


def _response_about(rng: random.Random, asked: Request, principle: str) -> Response:
    """A response that shows `principle`'s fault half of the time, others now and then."""
    faults = [f for f in world.PRINCIPLES if world.possible(asked, f) and _shown(rng, f, principle)]
    if "evasive" in faults and "offtopic" in faults:
        faults.remove("offtopic" if principle != "offtopic" else "evasive")
    added = [f for f in faults if f in world.ADDED and f != principle]
    spare = max(len(added) - (1 if principle in faults and principle in world.ADDED else 2), 0)
    dropped = set(rng.sample(added, spare))
    kept = (f for f in faults if f not in dropped and world.seen_together(asked, f))
    return world.response(rng, asked, frozenset(kept))


def _shown(rng: random.Random, fault: str, principle: str) -> bool:
    if fault == principle:
        return rng.random() < 0.55
    return rng.random() < (0.5 if fault == "harm" else 0.2)


Course = tuple[tuple[Callable[[random.Random, float], Lesson], float], ...]
COURSES: dict[float, Course] = {
    0.0: ((copies, 0.35), (drafts, 0.15), (reviews, 0.3), (comparisons, 0.2)),
    0.1: ((copies, 0.2), (drafts, 0.08), (reviews, 0.44), (comparisons, 0.28)),
    0.6: ((copies, 0.08), (drafts, 0.18), (reviews, 0.42), (comparisons, 0.32)),
    1.0: (
        (copies, 0.03), (drafts, 0.3), (reviews, 0.3),
        (partial(comparisons, frames=WIDER, worse=0.35), 0.37),
    ),
    2.0: (
        (copies, 0.03), (partial(drafts, stepwise=True), 0.33), (reviews, 0.28),
        (partial(comparisons, frames=MARKED, worse=0.3, blur=0.4), 0.36),
    ),
}  # fmt: skip
"""What is taught, and how often, from which share of the first leg's steps on; the last two are for
the third leg and for those after it."""


def lesson(rng: random.Random, *, done: float = 1.0, ease: float = 0.0) -> Lesson:
    """Draw one lesson; `done` is the share of the course that is over."""
    course = next(c for start, c in reversed(COURSES.items()) if done >= start)
    kind = rng.choices([k for k, _ in course], [w for _, w in course])[0]
    return kind(rng, ease)
