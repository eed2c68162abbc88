"""What every row has to be after adoption, by the rules that the documentation states. Asks no function of ours."""

from __future__ import annotations

import itertools
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from support import Database, shapes
from support.shapes import Found

Row = dict[str, str | None]
NOW = "a time of the upgrade"
STARTED = datetime.now(UTC).timestamp()

LONGEST = {
    "phone": 40, "bio": 4000,
    "target_audience": 20000, "business_context": 20000, "master_system_prompt": 20000,
}  # fmt: skip
# Defaults of an application that stay.
KEPT = {shape: {("user_profiles", "role"): "member", ("user_profiles", "language"): "sv"} for shape in ("d", "d+c")}
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


def small_object(value: str, otherwise: str | None) -> str | None:
    """The text of a JSON object of up to 64 kB, or what stands for anything else."""
    return value if isinstance(json.loads(value), dict) and len(value.encode()) <= 65536 else otherwise


def language(value: str) -> str:
    """A language tag; underscores are hyphens; what is none is English."""
    tag = value.replace("_", "-")
    return tag if re.fullmatch("[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*", tag) and len(value) <= 35 else "en"


def web_address(value: str) -> str | None:
    """An address is whole, or none."""
    return value if re.match(r"https?://|/[^/\\\s]|(?!.*\.\.)[\w.~-][^:\\\s]*$", value) and len(value) <= 2048 else None


LINE_ENDS = str.maketrans(dict.fromkeys("\t\n\v\f\r\x85\u2028\u2029", " "))
HIDDEN = re.compile("[\x01-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2060\u2066-\u2069\ufeff]")


def visible_name(value: str, most: int) -> str:
    """A name on one line, without characters that hide, cut."""
    return HIDDEN.sub("", value.translate(LINE_ENDS))[:most]


def as_array(value: str) -> str:
    """key_metrics: what is no array becomes an array of it; too much of it, or nothing, an empty one."""
    held = json.loads(value)
    if isinstance(held, list):
        return value if len(value.encode()) <= 65536 else "[]"
    if held is None or len(value.encode()) + 2 > 65536:
        return "[]"
    return f"[{value}]"


# What becomes of a value that our CHECKs would refuse.
STATES = {"pending", "processing", "completed", "failed", "expired"}
RULES: dict[tuple[str, str], Callable[[str], str | None]] = {
    **{("user_profiles", name): (lambda value, most=most: value[:most]) for name, most in LONGEST.items()},
    **{
        ("user_profiles", name): (lambda value: visible_name(value, 200))
        for name in ("display_name", "first_name", "last_name", "company_name")
    },
    ("user_profiles", "email"): lambda value: value if len(value) <= 320 else None,
    ("user_profiles", "avatar_emoji"): lambda value: re.sub("[\x01-\x1f&<>]", "", value)[:16],
    **{("user_profiles", name): web_address for name in ("avatar_url", "profile_picture_url", "logo_url")},
    ("user_profiles", "preferences"): lambda value: small_object(value, "{}"),
    ("user_profiles", "notification_settings"): lambda value: small_object(value, "{}"),
    **{
        (table, name): (lambda value: value if int(value) >= 0 else "0")
        for table, names in COUNTERS.items()
        for name in names
    },
    ("user_profiles", "key_metrics"): as_array,
    ("user_profiles", "language"): language,
    ("user_profiles", "profile_visibility"): lambda value: value if value in {"public", "private"} else "private",
    ("export_history", "status"): lambda value: value if value in STATES else "failed",
    ("export_history", "file_size_bytes"): lambda value: value if int(value) >= 0 else None,
    ("export_history", "filters"): lambda value: small_object(value, None),
}


def fitted(shape: str, table: str, column: str, value: str | None, zones: set[str]) -> str | None:
    """The value that our CHECKs take, by the stated rules."""
    if value is None:
        return (
            "0" if column in COUNTERS[table] else KEPT.get(shape, {}).get((table, column), REQUIRED[table].get(column))
        )
    if column == "timezone":
        return value if value in zones else "UTC"
    rule = RULES.get((table, column))
    return rule(value) if rule else value


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
        elif new == "boolean":
            there, back = f"x::{old} <> 0", f"y::integer::{old}"
        elif "json" in new + old:
            back = f"y::text::{old}"
        elif not old.startswith(("character", "text", "bigint", "smallint")):
            there, back = f"x::{new}", f"y::text::{old}"
        values = sorted({str(row[column]) for row in found.rows[table].values() if row[column] is not None})
        rows = database.administrator.run(
            f"select x, y::text as there, ({back})::text as back from (select x, {there} as y from unnest(cast(:xs as text[])) as x) as v",
            xs=values,
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
    for before, day in itertools.pairwise(days):
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
    return [
        line
        for table, ours in shapes.adopted_tables(shape).items()
        for line in _table(database, found, shape, table, ours)
    ]


def _table(database: Database, found: Found, shape: str, table: str, ours: str) -> Iterator[str]:
    account = Account(database, found, shape, table, ours)
    yield from account.rows()
    account.convert()
    account.fit()
    yield from account.values()
    yield from account.record()


@dataclass
class Account:
    """One table that was taken over: what was found, what is wanted, what is there."""

    database: Database
    found: Found
    shape: str
    table: str
    ours: str
    after: dict[str, Row] = field(default_factory=dict)
    """The rows that were there before, by their id of today."""
    before: dict[str, Row] = field(default_factory=dict)
    """As found, in the types of today."""
    wanted: dict[str, Row] = field(default_factory=dict)
    lossy: dict[tuple[str, str], str | None] = field(default_factory=dict)
    """What does not come back by itself, as found."""

    @property
    def target(self) -> str:
        return f"public.{self.ours}"

    def rows(self) -> Iterator[str]:
        """Every row is there, or in quarantine for a reason; what is new belongs to somebody who had none."""
        found = self.found.rows[self.table]
        key_now = after_name(self.found, self.table, "id")
        by_old_key = {str(row[key_now]): row for row in shapes.values(self.database, self.ours).values()}
        leaving = reasons(self.found, self.shape, self.table, self.ours)
        yield from self._quarantine(leaving)
        yield from (f"{self.target} {key}: gone" for key in found if key not in leaving and key not in by_old_key)
        owners = {row.get("user_id", row["id"]) for row in found.values()}
        users = {row[0] for row in self.database.administrator.run("select id::text from auth.users")}
        for key in sorted({*by_old_key} - ({*found} - {*leaving})):
            if by_old_key[key]["user_id"] in owners or by_old_key[key]["user_id"] not in users:
                yield f"{self.target} {key}: nobody's row"
        self.after = {str(row["id"]): row for key, row in by_old_key.items() if key in found and key not in leaving}

    def _quarantine(self, leaving: dict[str, str]) -> Iterator[str]:
        rows = self.database.administrator.run(
            "select row_data::text as data, reason from profiles_internal.quarantine where table_name = :name",
            name=self.target,
        )
        aside = {str(json.loads(row.data)["id"]): row for row in rows}
        for key in sorted({*leaving, *aside}):
            if key not in aside or key not in leaving:
                yield f"{self.target} {key}: {'not ' if key not in aside else ''}in quarantine ({leaving.get(key)})"
            elif aside[key].reason != leaving[key]:
                yield f"{self.target} {key}: quarantined as {aside[key].reason}, expected {leaving[key]}"
            elif not _same_row(json.loads(aside[key].data), self.found.documents[self.table][key]):
                yield f"{self.target} {key}: quarantined with other values"

    def convert(self) -> None:
        """Into the types of today."""
        conversion = conversions(self.database, self.found, self.table, self.ours)
        key_now = after_name(self.found, self.table, "id")
        for key, row in self.after.items():
            self.before[key] = {}
            for column, value in self.found.rows[self.table][str(row[key_now])].items():
                name = after_name(self.found, self.table, column)
                self.before[key][name], back = conversion.get(name, {}).get(value, (value, value))
                if back != value:
                    self.lossy[name, key] = value

    def fit(self) -> None:
        """By the rules."""
        zones = {row[0] for row in self.database.administrator.run("select name from pg_timezone_names")}
        # A new column is as in a new row.
        new = dict.fromkeys(COUNTERS[self.ours], "0") | REQUIRED[self.ours]
        for key, row in self.before.items():
            self.wanted[key] = new | {
                name: fitted(self.shape, self.ours, name, value, zones) for name, value in row.items()
            }
        if self.ours == "user_profile_audit_logs":
            for row in self.wanted.values():
                row["user_id"] = row["user_id"] if row["user_id"] in self.found.users else None
        if self.ours == "user_progress":
            counted = progress(self.database)
            for key, row in self.wanted.items():
                row.update(counted.get(str(self.after[key]["user_id"]), {}))
        if self.ours == "user_profiles":
            self._fit_profiles()

    def _fit_profiles(self) -> None:
        users = self.database.administrator.run("select id::text, email from auth.users")
        addresses = {row.id: row.email for row in users}
        owners = [row["user_id"] for row in self.after.values()]
        assert {*owners} <= {*addresses}, "a profile has no user"
        assert len({*owners}) == len(owners), "two rows of one user"
        for key, row in self.wanted.items():
            now = self.after[key]
            if "email_verified" not in self.before[key]:
                row.pop("email_verified")  # follows the user
            if "email" not in self.before[key] and self.shape != "e":
                row["email"] = addresses[str(now["user_id"])]
            if self.shape != "e":
                row["id"] = now.get("legacy_id", self.before[key].get("id", now["user_id"]))
        if "referral_code" in next(iter(self.before.values())):
            only_the_oldest(self.wanted, self.before, "referral_code")
        people = {
            key: {
                **row,
                "user_id": self.after[key]["user_id"],
                "username": self.before[key].get("username"),
                "email": self.before[key].get("email", addresses[str(self.after[key]["user_id"])]),
            }
            for key, row in self.wanted.items()
        }
        for key, name in usernames(people).items():
            self.wanted[key]["username"] = name

    def values(self) -> Iterator[str]:
        """Every value is what it should be; the old one is kept where it is another one, and nowhere else."""
        kept = _kept(self.database, self.target)
        expected = {(name, key, "found value") for name, key in self.lossy}
        for (name, key), value in self.lossy.items():
            if kept.get((name, key, "found value"), {}).get("old", "") != value:
                yield f"{self.target}.{name} of {key}: {_short(value)} is not kept"
        for key, want in self.wanted.items():
            for name, value in want.items():
                now, was = self.after[key][name], self.before[key].get(name)
                place = f"{self.target}.{name} of {key}"
                if not _same(now, value):
                    yield f"{place}: {_short(now)}, expected {_short(value)}, was {_short(was)}"
                if name in self.before[key] and now != was:
                    expected.add((name, key, "value"))
                    entry = kept.get((name, key, "value"))
                    if entry is None or (entry["old"], entry["new"]) != (was, now):
                        yield f"{place}: the old value {_short(was)} is not kept: {_short(str(entry))}"
        for name, key, kind in sorted({*kept} - expected):
            if name in self.before.get(key, {}):
                yield f"{self.target}.{name} of {key}: kept as {kind}, but it did not change"

    def record(self) -> Iterator[str]:
        """What is written down about the table."""
        records = self.database.administrator.run(
            "select data from profiles_internal.adopted where object_type = 'table' and object_name = :name",
            name=self.target,
        )
        wanted = {column: after_name(self.found, self.table, column) for column in self.found.types[self.table]}
        said = [
            (row.data["found_as"], row.data["rows"], {c["name"]: c["now"] for c in row.data["columns"]})
            for row in records
        ]
        if said != [(f"public.{self.table}", len(self.found.rows[self.table]), wanted)]:
            yield f"{self.target}: recorded as {said}"


def _same_row(kept: dict[str, Any], found: dict[str, Any]) -> bool:
    """Whether the document of a quarantined row is the row; JSON columns without a value are left out of it."""
    return {**dict.fromkeys(found), **kept} == found


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
