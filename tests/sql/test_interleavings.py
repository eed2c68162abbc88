"""Two transactions on one user, in every order of their steps, end as they would have ended one after the other.

What may differ is on record, and `backfill` repairs it. Held against that are the outcomes of the serial orders themselves,
and what a profile must agree with at any rate. A third session can keep a name taken for a while: it stops whoever is making
the profile between reading the user and inserting the profile.
"""

import itertools
import json
import re
import uuid
from collections import Counter

import pytest
from sqlalchemy import text

from profiles_schema.operations import backfill
from profiles_schema.operations.health import examine
from profiles_schema.operations.health.users import UNREPAIRED
from support import ENVELOPE
from support.two_sessions import End, Scheduler, orders

STATES = ["with a profile", "without a profile", "stale", "erased", "erased without a profile"]
ENDS = ["commit", "rollback"]


def sql(statement, role=None):
    """A step: a statement, as a role of the API with the claims of the user if one is named."""

    def step(connection, user):
        if role:
            claims = json.dumps({"role": role, "sub": str(user.id)} if role == "authenticated" else {"role": role})
            connection.execute(text("select set_config('request.jwt.claims', :claims, true)"), {"claims": claims})
            connection.exec_driver_sql(f"set local role {role}")
        connection.execute(text(statement), {"id": str(user.id), "tag": user.tag})

    return step


OPERATIONS = {
    "ensure": sql("select public.ensure_user_profile(cast(:id as uuid))", "service_role"),
    "batch": lambda connection, user: backfill._MissingProfiles().do(connection, [str(user.id)]),
    "repair": lambda connection, user: backfill._Repair(erase_deleted=False).do(connection, [str(user.id)]),
    "email": sql("update auth.users set email = :tag || '-new@example.org', email_confirmed_at = '2026-01-02' where id = :id"),
    "phone": sql("update auth.users set phone = '+49 1' where id = :id"),
    "name": sql("""update auth.users set raw_user_meta_data = '{"full_name"\\: "Augusta"}' where id = :id"""),
    "sign in": sql("update auth.users set last_sign_in_at = '2026-01-03' where id = :id"),
    "erase": sql(
        "update auth.users set deleted_at = '2026-01-04', email = null, phone = null, raw_user_meta_data = '{}' where id = :id"
    ),
    "undelete": sql("update auth.users set deleted_at = null, email = :tag || '-back@example.org' where id = :id"),
    "delete": sql("delete from auth.users where id = :id"),
    "edit": sql("""select public.update_my_profile_v2('{"bio"\\: "I live here."}')""", "authenticated"),
    "key": sql(f"insert into public.user_api_keys (user_id, openai_api_key) values (:id, '{ENVELOPE}')", "authenticated"),
}  # fmt: skip
# No such user; refused; one snapshot; and the key's own: the user is gone, there is a row already.
EXPECTED_ERRORS = {None, "P0002", "42501", "40001", "23503", "23505"}
MAKERS = ["ensure", "batch", "edit"]
CHANGES = ["email", "phone", "name", "sign in", "erase", "undelete", "delete"]


class User:
    """Somebody whose names and addresses are made of one tag."""

    def __init__(self):
        self.id = uuid.uuid4()
        self.tag = "u" + self.id.hex[-11:]


class Stage:
    """A database, two sessions A and B, and G, the gate."""

    def __init__(self, database):
        self.database = database
        self.scheduler = Scheduler(database, "ABG")
        self.plain = database.administrator.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self.repaired = Counter()
        self._serial = {}
        self._automatic = True
        self.gatekeeper = User()
        self.make(self.gatekeeper, "without a profile")

    def close(self):
        self.scheduler.close()
        self.plain.close()

    def sql(self, statement, **values):
        return self.plain.execute(text(statement), values)

    def automatic(self, wanted):
        """Switch the flag auto_create_profiles."""
        if wanted != self._automatic:
            self.sql(
                "update profiles_internal.settings set value = cast(:value as jsonb) where key = 'auto_create_profiles'",
                value=json.dumps(wanted),
            )
            self._automatic = wanted

    def make(self, user, state):
        """Sign the user up, and bring the profile into a state."""
        values = {"id": str(user.id), "tag": user.tag, "gave_up": "mute" if "without" in state else ""}
        self.sql(
            "with quietly as materialized (select set_config('profiles_internal.gave_up', :gave_up, true))"
            " insert into auth.users (id, email, raw_user_meta_data, deleted_at)"
            " select :id, :tag || '@example.org', cast(:data as jsonb), cast(:deleted_at as timestamptz) from quietly",
            **values, data='{"full_name": "Ada"}', deleted_at="2026-01-01" if state == "erased without a profile" else None,
        )  # fmt: skip
        if state == "erased":
            self.sql(
                "update auth.users set deleted_at = now(), email = null, raw_user_meta_data = '{}' where id = :id",
                **values,
            )
        elif state == "stale":
            self.sql(
                "with gave_up as materialized (select set_config('profiles_internal.gave_up', 'yes', true))"
                " update auth.users set email = :tag || '-lost@example.org', last_sign_in_at = '2026-01-01' from gave_up where id = :id",
                **values,
            )

    def outcome(self, user):
        """What the tables hold about the user, without what is different in each run."""
        row = self.sql(
            "select u.id is not null, u.deleted_at is not null, p.email, p.email_verified, p.phone, p.username, p.display_name,"
            " p.bio, p.is_active, p.login_count, p.last_login::date,"
            " (select count(*) from public.user_progress as g where g.user_id = w.id),"
            " (select count(*) from public.user_api_keys as k where k.user_id = w.id)"
            " from (select cast(:id as uuid) as id) as w left join auth.users as u on u.id = w.id"
            " left join public.user_profiles as p on p.user_id = w.id",
            id=str(user.id),
        ).one()
        shown = []
        for value in row:
            text_of = str(value).replace(user.tag, "TAG")
            shown.append("random" if re.fullmatch("[0-9a-f]{32}", text_of) and user.id.hex != text_of else text_of)
        return tuple(shown)

    def unrepaired(self, user):
        """Is something on record that is not repaired, as health asks it?"""
        return self.sql(
            "select exists (select from public.user_profile_audit_logs as a join auth.users as u on u.id = a.user_id"
            f" where a.action in ('failed', 'skipped') and u.id = :id and {UNREPAIRED})", id=str(user.id),
        ).scalar()  # fmt: skip

    def failed(self, user):
        """Is a failure on record, repaired or not?"""
        return self.sql(
            "select exists (select from public.user_profile_audit_logs as a where a.user_id = :id and a.action in ('failed', 'skipped'))",
            id=str(user.id),
        ).scalar()  # fmt: skip

    def disagrees(self, user):
        """What a profile may never say: other values than the user row's, or anything personal of somebody erased."""
        return self.sql(
            "select coalesce(case when u.id is null then p.id is not null"
            "  when u.deleted_at is not null then p.is_active or p.email is not null or p.bio is not null or p.display_name is not null"
            "   or exists (select from public.user_api_keys as k where k.user_id = u.id)"
            "  else p.email is distinct from u.email or not p.is_active"
            "   or p.email_verified is distinct from (u.email is not null and u.email_confirmed_at is not null)"
            "   or p.last_login is distinct from coalesce(u.last_sign_in_at, p.last_login)"
            "   or not exists (select from public.user_progress as g where g.user_id = u.id) end, false)"
            " from (select cast(:id as uuid) as id) as w left join auth.users as u on u.id = w.id"
            " join public.user_profiles as p on p.user_id = w.id", id=str(user.id),
        ).scalar()  # fmt: skip

    def play(self, state, transactions, order, *, gate=False):
        """Two transactions on a new user, in an order. Returns the user and what ended each transaction."""
        user = User()
        self.make(user, state)
        steps = {}
        for name, (operation, end, isolation) in transactions.items():
            steps[name] = [self._begin(user, OPERATIONS[operation]), End(end)]
            if isolation:
                snapshot = f"begin isolation level {isolation}; select 1 from auth.users limit 1"
                steps[name] = [
                    lambda connection, s=snapshot: connection.exec_driver_sql(s),
                    lambda connection, o=OPERATIONS[operation]: o(connection, user),
                    End(end),
                ]
        if gate:
            keeper = {"id": str(self.gatekeeper.id), "tag": user.tag}
            self.scheduler.sessions["G"].connection.exec_driver_sql("begin")
            self.scheduler.sessions["G"].connection.execute(
                text("insert into public.user_profiles (id, user_id, username) values (:id, cast(:id as uuid), :tag)"),
                keeper,
            )
            steps["G"] = [End("rollback")]
        return user, self.scheduler.run(order, steps)

    def _begin(self, user, operation):
        def step(connection):
            connection.exec_driver_sql("begin")
            operation(connection, user)

        return step

    def clear(self, user):
        self.sql("delete from auth.users where id = :id", id=str(user.id))
        self.sql("delete from public.user_profile_audit_logs where user_id is null or user_id = :id", id=str(user.id))

    def serial(self, state, operations):
        """What the operations come to one after the other, each committed; None where one of them ends in an error."""
        key = (self._automatic, state, operations)
        if key not in self._serial:
            names = "AB"[: len(operations)]
            transactions = {n: (o, "commit", None) for n, o in zip(names, operations, strict=True)}
            user, errors = self.play(state, transactions, "".join(n * 2 for n in names))
            self._serial[key] = None if any(errors.values()) else self.outcome(user)
            self.clear(user)
        return self._serial[key]

    def check(self, state, transactions, order, *, gate=False):
        """Play one order; what is wrong with how it ended, or None."""
        user, errors = self.play(state, transactions, order, gate=gate)
        unexpected = {code for code in errors.values() if code not in EXPECTED_ERRORS}
        committed = [o for n, (o, end, _) in transactions.items() if end == "commit" and errors[n] is None]
        allowed = {self.serial(state, o) for o in itertools.permutations(committed)} - {None}
        ended = self.outcome(user)
        problem = f"ended by {unexpected}" if unexpected else None
        if ended not in allowed or (self.disagrees(user) and not self.unrepaired(user)):
            # The login count may be one more, for a sign-in that had got lost. A lost display name is on record alone.
            allowed = {o[:9] + o[10:] for o in allowed}
            lost_name = {o[:6] + o[7:] for o in allowed}
            if not self.unrepaired(user) and self.failed(user) and ended[:6] + ended[7:9] + ended[10:] in lost_name:
                self.repaired["name"] += 1
            elif not self.unrepaired(user):
                problem = f"{ended} is none of {allowed}, and nothing is on record"
            else:
                self.repaired[state] += 1
                with self.database.administrator.engine.connect() as connection:
                    list(backfill.backfill(connection))
                ended = self.outcome(user)
                if ended[:9] + ended[10:] not in allowed or self.disagrees(user) or self.unrepaired(user):
                    problem = f"after backfill {ended} is none of {allowed}"
        self.clear(user)
        return (
            problem and f"{state}, {transactions}, order {order}{', automatic off' * (not self._automatic)}: {problem}"
        )

    def check_all(self, state, transactions, *, gate=False):
        """Play all orders; everything that is wrong."""
        lengths = {n: 3 if isolation else 2 for n, (_, _, isolation) in transactions.items()} | (
            {"G": 1} if gate else {}
        )
        found = [self.check(state, transactions, order, gate=gate) for order in orders(lengths)]
        return [problem for problem in found if problem]


@pytest.fixture
def stage(database):
    stage = Stage(database)
    yield stage
    stage.close()


def pairs(first, second, end="commit", isolation=None):
    """The transactions of each pair of operations. When both commit, one order of the two names stands for the other."""
    both = itertools.product(first, second)
    if first == second and end == "commit":
        both = itertools.combinations_with_replacement(first, 2)
    return [{"A": (a, end, isolation), "B": (b, "commit", None)} for a, b in both]


@pytest.mark.parametrize("automatic", [True, False])
@pytest.mark.parametrize("maker", ["ensure", "batch"])
def test_a_change_is_not_lost_to_whoever_makes_the_profile_at_the_same_time(stage, maker, automatic):
    stage.automatic(automatic)
    for end in ENDS:
        for both in pairs([maker], ["email", "sign in", "erase"], end):
            assert stage.check_all("without a profile", both) == []


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("state", STATES)
def test_every_order_of_two_operations_ends_as_one_after_the_other(stage, state, end):
    found = []
    for automatic in (True, False) if "without" in state else (True,):
        stage.automatic(automatic)
        for both in pairs(OPERATIONS, OPERATIONS, end):
            found += stage.check_all(state, both)
    assert not found, "\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("automatic", [True, False])
@pytest.mark.parametrize("end", ENDS)
def test_whoever_is_held_up_before_making_the_profile_makes_it_from_what_is_true_then(stage, end, automatic):
    stage.automatic(automatic)
    found = []
    for both in pairs(MAKERS, CHANGES, end):
        found += stage.check_all("without a profile", both, gate=True)
    assert not found, "\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize(("isolation", "automatic"), [("repeatable read", True), ("serializable", False)])
def test_a_transaction_with_one_snapshot_loses_nothing_either(stage, isolation, automatic):
    stage.automatic(automatic)
    found = []
    # A profile that was made meanwhile keeps its contact number: it is the person's, and nothing repairs it.
    changes = [change for change in CHANGES if change != "phone"]
    for first, second in ((MAKERS, changes), (changes, MAKERS)):
        for both in pairs(first, second, isolation=isolation):
            found += stage.check_all("without a profile", both)
    assert not found, "\n".join(found)


@pytest.mark.slow
def test_an_upgrade_repairs_what_waited_for_its_batches_in_vain(empty):
    """A sign-in that waits for a profile in the making longer than the trigger may is on record; the upgrade puts it right."""
    empty.upgrade("0014_create_sign_up_triggers")
    user_id = empty.sign_up("ada@example.org")
    empty.run("delete from public.user_profiles")
    with empty.engine.connect() as batch:
        batch.execute(text("select public.ensure_user_profile(:id)"), {"id": user_id})
        empty.run("update auth.users set last_sign_in_at = now() where id = :id", id=user_id)
        batch.commit()
    assert empty.profile(user_id).last_login is None
    failed = "select error_code from public.user_profile_audit_logs where action = 'failed'"
    assert empty.value(failed) == "55P03"
    empty.upgrade()
    with empty.engine.connect() as connection:
        assert [f.code for f in examine(connection).findings] == []
    assert empty.profile(user_id).login_count == 1
