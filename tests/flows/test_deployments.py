"""Deployments on a real Prefect server and worker: triggered, refused, gated, restarted."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from rlaif.stages import OPTIONAL, STAGES, stage_record
from tests.flows.serving import ROOT, Box, until

pytestmark = pytest.mark.timeout(1500)
PARTS = {
    "pipeline": "report",
    "feedback": "preferences",
    "training": "report",
    "evaluation": "evaluation",
}


# --- what one may ask ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARTS)
def test_the_form_has_a_description_a_type_and_limits_for_each_field(up: Box, name: str) -> None:
    found = up.deployment(f"rlaif/{name}")
    assert found["enforce_parameter_schema"]
    assert found["description"]
    assert "rlaif" in found["tags"]
    assert found["parameters"] == {"until": PARTS[name], "runs": str(up.runs)}
    fields = found["parameter_openapi_schema"]["properties"]
    assert all(field["description"] for field in fields.values())
    assert all("type" in field or "anyOf" in field for field in fields.values())
    kinds = {field["type"] for field in fields.values() if "type" in field}
    assert kinds <= {"string", "integer", "boolean"}  # flat: nothing nested to lose
    assert sorted(fields["until"]["enum"]) == sorted((*STAGES, *OPTIONAL))
    assert {"dpo", "kto"} <= set(fields["policy"]["enum"])
    assert fields["name"]["type"] == "string"  # a plain field, not one to unfold
    assert fields["name"]["default"] == ""
    assert fields["rounds"]["anyOf"][0] == {"minimum": 0, "maximum": 64, "type": "integer"}
    assert fields["rounds"]["default"] is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rounds": 99}, "field 'rounds'.*99 is greater than the maximum of 64"),
        ({"policy": "dpoo"}, "'dpoo' is not one of .*'dpo'"),
        ({"changes": ["beta"]}, r"'changes\[0\]'.*'beta' does not match"),
        ({"name": "../x"}, "'../x'"),
        ({"promts": 3}, "'promts' was unexpected"),
    ],
)
def test_a_bad_parameter_makes_no_run(up: Box, wrong: dict, said: str) -> None:
    assert re.search(said, up.refused("rlaif/pipeline", **wrong))


def test_a_second_server_in_the_same_folder_is_refused(up: Box) -> None:
    command = [sys.executable, "-m", "flows.serve", "--home", str(up.home), "--port", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"a server is up already, at http://127.0.0.1:{up.port}" in done.stderr


def test_a_taken_port_is_an_error_with_a_remedy(up: Box, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flows.serve", "--home", str(tmp_path), "--port", str(up.port)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"port {up.port} is taken" in done.stderr
    assert "make server ARGS=" in done.stderr


# --- runs ---------------------------------------------------------------------------------------


def test_a_config_that_cannot_be_used_is_refused_from_the_command_line(up: Box) -> None:
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deployment", "run"]
    command += ["rlaif/training", "--watch", "-p", f"config_file={up.config}"]
    command += ["-p", 'changes=["policy.betta=1"]', "-p", f"runs={up.runs}", "-p", "name=wrong"]
    done = subprocess.run(command, env=up.environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    newest = up.api("POST", "/flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 1})
    assert newest[0]["state_name"] == "Refused"
    assert (
        "the key 'betta' is unknown\n  remedy: did you mean `beta`?"
        in newest[0]["state"]["message"]
    )
    assert not (up.runs / "wrong").exists()


def test_a_run_stops_at_the_gate_and_shows_what_it_did(up: Box, waiting: str) -> None:
    run = up.flow_run(waiting)
    assert run["name"] == "small · sandbox@1 · sandbox"
    assert "rlaif audit serve" in run["state"]["message"]
    assert (up.runs / "small" / "preferences").is_dir()
    assert not (up.runs / "small" / "policy").exists()
    assert up.artifacts("plan-small")
    assert up.artifacts("labels-small")
    assert up.artifacts("finetune-curve-small")
    reviews = f"http://127.0.0.1:{up.port + 1}/small/review"
    assert f"({reviews})" in up.artifacts("review-small")[0]["data"]
    with urlopen(reviews, timeout=30) as page:
        assert f"rlaif audit serve {up.runs / 'small'}".encode() in page.read()
    until(lambda: "critique: reused" in up.logs(waiting))


def test_a_terminal_waits_for_the_accelerator_and_says_so(up: Box, waiting: str) -> None:
    """Another run trains: who starts one beside it is told so, and Ctrl-C ends the waiting."""
    assert waiting
    held = {"names": ["rlaif-accelerator"], "slots": 1, "lease_duration": 600}
    lease = up.api("POST", "/v2/concurrency_limits/increment-with-lease", held)
    command = [sys.executable, "-m", "rlaif", "run", str(up.config), "--runs", str(up.runs)]
    with (up.folder / "waits.log").open("wb") as log:
        run = subprocess.Popen(command, env=up.environment, cwd=ROOT, stderr=log, stdout=log)
    try:
        until(lambda: b"waits for rlaif-accelerator" in (up.folder / "waits.log").read_bytes())
        run.send_signal(signal.SIGINT)
        assert run.wait(60) == 130
        assert b"failed to process" not in (up.folder / "waits.log").read_bytes()  # Prefect's own
    finally:
        run.kill()
        run.wait()
        given = {"lease_id": lease["lease_id"]}
        up.api("POST", "/v2/concurrency_limits/decrement-with-lease", given)


def test_an_edit_starts_a_rebuild_which_waits_for_a_person(up: Box, waiting: str) -> None:
    law = up.law.read_text("utf-8")
    up.law.write_text(law.replace("Pick the response", "Choose the response", 1), "utf-8")
    by_itself = until(lambda: _named(up, "COMPLETED", "NothingToDo"))  # its config has another law
    assert by_itself
    assert by_itself["parameters"]["constitution"] == str(up.law)
    asked = up.trigger("rlaif-rebuild/rebuild", constitution=str(up.law))
    assert up.ended(asked, "PAUSED", "FAILED")["state_name"] == "Suspended"
    plan = json.loads(up.artifacts("plan-small-")[0]["data"])
    assert {row["stage"]: row["state"] for row in plan}["critique"] == "to do"
    assert _resumed(up, asked, {})["status"] == "REJECT"  # no answer is no approval
    answer = {"decision": "leave", "by": "Lea", "why": "not today"}
    assert _resumed(up, asked, answer)["status"] == "ACCEPT"
    assert up.ended(asked)["state_name"] == "LeftAsItIs"
    until(lambda: "leave by Lea: not today" in up.logs(asked))


def test_a_tripwire_has_a_sample_drawn(up: Box, waiting: str) -> None:
    assert waiting
    run = up.runs / "small"
    up.api.emit("rlaif.tripwire", "rlaif.run.small", run=str(run), doubts=["a rehearsal"])
    drawn = until(lambda: _named(up, "COMPLETED", "Drawn"))
    assert drawn["name"] == "audit-sample small"
    assert f"rlaif audit serve {run}" in up.flow_run(drawn["id"])["state"]["message"]


def test_verdicts_given_elsewhere_come_in_once(up: Box, waiting: str) -> None:
    assert waiting
    run, told = up.runs / "small", up.folder / "told.jsonl"
    verdict = {"number": 1, "reviewer": "Ada", "verdict": "a"}
    told.write_text(json.dumps(verdict) + "\n", "utf-8")
    said = []
    for _ in range(2):
        done = up.ended(up.trigger("rlaif-audit-import/audit-import", run=str(run), file=str(told)))
        assert done["state_name"] == "Imported", done["state"]["message"]
        said.append(done["state"]["message"])
    assert said == [
        "1 verdicts added, 0 were there already",
        "0 verdicts added, 1 were there already",
    ]
    told.write_text(json.dumps(verdict | {"number": 10_000}) + "\n", "utf-8")
    wrong = up.ended(up.trigger("rlaif-audit-import/audit-import", run=str(run), file=str(told)))
    assert wrong["state_name"] == "BadData"
    assert f"{told}, row 1" in wrong["state"]["message"]


def _named(up: Box, type: str, name: str) -> dict[str, Any] | None:
    return next((r for r in up.api.runs(type) if r["state_name"] == name), None)


def _resumed(up: Box, id: str, answer: dict[str, str]) -> dict[str, Any]:
    until(lambda: up.flow_run(id)["state_name"] == "Suspended")
    return up.api("POST", f"/flow_runs/{id}/resume", {"run_input": answer})


@pytest.mark.slow
def test_training_goes_on_by_itself_after_a_restart_of_everything(
    up: Box, trained: dict[str, Any]
) -> None:
    run = up.runs / "small"
    assert trained["state_name"] == "Completed", trained["state"]["message"]
    assert (run / "report" / "index.html").is_file()
    assert not (run / "awaiting.json").exists()
    assert stage_record(run / "policy")["made_from"]["section"]["beta"] == 0.07  # what waited
    assert trained["parameters"]["shards"] == 1
    until(lambda: "a rehearsal: nothing is released" in up.logs(trained["id"]))
    assert up.artifacts("evaluation-small")
    link = f"http://127.0.0.1:{up.port + 1}/small/report/index.html"
    assert link in up.artifacts("report-small")[0]["data"]
    with urlopen(link, timeout=30) as page:
        assert b"<svg" in page.read()
    with pytest.raises(HTTPError, match="404"):
        urlopen(link.replace("report/index.html", "run.json"), timeout=30)
