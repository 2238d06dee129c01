"""A competition that is held: who may send when, what counts, and what the organizer can do."""

import csv
import io
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from benchmarks.competition_day import scores_by_evaluate
from lookalike.competition import serve as serving
from lookalike.competition.access import PASSWORD
from lookalike.competition.board import Board
from lookalike.competition.clock import Clock
from lookalike.competition.competition import main
from lookalike.competition.judge import Judge
from lookalike.competition.serve import back_up, make_server, store_of
from lookalike.competition.settings import ServeCommand
from lookalike.competition.standings import rank_teams
from lookalike.competition.store import Quota, Store, Submission, Team
from lookalike.core.errors import UserError
from lookalike.core.files import only_process
from lookalike.leaderboard.submit import main as submit
from tests.competition.conftest import (
    GALLERY,
    LABELS,
    NOW,
    SECRET,
    Serve,
    form_secret,
    submission,
)

Token = Callable[[str], str]


def at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


# ---- sending ------------------------------------------------------------------------------------


def test_a_team_sends_with_its_token_and_sees_where_it_stands(serve: Serve, token: Token) -> None:
    ours, theirs = token("us"), token("they")
    served = serve()
    first = served.send(ours, submission(50)).json()
    assert first["rank"] == 1 and first["left"] == {"hour": 19, "day": 49}
    assert first["accuracy"] % 100 == 0, "of 30 public queries, in steps of two, rounded up"
    served.send(theirs, submission(100))
    second = served.send(ours, submission(10)).json()
    assert second["rank"] == 2 and second["best"] == first["accuracy"]
    assert [place[0] for place in served.ranking()] == ["they", "us"]


def test_without_a_token_nothing_is_taken(serve: Serve, token: Token) -> None:
    token("us")
    served = serve()
    assert served.send(None, submission(1)).status_code == 401
    reply = served.send("x" * 32, submission(1))
    assert reply.status_code == 401 and reply.headers["WWW-Authenticate"].lower() == "bearer"
    assert "Authorization: Bearer" in served.send(None, submission(1)).json()["error"]
    assert served.ranking() == []


def test_a_groupname_of_another_team_is_refused(serve: Serve, token: Token) -> None:
    ours, _ = token("us"), token("they")
    served = serve()
    reply = requests.post(
        f"{served.url}retrieval/",
        json={"groupname": "they", "images": submission(1)},
        headers={"Authorization": f"Bearer {ours}"},
        timeout=30,
    )
    assert reply.status_code == 400 and "'us'" in reply.json()["error"]


def test_the_same_file_counts_once_however_often_it_is_sent(serve: Serve, token: Token) -> None:
    ours = token("us")
    served = serve(per_hour=2)
    with ThreadPoolExecutor(8) as pool:
        replies = [*pool.map(lambda _: served.send(ours, submission(30)).json(), range(8))]
    assert len({reply["submission"] for reply in replies}) == 1
    assert [reply["sent_before"] for reply in replies].count(False) == 1
    assert served.ranking()[0][2] == 1
    assert served.send(ours, submission(31)).json()["left"]["hour"] == 0
    assert served.send(ours, submission(30)).ok, "an answer that was lost can be asked for again"


def test_quotas_hold_for_posts_at_once_and_end_in_time(serve: Serve, token: Token) -> None:
    ours = token("us")
    served = serve(per_hour=3, per_day=5)

    def codes(first: int, number: int) -> list[int]:
        with ThreadPoolExecutor(number) as pool:
            tried = range(first, first + number)
            sent = pool.map(lambda i: served.send(ours, submission(i)), tried)
            return sorted(reply.status_code for reply in sent)

    assert codes(0, 9) == [200] * 3 + [429] * 6
    reply = served.send(ours, submission(50))
    assert "3 times within an hour; again in 60 minutes" in reply.json()["error"]
    assert 3590 <= int(reply.headers["Retry-After"]) <= 3601
    served = serve(per_hour=3, per_day=5, wall=[NOW + 3601])
    assert codes(20, 4) == [200] * 2 + [429] * 2
    assert "5 times within a day" in served.send(ours, submission(51)).json()["error"]
    served = serve(per_hour=3, per_day=5, wall=[NOW + 86_401])
    assert served.send(ours, submission(52)).ok


def test_a_refused_file_uses_up_no_quota(serve: Serve, token: Token) -> None:
    ours = token("us")
    served = serve(per_hour=1)
    lacking = dict(list(submission(5).items())[1:])
    reply = served.send(ours, lacking)
    assert reply.status_code == 422 and "'q000.jpg'" in reply.json()["error"]
    assert served.send(ours, submission(5)).ok


def test_nothing_is_taken_before_the_opening_and_after_the_closing(
    serve: Serve, token: Token
) -> None:
    ours = token("us")
    hours = {"opens": at(NOW), "closes": at(NOW + 7200)}
    early = serve(wall=[NOW - 60], **hours).send(ours, submission(1))
    assert early.status_code == 403 and "opens at" in early.json()["error"]
    assert serve(wall=[NOW + 60]).send(ours, submission(1)).ok, "the times are remembered"
    served = serve(wall=[NOW + 7200])
    late = served.send(ours, submission(2))
    assert late.status_code == 403 and "closed at" in late.json()["error"]
    assert served.send(ours, submission(1)).json()["sent_before"] is True


def test_what_arrived_in_time_counts_however_long_it_waits(
    serve: Serve, token: Token, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = token("us")
    served = serve(closes=at(NOW + 2))
    busy, judged = threading.Event(), Judge.score

    def slow(self: Judge, *args: Any) -> Any:
        busy.set()
        threading.Event().wait(2.5)
        return judged(self, *args)

    monkeypatch.setattr(Judge, "score", slow)
    with ThreadPoolExecutor(12) as pool:  # more than the threads of the server
        sent = [pool.submit(served.send, ours, submission(i)) for i in range(12)]
        assert {one.result().status_code for one in sent} == {200}
    assert served.send(ours, submission(99)).status_code == 403


def test_a_clock_that_jumps_moves_no_closing(serve: Serve, token: Token) -> None:
    ours, wall = token("us"), [NOW]
    served = serve(wall=wall, closes=at(NOW + 3600))
    wall.append(NOW + 86_400)
    assert served.send(ours, submission(1)).ok
    wall.append(NOW - 86_400)
    assert served.send(ours, submission(2)).ok


def test_a_clock_that_went_back_before_a_start_is_said(
    serve: Serve, token: Token, caplog: pytest.LogCaptureFixture
) -> None:
    ours = token("us")
    served = serve(per_hour=1)
    served.send(ours, submission(1))
    with caplog.at_level("WARNING"):
        served = serve(per_hour=1, wall=[NOW - 7200])
    assert "clock is 7200 s behind" in caplog.text
    assert served.send(ours, submission(2)).ok, "what a wrong clock kept locks nobody out"


def test_an_open_competition_takes_names_and_keeps_those_of_teams(
    serve: Serve, token: Token
) -> None:
    token("us")
    served = serve(open=True)

    def post(name: str, lists: Any) -> requests.Response:
        body = {"groupname": name, "images": lists}
        return requests.post(f"{served.url}retrieval/", json=body, timeout=30)

    assert post("they", submission(1)).ok and post("THEY", submission(2)).ok
    assert "with its token" in post("us", submission(1)).json()["error"]
    assert post("nobody", {}).status_code == 422
    assert [(place[0], place[2]) for place in served.ranking()] == [("they", 2)]
    with sqlite3.connect(store_of(Path("friday")).path) as database:
        assert database.execute("SELECT name FROM teams ORDER BY id").fetchall() == [
            ("us",),
            ("they",),
        ]


# ---- what counts --------------------------------------------------------------------------------


def test_the_private_ranking_is_that_of_evaluate(serve: Serve, token: Token, folder: Path) -> None:
    served, best = serve(), {}
    for team in range(4):
        secret, tries = token(f"team {team}"), []
        for number in (10 * team, 10 * team + 35, 60 - 15 * team):
            assert served.send(secret, submission(number, team)).ok
            tries.append(scores_by_evaluate(folder, submission(number, team)))
        best[f"team {team}"] = max(tries, key=lambda scores: scores[0])[1]
    shown = [score for _, score, _ in served.ranking()]
    assert shown != sorted(best.values(), reverse=True), "the public ranking is another one"
    served.act("close-now")
    final = {team: score for team, score, _ in served.ranking()}
    assert final == pytest.approx(best)
    assert [*final.values()] == sorted(best.values(), reverse=True)
    assert main(["results", str(folder), "--out", "results"]) == 0
    with Path("results/ranking.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["team"]: float(row["private"]) for row in rows} == pytest.approx(best)
    for row in rows:  # whoever doubts it scores the files again
        lists = json.loads(Path(f"results/submissions/{row['submission']}.json").read_text())
        scores = scores_by_evaluate(folder, lists)
        assert scores == pytest.approx((float(row["public"]), float(row["private"])))


def test_ties_are_ranked_by_time(serve: Serve, token: Token) -> None:
    teams = {name: token(name) for name in ("one", "two", "three")}
    served = serve()
    for name in ("two", "three", "one"):
        served.send(teams[name], submission(0, ["two", "three", "one"].index(name)))
    assert [place[0] for place in served.ranking()] == ["two", "three", "one"]


def test_a_solution_that_was_corrected_scores_everything_anew(
    serve: Serve, token: Token, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours = token("us")
    served = serve()
    served.send(ours, submission(100))
    solution = folder / "organizer" / "solution.csv"
    text = solution.read_text()
    for number in range(0, 100, 20):
        text = text.replace(f"q{number:03}.jpg,person00", f"q{number:03}.jpg,person01")
    solution.write_text(text)
    with caplog.at_level("INFO"):
        served = serve()
    assert "scoring 1 submissions anew" in caplog.text
    store = store_of(folder)
    (one,) = store.submissions()
    judge = Judge.of_folder(folder, "score", None)
    assert one.public == judge.score(submission(100), "").public < 1000


def test_a_solution_of_other_pictures_is_refused(serve: Serve, token: Token, folder: Path) -> None:
    ours = token("us")
    serve().send(ours, submission(3))
    solution = folder / "organizer" / "solution.csv"
    solution.write_text(solution.read_text().replace("q000.jpg", "other.jpg"))
    with pytest.raises(UserError, match=r"submission 1 does not fit the solution.*other\.jpg"):
        make_server(ServeCommand(folder, port=0))


# ---- the organizer ------------------------------------------------------------------------------


def test_the_organizer_sees_everything_and_nobody_else_does(serve: Serve, token: Token) -> None:
    ours = token("us")
    served = serve()
    served.send(ours, submission(40))
    page = served.organizer().get(f"{served.url}organizer", timeout=30).text
    assert "us" in page and "Private ranking" in page
    stranger = requests.Session()
    for path in ("organizer", "organizer/ranking.csv", "organizer/audit.csv"):
        reply = stranger.get(f"{served.url}{path}", timeout=30)
        assert reply.url.endswith("/organizer/sign-in") and "Private" not in reply.text
    team = requests.Session()
    served.post(team, "sign-in", token=ours)
    assert team.get(f"{served.url}organizer", timeout=30).url.endswith("/organizer/sign-in")


def test_a_frozen_ranking_stands_still_and_its_teams_go_on(serve: Serve, token: Token) -> None:
    ours, theirs = token("us"), token("they")
    served = serve()
    served.send(ours, submission(60))
    served.act("freeze", 1)
    reply = served.send(theirs, submission(100)).json()
    assert reply["rank"] is None and reply["best"] == 1000
    assert [place[0] for place in served.ranking()] == ["us"]
    served.act("freeze")
    assert [place[0] for place in served.ranking()] == ["they", "us"]


def test_what_is_withdrawn_does_not_count_until_it_is_restored(serve: Serve, token: Token) -> None:
    ours, theirs = token("us"), token("they")
    served = serve()
    served.send(ours, submission(100))
    served.send(ours, submission(20))
    served.send(theirs, submission(60))
    assert [place[0] for place in served.ranking()] == ["us", "they"]
    served.act("withdraw-submission", 1)
    assert [place[0] for place in served.ranking()] == ["they", "us"]
    served.act("withdraw-team", 2)
    assert [place[0] for place in served.ranking()] == ["us"]
    served.act("restore-submission", 1)
    served.act("restore-team", 2)
    assert served.ranking()[0][1] == 1000 and len(served.ranking()) == 2
    assert "no number 99" in served.act("withdraw-team", 99).text


def test_the_final_ranking_can_be_held_back(serve: Serve, token: Token) -> None:
    ours = token("us")
    served = serve()
    served.send(ours, submission(65))
    given = served.ranking()
    served.act("hold", 1)
    served.act("close-now")
    assert served.ranking() == given
    assert "still to come" in requests.get(served.url, timeout=30).text
    served.act("hold")
    assert served.ranking() != given
    assert "final ranking" in requests.get(served.url, timeout=30).text


def test_the_closing_can_be_moved(serve: Serve, token: Token) -> None:
    ours = token("us")
    served = serve()
    assert "use Close now" in served.act("closes", "2026-01-01T10:00:00").text, "a slip"
    assert served.send(ours, submission(1)).ok
    served.act("close-now")
    assert served.send(ours, submission(2)).status_code == 403
    served.act("closes", "2036-01-01T10:00:00")
    assert served.send(ours, submission(2)).ok
    assert "not before" in served.act("opens", "2037-01-01T10:00:00").text
    assert "write it like" in served.act("closes", "tomorrow").text
    served.act("closes", "")
    assert "<b>Open</b>" in requests.get(served.url, timeout=30).text


def test_the_same_command_does_not_undo_what_the_organizer_has_changed(
    serve: Serve, token: Token
) -> None:
    ours, closing = token("us"), at(NOW + 60)
    served = serve(closes=closing)
    served.act("closes", "2036-01-01T10:00:00")
    served = serve(closes=closing, wall=[NOW + 120])  # after a crash, say
    assert served.send(ours, submission(1)).ok
    served = serve(closes=at(NOW + 90), wall=[NOW + 120])
    assert served.send(ours, submission(2)).status_code == 403


def test_what_cannot_start_changes_nothing(serve: Serve, folder: Path, token: Token) -> None:
    token("us")
    serve(closes=at(NOW + 60))
    before = store_of(folder).state()
    with pytest.raises(UserError, match="not before"):
        make_server(ServeCommand(folder, port=0, opens="2037-01-01", closes="2036-01-01"))
    assert store_of(folder).state() == before


def test_a_second_server_of_a_competition_does_not_start(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with only_process(folder / "organizer" / ".serving.lock", "it"):
        assert main(["serve", str(folder), "--metric", "mrr", "--closes", "2020-01-01"]) == 1
    assert "another process works on" in capsys.readouterr().err
    assert not (folder / "organizer" / "competition.sqlite").exists()


def test_the_metric_is_remembered_and_another_one_scores_anew(
    serve: Serve, token: Token, folder: Path
) -> None:
    ours = token("us")
    assert serve(metric="mrr@2", k=10).send(ours, submission(100)).json()["accuracy"] <= 1
    served = serve()
    assert served.send(ours, submission(90)).json()["accuracy"] <= 1
    served = serve(metric="score")
    assert served.ranking()[0][1] == 1000
    with pytest.raises(UserError, match=r"submission 1 does not fit .*--metric or --k"):
        make_server(ServeCommand(folder, port=0, k=3))
    assert serve().ranking()[0][1] == 1000, "and nothing was changed by that"


def test_a_competition_that_closed_before_its_opening_can_be_started_again(
    serve: Serve, token: Token
) -> None:
    token("us")
    served = serve(opens=at(NOW + 3600))
    served.act("close-now")
    assert "Closed" in requests.get(serve(wall=[NOW + 60]).url, timeout=30).text


def test_the_best_of_a_team_is_at_the_end_what_counts(serve: Serve, token: Token) -> None:
    ours = token("us")
    served, session = serve(), requests.Session()
    served.post(session, "sign-in", token=ours)
    for number in (41, 44, 42):
        served.send(ours, submission(number))
    served.act("close-now")
    page = session.get(f"{served.url}team", timeout=30).text
    row = next(row for row in page.split("<tr") if "<b>best</b>" in row)
    final = served.ranking()[0][1]
    assert f">{final:.1f}<" in row


def test_ties_go_to_what_arrived_first_and_not_to_what_was_scored_first(folder: Path) -> None:
    one, two = (Team(i, f"team {i}", None, 0.0, 0) for i in (1, 2))
    late = Submission(1, 1, 20.0, "a", 500.0, 500.0, 500.0, 0)
    early = Submission(2, 2, 10.0, "b", 500.0, 500.0, 500.0, 0)
    assert [place.team for place in rank_teams([one, two], [late, early])] == ["team 2", "team 1"]


def test_a_database_that_is_gone_is_not_begun_anew_beside_its_backups(
    serve: Serve, token: Token, folder: Path
) -> None:
    token("us")
    serve()
    store = store_of(folder)
    copy = back_up(store, NOW)
    store.path.unlink()
    with pytest.raises(UserError, match="backups of it are there"):
        store_of(folder)
    assert copy is not None
    copy.rename(store.path)
    assert [team.name for team in store_of(folder).teams()] == ["us"]


def test_a_new_token_ends_the_old_one_and_its_sessions(serve: Serve, token: Token) -> None:
    ours = token("us")
    served = serve()
    team = requests.Session()
    served.post(team, "sign-in", token=ours)
    assert "<h1>us</h1>" in team.get(f"{served.url}team", timeout=30).text
    page = served.act("new-token", 1).text
    fresh = page.partition('id="token">')[2].partition("<")[0]
    assert served.send(ours, submission(1)).status_code == 401
    assert served.send(fresh, submission(1)).ok
    assert team.get(f"{served.url}team", timeout=30).url.endswith("/sign-in")


def test_teams_sign_up_with_the_join_code(serve: Serve, folder: Path) -> None:
    served = serve()
    code = store_of(folder).state()["join_code"]
    team = requests.Session()
    page = served.post(team, "join", name="the A team", code=code).text
    assert "this once" in page
    fresh = page.partition('id="token">')[2].partition("<")[0]
    assert served.send(fresh, submission(1)).ok
    wrong = served.post(requests.Session(), "join", name="they", code="guess")
    assert wrong.status_code == 403 and "not the join code" in wrong.text
    taken = served.post(requests.Session(), "join", name="The \u0391 Team", code=code)
    assert taken.status_code == 422
    served.act("join-code")
    ended = served.post(requests.Session(), "join", name="late", code=code)
    assert ended.status_code == 403


def test_the_tables_hold_what_was_done_and_run_in_no_spreadsheet(
    serve: Serve, token: Token
) -> None:
    ours = token("=HYPERLINK(1)")
    served = serve()
    served.send(ours, submission(60))
    session = served.organizer()

    def rows(name: str) -> list[dict[str, str]]:
        reply = session.get(f"{served.url}organizer/{name}.csv", timeout=30)
        assert reply.headers["Content-Type"].startswith("text/csv")
        return list(csv.DictReader(io.StringIO(reply.text)))

    assert rows("ranking")[0]["team"] == "'=HYPERLINK(1)"
    assert rows("submissions")[0]["given"] and rows("teams")[0]["number"] == "1"
    assert [row["what"] for row in rows("audit")][-1] == "signed in"
    assert session.get(f"{served.url}organizer/secret.csv", timeout=30).status_code == 404


# ---- pages --------------------------------------------------------------------------------------


def test_a_team_uploads_by_form_and_reads_what_is_wrong(serve: Serve, token: Token) -> None:
    ours = token("us")
    served, session = serve(), requests.Session()
    assert served.post(session, "sign-in", token="guess").status_code == 403
    assert served.post(session, "sign-in", token=f" {ours} ").url.endswith("/team")

    def upload(name: str, content: str | bytes) -> requests.Response:
        return served.post(session, "team", files={"file": (name, content)})

    assert "Submission 1 is in" in upload("s.json", json.dumps(submission(70))).text
    again = upload("s.json", json.dumps(submission(70))).text
    assert "does not count again" in again
    rows = [f"{query},{' '.join(names)}" for query, names in submission(9).items()]
    as_csv = "\n".join(["id,images", *rows])
    assert "Submission 2 is in" in upload("s.csv", as_csv).text
    for content, problem in (
        (b"\xff\xfe", "not text in UTF-8"),
        ("{", "the file"),
        (json.dumps({"q000.jpg": GALLERY[:10]}), "queries that are missing (99)"),
    ):
        reply = upload("s.json", content)
        assert reply.status_code == 422 and problem in reply.text
        assert 'role="alert"' in reply.text
    assert "choose a file" in served.post(session, "team").text
    assert "18 more within an hour" in upload("s.json", "{").text


def test_a_form_without_its_secret_does_nothing(serve: Serve, token: Token) -> None:
    ours = token("us")
    served, session = serve(), requests.Session()
    served.post(session, "sign-in", token=ours)
    files = {"file": ("s.json", json.dumps(submission(1)))}
    for form in ({}, {"form": ""}, {"form": "forged"}):
        reply = session.post(f"{served.url}team", data=form, files=files, timeout=30)
        assert reply.status_code == 403 and "expired" in reply.text
    assert served.ranking() == []
    organizer = served.organizer()
    reply = organizer.post(f"{served.url}organizer", data={"action": "close-now"}, timeout=30)
    assert reply.status_code == 403 and served.send(ours, submission(1)).ok


def test_cookies_are_no_ones_but_the_servers(serve: Serve, token: Token) -> None:
    ours = token("us")
    served, session = serve(), requests.Session()
    served.post(session, "sign-in", token=ours)
    cookie: Any = next(iter(session.cookies))
    assert cookie.has_nonstandard_attr("HttpOnly") and not cookie.secure
    assert cookie.get_nonstandard_attr("SameSite") == "Lax"
    assert not requests.get(served.url, timeout=30).cookies, "none to read only"


# ---- what is kept -------------------------------------------------------------------------------


def test_what_was_kept_survives_a_restart(serve: Serve, token: Token) -> None:
    ours = token("us")
    served = serve(closes=at(NOW + 3600))
    session = requests.Session()
    served.post(session, "sign-in", token=ours)
    served.send(ours, submission(80))
    before, cookies = served.ranking(), session.cookies.get_dict()
    served = serve()
    assert served.ranking() == before
    page = requests.get(f"{served.url}team", cookies=cookies, timeout=30).text
    assert "<h1>us</h1>" in page and "data-seconds" in page


def test_a_file_that_is_gone_or_full_is_an_answer_and_nothing_counts(
    serve: Serve, token: Token, folder: Path
) -> None:
    ours = token("us")
    served = serve()
    path = store_of(folder).path
    path.rename(path.with_suffix(".away"))
    reply = served.send(ours, submission(1))
    assert reply.status_code == 503 and "try again later" in reply.json()["error"]
    assert not path.exists(), "it is not begun anew in silence"
    assert requests.get(served.url, timeout=30).status_code == 503
    path.with_suffix(".away").rename(path)
    assert served.send(ours, submission(1)).json()["submission"] == 1


def test_backups_are_made_while_it_runs_and_the_oldest_go(
    serve: Serve, token: Token, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "BACKUPS", 3)
    ours = token("us")
    served = serve()
    served.send(ours, submission(1))
    made = [back_up(store_of(folder), NOW + i) for i in range(5)]
    kept = sorted((folder / "organizer" / "backups").iterdir())
    assert kept == made[2:]
    assert [one.team for one in Store(kept[-1]).submissions()] == [1]


def test_a_server_that_is_told_to_stop_makes_a_last_backup(folder: Path) -> None:
    words = [sys.executable, "-m", "lookalike", "competition", "serve", str(folder), "--port", "0"]
    root = str(Path(serving.__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root, PASSWORD: SECRET}
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        url = process.stderr.readline().removeprefix("ranking: ").strip()
        assert requests.get(url, timeout=30).ok, "it runs"
        process.terminate()
        assert process.wait(30) == 0
    assert len(list((folder / "organizer" / "backups").iterdir())) == 1


def test_a_damaged_file_is_a_sentence(folder: Path, serve: Serve) -> None:
    path = folder / "organizer" / "competition.sqlite"
    path.write_bytes(b"nothing" * 500)
    with pytest.raises(UserError, match=r"the newest of .*backups"):
        serve()


def test_tokens_and_the_password_are_nowhere_on_the_disk(
    serve: Serve, token: Token, folder: Path
) -> None:
    ours = token("us")
    served = serve()
    served.send(ours, submission(1))
    served.organizer()
    kept = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert ours.encode() not in kept and SECRET.encode() not in kept


def test_submit_send_takes_the_token_and_says_where_one_stands(
    serve: Serve,
    token: Token,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = token("us")
    served = serve(per_hour=3)
    Path("s.json").write_text(json.dumps(submission(60)))
    Path(".netrc").write_text("machine 127.0.0.1 login me password mine")
    monkeypatch.setenv("NETRC", str(Path(".netrc").resolve()))  # it must not replace the token
    words = ["send", "s.json", "--labels", str(folder / "organizer" / "solution.csv")]
    words += ["--url", f"{served.url}retrieval/"]
    monkeypatch.setenv("LEADERBOARD_TOKEN", ours)
    assert submit(words) == 0
    assert "; rank 1, best " in (said := capsys.readouterr().err)
    assert "2 left within the hour, 49 left within the day" in said
    assert submit([*words, "--again"]) == 0
    assert "sent before: it does not count again" in capsys.readouterr().err
    assert submit(["history"]) == 0
    assert "scored (rank 1, best" in capsys.readouterr().out
    assert ours not in Path("runs/submissions.csv").read_text()
    assert submit([*words, "--again", "--token", "x" * 32]) == 1
    assert "no team has this token" in capsys.readouterr().err


# ---- the commands -------------------------------------------------------------------------------


def test_teams_are_added_by_a_command_all_or_none(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["teams", str(folder), "--add", "us", "they"]) == 0
    tokens = [line.split()[-1] for line in capsys.readouterr().out.splitlines()[2:]]
    assert len(set(tokens)) == 2 and all(len(token) == 32 for token in tokens)
    assert main(["teams", str(folder), "--add", "the new team", "THE-NEW-TEAM"]) == 1
    assert "looks like that" in capsys.readouterr().err
    assert main(["teams", str(folder), "--add", "new", "us"]) == 1
    assert "'us' already" in capsys.readouterr().err
    assert main(["teams", str(folder)]) == 0
    assert "new" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["serve", "nowhere"], "no organizer/solution.csv"),
        (["teams", "nowhere"], "no organizer/solution.csv"),
        (["results", "nowhere"], "no organizer/solution.csv"),
        (["serve", "friday", "--closes", "noon"], "write it like"),
        (["serve", "friday", "--opens", "2026-01-02", "--closes", "2026-01-01"], "not before"),
        (["serve", "friday", "--metric", "magic"], "magic"),
        (["serve", "friday", "--host", "999.1.1.1"], "cannot listen"),
        (["serve", "friday", "--proxy", "localhost"], "name its address"),
        (["results", "friday", "--out", "friday"], "is there already"),
    ],
)
def test_mistakes_are_sentences(
    folder: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 1
    assert said in capsys.readouterr().err


def test_a_short_password_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD, "short")
    with pytest.raises(UserError, match="at least 12"):
        make_server(ServeCommand(folder, port=0))


def test_a_password_is_made_and_shown_where_none_is_set(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(PASSWORD, raising=False)
    with caplog.at_level("INFO"):
        make_server(ServeCommand(folder, port=0)).close()
    assert "password: " in caplog.text and "join code: " in caplog.text


def test_labels_without_parts_are_public_and_final(folder: Path) -> None:
    solution = folder / "organizer" / "solution.csv"
    lines = [line.rpartition(",")[0] for line in solution.read_text().splitlines()]
    solution.write_text("\n".join(lines))
    board = Board(
        store_of(folder), Judge.of_folder(folder, "score", None), Clock(lambda: NOW), Quota()
    )
    scores = board.judge.score(submission(40), "")
    assert scores.public == scores.private
    assert board.judge.public == set(LABELS.query)


def test_the_form_secret_is_found() -> None:
    assert form_secret('<input name="form" value="abc">') == "abc"
