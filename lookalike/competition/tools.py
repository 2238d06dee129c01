"""The organizer's commands beside the server: teams with their tokens, and the results.

lookalike competition teams friday --add "the A team" "the B team"
lookalike competition results friday --out friday-results
"""

from pathlib import Path

from tabulate import tabulate

from lookalike.competition.access import add_team
from lookalike.competition.clock import Clock
from lookalike.competition.exports import TABLES, table_as_csv
from lookalike.competition.judge import solution_of
from lookalike.competition.serve import store_of
from lookalike.competition.settings import ResultsCommand, TeamsCommand
from lookalike.competition.standings import final_ranking
from lookalike.competition.store import Store
from lookalike.core.errors import UserError
from lookalike.core.files import write_json, write_text
from lookalike.core.log import log
from lookalike.core.numeric import score_text
from lookalike.leaderboard.rules import Groups


def show_teams(command: TeamsCommand) -> None:
    """Add teams and print their tokens, or list the teams there are.

    Raises:
        UserError: A name cannot be used, and no team is added.
    """
    solution_of(command.folder)
    store = store_of(command.folder)
    teams = store.teams()
    if not command.add:
        counts = {team.id: len(store.submissions(team.id)) for team in teams}
        print(tabulate([[t.id, t.name, counts[t.id]] for t in teams], ["", "team", "submissions"]))
        return
    groups = Groups(team.name for team in teams)
    names = []
    for name in command.add:  # all of them, before the first is added
        names.append(groups.known(name))
        if names[-1] in {*names[:-1], *(team.name for team in teams)}:
            raise UserError(f"there is a team {names[-1]!r} already")
        groups.add(names[-1])
    now = Clock().now()
    tokens = [[name, add_team(store, name, now)[1]] for name in names]
    print(tabulate(tokens, ["team", "token"]))
    log.info("tokens are kept nowhere else: give each team its own")


def show_results(command: ResultsCommand) -> None:
    """Print the private ranking, and write all there is to a folder.

    Raises:
        UserError: The folder holds no competition, or that of the results is there already.
    """
    solution_of(command.folder)
    if command.out is not None and command.out.exists():
        raise UserError(f"--out {command.out}: is there already; name a new folder")
    store = store_of(command.folder)
    rows = []
    for place in final_ranking(store):
        scores = map(score_text, (place.score, place.public))
        rows.append([place.rank, place.team, *scores, place.submission, place.submissions])
    heads = ["", "team", "private", "public", "submission", "sent"]
    print(tabulate(rows, heads, disable_numparse=True))
    if command.out is not None:
        _write_results(store, command.out)
        log.info("tables and submissions are in %s", command.out)


def _write_results(store: Store, folder: Path) -> None:
    """Write the tables and every submission as it was scored."""
    for name in TABLES:
        write_text(folder / f"{name}.csv", table_as_csv(name, store))
    for one in store.submissions():
        write_json(folder / "submissions" / f"{one.id}.json", store.lists(one.id))
