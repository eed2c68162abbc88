"""What every row has to be after adoption, by the rules that the documentation states. Asks no function of ours."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import shapes
from shapes import Found
from support import Database

Row = dict[str, str | None]
NOW = "a time of the upgrade"
STARTED = datetime.now(UTC).timestamp()

LONGEST = {
    "display_name": 200, "first_name": 200, "last_name": 200, "company_name": 200, "phone": 40, "bio": 4000,
    "target_audience": 20000, "business_context": 20000, "master_system_prompt": 20000, "avatar_emoji": 32,
}  # fmt: skip
# What stands in a required column that said nothing.
REQUIRED = {
    "user_profiles": {
        "profile_visibility": "private", "role": "user", "key_metrics": "[]", "preferences": "{}", "notification_settings": "{}",
        "timezone": "UTC", "language": "en", "is_active": "true", "email_verified": "false", "is_anonymous": "false",
        "login_count": "0", "message_count": "0", "created_at": NOW, "updated_at": NOW,
    },
    "user_progress": {"average_accuracy": "0.00", "created_at": NOW, "updated_at": NOW},
    "user_api_keys": {"is_active": "true", "validation": "{}", "created_at": NOW, "updated_at": NOW},
    "export_history": {"status": "pending", "records_count": "0", "retry_count": "0", "created_at": NOW, "updated_at": NOW},
    "user_profile_audit_logs": {"retry_count": "0", "metadata": "{}", "created_at": NOW},
}  # fmt: skip
COUNTERS = {
    "user_profiles": ["login_count", "message_count"],
    "user_progress": [
        "total_sessions", "total_descriptions", "total_images", "total_questions_answered", "total_correct_answers",
        "total_vocabulary_learned", "total_answer_seconds", "total_time_spent_minutes", "average_completion_time_seconds",
        "current_streak_days", "longest_streak_days", "total_points", "mastered_words_count", "learning_words_count",
        "new_words_count",
    ],
    "user_api_keys": [],
    "export_history": ["records_count", "retry_count"],
    "user_profile_audit_logs": ["retry_count"],
}  # fmt: skip
# Counted anew from sessions.
ROLLED_UP = {
    *COUNTERS["user_progress"][:11], "average_accuracy", "last_activity_at", "last_description_at", "last_qa_session_at",
    "last_vocabulary_practice_at", "last_active_on",
}  # fmt: skip
RESERVED = {"admin", "support", "user", "help", "root", "info"}


def after_name(found: Found, table: str, column: str) -> str:
    """What a column is called after adoption."""
    return found.renamed.get(table, {}).get(column, column)


def is_object(value: str) -> bool:
    """Whether it is the text of a JSON object."""
    return isinstance(json.loads(value), dict)


def fitted(table: str, column: str, value: str | None, zones: set[str]) -> str | None:
    """The value that our CHECKs take, by the stated rules."""
    if value is None:
        return "0" if column in COUNTERS[table] else REQUIRED[table].get(column)
    if table == "user_profiles":
        if column in LONGEST:
            return value[: LONGEST[column]]
        if column in {"avatar_url", "profile_picture_url", "logo_url"}:
            return value if re.match("https?://", value) and len(value) <= 2048 else None
        if column in {"preferences", "notification_settings"}:
            return value if is_object(value) and len(value.encode()) <= 65536 else "{}"
        if column == "key_metrics":
            return as_array(value)
        if column == "profile_visibility":
            return value if value in {"public", "private"} else "private"
        if column == "timezone":
            return value if value in zones else "UTC"
        if column == "language":
            hyphens = value.replace("_", "-")
            return hyphens if re.fullmatch("[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*", hyphens) and len(value) <= 35 else "en"
    if table == "export_history":
        if column == "status":
            return value if value in {"pending", "processing", "completed", "failed", "expired"} else "failed"
        if column == "file_size_bytes":
            return value if int(value) >= 0 else None
        if column == "filters":
            return value if is_object(value) and len(value.encode()) <= 65536 else None
    if column in COUNTERS[table] and int(value) < 0:
        return "0"
    return value


def as_array(value: str) -> str:
    """key_metrics: what is no array becomes an array of it; too much of it, or nothing, an empty one."""
    held = json.loads(value)
    if isinstance(held, list):
        return value if len(value.encode()) <= 65536 else "[]"
    if held is None or len(value.encode()) + 2 > 65536:
        return "[]"
    return f"[{value}]"


def moment(value: str | None) -> float:
    """Seconds since the epoch of a timestamp's text, or infinite; for the order of ages."""
    if value in {None, NOW}:
        return STARTED
    assert value is not None
    if "infinity" in value:
        return float(value.replace("infinity", "inf"))
    if value.endswith(" BC"):
        return -62135596800.0 - 365 * 86400.0 * int(value[:4])
    if not re.match(r"\d{4}-", value):  # behind the year 9999
        return float(253402300800 + int(value[5:7]))
    return datetime.fromisoformat(value + ":00" if re.search(r"[+-]\d\d$", value) else value).timestamp()


Conversions = dict[str, dict[str | None, tuple[str | None, str | None]]]


def conversions(database: Database, found: Found, table: str, ours: str) -> Conversions:
    """Of columns whose type is another one now: what every value found is in it, and what that is on the way back."""
    now = shapes.types(database, ours)
    result: Conversions = {}
    for column, old in found.types[table].items():
        name = after_name(found, table, column)
        new = now[name]
        if new == old:
            continue
        there, back = f"(x::{old})::{new}", f"y::{old}"
        if new.startswith("timestamp with") and old in {"bigint", "integer", "numeric"}:
            there = (
                f"case when x::{old} > 9224318015999 then 'infinity' when x::{old} < -210866803200 then '-infinity'"
                " else to_timestamp(x::double precision) end"
            )
            back = f"case when isfinite(y) then extract(epoch from y) end::{old}"
        elif new.startswith("timestamp with"):
            there, back = "(x::timestamp) at time zone 'UTC'", "y at time zone 'UTC'"
        elif "json" in new + old:
            back = f"y::text::{old}"
        elif not old.startswith(("character", "text", "bigint", "smallint")):
            there, back = f"x::{new}", f"y::text::{old}"
        values = sorted({str(row[column]) for row in found.rows[table].values() if row[column] is not None})
        rows = database.administrator.run(
            f"select x, y::text as there, ({back})::text as back from (select x, {there} as y from unnest(cast(:xs as text[])) as x) as v", xs=values
        )
        result[name] = {row.x: (row.there, row.back) for row in rows} | {None: (None, None)}
    return result


# Usernames


def choices(row: Row) -> tuple[str, str, str]:
    """The names that a row may get, in their order: by the rule of sign-up from the old name, else from the address."""
    said = row["username"] if row.get("username") is not None else row.get("email")
    base = "".join(chr(ord(c) + 32) if "A" <= c <= "Z" else c for c in (said or "").split("@")[0][:1000])
    base = re.sub("[^a-z0-9_.-]", "", base)[:32]
    if len(base) < 3 or base in RESERVED:
        base = "user"
    digits = (row["user_id"] or "").replace("-", "")
    second = f"{base[:23]}_{digits[-8:]}"
    return second if base == "user" else base, second, digits


def usernames(rows: dict[str, Row]) -> dict[str, str]:
    """The name of every row that stays, by its key after adoption."""
    wishes: dict[str, list[str]] = defaultdict(list)
    names = {key: choices(row) for key, row in rows.items()}
    for key, row in rows.items():
        old = row.get("username")
        wishes[old if old and re.fullmatch("[a-z0-9_.-]{3,32}", old) else names[key][0]].append(key)

    def age(key: str) -> tuple[float, str]:
        return moment(rows[key].get("created_at")), key

    chosen: dict[str, str] = {}
    losers: list[str] = []
    for name, keys in wishes.items():
        first, *rest = sorted(keys, key=lambda key: (rows[key].get("username") != name, age(key)))
        chosen[first] = name
        losers += rest
    taken = set(wishes)
    for key in sorted(losers, key=age):
        chosen[key] = names[key][2 if names[key][1] in taken else 1]
        taken.add(chosen[key])
    return chosen


def only_the_oldest(wanted: dict[str, Row], before: dict[str, Row], column: str) -> None:
    """Of several with the same value the oldest keeps it; an unknown age is none."""
    holders: dict[str, list[str]] = defaultdict(list)
    for key, row in before.items():
        if row[column] is not None:
            holders[str(row[column])].append(key)
    for keys in holders.values():
        keys.sort(key=lambda key: (before[key]["created_at"] is None, moment(before[key]["created_at"]), key))
        for key in keys[1:]:
            wanted[key][column] = None


# Progress


def progress(database: Database) -> dict[str, Row]:
    """What ended sessions say about every user who has any: the sums and runs of days, counted here."""
    rows = database.administrator.run(
        "select s.*, p.timezone from public.sessions as s left join public.user_profiles as p on p.user_id = s.user_id"
        " where s.ended_at is not null and s.user_id is not null"
    )
    mine = defaultdict(list)
    for row in rows:
        mine[str(row.user_id)].append(row)
    return {user: _progress(sessions) for user, sessions in mine.items()}


def _progress(sessions: list[Any]) -> Row:
    def total(column: str) -> int:
        return sum(getattr(s, column, None) or 0 for s in sessions)

    def last(column: str) -> str | None:
        ends = [s.ended_at for s in sessions if not column or (getattr(s, column) or 0) > 0]
        return _stamp(max(ends)) if ends else None

    minutes = [
        s.duration_minutes if s.duration_minutes is not None else int((s.ended_at - s.started_at).total_seconds() // 60)
        for s in sessions
    ]
    # Everybody in these rows lives in UTC.
    assert {s.timezone or "UTC" for s in sessions} == {"UTC"}
    days = sorted({s.ended_at.astimezone(UTC).date() for s in sessions})
    runs = [1]
    for before, day in zip(days, days[1:], strict=False):
        runs.append(runs[-1] + 1 if (day - before).days == 1 else 1)
    asked, correct = total("qa_attempts"), total("qa_correct")
    return {
        "total_sessions": str(len(sessions)),
        "total_descriptions": str(total("descriptions_generated")),
        "total_images": str(total("images_processed")),
        "total_questions_answered": str(asked),
        "total_correct_answers": str(correct),
        "total_vocabulary_learned": str(total("vocabulary_learned")),
        "total_answer_seconds": "0",
        "total_time_spent_minutes": str(sum(max(0, m) for m in minutes)),
        "average_accuracy": f"{100 * correct / asked:.2f}" if asked else "0.00",
        "average_completion_time_seconds": "0",
        "last_activity_at": last(""),
        "last_description_at": last("descriptions_generated"),
        "last_qa_session_at": last("qa_attempts"),
        "last_vocabulary_practice_at": last("vocabulary_learned"),
        "last_active_on": str(days[-1]),
        "current_streak_days": str(runs[-1]),
        "longest_streak_days": str(max(runs)),
    }


def _stamp(when: datetime) -> str:
    text = when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f").rstrip("0").rstrip(".")
    return f"{text}+00"


# The whole


def reasons(found: Found, shape: str, table: str, ours: str) -> dict[str, str]:
    """Why rows cannot stay, by their keys as found."""
    if shape == "e" or ours == "user_profile_audit_logs":
        return {}
    leaving: dict[str, str] = {}
    first: set[str] = set()
    rows = found.rows[table]
    for key in sorted(rows, key=lambda k: (rows[k].get("created_at") is None, moment(rows[k].get("created_at")), k)):
        user = rows[key]["user_id" if "user_id" in rows[key] else "id"]
        user = user and user.lower()
        if user is None:
            leaving[key] = "no user_id"
        elif user not in found.users:
            leaving[key] = "no user in auth.users"
        elif user in first and ours != "export_history":
            leaving[key] = "second row of the same user"
        else:
            first.add(user)
    return leaving


def unexplained(database: Database, found: Found, shape: str) -> list[str]:
    """Everything that no rule explains, a line each; an empty list when all rows are accounted for."""
    return [line for table, ours in shapes.adopted_tables(shape).items() for line in _table(database, found, shape, table, ours)]


def _table(database: Database, found: Found, shape: str, table: str, ours: str) -> Iterator[str]:
    before = found.rows[table]
    after = shapes.values(database, ours)
    key_now = after_name(found, table, "id")
    by_old_key = {row[key_now]: row for row in after.values()}
    target = f"public.{ours}"

    # Rows that could not stay.
    leaving = reasons(found, shape, table, ours)
    kept_aside = {
        str(json.loads(row.data)["id"]): row
        for row in database.administrator.run(
            "select row_data::text as data, reason from profiles_internal.quarantine where table_name = :name", name=target
        )
    }
    for key in sorted({*leaving, *kept_aside}):
        if key not in kept_aside or key not in leaving:
            yield f"{target} {key}: {'not ' if key not in kept_aside else ''}in quarantine ({leaving.get(key)})"
        elif kept_aside[key].reason != leaving[key] or not _same_row(
            json.loads(kept_aside[key].data), found.documents[table][key]
        ):
            yield f"{target} {key}: quarantined as {kept_aside[key].reason}, expected {leaving[key]}, or with other values"
    staying = {key: row for key, row in before.items() if key not in leaving}
    for key in staying:
        if key not in by_old_key:
            yield f"{target} {key}: gone"
    for key in sorted({str(k) for k in by_old_key} - {*staying}):
        row = by_old_key.get(key) or {}
        owners = {r.get("user_id") or r["id"] for r in before.values()}
        if row.get("user_id") in owners or row.get("user_id") not in _users(database):
            yield f"{target} {key}: nobody's row"

    yield from _values(database, found, shape, table, ours, {k: by_old_key[k] for k in staying if k in by_old_key})


def _same_row(kept: dict[str, Any], found: dict[str, Any]) -> bool:
    """Whether the document of a quarantined row is the row; JSON columns without a value are left out of it."""
    return {**dict.fromkeys(found), **kept} == found


def _users(database: Database) -> set[str]:
    return {row[0] for row in database.administrator.run("select id::text from auth.users")}


def _values(
    database: Database, found: Found, shape: str, table: str, ours: str, after: dict[str, Row]
) -> Iterator[str]:
    target = f"public.{ours}"
    kept = _kept(database, target)
    zones = {row[0] for row in database.administrator.run("select name from pg_timezone_names")}
    counted = progress(database) if ours == "user_progress" else {}
    conversion = conversions(database, found, table, ours)
    owners = {str(row["id"]): row["user_id"] for row in after.values()}
    wanted: dict[str, Row] = {}
    asides: set[tuple[str, str, str]] = set()
    for old_key, now in after.items():
        key = str(now["id"])
        want: Row = {}
        for column, value in found.rows[table][old_key].items():
            name = after_name(found, table, column)
            changed, back = conversion.get(name, {}).get(value, (value, value))
            if back != value:
                asides.add((name, key, "found value"))
                if (name, key, "found value") not in kept or kept[name, key, "found value"]["old"] != value:
                    yield f"{target}.{name} of {key}: {value} is not kept"
            want[name] = changed
        wanted[key] = want
    before = {key: dict(row) for key, row in wanted.items()}
    for key, want in wanted.items():
        for name in list(want):
            want[name] = fitted(ours, name, want[name], zones)
        if ours == "user_profile_audit_logs" and want["user_id"] not in found.users:
            want["user_id"] = None
        if ours == "user_progress" and owners[key] in counted:
            want.update(counted[str(owners[key])])
    if "referral_code" in next(iter(wanted.values())):
        only_the_oldest(wanted, before, "referral_code")
    if ours == "user_profiles":
        yield from _profiles(database, shape, after, wanted, before)

    rows = {str(row["id"]): row for row in after.values()}
    for key, want in wanted.items():
        for name, value in want.items():
            now = rows[key][name]
            if not _same(now, value):
                yield f"{target}.{name} of {key}: {_short(now)}, expected {_short(value)}, was {_short(before[key].get(name))}"
            if name not in before[key]:
                continue
            old = before[key][name]
            if now != old:
                asides.add((name, key, "value"))
                entry = kept.get((name, key, "value"))
                if entry is None or entry["old"] != old or entry["new"] != now:
                    yield f"{target}.{name} of {key}: the old value {_short(old)} is not kept: {_short(str(entry))}"
    # Nothing is kept that did not change.
    for name, key, kind in sorted({*kept} - asides):
        if key in before and name in before[key]:
            yield f"{target}.{name} of {key}: kept as {kind}, but it did not change"
    record = database.administrator.run(
        "select data from profiles_internal.adopted where object_type = 'table' and object_name = :name", name=target
    )
    if len(record) != 1:
        yield f"{target}: {len(record)} records of how it was found"
        return
    data = record[0].data
    if data["rows"] != len(found.rows[table]):
        yield f"{target}: recorded with {data['rows']} rows"
    columns = next(iter(found.rows[table].values()))
    names = {c["name"]: c["now"] for c in data["columns"]}
    if names != {c: after_name(found, table, c) for c in columns}:
        yield f"{target}: recorded names {names}"


def _profiles(
    database: Database, shape: str, after: dict[str, Row], wanted: dict[str, Row], before: dict[str, Row]
) -> Iterator[str]:
    """What a profile has beyond the values of its old columns."""
    addresses = {row.id: row.email for row in database.administrator.run("select id::text, email from auth.users")}
    rows = {str(row["id"]): row for row in after.values()}
    for key, want in wanted.items():
        row = rows[key]
        # A new column is as in a new row; nobody has agreed to be shown.
        for name, value in REQUIRED["user_profiles"].items():
            if name not in want and name != "email_verified":
                want[name] = value
        if "email" not in want and shape != "e":
            want["email"] = addresses[str(row["user_id"])]
        if shape[0] in "ab":
            want["id"] = row["user_id"]
        if "legacy_id" in row:
            want["id"] = row["legacy_id"]
        if shape == "e" and row["user_id"] not in addresses:
            yield f"public.user_profiles {key}: no user was made"
    people = {key: {**want, "user_id": rows[key]["user_id"], "username": before[key].get("username")} for key, want in wanted.items()}
    if len({row["user_id"] for row in rows.values()}) != len(rows):
        yield "public.user_profiles: two rows of one user"
    for key, name in usernames(people).items():
        wanted[key]["username"] = name


def _kept(database: Database, target: str) -> dict[tuple[str, str, str], dict[str, Any]]:
    rows = database.administrator.run(
        "select object_name, object_type, data from profiles_internal.adopted"
        " where object_type in ('value', 'found value') and object_name like :name || '.%' order by id desc",
        name=target,
    )
    kept: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        place = row.object_name.removeprefix(f"{target}."), row.data["key"], row.object_type
        # A figure that was fitted first and counted anew later: the first old value, the last new one.
        kept[place] = {**row.data, "new": kept[place]["new"]} if place in kept else row.data
    return kept


def _same(now: str | None, wanted: str | None) -> bool:
    if wanted == NOW:
        return now is not None and abs(moment(now) - datetime.now(UTC).timestamp()) < 3600
    return now == wanted


def _short(value: str | None) -> str:
    return repr(value) if value is None or len(value) < 60 else f"{value[:40]!r}… ({len(value)})"


def state(database: Database, found: Found, shape: str) -> dict[str, dict[str, Row]]:
    """The rows of our tables and of quarantine, so that two upgrades can be compared.

    Left out: times of an upgrade, ids that it made up, and of profiles that it made what the old shape has no place for.
    """
    state: dict[str, dict[str, Row]] = {}
    for table, ours in shapes.adopted_tables(shape).items():
        before = found.rows[table]
        names = {after_name(found, table, column) for column in next(iter(before.values()))} - {"id", "legacy_id"}
        owners = {row.get("user_id", row["id"]) for row in before.values()}
        state[ours] = {}
        for key, row in shapes.values(database, ours).items():
            kept = {name: value for name, value in row.items() if not _recent(value)}
            user = str(kept.pop("user_id") if shape == "e" else kept["user_id"])
            if shape == "e":
                kept["username"] = str(kept["username"]).replace(user.replace("-", "")[-8:], "SUFFIX")
            elif ours == "user_profiles" and user not in owners:
                state[ours][user] = {name: value for name, value in kept.items() if name in names}
                continue
            state[ours][key] = kept
    state["quarantine"] = {
        f"{row.table_name} {row.key}": {"reason": row.reason, "row": row.data}
        for row in database.administrator.run(
            "select table_name, row_data ->> 'id' as key, row_data::text as data, reason from profiles_internal.quarantine"
        )
    }
    return state


def _recent(value: str | None) -> bool:
    """Whether it is a time of today, as text or as epoch seconds."""
    if value is None:
        return False
    now = datetime.now(UTC)
    if re.fullmatch(r"\d{10}", value):
        return abs(int(value) - now.timestamp()) < 7200
    return value.startswith((f"{now:%Y-%m-%d}", f"{now - timedelta(hours=2):%Y-%m-%d}"))
