"""Traces: from an id back to every prompt as it was sent, and to who used the answer."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlaif.cli import main
from rlaif.completions import Store, key
from rlaif.errors import DataError, RunError
from rlaif.jsonl import rows
from rlaif.records import Chain, Message, Pair, Prompt
from rlaif.trace import trace
from tests.finished_run import made


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("trace"), train=12, heldout=4)


@pytest.fixture
def store(run: Path) -> Path:
    return run.parent / "store.sqlite3"


def revised(run: Path) -> Chain:
    chains = rows(run / "critique" / "chains.jsonl", Chain)
    return next(chain for chain in chains if chain.final != chain.draft)


def test_a_prompt_is_traced_to_every_call(run: Path, store: Path) -> None:
    chain = revised(run)
    with Store(store) as opened:
        found = trace(run, chain.prompt.id, opened)
        assert found.chain == chain
        wanted = [chain.call, *(k for step in chain.steps for k in step.calls)]
        assert set(wanted) <= set(found.calls)
        assert not [sent for sent in found.calls.values() if sent.missing]
        for name in wanted:
            sent, record = found.calls[name], opened.lookup(bytes.fromhex(name))
            assert record
            assert key(sent.model, record.call).hex() == name  # the very call, and the very model
            assert [m["content"] for m in sent.messages] == [
                m.content for m in record.call.messages
            ]
            assert sent.answer == record.answer.text
    assert found.calls[chain.call].answer == chain.draft


def test_a_pair_is_traced_alone_with_its_labels(run: Path, store: Path) -> None:
    pair = next(iter(rows(run / "preferences" / "pairs.jsonl", Pair)))
    with Store(store) as opened:
        found = trace(run, pair.id[:12], opened)
    assert found.pairs == (pair,)
    for verdict in pair.verdicts:
        first, second = (found.calls[name] for name in verdict.calls)
        assert first.labels["A"] == pytest.approx(verdict.orders[0])
        assert 1 - second.labels["A"] == pytest.approx(verdict.orders[1])
        assert pair.a in first.messages[1]["content"]


def test_who_used_it_follows_the_config(run: Path) -> None:
    chain = revised(run)
    assert trace(run, chain.prompt.id).used["finetune"] == "revision learned"
    pair = next(iter(rows(run / "preferences" / "pairs.jsonl", Pair)))
    used = trace(run, pair.id).used
    assert used[f"policy {pair.id}"].startswith("trained on")
    assert used[f"reward {pair.id}"].startswith(("trained on", "measured with"))
    held_out = next(iter(rows(run / "prompts" / "heldout.jsonl", Prompt)))
    assert trace(run, held_out.id).used == {"evaluation": "held out: no training saw it"}


def test_a_label_at_the_least_margin_is_trained_on(run: Path, tmp_path: Path) -> None:
    from rlaif.jsonl import writing

    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    path = copy / "preferences" / "pairs.jsonl"
    first, second, *_ = rows(path, Pair)
    with writing(path) as write:
        write(replace(first, target=0.6))  # 0.6 - 0.5 is less than 0.1
        write(replace(second, target=0.59))
    record = json.loads((copy / "run.json").read_text("utf-8"))
    record["config"]["policy"]["min_margin"] = 0.1
    (copy / "run.json").write_text(json.dumps(record), "utf-8")
    assert trace(copy, first.id).used[f"policy {first.id}"] == "trained on, unless too long"
    assert "nearer to 0.5 than 0.1" in trace(copy, second.id).used[f"policy {second.id}"]


def test_a_held_out_prompt_shows_answers_and_wins(run: Path) -> None:
    held_out = next(iter(rows(run / "prompts" / "heldout.jsonl", Prompt)))
    found = trace(run, held_out.id)
    assert [s.model for s in found.samples] == ["seed", "finetuned", "policy"]
    assert [w.model for w in found.wins] == ["finetuned", "policy"]
    assert found.split == "heldout"


def test_a_call_that_is_gone_says_so(run: Path, store: Path, capsys: Any) -> None:
    with Store(run.parent / "empty.sqlite3") as empty:
        found = trace(run, revised(run).prompt.id, empty)
    assert {sent.missing for sent in found.calls.values()} == {"the store no longer has it"}
    assert main(["trace", str(run), found.item, "--store", str(run.parent / "none")]) == 0
    n = len(found.calls)
    assert f"{n} of {n} calls cannot be shown" in capsys.readouterr().out
    assert not (run.parent / "none").exists()


def test_an_unknown_or_ambiguous_item_names_the_nearest(run: Path) -> None:
    id = revised(run).prompt.id
    with pytest.raises(DataError, match=id):
        trace(run, id[:8] + "zzz")
    with pytest.raises(DataError, match="items begin with ''"):
        trace(run, "")
    with pytest.raises(DataError, match=r"no prompt and no pair is called '\.\./"):
        trace(run, "../../etc")
    with pytest.raises(RunError, match="not a run's folder"):
        trace(run / "critique", id)


def test_a_torn_line_is_told_at_its_place(run: Path, tmp_path: Path) -> None:
    copy, id = tmp_path / "run", revised(run).prompt.id
    shutil.copytree(run, copy)
    chains = copy / "critique" / "chains.jsonl"
    lines = chains.read_text("utf-8").splitlines()
    n = next(n for n, line in enumerate(lines) if id in line)
    lines[n] = lines[n][:-20]
    chains.write_text("\n".join(lines), "utf-8")
    with pytest.raises(DataError, match=r"chains\.jsonl:\d+: JSON is malformed") as caught:
        trace(copy, id)
    assert caught.value.where == f"{chains}:{n + 1}"


def test_the_command_prints_wording_probabilities_and_model(
    run: Path, store: Path, capsys: Any
) -> None:
    chain = revised(run)
    assert main(["trace", str(run), chain.prompt.id[:9], "--store", str(store)]) == 0
    out = capsys.readouterr().out
    step = next(s for s in chain.steps if not s.skipped)
    assert f"round {step.round}: {step.principle}" in out
    assert "Critique request:" in out
    assert "to sha256:start" in out
    assert "revision learned" in out
    assert main(["trace", str(run), chain.prompt.id, "--store", str(store), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["chain"]["draft"] == chain.draft
    assert told["calls"][chain.call]["messages"][0]["role"] == "user"


def test_no_control_character_reaches_the_terminal(run: Path, tmp_path: Path, capsys: Any) -> None:
    import msgspec

    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    id = "\x1b[2J"
    hostile = Prompt(id, (Message("user", "\x1b]0;owned\x07 <b>\u202e"),))
    row = msgspec.json.encode(Chain(hostile, "draft \x1b[31m"))
    (copy / "critique" / "chains.jsonl").write_bytes(row + b"\n")
    (copy / "prompts" / "train.jsonl").write_bytes(msgspec.json.encode(hostile) + b"\n")
    assert main(["trace", str(copy), id]) == 0
    out = capsys.readouterr().out
    assert "owned" in out
    assert not {"\x1b", "\x07", "\u202e"} & set(out)
