"""Which users a bounded look sees: few enough for every minute, and sooner or later all of them."""

from __future__ import annotations

WINDOW_USERS = 1_000


def sampled_users(*more: str) -> str:
    """A table expression ``u`` of user rows: from a random point of the primary key on, from both its ends, and ``more``.

    Ids that grow with time end where the newest users are. The windows are ids alone, and each row comes by a probe of its
    key (limit 1): with a condition beside the limit, or a join, the planner reads the whole table.

    Args:
        more: Queries of one column of ids, each with a limit of its own.
    """
    windows = (
        f"(select w.id from auth.users as w where w.id >= start.id order by w.id limit {WINDOW_USERS})",
        f"(select w.id from auth.users as w order by w.id limit {WINDOW_USERS})",
        f"(select w.id from auth.users as w order by w.id desc limit {WINDOW_USERS})",
        *more,
    )
    return (
        f"(select u.* from (select gen_random_uuid() as id) as start cross join lateral ({' union '.join(windows)}) as looked_at"
        " cross join lateral (select * from auth.users as w where w.id = looked_at.id limit 1) as u) as u"
    )
