"""The draw: which items people are shown, each with the probability of its being drawn.

    rlaif audit sample runs/mine

The frame is frozen first: its ids, sorted, one a line, as a SHA-256. Every arm takes the smallest
hashes of (seed, arm, id), so a draw can be made again and does not depend on the order of the rows:

calibration  to warm up, judged by two; never counted, and out of the gate's population
gate         a uniform permutation without replacement of all the others; the sequential test
coverage     tops every stratum that the gate's arm is short of up to a number, so that each
             principle has a figure; the gate's own items serve for it too, once it is decided
targeted     hand-picked doubt; repairs data, and is in no estimate
retest       pairs of the first three that come back to those who judged them; says how steady they
             are, and is in no other figure

Memory does not grow with the frame, but for one counter a stratum.
"""

from __future__ import annotations

import hashlib
import heapq
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

from rlaif.audit import guidelines
from rlaif.audit.current import latest
from rlaif.audit.errors import Drawn
from rlaif.audit.items import Candidate, Source, stage_of
from rlaif.audit.ledger import Ledger
from rlaif.audit.records import Again, Arm, Audit, Item, Kind, Plan, Unit
from rlaif.config.audit import AuditConfig
from rlaif.errors import RunError
from rlaif.stages import stage_record

CHUNK = 200_000  # ids that are sorted in memory
SPREAD = 20  # a repeat comes so many of a reviewer's items later, and up to as many more
DESIGN = {"calibration", "overlap", "per_principle", "principles", "retest", "targeted", "tie"}

GUIDELINES = {
    "preference": (
        "Judge which response is better under the principles shown, and by nothing else.\n\n"
        "Length, tone and style count only where a principle names them. Read both to the end. "
        "Where the principles pull apart, go by the one that is broken worse.\n\n"
        "What the AI thought is shown later, so that it does not sway you. A few pairs come back, "
        "to see how steady verdicts are: judge each as if it were new.\n"
    ),
    "critique": (
        "First: does the response break the principle shown? Judge by that one alone.\n\n"
        "Then, if there is a second version: which of the two is better under the principle, as an "
        "answer to the question asked? A version that keeps the principle by not answering at all "
        "is not better.\n\n"
        "Unsure, and can't judge, are answers too. What the AI thought is shown afterwards.\n"
    ),
}


@dataclass(slots=True)
class _Smallest:
    """The `most` candidates of the smallest hashes that pass by, or of the greatest doubt."""

    most: int
    heap: list[tuple[Any, str, Candidate]]

    def add(self, rank: tuple[int, ...], candidate: Candidate) -> None:
        entry = (tuple(-part for part in rank), candidate.id, candidate)
        if len(self.heap) < self.most:
            heapq.heappush(self.heap, entry)
        elif self.heap and entry > self.heap[0]:
            heapq.heapreplace(self.heap, entry)

    def taken(self, without: Collection[str] = ()) -> list[Candidate]:
        """In order, without some."""
        ordered = sorted(self.heap, key=lambda entry: (entry[0], entry[1]), reverse=True)
        return [candidate for _, id, candidate in ordered if id not in without]


@dataclass(frozen=True, slots=True)
class Draw:
    """What was drawn: (arm, order in it, pi) by id; the frame, counted by stratum and by label."""

    chosen: dict[str, tuple[Arm, int, float]]
    frame_sha: str
    strata: dict[str, int]
    labels: dict[str, int]
    population: int
    covered: dict[str, int]
    """Items that figures by stratum may rest on."""

    @property
    def size(self) -> int:
        return sum(self.strata.values())


def draw(
    candidates: Iterable[Candidate], config: AuditConfig, seed: int, seen: Collection[str] = ()
) -> Draw:
    """Draw every arm in one pass; items that an earlier audit has `seen` are not in the frame."""
    set_aside = config.calibration
    calibration, gate = _Smallest(set_aside, []), _Smallest(config.cap + set_aside, [])
    room = config.per_principle + config.cap + set_aside
    strata, doubts = dict[str, _Smallest](), _Smallest(config.targeted + room, [])
    counts, labels = Counter[str](), Counter[str]()

    def passing() -> Iterator[str]:
        for one in candidates:
            if one.id in seen:
                continue
            counts[one.stratum] += 1
            labels[one.label] += 1
            calibration.add((_hash(seed, "calibration", one.id),), one)
            gate.add((_hash(seed, "gate", one.id),), one)
            heap = strata.setdefault(one.stratum, _Smallest(room, []))
            heap.add((_hash(seed, "coverage", one.id),), one)
            if one.doubt > 0:
                doubts.add((-round(one.doubt * 1e9), _hash(seed, "doubt", one.id)), one)
            yield one.id

    sha = frame_digest(passing())
    size = counts.total()
    warm = calibration.taken()[: min(set_aside, size // 10)]  # a small frame is not spent on it
    chosen: dict[str, tuple[Arm, int, float]] = {}
    _choose(chosen, "calibration", warm, len(warm) / max(1, size))
    population = size - len(warm)
    first = gate.taken(chosen)[: config.cap]
    _choose(chosen, "gate", first, len(first) / max(1, population))
    within = Counter(candidate.stratum for candidate in first)
    for name in sorted(strata):
        lacking = max(0, config.per_principle - within[name])
        extra = strata[name].taken(chosen)[:lacking]
        _choose(chosen, "coverage", extra, len(extra) / counts[name])
        within[name] += len(extra)
    _choose(chosen, "targeted", doubts.taken(chosen)[: config.targeted], 0.0)
    told = (dict(sorted(some.items())) for some in (counts, labels, within))
    by_stratum, by_label, covered = told
    return Draw(chosen, sha, by_stratum, by_label, population, covered)


def units(drawn: Draw, items: Iterable[Item], config: AuditConfig, seed: int) -> Iterator[Unit]:
    """The units of a draw, with those that come back."""
    for item in items:
        arm, order, pi = drawn.chosen[item.id]
        twice = arm == "calibration" or (
            arm != "targeted" and _hash(seed, "overlap", item.id) < config.overlap * 2**64
        )
        reviews = 2 if twice and config.reviewers > 1 else 1
        yield Unit(item, arm, order, pi, reviews)
        again = item.kind == "preference" and arm != "targeted"  # others are revealed at once
        if again and _hash(seed, "retest", item.id) < config.retest * 2**64:
            later = SPREAD + 1 + _hash(seed, "later", item.id) % SPREAD
            yield Unit(item, "retest", later * config.reviewers, 0.0, reviews)


def sample(
    ledger: Ledger, run: Path, config: AuditConfig, *, seed: int = 0, kind: Kind = "preference",
    again: Again | None = None,
) -> int:  # fmt: skip
    """Draw an audit of a run's stage and write it into the ledger; its id, or that of the one which
    is drawn in just this way already, unless it is to be drawn `again`.

    Items that earlier audits of the ledger have shown are not drawn again: what was learned from
    them may have gone into the labels.

    Raises:
        RunError: the stage is not there, or has too little to draw from.
        Drawn: these labels have an audit that was drawn in another way.
    """
    guideline = guidelines.read(config.guideline) if config.guideline else GUIDELINES[kind]
    if (there := latest(ledger, run, kind)) is not None and again is None:
        _refuse_another(run, there, _changed(ledger, there, config, seed, guideline))
        return there.id
    source = Source.of(run, kind, config.tie)
    seen = {unit.item.id for audit in ledger.audits() for _, unit in ledger.items(audit.id)}
    drawn = draw(source.candidates(), config, seed, seen)
    if drawn.population < 2:
        what = f"there is nothing to draw from: {drawn.size} items that no audit has shown yet"
        raise RunError(what, where=str(source.path), remedy="label more pairs")
    plan = Plan(
        kind=kind,
        frame_sha=drawn.frame_sha,
        frame_size=drawn.size,
        strata=drawn.strata,
        seed=seed,
        labels=stage_record(run / stage_of(kind))["digest"],
        tau=config.threshold,
        alpha=config.alpha,
        cap=min(config.cap, drawn.population),
        reviewers=config.reviewers,
        title=f"{run.name}: {'labels' if kind == 'preference' else 'critiques and revisions'}",
        guideline=guideline,
        constitution=(run / "constitution.yaml").read_text("utf-8"),
        design=_design(config, drawn, len(seen)),
    )
    chosen = units(drawn, source.items(drawn.chosen.keys()), config, seed)
    return ledger.create(plan, chosen, again if there is not None else None)


def _changed(
    ledger: Ledger, there: Audit, config: AuditConfig, seed: int, guideline: str
) -> list[str]:
    """What another draw would do in another way than the one that is there."""
    plan, design = there.plan, there.plan.design
    then = {"threshold": plan.tau, "alpha": plan.alpha, "cap": plan.cap, "seed": plan.seed}
    then |= {"reviewers": plan.reviewers, **design}
    now = config.model_dump(include=DESIGN | {"threshold", "alpha", "reviewers"})
    now |= {"seed": seed, "cap": min(config.cap, design.get("population", config.cap))}
    changed = sorted(name for name, value in now.items() if then.get(name, value) != value)
    known = {version.text for version in ledger.guidelines(there.id)}
    return changed if guideline in known else [*changed, "guideline"]


def _refuse_another(run: Path, there: Audit, changed: list[str]) -> None:
    if changed:
        kind = "" if there.plan.kind == "preference" else f" --kind {there.plan.kind}"
        raise Drawn(
            f"audit {there.id} of these labels is drawn, with another {', '.join(changed)}",
            where=str(run),
            remedy=f"go on with it: rlaif audit serve {run}; or a lead has them audited again, "
            f"which stays on record: rlaif audit sample {run}{kind} --again NAME --reason TEXT",
        )


def frame_digest(ids: Iterable[str]) -> str:
    """SHA-256 of the ids, sorted as bytes, one a line; sorted in chunks on the disk."""
    digest, chunks = hashlib.sha256(), list[BinaryIO]()
    some: list[bytes] = []
    for id in ids:
        some.append(id.encode("utf-8", "surrogatepass").replace(b"\n", b" ") + b"\n")
        if len(some) == CHUNK:
            chunks.append(_sorted(some))
            some = []
    for line in heapq.merge(sorted(some), *chunks):
        digest.update(line)
    for chunk in chunks:
        chunk.close()
    return digest.hexdigest()


def _sorted(lines: list[bytes]) -> BinaryIO:
    file = tempfile.TemporaryFile()  # noqa: SIM115  closed by the caller, who merges it
    file.writelines(sorted(lines))
    file.seek(0)
    return file


def _choose(
    chosen: dict[str, tuple[Arm, int, float]], arm: Arm, found: Iterable[Candidate], pi: float
) -> None:
    """Orders count within the arm; in the coverage arm, within the stratum."""
    for order, candidate in enumerate(found):
        chosen[candidate.id] = (arm, order, pi)


def _design(config: AuditConfig, drawn: Draw, seen: int) -> dict[str, Any]:
    covered = {name: min(n, config.per_principle) for name, n in drawn.covered.items()}
    rest = {"population": drawn.population, "labels": drawn.labels, "covered": covered}
    return config.model_dump(include=DESIGN) | rest | {"left_out_as_seen": seen}


def _hash(seed: int, purpose: str, id: str) -> int:
    told = f"{seed}/{purpose}/{id}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(told, digest_size=8).digest())
