"""Group roles of Postgres, each for one job, and the role to grant to a login that lacks a privilege.

``migrations/grants.sql`` holds their privileges. The administrator of the server creates the logins, and
grants each of them one or more of these roles.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import asyncpg

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.queue.db.statements import statement

SUBMITTER = "organism_submitter"
LANE = "organism_lane"
OPERATOR = "organism_operator"
MIGRATOR = "organism_migrator"
ROLES = (SUBMITTER, LANE, OPERATOR, MIGRATOR)

STATEMENTS: dict[tuple[str, ...], str] = {
    (SUBMITTER, LANE, OPERATOR): "can_write exclusive now schema_version",
    (SUBMITTER, OPERATOR): "duplicates load_missing load_part loaded send_event submit",
    (LANE, OPERATOR): """
        closures dead_letters expirable expire failures_since forget_closures forget_files forget_levels
        forget_spending interrupted lane_figures lanes late limit_held limit_room limits long_running
        long_work most_interrupted next_due outlook pauses prunable prune prune_audit prune_some
        queue_health remaining request_leave request_stop
    """,
    (LANE,): """
        begun cancel_requests claim complete deliver_kept deregister earliest expiring_claimed
        forget_lanes limit_charge limit_costs limit_lock limit_odd limit_reconcile limit_spend lines
        next_in_line next_lines reap reap_some reapable record_reports register reject release
        release_unanswered renew report restored
        settle snooze
    """,
    (OPERATOR,): """
        ahead ahead_by_deadline attached board_audit board_dead board_failures board_latency
        board_newest_audit board_running board_waiting cancel cancellable close completed_lately counts
        counts_of database_health declare_weights depths export finished forget_declared forget_policies get
        limit_pace limit_use line_pace line_waits next_finished of_type open page page_of_few pause policies
        record_audit redrivable redrivable_sample redrive remove_limit results resume retriable retry
        sent_event set_limit set_policy set_weight start states status_size streams stuck to_cancel
        to_retry unheld weights
    """,
}
"""Names of statements, by the roles that may run them. Only `attached` is missing, which migrations run."""


class PrivilegeMissing(ConfigurationError, asyncpg.InsufficientPrivilegeError):
    """The login lacks a privilege. The next step names the role to grant.

    It is also an `asyncpg.InsufficientPrivilegeError`, with its SQLSTATE.
    """

    __str__ = Exception.__str__  # asyncpg's adds Postgres's detail on lines of their own


def privilege_missing(error: asyncpg.InsufficientPrivilegeError, login: str) -> PrivilegeMissing:
    """Return the one line for a statement that ``login`` may not run."""
    if isinstance(error, PrivilegeMissing):
        return error
    roles = " or ".join(_roles_for(getattr(error, "query", None)))
    return PrivilegeMissing(
        f"Postgres does not let {login} do this: {error.args[0]}",
        f'have an administrator GRANT {roles} TO "{login}"; docs/how-to/roles.md lists what each is for',
    )


def how_to_make(missing: Iterable[str]) -> str:
    """Return the one line for group roles that the migrating login may not create."""
    sql = " ".join(f"CREATE ROLE {role};" for role in missing)
    return f"this login may not make the group roles → as an administrator: {sql} then migrate again"


def _roles_for(sql: str | None) -> tuple[str, ...]:
    # asyncpg does not give the text of a COPY, which only producers run.
    return (SUBMITTER, OPERATOR) if sql is None else _by_text().get(sql, (SUBMITTER, LANE, OPERATOR))


@cache
def _by_text() -> dict[str, tuple[str, ...]]:
    return {statement(name).text: roles for roles, names in STATEMENTS.items() for name in names.split()}
